r"""Risk after pieces of constant rate and momentum, by composed maps, and its gradient by the adjoint.

With :math:`\tilde h = h + \lambda` for weight decay λ, :math:`u = \alpha \tilde h h^{-p}` and the buffer in units of θ
that no rate enters, :math:`\hat m = m / \tilde h`, one step is

.. math:: s' = A s + b\, \sqrt{c/B}/\tilde h\; z, \qquad s = (\theta, \hat m)

    A = \begin{pmatrix} 1-\ell g u & -\beta^k u \\ g & \beta \end{pmatrix}, \qquad b = (-\ell g u, g),

with :math:`\ell = 1, k = 1` for the heavy ball and :math:`\ell = 1+\beta, k = 2` for Nesterov's form. Of each gradient
the buffer takes the part g = 1 - d, but all of the first, which with dampening is a piece of its own. The buffer is
torch's, so a rate that changes between two pieces leaves the state alone. A piece of n steps does

.. math:: M' = A^n M (A^n)^T + \frac{c}{B \tilde h^2} N_n, \qquad N_n = \sum_{k<n} A^k b b^T (A^k)^T

to the second moments M. Both come by squaring and multiplying along the bits of n, so a piece costs log n. Derivatives
of both are carried along. Backwards through the pieces, :math:`\Lambda' = (A^n)^T \Lambda A^n` from the weights of the
risk, and a parameter x of a piece has the derivative :math:`\operatorname{tr}(\Lambda\, dM'/dx)`.

Doubles throughout. What would be lost in them is :math:`1 - A` where it is small, so the diagonal of :math:`A^n - 1` is
carried beside that of :math:`A^n`, which is replaced by it until it has moved by a half. Then the error of n steps is
a few times that of rounding u.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic.linear.maps import effective_curvature
from mcnqm.problems import NoisyQuadratic
from mcnqm.scheduling.composed_maps import WIDTH, with_momentum, without_momentum

__all__ = ["Composed"]

Array = NDArray[np.float64]
Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class Composed:
    """A problem, batch size and kind of optimizer, ready to be evaluated under many schedules.

    Attributes
    ----------
    scale, noise, start, weight : ndarray, shape (a multiple of the width of a pass,)
        (h + λ) h^(-p), c / (B (h + λ)²), E θ(0)² and n h / 2 of each entry; zeros where there is none.
    nesterov : bool
    dampening : float
        d; it counts where there is momentum.

    Examples
    --------
    >>> import numpy as np
    >>> from mcnqm import SGD, NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic.power_law(dim=100)
    >>> composed = Composed.of(problem, batch_size=8.0)
    >>> lr, momentum, lengths = np.array([1.0, 0.1]), np.zeros(2), np.array([100, 50])
    >>> ends = composed.risks(lr, momentum, lengths)
    >>> bool(np.isclose(ends[0], analytic.risk(problem, SGD(lr=1.0), 8, 100, record=[100]).risk[0], rtol=1e-12))
    True
    >>> risk, by_lr, by_momentum = composed.gradient(lr, momentum, lengths)
    >>> bool(risk == ends[1]), by_lr.shape
    (True, (2,))
    """

    scale: Array
    noise: Array
    start: Array
    weight: Array
    nesterov: bool = False
    dampening: float = 0.0

    @classmethod
    def of(
        cls,
        problem: NoisyQuadratic,
        batch_size: float,
        *,
        precondition: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        dampening: float = 0.0,
    ) -> Composed:
        """Of a problem at a batch size."""
        h, pull = problem.curvature, problem.curvature + weight_decay
        with np.errstate(over="ignore", under="ignore"):
            arrays = (
                effective_curvature(problem, precondition, weight_decay),
                problem.noise / pull / pull / batch_size,
                problem.initial_second_moment,
                0.5 * problem.multiplicity * h,
            )
        size = -(-h.size // WIDTH) * WIDTH
        scale, noise, start, weight = (np.concatenate([array, np.zeros(size - h.size)]) for array in arrays)
        return cls(scale, noise, start, weight, nesterov, dampening)

    def risk(self, lr: Array, momentum: Array, lengths: Lengths) -> float:
        """Expected loss after all pieces; inf where it overflows."""
        return float(self.risks(lr, momentum, lengths)[-1])

    def risks(self, lr: Array, momentum: Array, lengths: Lengths) -> Array:
        """Expected loss at the end of each piece, shape (pieces,)."""
        ends, mix = np.zeros(lr.size), np.zeros(lr.size)
        if momentum.any():
            nothing = np.empty((0, 0, 0))
            self._momentum(lr, momentum, lengths, mix, 0, nothing, ends)
        else:
            without_momentum(*self._arrays, lr, lengths, mix, False, np.empty((0, 0)), ends)
        # Of what overflowed, differences are NaN.
        return np.where(np.isfinite(ends), ends, np.inf)

    def gradient(
        self, lr: Array, momentum: Array, lengths: Lengths, *, by_momentum: bool = False, mix: Array | None = None
    ) -> tuple[float, Array, Array]:
        """Expected loss after all pieces, and its derivatives by each piece's rate and momentum.

        Parameters
        ----------
        lr, momentum : ndarray of float64, shape (pieces,)
        lengths : ndarray of int64, shape (pieces,)
            Each at least 1.
        by_momentum : bool
            Whether to compute the last; else it is zero.
        mix : ndarray of float64, shape (pieces,), optional
            Weights of the losses at the ends of the pieces, of whose sum derivatives are taken. By default they are
            those of the last.

        Returns
        -------
        tuple of float, ndarray and ndarray
            Where the loss overflows, inf and zeros.
        """
        ends = np.zeros(lr.size)
        if mix is None:
            mix = np.zeros(lr.size)
            mix[-1] = 1.0
        if momentum.any() or by_momentum:
            sums = np.zeros((2, lr.size, WIDTH))
            self._momentum(lr, momentum, lengths, mix, 2 if by_momentum else 1, sums, ends)
        else:
            sums = np.zeros((2, lr.size, WIDTH))
            without_momentum(*self._arrays, lr, lengths, mix, True, sums[0], ends)
        slopes = sums.sum(axis=2)
        if not np.isfinite(ends[-1]):
            return np.inf, np.zeros(lr.size), np.zeros(lr.size)
        return float(ends[-1]), slopes[0], slopes[1]

    @property
    def _arrays(self) -> tuple[Array, Array, Array, Array]:
        return self.scale, self.noise, self.start, self.weight

    def _momentum(
        self, lr: Array, momentum: Array, lengths: Lengths, mix: Array, order: int, sums: Any, ends: Array
    ) -> None:
        gains = np.ones(lr.size)
        if self.dampening == 0.0:
            with_momentum(*self._arrays, lr, momentum, gains, lengths, mix, self.nesterov, order, sums, ends)
            return
        # The first step takes its gradient whole: a piece of its own, with the numbers of that which it begins.
        alone = int(lengths[0] == 1)
        split = np.maximum(np.arange(-1, lr.size), 0)[alone:]
        parts = lengths[split]
        parts[0] = 1
        if not alone:
            parts[1] -= 1
        gains = np.full(split.size, 1.0 - self.dampening)
        gains[0] = 1.0
        wide_sums, wide_ends = np.zeros((sums.shape[0], split.size, WIDTH)), np.zeros(split.size)
        with_momentum(
            *(*self._arrays, lr[split], momentum[split], gains, parts, np.concatenate([np.zeros(1 - alone), mix])),
            *(self.nesterov, order),
            *(wide_sums if order else sums, wide_ends),
        )
        ends += wide_ends[1 - alone :]
        if order:
            sums += wide_sums[:, 1 - alone :]
            sums[:, 0] += 0.0 if alone else wide_sums[:, 0]
