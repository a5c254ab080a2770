r"""Second moments under noise that rises with the parameter: linear maps again, one dimension up.

With the variance :math:`(c + s \theta^2)/B` of a gradient, :math:`P = E\,s s^T` follows

.. math:: P' = A P A^T + b b^T \alpha'^2 (c + s P_{\theta\theta}) / B,

which is linear in the entries of P and 1. So it is one matrix per coordinate and batch size, of 2, 4 or 7 rows for one,
two or three states, in double-doubles, and steps are its powers. The mean does not see s; what P has
beyond it is variance, :math:`P - E\theta(0)^2\, v v^T`, and 31 digits survive that difference.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit
from mcnqm.analytic.linear.doubledouble import (
    DoubleDouble,
    add,
    dd_add,
    dd_mul,
    divide,
    double,
    multiply,
    power,
    subtract,
)
from mcnqm.analytic.linear.ladder import State, StepMap
from mcnqm.analytic.linear.maps import LinearMap
from mcnqm.problems import NoisyQuadratic

__all__ = [
    "Strength",
    "begin",
    "climb",
    "gathered",
    "lift",
    "product",
    "rises",
    "settled",
    "spread_of",
    "strength_of",
    "walk_lifted",
]

Array = NDArray[np.float64]

_BLOCK = 64


class Strength(NamedTuple):
    """Variance that a step adds, in units of the impulse: `fixed` plus `slope` times E θ²; double-doubles (2, size)."""

    fixed: Array
    slope: Array


def rises(problem: NoisyQuadratic) -> bool:
    """Whether the noise of some coordinate rises with the parameter."""
    return bool(problem.multiplicative_noise.any())


def strength_of(problem: NoisyQuadratic, values: dict[str, float], batch_size: float) -> Strength:
    """Of a constant map's own impulse: with the squared unit, over the batch size."""
    size = problem.size

    def wide(value: float) -> DoubleDouble:
        return np.full(size, value), np.zeros(size)

    with np.errstate(all="ignore"):
        unit = divide(wide(values["lr"]), power(problem.curvature, values["precondition"]))
        unit = multiply(unit, subtract(wide(1.0), wide(values["dampening"])))
        share = divide(multiply(unit, unit), wide(batch_size))
        fixed = multiply(share, double(problem.noise))
        slope = multiply(share, double(problem.multiplicative_noise))
    return Strength(np.stack(fixed), np.stack(slope))


def cells_of(n: int) -> list[tuple[int, int]]:
    """The upper triangle, row by row."""
    return [(i, j) for i in range(n) for j in range(i, n)]


def lift(step: StepMap, strength: Strength) -> Array:
    """The map of (P, 1), shape (m, m, 2, size): the upper triangle of P row by row, and 1."""
    n, size = step.matrix.shape[0], step.matrix.shape[3]
    cells = cells_of(n)
    m = len(cells) + 1
    out = np.zeros((m, m, 2, size))

    def put(row: int, column: int, value: DoubleDouble) -> None:
        out[row, column] = np.stack(add((out[row, column, 0], out[row, column, 1]), value))

    with np.errstate(all="ignore"):
        for row, (i, j) in enumerate(cells):
            for column, (k, q) in enumerate(cells):
                put(row, column, multiply(_at(step.matrix, i, k), _at(step.matrix, j, q)))
                if k != q:
                    put(row, column, multiply(_at(step.matrix, i, q), _at(step.matrix, j, k)))
            kick = multiply(_pair(step.impulse[i]), _pair(step.impulse[j]))
            put(row, 0, multiply(kick, _pair(strength.slope)))
            put(row, m - 1, multiply(kick, _pair(strength.fixed)))
    out[m - 1, m - 1, 0] = 1.0
    return out


def begin(problem: NoisyQuadratic, linear: LinearMap, strength: Strength) -> tuple[Array, Array | None]:
    """(P, 1) at the start, shape (m, 2, size), and after a first step that is apart from the rest, if it is."""
    n, size = linear.step.initial.shape
    second = double(problem.initial_second_moment)
    start = _whole(n, size)
    for row, (i, j) in enumerate(cells_of(n)):
        both = multiply(double(linear.step.initial[i]), double(linear.step.initial[j]))
        start[row] = np.stack(multiply(second, both))
    if linear.opening is None:
        return start, None
    return start, _opened(linear.opening, second, strength)


def _opened(opening: State, second: DoubleDouble, strength: Strength) -> Array:
    n, size = opening.vector.shape[0], opening.vector.shape[2]
    first = _whole(n, size)
    drive = add(_pair(strength.fixed), multiply(_pair(strength.slope), second))
    for row, (i, j) in enumerate(cells_of(n)):
        kept = multiply(second, multiply(_pair(opening.vector[i]), _pair(opening.vector[j])))
        first[row] = np.stack(add(kept, multiply(drive, _pair(opening.noise[i, j]))))
    return first


def _whole(n: int, size: int) -> Array:
    out = np.zeros((len(cells_of(n)) + 1, 2, size))
    out[-1, 0] = 1.0
    return out


def spread_of(state: Array, vector: Array, second: Array) -> Array:
    """Covariance beyond the start's own, P - E θ(0)² v vᵀ, shape (n, n, 2, size), from (P, 1) and v (n, 2, size)."""
    n, size = vector.shape[0], vector.shape[2]
    out = np.empty((n, n, 2, size))
    with np.errstate(all="ignore"):
        for row, (i, j) in enumerate(cells_of(n)):
            kept = multiply(double(second), multiply(_pair(vector[i]), _pair(vector[j])))
            out[i, j] = out[j, i] = np.stack(subtract(_pair(state[row]), kept))
    return out


def gathered(noise: Array, vector: Array, second: Array) -> Array:
    """(P, 1), shape (m, 2, size), from the covariance (n, n, 2, size) beyond the start's own, and v (n, 2, size)."""
    n, size = vector.shape[0], vector.shape[2]
    out = _whole(n, size)
    with np.errstate(all="ignore"):
        for row, (i, j) in enumerate(cells_of(n)):
            kept = multiply(double(second), multiply(_pair(vector[i]), _pair(vector[j])))
            out[row] = np.stack(add(_pair(noise[i, j]), kept))
    return out


def _pair(value: Array) -> DoubleDouble:
    return value[0], value[1]


def _at(matrix: Array, i: int, j: int) -> DoubleDouble:
    return matrix[i, j, 0], matrix[i, j, 1]


# ---------------------------------------------------------------------------------------------------------- powers


@njit
def _dot(a: Array, x: Array, out: Array) -> None:
    """Fill ``a @ x`` for matrices (m, m, 2, size) and columns (m, k, 2, size)."""
    m, size = a.shape[0], a.shape[3]
    for i in range(m):
        for j in range(x.shape[1]):
            for c in range(size):
                high, low = dd_mul(a[i, 0, 0, c], a[i, 0, 1, c], x[0, j, 0, c], x[0, j, 1, c])
                for k in range(1, m):
                    more, rest = dd_mul(a[i, k, 0, c], a[i, k, 1, c], x[k, j, 0, c], x[k, j, 1, c])
                    high, low = dd_add(high, low, more, rest)
                out[i, j, 0, c], out[i, j, 1, c] = high, low


def product(a: Array, x: Array) -> Array:
    """``a @ x`` for matrices (m, m, 2, size) and columns (m, k, 2, size), in double-doubles."""
    out = np.empty((a.shape[0], *x.shape[1:]))
    _dot(np.ascontiguousarray(a), np.ascontiguousarray(x), out)
    return out


@njit
def walk_lifted(matrix: Array, start: Array, record: NDArray[np.int64], rows: NDArray[np.int64]) -> Array:
    """Rows of the state (m, 2, size) at the recorded steps after `start`, shape (records, rows, 2, size)."""
    m, size = matrix.shape[0], matrix.shape[3]
    out = np.empty((record.size, rows.size, 2, size))
    longest, previous = 1, 0
    for step in record:
        longest = max(longest, step - previous)
        previous = step
    levels = 0
    while longest:
        longest >>= 1
        levels += 1
    for low in range(0, size, _BLOCK):
        high = min(low + _BLOCK, size)
        ladder = np.empty((levels, m, m, 2, high - low))
        ladder[0] = matrix[:, :, :, low:high]
        for j in range(1, levels):
            _dot(ladder[j - 1], ladder[j - 1], ladder[j])
        state, spare = np.empty((m, 1, 2, high - low)), np.empty((m, 1, 2, high - low))
        state[:, 0] = start[:, :, low:high]
        at = 0
        for r in range(record.size):
            left, j = record[r] - at, 0
            while left:
                if left & 1:
                    _dot(ladder[j], state, spare)
                    state, spare = spare, state
                left >>= 1
                j += 1
            at = record[r]
            for k in range(rows.size):
                out[r, k, :, low:high] = state[rows[k], 0]
    return out


def climb(matrix: Array, start: Array, steps: int) -> Array:
    """The state (m, 2, size) some steps after `start`."""
    rows = np.arange(start.shape[0])
    found: Array = walk_lifted(matrix, start, np.array([steps]), rows)[0]
    return found


@njit
def settled(matrix: Array) -> Array:
    """P in the limit, rows of (P, 1), shape (m, size); infinite where second moments grow, or do not fall."""
    m, size = matrix.shape[0], matrix.shape[3]
    out = np.full((m, size), np.inf)
    for c in range(size):
        a = matrix[:, :, :, c : c + 1].copy()
        b = np.empty_like(a)
        for _ in range(75):
            largest = 0.0
            for i in range(m - 1):
                for j in range(m - 1):
                    largest = max(largest, abs(a[i, j, 0, 0]))
                    if not np.isfinite(a[i, j, 0, 0]):
                        largest = np.inf
            if largest > 1e60:
                break
            if largest < 1e-36:
                for i in range(m):
                    out[i, c] = a[i, m - 1, 0, 0]
                break
            _dot(a, a, b)
            a, b = b, a
    return out
