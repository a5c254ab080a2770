"""The best of several hyperparameters at once: a search that does not keep the luckiest.

Of many candidates on the same noise the one that seems best owes it in part to that noise. So candidates are compared
by a pessimistic number of steps, the best few run again on fresh noise, a quadratic surface about the winner is fitted
on noise of its own, and what is reported was simulated on yet other noise.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from mcnqm.domains import unit_interval
from mcnqm.flags import Flag
from mcnqm.optimizers import domain_of
from mcnqm.statistics import jackknife
from mcnqm.tuning.least_risk import lowest_by_simulation, lowest_by_theory
from mcnqm.tuning.quadratics import star, vertex
from mcnqm.tuning.routes import SHORT, Found, Query, Route
from mcnqm.tuning.search import (
    FIT_RATE,
    FIT_STEPS,
    WIDEN,
    Search,
    Tuned,
    confirmed,
    confirmed_risk,
    from_line,
    in_steps,
    log_of,
    plain_jackknife,
    student,
    to_line,
    unreachable,
    usable,
)

__all__ = ["search_surface"]

Array = NDArray[np.float64]

_NOWHERE = 1e3
"""Infinite steps are all alike to the search, and worse than anything."""

_FINALISTS, _APART = 8, 0.1
"""How many of the best candidates run again on fresh noise, and how far they are from each other at least."""

_REACH = 0.25
"""Half the width of the star to which the surface is fitted."""

_GIVE_UP = 2.0
"""On fresh noise candidates are given up after so many times the steps that the search found."""

_FINAL, _STAR, _CONFIRM, _OWN = 1, 2, 3, 5
"""Numbers of fresh samples; the third has two."""


def search_surface(
    route: Route,
    optimizer: Any,
    search: Mapping[str, tuple[float, float]],
    seed: int,
    expected: float = np.inf,
    *,
    horizon: int | None = None,
) -> Search:
    """Search over several hyperparameters; see `mcnqm.tune`.

    Parameters
    ----------
    route : Route
    optimizer : optimizer
    search : mapping of str to (float, float)
        Bounds of each, where the search starts.
    seed : int
        Of the search itself.
    expected : float
        About how many steps the best will need, if known.
    horizon : int, optional
        Seek the least risk after so many steps, instead of the fewest.
    """
    expected = expected if horizon is None else float(horizon)
    names = list(search)
    box = np.array([[float(to_line(optimizer, name, b)) for b in search[name]] for name in names])
    begins = np.array([0.0 if domain_of(optimizer, name) is unit_interval else -np.inf for name in names])

    def ask(places: Array, *, expected: float = expected, fresh: int = 0, give_up: float = np.inf) -> Query:
        candidates = {name: np.asarray(from_line(optimizer, name, places[i])) for i, name in enumerate(names)}
        return Query(optimizer, candidates, expected=expected, fresh=fresh, give_up=give_up)

    # ------------------------------------------------------------------------------------------------ evolve
    # A first, short evolution tells how many steps the best needs, and so how many trajectories can be afforded.
    evolved, edge = None, False
    for generations in (8, 25) if route.sampled and not np.isfinite(expected) else (25,):
        for _ in range(WIDEN + 1):
            evolved = yield from _evolve(ask, box, seed, generations, expected, horizon)
            if not evolved.values.size:
                return unreachable(names)
            best = evolved.places[:, evolved.values.argmin()]
            low = (best < box[:, 0] + 0.02 * (box[:, 1] - box[:, 0])) & (box[:, 0] > begins)
            high = best > box[:, 1] - 0.02 * (box[:, 1] - box[:, 0])
            edge = bool((low | high).any())
            if not edge:
                break
            box[low, 0] -= np.log(8.0)
            box[high, 1] += np.log(8.0)
            box[:, 0] = np.maximum(box[:, 0], begins)
        assert evolved is not None
        expected = float(np.exp(evolved.values.min()) if horizon is None else horizon)
    assert evolved is not None
    finalists = evolved.best(_FINALISTS, _APART)
    if not route.sampled and horizon is not None:
        return (yield from lowest_by_theory(optimizer, names, finalists[:, 0], begins, edge, ask))
    if not route.sampled:
        return (yield from _star(route, optimizer, names, finalists[:, 0], begins, edge, ask, expected))

    # ------------------------------------------------------------------- fresh noise: who really is the best
    found = yield ask(finalists, expected=expected, fresh=_FINAL, give_up=_GIVE_UP * expected)
    order = np.argsort(_pessimistic(found.steps, horizon))
    winner = finalists[:, order[0]]
    if not np.isfinite(usable(found.steps)[order[0]]):
        return unreachable(names)
    claimed = float(np.exp(_pessimistic(found.steps)[order[0]]) if horizon is None else horizon)
    if horizon is not None:
        tuned = yield from lowest_by_simulation(optimizer, names, winner, begins, edge, ask, (_STAR, _OWN))
    else:
        tuned = yield from _star(route, optimizer, names, winner, begins, edge, ask, claimed)
    # ---------------------------------------------------------------- fresh again: how many steps it takes
    place = np.array([[float(to_line(optimizer, name, tuned.values[name]))] for name in names])
    for attempt, candidate in enumerate((place, winner[:, np.newaxis])):
        fresh = yield ask(candidate, expected=claimed, fresh=_CONFIRM + attempt, give_up=_GIVE_UP * claimed)
        values = {name: float(from_line(optimizer, name, candidate[i, 0])) for i, name in enumerate(names)}
        here = route.problem, route.batch_size
        answer = (
            confirmed(*here, route.target, tuned, fresh, slack=FIT_STEPS, values=values)
            if horizon is None
            else confirmed_risk(*here, horizon, tuned, fresh, values)
        )
        if not answer.flags & Flag.UNCONFIRMED:
            break  # where the surface's top is not as good as it says, the best point itself is taken
    return answer


class _Evolved:
    """All candidates of an evolution that reached the target, with their pessimistic log steps."""

    def __init__(self, places: Array, values: Array) -> None:
        reached = values < _NOWHERE
        self.places, self.values = places[:, reached], values[reached]

    def best(self, count: int, apart: float) -> Array:
        """The best of them that are apart from each other, best first, shape (hyperparameters, count at most)."""
        chosen: list[int] = []
        for k in np.argsort(self.values, kind="stable"):
            if all(np.abs(self.places[:, k] - self.places[:, c]).max() >= apart for c in chosen):
                chosen.append(int(k))
            if len(chosen) == count:
                break
        return np.asarray(self.places[:, chosen])


def _pessimistic(steps: Array, horizon: int | None = None) -> Array:
    """Log of the steps plus two standard errors; `_NOWHERE` where a part of the sample does not arrive."""
    error = jackknife(steps)[1]
    found = usable(steps)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(found), log_of(found + 2.0 * error, risk=horizon is not None), _NOWHERE)


def _evolve(
    ask: Any, box: Array, seed: int, generations: int, expected: float, horizon: int | None
) -> Generator[Query, Found, _Evolved]:
    """SciPy's differential evolution, a generation per query.

    SciPy calls for values; a search yields queries. So each generation is asked of a solver that is stopped when it
    wants to know, by running it again up to there on what is known: its answers are a function of the seed.
    """
    known: dict[bytes, float] = {}
    kept: list[tuple[Array, float]] = []

    class _Wanted(Exception):  # noqa: N818 - no error
        def __init__(self, places: Array) -> None:
            self.places = places

    def objective(places: Any, /) -> Any:
        columns = places.reshape(box.shape[0], -1)
        missing = [c for c in columns.T if c.tobytes() not in known]
        if missing:
            raise _Wanted(np.stack(missing, axis=1))
        return np.array([known[c.tobytes()] for c in columns.T])

    while True:
        try:
            optimize.differential_evolution(
                objective, box.tolist(), vectorized=True, updating="deferred", popsize=12, maxiter=generations,
                tol=1e-3, polish=False, rng=seed, init="sobol",
            )  # fmt: skip
        except _Wanted as wanted:
            values = _pessimistic((yield ask(wanted.places, expected=expected)).steps, horizon)
            for place, value in zip(wanted.places.T, values, strict=True):
                known[place.tobytes()] = float(value)
                kept.append((place, float(value)))
        else:
            return _Evolved(np.stack([p for p, _ in kept], axis=1), np.array([v for _, v in kept]))


def _star(
    route: Route,
    optimizer: Any,
    names: list[str],
    centre: Array,
    begins: Array,
    edge: bool,
    ask: Any,
    expected: float,
) -> Search:
    """A quadratic surface over a star and its corners, for every estimate; inside the star's reach only."""
    moves = star(len(names)) * _REACH
    places = np.maximum(centre[:, np.newaxis] + moves, begins[:, np.newaxis])
    fresh = _STAR if route.sampled else 0
    found = (yield ask(places, expected=expected, fresh=fresh, give_up=_GIVE_UP * expected)).steps
    mean = usable(found)
    best = int(mean.argmin())
    if not np.isfinite(mean[best]):
        return unreachable(names)
    near = np.isfinite(found).all(axis=1)
    logs = log_of(found)
    fits = [vertex(places[:, near], logs[near, k], places[:, best], _REACH) for k in range(found.shape[1])]
    vertices = [fit for fit in fits if fit is not None]
    fitted = len(vertices) == len(fits)
    # A surface that has its top nearby only with a part of the sample says nothing.
    tops = np.array([place for place, _ in vertices]) if fitted else np.tile(places[:, best], (len(fits), 1))
    values = [height for _, height in vertices] if fitted else logs[best].tolist()
    top, spread = np.maximum(tops[0], begins), np.minimum(jackknife(tops, axis=0)[1], _REACH)
    freedom = found.shape[1] - 2 if route.sampled else 0
    if route.sampled:
        # Where the surface has no vertex nearby, the star's reach is how well its center is known.
        spread = np.hypot(spread, FIT_RATE if fitted else _REACH)
    log_steps, relative = plain_jackknife(values, short=bool(mean[best] <= SHORT))
    t, result, errors, intervals = student(freedom), {}, {}, {}
    for i, name in enumerate(names):
        ends = from_line(optimizer, name, top[i] + spread[i] * np.array([0.0, -t, t, -0.5, 0.5]))
        result[name], errors[name] = float(ends[0]), float(ends[4] - ends[3])
        intervals[name] = (float(ends[1]), float(ends[2]))
    steps = float(np.ceil(np.exp(log_steps) - 1e-9)) + 0.0
    if not route.sampled:
        return Tuned(result, dict.fromkeys(names, 0.0), steps, 0.0, edge, intervals, (steps, steps))
    error = in_steps(steps, float(np.hypot(relative, FIT_STEPS)))
    return Tuned(result, errors, steps, error, edge, intervals, (steps - t * error, steps + t * error), freedom)
