"""Steps to target, by either route."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.arguments import default, refuse_unused, renamed, value_of
from mcnqm.averaging import checked_average
from mcnqm.domains import choice, integer, positive
from mcnqm.engine import Job, Pool, has_twin, twin_cells
from mcnqm.errors import ParameterError
from mcnqm.flags import flag_attrs
from mcnqm.optimizers import SGD, Lion, Number, numeric_fields
from mcnqm.problems import Problem, check_any_problem, is_quadratic, unknown_to_twins
from mcnqm.progress import meter_of
from mcnqm.provenance import recorded
from mcnqm.record import MAX_STEPS
from mcnqm.settings import Settings, settings_of
from mcnqm.statistics import BOUNDS
from mcnqm.tuning.checks import check_bound, check_sample, check_theory, has_theory, theoretical_steps
from mcnqm.tuning.race import REASONS, Race, at_least, run_races, summarise
from mcnqm.tuning.smoothing import Swing

__all__ = ["LONGEST_BY_DEFAULT", "race_of", "steps_to_target", "use_twins", "whole_steps"]

LONGEST_BY_DEFAULT = 2**22
"""Where a simulation gives up by default: what has not settled by then seldom reaches its target."""


@recorded("mcnqm.steps_to_target")
def steps_to_target(
    problem: Problem,
    optimizer: Any,
    batch_size: Number,
    target: Number = 0.01,
    *,
    method: str = "simulate",
    trajectories: int = default(4),
    replicates: int = default(16),
    seed: int = default(0),
    max_steps: int | None = None,
    overtaken_factor: float | None = None,
    control_variate: bool | None = None,
    average: Any = None,
    dtype: str = default("float64"),
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Any = False,
    patience: float | None = None,
) -> xr.Dataset:
    r"""First step at which the risk is at or below a target.

    Parameters
    ----------
    problem : NoisyQuadratic or landscape
        Landscapes by simulation alone. There the risk is that of the loss above its least (see `mcnqm.simulate`).
    optimizer : optimizer
        Hyperparameters may be swept, and change with the step (`mcnqm.schedules`); all settings advance together, on
        common random numbers.
    batch_size : Number
        Examples per step, or a schedule.
    target : Number
        Risk to reach, > 0. An array makes a dimension ``target``.
    method : {"simulate", "analytic", "mean-field"}
        ``"analytic"`` is exact, and for linear optimizers only: see `mcnqm.analytic.steps_to_target`;
        ``"mean-field"`` is a theory of Adam and RMSProp: see `mcnqm.analytic.mean_field`. What only a simulation uses
        is refused with these two: `trajectories`, `replicates`, `seed`, `control_variate`, `dtype`, `executor` and
        `threads`.
    trajectories : int
        Trajectories of each replicate. The mean loss over all of them stands for the risk.
    replicates : int
        Groups of trajectories, at least 2, left out in turn for the standard error.
    seed : int
        0 to 2**64 - 1.
    max_steps : int, optional
        Where to give up. By default as far as the method goes: 2**22 steps by simulation, and as far as
        `mcnqm.analytic.steps_to_target` and `mcnqm.analytic.mean_field.steps_to_target` go.
    overtaken_factor : float, optional
        Once some setting has reached the target after t steps, the others stop at so many times t. Not by
        ``"analytic"``.
    control_variate : bool, optional
        Whether to estimate the risk of an adaptive optimizer with the help of its mean-field twin (see
        `mcnqm.simulate`). By default wherever that is possible: not for optimizers without a twin, with an average, in
        float32, with multiplicative noise or on a landscape; there True is refused.
    average : Number, optional
        Weight of the past in an average of the iterates, or a schedule of it, as for `mcnqm.simulate`: the target is
        the average's. Not by ``"mean-field"``.
    dtype : {"float64", "float32"}
        As for `mcnqm.simulate`, by simulation; the second has neither control variates nor averages.
    executor, threads, progress
        As for `mcnqm.simulate`.
    patience : float, optional
        Deprecated name of `overtaken_factor`.

    Returns
    -------
    xarray.Dataset
        ``steps`` (…), inf where the target was not reached, and by simulation

        - ``steps_stderr`` (…): by the jackknife over replicates, and no less than half the interval over Student's t;
        - ``steps_interval`` (…, bound: low, high): 95 % interval, see the notes; its end is inf where the risk cannot
          be told from one that does not reach the target. NaN where the target was not reached;
        - ``steps_jackknife`` (…, estimate: of all trajectories, then without each replicate in turn);
        - ``reason`` (…): "reached", "diverged", "steady state above target", "step limit" or "overtaken" (see
          `overtaken_factor`);
        - ``flags`` (…): bits of `mcnqm.flags.Flag`, named in ``flag_meanings``: few effective replicates; another
          answer by theory (more than 10 % from the exact one, or a step and what Student's t exceeds once in 10⁵; more
          than 25 % from the mean field's); fewer examples than the Bayes bound; a passage that part of the sample does
          not make.

    Raises
    ------
    ParameterError
        If an argument is not allowed.

    Notes
    -----
    By simulation the answer is the first step at which the estimated risk is at or below the target (looks are 1 step
    apart up to 256, then 4 steps or 1/256 of the steps so far, with interpolation between). A dip of the risk counts,
    however short; a dip of the noise should not, so beyond 96 steps the mean loss over all trajectories is smoothed by
    a local quadratic regression on log t, over a factor of at most exp(±0.12) in t, exp(±0.25) beyond 2000 steps
    without a control variate, and not across a jump of a schedule. The window is narrower wherever a quadratic does
    not follow the risk: by the exact risk while the momentum of SGD may oscillate, by the expected loss of Adam's
    twin, and by the estimates themselves (`mcnqm.tuning.smoothing`). What bias is left by the nonlinearity of a
    first passage falls like one over the number of trajectories, and the jackknife removes its leading part:
    ``steps`` is so corrected, and rounded up. ``docs/steps.md`` has measurements.

    The interval begins at the first step at which the risk may be at the target, and ends at the first from which it
    surely is, by the ends of an interval of the risk at each look (`mcnqm.statistics.mean_interval` over what the
    replicates contribute). So it is as long as the risk is flat, and holds all dips that may count.

    A setting whose risk falls by less than 2 % in two successive octaves of steps, below half or above all of the
    initial risk, is taken to be in its steady state; under SGD only if the exact steady state is above the target, and
    under a schedule only once it has settled.

    Crossings within the first 96 steps are those of the mean of all trajectories, without a correction: there the
    error is that of the draw of starting points, and more trajectories are cheap. Adam, RMSProp and Lion are taken as
    they are for as long as their momentum may oscillate, if no twin runs along.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=100)
    >>> optimizer = mcnqm.SGD(lr=[0.1, 0.5])
    >>> found = steps_to_target(problem, optimizer, batch_size=64, target=0.1)
    >>> exact = steps_to_target(problem, optimizer, batch_size=64, target=0.1, method="analytic")
    >>> bool((abs(found.steps - exact.steps) < 0.1 * exact.steps).all())
    True
    """
    choice("method", method, ("simulate", "analytic", "mean-field"))
    overtaken_factor = renamed("patience", patience, "overtaken_factor", overtaken_factor)
    meter = meter_of(progress)
    if method != "simulate":
        ask: Callable[..., xr.Dataset]
        options: dict[str, Any]
        refuse_unused(
            f"be left out with method={method!r}, which simulates nothing",
            trajectories=trajectories, replicates=replicates, seed=seed, control_variate=control_variate, dtype=dtype,
            executor=executor, threads=threads,
        )  # fmt: skip
        if method == "analytic":
            refuse_unused("be left out with method='analytic': no setting waits", overtaken_factor=overtaken_factor)
            ask, options = analytic.steps_to_target, {"average": average}
        else:
            refuse_unused("be None in the mean field", average=average)
            ask, options = analytic.mean_field.steps_to_target, {"overtaken_factor": overtaken_factor}
        meter.start(1.0, "steps to target")
        try:
            quadratic: Any = problem  # which theory checks
            answer = ask(quadratic, optimizer, batch_size, target, max_steps=max_steps, **options)
        finally:
            meter.close()
        return answer.assign_attrs(method=method)
    replicates, trajectories, dtype = value_of(replicates), value_of(trajectories), value_of(dtype)
    choice("dtype", dtype, ("float64", "float32"))
    most = LONGEST_BY_DEFAULT if max_steps is None else max_steps
    race, settings = race_of(
        problem, optimizer, batch_size, target, trajectories=trajectories, replicates=replicates,
        seed=value_of(seed), max_steps=most, patience=overtaken_factor, control_variate=control_variate,
        average=average, dtype=dtype, certain=True,
    )  # fmt: skip
    meter.start(float("nan"), "steps to target")
    try:
        ((_, result),) = run_races([race], Pool(executor, threads), meter)
    finally:
        meter.close()
    crossing, jackknifed = summarise(result.steps)
    stderr = at_least(jackknifed, result.interval, replicates - 1)
    steps = whole_steps(crossing)
    # The interval is that of the whole sample's crossing: moved with the jackknife's correction, and rounded likewise.
    with np.errstate(invalid="ignore"):
        moved = np.where(np.isfinite(crossing), crossing - result.steps[:, 0], 0.0)[:, np.newaxis]
        interval = whole_steps(np.maximum(result.interval + moved, 0.0)) - np.array([1.0, 0.0])
        interval = np.where(steps[:, np.newaxis] > 0, np.maximum(interval, 0.0), result.interval)
    flags = check_sample(steps, jackknifed, interval[:, 1], result.effective)
    values = settings.values
    if "batch_size" not in settings.schedules:
        flags |= check_bound(problem, values["batch_size"], values["target"], interval[:, 1])
    if has_theory(problem, optimizer) and not settings.schedules and average is None:
        theory = theoretical_steps(problem, optimizer, batch_size, target).transpose(*settings.dims).values.reshape(-1)
        # Who was given up, or would have been, says nothing.
        late = np.isin(result.reason, (REASONS.index("overtaken"), REASONS.index("step limit")))
        late |= np.isfinite(theory) & (theory > most)
        theory = np.where(late, np.nan, theory)
        flags |= check_theory(steps, stderr, int(replicates) - 1, theory, exact=isinstance(optimizer, SGD))
    dims = settings.dims
    reasons = np.array(REASONS)[result.reason]
    return xr.Dataset(
        {
            "steps": (dims, settings.unflatten(steps), {"units": "steps"}),
            "steps_stderr": (dims, settings.unflatten(stderr), {"units": "steps"}),
            "steps_interval": ((*dims, "bound"), settings.unflatten(interval), {"units": "steps"}),
            "steps_jackknife": ((*dims, "estimate"), settings.unflatten(result.steps), {"units": "steps"}),
            "reason": (dims, settings.unflatten(reasons)),
            "flags": (dims, settings.unflatten(flags), flag_attrs()),
        },
        coords={
            **settings.coords,
            "bound": list(BOUNDS),
            "estimate": ["all", *(f"without {k}" for k in range(replicates))],
        },
        attrs={
            "method": "simulate",
            "trajectories": int(trajectories),
            "replicates": int(replicates),
            "seed": str(value_of(seed)),  # as text: netCDF 3 has no integers of 64 bits
            "dtype": dtype,
        },
    )


def race_of(
    problem: Problem,
    optimizer: Any,
    batch_size: Number,
    target: Number,
    *,
    trajectories: int,
    replicates: int,
    seed: int,
    max_steps: int,
    patience: float | None = None,
    control_variate: bool | None = None,
    average: Any = None,
    dtype: str = "float64",
    certain: bool = False,
    first: int = 0,
) -> tuple[Race, Settings]:
    """A sweep that is about to start, and its settings; see `steps_to_target`.

    `first` is the number of the first trajectory: others have noise of their own.
    """
    check_any_problem(problem)
    positive.check("target", getattr(target, "values", target))
    averaged = {} if average is None else {"average": checked_average(average)}
    settings = settings_of(optimizer, batch_size, schedules=True, **averaged, target=target)
    each = integer("trajectories", trajectories, 1, 2**20)
    count = integer("replicates", replicates, 2, 2**10)
    limit = integer("max_steps", max_steps, 1, MAX_STEPS)
    if patience is not None and not (isinstance(patience, (int, float)) and patience >= 1):
        raise ParameterError("overtaken_factor", patience, "be >= 1")
    key = integer("seed", seed, 0, 2**64 - 1)
    values = dict(settings.values)
    targets = values.pop("target")
    plain = replace(settings, values=values)
    single = dtype == "float32"
    if single and average is not None:
        raise ParameterError("average", average, "be None with dtype='float32'")
    excluded = "an average" if average is not None else "dtype='float32'" if single else unknown_to_twins(problem)
    twins = use_twins(control_variate, optimizer, excluded)
    cells = twin_cells(each * count) if twins else 0
    known = is_quadratic(problem) and isinstance(optimizer, SGD) and not settings.schedules and average is None
    settle_from = max((table.settles for table in settings.schedules.values()), default=0.0)
    race = Race(
        Job(
            problem,
            optimizer,
            plain,
            np.arange(first, first + each * count, dtype=np.uint32),
            key,
            cells=cells,
            dtype=dtype,
        ),
        targets,
        count,
        max_steps=limit,
        patience=patience,
        may_settle=_may_settle(problem, optimizer, plain, targets, settle_from),
        settle_from=settle_from,
        jumps=np.concatenate([np.empty(0, np.int64), *(table.jumps() for table in settings.schedules.values())]),
        swings_until=_swings_until(problem, optimizer, plain, targets),
        swing=_exact_risk(problem, optimizer, plain) if known else None,
        certain=certain,
    )
    return race, settings


def use_twins(wanted: bool | None, optimizer: Any, excluded: str | None) -> bool:
    """Whether to run twins; `excluded` names what they do not go with."""
    possible = has_twin(optimizer) and excluded is None
    if wanted is None:
        return possible
    if not isinstance(wanted, (bool, np.bool_)):
        raise ParameterError("control_variate", wanted, "be True, False or None")
    if wanted and not possible:
        allowed = "be False: this optimizer has no twin" if excluded is None else f"be False with {excluded}"
        raise ParameterError("control_variate", wanted, allowed)
    return bool(wanted)


def whole_steps(crossing: Any) -> Any:
    """The first step at or below the target, from when a curve crosses it."""
    return np.ceil(np.asarray(crossing) - 1e-9) + 0.0  # no negative zero


_FADED = 1e-4
"""An oscillation that is this small beside the target has faded."""


def _swings_until(problem: Problem, optimizer: Any, settings: Settings, targets: NDArray[np.float64]) -> Any:
    """Until which step momentum may make the risk oscillate: its modes fade like beta**t in the risk."""
    name = next((name for name in ("momentum", "beta1") if name in settings.values), None)
    if name is None:
        return None
    memory = settings.values[name].copy()
    if isinstance(optimizer, Lion):  # whose step is a sign: what it sums up fades with the second
        memory = np.maximum(memory, settings.values["beta2"])
    if (table := settings.schedules.get(name)) is not None:
        some = np.unique(np.geomspace(1, 2**22, 256).astype(np.int64)) - 1
        memory = memory * np.array([curve.at(some).max() for curve in table.curves])[table.which]
    with np.errstate(divide="ignore"):
        share = np.maximum(_FADED * np.minimum(targets / problem.initial_risk, 1.0), np.finfo(np.float64).tiny)
        return np.where(memory > 0, np.log(share) / np.log(memory), 0.0)


def _exact_risk(problem: Any, optimizer: Any, settings: Settings) -> Swing:
    """The exact risk of settings of SGD: only to know how it swings, never for its value."""

    def swing(which: NDArray[np.int64], record: NDArray[np.int64]) -> NDArray[np.float64]:
        along = {name: xr.DataArray(values[which], dims="setting") for name, values in settings.values.items()}
        batch_size = along.pop("batch_size")
        exact = analytic.risk(problem, optimizer._replace(**along), batch_size, int(record[-1]), record=record)
        return np.asarray(exact["risk"].values)

    return swing


def _may_settle(
    problem: Any, optimizer: Any, settings: Settings, targets: NDArray[np.float64], settle_from: float
) -> NDArray[np.bool_] | None:
    """Settings whose steady state, once their schedules have settled, is above the target, where that is known."""
    if not is_quadratic(problem) or not isinstance(optimizer, SGD) or np.isinf(settle_from):
        return None
    last = {name: values.copy() for name, values in settings.values.items()}
    for name, table in settings.schedules.items():
        last[name] *= table.at(np.array([int(settle_from)]))[table.which, 0]
    along = {name: xr.DataArray(values, dims="setting") for name, values in last.items()}
    # At a rate of zero nothing moves any more, nor does an average that keeps all of the past.
    still = (last["lr"] == 0.0) | (last.get("average", 0.0) == 1.0)
    average = along["average"].where(~still, 0.0) if "average" in along else None
    fields: dict[str, Any] = {name: along[name] for name in numeric_fields(optimizer)}
    # Nesterov's form and dampening need momentum, which a schedule may take to 0; this little changes no digit.
    fields["momentum"] = fields["momentum"].clip(np.finfo(np.float64).tiny if optimizer.nesterov else 0.0)
    fields["dampening"] = fields["dampening"].where(fields["momentum"] > 0.0, 0.0)
    level = analytic.steady_state(
        problem,
        optimizer._replace(**{**fields, "lr": along["lr"].where(~still, 1.0)}),
        along["batch_size"],
        average=average,
    )["risk"].values
    return np.asarray(still | (level > targets))
