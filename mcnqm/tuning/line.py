"""The best value of one hyperparameter: bracket it, look closer, fit; and simulate a short winner again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcnqm.domains import unit_interval
from mcnqm.optimizers import domain_of
from mcnqm.tuning.routes import LONG, SHORT, Found, Query, Route
from mcnqm.tuning.search import (
    FIT_RATE,
    FIT_STEPS,
    ROUNDING,
    WIDEN,
    Search,
    Tuned,
    confirmed,
    from_line,
    in_steps,
    plain_jackknife,
    student,
    to_line,
    unreachable,
    usable,
)

__all__ = ["search_line"]

Array = NDArray[np.float64]

_COARSE = 2.0
"""Largest ratio between neighbors of the coarse grid, by simulation."""

_COARSE_EXACT = 1.1
"""The same in closed form: with momentum and large batches there are several basins, some narrow."""

_FINE = 8
"""Points of the fine grid."""

_SPAN = 0.21
"""Half the width of the fine grid, in log of the hyperparameter, by simulation."""

_RESOLVED = 0.01
"""Spacing of the exact route's last grid, in log."""

_NEAR = 1.2
"""Points that need up to so many times the fewest steps take part in the local fit."""

_DENSE = 0.08
"""Spacing, in log, of the grid that looks for other basins."""

_SHORTEST = 100
"""Up to so many steps whole numbers show: the best is read off a dense grid rather than fitted."""

_GUIDED, _GUIDED_SHORT = 7, 16
"""Candidates where a theory says where to look; below `_SHORTEST` steps the second."""

_JAGGED = 0.03
"""Largest relative residual of a local fit that is believed, by simulation; in closed form a tenth of it."""

_JAGGED_SHORT = 0.01
"""The same of short runs, whose steps momentum makes jump by more."""

_ENOUGH = 6
"""Points that a local fit needs."""

_AS_SAFE = 1.1
"""A candidate is as safe as any if the end of its interval is at most so many times the first such end."""

_CONFIRM_FOR = 3.0
"""A winner that has not reached the target after so many times its steps, on fresh noise, is given up."""


def search_line(
    route: Route,
    optimizer: object,
    name: str,
    bounds: tuple[float, float],
    expected: float = np.inf,
    *,
    guided: bool = False,
) -> Search:
    """Search along one hyperparameter; see `mcnqm.tune`.

    Parameters
    ----------
    route : Route
    optimizer : optimizer
    name : str
        Of the hyperparameter.
    bounds : (float, float)
        Where the search starts.
    expected : float
        About how many steps the best will need, if known.
    guided : bool
        Whether the bounds are those of a theory, narrow enough to begin with the fine grid.
    """
    low, high = (float(to_line(optimizer, name, bound)) for bound in bounds)
    narrow = high - low <= 4 * _SPAN
    centre = 0.5 * (low + high)
    if not (narrow or guided):
        found = yield from _bracket(route, optimizer, name, low, high)
        if found is None:
            return unreachable([name])
        centre = found
    half, count = _SPAN, _FINE
    if guided:
        half, count = 0.5 * (high - low), _GUIDED if expected > _SHORTEST else _GUIDED_SHORT
    refined = yield from _refine(route, optimizer, name, centre, half, count, expected, guided=guided)
    if refined is None and route.sampled and not (narrow or guided):
        safe = yield from _elsewhere(route, optimizer, name, centre)
        if safe is not None:
            refined = yield from _refine(route, optimizer, name, safe, half, count, expected, guided=guided)
    if refined is None:
        if narrow or guided:  # between two narrow bounds nothing arrives; look around more widely
            wide = tuple(float(from_line(optimizer, name, centre + step)) for step in (-np.log(16.0), np.log(16.0)))
            return (yield from search_line(route, optimizer, name, (wide[0], wide[1])))
        return unreachable([name])
    tuned, slack = _fitted(route, optimizer, name, *refined)
    if not route.sampled or not 0 < tuned.steps <= SHORT:
        return tuned
    # The best rate is often next to one at which the risk no longer reaches the target: the safest and its neighbors
    # stand by.
    places, found, _ = refined
    safest = _safest(usable(found.steps), found.interval)
    around = from_line(optimizer, name, places[max(safest - 1, 0) : safest + 2])
    values = np.concatenate([[tuned.values[name]], around])
    query = Query(optimizer, {name: values}, expected=tuned.steps, fresh=1, give_up=_CONFIRM_FOR * tuned.steps)
    fresh = yield query
    # One that does not arrive has no interval, and is no safer than any.
    last = np.where(np.isfinite(fresh.steps[:, 0]), fresh.interval[:, 1], np.inf)
    sound = np.isfinite(last[0]) and last[0] <= _AS_SAFE * last.min()
    best = 0 if sound else _safest(fresh.steps[:, 0], fresh.interval)
    seen = usable(found.steps)
    if best > 0:  # by how much the search saw it behind the best
        behind = float(seen[max(safest - 1, 0) + best - 1] / seen.min() - 1.0)
        slack = float(np.hypot(slack, behind)) if np.isfinite(behind) else slack
    near = seen <= _NEAR * seen.min()
    return confirmed(
        route.problem, route.batch_size, route.target, tuned, fresh.pick(best), slack=slack,
        lowest=float(np.floor(found.interval[near, 0].min())), values={name: float(values[best])},
    )  # fmt: skip


def _ask(optimizer: object, name: str, places: Array, *, rough: bool, expected: float = np.inf) -> Query:
    return Query(optimizer, {name: np.asarray(from_line(optimizer, name, places))}, rough, expected)


def _inside(optimizer: object, name: str, places: Array) -> Array:
    """Places on the axis: that of a number in [0, 1) begins at 0."""
    return np.unique(np.maximum(places, 0.0)) if domain_of(optimizer, name) is unit_interval else places


def _bracket(route: Route, optimizer: object, name: str, low: float, high: float):  # type: ignore[no-untyped-def]
    """The best place of a coarse grid, widened while it lies at an edge; None if nothing arrives."""
    ratio = _COARSE_EXACT if route.exact else _COARSE
    places = np.linspace(low, high, int(np.ceil((high - low) / np.log(ratio))) + 1)
    found = (yield _ask(optimizer, name, places, rough=True)).steps[:, 0]
    for _ in range(WIDEN):
        best = int(found.argmin())
        if found[best] == 0.0:
            break
        nowhere = not np.isfinite(found[best])
        below, above = best == 0 or nowhere, best == places.size - 1 or nowhere
        if not (below or above):
            break
        gap = places[1] - places[0]
        count = int(np.ceil(np.log(8.0) / gap))
        down = places[0] - gap * np.arange(count, 0, -1) if below else np.empty(0)
        up = places[-1] + gap * np.arange(1, count + 1) if above else np.empty(0)
        more = np.concatenate([down, up])
        if domain_of(optimizer, name) is unit_interval:
            more = more[more >= 0]
        if not more.size:
            break
        fresh = (yield _ask(optimizer, name, more, rough=True)).steps[:, 0]
        order = np.argsort(np.concatenate([places, more]))
        places, found = np.concatenate([places, more])[order], np.concatenate([found, fresh])[order]
    best = int(found.argmin())
    return float(places[best]) if np.isfinite(found[best]) else None


def _elsewhere(route: Route, optimizer: object, name: str, centre: float):  # type: ignore[no-untyped-def]
    """The safest place about a best that more trajectories do not confirm; None if nothing arrives there either.

    Where a few trajectories in a thousand diverge, a rough search does not see them.
    """
    places = _inside(optimizer, name, np.linspace(centre - np.log(16.0), centre + np.log(16.0), 4 * _FINE))
    found = yield _ask(optimizer, name, places, rough=False)
    mean = usable(found.steps)
    best = _safest(mean, found.interval)
    return float(places[best]) if np.isfinite(mean[best]) else None


def _refine(  # type: ignore[no-untyped-def]
    route: Route,
    optimizer: object,
    name: str,
    centre: float,
    half: float,
    count: int,
    expected: float,
    *,
    guided: bool,
):
    """A fine grid about the best, moved and narrowed as it asks for.

    Its places, what was found there, and whether the best lies at an edge; None if nothing arrives.
    """
    # Momentum has several basins at large batches, adaptive optimizers one.
    scanned = guided or not (route.exact or route.sampled)
    for attempt in range(12):  # ends by break long before
        places = _inside(optimizer, name, np.linspace(centre - half, centre + half, count))
        found = yield _ask(optimizer, name, places, rough=False, expected=expected)
        mean = usable(found.steps)
        best = int(mean.argmin())
        if not np.isfinite(mean[best]):
            if attempt == 0:
                return None
            break
        needed, expected = expected, float(mean[best])
        if expected == 0.0:  # reached at the start, wherever: there is no best
            edge = False
            break
        if expected < SHORT and not scanned:
            # Large batches: runs are cheap, and with momentum there are several narrow basins.
            scan = _inside(optimizer, name, np.arange(centre - np.log(4.0), centre + np.log(4.0), _DENSE))
            wide = usable((yield _ask(optimizer, name, scan, rough=False, expected=max(expected, LONG / 3))).steps)
            centre, half, scanned = float(scan[int(wide.argmin())]), 3 * _DENSE, True
            continue
        edge = best in (0, places.size - 1) and places[best] != 0.0
        if edge and attempt < 8:
            centre = float(places[best])
            continue
        spacing = float(np.diff(places).max())
        if guided and expected <= _SHORTEST:
            break
        # Next to the edge of stability too few points are near the best for a fit: look closer there.
        enough = int((mean <= _NEAR * mean[best]).sum()) >= _ENOUGH
        if route.sampled and expected < 0.5 * LONG and needed > 2 * expected:
            centre = float(places[best])  # the same again, with the trajectories that so short a run can afford
            continue
        if spacing <= _RESOLVED * 1.5 or (enough and not route.exact):
            break
        centre, half = float(places[best]), max(2.5 * spacing, 0.5 * (_FINE - 1) * _RESOLVED)
    if not np.isfinite(mean[best]):
        return None
    return places, found, bool(edge)


def _fitted(route: Route, optimizer: object, name: str, places: Array, found: Found, edge: bool) -> tuple[Tuned, float]:
    """The best between grid points, from a quartic of the speed 1 / steps, for every estimate of the jackknife.

    Steps rise gently below the best rate, but like a wall above it, where the steady state meets the target: a
    parabola of log steps misses the minimum by 4 %. The speed just falls to 0 there. Against exact curves the
    quartic's error is below 1 % in the rate and 0.3 % in the steps.

    Returns
    -------
    Tuned, float
        And what the search leaves between its candidates, relative to the steps.
    """
    steps, mean = found.steps, usable(found.steps)
    best = int(mean.argmin())
    if route.sampled and mean[best] <= _SHORTEST:
        return _read_off(optimizer, name, places, found, edge)
    short = bool(mean[best] <= SHORT)
    near = np.isfinite(steps).all(axis=1) & (mean <= _NEAR * mean[best])
    # Over jagged steps (few of them, or momentum oscillating) a smooth curve says nothing.
    jagged = 0.1 * _JAGGED if route.exact else _JAGGED_SHORT if short else _JAGGED
    fits = (
        [_quartic(places[near], 1.0 / steps[near, k], jagged) for k in range(steps.shape[1])]
        if (near.sum() >= _ENOUGH and mean[best] >= 1.0)
        else [None]
    )
    fitted = all(fit is not None for fit in fits) if short else any(fit is not None for fit in fits)
    if not fitted and short and route.sampled:
        best = _safest(mean, found.interval)
    tops, values = [], []
    for k in range(steps.shape[1]):
        fit = fits[k] if fitted else None
        top, speed = (places[best], 1.0 / max(steps[best, k], 1e-9)) if fit is None else fit  # 0 steps: at the start
        tops.append(float(top))
        values.append(float(-np.log(speed)))
    centre, spread = plain_jackknife(tops, short)
    log_steps, relative = plain_jackknife(values, short)
    # A crossing lies between two steps, and the answer is the later.
    needed = float(np.ceil(np.exp(log_steps) - 1e-9)) if mean[best] > 0 else 0.0
    value = float(from_line(optimizer, name, centre))
    if not route.sampled:
        return Tuned({name: value}, {name: 0.0}, needed, 0.0, edge, {name: (value, value)}, (needed, needed)), 0.0
    # Without a fit, the grid's spacing and what a neighbor differs by are part of the error.
    beside = [k for k in (best - 1, best + 1) if 0 <= k < places.size and np.isfinite(mean[k])]
    own_rate, own_steps = FIT_RATE, FIT_STEPS
    if not fitted and beside and mean[best] > 0:
        own_rate = max(own_rate, 0.5 * float(np.diff(places).max()))
        own_steps = max(own_steps, 0.5 * min(abs(float(mean[k] / mean[best] - 1.0)) for k in beside))
    # And what was given up for safety.
    own_steps = (
        float(np.hypot(own_steps, 0.0 if fitted else mean[best] / mean.min() - 1.0)) if needed > 0 else own_steps
    )
    spread, relative = float(np.hypot(spread, own_rate)), float(np.hypot(relative, own_steps))
    freedom = steps.shape[1] - 2
    t = student(freedom)
    low, high = _as_good(places, steps, np.array(values), t, max(FIT_STEPS, 0.5 / max(needed, 1.0)))
    low, high = min(low, centre - t * spread), max(high, centre + t * spread)
    spread = max(spread, 0.5 * (high - low) / t)
    ends = from_line(optimizer, name, np.array([low, high, centre - 0.5 * spread, centre + 0.5 * spread]))
    steps_error = in_steps(needed, relative)
    return Tuned(
        {name: value}, {name: float(ends[3] - ends[2])}, needed, steps_error, edge,
        {name: (float(ends[0]), float(ends[1]))},
        (max(np.floor(needed - t * steps_error), 0.0), float(np.ceil(needed + t * steps_error))), freedom,
    ), own_steps  # fmt: skip


def _quartic(places: Array, speed: Array, jagged: float) -> tuple[float, float] | None:
    """Place and height of the top of a quartic through speeds; None if its largest relative residual is `jagged`."""
    fit = np.polynomial.Polynomial.fit(places, speed, 4)
    if not np.abs(fit(places) / speed - 1.0).max() < jagged:
        return None
    line = np.linspace(places[0], places[-1], 2001)
    at = int(fit(line).argmax())
    return float(line[at]), float(fit(line)[at])


def _safest(mean: Array, interval: Array) -> int:
    """The candidate of fewest steps among those as safe as any, by the ends of their intervals.

    A risk that barely dips to the target may not do so next time.
    """
    last = np.where(np.isfinite(mean), interval[:, 1], np.inf)
    if not np.isfinite(last).any():
        return int(mean.argmin())
    return int(np.where(last <= _AS_SAFE * last.min(), mean, np.inf).argmin())


def _as_good(places: Array, found: Array, least: Array, t: float, tolerance: float) -> tuple[float, float]:
    """Where steps cannot be told from the fewest: between which places, the best among them.

    For every estimate, by how much each place needs more (in log) than the best, `least`; with the jackknife's error of
    that difference, which common random numbers make small. About a smooth optimum an error σ of its place gives a
    difference of ½ κ x² an error of κ x σ, so that half of Student's t just stands for t σ.
    """
    excess = np.array([plain_jackknife(np.log(np.maximum(row, 1e-9)) - least, short=True) for row in found])
    with np.errstate(invalid="ignore"):
        beyond = np.where(np.isfinite(found).all(axis=1), excess[:, 0] - 0.5 * t * excess[:, 1] - tolerance, np.inf)
    good = np.flatnonzero(beyond <= 0)
    if not good.size:
        best = int(usable(found).argmin())
        return float(places[best]), float(places[best])

    def edge(inside: int, outside: int) -> float:
        if not 0 <= outside < places.size:
            return float(places[inside])
        share = 0.5 if not np.isfinite(beyond[outside]) else -beyond[inside] / (beyond[outside] - beyond[inside])
        return float(places[inside] + share * (places[outside] - places[inside]))

    return edge(int(good[0]), int(good[0]) - 1), edge(int(good[-1]), int(good[-1]) + 1)


def _read_off(optimizer: object, name: str, places: Array, found: Found, edge: bool) -> tuple[Tuned, float]:
    """The best of a dense grid, in runs so short that steps jump from one whole number to the next.

    All places that cannot be told from the best, within a step or the error of their difference, are as good. What is
    best for sure, by the end of its interval, comes first; returned is also by how much it is behind the fewest steps.
    """
    mean = usable(found.steps)
    best = _safest(mean, found.interval)
    spread = plain_jackknife(found.steps[best], short=True)[1]
    as_good = np.flatnonzero(mean <= mean[best] + max(1.0, spread))
    # Those that hang together with the best: elsewhere there may be another basin.
    gaps = np.flatnonzero(np.diff(as_good) > 1)
    together = next(part for part in np.split(as_good, gaps + 1) if best in part)
    half = 0.5 * (places[together[-1]] - places[together[0]]) + 0.5 * float(np.diff(places).max())
    centre = 0.5 * (places[together[0]] + places[together[-1]])
    outer = np.array([places[as_good[0]], places[as_good[-1]]]) + 0.5 * float(np.diff(places).max()) * np.array([-1, 1])
    ends = from_line(optimizer, name, np.array([centre - half, centre + half]))
    steps = float(np.ceil(mean[best] - 1e-9)) + 0.0
    error = float(np.hypot(spread, ROUNDING)) if steps > 0 else 0.0
    value, freedom = float(from_line(optimizer, name, centre)), found.steps.shape[1] - 2
    t = student(freedom)
    low, high = (float(x) for x in from_line(optimizer, name, outer))
    tuned = Tuned(
        {name: value}, {name: float(0.5 * np.diff(ends)[0])}, steps, error, edge, {name: (low, high)},
        (max(np.floor(steps - t * error), 0.0), float(np.ceil(steps + t * error))), freedom,
    )  # fmt: skip
    return tuned, float(mean[best] / mean.min() - 1.0) if steps > 0 else 0.0
