"""What a risk cannot fall below between two states of a constant map, coordinate by coordinate."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit
from mcnqm.analytic.linear.ladder import StepMap
from mcnqm.analytic.linear.roots import ALTERNATING, DECAYING, ROTATING, SINGLE, modes
from mcnqm.analytic.linear.scheduled import COUNTING, Piece, Walk

__all__ = ["Goal", "Motion", "lower_bound", "motion_of", "roots_of"]

Array = NDArray[np.float64]

_MARGIN = 1.0 - 1e-12
"""Of a bound, for the rounding of its terms."""

BOTH, REAL, AVERAGE = range(3)
"""What bounds a coordinate: its whole risk at both ends; each transient at both ends; the iterate, for an average."""


class Motion(NamedTuple):
    """How a coordinate's transients move (`mcnqm.analytic.linear.roots`), an average's iterate `by` AVERAGE."""

    kind: NDArray[np.int64]
    angle: Array
    by: NDArray[np.int64]


class Goal(NamedTuple):
    """What to reach within how many steps; γ of an average, and iterates in a plain mean so far, -1 without one."""

    target: float
    last: int
    gamma: float
    counted: int


def motion_of(walk: Walk, piece: Piece, step: StepMap) -> Motion:
    """How transients move in a piece."""
    setting, size = walk.setting, walk.problem.size
    lr = float(setting.table(piece.start, piece.start + 1)[0, 0])
    inner = step.matrix.shape[0] - setting.averaged
    found = modes(step.matrix[:inner, :inner])
    kind, angle = found.kind, found.angle
    by = np.full(size, AVERAGE if setting.averaged else BOTH if inner == 1 else REAL)
    if lr == 0.0:
        kind, angle = np.full(size, DECAYING), np.zeros(size)  # θ stays
    elif inner == 1:
        # A single root below 0 alternates, and then an average's iterate has no sign.
        kind = np.where((step.matrix[0, 0, 0] >= 0.0) | (by == BOTH), SINGLE, ALTERNATING)
        if setting.averaged and piece.form != COUNTING:
            # Two real roots: sharper than by way of the iterate.
            pair = modes(step.matrix).kind == DECAYING
            by = np.where(pair, REAL, by)
            kind = np.where(pair, DECAYING, kind)
    return Motion(kind, angle, by)


def roots_of(noise: Array) -> Array:
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
def lower_bound(
    motion: Motion,
    weights: Array,
    readout: int,
    goal: Goal,
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
        sure = kind in (SINGLE, DECAYING) or (kind == ALTERNATING and by == REAL)
        if kind == ROTATING:
            sure = motion.angle[c] * steps < np.pi * (1.0 - 1e-9)
        w = weights[-1, c]
        left = w * first[1][i, i, 0, c] / (after * after) if w > 0.0 else 0.0
        right = w * second[1][i, i, 0, c] if w > 0.0 and by == BOTH else 0.0
        for j in range(weights.shape[0]):
            w = weights[j, c]
            if not w > 0.0:
                continue
            x, y = first[0][j, i, 0, c], second[0][j, i, 0, c]
            if by == BOTH:
                left += w * x * x
                right += w * y * y
            elif by == REAL:
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
        total += min(left, right) if by == BOTH else left
    return total * _MARGIN
