r"""The mean-field twin's risk at the end of a run, and its exact gradient with respect to the rate of every step.

The recursion is that of `mcnqm.kernels.updates._adam_rates`, of first order in the fluctuations of v: for each node of
the starting point's law, with :math:`s = h^2 P + \sigma^2`, σ² the variance of the gradient's noise and k = 1 - αλ,

.. math::

    v' = \beta_2 v + (1-\beta_2) s, \quad a = \alpha / (c_1 (\sqrt{v'/c_2} + \epsilon)), \quad
    Q' = \beta_1^2 Q + 2 \beta_1 (1-\beta_1) h C + (1-\beta_1)^2 s, \\
    R = \beta_1 C + (1-\beta_1) h P, \quad P' = k^2 P - 2 k a R + a^2 Q', \quad C' = k R - a Q'.

Backwards the same, transposed, for the derivatives of the final risk. Coordinates are independent given the rates, so
each goes through the whole run on its own; states are kept every `_SEGMENT` steps and recomputed in between, so that
the memory does not grow with the run.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit

__all__ = ["final_risk_and_gradient"]

Array = NDArray[np.float64]

_SEGMENT = 1024


@njit
def _forward(
    h: float,
    variance: float,
    spread: Array,
    rates: Array,
    clock: Array,
    rule: Array,
    first: int,
    last: int,
    state: Array,
    kept: Array,
) -> None:
    """Steps `first` to `last` - 1 of one coordinate's nodes; `kept` takes the states before each, unless empty."""
    beta1, beta2, eps, decay = rule[0], rule[1], rule[2], rule[3]
    left1, left2 = 1.0 - beta1, 1.0 - beta2
    P, C, Q, V = state[0], state[1], state[2], state[3]
    for t in range(first, last):
        if kept.shape[0] > 0:
            kept[t - first] = state
        lr, bias1, bias2, noise = rates[t], clock[0, t], clock[1, t], variance * spread[t]
        keep = 1.0 - lr * decay
        for j in range(P.size):
            square = h * h * P[j] + noise
            V[j] = beta2 * V[j] + left2 * square
            below = bias1 * (np.sqrt(V[j] / bias2) + eps)
            a = lr / below if below > 0.0 else 0.0
            R = beta1 * C[j] + left1 * h * P[j]
            Q[j] = beta1 * beta1 * Q[j] + 2.0 * beta1 * left1 * h * C[j] + left1 * left1 * square
            P[j] = keep * keep * P[j] - 2.0 * keep * a * R + a * a * Q[j]
            C[j] = keep * R - a * Q[j]


@njit
def _backward(
    h: float,
    variance: float,
    spread: Array,
    rates: Array,
    clock: Array,
    rule: Array,
    first: int,
    last: int,
    kept: Array,
    adjoint: Array,
    gradient: Array,
) -> None:
    """The same steps backwards: `adjoint` has derivatives by the state, `gradient` gets those by the rates."""
    beta1, beta2, eps, decay = rule[0], rule[1], rule[2], rule[3]
    left1, left2 = 1.0 - beta1, 1.0 - beta2
    p, c, q, v = adjoint[0], adjoint[1], adjoint[2], adjoint[3]
    for t in range(last - 1, first - 1, -1):
        P, C, Q, V = kept[t - first, 0], kept[t - first, 1], kept[t - first, 2], kept[t - first, 3]
        lr, bias1, bias2, noise = rates[t], clock[0, t], clock[1, t], variance * spread[t]
        keep = 1.0 - lr * decay
        total = 0.0
        for j in range(P.size):
            square = h * h * P[j] + noise
            after = beta2 * V[j] + left2 * square
            root = np.sqrt(after / bias2)
            below = bias1 * (root + eps)
            a = lr / below if below > 0.0 else 0.0
            R = beta1 * C[j] + left1 * h * P[j]
            Q1 = beta1 * beta1 * Q[j] + 2.0 * beta1 * left1 * h * C[j] + left1 * left1 * square
            by_a = p[j] * (2.0 * a * Q1 - 2.0 * keep * R) - c[j] * Q1
            by_keep = p[j] * (2.0 * keep * P[j] - 2.0 * a * R) + c[j] * R
            by_q = q[j] + p[j] * a * a - c[j] * a
            by_r = keep * c[j] - 2.0 * keep * a * p[j]
            slope = bias1 / (2.0 * root * bias2 * below) if root > 0.0 else 0.0  # -d log a / dv
            by_v = v[j] - by_a * a * slope
            total += (by_a / below if below > 0.0 else 0.0) - by_keep * decay
            by_square = left1 * left1 * by_q + left2 * by_v
            p[j] = keep * keep * p[j] + left1 * h * by_r + h * h * by_square
            c[j] = beta1 * by_r + 2.0 * beta1 * left1 * h * by_q
            q[j] = beta1 * beta1 * by_q
            v[j] = beta2 * by_v
        gradient[t] += total


@njit
def final_risk_and_gradient(
    curvature: Array,
    variance: Array,
    spread: Array,
    weight: Array,
    place: Array,
    rates: Array,
    clock: Array,
    rule: Array,
    gradient: Array,
) -> float:
    """Risk after all steps, its derivatives by the rates added to `gradient`.

    Parameters
    ----------
    curvature, variance : ndarray, shape (coordinates,)
        h, and the variance of the gradient's noise.
    spread : ndarray, shape (steps,)
        What that variance is multiplied by at each step.
    weight, place : ndarray, shape (coordinates, nodes)
        Share of each node's y² in the risk, and |θ₀| there.
    rates : ndarray, shape (steps,)
    clock : ndarray, shape (2, steps)
        Bias corrections of the first and second moment; 1 without.
    rule : ndarray, shape (4,)
        beta1, beta2, eps, weight decay.
    gradient : ndarray, shape (steps,)
        Empty to do without.

    Returns
    -------
    float
    """
    steps, nodes = rates.size, place.shape[1]
    segments = (steps + _SEGMENT - 1) // _SEGMENT
    state = np.empty((4, nodes))
    adjoint = np.empty((4, nodes))
    starts = np.empty((segments, 4, nodes))
    kept = np.empty((_SEGMENT, 4, nodes))
    nothing = np.empty((0, 4, nodes))
    risk = 0.0
    for i in range(curvature.size):
        state[:] = 0.0
        state[0] = place[i] * place[i]
        for s in range(segments):
            starts[s] = state
            last = min((s + 1) * _SEGMENT, steps)
            _forward(curvature[i], variance[i], spread, rates, clock, rule, s * _SEGMENT, last, state, nothing)
        for j in range(nodes):
            risk += weight[i, j] * state[0, j]
        if gradient.size == 0:
            continue
        adjoint[:] = 0.0
        adjoint[0] = weight[i]
        for s in range(segments - 1, -1, -1):
            first, last = s * _SEGMENT, min((s + 1) * _SEGMENT, steps)
            state[:] = starts[s]
            _forward(curvature[i], variance[i], spread, rates, clock, rule, first, last, state, kept)
            _backward(curvature[i], variance[i], spread, rates, clock, rule, first, last, kept, adjoint, gradient)
    return risk
