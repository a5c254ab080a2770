"""Schedules of adaptive optimizers: optimised on the mean-field twin, refined and confirmed by simulation.

The twin's risk has an exact gradient (`mcnqm.scheduling.adjoint`), so many pieces cost little more than one. What
the twin leaves out is then put right on the simulated risk, by a search in three directions (level, tilt and bend of
the log rate) on common random numbers, which make that risk a deterministic function of the schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import optimize

from mcnqm import analytic
from mcnqm.analytic.twins.quadrature import size_of_normal
from mcnqm.engine import Pool
from mcnqm.optimizers import Adam
from mcnqm.problems import NoisyQuadratic
from mcnqm.schedules import Schedule, cosine, exponential, piecewise
from mcnqm.scheduling.adjoint import final_risk_and_gradient
from mcnqm.scheduling.descent import descend
from mcnqm.simulation import simulate

__all__ = [
    "FAMILIES",
    "AdaptiveSearch",
    "Confirmed",
    "Solution",
    "TwinObjective",
    "confirm",
    "equal_pieces",
    "labelled",
    "optimise_constant",
    "optimise_family",
    "optimise_pieces",
    "refine",
    "search_adaptive",
    "shortest",
]

Array = NDArray[np.float64]
Lengths = NDArray[np.int64]

_RANGE = 32.0
"""How far below the highest the lowest log rate lies."""

_WIDER = 8
"""How often the search for a constant rate may move on, each time by a factor exp(3)."""

_EVALUATIONS = 120
"""Most gradients of one optimisation."""

_NODES = {1000: 4, 100: 16, 0: 64}
"""Nodes of the starting point's law in runs of at least so many steps: in short ones noise has had little time to
smooth the risk, and a schedule would be fitted to the nodes."""

_PLENTY = 500
"""Runs of fewer steps get more trajectories, or the search would be fitted to those it sees."""

_SHORT = 1000
"""Up to so many steps the horizon is sought by simulation itself."""

_BLOCKS, _SMALL = 4, 50_000
"""Blocks of coordinates that are worked on side by side, and how many coordinates times steps make it worth while."""

FAMILIES: dict[str, Callable[[float, int, float], Schedule]] = {"exponential": exponential, "cosine": cosine}
"""Two-parameter families: start rate and final fraction."""


@dataclass(frozen=True)
class TwinObjective:
    """Risk of the twin after some steps, as a function of the rates.

    Attributes
    ----------
    problem : NoisyQuadratic
        Bins instead of a full spectrum save time.
    optimizer : Adam or RMSProp
        Its rate is not used.
    batch_size : float
    threads : int, optional
        Default: one per core.
    """

    problem: NoisyQuadratic
    optimizer: Any
    batch_size: float
    threads: int | None = None
    _starts: dict[int, tuple[Array, Array]] = field(default_factory=dict, repr=False)

    def at(self, rates: Array, gradient: Array | None = None) -> float:
        """Risk under the rates of every step; derivatives by them are added to `gradient`."""
        steps, problem = rates.size, self.problem
        rule, clock = self._rule, self._clock(steps)
        place, weight = self._start(next(nodes for least, nodes in _NODES.items() if steps >= least))
        variance, spread = problem.noise / self.batch_size, np.ones(steps)
        # Always the same blocks, added up in the same order: the threads do not decide the bits.
        blocks = [slice(k, problem.size, _BLOCKS) for k in range(min(_BLOCKS, problem.size))]
        parts = [np.zeros(0 if gradient is None else steps) for _ in blocks]
        tasks = (
            (problem.curvature[b], variance[b], spread, weight[b], place[b], rates, clock, rule, part)
            for b, part in zip(blocks, parts, strict=True)
        )
        if steps * problem.size < _SMALL:
            risk = sum(final_risk_and_gradient(*task) for task in tasks)
        else:
            risk = sum(Pool(None, self.threads).map(final_risk_and_gradient, tasks))
        if gradient is not None:
            for part in parts:
                gradient += part
        return float(risk)

    @cached_property
    def highest(self) -> float:
        """Upper bound of the log rate: steps of twice the size of the start.

        There is no bound of stability, since v grows with the gradient and holds the step back. A step is at most about
        α, or α h |θ| / ε where ε is large.
        """
        problem = self.problem
        reach = np.abs(problem.initial_mean) + 4.0 * problem.initial_std
        return float(np.log(2.0 * max((reach + self.optimizer.eps / problem.curvature).max(), 1e-300)))

    @property
    def lowest(self) -> float:
        """Lower bound of the log rate: such a piece does nothing."""
        return self.highest - _RANGE

    @cached_property
    def _rule(self) -> Array:
        one = self.optimizer
        if isinstance(one, Adam):
            return np.array([one.beta1, one.beta2, one.eps, one.weight_decay], dtype=np.float64)
        return np.array([0.0, one.alpha, one.eps, 0.0], dtype=np.float64)

    def _clock(self, steps: int) -> Array:
        if not (isinstance(self.optimizer, Adam) and self.optimizer.bias_correction):
            return np.ones((2, steps))
        return 1.0 - self._rule[:2, np.newaxis] ** np.arange(1, steps + 1)

    def _start(self, nodes: int) -> tuple[Array, Array]:
        if nodes not in self._starts:
            problem = self.problem
            place, share = size_of_normal(problem.initial_mean, problem.initial_std, nodes)
            weight = (0.5 * problem.multiplicity * problem.curvature)[:, np.newaxis] * share
            self._starts[nodes] = place, weight
        return self._starts[nodes]

    def of_pieces(self, log_rates: Array, lengths: Lengths) -> tuple[float, Array]:
        """Log of the risk, and its gradient with respect to the log rate of every piece."""
        rates = np.repeat(np.exp(log_rates), lengths)
        gradient = np.zeros(rates.size)
        risk = self.at(rates, gradient)
        if not np.isfinite(risk) or risk <= 0.0:
            return 1e3, np.zeros(log_rates.size)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return float(np.log(risk)), np.add.reduceat(gradient * rates, starts) / risk


def equal_pieces(steps: int, pieces: int) -> Lengths:
    """Lengths of at most `pieces` nearly equal pieces."""
    ends = np.unique(np.round(np.linspace(0, steps, min(pieces, steps) + 1)).astype(np.int64))
    return np.diff(ends)


def optimise_pieces(objective: TwinObjective, lengths: Lengths, start: Array) -> tuple[Array, float]:
    """Best log rates of given pieces from a start, and the risk."""
    low, high = np.full(lengths.size, objective.lowest), np.full(lengths.size, objective.highest)
    log_rates, value = descend(
        lambda x: objective.of_pieces(x, lengths),
        np.clip(start, low, high),
        low,
        high,
        tolerance=1e-7,
        most=_EVALUATIONS,
    )
    return log_rates, float(np.exp(value))


def optimise_constant(objective: TwinObjective, steps: int, guess: float) -> tuple[float, float]:
    """Best constant log rate, and the risk."""
    centre = float(np.clip(np.log(guess), objective.lowest + 3.0, objective.highest - 3.0))
    for _ in range(_WIDER):
        grid = centre + np.arange(-3.0, 3.01, 0.5)
        risks = [objective.at(np.full(steps, np.exp(x))) for x in grid]
        best = int(np.nanargmin(np.where(np.isfinite(risks), risks, np.inf)))
        at_top = best == grid.size - 1 and grid[-1] < objective.highest
        if not at_top and not (best == 0 and grid[0] > objective.lowest):
            break
        centre = float(grid[best])
    found = optimize.minimize_scalar(
        lambda x: objective.at(np.full(steps, np.exp(x))),
        bounds=(grid[best] - 0.5, min(grid[best] + 0.5, max(objective.highest, grid[best]))),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(found.x), float(found.fun)


def optimise_family(objective: TwinObjective, name: str, steps: int, log_rate: float) -> tuple[Schedule, float]:
    """Best member of a family, and the risk."""
    make, t = FAMILIES[name], np.arange(steps)

    def member(x: Array) -> Schedule:
        return make(
            float(np.exp(np.clip(x[0], objective.lowest, objective.highest))), steps, float(np.exp(min(x[1], 0.0)))
        )

    found = optimize.minimize(  # type: ignore[call-overload]  # SciPy's stubs want an option's own type
        lambda x: objective.at(member(x)(t)),
        np.array([log_rate + 0.7, -2.0]),
        method="Nelder-Mead",
        options={
            "initial_simplex": np.array([[log_rate + 0.3, -1.0], [log_rate + 1.3, -1.0], [log_rate + 0.7, -3.0]]),
            "xatol": 0.01,
            "fatol": 1e-12,
            "maxfev": 120,
        },
    )
    return member(found.x), float(found.fun)


@dataclass(frozen=True)
class Confirmed:
    """A simulated risk at the end of a run, with its standard error."""

    risk: float
    stderr: float


def confirm(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: float,
    schedule: Schedule,
    steps: int,
    *,
    trajectories: int,
    seed: int,
    executor: Executor | None = None,
    threads: int | None = None,
) -> Confirmed:
    """Risk under a schedule, by simulation."""
    runs = simulate(
        problem,
        optimizer._replace(lr=schedule),
        batch_size,
        steps,
        trajectories=trajectories,
        seed=seed,
        record=[steps],
        executor=executor,
        threads=threads,
    )
    return Confirmed(float(runs["risk"][0]), float(runs["risk_stderr"][0]))


def refine(
    objective: Callable[[Schedule], float], log_rates: Array, lengths: Lengths, *, evaluations: int = 40
) -> tuple[Array, float]:
    """Level, tilt and bend of the log rates that minimise a (simulated) risk, and that risk.

    Nelder and Mead's search, started at the schedule itself, which is what it returns if nothing is better.
    """
    middle = (np.cumsum(lengths) - 0.5 * lengths) / lengths.sum()
    shapes = np.stack([np.ones_like(middle), 2.0 * middle - 1.0, 6.0 * middle * (middle - 1.0) + 1.0])

    def at(x: Array) -> float:
        return objective(piecewise(np.exp(log_rates + x @ shapes), lengths))

    simplex = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]])
    found = optimize.minimize(
        at,
        np.zeros(3),
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": evaluations, "xatol": 0.005, "fatol": 0.0},
    )
    return log_rates + found.x @ shapes, float(found.fun)


_BEYOND = 64
"""Baselines that need so many times the steps are given up."""

_RESOLVED = 1e-3
"""Relative resolution of a horizon."""

T = TypeVar("T")


def shortest(
    solve: Callable[[int, T | None], tuple[T, float]], target: float, guess: int, limit: int
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
        if below is not None and below[0] - above <= max(1.0, _RESOLVED * below[0]):
            return below
        # The least risk falls about like 1 / steps.
        steps = int(np.ceil(steps * np.exp(np.clip(off, -1.5, 1.5) + (1e-3 if off > 0 else -1e-3))))
        low, high = above, None if below is None else below[0]
        if high is not None and not low < steps < high:
            steps = (low + high) // 2
        elif high is None and steps <= low:
            steps = low + 1
        steps = min(steps, limit)


# ------------------------------------------------------------------------------------------------------- all of it


class Solution(NamedTuple):
    """A schedule of pieces.

    Attributes
    ----------
    log_rates : ndarray, shape (pieces,)
    lengths : ndarray of int, shape (pieces,)
    """

    log_rates: Array
    lengths: Lengths

    @property
    def steps(self) -> int:
        """Of all pieces."""
        return int(self.lengths.sum())

    @property
    def schedule(self) -> Schedule:
        """As the learning rate of an optimizer."""
        return piecewise(np.exp(self.log_rates), self.lengths)

    def onto(self, lengths: Lengths) -> Array:
        """Log rates of other pieces, which follow the same course."""
        middles = [(np.cumsum(n) - 0.5 * n) / n.sum() for n in (lengths, self.lengths)]
        return np.asarray(np.interp(middles[0], middles[1], self.log_rates))


class AdaptiveSearch(NamedTuple):
    """What is known after the search at one batch size.

    Attributes
    ----------
    solution : Solution
    twin_risk : float
        Of the twin, under the schedule that is best for it.
    unrefined, confirmed : Confirmed
        Simulated risk under that schedule, and under the refined one, on trajectories that the search has not seen.
    baseline_risk, baseline_steps : dict of str to float
        Of the twin, after as many steps; and how many it needs to the target.
    """

    solution: Solution
    twin_risk: float
    unrefined: Confirmed
    confirmed: Confirmed
    baseline_risk: dict[str, float]
    baseline_steps: dict[str, float]


def search_adaptive(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: float,
    *,
    steps: int | None = None,
    target: float | None = None,
    pieces: int = 50,
    bins: int = 100,
    refined: bool = True,
    trajectories: int = 16,
    seed: int = 0,
    max_steps: int = 2**22,
    baselines: bool = True,
    executor: Executor | None = None,
    threads: int | None = None,
) -> AdaptiveSearch | None:
    """The best schedule of an adaptive optimizer at one batch size, at a horizon or to a target.

    With a target the horizon is the shortest at which the simulated risk is there: that of the search's trajectories
    in short runs, of the twin, put right by a look at it, in long ones. None if that is beyond `max_steps`.
    """
    small = problem.binned(bins) if problem.size > bins else problem
    objective = TwinObjective(small, optimizer, batch_size, threads)
    guess = 1e-3 * np.sqrt(batch_size)  # the rule for d = 1000, within a factor exp(3) of the best

    known: dict[int, float] = {}

    def solve(length: int, near: Solution | None) -> tuple[Solution, float]:
        lengths = equal_pieces(length, pieces)
        found = []
        if near is not None:
            found.append(optimise_pieces(objective, lengths, near.onto(lengths)))
        # Few steps have several basins; a warm start that does not keep up with 1 / steps is in a wrong one.
        due = min((risk * before / length for before, risk in known.items()), default=0.0)
        if near is None or found[0][1] > 1.02 * due or length < _SHORT:
            log_rate, _ = optimise_constant(objective, length, guess)
            falling = log_rate + 1.0 - 2.5 * (np.cumsum(lengths) - lengths) / length
            found += [optimise_pieces(objective, lengths, x) for x in (np.full(lengths.size, log_rate), falling)]
        solutions = [Solution(log_rates, lengths) for log_rates, _ in found]
        if length < _SHORT:
            # Theory's favourite may owe something to its nodes.
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
            refine(lambda schedule: simulated(one, schedule, seen=True).risk, one.log_rates, one.lengths)[0],
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
    return AdaptiveSearch(
        best,
        risk,
        simulated(plain, plain.schedule, seen=False),
        simulated(best, best.schedule, seen=False),
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
    log_rate, risk = optimise_constant(objective, steps, guess)
    risks = {"constant": risk, **{name: optimise_family(objective, name, steps, log_rate)[1] for name in FAMILIES}}
    if target is None:
        return risks, dict.fromkeys(risks, np.nan)

    def constant(length: int, _: float | None) -> tuple[float, float]:
        return optimise_constant(objective, length, guess)

    def family(name: str, length: int, _: float | None) -> tuple[float, float]:
        return 0.0, optimise_family(objective, name, length, optimise_constant(objective, length, guess)[0])[1]

    most = min(limit, _BEYOND * steps)
    needed = {"constant": _first(shortest(constant, target, 2 * steps, most))}
    for name in FAMILIES:
        needed[name] = _first(shortest(partial(family, name), target, steps, most))
    return risks, needed


def _first(found: tuple[int, Any] | None) -> float:
    return np.inf if found is None else float(found[0])


_NOTHING = AdaptiveSearch(
    Solution(np.empty(0), np.empty(0, dtype=np.int64)),
    *(np.nan, Confirmed(np.nan, np.nan), Confirmed(np.nan, np.nan)),
    *({}, {}),
)


def labelled(found: list[AdaptiveSearch | None], batch: xr.DataArray, target: float | None) -> xr.Dataset:
    """What was found at each batch size, as `mcnqm.optimize_schedule` answers; None: no horizon was found."""
    names = next((list(one.baseline_risk) for one in found if one is not None), [])
    missing = dict.fromkeys(names, np.nan)
    searches = [_NOTHING._replace(baseline_risk=missing, baseline_steps=missing) if s is None else s for s in found]
    most = max(1, *(one.solution.lengths.size for one in searches))
    dims = tuple(str(dim) for dim in batch.dims)
    each, along = (*dims, "piece"), (*dims, "baseline")

    def pieces(values: list[Array], fill: float) -> Array:
        rows = [np.concatenate([v, np.full(most - v.size, fill)]) for v in values]
        return np.array(rows).reshape(*batch.shape, most)

    def scalars(values: list[float]) -> Array:
        return np.array(values, dtype=np.float64).reshape(batch.shape)

    lengths = [one.solution.lengths.astype(np.float64) for one in searches]
    loss = {"units": "loss"}
    data: dict[str, Any] = {
        "lr": (each, pieces([np.exp(one.solution.log_rates) for one in searches], np.nan), {"units": "parameter/step"}),
        "length": (each, pieces(lengths, 0.0).astype(np.int64), {"units": "steps"}),
        "start": (
            each,
            pieces([np.cumsum(n) - n for n in lengths], np.nan),
            {"units": "steps", "long_name": "steps done before"},
        ),
        "risk": (dims, scalars([one.confirmed.risk for one in searches]), loss),
        "risk_stderr": (dims, scalars([one.confirmed.stderr for one in searches]), loss),
        "unrefined_risk": (dims, scalars([one.unrefined.risk for one in searches]), loss),
        "unrefined_risk_stderr": (dims, scalars([one.unrefined.stderr for one in searches]), loss),
        "twin_risk": (dims, scalars([one.twin_risk for one in searches]), loss),
        "steps": (dims, scalars([float(one.solution.steps) or np.inf for one in searches]), {"units": "steps"}),
    }
    coords = {str(name): value for name, value in batch.coords.items()}
    if not dims:
        coords["batch_size"] = batch
    if not names:
        return xr.Dataset(data, coords=coords)
    shape = (*batch.shape, len(names))
    risks = np.array([list(one.baseline_risk.values()) for one in searches]).reshape(shape)
    gain = risks / data["twin_risk"][1][..., np.newaxis]
    data["baseline_risk"] = (along, risks, {"units": "loss", "long_name": "of the twin, after as many steps"})
    if target is not None:
        needed = np.array([list(one.baseline_steps.values()) for one in searches]).reshape(shape)
        gain = needed / data["steps"][1][..., np.newaxis]
        data["baseline_steps"] = (along, needed, {"units": "steps", "long_name": "fewest steps of the twin"})
    data["gain"] = (along, gain, {"units": "1", "long_name": "the baseline's steps (or the twin's risk) over ours"})
    return xr.Dataset(data, coords={**coords, "baseline": names})
