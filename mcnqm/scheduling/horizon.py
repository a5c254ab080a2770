"""The fewest steps after which the best schedule reaches a target: two searches over the length of a run.

`fewest_steps` is for exact risks, to one step; `shortest` is for risks of the mean field and of simulation, to a
thousandth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

__all__ = ["fewest_steps", "shortest"]

T = TypeVar("T")

_RESOLVED = 1e-3
"""Relative resolution of a horizon."""


def fewest_steps(
    evaluate: Callable[[int, T | None], tuple[float, T]], guess: float, state: T | None, limit: int
) -> tuple[int, float, T] | None:
    """Least number of steps with a gap <= 0, that gap and the schedule: a secant in the logarithm of the steps.

    ``evaluate(steps, nearby)`` is the log of the risk over the target, and the schedule; it falls with the steps. None
    if it is not reached at `limit`. The answer is between a step that was found above, and itself.
    """
    low, high = 0, 0
    answer: tuple[int, float, T] | None = None
    t, slope, before = int(np.clip(guess, 1, limit)), -1.0, None
    for count in range(400):
        gap, state = evaluate(t, state)
        if gap <= 0.0:
            high, answer = t, (t, gap, state)
        else:
            low = t
        if (answer is not None and high - low <= 1) or (answer is None and low >= limit):
            break
        if before is not None and before[0] != t and np.isfinite(gap - before[1]):
            # Rounded lengths make it jitter from one step to the next.
            slope = float(np.clip((gap - before[1]) / np.log(t / before[0]), -200.0, -0.05))
        before = (t, gap)
        move = float(np.clip(-gap / slope, -2.0, 2.0)) if np.isfinite(gap) else 2.0
        t = int(np.ceil(min(t * np.exp(move), 2.0 * limit)))
        t = max(t, low + 1)
        t = min(t, limit if answer is None else high - 1)
        if answer is not None and count > 30:
            t = (low + high) // 2
    return answer


def shortest(
    solve: Callable[[int, T | None], tuple[T, float]],
    target: float,
    guess: int,
    limit: int,
    *,
    resolved: float = _RESOLVED,
) -> tuple[int, T] | None:
    """Fewest steps after which the least risk is at or below `target`, to one step or a thousandth, and the solution.

    None if it is not reached within the limit.

    Parameters
    ----------
    solve : callable
        ``solve(steps, nearby) -> (solution, risk)``: the best at that many steps, from a nearby horizon's solution. The
        risk does not rise with the steps: a rate may be next to nothing.
    target : float
    guess : int
        Steps to begin with.
    limit : int
        Most steps.
    resolved : float
        Relative resolution, where it is not that of a single step.
    """
    steps, solution, above, below = min(max(guess, 1), limit), None, 0, None
    while True:
        solution, risk = solve(steps, solution)
        off = float(np.log(risk / target)) if np.isfinite(risk) and risk > 0.0 else 1.0
        if off <= 0.0:
            below = (steps, solution)
        elif steps >= limit:
            return None
        else:
            above = steps
        if below is not None and below[0] - above <= max(1.0, resolved * below[0]):
            return below
        # The least risk falls about like 1 / steps.
        steps = int(np.ceil(steps * np.exp(np.clip(off, -1.5, 1.5) + (1e-3 if off > 0 else -1e-3))))
        low, high = above, None if below is None else below[0]
        if high is not None and not low < steps < high:
            steps = (low + high) // 2
        elif high is None and steps <= low:
            steps = low + 1
        steps = min(steps, limit)
