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
def stationary(band: Array, width: int) -> Array:
    """Law that a step leaves as it is, shape (nodes,); uses `band` up."""
    n = band.shape[0]
    left = np.zeros(n)
    for k in range(n - 1, 0, -1):
        low = max(0, k - width)
        total = 0.0
        for j in range(low, k):
            total += band[k, j - k + width]
        left[k] = total
        for i in range(low, k):
            share = band[i, k - i + width] / total
            if share > 0.0:
                for j in range(low, k):
                    band[i, j - i + width] += share * band[k, j - k + width]
    law = np.zeros(n)
    law[0] = 1.0
    for k in range(1, n):
        for i in range(max(0, k - width), k):
            law[k] += law[i] * band[i, k - i + width]
        law[k] /= left[k]
    return law / law.sum()


@njit
def absorption_times(band: Array, width: int, leave: Array) -> Array:
    """Mean steps to leave from every node, shape (nodes,), `leave` being the chance in a step; uses `band` up."""
    n = band.shape[0]
    leave = leave.copy()
    stay = np.ones(n)
    total = np.zeros(n)
    for k in range(n - 1, -1, -1):
        low = max(0, k - width)
        total[k] = leave[k]
        for j in range(low, k):
            total[k] += band[k, j - k + width]
        for i in range(low, k):
            share = band[i, k - i + width] / total[k]
            if share > 0.0:
                for j in range(low, k):
                    band[i, j - i + width] += share * band[k, j - k + width]
                leave[i] += share * leave[k]
                stay[i] += share * stay[k]
    steps = np.zeros(n)
    for k in range(n):
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
