r"""First passage where numbers change with the step, or where a run with momentum is averaged.

What is taken step by step is looked at step by step. In a stretch with a constant map the search jumps, as in
`mcnqm.analytic.passage`, as far as it can prove that the risk stays above the target. It starts from any state: with a
square root of its covariance, :math:`S = \sum_j s_j s_j^T`,

.. math:: R_t = \sum_i \Big( \sum_{j \ge 0} w_{ij} (A^t s_j)_i^2 + w_i N_{i,t} \Big)

where :math:`s_0` is the response to the start, and N, what noise has added since, only grows. Each term is bounded from
its two ends as one transient is; ``docs/averaging.md`` has the bound for averages.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit
from mcnqm.analytic.linear.doubledouble import dd_add, dd_mul
from mcnqm.analytic.linear.ladder import Rung, State, StepMap, advance, first_rung, square
from mcnqm.analytic.linear.roots import ALTERNATING, DECAYING, ROTATING, SINGLE, modes
from mcnqm.analytic.linear.scheduled import COUNTING, STEPWISE, Course, Piece, Walk, stretch_map
from mcnqm.problems import NoisyQuadratic

__all__ = ["first_passages"]

Array = NDArray[np.float64]

_WIDTH = 128
"""Coordinates per block."""

_FIRST_LOOK, _LONGEST_LOOK = 256, 2**13
"""Steps that are taken before their risks are compared, at first and at most."""

_MARGIN = 1.0 - 1e-12
"""Of a bound, for the rounding of its terms."""

_BOTH, _REAL, _AVERAGE = range(3)
"""What bounds a coordinate: its whole risk at both ends; each transient at both ends; the iterate, for an average."""


def first_passages(problem: NoisyQuadratic, course: Course, batch_size: Array, target: Array, last: int) -> Array:
    """First step at or below each target, inf if there is none up to `last`.

    `batch_size` divides what `course` knows of noise, and like `target` has one entry per setting that shares it.
    """
    walk = Walk(problem, course)
    answer = np.full(target.size, np.inf)
    bias, variance = walk.risk()
    answer[bias + variance / batch_size <= target] = 0.0
    for piece in course.plan(0, last):
        open_ = np.flatnonzero(np.isinf(answer))
        if open_.size == 0:
            break
        if piece.form != STEPWISE:
            for m in open_:
                answer[m] = _in_stretch(walk, piece, float(batch_size[m]), float(target[m]))
            if np.isinf(answer).any() and piece.stop < last:
                walk.leap(piece)
        else:
            for start, stop in _growing(piece):
                bias, variance = walk.steps(start, stop, np.arange(start + 1, stop + 1))
                for m in open_[np.isinf(answer[open_])]:
                    below = np.flatnonzero(bias + variance / batch_size[m] <= target[m])
                    if below.size:
                        answer[m] = start + 1 + below[0]
                if np.isfinite(answer).all() or not np.isfinite(bias[-1] + variance[-1]):
                    break
        if not np.isfinite(walk.risk()).all():
            break  # what has overflowed never comes back
    return answer


def _growing(piece: Piece) -> list[tuple[int, int]]:
    cuts, width = [piece.start], _FIRST_LOOK
    while cuts[-1] < piece.stop:
        cuts.append(min(cuts[-1] + width, piece.stop))
        width = min(2 * width, _LONGEST_LOOK)
    return list(pairwise(cuts))


class _Motion(NamedTuple):
    """How a coordinate's transients move (`mcnqm.analytic.linear.roots`), an average's iterate `by` _AVERAGE."""

    kind: NDArray[np.int64]
    angle: Array
    by: NDArray[np.int64]


class _Goal(NamedTuple):
    """What to reach within how many steps; γ of an average, and iterates in a plain mean so far, -1 without one."""

    target: float
    last: int
    gamma: float
    counted: int


def _in_stretch(walk: Walk, piece: Piece, batch_size: float, target: float) -> float:
    """First passage after the start of a piece and up to its end, inf if none."""
    course, size = walk.course, walk.problem.size
    step, into, _ = stretch_map(walk, piece)
    vector, noise = into(walk.state)
    columns = np.concatenate([vector[np.newaxis, :, 0], _roots_of(noise[:, :, 0])])  # (vectors, entries, size)
    weights = np.concatenate([walk.weights[:1], np.repeat(walk.weights[1:] / batch_size, step.matrix.shape[0], axis=0)])
    lr, _, gamma = course.table(piece.start, piece.start + 1)[:3, 0].tolist()
    inner = step.matrix.shape[0] - course.averaged
    found = modes(step.matrix[:inner, :inner])
    kind, angle = found.kind, found.angle
    by = np.full(size, _AVERAGE if course.averaged else _BOTH if inner == 1 else _REAL)
    if lr == 0.0:
        kind, angle = np.full(size, DECAYING), np.zeros(size)  # θ stays
    elif inner == 1:
        # A single root below 0 alternates, and then an average's iterate has no sign.
        kind = np.where((step.matrix[0, 0, 0] >= 0.0) | (by == _BOTH), SINGLE, ALTERNATING)
        if course.averaged and piece.form != COUNTING:
            # Two real roots: sharper than by way of the iterate.
            pair = modes(step.matrix).kind == DECAYING
            by = np.where(pair, _REAL, by)
            kind = np.where(pair, DECAYING, kind)
    width = min(_WIDTH, size)
    blocks = -(-size // width)

    def split(array: NDArray[Any]) -> NDArray[Any]:
        wide = np.zeros((*array.shape[:-1], blocks * width), dtype=array.dtype)
        wide[..., :size] = array
        return np.ascontiguousarray(np.moveaxis(wide.reshape(*array.shape[:-1], blocks, width), -2, 0))

    n, length = step.matrix.shape[0], piece.stop - piece.start
    shape = (length.bit_length() + 1, blocks, n, n, 2, width)
    counted = course.counted(piece.start) if piece.form == COUNTING else -1
    after = _search(
        StepMap(split(step.matrix), split(step.impulse), split(step.initial)),
        _Motion(split(kind), split(angle), split(by)),
        split(_doubled(columns)),
        split(weights),
        n - 1 if course.averaged else 0,
        _Goal(target, length, gamma, counted),
        Rung(np.empty(shape), np.empty(shape)),
    )
    return piece.start + after if after > 0 else np.inf


def _doubled(columns: Array) -> Array:
    """As double-doubles, (vectors, entries, 2, size)."""
    return np.stack([columns, np.zeros_like(columns)], axis=2)


def _roots_of(noise: Array) -> Array:
    """Vectors whose outer products sum to S, shape (n, n, size): its Cholesky factor's columns, first to last."""
    n = noise.shape[0]
    columns, rest = np.zeros_like(noise), noise.copy()
    with np.errstate(all="ignore"):
        for j in range(n):
            pivot = rest[j, j]
            # What is left of a diagonal entry by rounding is nothing.
            sound = pivot > 1e-15 * noise[j, j]
            columns[j] = np.where(sound, rest[:, j] / np.sqrt(np.where(sound, pivot, 1.0)), 0.0)
            rest = rest - columns[j][:, np.newaxis] * columns[j][np.newaxis]
    return columns


@njit
def _bound(
    motion: _Motion,
    weights: Array,
    readout: int,
    goal: _Goal,
    span: tuple[int, int],
    first: tuple[Array, Array],
    second: tuple[Array, Array],
) -> float:
    """Sum over a block of what each coordinate's risk cannot fall below between two states.

    `first` and `second` are the transients (vectors, entries, 2, size) and what noise has added (entries, entries,
    2, size), at the steps `span` after the start of the stretch, an even number apart.
    """
    i = readout
    steps = span[1] - span[0]
    before, after = 1.0, 1.0
    keep = goal.gamma**steps
    if goal.counted >= 0:
        before, after = float(goal.counted + span[0]), float(goal.counted + span[1])
        keep = before / after
    total = 0.0
    for c in range(motion.kind.size):
        kind, by = motion.kind[c], motion.by[c]
        sure = kind in (SINGLE, DECAYING) or (kind == ALTERNATING and by == _REAL)
        if kind == ROTATING:
            sure = motion.angle[c] * steps < np.pi * (1.0 - 1e-9)
        w = weights[-1, c]
        left = w * first[1][i, i, 0, c] / (after * after) if w > 0.0 else 0.0
        right = w * second[1][i, i, 0, c] if w > 0.0 and by == _BOTH else 0.0
        for j in range(weights.shape[0]):
            w = weights[j, c]
            if not w > 0.0:
                continue
            x, y = first[0][j, i, 0, c], second[0][j, i, 0, c]
            if by == _BOTH:
                left += w * x * x
                right += w * y * y
            elif by == _REAL:
                if sure and x * y > 0.0:
                    left += w * min(x * x, y * y)
            else:
                # The average stays between where it was and where the iterate goes.
                a, b = first[0][j, 0, 0, c], second[0][j, 0, 0, c]
                if not sure or a * b < 0.0 or a * x < 0.0 or ((a == 0.0) != (b == 0.0)):
                    continue
                least = min(abs(a), abs(b))
                if before > 0.0:
                    least = min(abs(x) / before, keep * abs(x) / before + (1.0 - keep) * least)
                left += w * least * least
        total += min(left, right) if by == _BOTH else left
    return total * _MARGIN


@njit
def _carry(power: Array, x: Array, out: Array) -> None:
    """Fill ``power @ x`` for every vector of a block, in double-doubles."""
    n = power.shape[0]
    for j in range(x.shape[0]):
        for i in range(n):
            for c in range(x.shape[3]):
                high, low = dd_mul(power[i, 0, 0, c], power[i, 0, 1, c], x[j, 0, 0, c], x[j, 0, 1, c])
                for k in range(1, n):
                    more, rest = dd_mul(power[i, k, 0, c], power[i, k, 1, c], x[j, k, 0, c], x[j, k, 1, c])
                    high, low = dd_add(high, low, more, rest)
                out[j, i, 0, c], out[j, i, 1, c] = high, low


@njit
def _parts(x: Array, noise: Array, weights: Array, i: int) -> tuple[float, float]:
    """Sums over a block of what is left of the start of the stretch, and of what noise has added."""
    old = fresh = 0.0
    for c in range(weights.shape[1]):
        for j in range(weights.shape[0]):
            if weights[j, c] > 0.0:
                old += weights[j, c] * x[j, i, 0, c] * x[j, i, 0, c]
        if weights[-1, c] > 0.0:
            fresh += weights[-1, c] * noise[i, i, 0, c]
    return old, fresh


@njit
def _search(step: StepMap, motion: _Motion, x: Array, weights: Array, readout: int, goal: _Goal, ladder: Rung) -> int:
    """First step from 1 to ``goal.last`` at which the risk is at or below the target, 0 if none."""
    blocks, n, width = step.matrix.shape[0], step.matrix.shape[1], step.matrix.shape[4]
    scratch = np.empty((n, n, 2, width))
    for k in range(blocks):
        first_rung(
            StepMap(step.matrix[k], step.impulse[k], step.initial[k]), Rung(ladder.power[0, k], ladder.noise[0, k])
        )
    built = 1
    x2 = np.empty_like(x)
    unused = np.zeros((n, 2, width))
    noise, noise2 = np.zeros((blocks, n, n, 2, width)), np.empty((blocks, n, n, 2, width))
    at, j, end, known = 0, 0, goal.last + 1, False
    while at + 1 < end:
        # Here the risk is known to exceed the target at every step up to `at`.
        while at + (1 << j) >= end:
            j -= 1
        while built <= j:
            for k in range(blocks):
                square(
                    Rung(ladder.power[built - 1, k], ladder.noise[built - 1, k]),
                    Rung(ladder.power[built, k], ladder.noise[built, k]),
                    scratch,
                )
            built += 1
        old = fresh = bound = 0.0
        for k in range(blocks):
            rung = Rung(ladder.power[j, k], ladder.noise[j, k])
            advance(rung, State(unused, noise[k]), State(np.empty_like(unused), noise2[k]), scratch)
            _carry(rung.power, x[k], x2[k])
            both = _parts(x2[k], noise2[k], weights[k], readout)
            old += both[0]
            fresh += both[1]
            if j > 0:
                local = _Motion(motion.kind[k], motion.angle[k], motion.by[k])
                span = (at, at + (1 << j))
                bound += _bound(local, weights[k], readout, goal, span, (x[k], noise[k]), (x2[k], noise2[k]))
        count = 1.0 if goal.counted < 0 else float(goal.counted + at + (1 << j))
        risk = (old + fresh) / (count * count)
        if risk <= goal.target:
            end, known = at + (1 << j), True
            j = max(j - 1, 0)
        elif j == 0 or bound > goal.target:
            at += 1 << j
            x, x2 = x2, x
            noise, noise2 = noise2, noise
            # Noise never falls again, except in a plain mean; what overflowed does not come back.
            if not known and (not np.isfinite(risk) or (goal.counted < 0 and fresh > goal.target)):
                return 0
            j += 1
        else:
            j -= 1
    return end if known else 0
