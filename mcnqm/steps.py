"""Steps to target, by either route."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm._version import __version__
from mcnqm.averaging import checked_average
from mcnqm.domains import choice, integer, positive
from mcnqm.engine import Job, Pool, has_twin, twin_cells
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, Number
from mcnqm.problem import NoisyQuadratic
from mcnqm.progress import meter_of
from mcnqm.race import REASONS, Race, run_races, summarise
from mcnqm.record import MAX_STEPS
from mcnqm.settings import Settings, settings_of

__all__ = ["race_of", "steps_to_target"]


def steps_to_target(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Number,
    target: Number = 0.01,
    *,
    method: str = "simulate",
    trajectories: int = 4,
    replicates: int = 4,
    seed: int = 0,
    max_steps: int = 2**22,
    patience: float | None = None,
    control_variate: bool = True,
    average: Any = None,
    dtype: str = "float64",
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Any = False,
) -> xr.Dataset:
    r"""First step at which the risk is at or below a target.

    Parameters
    ----------
    problem : NoisyQuadratic
    optimizer : optimizer
        Hyperparameters may be swept, and change with the step (`mcnqm.schedules`); all settings advance together, on
        common random numbers.
    batch_size : Number
        Examples per step, or a schedule.
    target : Number
        Risk to reach, > 0. An array makes a dimension ``target``.
    method : {"simulate", "analytic", "mean-field"}
        ``"analytic"`` is exact, and for linear optimizers only: see `mcnqm.analytic.steps_to_target`;
        ``"mean-field"`` is a theory of Adam and RMSProp: see `mcnqm.analytic.mean_field`.
    trajectories : int
        Trajectories of each replicate. The mean loss over all of them stands for the risk.
    replicates : int
        Groups of trajectories, at least 2, left out in turn for the standard error.
    seed : int
        0 to 2**64 - 1.
    max_steps : int
        Where to give up.
    patience : float, optional
        Once some setting has hit after t steps, the others stop at ``patience * t``.
    control_variate : bool
        Estimate the risk of an adaptive optimizer with the help of its mean-field twin (see `mcnqm.simulate`). Not
        with an average.
    average : Number, optional
        Weight of the past in an average of the iterates, or a schedule of it, as for `mcnqm.simulate`: the target is
        the average's. Not by ``"mean-field"``.
    dtype : {"float64", "float32"}
        As for `mcnqm.simulate`, by simulation; the second has neither control variates nor averages.
    executor, threads, progress
        As for `mcnqm.simulate`.

    Returns
    -------
    xarray.Dataset
        ``steps`` (…), inf where the target was not reached, and by simulation ``steps_stderr`` (…),
        ``steps_jackknife`` (…, estimate: of all trajectories, then without each replicate in turn), and ``reason``
        (…): "reached", "diverged", "steady state above target", "step limit" or "overtaken" (by `patience`).

    Raises
    ------
    ParameterError
        If an argument is not allowed.

    Notes
    -----
    By simulation, up to 96 steps, the answer is the first step at which the mean loss over all trajectories is at or
    below the target. Later (looks are 1 step apart up to 256, then 4 steps or 1/256 of the steps so far) a plain first
    passage would be early, since it takes the first favourable fluctuation; so the mean loss is first
    smoothed by a local quadratic regression on log t, with interpolation between looks: over a factor exp(±0.12) in t,
    exp(±0.25) beyond 2000 steps unless the risk is seen to bend too much there, or is freed of its noise by a control
    variate, and not across a jump of a schedule. What bias is left by the nonlinearity of a first passage falls like
    one over the number of trajectories, and the jackknife removes its leading part: ``steps`` is so corrected, and
    rounded up. ``docs/steps.md`` has measurements of both.

    A setting whose risk falls by less than 2 % in two successive octaves of steps, below half or above all of the
    initial risk, is taken to be in its steady state; under SGD only if the exact steady state is above the target, and
    under a schedule only once it has settled.

    Crossings within the first 96 steps are those of the mean of all trajectories, without a correction: there the
    error is that of the draw of starting points, and more trajectories are cheap.

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
    choice("dtype", dtype, ("float64", "float32"))
    if method == "analytic":
        return analytic.steps_to_target(problem, optimizer, batch_size, target, max_steps=max_steps, average=average)
    if method == "mean-field":
        if average is not None:
            raise ParameterError("average", average, "be None in the mean field")
        return analytic.mean_field.steps_to_target(
            problem, optimizer, batch_size, target, max_steps=max_steps, patience=patience
        )
    race, settings = race_of(
        problem, optimizer, batch_size, target, trajectories=trajectories, replicates=replicates, seed=seed,
        max_steps=max_steps, patience=patience, control_variate=control_variate, average=average, dtype=dtype,
    )  # fmt: skip
    meter = meter_of(progress)
    meter.start(float("nan"), "steps to target")
    try:
        ((_, result),) = run_races([race], Pool(executor, threads), meter)
    finally:
        meter.close()
    crossing, stderr = summarise(result.steps)
    steps = np.ceil(crossing - 1e-9)  # the first step at or below the target
    dims = settings.dims
    reasons = np.array(REASONS)[result.reason]
    return xr.Dataset(
        {
            "steps": (dims, settings.unflatten(steps), {"units": "steps"}),
            "steps_stderr": (dims, settings.unflatten(stderr), {"units": "steps"}),
            "steps_jackknife": ((*dims, "estimate"), settings.unflatten(result.steps), {"units": "steps"}),
            "reason": (dims, settings.unflatten(reasons)),
        },
        coords={**settings.coords, "estimate": ["all", *(f"without {k}" for k in range(replicates))]},
        attrs={
            "method": "simulate",
            "trajectories": int(trajectories),
            "replicates": int(replicates),
            "dtype": dtype,
            "mcnqm_version": __version__,
        },
    )


def race_of(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Number,
    target: Number,
    *,
    trajectories: int,
    replicates: int,
    seed: int,
    max_steps: int,
    patience: float | None = None,
    control_variate: bool = True,
    average: Any = None,
    dtype: str = "float64",
) -> tuple[Race, Settings]:
    """A sweep that is about to start, and its settings; see `steps_to_target`."""
    if not isinstance(problem, NoisyQuadratic):
        raise ParameterError("problem", problem, "be a mcnqm.NoisyQuadratic")
    positive.check("target", getattr(target, "values", target))
    averaged = {} if average is None else {"average": checked_average(average)}
    settings = settings_of(optimizer, batch_size, schedules=True, **averaged, target=target)
    each = integer("trajectories", trajectories, 1, 2**20)
    count = integer("replicates", replicates, 2, 2**10)
    limit = integer("max_steps", max_steps, 1, MAX_STEPS)
    if patience is not None and not (isinstance(patience, (int, float)) and patience >= 1):
        raise ParameterError("patience", patience, "be >= 1")
    key = integer("seed", seed, 0, 2**64 - 1)
    values = dict(settings.values)
    targets = values.pop("target")
    plain = replace(settings, values=values)
    single = dtype == "float32"
    if single and average is not None:
        raise ParameterError("average", average, "be None with dtype='float32'")
    if not isinstance(control_variate, (bool, np.bool_)):
        raise ParameterError("control_variate", control_variate, "be True or False")
    twins = control_variate and average is None and has_twin(optimizer) and not single
    cells = twin_cells(each * count) if twins else 0
    settle_from = max((table.settles for table in settings.schedules.values()), default=0.0)
    race = Race(
        Job(problem, optimizer, plain, np.arange(each * count, dtype=np.uint32), key, cells=cells, dtype=dtype),
        targets,
        count,
        max_steps=limit,
        patience=patience,
        may_settle=_may_settle(problem, optimizer, plain, targets, settle_from),
        settle_from=settle_from,
        jumps=np.concatenate([np.empty(0, np.int64), *(table.jumps() for table in settings.schedules.values())]),
    )
    return race, settings


def _may_settle(
    problem: NoisyQuadratic, optimizer: Any, settings: Settings, targets: NDArray[np.float64], settle_from: float
) -> NDArray[np.bool_] | None:
    """Settings whose steady state, once their schedules have settled, is above the target, where that is known."""
    if not isinstance(optimizer, SGD) or np.isinf(settle_from):
        return None
    last = {name: values.copy() for name, values in settings.values.items()}
    for name, table in settings.schedules.items():
        last[name] *= table.at(np.array([int(settle_from)]))[table.which, 0]
    along = {name: xr.DataArray(values, dims="setting") for name, values in last.items()}
    # At a rate of zero nothing moves any more, nor does an average that keeps all of the past.
    still = (last["lr"] == 0.0) | (last.get("average", 0.0) == 1.0)
    average = along["average"].where(~still, 0.0) if "average" in along else None
    level = analytic.steady_state(
        problem,
        optimizer._replace(
            lr=along["lr"].where(~still, 1.0), momentum=along["momentum"], precondition=along["precondition"]
        ),
        along["batch_size"],
        average=average,
    )["risk"].values
    return np.asarray(still | (level > targets))
