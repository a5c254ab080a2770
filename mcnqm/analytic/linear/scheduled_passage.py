r"""First passage where numbers change with the step, or where a run with momentum is averaged.

What is taken step by step is looked at step by step. In a stretch with a constant map the search jumps, as in
`mcnqm.analytic.passage`, as far as it can prove that the risk stays above the target. It starts from any state: with a
square root of its covariance, :math:`S = \sum_j s_j s_j^T`,

.. math:: R_t = \sum_i \Big( \sum_{j \ge 0} w_{ij} (A^t s_j)_i^2 + w_i N_{i,t} \Big)

where :math:`s_0` is the response to the start, and N, what noise has added since, only grows. Each term is bounded from
its two ends as one transient is; ``docs/averaging.md`` has the bound for averages. `mcnqm.analytic.passage` says why it
has a search of its own.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit
from mcnqm.analytic.linear.doubledouble import dd_add, dd_mul
from mcnqm.analytic.linear.ladder import (
    Rung,
    State,
    StepMap,
    advance,
    begin_ladder,
    blocked,
    build_ladder,
    empty_ladder,
)
from mcnqm.analytic.linear.lifted_passage import rising_passage
from mcnqm.analytic.linear.passage_bounds import Goal, Motion, lower_bound, motion_of, roots_of
from mcnqm.analytic.linear.scheduled import COUNTING, STEPWISE, Piece, ScheduledSetting, Walk, stretch_map
from mcnqm.problems import NoisyQuadratic

__all__ = ["first_passages"]

Array = NDArray[np.float64]

_FIRST_LOOK, _LONGEST_LOOK = 256, 2**13
"""Steps that are taken before their risks are compared, at first and at most."""


def first_passages(
    problem: NoisyQuadratic, setting: ScheduledSetting, batch_size: Array, target: Array, last: int
) -> Array:
    """First step at or below each target, inf if there is none up to `last`.

    `batch_size` divides what `setting` knows of noise, and like `target` has one entry per setting that shares it.
    """
    walk = Walk(problem, setting)
    answer = np.full(target.size, np.inf)
    bias, variance = walk.risk()
    answer[bias + variance / batch_size <= target] = 0.0
    for piece in setting.plan(0, last):
        open_ = np.flatnonzero(np.isinf(answer))
        if open_.size == 0:
            break
        if piece.form != STEPWISE:
            for m in open_:
                if walk.rising:
                    answer[m] = rising_passage(walk, piece, float(target[m]))
                else:
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


def _in_stretch(walk: Walk, piece: Piece, batch_size: float, target: float) -> float:
    """First passage after the start of a piece and up to its end, inf if none."""
    setting = walk.setting
    step, into, _ = stretch_map(walk, piece)
    vector, noise = into(walk.state)
    columns = np.concatenate([vector[np.newaxis, :, 0], roots_of(noise[:, :, 0])])  # (vectors, entries, size)
    weights = np.concatenate([walk.weights[:1], np.repeat(walk.weights[1:] / batch_size, step.matrix.shape[0], axis=0)])
    gamma = float(setting.table(piece.start, piece.start + 1)[2, 0])
    motion = Motion(*map(blocked, motion_of(walk, piece, step)))
    n, length = step.matrix.shape[0], piece.stop - piece.start
    counted = setting.counted(piece.start) if piece.form == COUNTING else -1
    step = StepMap(*map(blocked, step))
    goal = Goal(target, length, gamma, counted)
    start, share, readout = blocked(_doubled(columns)), blocked(weights), n - 1 if setting.averaged else 0
    after = _search(step, motion, start, share, readout, goal, empty_ladder(step, length))
    return piece.start + after if after > 0 else np.inf


def _doubled(columns: Array) -> Array:
    """As double-doubles, (vectors, entries, 2, size)."""
    return np.stack([columns, np.zeros_like(columns)], axis=2)


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
def _search(step: StepMap, motion: Motion, x: Array, weights: Array, readout: int, goal: Goal, ladder: Rung) -> int:
    """First step from 1 to ``goal.last`` at which the risk is at or below the target, 0 if none."""
    blocks, n, width = step.matrix.shape[0], step.matrix.shape[1], step.matrix.shape[4]
    scratch = np.empty((n, n, 2, width))
    begin_ladder(step, ladder)
    built = 1
    x2 = np.empty_like(x)
    unused = np.zeros((n, 2, width))
    noise, noise2 = np.zeros((blocks, n, n, 2, width)), np.empty((blocks, n, n, 2, width))
    at, j, end, known = 0, 0, goal.last + 1, False
    while at + 1 < end:
        # Here the risk is known to exceed the target at every step up to `at`.
        while at + (1 << j) >= end:
            j -= 1
        built = build_ladder(ladder, built, j, scratch)
        old = fresh = bound = 0.0
        for k in range(blocks):
            rung = Rung(ladder.power[j, k], ladder.noise[j, k])
            advance(rung, State(unused, noise[k]), State(np.empty_like(unused), noise2[k]), scratch)
            _carry(rung.power, x[k], x2[k])
            both = _parts(x2[k], noise2[k], weights[k], readout)
            old += both[0]
            fresh += both[1]
            if j > 0:
                local = Motion(motion.kind[k], motion.angle[k], motion.by[k])
                span = (at, at + (1 << j))
                bound += lower_bound(local, weights[k], readout, goal, span, (x[k], noise[k]), (x2[k], noise2[k]))
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
