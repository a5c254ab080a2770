r"""The best schedule of SGD where rates are small: in closed form, and so with a proof.

Let :math:`s = \sum_{t' \ge t} \alpha_{t'}` be what is left of the sum of the rates. With :math:`\alpha \kappa \ll 1`
(κ = (h + λ) h^(-p) with weight decay λ) the risk after N = B T examples is

.. math:: R = \sum_i w_i e^{-2\kappa_i A} E\theta_i(0)^2 + \frac1B \int_0^A \alpha(s)\, \varphi(s)\, ds,
    \qquad \varphi(s) = \sum_i w_i h_i^{-2p} c_i e^{-2\kappa_i s},

:math:`w = n h/2`, A the sum of all rates, subject to :math:`\int_0^A ds / \alpha(s) = T`. Given A that is a linear
function under a convex constraint: its one minimum is

.. math:: \alpha(s) = \frac{1}{T \sqrt{\varphi(s)}} \int_0^A \sqrt\varphi\, ds', \qquad
    R = \sum_i w_i e^{-2\kappa_i A} E\theta_i(0)^2 + \frac1N \Big(\int_0^A \sqrt\varphi\, ds\Big)^2,

and A is left to a search on a line.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic.linear.maps import effective_curvature
from mcnqm.problems import NoisyQuadratic

__all__ = ["SmallRateLimit"]

Array = NDArray[np.float64]

_PER_OCTAVE, _NODES = 12, 3
"""Panels of the quadrature in each octave of s, and Gauss nodes in each."""

_X, _W = np.polynomial.legendre.leggauss(_NODES)


@dataclass(frozen=True)
class SmallRateLimit:
    """Integrals over s for one problem, whatever the number of examples.

    Attributes
    ----------
    kappa, noise, bias : ndarray, shape (size,)
        (h + λ) h^(-p), what multiplies exp(-2κs) in φ, and in the first part of the risk.
    s, area : ndarray
        Ends of the panels, from 0, and the integral of the root of φ up to there.

    Examples
    --------
    >>> limit = SmallRateLimit.of(NoisyQuadratic([1.0], [1.0]))
    >>> round(limit.risk(1e4) * 1e4, 3)  # one coordinate: that of the information bound, 1/2
    0.5
    """

    kappa: Array
    noise: Array
    bias: Array
    s: Array
    area: Array

    @classmethod
    def of(cls, problem: NoisyQuadratic, precondition: float = 0.0, weight_decay: float = 0.0) -> SmallRateLimit:
        """Of a problem, the power of a preconditioner and weight decay."""
        h = problem.curvature
        kappa = effective_curvature(problem, precondition, weight_decay)
        weight = 0.5 * problem.multiplicity * h
        noise = weight * (kappa / (h + weight_decay)) ** 2 * problem.noise
        first, last = 1e-3 / kappa.max(), 400.0 / kappa.min()
        octaves = np.log2(last / first)
        s = np.concatenate([[0.0], first * 2.0 ** np.linspace(0, octaves, int(octaves * _PER_OCTAVE) + 1)])
        panels = [_panel(kappa, noise, a, b) for a, b in itertools.pairwise(s)]
        return cls(kappa, noise, weight * problem.initial_second_moment, s, np.concatenate([[0.0], np.cumsum(panels)]))

    def _at(self, A: float) -> tuple[float, float]:
        """First part of the risk, and the integral of the root of φ, if the rates sum to A."""
        k = int(np.searchsorted(self.s, A, side="right")) - 1
        area = float(self.area[k]) + _panel(self.kappa, self.noise, float(self.s[k]), A)
        return float(self.bias @ np.exp(-2.0 * self.kappa * A)), area

    def best_sum(self, examples: float) -> float:
        """The A that is best after so many examples."""
        low, high = 0.0, float(self.s[-1])
        for _ in range(60):
            middle = 0.5 * (low + high)
            fall, rise = np.exp(-2.0 * self.kappa * middle), self._at(middle)[1]
            slope = rise * np.sqrt(self.noise @ fall) / examples - (self.bias * self.kappa) @ fall
            low, high = (middle, high) if slope < 0 else (low, middle)
        return 0.5 * (low + high)

    def risk(self, examples: float) -> float:
        """Least risk after so many examples."""
        bias, area = self._at(self.best_sum(examples))
        return bias + area**2 / examples

    def rates(self, examples: float, lengths: NDArray[np.int64]) -> Array:
        """Mean rate of each piece of the best schedule, under which ``lengths`` are all its steps."""
        total = self._at(self.best_sum(examples))[1]
        # Steps left where s is left: the integral of 1/α, which is T times the share of the area.
        left = np.concatenate([np.cumsum(lengths[::-1])[::-1], [0]]).astype(np.float64)
        s = np.interp(left / left[0] * total, self.area, self.s)
        return np.asarray(-np.diff(s) / lengths)

    def examples(self, target: float) -> float:
        """Fewest examples to a risk, by bisection; inf if 2**60 will not do."""
        low, high = 0.0, 60.0
        if self.risk(2.0**high) > target:
            return np.inf
        for _ in range(50):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.risk(2.0**middle) > target else (low, middle)
        return float(2.0**high)


def _panel(kappa: Array, noise: Array, a: float, b: float) -> float:
    """Integral of the root of φ from a to b."""
    half = 0.5 * (b - a)
    return float(half * (_W @ np.sqrt(np.exp(-2.0 * np.multiply.outer(a + half * (1.0 + _X), kappa)) @ noise)))
