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

from mcnqm.analytic._jit import njit
from mcnqm.analytic.linear.maps import effective_curvature
from mcnqm.problems import NoisyQuadratic

__all__ = ["Composed"]

Array = NDArray[np.float64]
Lengths = NDArray[np.int64]

_WIDTH = 32
"""Coordinates per pass: rows of so many doubles stay in the first-level cache, and fill whole vectors."""

# Rows of the scratch array of the kernels with momentum: the map so far, then the map of one step.
# A00 A01 A10 A11 N00 N01 N11, A00 - 1 and A11 - 1, derivatives of the first seven by u, and by β.
_ROWS = 23
_BY_U, _BY_BETA = 9, 16
_KEPT = 10
"""What the way back needs of a piece: A, and the derivatives of the three moments after it by u and β."""


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
        size = -(-h.size // _WIDTH) * _WIDTH
        scale, noise, start, weight = (np.concatenate([array, np.zeros(size - h.size)]) for array in arrays)
        return cls(scale, noise, start, weight, nesterov, dampening)

    def risk(self, lr: Array, momentum: Array, lengths: Lengths) -> float:
        """Expected loss after all pieces; inf where it overflows."""
        return float(self.risks(lr, momentum, lengths)[-1])

    def risks(self, lr: Array, momentum: Array, lengths: Lengths) -> Array:
        """Expected loss at the end of each piece, shape (pieces,)."""
        ends = np.zeros(lr.size)
        if momentum.any():
            nothing = np.empty((0, 0, 0))
            self._momentum(lr, momentum, lengths, 0, nothing, ends)
        else:
            _plain(*self._arrays, lr, lengths, False, np.empty((0, 0)), ends)
        # Of what overflowed, differences are NaN.
        return np.where(np.isfinite(ends), ends, np.inf)

    def gradient(
        self, lr: Array, momentum: Array, lengths: Lengths, *, by_momentum: bool = False
    ) -> tuple[float, Array, Array]:
        """Expected loss after all pieces, and its derivatives by each piece's rate and momentum.

        Parameters
        ----------
        lr, momentum : ndarray of float64, shape (pieces,)
        lengths : ndarray of int64, shape (pieces,)
            Each at least 1.
        by_momentum : bool
            Whether to compute the last; else it is zero.

        Returns
        -------
        tuple of float, ndarray and ndarray
            Where the loss overflows, inf and zeros.
        """
        ends = np.zeros(lr.size)
        if momentum.any() or by_momentum:
            sums = np.zeros((2, lr.size, _WIDTH))
            self._momentum(lr, momentum, lengths, 2 if by_momentum else 1, sums, ends)
        else:
            sums = np.zeros((2, lr.size, _WIDTH))
            _plain(*self._arrays, lr, lengths, True, sums[0], ends)
        slopes = sums.sum(axis=2)
        if not np.isfinite(ends[-1]):
            return np.inf, np.zeros(lr.size), np.zeros(lr.size)
        return float(ends[-1]), slopes[0], slopes[1]

    @property
    def _arrays(self) -> tuple[Array, Array, Array, Array]:
        return self.scale, self.noise, self.start, self.weight

    def _momentum(self, lr: Array, momentum: Array, lengths: Lengths, order: int, sums: Any, ends: Array) -> None:
        gains = np.ones(lr.size)
        if self.dampening == 0.0:
            _matrix(*self._arrays, lr, momentum, gains, lengths, self.nesterov, order, sums, ends)
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
        wide_sums, wide_ends = np.zeros((sums.shape[0], split.size, _WIDTH)), np.zeros(split.size)
        _matrix(
            *(*self._arrays, lr[split], momentum[split], gains, parts, self.nesterov, order),
            *(wide_sums if order else sums, wide_ends),
        )
        ends += wide_ends[1 - alone :]
        if order:
            sums += wide_sums[:, 1 - alone :]
            sums[:, 0] += 0.0 if alone else wide_sums[:, 0]


@njit
def _plain(
    scale: Array,
    noise: Array,
    start: Array,
    weight: Array,
    lr: Array,
    lengths: Lengths,
    slopes: bool,
    sums: Array,
    ends: Array,
) -> None:
    """Without momentum: risks after the pieces are added to `ends`, derivatives by the rates to `sums`."""
    pieces = lr.size
    w = _WIDTH
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
            P[:] = share
            for k in range(pieces - 1, -1, -1):
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
    w = _WIDTH
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
    w = _WIDTH
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
    w = _WIDTH
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
    w = _WIDTH
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
    w = _WIDTH
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
def _matrix(
    scale: Array,
    noise: Array,
    start: Array,
    weight: Array,
    lr: Array,
    momentum: Array,
    gains: Array,
    lengths: Lengths,
    nesterov: bool,
    order: int,
    sums: Array,
    ends: Array,
) -> None:
    """With momentum: as `_plain`; derivatives of `order` 1 by the rates, 2 by rates and momenta."""
    pieces = lr.size
    w = _WIDTH
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
            P[:], C[:], Q[:] = share, 0.0, 0.0  # now of the adjoint
            for k in range(pieces - 1, -1, -1):
                for j in range(w):
                    sums[0, k, j] += h[j] * (P[j] * kept[k, 4, j] + 2.0 * C[j] * kept[k, 5, j] + Q[j] * kept[k, 6, j])
                if order > 1:
                    for j in range(w):
                        sums[1, k, j] += P[j] * kept[k, 7, j] + 2.0 * C[j] * kept[k, 8, j] + Q[j] * kept[k, 9, j]
                for j in range(w):
                    a00, a01, a10, a11 = kept[k, 0, j], kept[k, 1, j], kept[k, 2, j], kept[k, 3, j]
                    P[j], C[j], Q[j] = _sandwich(a00, a10, a01, a11, P[j], C[j], Q[j])  # with Aᵀ
