"""Schedules of adaptive optimizers: optimized on the mean-field twin, refined and confirmed by simulation.

The twin's risk has an exact gradient (`mcnqm.scheduling.adjoint`), so many pieces cost little more than one. What
the twin leaves out is then put right on the simulated risk, by a search in three directions (level, tilt and bend of
the log rate) on common random numbers, which make that risk a deterministic function of the schedule.
"""

from __future__ import annotations

from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.problems import NoisyQuadratic
from mcnqm.schedules import Schedule
from mcnqm.scheduling.horizon import shortest
from mcnqm.scheduling.labels import Best
from mcnqm.scheduling.pieces import Solution, equal_pieces, log_cap
from mcnqm.scheduling.refinement import Confirmed, confirm, refine
from mcnqm.scheduling.twin import FAMILIES, TwinObjective, optimize_constant, optimize_family, optimize_pieces

__all__ = ["search_adaptive"]

Array = NDArray[np.float64]

_PLENTY = 500
"""Runs of fewer steps get more trajectories, or the search would be fitted to those it sees."""

_SHORT = 1000
"""Up to so many steps the horizon is sought by simulation itself."""

_BEYOND = 64
"""Baselines that need so many times the steps are given up."""


def search_adaptive(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: float,
    *,
    steps: int | None = None,
    target: float | None = None,
    pieces: int = 50,
    largest_lr: float = np.inf,
    bins: int = 100,
    refined: bool = True,
    trajectories: int = 16,
    seed: int = 0,
    max_steps: int = 2**22,
    baselines: bool = True,
    executor: Executor | None = None,
    threads: int | None = None,
) -> Best | None:
    """The best schedule of an adaptive optimizer at one batch size, at a horizon or to a target.

    With a target the horizon is the shortest at which the simulated risk is there: that of the search's trajectories
    in short runs, of the twin, put right by a look at it, in long ones. None if that is beyond `max_steps`.
    """
    small = problem.binned(bins) if problem.size > bins else problem
    cap = log_cap(largest_lr)
    objective = TwinObjective(small, optimizer, batch_size, threads, cap)
    guess = 1e-3 * np.sqrt(batch_size)  # the rule for d = 1000, within a factor exp(3) of the best

    known: dict[int, float] = {}

    def solve(length: int, near: Solution | None) -> tuple[Solution, float]:
        lengths = equal_pieces(length, pieces)
        found = []
        if near is not None:
            found.append(optimize_pieces(objective, lengths, near.onto(lengths)))
        # Few steps have several basins; a warm start that does not keep up with 1 / steps is in a wrong one.
        due = min((risk * before / length for before, risk in known.items()), default=0.0)
        if near is None or found[0][1] > 1.02 * due or length < _SHORT:
            log_rate, _ = optimize_constant(objective, length, guess)
            falling = log_rate + 1.0 - 2.5 * (np.cumsum(lengths) - lengths) / length
            found += [optimize_pieces(objective, lengths, x) for x in (np.full(lengths.size, log_rate), falling)]
        solutions = [Solution(log_rates, lengths) for log_rates, _ in found]
        if length < _SHORT:
            # Theory's favorite may owe something to its nodes.
            seen = [simulated(one, one.schedule, seen=True).risk for one in solutions]
            return solutions[int(np.argmin(seen))], min(seen)
        best = int(np.argmin([risk for _, risk in found]))
        known[length] = found[best][1]
        return solutions[best], found[best][1]

    def simulated(one: Solution, schedule: Schedule, *, seen: bool) -> Confirmed:
        """On the trajectories of the search, or on four times as many others; on more of them if they are short."""
        count = trajectories * int(np.clip(_PLENTY / one.steps, 1, 16))
        return confirm(
            *(problem, optimizer, batch_size, schedule, one.steps),
            trajectories=count if seen else 4 * count,
            seed=seed if seen else seed + 1,
            executor=executor,
            threads=threads,
        )

    def improve(one: Solution) -> Solution:
        if not refined:
            return one
        return Solution(
            refine(lambda schedule: simulated(one, schedule, seen=True).risk, one.log_rates, one.lengths, cap=cap)[0],
            one.lengths,
        )

    def solve_seen(length: int, near: tuple[Solution, Solution] | None) -> tuple[tuple[Solution, Solution], float]:
        plain, _ = solve(length, None if near is None else near[0])
        improved = improve(plain)
        return (plain, improved), simulated(improved, improved.schedule, seen=True).risk

    if target is None:
        assert steps is not None, "one of both is given"
        plain, _ = solve(steps, None)
        best = improve(plain)
    else:
        found = shortest(solve, target, min(_first_guess(problem, batch_size, target), max_steps), max_steps)
        if found is None:
            return None
        horizon, plain = found
        if horizon < _SHORT:
            found_seen = shortest(solve_seen, target, horizon, max_steps)
            if found_seen is None:
                return None
            horizon, (plain, best) = found_seen
            # Few steps have many basins, and a horizon may have been given up for a poor one: down, as long as it goes.
            for length in range(horizon - 1, 0, -1):
                pair, risk = solve_seen(length, (plain, best))
                if risk > target:
                    break
                plain, best = pair
        else:
            # The least risk falls about like 1 / steps: one correction is enough.
            seen = simulated(plain, plain.schedule, seen=True)
            off = seen.risk / target
            if off > 1.0 or off < 1.0 - 2.0 * seen.stderr / target:
                again = shortest(solve, target / off, horizon, max_steps)
                if again is None:
                    return None
                _, plain = again
            best = improve(plain)
    risk = objective.at(np.repeat(np.exp(plain.log_rates), plain.lengths))
    baseline_risk: dict[str, float] = {}
    baseline_steps: dict[str, float] = {}
    if baselines:
        baseline_risk, baseline_steps = _baselines(objective, best.steps, target, guess, max_steps)
    unrefined, confirmed = (simulated(one, one.schedule, seen=False) for one in (plain, best))
    return Best(
        best.lengths,
        {"lr": np.exp(best.log_rates)},
        {
            "risk": confirmed.risk,
            "risk_stderr": confirmed.stderr,
            "unrefined_risk": unrefined.risk,
            "unrefined_risk_stderr": unrefined.stderr,
            "twin_risk": risk,
        },
        baseline_risk,
        baseline_steps,
    )


def _first_guess(problem: NoisyQuadratic, batch_size: float, target: float) -> int:
    """Steps that the Bayes bound asks for, and then some."""
    examples = 1.0
    while float(analytic.bayes_bound(problem, examples)["risk"]) > target and examples < 2.0**60:
        examples *= 2.0
    return int(np.ceil(examples / batch_size)) + 30


def _baselines(
    objective: TwinObjective, steps: int, target: float | None, guess: float, limit: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Constant rate and decaying families: risk after `steps`, and steps to the target."""
    log_rate, risk = optimize_constant(objective, steps, guess)
    risks = {"constant": risk, **{name: optimize_family(objective, name, steps, log_rate)[1] for name in FAMILIES}}
    if target is None:
        return risks, dict.fromkeys(risks, np.nan)

    def constant(length: int, _: float | None) -> tuple[float, float]:
        return optimize_constant(objective, length, guess)

    def family(name: str, length: int, _: float | None) -> tuple[float, float]:
        return 0.0, optimize_family(objective, name, length, optimize_constant(objective, length, guess)[0])[1]

    most = min(limit, _BEYOND * steps)
    needed = {"constant": _first(shortest(constant, target, 2 * steps, most))}
    for name in FAMILIES:
        needed[name] = _first(shortest(partial(family, name), target, steps, most))
    return risks, needed


def _first(found: tuple[int, Any] | None) -> float:
    return np.inf if found is None else float(found[0])
