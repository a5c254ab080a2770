"""Moments of mean-field twins: many steps at a time, many lanes at once.

A lane is one (setting, node) pair of one coordinate. Its state is (P, C, Q, v, slope): second moments of y and m, the
expected second moment of the gradient's average, and how fast the expected squared gradient changed last.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit

__all__ = ["VARIABLES", "advance"]

Array = NDArray[np.float64]

VARIABLES = 5


@njit
def _clock(rule: Array, start: int, lengths: NDArray[np.int64]) -> Array:
    """What depends on a chunk and a setting alone, shape (chunks, settings, 12)."""
    table = np.empty((lengths.size, rule.shape[1], 12))
    t = start
    for k in range(lengths.size):
        n = lengths[k]
        middle = 0.5 * (n + 1)  # the mean over the chunk of the steps done when a rate is used
        for s in range(rule.shape[1]):
            lr, beta1, beta2, eps, decay, correct = rule[:, s]
            left1, left2 = 1.0 - beta1, 1.0 - beta2
            kept2, power1, power2 = beta2**middle, beta1 ** (t + middle), beta2 ** (t + middle)
            # Twice the sum of squared weights in v, and the overlap of the weights in m and in v.
            spread = 2.0 * left2 * (1.0 + power2) / ((1.0 + beta2) * (1.0 - power2))
            overlap = left1 * left2 * (1.0 - power1 * power2)
            overlap /= (1.0 - beta1 * beta2) * (1.0 - power1) * (1.0 - power2)
            table[k, s, :4] = lr, eps, 1.0 - lr * decay, beta1
            table[k, s, 4:6] = kept2, ((middle - 1.0) - middle * beta2 + kept2) / left2
            table[k, s, 6:10] = 1.0 - power1 * correct, 1.0 - power2 * correct, spread, overlap
            table[k, s, 10:] = beta2**n, ((n - 1.0) - n * beta2 + beta2**n) / left2
        t += n
    return table


@njit
def advance(
    state: Array,
    curvature: Array,
    variance: Array,
    weight: Array,
    rule: Array,
    order: int,
    start: int,
    lengths: NDArray[np.int64],
    looks: NDArray[np.bool_],
    out: Array,
) -> None:
    """Advance every coordinate through a list of chunks.

    Parameters
    ----------
    state : ndarray, shape (coordinates, VARIABLES, settings, nodes)
        Updated in place.
    curvature, variance : ndarray, shape (coordinates,) and (coordinates, settings)
        h and c / B.
    weight : ndarray, shape (coordinates, nodes)
        Share of a node's y² in the risk: multiplicity times h / 2 times the node's weight.
    rule : ndarray, shape (6, settings)
        lr, beta1, beta2, eps, weight decay, and 1 for bias correction.
    order : int
        1: mean field. 2: with the fluctuations of v to first order.
    start : int
        Completed steps before.
    lengths : ndarray of int64
        Steps of each chunk, a power of 2. Chunks of 1 are exact.
    looks : ndarray of bool
        Whether to look at the risk after each chunk.
    out : ndarray, shape (settings, looks)
        The risk is added to it.
    """
    n_settings, nodes = state.shape[2], state.shape[3]
    lanes = n_settings * nodes
    a00, a01, a10, a11 = np.empty(lanes), np.empty(lanes), np.empty(lanes), np.empty(lanes)
    n00, n01, n11 = np.empty(lanes), np.empty(lanes), np.empty(lanes)
    clock = _clock(rule, start, lengths)
    for i in range(curvature.size):
        h = curvature[i]
        flat = state[i].reshape(VARIABLES, lanes)
        P, C, Q, V, slope = flat[0], flat[1], flat[2], flat[3], flat[4]
        look = 0
        for k in range(lengths.size):
            n = lengths[k]
            for s in range(n_settings):
                lr, eps, keep, beta1, kept2, ramp, bias1, bias2, spread, overlap, _, _ = clock[k, s]
                noise, left1 = variance[i, s], 1.0 - beta1
                for j in range(s * nodes, (s + 1) * nodes):
                    square = h * h * P[j] + noise
                    v = max(kept2 * V[j] + (1.0 - kept2) * square + slope[j] * ramp, 0.0)
                    below = bias1 * (np.sqrt(v / bias2) + eps)
                    a = lr / below if below > 0.0 else 0.0
                    push = noise
                    if order == 2 and noise > 0.0:
                        share = noise / square
                        rho, kappa = spread * share * (2.0 - share), overlap * share
                        drift = 1.0 + 0.375 * rho - kappa
                        a *= drift
                        push *= (1.0 + rho - 2.0 * kappa) / (drift * drift)
                    a00[j], a01[j] = keep - a * left1 * h, -a * beta1
                    a10[j], a11[j] = left1 * h, beta1
                    n00[j], n01[j], n11[j] = (
                        a * a * left1 * left1 * push,
                        -a * left1 * left1 * push,
                        left1 * left1 * push,
                    )
            doublings = 0
            while (1 << doublings) < n:
                doublings += 1
                for j in range(lanes):
                    w00, w01, w10, w11 = a00[j], a01[j], a10[j], a11[j]
                    x00, x01, x11 = n00[j], n01[j], n11[j]
                    n00[j] = x00 + w00 * (w00 * x00 + 2.0 * w01 * x01) + w01 * w01 * x11
                    n01[j] = x01 + w00 * (w10 * x00 + w11 * x01) + w01 * (w10 * x01 + w11 * x11)
                    n11[j] = x11 + w10 * (w10 * x00 + 2.0 * w11 * x01) + w11 * w11 * x11
                    a00[j] = w00 * w00 + w01 * w10
                    a01[j] = w01 * (w00 + w11)
                    a10[j] = w10 * (w00 + w11)
                    a11[j] = w10 * w01 + w11 * w11
            for s in range(n_settings):
                noise, kept2, ramp = variance[i, s], clock[k, s, 10], clock[k, s, 11]
                for j in range(s * nodes, (s + 1) * nodes):
                    w00, w01, w10, w11 = a00[j], a01[j], a10[j], a11[j]
                    p, c, q = P[j], C[j], Q[j]
                    P[j] = max(n00[j] + w00 * (w00 * p + 2.0 * w01 * c) + w01 * w01 * q, 0.0)
                    C[j] = n01[j] + w00 * (w10 * p + w11 * c) + w01 * (w10 * c + w11 * q)
                    Q[j] = n11[j] + w10 * (w10 * p + 2.0 * w11 * c) + w11 * w11 * q
                    slope[j] = h * h * (P[j] - p) / n
                    V[j] = max(kept2 * V[j] + (1.0 - kept2) * (h * h * p + noise) + slope[j] * ramp, 0.0)
            if looks[k]:
                for s in range(n_settings):
                    total = 0.0
                    for b in range(nodes):
                        total += weight[i, b] * P[s * nodes + b]
                    out[s, look] += total
                look += 1
