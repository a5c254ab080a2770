"""L-BFGS between bounds, for smooth functions of a few to a few hundred numbers that cost less than a millisecond.

SciPy's L-BFGS-B solves triangular systems of a dozen unknowns through LAPACK at every step, where OpenBLAS wakes its
threads: 10 ms for each iteration on the two cores this was written on, a hundred times what the function itself costs
(``scripts/bench_schedule.py`` measures it). It also stops at the first step that gains little, at a kink of the bounds
for instance. This one needs dot products only, and stops where several steps in a row gain little.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["descend"]

Array = NDArray[np.float64]

_MEMORY = 20
_PATIENCE = 5
"""Steps that together gain less than the tolerance, and end the descent."""


def descend(
    function: Callable[[Array], tuple[float, Array]],
    start: Array,
    low: Array,
    high: Array,
    *,
    tolerance: float = 1e-11,
    most: int = 4000,
) -> tuple[Array, float]:
    r"""A local minimum between bounds.

    Numbers at a bound that the gradient holds there are set aside; the others take a step of L-BFGS
    (Nocedal & Wright, "Numerical optimization", algorithm 7.4), projected onto the bounds, with an Armijo search along
    the projection (Bertsekas 1982), lengthened where the slope has hardly changed.

    Parameters
    ----------
    function : callable
        Value and gradient.
    start, low, high : ndarray, shape (n,)
    tolerance : float
        Gain in the value by five steps below which it ends.
    most : int
        Evaluations at most.

    Returns
    -------
    tuple of ndarray and float
        Place and value. The value is never above that of the start.

    Examples
    --------
    >>> target = np.array([0.5, 3.0])
    >>> bowl = lambda x: (float(((x - target) ** 2).sum()), 2.0 * (x - target))
    >>> descend(bowl, np.zeros(2), np.zeros(2), np.ones(2))
    (array([0.5, 1. ]), 4.0)
    """
    x = np.clip(start, low, high)
    value, slope = function(x)
    S, Y = np.zeros((0, x.size)), np.zeros((0, x.size))
    calls, history = 1, [value]
    while calls < most:
        free = ~(((x <= low) & (slope > 0.0)) | ((x >= high) & (slope < 0.0)))
        g = np.where(free, slope, 0.0)
        size = float(np.abs(g).max(initial=0.0))
        if size < 1e-13:
            break
        d = -_newton(g, S, Y, free)
        if not (d * g).sum() < -1e-10 * np.sqrt((d * d).sum() * (g * g).sum()):
            S, Y = S[:0], Y[:0]
            d = -g
        t = 1.0 if len(S) else min(1.0, 1.0 / size)
        found, least = None, 0.01 * tolerance if len(S) else 1e-15 * abs(value)
        for _ in range(20):
            there = np.clip(x + t * d, low, high)
            promised = float((slope * (there - x)).sum())
            if promised > -least and found is None:
                break  # not worth an evaluation
            after, slope_there = function(there)
            calls += 1
            if np.isfinite(after) and after <= value + 1e-4 * promised and after < value:
                if found is not None and after >= found[1]:
                    break
                found = (there, after, slope_there)
                along = float((slope_there * (there - x)).sum())
                if along < 0.9 * promised and t < 1e6:
                    t *= 4.0  # as steep as before
                    continue
                break
            if found is not None:
                break
            # The minimum of the parabola through both values and the slope, within reason.
            bend = after - value - promised
            shrink = 0.5 * -promised / bend if np.isfinite(bend) and bend > 0.0 else 0.1
            t *= float(np.clip(shrink, 0.1, 0.5))
        if found is None:
            inside = bool((there == x + t * d).all())
            if not len(S) or (inside and -least < promised <= 0.0):
                break
            S, Y = S[:0], Y[:0]  # once more along the gradient
            continue
        there, after, slope_there = found
        s, y = there - x, slope_there - slope
        if (s * y).sum() > 1e-12 * np.sqrt((s * s).sum() * (y * y).sum()):
            S, Y = np.concatenate([S, s[np.newaxis]])[-_MEMORY:], np.concatenate([Y, y[np.newaxis]])[-_MEMORY:]
        x, value, slope = there, after, slope_there
        history.append(value)
        if len(history) > _PATIENCE and history[-1 - _PATIENCE] - value < tolerance:
            break
    return x, value


def _newton(g: Array, S: Array, Y: Array, free: NDArray[np.bool_]) -> Array:
    """The inverse Hessian's estimate among the free numbers, times g."""
    S, Y = np.where(free, S, 0.0), np.where(free, Y, 0.0)
    inner, length = (S * Y).sum(axis=1), (Y * Y).sum(axis=1)
    good = np.flatnonzero(inner > 1e-12 * np.sqrt((S * S).sum(axis=1) * length))
    q, shares = g.copy(), {}
    for k in good[::-1]:
        shares[k] = (S[k] * q).sum() / inner[k]
        q -= shares[k] * Y[k]
    if good.size:
        q *= inner[good[-1]] / length[good[-1]]
    for k in good:
        q += (shares[k] - (Y[k] * q).sum() / inner[k]) * S[k]
    return q
