r"""Eigenvalues of the maps, by their distance from 1 and from -1.

With roots :math:`r_1 \ge r_2`, trace T and determinant D, the products :math:`q = (1-r_1)(1-r_2)`,
:math:`q' = (1+r_1)(1+r_2)` and the discriminant :math:`(A_{00}-A_{11})^2 + 4 A_{01} A_{10}` are formed in
double-double from the entries of A; then

.. math:: 1 - r_1 = \frac{2q}{2 - T + \sqrt\Delta}, \qquad 1 + r_2 = \frac{2q'}{2 + T + \sqrt\Delta}

have no cancellation left, and a mode that needs 10¹⁵ steps to decay still has all digits of that number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic.linear.doubledouble import DoubleDouble, add, double, multiply, subtract

__all__ = ["ALTERNATING", "DECAYING", "MIXED", "ROTATING", "SINGLE", "Modes", "modes", "spectral_decay"]

Array = NDArray[np.float64]

SINGLE, DECAYING, ROTATING, ALTERNATING, MIXED = range(5)
"""How a coordinate's transient moves: one real root; two stable roots in [0, 1); a complex pair; two stable
roots in (-1, 0); anything else."""


@dataclass(frozen=True)
class Modes:
    """Eigenvalues of one 1×1 or 2×2 map per coordinate.

    Attributes
    ----------
    kind : ndarray of int64, shape (size,)
        SINGLE, DECAYING, ROTATING, ALTERNATING or MIXED.
    angle : ndarray, shape (size,)
        Radians that a complex pair turns per step, else 0.
    decay : ndarray, shape (size,)
        Minus the logarithm of the spectral radius, per step: positive where stable, zero at the edge.
    """

    kind: NDArray[np.int64]
    angle: Array
    decay: Array


def modes(matrix: Array) -> Modes:
    """Classify the maps ``matrix``, shape (n, n, 2, size) with n = 1 or 2."""
    with np.errstate(all="ignore"):
        if matrix.shape[0] == 1:
            return _single((matrix[0, 0, 0], matrix[0, 0, 1]))
        a, b, c, d = ((matrix[i, j, 0], matrix[i, j, 1]) for i in (0, 1) for j in (0, 1))
        return _pair(a, b, c, d)


def spectral_decay(matrix: Array, averaged: bool) -> Array:
    """-log of the spectral radius, shape (size,). An average's own γ is the last diagonal entry."""
    if not averaged:
        return modes(matrix).decay
    gamma = (matrix[-1, -1, 0], matrix[-1, -1, 1])
    return np.minimum(modes(matrix[:-1, :-1]).decay, _single(gamma).decay)


def _single(a: DoubleDouble) -> Modes:
    one = double(np.ones_like(a[0]))
    near_one, near_minus_one = subtract(one, a)[0], add(one, a)[0]
    kind = np.full(a[0].shape, SINGLE, dtype=np.int64)
    decay = np.minimum(_decay(near_one), _decay(near_minus_one))
    return Modes(kind, np.zeros_like(a[0]), _of_small(np.abs(a[0]), decay))


def _pair(a: DoubleDouble, b: DoubleDouble, c: DoubleDouble, d: DoubleDouble) -> Modes:
    one = double(np.ones_like(a[0]))
    cross = multiply(b, c)
    trace = add(a, d)
    determinant = subtract(multiply(a, d), cross)
    difference = subtract(a, d)
    discriminant = add(multiply(difference, difference), (4.0 * cross[0], 4.0 * cross[1]))[0]
    plus = subtract(multiply(subtract(one, a), subtract(one, d)), cross)[0]
    minus = subtract(multiply(add(one, a), add(one, d)), cross)[0]
    root = np.sqrt(np.maximum(discriminant, 0.0))
    two = (one[0] + 1.0, one[1])
    below, above = subtract(two, trace)[0], add(two, trace)[0]
    upper_gap = 2.0 * plus / (below + root)  # 1 - r₁
    lower_gap = 2.0 * minus / (above + root)  # 1 + r₂
    # Beyond the edge a denominator may vanish or change sign; there the differences themselves lose nothing.
    upper_gap = np.where(below > 0, upper_gap, 0.5 * (below - root))
    lower_gap = np.where(above > 0, lower_gap, 0.5 * (above - root))
    real = np.minimum(_decay(upper_gap), _decay(lower_gap))
    real = _of_small(0.5 * (np.abs(trace[0]) + root), real)
    rotating = discriminant < 0
    complex_ = 0.5 * _of_small(determinant[0], _decay(subtract(one, determinant)[0]))
    decay = np.where(rotating, complex_, real)
    stable = decay > 0
    same_sign = stable & ~rotating & (determinant[0] >= 0)
    kind = np.select(
        [rotating, same_sign & (trace[0] >= 0), same_sign],
        [ROTATING, DECAYING, ALTERNATING],
        default=MIXED,
    ).astype(np.int64)
    angle = np.where(rotating, np.arctan2(np.sqrt(np.maximum(-discriminant, 0.0)), trace[0]), 0.0)
    return Modes(kind, angle, decay)


def _decay(gap: Array) -> Array:
    """-log|r| from 1-|r|; a gap beyond 1 belongs to a root of the other sign, which its own gap describes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap >= 1.0, np.inf, -np.log1p(-np.minimum(gap, 1.0)))


def _of_small(radius: Array, decay: Array) -> Array:
    """-log of a radius itself where it is small: there its distance from 1 has lost its digits. Else what is given."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(radius < 0.5, -np.log(np.maximum(radius, 0.0)), decay)
