"""Where the risk is least after a given number of steps: how the searches for the best hyperparameters end there.

They begin as those for the fewest steps (`mcnqm.tuning.line`, `mcnqm.tuning.surface`). Steps are whole numbers; a risk
is a smooth function of the hyperparameters, also as it is estimated on common random numbers. So a curve or surface is
fitted at every horizon, as closely about the least as it must be. The winner always runs again on fresh noise.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.domains import unit_interval
from mcnqm.flags import Flag
from mcnqm.optimizers import domain_of
from mcnqm.statistics import jackknife
from mcnqm.tuning.line import refined_line
from mcnqm.tuning.quadratics import quadratic, star, vertex
from mcnqm.tuning.routes import Found, Query, Route
from mcnqm.tuning.search import (
    FIT_RATE,
    Search,
    Tuned,
    as_good,
    confirmed_risk,
    from_line,
    log_of,
    plain_jackknife,
    student,
    unreachable,
    usable,
)

__all__ = ["least_risk_line", "lowest_by_simulation", "lowest_by_theory"]

Array = NDArray[np.float64]

_NEAR = 1.2
"""Points whose risk is up to so many times the least take part in the fit."""

_ENOUGH = 6
"""Points that a fit needs."""

_JAGGED, _TELLING = 1e-3, 3.0
"""A fit is believed if its residuals, in log of the risk, are below the first number or so many of their errors."""

_POINTS, _CLOSER, _WIDER = 8, 6, 3
"""Points of a grid closer to the best, for want of such a fit, and of a wider one, if by simulation the ends of the
grid cannot be told from the best; and how often each is tried."""

_FIT_RISK = 1e-3
"""Relative differences of the risk that are no difference: more than the fit's own error."""


_WIDE, _FINE, _FINEST = 0.25, 0.15, 1e-3
"""Half the width of the first star of a surface; of its last by simulation, where noise decides; and by theory."""

_VALLEY = np.array([-2.0, -1.4, -1.0, -0.7, -0.5, -0.35, -0.2, -0.1, 0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0])
"""How far from the least, on a hyperparameter's axis, its risk is asked for."""

_STARS, _SHRINK = 24, 0.4
"""A star is moved or shrunk at most so often, and shrinks to so many times its size."""


def least_risk_line(
    route: Route, optimizer: object, name: str, bounds: tuple[float, float], horizon: int, *, guided: bool = False
) -> Search:
    """Search along one hyperparameter; see `mcnqm.tune`.

    Parameters
    ----------
    route : Route
        To the risk at the horizon.
    optimizer : optimizer
    name : str
        Of the hyperparameter.
    bounds : (float, float)
        Where the search starts.
    horizon : int
        Steps.
    guided : bool
        Whether the bounds are those of a theory, narrow enough to begin with the fine grid.
    """
    refined = yield from refined_line(route, optimizer, name, bounds, guided=guided, horizon=horizon)
    if refined is None:
        return unreachable([name])
    places, found, edge = refined
    closer = wider = 0
    while True:
        best, spacing = int(usable(found.steps).argmin()), float(np.diff(places).max())
        if _fits(places, found.steps) is None:
            closer, reach = closer + 1, 1.25 * spacing
            if closer > _CLOSER:
                break
        elif route.sampled and not closer and wider < _WIDER and _reaches_out(places, found.steps):
            wider, reach = wider + 1, float(places[-1] - places[0])
        else:
            break
        begin = float(places[best]) - reach
        if domain_of(optimizer, name) is unit_interval:
            begin = max(begin, 0.0)
        grid = np.linspace(begin, places[best] + reach, _POINTS)
        answer = yield Query(optimizer, {name: np.asarray(from_line(optimizer, name, grid))})
        if not np.isfinite(usable(answer.steps)).any():
            break
        places, found = grid, answer
    tuned = _fitted(route, optimizer, name, places, found, edge)
    winner = float(from_line(optimizer, name, places[int(usable(found.steps).argmin())]))
    candidates = (tuned.values[name], winner)
    if not route.sampled:
        risks = (yield Query(optimizer, {name: np.array(candidates)})).steps[:, 0]
        value, risk = candidates[int(risks.argmin())], float(risks.min())
        return Tuned({name: value}, {name: 0.0}, risk, 0.0, edge, {name: (value, value)}, (risk, risk))
    for attempt, value in enumerate(candidates):
        fresh = yield Query(optimizer, {name: np.array([value])}, fresh=1 + attempt)
        confirmed = confirmed_risk(route.problem, route.batch_size, horizon, tuned, fresh, {name: value})
        if not confirmed.flags & Flag.UNCONFIRMED:
            break  # where the curve's least is not as low as it says, the best point itself is taken
    return confirmed


def _fits(places: Array, risk: Array) -> tuple[Array, Array] | None:
    """Place and height of the least of a quartic through log risks, for every estimate; None where one does not do."""
    mean = usable(risk)
    near = np.isfinite(mean) & (mean <= _NEAR * mean.min())
    if near.sum() < _ENOUGH:
        return None
    logs = log_of(risk[near], risk=True)
    x = (places[near] - places[near].mean()) / np.ptp(places[near])
    coefficients = np.polynomial.polynomial.polyfit(x, logs, 4)
    residuals = np.polynomial.polynomial.polyval(x, coefficients).T - logs
    # What a part of the sample may do by chance is no misfit.
    error = jackknife(residuals)[1]
    if not (np.abs(residuals[:, 0]) < np.maximum(_JAGGED, _TELLING * error)).all():
        return None
    line = np.linspace(x[0], x[-1], 4001)
    curves = np.polynomial.polynomial.polyval(line, coefficients)
    at = curves.argmin(axis=-1)
    tops = places[near].mean() + line[at] * np.ptp(places[near])
    return tops, curves[np.arange(at.size), at]


def _least(places: Array, risk: Array) -> tuple[Array, Array]:
    """As `_fits`; without a fit, the best of all places for every estimate."""
    fits = _fits(places, risk)
    if fits is not None:
        return fits
    best = int(usable(risk).argmin())
    return np.full(risk.shape[1], places[best]), log_of(risk[best], risk=True)


def _as_good(places: Array, risk: Array) -> tuple[float, float]:
    """Between which places the risk cannot be told from the least."""
    scale = float(usable(risk).min()) or 1.0
    heights = _least(places, risk)[1] - np.log(scale)
    return as_good(places, risk / scale, heights, student(risk.shape[1] - 2), _FIT_RISK)


def _reaches_out(places: Array, risk: Array) -> bool:
    """Whether an end of the grid cannot be told from the best; a number in [0, 1) has no place below 0."""
    low, high = _as_good(places, risk)
    return bool((low <= places[0] and places[0] != 0.0) or high >= places[-1])


def _fitted(route: Route, optimizer: object, name: str, places: Array, found: Found, edge: bool) -> Tuned:
    """The best between grid points; by simulation with errors by the jackknife, and what cannot be told from it."""
    fitted = _fits(places, found.steps) is not None
    tops, heights = _least(places, found.steps)
    top, spread = plain_jackknife(tops, short=True)
    height, relative = plain_jackknife(heights, short=True)
    value, risk = float(from_line(optimizer, name, top)), float(np.exp(height))
    if not route.sampled:
        return Tuned({name: value}, {name: 0.0}, risk, 0.0, edge)
    # Without a fit, the grid's spacing is part of the error.
    own = FIT_RATE if fitted else max(FIT_RATE, 0.5 * float(np.diff(places).max()))
    freedom = found.steps.shape[1] - 2
    spread, t = float(np.hypot(spread, own)), student(freedom)
    low, high = _as_good(places, found.steps)
    low, high = min(low, top - t * spread), max(high, top + t * spread)
    spread = max(spread, 0.5 * (high - low) / t)
    ends = np.array([low, high, top - 0.5 * spread, top + 0.5 * spread])
    if domain_of(optimizer, name) is unit_interval:
        ends = np.maximum(ends, 0.0)
    ends = from_line(optimizer, name, ends)
    return Tuned(
        {name: value}, {name: float(ends[3] - ends[2])}, risk, risk * relative, edge,
        {name: (float(ends[0]), float(ends[1]))}, freedom=freedom,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- several hyperparameters


def lowest_by_theory(optimizer: object, names: list[str], centre: Array, begins: Array, edge: bool, ask: Any) -> Search:
    """The least risk over several hyperparameters, about the place `centre` where an evolution found it.

    Parameters
    ----------
    optimizer : optimizer
    names : list of str
        Of the hyperparameters.
    centre, begins : ndarray, shape (hyperparameters,)
        A place on their axes, and where these begin.
    edge : bool
        Whether the best of the evolution lay at an edge.
    ask : callable
        Makes a query of places.
    """
    place, risk = yield from _closer(ask, centre, begins, _FINEST)
    if not np.isfinite(risk):
        return unreachable(names)
    values = {name: float(from_line(optimizer, name, place[i])) for i, name in enumerate(names)}
    intervals = {name: (value, value) for name, value in values.items()}
    return Tuned(values, dict.fromkeys(names, 0.0), risk, 0.0, edge, intervals, (risk, risk))


def lowest_by_simulation(
    optimizer: object,
    names: list[str],
    centre: Array,
    begins: Array,
    edge: bool,
    ask: Any,
    noise: tuple[int, int],
) -> Search:
    """The same with errors, on two fresh samples: `noise` has the number of that of the stars, and of the intervals.

    The lowest point of a surface moves by H⁻¹ σ if its slope is off by σ, with H the curvature. As an error this is too
    small: the curvature at a point that was chosen on the same noise is too large, and along a valley the surface is no
    quadratic. So each interval also holds all values whose risk cannot be told from that of the lowest point, on a
    sample of its own, while the other hyperparameters follow along the valley.
    """
    stars, own = (partial(ask, fresh=number) for number in noise)
    place, risk = yield from _closer(stars, centre, begins, _FINE)
    if not np.isfinite(risk):
        return unreachable(names)
    places = np.maximum(place[:, np.newaxis] + star(place.size) * _FINE, begins[:, np.newaxis])
    found = (yield stars(places)).steps
    near = np.isfinite(found).all(axis=1)
    fits = [quadratic(places[:, near], values, place) for values in log_of(found[near], risk=True).T]
    surfaces = [fit for fit in fits if fit is not None]
    along, spread, relative = np.eye(place.size), np.full(place.size, FIT_RATE), 0.0
    if surfaces and np.linalg.eigvalsh(surfaces[0].curvature).min() > 0:
        inverse = np.linalg.inv(surfaces[0].curvature)
        along = inverse / np.diag(inverse)  # columns: where the others go as one moves by 1
        spread = np.hypot(jackknife(np.array([inverse @ fit.slope for fit in surfaces]), axis=0)[1], FIT_RATE)
        relative = float(jackknife(np.array([fit.height for fit in surfaces]))[1])
    freedom = found.shape[1] - 2
    values, errors, intervals, t = {}, {}, {}, student(freedom)
    for i, name in enumerate(names):
        valley = np.maximum(place[:, np.newaxis] + along[:, i, np.newaxis] * _VALLEY, begins[:, np.newaxis])
        risks = (yield own(valley)).steps
        # The lowest point was not chosen on this noise: hence all of Student's t, and not half of it.
        here = risks[_VALLEY.size // 2]
        low, high = as_good(valley[i], risks / here[0], np.log(here / here[0]), 2.0 * t, _FIT_RISK)
        low, high = min(low, place[i] - t * spread[i]), max(high, place[i] + t * spread[i])
        wide = max(float(spread[i]), 0.5 * (high - low) / t)
        ends = np.maximum([place[i], low, high, place[i] - 0.5 * wide, place[i] + 0.5 * wide], begins[i])
        ends = from_line(optimizer, name, ends)
        values[name], errors[name] = float(ends[0]), float(ends[4] - ends[3])
        intervals[name] = (float(ends[1]), float(ends[2]))
    return Tuned(values, errors, risk, risk * relative, edge, intervals, freedom=freedom)


def _closer(ask: Any, centre: Array, begins: Array, finest: float) -> Generator[Query, Found, tuple[Array, float]]:
    """Place and height of the least risk: the lowest point of a quadratic surface over ever smaller stars.

    A star moves where its best lies at its edge, shrinks where it does not, and ends at a reach of `finest`.
    """
    place, risk, reach = centre, np.inf, _WIDE
    for _ in range(_STARS):
        places = np.maximum(place[:, np.newaxis] + star(place.size) * reach, begins[:, np.newaxis])
        found = usable((yield ask(places)).steps)
        near, best = np.isfinite(found), places[:, int(found.argmin())]
        lowest = vertex(places[:, near], log_of(found[near], risk=True), best, reach)
        tries = np.stack([best, place if lowest is None else np.maximum(lowest[0], begins)], axis=1)
        tried = usable((yield ask(tries)).steps)
        k = int(tried.argmin())
        moved = float(np.abs(tries[:, k] - place).max())
        if tried[k] < risk:
            place, risk = tries[:, k], float(tried[k])
        if moved < 0.9 * reach:
            if reach <= finest:
                break
            reach = max(reach * _SHRINK, finest)
    return place, risk
