r"""First passage in a stretch with a constant map, under noise that rises with the parameter.

The second moments split in two: what constant noise has left since the stretch began, with what feeds on it, which
never falls; and what is left of the state then, which is at least what the map of the means leaves of it. So as for
constant noise, intervals are jumped over where a bound from their two ends exceeds the target.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic.linear.lifted import cells_of, gathered, product
from mcnqm.analytic.linear.passage_bounds import Goal, lower_bound, motion_of, roots_of
from mcnqm.analytic.linear.scheduled import COUNTING, Piece, Walk, stretch_map

__all__ = ["rising_passage"]

Array = NDArray[np.float64]


def rising_passage(walk: Walk, piece: Piece, target: float) -> float:
    """First passage after the start of a piece and up to its end, inf if none."""
    setting, problem = walk.setting, walk.problem
    step, into, _ = stretch_map(walk, piece)
    n, size = step.matrix.shape[0], problem.size
    vector, noise = into(walk.state)
    powers, means = [walk.lifted(step)], [step.matrix]
    # Columns: what is left of the state at the start of the piece, and what constant noise leaves.
    state = np.zeros((n * (n + 1) // 2 + 1, 2, 2, size))
    state[:, 0] = gathered(noise, vector, problem.initial_second_moment)
    state[-1, 0] = 0.0
    state[-1, 1, 0] = 1.0
    cells = cells_of(n)
    readout = n - 1 if setting.averaged else 0
    row = cells.index((readout, readout))
    half = 0.5 * problem.multiplicity * problem.curvature
    # What nothing drives stays at zero, even where its map overflows.
    weight = np.where((problem.initial_second_moment > 0) | (problem.noise > 0), half, 0.0)
    motion = motion_of(walk, piece, step)
    counted = setting.counted(piece.start) if piece.form == COUNTING else -1
    last = piece.stop - piece.start
    goal = Goal(target, last, float(setting.table(piece.start, piece.start + 1)[2, 0]), counted)
    weights = np.repeat(weight[np.newaxis], n, axis=0)

    def left(now: Array) -> Array:
        """Columns (n, n, 2, size) whose outer products are what is left of the start."""
        whole = np.empty((n, n, size))
        for at, (i, j) in enumerate(cells):
            whole[i, j] = whole[j, i] = now[at, 0, 0]
        out = np.zeros((n, n, 2, size))
        out[:, :, 0] = roots_of(whole)
        return out

    def grown(now: Array) -> Array:
        out = np.zeros((n, n, 2, size))
        out[readout, readout, 0] = now[row, 1, 0]
        return out

    def total(part: Array) -> float:
        with np.errstate(all="ignore"):
            return float(np.sum(weight * part, where=weight > 0))

    at, j, end, known = 0, 0, last + 1, False
    while at + 1 < end:
        # Here the risk is known to exceed the target at every step up to `at`.
        while at + (1 << j) >= end:
            j -= 1
        while len(powers) <= j:
            powers.append(product(powers[-1], powers[-1]))
            means.append(product(means[-1], means[-1]))
        ahead = product(powers[j], state)
        count = 1.0 if counted < 0 else float(counted + at + (1 << j))
        fresh = total(ahead[row, 1, 0])
        risk = (total(ahead[row, 0, 0]) + fresh) / (count * count)
        bound = -np.inf
        if j > 0 and not risk <= target:
            x = left(state)
            # One state alone moves towards its limit from one side, so that its ends bound it.
            y = left(ahead) if n == 1 else np.stack([product(means[j], column[:, np.newaxis])[:, 0] for column in x])
            span = (at, at + (1 << j))
            with np.errstate(all="ignore"):
                bound = lower_bound(motion, weights, readout, goal, span, (x, grown(state)), (y, grown(ahead)))
        if risk <= target:
            end, known = at + (1 << j), True
            j = max(j - 1, 0)
        elif j == 0 or bound > target:
            at += 1 << j
            state = ahead
            # What constant noise leaves never falls, except in a plain mean; what overflowed does not come back.
            if not known and (not np.isfinite(risk) or (counted < 0 and fresh > target)):
                return np.inf
            j += 1
        else:
            j -= 1
    return float(piece.start + end) if known else np.inf
