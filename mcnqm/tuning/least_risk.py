"""The best value of one hyperparameter at a horizon: where the risk is least after a given number of steps.

The grids are those of the search for the fewest steps (`mcnqm.tuning.line`). What differs is the end: risks are no whole
numbers, so a smooth curve goes through them at every horizon, and the winner always runs again on fresh noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcnqm.domains import unit_interval
from mcnqm.flags import Flag
from mcnqm.optimizers import domain_of
from mcnqm.statistics import jackknife
from mcnqm.tuning.line import as_good, inside, refined_line
from mcnqm.tuning.routes import Found, Query, Route
from mcnqm.tuning.search import (
    FIT_RATE,
    Search,
    Tuned,
    confirmed_risk,
    from_line,
    log_of,
    plain_jackknife,
    student,
    unreachable,
    usable,
)

__all__ = ["least_risk_line"]

Array = NDArray[np.float64]

_NEAR = 1.2
"""Points whose risk is up to so many times the least take part in the fit."""

_ENOUGH = 6
"""Points that a fit needs."""

_JAGGED, _TELLING = 1e-3, 3.0
"""A fit is believed if its residuals, in log of the risk, are below the first number or so many of their errors."""

_POINTS, _CLOSER, _WIDER = 8, 6, 3
"""Points of a grid that is closer to the best, where there is no such fit, or wider, where by simulation the ends of the
grid cannot be told from it; and how often each is tried."""

_FIT_RISK = 1e-3
"""Relative differences of the risk that are no difference: more than the fit's own error."""


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
        grid = inside(optimizer, name, places[best] + np.linspace(-reach, reach, _POINTS))
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
        answer = confirmed_risk(route.problem, route.batch_size, horizon, tuned, fresh, {name: value})
        if not answer.flags & Flag.UNCONFIRMED:
            break  # where the curve's least is not as low as it says, the best point itself is taken
    return answer


def _fits(places: Array, risk: Array) -> tuple[Array, Array] | None:
    """Place and height of the least of a quartic through log risks, for every estimate; None where one does not do."""
    mean = usable(risk)
    near = np.isfinite(mean) & (mean <= _NEAR * mean.min())
    if near.sum() < _ENOUGH:
        return None
    logs = log_of(risk[near], 0)
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
    return np.full(risk.shape[1], places[best]), log_of(risk[best], 0)


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
