"""The best hyperparameters: fewest steps to a target, by either route."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.arguments import default, refuse_unused, renamed, value_of
from mcnqm.domains import choice, integer, positive, unit_interval
from mcnqm.engine import Pool, may_join
from mcnqm.errors import ParameterError
from mcnqm.flags import Flag, flag_attrs
from mcnqm.optimizers import Number, domain_of, numeric_fields
from mcnqm.problems import Problem, check_any_problem
from mcnqm.progress import Meter, NoMeter, meter_of
from mcnqm.provenance import recorded
from mcnqm.schedules import Schedule
from mcnqm.settings import batch_size_domain, settings_of
from mcnqm.statistics import BOUNDS
from mcnqm.tuning.checks import check_theory
from mcnqm.tuning.line import search_line
from mcnqm.tuning.passages import LONGEST_BY_DEFAULT
from mcnqm.tuning.race import Race, run_races
from mcnqm.tuning.routes import NUMBERS, Found, Query, Route, SimulatedRoute, exact_route, mean_field_route, theory_of
from mcnqm.tuning.search import Search, Tuned, from_line, to_line
from mcnqm.tuning.surface import search_surface

__all__ = ["WarmStart", "checked", "guide_of", "search_of", "tune", "tune_one", "tune_together"]

T = TypeVar("T")

Array = NDArray[np.float64]

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


def tune_together(searches: Mapping[T, tuple[SimulatedRoute, Search]], pool: Pool) -> Iterator[tuple[T, Tuned]]:
    """Many searches by simulation, on the same noise where they can share it; yield each answer once it is known.

    Noise is most of what a run with few settings costs. Answers are the same as of each on its own, bit for bit.
    """
    waiting: dict[T, Race] = {}

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
    places = centre + np.linspace(-0.3, 0.3, 25 if route.exact else 9)
    if domain_of(optimizer, name) is unit_interval:
        places = places[places >= 0]
    candidates = {name: from_line(optimizer, name, places)}
    found = route.find(Query(optimizer, candidates, expected=best.steps)).steps[:, 0]
    at = int(found.argmin())
    good = found <= _AROUND * found[at] + 1.0
    low, high = at, at
    while low > 0 and good[low - 1]:
        low -= 1
    while high < places.size - 1 and good[high + 1]:
        high += 1
    # Next to a cliff few places are good.
    low, high = min(low, max(at - 2, 0)), max(high, min(at + 1, places.size - 1))
    bounds = from_line(optimizer, name, places[[low, high]])
    return WarmStart((float(bounds[0]), float(bounds[1])), float(found[at]))


def checked(tuned: Tuned, theory: Tuned | None, *, exact: bool, max_steps: float = np.inf) -> Tuned:
    """The answer with what theory's own optimum, and an edge, say of it; nothing if that lies beyond `max_steps`."""
    flags = tuned.flags | (int(Flag.AT_EDGE) if tuned.at_edge else 0)
    if theory is not None and not max_steps < theory.steps < np.inf:
        error, freedom = tuned.steps_error, max(tuned.freedom, 1)
        flags |= int(check_theory(tuned.steps, error, freedom, theory.steps, exact=exact, slack=_SLACK))
    return replace(tuned, flags=flags)


@recorded("mcnqm.tune")
def tune(
    problem: Problem,
    optimizer: Any,
    search: Mapping[str, tuple[float, float]],
    *,
    batch_size: Number,
    target: float = 0.01,
    method: str = "simulate",
    reference_trajectories: int = default(1),
    replicates: int = default(16),
    seed: int = default(0),
    max_steps: int | None = None,
    dtype: str = default("float64"),
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Any = False,
    trajectories: int | None = None,
) -> xr.Dataset:
    """Hyperparameters that reach a target in the fewest steps.

    Parameters
    ----------
    problem : NoisyQuadratic or landscape
        Landscapes by simulation alone.
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
        ones. What only a simulation uses is refused with these: `reference_trajectories`, `replicates`, `dtype`,
        `executor` and `threads`, and `seed` unless several hyperparameters are tuned, whose search draws at random.
    reference_trajectories, replicates : int
        Their product is the number of trajectories in a run of 40 000 steps of 1000 coordinates. By simulation longer
        runs get fewer (8 at least), shorter ones and those of fewer coordinates more: up to 4 times, below 300 steps
        or up to 250 coordinates 16 times as many. Adam gets an eighth where its twin helps. Each of `replicates`
        groups (or of as many as there are trajectories) is left out in turn for the errors.
    seed, max_steps, dtype, executor, threads
        As for `mcnqm.steps_to_target`.
    progress : bool or Meter
        A bar over the batch sizes.
    trajectories : int, optional
        Deprecated name of `reference_trajectories`.

    Returns
    -------
    xarray.Dataset
        Along the batch size's dimension, if it has one:

        - each tuned hyperparameter under its own name, with ``<name>_stderr`` and ``<name>_interval`` (bound: low,
          high) beside it. The interval is 95 % by Student's t, and holds all values whose steps cannot be told from the
          fewest;
        - ``steps``, ``steps_stderr``, ``steps_interval``: by the jackknife over replicates, with a local fit's own 1 %
          in a rate and 0.3 % in steps. Up to 600 steps, and of several hyperparameters, those of the winner on fresh
          noise;
        - ``freedom``: degrees of freedom of the errors; 0 in closed form, where they are 0;
        - ``at_edge``: whether the best lies at an edge even after widening;
        - ``flags``: bits of `mcnqm.flags.Flag`, named in ``flag_meanings``.

        NaN, and ``steps`` inf, where nothing reaches the target.

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
    Up to 600 steps the winner runs again on fresh noise, and its steps are reported: the fewest of several candidates
    on the same noise are too few.

    Several: SciPy's differential evolution, one generation per call, of the steps plus two standard errors; its eight
    best candidates again on fresh noise; a quadratic surface about the winner on noise of its own; and the top of that
    (or the winner, if the top does not hold what it promises) on fresh noise once more, whose steps are reported.
    All candidates of a call see the same noise, so differences between them are less noisy than each is, and the
    answer is a function of the seed. Fresh noise is that of trajectories 2**31 and above.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=100)
    >>> best = tune(problem, mcnqm.SGD(lr=1.0), {"lr": (0.01, 1.0)}, batch_size=16, target=0.05, method="analytic")
    >>> simulated = tune(problem, mcnqm.SGD(lr=1.0), {"lr": (0.01, 1.0)}, batch_size=16, target=0.05)
    >>> bool(abs(simulated.steps / best.steps - 1) < 0.05), bool(best.at_edge)
    (True, False)
    """
    check_any_problem(problem)
    fields = numeric_fields(optimizer)
    if not isinstance(search, Mapping) or not search:
        raise ParameterError("search", search, 'look like {"lr": (1e-3, 1.0)}')
    for name, value in fields.items():
        if np.ndim(value) and name not in search:
            raise ParameterError(name, f"shape {np.shape(value)}", "be a scalar when other hyperparameters are tuned")
    bounds = {name: _bounds(optimizer, name, ends) for name, ends in search.items()}
    if (shape := positive.check("target", target).shape) != ():
        raise ParameterError("target", f"shape {shape}", "be a scalar: each target has a best of its own")
    choice("method", method, ("simulate", "analytic", "mean-field"))
    reference_trajectories = renamed("trajectories", trajectories, "reference_trajectories", reference_trajectories)
    if method != "simulate":
        allowed = f"be left out with method={method!r}, which simulates nothing"
        refuse_unused(
            allowed, reference_trajectories=reference_trajectories, replicates=replicates, dtype=dtype,
            executor=executor, threads=threads,
        )  # fmt: skip
        if len(bounds) == 1:
            refuse_unused(allowed, seed=seed)
    options: dict[str, Any] = {
        "trajectories": integer("reference_trajectories", value_of(reference_trajectories), 1),
        "replicates": integer("replicates", value_of(replicates), 2),
        "seed": integer("seed", value_of(seed), 0, 2**64 - 1),
        "max_steps": LONGEST_BY_DEFAULT if max_steps is None else integer("max_steps", max_steps, 1),
        "dtype": choice("dtype", value_of(dtype), ("float64", "float32")),
    }
    pool, meter = Pool(executor, threads), meter_of(progress)
    if isinstance(batch_size, Schedule):
        raise ParameterError("batch_size", batch_size, "be the same at every step here")
    batch_size_domain.check("batch_size", getattr(batch_size, "values", batch_size))
    settings_of(optimizer._replace(**{name: ends[0] for name, ends in bounds.items()}), batch_size)  # its labels
    if np.ndim(batch_size) > 1:
        raise ParameterError("batch_size", f"shape {np.shape(batch_size)}", "be a scalar or one-dimensional")
    if isinstance(batch_size, xr.DataArray):
        batch = batch_size
    else:
        plain = np.asarray(batch_size)
        along = ["batch_size"] if plain.ndim else []
        batch = xr.DataArray(plain, dims=along, coords=dict.fromkeys(along, plain))
    sizes = batch.values.reshape(-1).tolist()
    meter.start(float(len(sizes)), "tuning")
    try:
        results = (
            _simulated(problem, optimizer, bounds, sizes, target, options, pool, meter)
            if method == "simulate"
            else _by_theory(problem, optimizer, bounds, sizes, target, method, options["seed"], max_steps, meter)
        )
    finally:
        meter.close()

    def labeled(values: list[Any], attrs: Mapping[str, Any]) -> xr.DataArray:
        return batch.copy(data=np.array(values).reshape(batch.shape)).assign_attrs(attrs)

    def interval(ends: list[tuple[float, float]], attrs: Mapping[str, Any]) -> xr.DataArray:
        parts = [labeled([pair[k] for pair in ends], attrs) for k in range(2)]
        return xr.concat(parts, dim="bound", join="exact").transpose(..., "bound").assign_coords(bound=list(BOUNDS))

    data, in_steps = {}, {"units": "steps"}
    for name in bounds:
        data[name] = labeled([r.values[name] for r in results], {})
        data[f"{name}_stderr"] = labeled([r.errors[name] for r in results], {})
        data[f"{name}_interval"] = interval([r.intervals[name] for r in results], {})
    data["steps"] = labeled([r.steps for r in results], in_steps)
    data["steps_stderr"] = labeled([r.steps_error for r in results], in_steps)
    data["steps_interval"] = interval([r.steps_interval for r in results], in_steps)
    data["freedom"] = labeled([r.freedom for r in results], {"long_name": "degrees of freedom of the errors"})
    data["at_edge"] = labeled([r.at_edge for r in results], {})
    data["flags"] = labeled([np.int32(r.flags) for r in results], flag_attrs())
    simulated = {"dtype": options["dtype"], "seed": str(options["seed"])} if method == "simulate" else {}
    return xr.Dataset(data, attrs=simulated)


def _simulated(
    problem: Problem,
    optimizer: Any,
    bounds: Mapping[str, tuple[float, float]],
    sizes: list[float],
    target: float,
    options: Mapping[str, Any],
    pool: Pool,
    meter: Meter,
) -> list[Tuned]:
    """The best at each batch size by simulation: all searches side by side, each from where its theory points."""
    searches, known, theory = {}, {}, theory_of(problem, optimizer, bounds)
    for k, b in enumerate(sizes):
        route, guide = SimulatedRoute(problem, b, target, options, pool), None
        if len(bounds) == 1 and theory is not None:
            predicted = theory(problem, b, target)
            known[k] = tune_one(predicted, optimizer, bounds)
            guide = guide_of(predicted, optimizer, next(iter(bounds)), known[k])
        searches[k] = route, search_of(route, optimizer, bounds, seed=options["seed"], guide=guide)
    found = {}
    for k, best in tune_together(searches, pool):
        found[k] = best
        meter.advance(1.0)
    exact, limit = theory is exact_route, float(options["max_steps"])
    return [checked(found[k], known.get(k), exact=exact, max_steps=limit) for k in range(len(sizes))]


def _by_theory(
    problem: Any,
    optimizer: Any,
    bounds: Mapping[str, tuple[float, float]],
    sizes: list[float],
    target: float,
    method: str,
    seed: int,
    max_steps: int | None,
    meter: Meter,
) -> list[Tuned]:
    """The best at each batch size by one of the theories."""
    route_at, results = exact_route if method == "analytic" else mean_field_route, []
    for b in sizes:
        best = tune_one(route_at(problem, b, target, max_steps), optimizer, bounds, seed=seed)
        results.append(checked(best, None, exact=True))
        meter.advance(1.0)
    return results


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
