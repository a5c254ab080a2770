"""The best hyperparameters: fewest steps to a target, by either route."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import optimize

from mcnqm._version import __version__
from mcnqm.domains import choice, integer, positive, unit_interval
from mcnqm.engine import Pool, may_join
from mcnqm.errors import ParameterError
from mcnqm.optimizers import Number, domain_of, numeric_fields
from mcnqm.problem import NoisyQuadratic
from mcnqm.progress import NoMeter
from mcnqm.race import Race, run_races
from mcnqm.routes import LONG, NUMBERS, Route, SimulatedRoute, exact_route, mean_field_route, theory_of
from mcnqm.schedules import Schedule
from mcnqm.settings import batch_size_domain, settings_of
from mcnqm.statistics import jackknife

__all__ = ["Guide", "Question", "Search", "Tuned", "guide_of", "search_of", "tune", "tune_one", "tune_together"]

T = TypeVar("T")

Array = NDArray[np.float64]

_COARSE = 2.0
"""Largest ratio between neighbours of the coarse grid, by simulation."""

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

_SHORT = 600
"""Where so few steps are needed, a dense grid looks for other basins."""

_DENSE = 0.08
"""Spacing of that grid, in log."""

_SHORTEST = 100
"""Up to so many steps whole numbers show: the best is read off a dense grid rather than fitted."""

_AROUND = 1.1
"""With a theory to start from, candidates lie where it predicts up to so many times the fewest steps .."""

_GUIDED, _GUIDED_SHORT = 7, 16
""".. and there are so many of them; below `_SHORTEST` steps the second."""

_FIT_RATE, _FIT_STEPS = 0.01, 0.003
"""Relative error of the local fit itself, added in quadrature to the jackknife's."""

_ROUNDING = 0.29
"""Standard deviation, in steps, of what is added to a crossing to make it whole."""

_JAGGED = 0.03
"""Largest relative residual of a local fit that is believed, by simulation; in closed form a tenth of it."""

_ENOUGH = 6
"""Points that a local fit needs."""

_WIDEN = 3
"""How often a search may be widened at an edge, each time by a factor 8 in the hyperparameter."""


# ------------------------------------------------------------------------------------------------ search coordinates


def _to_line(optimizer: Any, name: str, value: Any) -> Any:
    """Hyperparameters on the axis a search moves along: log x, and -log(1 - x) for those in [0, 1)."""
    return -np.log1p(-np.asarray(value)) if domain_of(optimizer, name) is unit_interval else np.log(value)


def _from_line(optimizer: Any, name: str, place: Any) -> Any:
    return -np.expm1(-np.asarray(place)) if domain_of(optimizer, name) is unit_interval else np.exp(place)


@dataclass(frozen=True)
class Tuned:
    """One search's answer.

    Attributes
    ----------
    values, errors : dict of str to float
        Each tuned hyperparameter and its standard error (0 in closed form).
    steps, steps_error : float
    at_edge : bool
        Whether the best lies at an edge of the search, even after widening.
    """

    values: dict[str, float]
    errors: dict[str, float]
    steps: float
    steps_error: float
    at_edge: bool


@dataclass(frozen=True)
class Guide:
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


class Question(NamedTuple):
    """What a search wants to know next: arguments of `Route.steps`."""

    optimizer: Any
    candidates: dict[str, Array]
    rough: bool
    expected: float


Search: TypeAlias = Generator[Question, Array, Tuned]
"""Asks for the steps of candidates, until it has its answer."""


def search_of(
    route: Route,
    optimizer: Any,
    search: Mapping[str, tuple[float, float]],
    *,
    seed: int = 0,
    expected: float = np.inf,
    guide: Guide | None = None,
) -> Search:
    """A search at one batch size; see `tune`.

    `expected` is about how many steps the best will need, if known; `guide` a theory's answer to start from.
    """
    if len(search) == 1:
        ((name, bounds),) = search.items()
        if guide is not None:
            return (yield from _along_line(route, optimizer, name, guide.bounds, guide.steps, guided=True))
        return (yield from _along_line(route, optimizer, name, bounds, expected))
    return _tune_many(route, optimizer, search, seed)


def tune_one(
    route: Route,
    optimizer: Any,
    search: Mapping[str, tuple[float, float]],
    *,
    seed: int = 0,
    expected: float = np.inf,
    guide: Guide | None = None,
) -> Tuned:
    """Search at one batch size, as `search_of`, to the end."""
    asking, answer = search_of(route, optimizer, search, seed=seed, expected=expected, guide=guide), None
    while True:
        try:
            question = asking.send(answer)  # type: ignore[arg-type] # a generator begins with None
        except StopIteration as end:
            return cast("Tuned", end.value)
        answer = route.steps(question.optimizer, question.candidates, rough=question.rough, expected=question.expected)


def tune_together(searches: Mapping[T, tuple[SimulatedRoute, Search]], pool: Pool) -> Iterator[tuple[T, Tuned]]:
    """Many searches by simulation, on the same noise where they can share it; yield each answer once it is known.

    Noise is most of what a run with few settings costs. Answers are the same as of each on its own, bit for bit.
    """
    waiting: dict[T, Race] = {}

    def go_on(key: T, answer: Array | None) -> Iterator[tuple[T, Tuned]]:
        route, search = searches[key]
        try:
            question = search.send(answer)  # type: ignore[arg-type] # a generator begins with None
        except StopIteration as end:
            yield key, end.value
        else:
            waiting[key] = route.race(*question)

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
            yield from go_on(group[k], result.steps)


def guide_of(route: Route, optimizer: Any, name: str, best: Tuned) -> Guide | None:
    """What a theory's `route` and the `best` that it found say about where to search, if anything."""
    if not np.isfinite(best.steps):
        return None
    centre = float(_to_line(optimizer, name, best.values[name]))
    places = centre + np.linspace(-0.3, 0.3, 25 if route.exact else 9)
    if domain_of(optimizer, name) is unit_interval:
        places = places[places >= 0]
    candidates = {name: _from_line(optimizer, name, places)}
    found = route.steps(optimizer, candidates, rough=False, expected=best.steps)[:, 0]
    at = int(found.argmin())
    good = found <= _AROUND * found[at] + 1.0
    low, high = at, at
    while low > 0 and good[low - 1]:
        low -= 1
    while high < places.size - 1 and good[high + 1]:
        high += 1
    # Next to a cliff few places are good.
    low, high = min(low, max(at - 2, 0)), max(high, min(at + 1, places.size - 1))
    bounds = _from_line(optimizer, name, places[[low, high]])
    return Guide((float(bounds[0]), float(bounds[1])), float(found[at]))


def _along_line(
    route: Route,
    optimizer: Any,
    name: str,
    bounds: tuple[float, float],
    expected: float = np.inf,
    *,
    guided: bool = False,
) -> Search:
    low, high = (float(_to_line(optimizer, name, bound)) for bound in bounds)

    def ask(places: Array, *, rough: bool, expected: float = np.inf) -> Question:
        return Question(optimizer, {name: np.asarray(_from_line(optimizer, name, places))}, rough, expected)

    # Coarse, unless the bounds are narrow already; widened while the best lies at an edge.
    centre, edge = 0.5 * (low + high), False
    if high - low > 4 * _SPAN and not guided:
        places = np.linspace(
            low, high, int(np.ceil((high - low) / np.log(_COARSE_EXACT if route.exact else _COARSE))) + 1
        )
        found = (yield ask(places, rough=True))[:, 0]
        for _ in range(_WIDEN):
            best = int(found.argmin())
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
            fresh = (yield ask(more, rough=True))[:, 0]
            order = np.argsort(np.concatenate([places, more]))
            places, found = np.concatenate([places, more])[order], np.concatenate([found, fresh])[order]
        best = int(found.argmin())
        if not np.isfinite(found[best]):
            return _unreachable([name])
        centre = float(places[best])

    # Momentum has several basins at large batches, adaptive optimizers one.
    half, scanned, count = _SPAN, guided or not (route.exact or route.sampled), _FINE
    if guided:
        half, count = 0.5 * (high - low), _GUIDED if expected > _SHORTEST else _GUIDED_SHORT
    for attempt in range(12):  # ends by break long before
        places = np.linspace(centre - half, centre + half, count)
        if domain_of(optimizer, name) is unit_interval:
            places = np.unique(np.maximum(places, 0.0))
        found = yield ask(places, rough=False, expected=expected)
        mean = _mean(found)
        best = int(mean.argmin())
        if not np.isfinite(mean[best]):
            if attempt == 0 and (guided or high - low <= 4 * _SPAN):
                # Between two narrow bounds nothing arrives; look around more widely.
                return (yield from _along_line(route, optimizer, name, _wider(optimizer, name, centre)))
            return _unreachable([name])
        needed, expected = expected, float(mean[best])
        if expected < _SHORT and not scanned:
            # Large batches: runs are cheap, and with momentum there are several narrow basins.
            scan = np.arange(centre - np.log(4.0), centre + np.log(4.0), _DENSE)
            if domain_of(optimizer, name) is unit_interval:
                scan = np.unique(np.maximum(scan, 0.0))
            wide = _mean((yield ask(scan, rough=False, expected=max(expected, LONG / 3))))
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
    return _fitted(route, optimizer, name, places, found, edge)


def _wider(optimizer: Any, name: str, centre: float) -> tuple[float, float]:
    low, high = centre - np.log(16.0), centre + np.log(16.0)
    return float(_from_line(optimizer, name, low)), float(_from_line(optimizer, name, high))


def _unreachable(names: list[str]) -> Tuned:
    return Tuned(dict.fromkeys(names, np.nan), dict.fromkeys(names, np.nan), np.inf, np.nan, False)


def _fitted(route: Route, optimizer: Any, name: str, places: Array, found: Array, edge: bool) -> Tuned:
    """The best between grid points, from a quartic of the speed 1 / steps, for every estimate of the jackknife.

    Steps rise gently below the best rate, but like a wall above it, where the steady state meets the target: a
    parabola of log steps misses the minimum by 4 %. The speed just falls to 0 there. Against exact curves the
    quartic's error is below 1 % in the rate and 0.3 % in the steps.
    """
    mean = _mean(found)
    best = int(mean.argmin())
    if route.sampled and mean[best] <= _SHORTEST:
        return _read_off(optimizer, name, places, found, edge)
    near = np.isfinite(found).all(axis=1) & (mean <= _NEAR * mean[best])
    tops, values, fitted = [], [], False
    for k in range(found.shape[1]):
        top, value = places[best], float(np.log(max(found[best, k], 1e-9)))  # 0 steps: reached at the start
        if near.sum() >= _ENOUGH and mean[best] >= 1.0:
            speed = 1.0 / found[near, k]
            fit = np.polynomial.Polynomial.fit(places[near], speed, 4)
            line = np.linspace(places[near][0], places[near][-1], 2001)
            at = int(fit(line).argmax())
            # Over jagged steps (few of them, or momentum oscillating) a smooth curve says nothing.
            if np.abs(fit(places[near]) / speed - 1.0).max() < (_JAGGED if not route.exact else 0.1 * _JAGGED):
                top, value, fitted = line[at], float(-np.log(fit(line)[at])), True
        tops.append(float(top))
        values.append(value)
    short = bool(mean[best] <= _SHORT)
    (centre, log_steps), (spread, relative) = (
        np.array(x) for x in zip(*(_jackknife(x, short) for x in (tops, values)), strict=True)
    )
    value = float(_from_line(optimizer, name, centre))
    slope = abs(float(_from_line(optimizer, name, centre + 1e-6) - _from_line(optimizer, name, centre - 1e-6))) / 2e-6
    # A crossing lies between two steps, and the answer is the later.
    steps = float(np.ceil(np.exp(log_steps) - 1e-9)) if mean[best] > 0 else 0.0
    if route.sampled:
        # Without a fit, the grid's spacing and what a neighbour differs by are part of the error.
        beside = [k for k in (best - 1, best + 1) if 0 <= k < places.size and np.isfinite(mean[k])]
        own_rate, own_steps = _FIT_RATE, _FIT_STEPS
        if not fitted and beside and mean[best] > 0:
            own_rate = max(own_rate, 0.5 * float(np.diff(places).max()))
            own_steps = max(own_steps, 0.5 * min(float(mean[k] / mean[best] - 1.0) for k in beside))
        spread, relative = np.hypot(spread, own_rate), np.hypot(relative, own_steps)
        return Tuned({name: value}, {name: float(slope * spread)}, steps, _in_steps(steps, relative), bool(edge))
    return Tuned({name: value}, {name: float(slope * spread)}, steps, float(steps * relative), bool(edge))


def _read_off(optimizer: Any, name: str, places: Array, found: Array, edge: bool) -> Tuned:
    """The best of a dense grid, in runs so short that steps jump from one whole number to the next.

    All places that cannot be told from the best, within a step or the error of their difference, are as good.
    """
    mean = _mean(found)
    best = int(mean.argmin())
    spread = _jackknife(list(found[best]), short=True)[1]
    good = places[mean <= mean[best] + max(1.0, spread)]
    half = 0.5 * (good[-1] - good[0]) + 0.5 * float(np.diff(places).max())
    centre = 0.5 * (good[0] + good[-1])
    ends = _from_line(optimizer, name, np.array([centre - half, centre + half]))
    steps = float(np.ceil(mean[best] - 1e-9)) if mean[best] > 0 else 0.0
    error = float(np.hypot(spread, _ROUNDING)) if steps > 0 else 0.0
    value = float(_from_line(optimizer, name, centre))
    return Tuned({name: value}, {name: float(0.5 * np.diff(ends)[0])}, steps, error, bool(edge))


def _in_steps(steps: float, relative: float) -> float:
    """Error of a whole number of steps: that of the crossing, and that of rounding it up."""
    return float(np.hypot(steps * relative, _ROUNDING)) if steps > 0 else 0.0


def _mean(found: Array) -> Array:
    """Steps by all trajectories, where every estimate arrived; else inf."""
    return np.where(np.isfinite(found).all(axis=1), found[:, 0], np.inf)


def _jackknife(estimates: list[float], short: bool) -> tuple[float, float]:
    """Best estimate and error: in short runs, as in `summarise`, without correcting the bias."""
    value, error = jackknife(np.array(estimates))
    return (estimates[0] if short else float(value)), float(error)


def _tune_many(route: Route, optimizer: Any, search: Mapping[str, tuple[float, float]], seed: int) -> Tuned:
    """Several hyperparameters: SciPy's differential evolution, a generation per call, then a local quadratic."""
    names = list(search)
    box = np.array([[float(_to_line(optimizer, name, b)) for b in search[name]] for name in names])

    def evaluate(places: Array, *, rough: bool) -> Array:
        candidates = {name: np.asarray(_from_line(optimizer, name, places[i])) for i, name in enumerate(names)}
        return route.steps(optimizer, candidates, rough=rough)

    def objective(places: Array) -> Any:
        # Not the rough estimate: with so few trajectories the search would find whichever candidate was luckiest.
        found = _mean(evaluate(places.reshape(len(names), -1), rough=False))
        # Infinite steps are all alike to the search, and worse than anything.
        return np.where(np.isfinite(found), np.log(np.maximum(found, 1e-9)), 1e3)

    for _ in range(_WIDEN + 1):
        evolved = optimize.differential_evolution(
            objective, box.tolist(), vectorized=True, updating="deferred", popsize=12, maxiter=25, tol=1e-3,
            polish=False, rng=seed, init="sobol",
        )  # fmt: skip
        if evolved.fun >= 1e3:
            return _unreachable(names)
        at_low = evolved.x < box[:, 0] + 0.02 * (box[:, 1] - box[:, 0])
        at_high = evolved.x > box[:, 1] - 0.02 * (box[:, 1] - box[:, 0])
        for i, name in enumerate(names):
            if domain_of(optimizer, name) is unit_interval and box[i, 0] <= 0:
                at_low[i] = False  # 0 is the end of the world, not of the search
        if not (at_low | at_high).any():
            break
        box[at_low, 0] -= np.log(8.0)
        box[at_high, 1] += np.log(8.0)
        for i, name in enumerate(names):
            if domain_of(optimizer, name) is unit_interval:
                box[i, 0] = max(box[i, 0], 0.0)
    edge = bool((at_low | at_high).any())

    # A quadratic surface over a star and its corners, for every estimate; inside the star's reach only.
    reach = 0.25
    moves = np.array(np.meshgrid(*[[-1.0, 0.0, 1.0]] * len(names))).reshape(len(names), -1) * reach
    places = evolved.x[:, np.newaxis] + moves
    for i, name in enumerate(names):
        if domain_of(optimizer, name) is unit_interval:
            places[i] = np.maximum(places[i], 0.0)
    found = evaluate(places, rough=False)
    mean = _mean(found)
    best = int(mean.argmin())
    near = np.isfinite(found).all(axis=1)
    tops, values, vertex = [], [], True
    for k in range(found.shape[1]):
        top, value = _vertex(places[:, near], np.log(np.maximum(found[near, k], 1e-9)), places[:, best], reach)
        tops.append(top)
        vertex &= value is not None
        values.append(float(np.log(max(found[best, k], 1e-9))) if value is None else value)
    centre, spread = jackknife(np.array(tops), axis=0)
    if route.sampled:
        # Where the surface has no vertex nearby, the star's reach is how well its centre is known.
        spread = np.hypot(spread, _FIT_RATE if vertex else reach)
    log_steps, relative = _jackknife(values, short=mean[best] <= _SHORT)
    result, errors = {}, {}
    for i, name in enumerate(names):
        result[name] = float(_from_line(optimizer, name, centre[i]))
        ends = _from_line(optimizer, name, centre[i] + np.array([-1e-6, 1e-6]))
        errors[name] = float(np.diff(ends)[0]) / 2e-6 * float(spread[i])
    steps = float(np.ceil(np.exp(log_steps) - 1e-9))
    if route.sampled:
        return Tuned(result, errors, steps, _in_steps(steps, float(np.hypot(relative, _FIT_STEPS))), edge)
    return Tuned(result, errors, steps, steps * relative, edge)


def _vertex(places: Array, values: Array, best: Array, reach: float) -> tuple[Array, float | None]:
    n = places.shape[0]
    x = places - best[:, np.newaxis]
    pairs = [(i, j) for i in range(n) for j in range(i, n)]
    if values.size < 1 + n + len(pairs):
        return best, None
    design = np.stack([np.ones(values.size), *x, *(x[i] * x[j] for i, j in pairs)], axis=1)
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    hessian = np.zeros((n, n))
    for (i, j), c in zip(pairs, coefficients[1 + n :], strict=True):
        hessian[i, j] += c
        hessian[j, i] += c
    if np.linalg.eigvalsh(hessian).min() <= 0:
        return best, None
    move = np.linalg.solve(hessian, -coefficients[1 : n + 1])
    if np.abs(move).max() > reach:
        return best, None
    return best + move, float(coefficients[0] + 0.5 * coefficients[1 : n + 1] @ move)


def tune(
    problem: NoisyQuadratic,
    optimizer: Any,
    search: Mapping[str, tuple[float, float]],
    *,
    batch_size: Number,
    target: float = 0.01,
    method: str = "simulate",
    trajectories: int = 4,
    replicates: int = 4,
    seed: int = 0,
    max_steps: int = 2**22,
    dtype: str = "float64",
    executor: Executor | None = None,
    threads: int | None = None,
) -> xr.Dataset:
    """Hyperparameters that reach a target in the fewest steps.

    Parameters
    ----------
    problem : NoisyQuadratic
    optimizer : optimizer
        With scalar hyperparameters; those in `search` are replaced.
    search : mapping of str to (low, high)
        Bounds of each hyperparameter to tune, such as ``{"lr": (1e-3, 1.0)}``. They are where the search starts, not
        where it ends: it widens by itself if the best lies at an edge.
    batch_size : Number
        One or several; each is tuned on its own.
    target : float
        Risk to reach, > 0.
    method : {"simulate", "analytic", "mean-field"}
        The route: the last two are theory, exact for linear optimizers and `mcnqm.analytic.mean_field` for adaptive
        ones.
    trajectories : int
        Trajectories of each replicate in a run of 40 000 steps; by simulation longer runs get fewer, shorter ones up to
        4 times, below 300 steps 16 times as many. Adam gets fewer where its twin helps.
    replicates, seed, max_steps, dtype, executor, threads
        As for `mcnqm.steps_to_target`.

    Returns
    -------
    xarray.Dataset
        Along the batch size's dimension, if it has one: each tuned hyperparameter under its own name with
        ``<name>_stderr`` beside it, ``steps``, ``steps_stderr`` (jackknife over replicates, and the local fit's own 1 %
        in a rate and 0.3 % in steps; 0 in closed form), and
        ``at_edge``: whether the best lies at an edge even after widening. NaN, and ``steps`` inf, where nothing
        reaches the target.

    Raises
    ------
    ParameterError
        If an argument is not allowed.

    Notes
    -----
    One hyperparameter: a grid of ratio 2 with few trajectories, widened by factors of 8 while the best lies at an
    edge; then eight points within a factor exp(±0.21), recentred while the best is at their edge, and a quartic of
    1 / steps through those near the best, for every estimate of the jackknife. Where fewer than 600 steps are
    needed, a dense grid over a factor 4 either way looks for other basins. In closed form the grid is refined to 1 %.
    Where there is a theory (exact or mean field), the search by simulation starts with seven points where that predicts
    at most 1.1 times the fewest steps. The start does not decide the answer: while the best lies at an edge, the points
    move on. Up to 100 steps the best is read off a dense grid, all within a step being as good.
    Several: SciPy's differential evolution, one generation per call, then a quadratic surface. All candidates see the
    same noise, so differences between them are less noisy than each is, and the answer is a function of the seed.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=100)
    >>> best = tune(problem, mcnqm.SGD(lr=1.0), {"lr": (0.01, 1.0)}, batch_size=16, target=0.05, method="analytic")
    >>> simulated = tune(problem, mcnqm.SGD(lr=1.0), {"lr": (0.01, 1.0)}, batch_size=16, target=0.05)
    >>> bool(abs(simulated.steps / best.steps - 1) < 0.05), bool(best.at_edge)
    (True, False)
    """
    if not isinstance(problem, NoisyQuadratic):
        raise ParameterError("problem", problem, "be a mcnqm.NoisyQuadratic")
    fields = numeric_fields(optimizer)
    if not isinstance(search, Mapping) or not search:
        raise ParameterError("search", search, 'look like {"lr": (1e-3, 1.0)}')
    for name, value in fields.items():
        if np.ndim(value) and name not in search:
            raise ParameterError(name, f"shape {np.shape(value)}", "be a scalar when other hyperparameters are tuned")
    checked = {name: _bounds(optimizer, name, bounds) for name, bounds in search.items()}
    if (shape := positive.check("target", target).shape) != ():
        raise ParameterError("target", f"shape {shape}", "be a scalar: each target has a best of its own")
    integer("seed", seed, 0, 2**64 - 1)
    choice("method", method, ("simulate", "analytic", "mean-field"))
    options = {
        "trajectories": integer("trajectories", trajectories, 1),
        "replicates": integer("replicates", replicates, 2),
        "seed": seed,
        "max_steps": integer("max_steps", max_steps, 1),
        "dtype": choice("dtype", dtype, ("float64", "float32")),
    }
    pool = Pool(executor, threads)
    if isinstance(batch_size, Schedule):
        raise ParameterError("batch_size", batch_size, "be the same at every step here")
    batch_size_domain.check("batch_size", getattr(batch_size, "values", batch_size))
    settings_of(optimizer._replace(**{name: bounds[0] for name, bounds in checked.items()}), batch_size)  # its labels
    if np.ndim(batch_size) > 1:
        raise ParameterError("batch_size", f"shape {np.shape(batch_size)}", "be a scalar or one-dimensional")
    if isinstance(batch_size, xr.DataArray):
        batch = batch_size
    else:
        plain = np.asarray(batch_size)
        along = ["batch_size"] if plain.ndim else []
        batch = xr.DataArray(plain, dims=along, coords=dict.fromkeys(along, plain))
    sizes = batch.values.reshape(-1).tolist()
    if method == "simulate":
        searches = {}
        for k, b in enumerate(sizes):
            route, theory, guide = SimulatedRoute(problem, b, target, options, pool), theory_of(optimizer), None
            if len(checked) == 1 and theory is not None:
                known = theory(problem, b, target)
                guide = guide_of(known, optimizer, next(iter(checked)), tune_one(known, optimizer, checked))
            searches[k] = route, search_of(route, optimizer, checked, seed=seed, guide=guide)
        found = dict(tune_together(searches, pool))
        results = [found[k] for k in range(len(sizes))]
    else:
        exactly = exact_route if method == "analytic" else mean_field_route
        results = [tune_one(exactly(problem, b, target), optimizer, checked, seed=seed) for b in sizes]

    def labelled(values: list[Any], units: str = "") -> xr.DataArray:
        return batch.copy(data=np.array(values).reshape(batch.shape)).assign_attrs({"units": units} if units else {})

    data = {}
    for name in checked:
        data[name] = labelled([r.values[name] for r in results])
        data[f"{name}_stderr"] = labelled([r.errors[name] for r in results])
    data["steps"] = labelled([r.steps for r in results], "steps")
    data["steps_stderr"] = labelled([r.steps_error for r in results], "steps")
    data["at_edge"] = labelled([r.at_edge for r in results])
    attrs = {"method": method, "target": target, "optimizer": repr(optimizer), "mcnqm_version": __version__}
    if method == "simulate":
        attrs["dtype"] = dtype
    return xr.Dataset(data, attrs=attrs)


def _bounds(optimizer: Any, name: str, bounds: Any) -> tuple[float, float]:
    if name not in numeric_fields(optimizer):
        allowed = f"name hyperparameters among {', '.join(numeric_fields(optimizer))}"
        raise ParameterError("search", name, allowed)
    domain = domain_of(optimizer, name)
    try:
        low, high = bounds
    except (TypeError, ValueError):
        raise ParameterError(name, bounds, "be searched between two bounds (low, high)") from None
    domain.check(name, low)
    domain.check(name, high)
    if not low < high:
        raise ParameterError(name, bounds, "be searched between bounds with low < high")
    if domain is not unit_interval and not low > 0:
        raise ParameterError(name, bounds, "be searched between bounds > 0, on a logarithmic axis")
    return float(low), float(high)
