r"""Transition matrices in a band, and linear algebra on them that never subtracts.

The chance to stay at a node is never stored: it is what the chances to go elsewhere leave of 1. So probability is
conserved by construction, and Gaussian elimination in the order of Grassmann, Taksar and Heyman works with sums of
positive numbers alone. Its relative error does not grow with the time that an escape takes, where the equations
:math:`(I - K) \tau = 1` themselves lose as many digits as that time has.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit

__all__ = ["absorption_times", "advance", "bandwidth", "dense", "fill", "stationary"]

Array = NDArray[np.float64]


@njit
def bandwidth(x: Array, mean: Array, spread: Array, reach: float) -> int:
    """How many nodes to either side a step may go, that many standard deviations far."""
    width = 1
    for i in range(x.size):
        low = np.searchsorted(x, mean[i] - reach * spread[i])
        high = np.searchsorted(x, mean[i] + reach * spread[i]) - 1
        width = max(width, i - low, high - i)
    return min(width, x.size - 1)


@njit
def fill(x: Array, weight: Array, mean: Array, spread: Array, width: int, reach: float) -> Array:
    """Chances to go from node i to node i + k - width, shape (nodes, 2 * width + 1); the diagonal is left at 0."""
    n = x.size
    band = np.zeros((n, 2 * width + 1))
    for i in range(n):
        scale = 1.0 / (spread[i] * math.sqrt(2.0 * math.pi))
        for j in range(max(0, i - width), min(n, i + width + 1)):
            z = (x[j] - mean[i]) / spread[i]
            if j != i and abs(z) <= reach:
                band[i, j - i + width] = scale * math.exp(-0.5 * z * z) * weight[j]
    return band


@njit
def _eliminate(band: Array, width: int, leave: Array, stay: Array, center: int) -> Array:
    """Take nodes out from both ends towards `center`, in place; the chance to move on of each, when it went.

    Paths through a node that is gone are added to the chances, to `leave`, and to `stay`, the steps that a stay takes.
    From the ends inwards, since that is where steps lead: what cannot be reached from the center does no harm.
    """
    n = band.shape[0]
    total = np.zeros(n)
    for turn in range(n - 1):
        k = n - 1 - turn
        low, high = max(0, k - width), k
        if k <= center:
            k = turn - (n - 1 - center)
            low, high = k + 1, min(center, k + width) + 1
        total[k] = leave[k]
        for j in range(low, high):
            total[k] += band[k, j - k + width]
        for i in range(low, high):
            share = band[i, k - i + width] / total[k]
            if share > 0.0:
                for j in range(low, high):
                    band[i, j - i + width] += share * band[k, j - k + width]
                leave[i] += share * leave[k]
                stay[i] += share * stay[k]
    return total


@njit
def stationary(band: Array, width: int, center: int) -> Array:
    """Law that a step leaves as it is, shape (nodes,); uses `band` up. The center must be where it may be."""
    n = band.shape[0]
    total = _eliminate(band, width, np.zeros(n), np.zeros(n), center)
    law = np.zeros(n)
    law[center] = 1.0
    for k in range(center - 1, -1, -1):
        for i in range(k + 1, min(center, k + width) + 1):
            law[k] += law[i] * band[i, k - i + width]
        law[k] /= total[k]
    for k in range(center + 1, n):
        for i in range(max(0, k - width), k):
            law[k] += law[i] * band[i, k - i + width]
        law[k] /= total[k]
    law /= law.sum()
    return law


@njit
def absorption_times(band: Array, width: int, leave: Array, center: int) -> Array:
    """Mean steps to leave from every node, shape (nodes,), `leave` being the chance in a step; uses `band` up."""
    n = band.shape[0]
    leave, stay = leave.copy(), np.ones(n)
    total = _eliminate(band, width, leave, stay, center)
    steps = np.zeros(n)
    steps[center] = stay[center] / leave[center]
    for k in range(center - 1, -1, -1):
        steps[k] = stay[k]
        for j in range(k + 1, min(center, k + width) + 1):
            steps[k] += band[k, j - k + width] * steps[j]
        steps[k] /= total[k]
    for k in range(center + 1, n):
        steps[k] = stay[k]
        for j in range(max(0, k - width), k):
            steps[k] += band[k, j - k + width] * steps[j]
        steps[k] /= total[k]
    return steps


@njit
def advance(law: Array, band: Array, width: int, leave: Array, steps: int) -> Array:
    """The law some steps later, shape (nodes,); what leaves is gone."""
    n = law.size
    keep = np.empty(n)
    for i in range(n):
        keep[i] = 1.0 - leave[i] - band[i].sum()
    now = law.copy()
    for _ in range(steps):
        then = keep * now
        for i in range(n):
            share = now[i]
            if share != 0.0:
                for j in range(max(0, i - width), min(n, i + width + 1)):
                    then[j] += share * band[i, j - i + width]
        now = then
    return now


@njit
def dense(band: Array, width: int, leave: Array) -> Array:
    """The transition matrix with its diagonal, shape (nodes, nodes)."""
    n = band.shape[0]
    out = np.zeros((n, n))
    for i in range(n):
        out[i, i] = 1.0 - leave[i] - band[i].sum()
        for j in range(max(0, i - width), min(n, i + width + 1)):
            if j != i:
                out[i, j] = band[i, j - i + width]
    return out
