"""The best hyperparameters, by either route: fewest steps to a target, or least risk after a number of steps."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np
import xarray as xr

from mcnqm.arguments import default, given, refuse_unused, renamed, value_of
from mcnqm.domains import MOST_STEPS, choice, integer, unit_interval
from mcnqm.engine import Pool
from mcnqm.errors import ParameterError
from mcnqm.flags import flag_attrs
from mcnqm.optimizers import SGD, Adam, Number, RMSProp, domain_of, numeric_fields
from mcnqm.problems import Problem, check_any_problem
from mcnqm.progress import Meter, meter_of
from mcnqm.provenance import recorded
from mcnqm.record import MAX_STEPS
from mcnqm.tuning.batch_sizes import BatchSizes
from mcnqm.tuning.goals import Goal, goal_of
from mcnqm.tuning.passages import LONGEST_BY_DEFAULT
from mcnqm.tuning.routes import exact_route, mean_field_route, theory_of
from mcnqm.tuning.search import Tuned
from mcnqm.tuning.searches import checked, guide_of, search_of, tune_one, tune_together

__all__ = ["tune"]


@recorded("mcnqm.tune")
def tune(
    problem: Problem,
    optimizer: Any,
    search: Mapping[str, tuple[float, float]],
    batch_size: Number,
    *,
    target: float = default(0.01),
    steps: int | None = None,
    examples: int | None = None,
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
    """Hyperparameters that reach a target in the fewest steps, or have the least risk after a number of steps.

    Parameters
    ----------
    problem : NoisyQuadratic or landscape
        Landscapes by simulation alone.
    optimizer : optimizer
        With scalar hyperparameters; those in `search` are replaced. A hyperparameter that is not tuned may follow the
        batch size instead: a DataArray along its dimension, with a value for each batch size.
    search : mapping of str to (low, high)
        Bounds of each hyperparameter to tune, such as ``{"lr": (1e-3, 1.0)}``. They are where the search starts, not
        where it ends: it widens by itself if the best lies at an edge.
    batch_size : Number
        One or several; each is tuned on its own.
    target : float
        Risk to reach, > 0, in the fewest steps. Exactly one of `target`, `steps` and `examples` is sought; the default,
        0.01, holds where none is given.
    steps : int, optional
        Length of a run, at least 1, after which the risk is to be least.
    examples : int, optional
        The same at equal examples: the batch size B decides the number of steps, ceil(examples / B).
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
        As for `mcnqm.steps_to_target`. `max_steps` is refused with `steps` and `examples`.
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
        - with `steps` or `examples`, in place of these: ``risk``, ``risk_stderr``, ``risk_interval`` after ``steps``,
          the number of steps that were run. By simulation the risk is that of the returned hyperparameters on fresh
          noise, and so at or above the least there is;
        - ``freedom``: degrees of freedom of the errors; 0 in closed form, where they are 0;
        - ``at_edge``: whether the best lies at an edge even after widening;
        - ``flags``: bits of `mcnqm.flags.Flag`, named in ``flag_meanings``.

        NaN, and ``steps`` inf, where nothing reaches the target; ``risk`` inf where everything diverges.
        Hyperparameters that follow the batch size are coordinates.

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

    At a fixed number of steps the searches are the same up to their end. The estimated risk is the mean loss after the
    last step (of optimizers with a mean-field twin, with that as control variate), and inf where a trajectory has
    diverged. All candidates see the same noise, so it is a smooth function of the hyperparameters. One hyperparameter:
    a quartic through the log risks near the best, for every estimate of the jackknife, on a grid that is narrowed
    until a quartic fits, and widened until its ends can be told from the best. The interval holds all values whose risk
    exceeds the least by less than can be told, or by less than 0.1 %. Several: quadratic surfaces of the log risk over
    ever smaller stars; an interval, on noise of its own, follows the valley along its hyperparameter. The winner always
    runs again on fresh noise, with four times as many trajectories. If a single hyperparameter is tuned and there is a
    theory, exact or mean field, its least risk checks that of the simulation. ``docs/steps.md`` has measurements.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=100)
    >>> best = tune(problem, mcnqm.SGD(lr=1.0), {"lr": (0.01, 1.0)}, batch_size=16, target=0.05, method="analytic")
    >>> simulated = tune(problem, mcnqm.SGD(lr=1.0), {"lr": (0.01, 1.0)}, batch_size=16, target=0.05)
    >>> bool(abs(simulated.steps / best.steps - 1) < 0.05), bool(best.at_edge)
    (True, False)

    The least risk after 10 000 examples, with a momentum that is lower at the larger batch size:

    >>> import xarray as xr
    >>> momentum = xr.DataArray([0.9, 0.5], dims="batch_size", coords={"batch_size": [4, 64]})
    >>> sgd = mcnqm.SGD(lr=1.0, momentum=momentum)
    >>> best = tune(problem, sgd, {"lr": (0.001, 1.0)}, batch_size=[4, 64], examples=10_000, method="analytic")
    >>> best.steps.values.tolist(), best.momentum.values.tolist()
    ([2500, 157], [0.9, 0.5])
    >>> simulated = tune(problem, sgd, {"lr": (0.001, 1.0)}, batch_size=[4, 64], examples=10_000)
    >>> bool((abs(simulated.risk / best.risk - 1) < 0.1).all())
    True
    """
    check_any_problem(problem)
    if not isinstance(search, Mapping) or not search:
        raise ParameterError("search", search, 'look like {"lr": (1e-3, 1.0)}')
    bounds = {name: _bounds(optimizer, name, ends) for name, ends in search.items()}
    choice("method", method, ("simulate", "analytic", "mean-field"))
    _check_theory(optimizer, method)
    goal = goal_of(target, steps, examples, max_steps, MAX_STEPS if method == "simulate" else MOST_STEPS)
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
    pool, meter, batches = Pool(executor, threads), meter_of(progress), BatchSizes(batch_size, optimizer, bounds)
    meter.start(float(len(batches.sizes)), "tuning")
    try:
        results = (
            _simulated(problem, bounds, batches, goal, options, pool, meter)
            if method == "simulate"
            else _by_theory(problem, bounds, batches, goal, method, options["seed"], max_steps, meter)
        )
    finally:
        meter.close()
    return _answer(bounds, batches, goal, results).assign_attrs(
        **({"target": goal.target} if goal.target is not None and not given(target) else {}),
        **({"dtype": options["dtype"], "seed": str(options["seed"])} if method == "simulate" else {}),
    )


def _answer(bounds: Mapping[str, Any], batches: BatchSizes, goal: Goal, results: list[Tuned]) -> xr.Dataset:
    """What `tune` returns."""
    data = {}
    for name in bounds:
        data[name] = batches.labeled([r.values[name] for r in results], {})
        data[f"{name}_stderr"] = batches.labeled([r.errors[name] for r in results], {})
        data[f"{name}_interval"] = batches.interval([r.intervals[name] for r in results], {})
    found, units = ("steps", {"units": "steps"}) if goal.target is not None else ("risk", {"units": "loss"})
    data[found] = batches.labeled([r.steps for r in results], units)
    data[f"{found}_stderr"] = batches.labeled([r.steps_error for r in results], units)
    data[f"{found}_interval"] = batches.interval([r.steps_interval for r in results], units)
    if goal.target is None:
        data["steps"] = batches.labeled([goal.horizon(b) for b in batches.sizes], {"units": "steps"})
    data["freedom"] = batches.labeled([r.freedom for r in results], {"long_name": "degrees of freedom of the errors"})
    data["at_edge"] = batches.labeled([r.at_edge for r in results], {})
    data["flags"] = batches.labeled([np.int32(r.flags) for r in results], flag_attrs())
    return xr.Dataset(data, coords=batches.coords())


def _simulated(
    problem: Problem,
    bounds: Mapping[str, tuple[float, float]],
    batches: BatchSizes,
    goal: Goal,
    options: Mapping[str, Any],
    pool: Pool,
    meter: Meter,
) -> list[Tuned]:
    """The best at each batch size by simulation: all searches side by side, each from where its theory points."""
    searches, known, kinds = {}, {}, {}
    for k, (b, optimizer) in enumerate(zip(batches.sizes, batches.optimizers, strict=True)):
        route, guide = goal.simulation(problem, b, options, pool), None
        kinds[k] = theory_of(problem, optimizer, bounds)
        if len(bounds) == 1 and kinds[k] is not None:
            predicted = goal.theory(kinds[k], problem, b)
            known[k] = tune_one(predicted, optimizer, bounds)
            guide = guide_of(predicted, optimizer, next(iter(bounds)), known[k])
        searches[k] = route, search_of(route, optimizer, bounds, seed=options["seed"], guide=guide)
    found = {}
    for k, best in tune_together(searches, pool):
        found[k] = best
        meter.advance(1.0)
    limit = float(options["max_steps"]) if goal.target is not None else np.inf
    return [
        checked(found[k], known.get(k), exact=kinds[k] is exact_route, max_steps=limit, horizon=goal.horizon(b))
        for k, b in enumerate(batches.sizes)
    ]


def _by_theory(
    problem: Any,
    bounds: Mapping[str, tuple[float, float]],
    batches: BatchSizes,
    goal: Goal,
    method: str,
    seed: int,
    max_steps: int | None,
    meter: Meter,
) -> list[Tuned]:
    """The best at each batch size by one of the theories."""
    kind, results = exact_route if method == "analytic" else mean_field_route, []
    for b, optimizer in zip(batches.sizes, batches.optimizers, strict=True):
        best = tune_one(goal.theory(kind, problem, b, max_steps), optimizer, bounds, seed=seed)
        results.append(checked(best, None, exact=True))
        meter.advance(1.0)
    return results


def _check_theory(optimizer: Any, method: str) -> None:
    """Refuse an optimizer that a theory does not know, before the theory sees the candidates."""
    other = f"with method={method!r}; method='simulate' takes any optimizer"
    if method == "analytic" and not isinstance(optimizer, SGD):
        raise ParameterError("optimizer", type(optimizer).__name__, f"be linear (mcnqm.SGD) {other}")
    if method == "mean-field" and not isinstance(optimizer, (Adam, RMSProp)):
        raise ParameterError("optimizer", type(optimizer).__name__, f"be Adam or RMSProp {other}")


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
