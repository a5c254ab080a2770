"""Compiled loops of `mcnqm.scheduling.composed`: pieces forwards by squaring, and backwards by the adjoint.

All arrays of a pass have one entry for each of its `WIDTH` coordinates. With momentum, what a map and its derivatives
are made of lies in rows of one scratch array, so that the compiler knows that they do not overlap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit

__all__ = ["WIDTH", "with_momentum", "without_momentum"]

Array = NDArray[np.float64]
Lengths = NDArray[np.int64]

WIDTH = 32
"""Coordinates per pass: rows of so many doubles stay in the first-level cache, and fill whole vectors."""

# Rows of the scratch array of the kernels with momentum: the map so far, then the map of one step.
# A00 A01 A10 A11 N00 N01 N11, A00 - 1 and A11 - 1, derivatives of the first seven by u, and by β.
_ROWS = 23
_BY_U, _BY_BETA = 9, 16
_KEPT = 10
"""What the way back needs of a piece: A, and the derivatives of the three moments after it by u and β."""


@njit
def without_momentum(
    scale: Array,
    noise: Array,
    start: Array,
    weight: Array,
    lr: Array,
    lengths: Lengths,
    mix: Array,
    slopes: bool,
    sums: Array,
    ends: Array,
) -> None:
    """Without momentum: risks after pieces are added to `ends`, derivatives of their `mix` by the rates to `sums`."""
    pieces = lr.size
    w = WIDTH
    a, total, da, dtotal = np.empty(w), np.empty(w), np.empty(w), np.empty(w)
    q, gap, P = np.empty(w), np.empty(w), np.empty(w)
    kept = np.empty((pieces if slopes else 0, w))
    slope = np.empty((pieces if slopes else 0, w))
    for block in range(scale.size // w):
        here = slice(block * w, (block + 1) * w)
        h, variance, share = scale[here], noise[here], weight[here]
        P[:] = start[here]
        for k in range(pieces):
            n, rate = lengths[k], lr[k]
            # q = (1-u)², a = q^m, total = 1 + q + ... + q^(m-1), and their derivatives by q. 1 - a = gap * total.
            for j in range(w):
                u = rate * h[j]
                q[j] = (1.0 - u) * (1.0 - u)
                gap[j] = u * (2.0 - u)
                a[j] = 1.0 - gap[j] if gap[j] < 0.5 else q[j]
                total[j], da[j], dtotal[j] = 1.0, 1.0, 0.0
            bit = 1
            while bit <= n // 2:
                bit *= 2
            while bit > 1:
                bit //= 2
                if slopes:
                    for j in range(w):
                        dtotal[j] = dtotal[j] * (1.0 + a[j]) + total[j] * da[j]
                        da[j] = 2.0 * a[j] * da[j]
                for j in range(w):
                    total[j] = total[j] * (1.0 + a[j])
                    lost = gap[j] * total[j]
                    a[j] = 1.0 - lost if lost < 0.5 else a[j] * a[j]
                if n & bit:
                    if slopes:
                        for j in range(w):
                            dtotal[j] = dtotal[j] + da[j]
                            da[j] = a[j] + q[j] * da[j]
                    for j in range(w):
                        total[j] = total[j] + a[j]
                        lost = gap[j] * total[j]
                        a[j] = 1.0 - lost if lost < 0.5 else a[j] * q[j]
            if slopes:
                for j in range(w):
                    u = rate * h[j]
                    dq = -2.0 * (1.0 - u)
                    kept[k, j] = a[j]
                    slope[k, j] = h[j] * (dq * da[j] * P[j] + variance[j] * u * (2.0 * total[j] + u * (dq * dtotal[j])))
            for j in range(w):
                u = rate * h[j]
                P[j] = a[j] * P[j] + variance[j] * u * u * total[j]
            risk = 0.0
            for j in range(w):
                risk += share[j] * P[j]
            ends[k] += risk
        if slopes:
            P[:] = 0.0
            for k in range(pieces - 1, -1, -1):
                if mix[k] != 0.0:
                    for j in range(w):
                        P[j] += mix[k] * share[j]
                for j in range(w):
                    sums[k, j] += P[j] * slope[k, j]
                    P[j] = P[j] * kept[k, j]


@njit
def _sandwich(
    a00: float, a01: float, a10: float, a11: float, n00: float, n01: float, n11: float
) -> tuple[float, float, float]:
    """A N Aᵀ of a symmetric N."""
    x00, x01 = a00 * n00 + a01 * n01, a00 * n01 + a01 * n11
    x10, x11 = a10 * n00 + a11 * n01, a10 * n01 + a11 * n11
    return a00 * x00 + a01 * x01, a10 * x00 + a11 * x01, a10 * x10 + a11 * x11


@njit
def _mixed(
    d00: float,
    d01: float,
    d10: float,
    d11: float,
    n00: float,
    n01: float,
    n11: float,
    a00: float,
    a01: float,
    a10: float,
    a11: float,
) -> tuple[float, float, float]:
    """D N Aᵀ + A N Dᵀ of a symmetric N."""
    x00, x01 = a00 * n00 + a01 * n01, a00 * n01 + a01 * n11  # A N
    x10, x11 = a10 * n00 + a11 * n01, a10 * n01 + a11 * n11
    return (
        2.0 * (d00 * x00 + d01 * x01),
        d10 * x00 + d11 * x01 + d00 * x10 + d01 * x11,
        2.0 * (d10 * x10 + d11 * x11),
    )


@njit
def _double(W: Array) -> None:
    """The map so far, twice."""
    w = WIDTH
    for j in range(w):
        a00, a01, a10, a11 = W[j], W[w + j], W[2 * w + j], W[3 * w + j]
        e00, e11 = W[7 * w + j], W[8 * w + j]
        n00, n01, n11 = W[4 * w + j], W[5 * w + j], W[6 * w + j]
        x00, x01, x11 = _sandwich(a00, a01, a10, a11, n00, n01, n11)
        W[4 * w + j], W[5 * w + j], W[6 * w + j] = n00 + x00, n01 + x01, n11 + x11
        twist, trace = a01 * a10, a00 + a11
        e00, e11 = e00 * (2.0 + e00) + twist, e11 * (2.0 + e11) + twist
        W[7 * w + j], W[8 * w + j] = e00, e11
        W[j] = 1.0 + e00 if abs(e00) < 0.5 else a00 * a00 + twist
        W[3 * w + j] = 1.0 + e11 if abs(e11) < 0.5 else a11 * a11 + twist
        W[w + j], W[2 * w + j] = a01 * trace, a10 * trace


@njit
def _append(W: Array) -> None:
    """The map so far, and one step after it."""
    w = WIDTH
    s = _ROWS * w
    for j in range(w):
        a00, a01, a10, a11 = W[j], W[w + j], W[2 * w + j], W[3 * w + j]
        e00, e11 = W[7 * w + j], W[8 * w + j]
        b00, b01, b10, b11 = W[s + j], W[s + w + j], W[s + 2 * w + j], W[s + 3 * w + j]
        f00, f11 = W[s + 7 * w + j], W[s + 8 * w + j]
        x00, x01, x11 = _sandwich(b00, b01, b10, b11, W[4 * w + j], W[5 * w + j], W[6 * w + j])
        W[4 * w + j] = W[s + 4 * w + j] + x00
        W[5 * w + j] = W[s + 5 * w + j] + x01
        W[6 * w + j] = W[s + 6 * w + j] + x11
        e00, e11 = e00 + f00 * (1.0 + e00) + b01 * a10, e11 + f11 * (1.0 + e11) + b10 * a01
        W[7 * w + j], W[8 * w + j] = e00, e11
        W[j] = 1.0 + e00 if abs(e00) < 0.5 else b00 * a00 + b01 * a10
        W[3 * w + j] = 1.0 + e11 if abs(e11) < 0.5 else b10 * a01 + b11 * a11
        W[w + j], W[2 * w + j] = b00 * a01 + b01 * a11, b10 * a00 + b11 * a10


@njit
def _double_slope(W: Array, by: int) -> None:
    """Derivatives of what `_double` is about to do, in the rows from `by` on."""
    w = WIDTH
    d = by * w
    for j in range(w):
        a00, a01, a10, a11 = W[j], W[w + j], W[2 * w + j], W[3 * w + j]
        d00, d01, d10, d11 = W[d + j], W[d + w + j], W[d + 2 * w + j], W[d + 3 * w + j]
        g00, g01, g11 = W[d + 4 * w + j], W[d + 5 * w + j], W[d + 6 * w + j]
        x00, x01, x11 = _sandwich(a00, a01, a10, a11, g00, g01, g11)
        y00, y01, y11 = _mixed(d00, d01, d10, d11, W[4 * w + j], W[5 * w + j], W[6 * w + j], a00, a01, a10, a11)
        W[d + 4 * w + j], W[d + 5 * w + j], W[d + 6 * w + j] = g00 + x00 + y00, g01 + x01 + y01, g11 + x11 + y11
        twist, trace, bend = d01 * a10 + a01 * d10, a00 + a11, d00 + d11
        W[d + j], W[d + 3 * w + j] = 2.0 * a00 * d00 + twist, 2.0 * a11 * d11 + twist
        W[d + w + j], W[d + 2 * w + j] = d01 * trace + a01 * bend, d10 * trace + a10 * bend


@njit
def _append_slope(W: Array, by: int) -> None:
    """Derivatives of what `_append` is about to do, in the rows from `by` on."""
    w = WIDTH
    d = by * w
    s = _ROWS * w
    for j in range(w):
        a00, a01, a10, a11 = W[j], W[w + j], W[2 * w + j], W[3 * w + j]
        d00, d01, d10, d11 = W[d + j], W[d + w + j], W[d + 2 * w + j], W[d + 3 * w + j]
        b00, b01, b10, b11 = W[s + j], W[s + w + j], W[s + 2 * w + j], W[s + 3 * w + j]
        c00, c01, c10, c11 = W[s + d + j], W[s + d + w + j], W[s + d + 2 * w + j], W[s + d + 3 * w + j]
        x00, x01, x11 = _sandwich(b00, b01, b10, b11, W[d + 4 * w + j], W[d + 5 * w + j], W[d + 6 * w + j])
        y00, y01, y11 = _mixed(c00, c01, c10, c11, W[4 * w + j], W[5 * w + j], W[6 * w + j], b00, b01, b10, b11)
        W[d + 4 * w + j] = W[s + d + 4 * w + j] + x00 + y00
        W[d + 5 * w + j] = W[s + d + 5 * w + j] + x01 + y01
        W[d + 6 * w + j] = W[s + d + 6 * w + j] + x11 + y11
        W[d + j] = c00 * a00 + c01 * a10 + b00 * d00 + b01 * d10
        W[d + w + j] = c00 * a01 + c01 * a11 + b00 * d01 + b01 * d11
        W[d + 2 * w + j] = c10 * a00 + c11 * a10 + b10 * d00 + b11 * d10
        W[d + 3 * w + j] = c10 * a01 + c11 * a11 + b10 * d01 + b11 * d11


@njit
def _one_step(W: Array, scale: Array, rate: float, beta: float, gain: float, nesterov: bool) -> None:
    """Write the map of one step, and its derivatives, to both halves."""
    w = WIDTH
    lead, reach = gain, beta  # of Nesterov's form there is none with a gain other than 1
    dlead, dreach = 0.0, 1.0
    if nesterov:
        lead, reach = 1.0 + beta, beta * beta
        dlead, dreach = 1.0, 2.0 * beta
    W[:] = 0.0
    for j in range(w):
        u = rate * scale[j]
        for s in (0, _ROWS * w):
            W[s + j], W[s + w + j], W[s + 2 * w + j], W[s + 3 * w + j] = 1.0 - lead * u, -reach * u, gain, beta
            W[s + 4 * w + j], W[s + 5 * w + j], W[s + 6 * w + j] = lead * lead * u * u, -lead * gain * u, gain * gain
            W[s + 7 * w + j], W[s + 8 * w + j] = -lead * u, -(1.0 - beta)
            W[s + 9 * w + j], W[s + 10 * w + j] = -lead, -reach
            W[s + 13 * w + j], W[s + 14 * w + j] = 2.0 * lead * lead * u, -lead * gain
            W[s + 16 * w + j], W[s + 17 * w + j], W[s + 19 * w + j] = -dlead * u, -dreach * u, 1.0
            W[s + 20 * w + j], W[s + 21 * w + j] = 2.0 * lead * dlead * u * u, -dlead * u


@njit
def with_momentum(
    scale: Array,
    noise: Array,
    start: Array,
    weight: Array,
    lr: Array,
    momentum: Array,
    gains: Array,
    lengths: Lengths,
    mix: Array,
    nesterov: bool,
    order: int,
    sums: Array,
    ends: Array,
) -> None:
    """With momentum: as `without_momentum`; derivatives of `order` 1 by the rates, 2 by rates and momenta."""
    pieces = lr.size
    w = WIDTH
    W = np.empty(2 * _ROWS * w)
    P, C, Q = np.empty(w), np.empty(w), np.empty(w)
    kept = np.empty((pieces if order > 0 else 0, _KEPT, w))
    for block in range(scale.size // w):
        here = slice(block * w, (block + 1) * w)
        h, variance, share = scale[here], noise[here], weight[here]
        P[:], C[:], Q[:] = start[here], 0.0, 0.0
        for k in range(pieces):
            n = lengths[k]
            _one_step(W, h, lr[k], momentum[k], gains[k], nesterov)
            bit = 1
            while bit <= n // 2:
                bit *= 2
            while bit > 1:
                bit //= 2
                if order > 0:
                    _double_slope(W, _BY_U)
                if order > 1:
                    _double_slope(W, _BY_BETA)
                _double(W)
                if n & bit:
                    if order > 0:
                        _append_slope(W, _BY_U)
                    if order > 1:
                        _append_slope(W, _BY_BETA)
                    _append(W)
            if order > 0:
                for j in range(w):
                    a00, a01, a10, a11 = W[j], W[w + j], W[2 * w + j], W[3 * w + j]
                    kept[k, 0, j], kept[k, 1, j], kept[k, 2, j], kept[k, 3, j] = a00, a01, a10, a11
                    for which in range(order):
                        s = (_BY_U + (_BY_BETA - _BY_U) * which) * w
                        d00, d01, d10, d11 = W[s + j], W[s + w + j], W[s + 2 * w + j], W[s + 3 * w + j]
                        y00, y01, y11 = _mixed(d00, d01, d10, d11, P[j], C[j], Q[j], a00, a01, a10, a11)
                        kept[k, 4 + 3 * which, j] = y00 + variance[j] * W[s + 4 * w + j]
                        kept[k, 5 + 3 * which, j] = y01 + variance[j] * W[s + 5 * w + j]
                        kept[k, 6 + 3 * which, j] = y11 + variance[j] * W[s + 6 * w + j]
            risk = 0.0
            for j in range(w):
                x00, x01, x11 = _sandwich(W[j], W[w + j], W[2 * w + j], W[3 * w + j], P[j], C[j], Q[j])
                P[j] = x00 + variance[j] * W[4 * w + j]
                C[j] = x01 + variance[j] * W[5 * w + j]
                Q[j] = x11 + variance[j] * W[6 * w + j]
                risk += share[j] * P[j]
            ends[k] += risk
        if order > 0:
            P[:], C[:], Q[:] = 0.0, 0.0, 0.0  # now of the adjoint
            for k in range(pieces - 1, -1, -1):
                if mix[k] != 0.0:
                    for j in range(w):
                        P[j] += mix[k] * share[j]
                for j in range(w):
                    sums[0, k, j] += h[j] * (P[j] * kept[k, 4, j] + 2.0 * C[j] * kept[k, 5, j] + Q[j] * kept[k, 6, j])
                if order > 1:
                    for j in range(w):
                        sums[1, k, j] += P[j] * kept[k, 7, j] + 2.0 * C[j] * kept[k, 8, j] + Q[j] * kept[k, 9, j]
                for j in range(w):
                    a00, a01, a10, a11 = kept[k, 0, j], kept[k, 1, j], kept[k, 2, j], kept[k, 3, j]
                    P[j], C[j], Q[j] = _sandwich(a00, a10, a01, a11, P[j], C[j], Q[j])  # with Aᵀ
