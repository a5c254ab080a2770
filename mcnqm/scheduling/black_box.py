"""Schedules of whatever can be simulated: a search that sees nothing but simulated risks.

All candidates run on the same noise (common random numbers), which makes the simulated risk a deterministic function of
the schedule; and a generation of candidates is one sweep of `mcnqm.simulate`, which draws that noise once. The log rate
of the pieces is interpolated between a few knots, since every number to be searched for costs runs. Differential
evolution (SciPy's) finds the basin, and L-BFGS with differences of a whole sweep its bottom. What is reported is
simulated on other noise: that of the search flatters its winner.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import optimize

from mcnqm.problems import Problem
from mcnqm.schedules import Schedule, constant, cosine, exponential, piecewise, stack
from mcnqm.scheduling.descent import descend
from mcnqm.scheduling.horizon import shortest
from mcnqm.scheduling.labels import Best
from mcnqm.scheduling.pieces import Layout, Lengths, Solution, log_cap
from mcnqm.simulation import simulate

__all__ = ["KNOTS", "knots_to_pieces", "search_by_simulation"]

Array = NDArray[np.float64]

KNOTS = 6
"""Most numbers to search for: fewer pieces are free, more are interpolated. See docs/schedules.md."""

_PLENTY = 500
"""Runs of fewer steps get more trajectories, up to 16 times as many: the search is fitted to those it sees."""

_COARSE = np.log(10.0) / 5.0
_WIDER = 8
"""The first grid of constant rates has five a decade, over eight decades, and is moved on so many times."""

_BELOW, _ABOVE = 12.0, 6.0
"""How far the log rate of a piece may be from that of the best constant."""

_GENERATIONS, _POPULATION = 20, 4
"""Of differential evolution: generations at most, and candidates per knot."""

_APART, _GRADIENTS, _GAIN = 0.1, 30, 1e-3
"""Of the descent: distance of differences in the log rate, sweeps at most, and gain in the log risk that ends it."""

_LEAST_FINAL = -9.0
"""Log of the least final fraction of an exponential or a cosine."""

_FIRST, _BEYOND, _RESOLVED = 100, 16, 0.01
"""Of horizons: the first that is tried, how many times as long baselines may take, and the relative resolution."""

_FAMILIES: dict[str, Callable[[float, int, float], Schedule]] = {"exponential": exponential, "cosine": cosine}


def knots_to_pieces(pieces: int) -> Array:
    """Weights of the knots in the log rate of each piece, shape (pieces, knots).

    Examples
    --------
    >>> knots_to_pieces(3)
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]])
    >>> knots_to_pieces(11)[:3, :3]
    array([[1. , 0. , 0. ],
           [0.5, 0.5, 0. ],
           [0. , 1. , 0. ]])
    """
    knots = min(pieces, KNOTS)
    places = np.linspace(0, pieces - 1, knots)
    return np.stack([np.interp(np.arange(pieces), places, row) for row in np.eye(knots)], axis=1)


@dataclass(frozen=True)
class _Runs:
    """Simulations of an optimizer under many schedules of its rate.

    Attributes
    ----------
    trajectories : int
        Of the search, in runs that are not short.
    highest : float
        Log of the largest rate.
    """

    problem: Problem
    optimizer: Any
    batch_size: float
    steps: int
    trajectories: int
    seed: int
    executor: Executor | None
    threads: int | None
    highest: float

    @property
    def awful(self) -> float:
        """Log risk in place of a larger one, or of none."""
        return float(np.log(max(self.problem.initial_risk, self.problem.loss_scale, 1e-200))) + 20.0

    def run(self, candidates: list[Schedule], *, fresh: bool = False, last: int = 1) -> xr.Dataset:
        """All in one sweep, at the last steps: on the noise of the search, or on four times as many other paths."""
        count = self.trajectories * int(np.clip(_PLENTY / self.steps, 1, 16))
        return simulate(
            self.problem,
            self.optimizer._replace(lr=stack(dict(enumerate(candidates)), dim="candidate")),
            self.batch_size,
            self.steps,
            trajectories=(4 if fresh else 1) * count,
            seed=self.seed + int(fresh),
            record=np.arange(max(self.steps - last, 0), self.steps) + 1,
            executor=self.executor,
            threads=self.threads,
        )

    def log_risks(self, candidates: list[Schedule], *, last: int = 1) -> Array:
        """Logarithms of the risks, none above `awful`; the largest of the last steps."""
        risk = self.run(candidates, last=last)["risk"].values.max(axis=1)
        # An estimate with a control variate can be negative where the twin has nothing to do with the loss.
        good = np.isfinite(risk) & (risk >= 0.0)
        return np.where(good, np.minimum(np.log(np.where(good, risk, 1.0) + 1e-300), self.awful), self.awful)

    def confirmed(self, schedule: Schedule) -> float:
        """Risk on fresh noise."""
        return float(self.run([schedule], fresh=True)["risk"].values[0, 0])


class _Found(NamedTuple):
    """The best schedule of pieces, and the best of simpler ones."""

    best: Solution
    simpler: dict[str, Schedule]


def search_by_simulation(
    problem: Problem,
    optimizer: Any,
    batch_size: float,
    layout: Layout,
    *,
    steps: int | None = None,
    target: float | None = None,
    max_steps: int = 2**16,
    largest_lr: float = np.inf,
    trajectories: int = 16,
    seed: int = 0,
    baselines: bool = True,
    executor: Executor | None = None,
    threads: int | None = None,
) -> Best | None:
    """The best rates of pieces at one batch size, at a horizon or to a target; None if that is beyond `max_steps`.

    On the noise of the search they are not worse than the best constant rate, nor than the best exponential or cosine
    whose log rates are interpolated between the knots. Risks of the answer are of other noise, and so is the risk that
    decides on a horizon.
    """
    runs = _Runs(
        *(problem, optimizer, batch_size, 1, trajectories, seed, executor, threads),
        highest=log_cap(largest_lr),
    )

    def solve(length: int, near: _Found | None) -> tuple[_Found, float]:
        here = replace(runs, steps=length)
        found = _solve(here, layout.of(length), near)
        return found, here.confirmed(found.best.schedule)

    if target is None:
        assert steps is not None, "one of both is given"
        found = _solve(replace(runs, steps=steps), layout.of(steps), None)
    else:
        reached = shortest(solve, target, min(_FIRST, max_steps), max_steps, resolved=_RESOLVED)
        if reached is None:
            return None
        steps, found = reached
    named = found.simpler if baselines else {}
    needed = {}
    if target is not None:
        for name in named:

            def simple(length: int, _: Schedule | None, name: str = name) -> tuple[Schedule, float]:
                here = replace(runs, steps=length)
                schedule = _simpler(here, [name])[name]
                return schedule, here.confirmed(schedule)

            first = shortest(simple, target, steps, min(max_steps, _BEYOND * steps), resolved=_RESOLVED)
            needed[name] = np.inf if first is None else float(first[0])
    fresh = replace(runs, steps=steps).run([found.best.schedule, *named.values()], fresh=True)
    risk, stderr = fresh["risk"].values[:, 0], fresh["risk_stderr"].values[:, 0]
    return Best(
        found.best.lengths,
        {"lr": np.exp(found.best.log_rates)},
        {"risk": float(risk[0]), "risk_stderr": float(stderr[0])},
        dict(zip(named, risk[1:].tolist(), strict=True)),
        needed,
        dict(zip(named, stderr[1:].tolist(), strict=True)),
    )


def _solve(runs: _Runs, lengths: Lengths, near: _Found | None) -> _Found:
    """The best at a horizon, starting from that of a nearby one, too."""
    simpler = _simpler(runs, ["constant", *_FAMILIES])
    shape = knots_to_pieces(lengths.size)

    def log_rates(x: Array) -> Array:
        return np.asarray(np.minimum(shape @ x, runs.highest))

    def values(X: Array) -> Array:
        return runs.log_risks([piecewise(np.exp(log_rates(x)), lengths) for x in X])

    places = np.linspace(0, lengths.size - 1, shape.shape[1]).round().astype(int)
    middles = (np.cumsum(lengths) - lengths + (lengths - 1) // 2)[places]
    courses = [np.log(np.maximum(one(middles), 1e-300)) for one in simpler.values()]
    if near is not None:
        courses.append(near.best.onto(lengths)[places])
    x = _search(values, np.array(courses), runs.highest, runs.seed)
    return _Found(Solution(log_rates(x), lengths), simpler)


def _simpler(runs: _Runs, names: list[str]) -> dict[str, Schedule]:
    """The best constant rate and the best of decaying families, by name."""
    level = _best_constant(runs, float(np.log(runs.optimizer.lr)), runs.highest)
    return {
        name: constant(float(np.exp(level))) if name == "constant" else _best_member(runs, name, level, runs.highest)
        for name in names
    }


def _best_constant(runs: _Runs, guess: float, highest: float) -> float:
    """Log of the best constant rate: from a grid that is moved on while its best is at an edge, and then refined.

    Steps of one size, far too large, may cancel to the last bit after an even number of them, and not after an odd one:
    so two steps are looked at.
    """
    known: dict[float, float] = {}

    def look(grid: Array) -> float:
        new = [x for x in np.unique(grid).tolist() if x not in known]
        if new:
            risks = runs.log_risks([constant(float(np.exp(x))) for x in new], last=2)
            known.update(zip(new, risks.tolist(), strict=True))
        # Of rates that are all too large the least, of those that all change nothing the largest.
        return min(known, key=lambda x: (known[x], x if known[x] == runs.awful else -x))

    center = min(guess, highest)
    for _ in range(_WIDER):
        grid = np.minimum(center + _COARSE * np.arange(-20, 21), highest)
        best = look(grid)
        if min(known) < best < max(known) or best == highest:
            break
        center = best
    gap = _COARSE
    for _ in range(2):
        best = look(np.minimum(best + gap * np.linspace(-1.0, 1.0, 9), highest))
        gap /= 4.0
    return best


def _best_member(runs: _Runs, name: str, level: float, highest: float) -> Schedule:
    """The best of a decaying family: its first rate and final fraction, on three grids, each finer."""
    make = _FAMILIES[name]

    def member(first: float, final: float) -> Schedule:
        return make(float(np.exp(first)), runs.steps, float(np.exp(final)))

    first = level + np.arange(-1.0, 5.1, 0.6)
    final = np.array([_LEAST_FINAL, -7.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0])
    gaps = 0.3, 0.5
    for _ in range(3):
        pairs = [
            (a, b) for a in np.unique(np.minimum(first, highest)) for b in np.unique(np.clip(final, _LEAST_FINAL, 0.0))
        ]
        best = pairs[int(np.argmin(runs.log_risks([member(*pair) for pair in pairs])))]
        first, final = best[0] + gaps[0] * np.arange(-1, 2), best[1] + gaps[1] * np.arange(-1, 2)
        gaps = gaps[0] / 2, gaps[1] / 2
    return member(*best)


def _search(values: Callable[[Array], Array], courses: Array, highest: float, seed: int) -> Array:
    """Log rates at the knots: from levels, tilts and bends by differential evolution, and by descent from the best.

    The first of the courses to start from is the best constant rate.
    """
    knots, level = courses.shape[1], float(courses[0, 0])
    low, high = np.full(knots, level - _BELOW), np.full(knots, min(level + _ABOVE, highest))
    if knots > 1:
        place = np.linspace(-1.0, 1.0, knots)
        grid = [
            level + up - fall * place + bend * (1.5 * place**2 - 0.5)
            for up in np.arange(-2.0, 2.1, 0.5)
            for fall in range(5)
            for bend in (-1.5, 0.0, 1.5)
        ]
    else:
        grid = [np.array([level + up]) for up in np.arange(-2.0, 2.1, 0.5)]
    X = np.unique(np.clip(np.vstack([courses, *grid]), low, high), axis=0)
    v = values(X)
    order = np.argsort(v, kind="stable")
    population = X[order[: max(_POPULATION * knots, 5)]]

    def generation(columns: Any) -> Any:
        return values(columns.T)

    evolved = optimize.differential_evolution(
        generation,
        optimize.Bounds(low, high),
        init=population,
        vectorized=True,
        updating="deferred",
        maxiter=_GENERATIONS,
        recombination=0.9,
        tol=0.0,
        atol=0.01,
        polish=False,
        rng=np.random.default_rng(seed),
    )
    best = np.clip(evolved.x, low, high)
    if not evolved.fun <= v[order[0]]:
        best = X[order[0]]

    def slopes(x: Array) -> tuple[float, Array]:
        apart = _APART * np.eye(knots)
        ends = np.clip(np.vstack([x + apart, x - apart]), low, high)
        found = values(np.vstack([x, ends]))
        width = (ends[:knots] - ends[knots:]).sum(axis=1)
        return float(found[0]), (found[1 : knots + 1] - found[knots + 1 :]) / width

    return descend(slopes, best, low, high, tolerance=_GAIN, most=_GRADIENTS)[0]
