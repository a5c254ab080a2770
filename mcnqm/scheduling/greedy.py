r"""The greedy schedule: at every step the rate that minimizes the risk after that step, within a largest rate.

.. math:: \alpha_t = \min\Big(\alpha_{max}, \frac{\sum w \kappa P}{\sum w \kappa^2 (P + c / (B h^2))}\Big), \qquad P' =
    (1-\alpha\kappa)^2 P + (\alpha\kappa)^2 \frac{c}{B h^2}

with κ = h^(1-p), w = n h / 2 (`mcnqm.analytic.greedy_lr` has the equation). The risk after a step is a parabola in α,
so cutting α to the largest gives the best among those allowed. This is dynamic programming with a horizon of one step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit
from mcnqm.scheduling.composed import Composed
from mcnqm.scheduling.composed_maps import WIDTH

__all__ = ["GreedyWalk"]

Array = NDArray[np.float64]

_EXACT, _SPLIT = 8192, 512
"""So many steps one by one; then, while the rate is below 1 / κ, by so manieth parts of the steps so far, at the rate
of their middle. Against single steps, the first step to a target differs by 1e-4 of itself (d = 300, B = 1: 931 848,
where it is 931 914)."""

_BUDGET = 2e8
"""Coordinates times steps between two looks for an interruption, a fraction of a second."""


@dataclass
class GreedyWalk:
    """A walk under the greedy schedule, as far as it has come.

    Attributes
    ----------
    composed : Composed
    largest : float
        Rate that is not exceeded.
    step : int
    area : float
        Sum of the rates so far.
    risk : float

    Examples
    --------
    >>> from mcnqm import NoisyQuadratic
    >>> walk = GreedyWalk(Composed.of(NoisyQuadratic([1.0, 1.0], 3.0), 3.0), 2.0)
    >>> walk.advance(1)
    >>> walk.area  # as of `mcnqm.analytic.greedy_lr`
    0.5
    """

    composed: Composed
    largest: float
    step: int = 0
    area: float = 0.0

    def __post_init__(self) -> None:
        self._P = self.composed.start.copy()
        self.risk = float(self.composed.weight @ self._P)

    def advance(self, until: int, target: float = -1.0, tick: Callable[[], None] = lambda: None) -> None:
        """Walk to a step, or to the first at or below a target if that is earlier."""
        c = self.composed
        budget = int(_BUDGET / c.scale.size) + 1
        while self.step < until and self.risk > target:
            self.step, self.area, self.risk = _walk(
                *(c.scale, c.noise, c.weight, self._P, self.step, self.area, until, target, self.largest, budget)
            )
            tick()


@njit
def _look(scale: Array, noise: Array, weight: Array, P: Array) -> tuple[float, float, float]:
    """Risk, and numerator and denominator of the greedy rate."""
    w = WIDTH
    risk, above, below = np.zeros(w), np.zeros(w), np.zeros(w)
    for block in range(scale.size // w):
        for j in range(w):
            i = block * w + j
            x = weight[i] * P[i]
            y = scale[i] * x
            risk[j] += x
            above[j] += y
            below[j] += scale[i] * (y + scale[i] * (weight[i] * noise[i]))
    return risk.sum(), above.sum(), below.sum()


@njit
def _move(scale: Array, noise: Array, P: Array, out: Array, rate: float, n: int) -> None:
    """P after n steps."""
    if n == 1:
        for i in range(scale.size):
            u = rate * scale[i]
            out[i] = (1.0 - u) * (1.0 - u) * P[i] + u * u * noise[i]
        return
    for i in range(scale.size):
        u = rate * scale[i]
        if u == 0.0:
            out[i] = P[i]
            continue
        decay = np.expm1(2.0 * n * np.log1p(-u))  # only where u < 1
        out[i] = P[i] + decay * (P[i] - u * noise[i] / (2.0 - u))


@njit
def _walk(
    scale: Array,
    noise: Array,
    weight: Array,
    P: Array,
    step: int,
    area: float,
    until: int,
    target: float,
    largest: float,
    budget: int,
) -> tuple[int, float, float]:
    other = np.empty(P.size)
    steepest = scale.max()
    risk, above, below = _look(scale, noise, weight, P)
    for _ in range(budget):
        if risk <= target or step >= until:
            break
        rate = min(above / below, largest) if below > 0.0 else 0.0
        n = 1
        if step >= _EXACT and rate * steepest < 1.0:
            n = max(min(step // _SPLIT, until - step), 1)
        while True:
            used = rate
            if n > 1:
                _move(scale, noise, P, other, rate, max(n // 2, 1))
                _, a, b = _look(scale, noise, weight, other)
                used = min(a / b, largest) if b > 0.0 else 0.0
            _move(scale, noise, P, other, used, n)
            after, a, b = _look(scale, noise, weight, other)
            if n == 1 or after > target:
                break
            n //= 2  # the passage is somewhere inside
        P[:] = other
        risk, above, below = after, a, b
        step += n
        area += n * used
    return step, area, risk
