"""Searches carried out: one to its end, or many side by side on the same noise; and where a theory says to start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from mcnqm.domains import unit_interval
from mcnqm.engine import Pool, may_join
from mcnqm.flags import Flag
from mcnqm.optimizers import domain_of
from mcnqm.progress import NoMeter
from mcnqm.tuning.checks import check_risk, check_theory
from mcnqm.tuning.horizon import SimulatedRisk
from mcnqm.tuning.least_risk import least_risk_line
from mcnqm.tuning.line import search_line
from mcnqm.tuning.race import Runner, run_races
from mcnqm.tuning.routes import NUMBERS, Found, Query, Route, SimulatedRoute
from mcnqm.tuning.search import Search, Tuned, from_line, to_line
from mcnqm.tuning.surface import search_surface

__all__ = ["WarmStart", "checked", "guide_of", "search_of", "tune_one", "tune_together"]

T = TypeVar("T")

Simulation: TypeAlias = SimulatedRoute | SimulatedRisk
"""Routes whose answers are runs, which may share their noise."""

_SLACK = 0.03
"""The best that a simulation finds may need so much more, relative, than the best there is."""

_AROUND = 1.1
"""With a theory to start from, candidates lie where it predicts up to so many times the fewest steps."""


@dataclass(frozen=True)
class WarmStart:
    """Where a theory predicts nearly the fewest steps, for a simulation to start its search from.

    Attributes
    ----------
    bounds : (float, float)
        Of the hyperparameter.
    steps : float
        The fewest.
    """

    bounds: tuple[float, float]
    steps: float


def search_of(
    route: Route,
    optimizer: Any,
    search: Mapping[str, tuple[float, float]],
    *,
    seed: int = 0,
    expected: float = np.inf,
    guide: WarmStart | None = None,
) -> Search:
    """A search at one batch size; see `tune`.

    `expected` is about how many steps the best will need, if known; `guide` a theory's answer to start from.
    """
    if route.horizon is not None:
        if len(search) > 1:
            return (yield from search_surface(route, optimizer, search, seed, horizon=route.horizon))
        ((name, bounds),) = search.items()
        bounds = bounds if guide is None else guide.bounds
        return (yield from least_risk_line(route, optimizer, name, bounds, route.horizon, guided=guide is not None))
    if len(search) == 1:
        ((name, bounds),) = search.items()
        if guide is not None:
            return (yield from search_line(route, optimizer, name, guide.bounds, guide.steps, guided=True))
        return (yield from search_line(route, optimizer, name, bounds, expected))
    return (yield from search_surface(route, optimizer, search, seed, expected))


def tune_one(
    route: Route,
    optimizer: Any,
    search: Mapping[str, tuple[float, float]],
    *,
    seed: int = 0,
    expected: float = np.inf,
    guide: WarmStart | None = None,
) -> Tuned:
    """Search at one batch size, as `search_of`, to the end."""
    asking, answer = search_of(route, optimizer, search, seed=seed, expected=expected, guide=guide), None
    while True:
        try:
            query = asking.send(answer)  # type: ignore[arg-type] # a generator begins with None
        except StopIteration as end:
            return cast("Tuned", end.value)
        answer = route.find(query)


def tune_together(searches: Mapping[T, tuple[Simulation, Search]], pool: Pool) -> Iterator[tuple[T, Tuned]]:
    """Many searches by simulation, on the same noise where they can share it; yield each answer once it is known.

    Noise is most of what a run with few settings costs. Answers are the same as of each on its own, bit for bit.
    """
    waiting: dict[T, Runner] = {}

    def go_on(key: T, answer: Found | None) -> Iterator[tuple[T, Tuned]]:
        route, search = searches[key]
        try:
            query = search.send(answer)  # type: ignore[arg-type] # a generator begins with None
        except StopIteration as end:
            yield key, end.value
        else:
            waiting[key] = route.race(query)

    for key in searches:
        yield from go_on(key, None)
    while waiting:
        first = next(iter(waiting.values())).job
        group: list[T] = []
        left = NUMBERS
        for key, race in waiting.items():
            size = float(race.job.lanes) * race.job.problem.dim * 3
            if not group or (size <= left and may_join(first, race.job)):
                group.append(key)
                left -= size
        for k, result in run_races([waiting.pop(key) for key in group], pool, NoMeter()):
            yield from go_on(group[k], Found(result.steps, result.interval, result.effective))


def guide_of(route: Route, optimizer: Any, name: str, best: Tuned) -> WarmStart | None:
    """What a theory's `route` and the `best` that it found say about where to search, if anything."""
    if not np.isfinite(best.steps):
        return None
    centre = float(to_line(optimizer, name, best.values[name]))
    # A risk after a given number of steps is flatter than steps to a target.
    wide = 1 if route.horizon is None else 2
    places = centre + wide * np.linspace(-0.3, 0.3, 24 * wide + 1 if route.exact else 8 * wide + 1)
    if domain_of(optimizer, name) is unit_interval:
        places = places[places >= 0]
    candidates = {name: from_line(optimizer, name, places)}
    found = route.find(Query(optimizer, candidates, expected=best.steps)).steps[:, 0]
    at = int(found.argmin())
    good = found <= _AROUND * found[at] + (1.0 if route.horizon is None else 0.0)
    low, high = at, at
    while low > 0 and good[low - 1]:
        low -= 1
    while high < places.size - 1 and good[high + 1]:
        high += 1
    # Next to a cliff few places are good.
    low, high = min(low, max(at - 2, 0)), max(high, min(at + 1, places.size - 1))
    bounds = from_line(optimizer, name, places[[low, high]])
    return WarmStart((float(bounds[0]), float(bounds[1])), float(found[at]))


def checked(
    tuned: Tuned, theory: Tuned | None, *, exact: bool, max_steps: float = np.inf, horizon: int | None = None
) -> Tuned:
    """The answer with what theory's own optimum, and an edge, say of it; nothing if that lies beyond `max_steps`.

    With a `horizon`, both are risks.
    """
    flags = tuned.flags | (int(Flag.AT_EDGE) if tuned.at_edge else 0)
    if theory is not None and not max_steps < theory.steps < np.inf:
        judged = tuned.steps, tuned.steps_error, max(tuned.freedom, 1), theory.steps
        check = check_theory if horizon is None else check_risk
        flags |= int(check(*judged, exact=exact, slack=_SLACK))
    return replace(tuned, flags=flags)
