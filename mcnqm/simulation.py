"""The public simulation: validate, plan, run, label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from mcnqm.averaging import checked_average
from mcnqm.domains import choice, integer, positive
from mcnqm.engine import Job, Pool, check_room, first_trajectories, has_twin, run_paths, state_names, twin_cells
from mcnqm.ensembles import UNITS, run_ensemble, states_along
from mcnqm.errors import ParameterError
from mcnqm.kernels.forms import iterate_row
from mcnqm.kernels.noise import GAUSSIAN, GRADIENT, INITIAL, MAX_EXAMPLES
from mcnqm.kernels.shards import replay
from mcnqm.memory import check_memory
from mcnqm.optimizers import Number
from mcnqm.problems import Problem, check_any_problem, unknown_to_twins
from mcnqm.problems.noisy_quadratic import checked_degrees
from mcnqm.progress import meter_of
from mcnqm.provenance import recorded, settled
from mcnqm.record import MAX_STEPS, recorded_steps
from mcnqm.reductions import checked_reduction
from mcnqm.settings import Settings, settings_of
from mcnqm.statistics import BOUNDS

__all__ = ["noise", "simulate"]

_MAX_INDEX = 2**32
_MAX_SEED = 2**64 - 1

_ENOUGH = 8
"""Trajectories from which on twins run by default."""


@recorded("mcnqm.simulate")
def simulate(
    problem: Problem,
    optimizer: Any,
    batch_size: Number,
    steps: int,
    *,
    trajectories: int = 64,
    seed: int = 0,
    record: ArrayLike | None = None,
    coordinates: ArrayLike | None = None,
    record_state: bool | Sequence[str] = False,
    target: ArrayLike | None = None,
    reduce: Any = None,
    minibatch: str = "exact",
    average: Any = None,
    control_variate: bool | None = None,
    dtype: str = "float64",
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Any = False,
) -> xr.Dataset:
    r"""Run an optimizer on noisy minibatch gradients, many independent trajectories at once.

    Parameters
    ----------
    problem : NoisyQuadratic or landscape
        What is optimized, of any kind: landscapes such as `mcnqm.DoubleWell`, and those of `mcnqm.landscape`, too.
        Where. A multiplicity of n is n coordinates with noise of their own.
    optimizer : optimizer
        `SGD`, `Adam`, another of the package, or your own. Any numeric hyperparameter may be a scalar, a 1-D array
        (a dimension of its own name) or a DataArray; they combine by name, as does `batch_size`. Or a schedule
        (`mcnqm.schedules`): a value for each step.
    batch_size : Number
        Examples per step, at least 1, or a schedule. The gradient's noise has the per-example variance divided by it.
    steps : int
        Steps to run, 0 to 2**34.
    trajectories : int
        Independent runs of every setting. All settings of a trajectory share its noise (common random numbers). The
        default makes intervals of the risk trustworthy even where losses are heavy-tailed.
    seed : int
        0 to 2**64 - 1. Together with a trajectory's and a coordinate's number it fixes every draw (see `noise`).
    record : array_like of int, optional
        Steps at which to record, strictly increasing, within [0, steps]. By default every step of a run of up to
        256, else a few hundred, evenly spaced on a logarithmic axis.
    coordinates : array_like of int, optional
        Coordinates whose paths to keep, each in [0, dim).
    record_state : bool or sequence of str
        With `coordinates`: keep the optimizer's state variables there too, all of them or those named, and the
        gradient of the step that follows.
    target : array_like, optional
        Loss to reach, > 0, or a 1-D array of several (a dimension ``target``): the first step at which each
        trajectory's own loss is at or below it. Every step is looked at, and none kept beyond those recorded.
    reduce : "quantiles" or dict, optional
        For very many trajectories: keep quantiles of the loss, or a histogram, instead of the losses.
        ``{"quantiles": levels}`` and ``{"histogram": edges}``, or both in one dict; ``"quantiles"`` alone stands for
        the levels 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95 and 0.99.
    minibatch : {"exact", "per_example"}
        ``"exact"`` draws the averaged gradient from its law, N(h θ, c / B). ``"per_example"`` draws B gradients and
        averages them: B times slower, the same law, whole batch sizes only. With ``noise_df`` the laws differ: a
        batch's noise is Student's t itself, or the mean of B draws of it, which is closer to normal.
    average : Number, optional
        Weight γ of the past, in [0, 1], in an average of the iterates,
        :math:`\bar\theta_{t+1} = \gamma \bar\theta_t + (1-\gamma)\theta_{t+1}` from :math:`\bar\theta_0 = \theta_0`;
        or a schedule of it (`mcnqm.averaging`). Losses are then those of the average.
    control_variate : bool, optional
        Run the mean-field twin of an adaptive optimizer (Adam, RMSProp, NAdam, AdEMAMix, ScheduleFreeAdam) beside
        every lane, and use it to estimate the risk with less variance. By default where there is a twin, at least
        8 trajectories, no average, ``minibatch="exact"`` and float64: it adds about half to the time and changes no
        loss.
    dtype : {"float64", "float32"}
        Of parameters, optimizer state and updates. The second makes sweeps of Adam about three times as fast, and with
        rates worth running its rounding is far below the Monte Carlo error; see the notes for where it is not. Sums
        over coordinates are float64 all the same. Not with an average.
    executor : concurrent.futures.Executor, optional
        Where to run shards. By default, threads of our own.
    threads : int, optional
        How many threads, without an executor. By default one per available core.
    progress : bool or Meter
        True for a bar on standard error, or, where that is no terminal, a line once a minute.

    Returns
    -------
    xarray.Dataset
        Over one dimension per array-valued hyperparameter (…), then

        - ``loss`` (…, trajectory, step): :math:`L(\theta) = \tfrac12 \sum_i h_i \theta_i^2`; of a landscape, the loss
          above the least there is (above 0, where a landscape does not say); ``inf`` once a lane has diverged;
        - ``risk``, ``risk_stderr`` (…, step): estimate of the expected loss and its standard error (NaN for a single
          trajectory, inf where a lane has diverged): the mean of the loss over trajectories or, with a control
          variate, of the loss less what the twin explains of it;
        - ``risk_interval`` (…, step, bound: low, high): 95 % interval of the risk, by Student's t on its logarithm,
          widened for skewed losses (`mcnqm.statistics.mean_interval`);
        - ``flags`` (…, step): bits of `mcnqm.flags.Flag`, named in ``flag_meanings``; here whether a few
          trajectories carry the spread of all;
        - ``variance_reduction`` (…, step), with a control variate: variance of the plain mean of the loss over that of
          ``risk``;
        - ``diverged`` (…, trajectory): whether the loss ever, at a recorded step, was not finite or above 1e20
          times the problem's ``loss_scale``, :math:`E L(\theta_0) + \operatorname{tr}(C H^{-1})/2`; of a landscape,
          too, whether a coordinate was outside its region;
        - ``theta`` (…, trajectory, step, coordinate), with `coordinates`; of a diverged lane, whatever its arithmetic
          gave;
        - where the batch size changes with the step, the coordinate ``examples`` (step; of each setting if they
          differ), taken by all steps so far: ``runs.risk.plot(x="examples")``
        - with `record_state`, of the same dimensions, ``state_`` and the name of each state variable
          (``state_momentum``, ``state_first_moment``, …), at the recorded step; ``gradient``, the minibatch gradient of
          the step that follows; and of adaptive optimizers ``effective_lr``, by what that step multiplies the gradient,
          or the average of gradients it descends along (see the notes);
        - with `target`, ``first_passage`` (…, trajectory): steps, inf if the loss never gets there within the run, or
          not before the lane has diverged; of several, (…, target, trajectory);
        - with `reduce`, instead of ``loss`` and ``diverged``: ``loss_quantile`` (…, quantile, step), as
          `numpy.quantile` of the losses within 0.05 % of its own size; ``loss_histogram`` (…, bin, step), counts
          between ``bin_low`` and ``bin_high``, of the last bin with the upper edge; and ``diverged_count`` (…, step).
          Risk and errors are of all trajectories.

        ``step`` counts completed steps. Hyperparameters are coordinates; ``attrs`` holds the configuration.

    Raises
    ------
    ParameterError
        If an argument is not allowed. A learning rate beyond stability is: it diverges, and is reported.

    Notes
    -----
    In float32 a parameter moves by no less than 6e-8 of itself. Where one step's noise, lr sqrt(c / B), is larger than
    that, rounding is dither and averages out; where neither that nor the drift lr h θ is, parameters stand still. So
    float32 is safe at rates near the best, and not at rates of a few millionths of the largest stable one; nor for
    decays within 1e-4 of 1, where 1 - β has lost its digits. ``docs/performance.md`` has measurements.

    In all adaptive optimizers of the package ``effective_lr`` is :math:`\alpha / (\sqrt{\hat v + \epsilon_r} +
    \epsilon)`, with :math:`\hat v` the second moment after that step's gradient and bias correction, and the learning
    rate of that step: what Adam, NAdam and AdEMAMix multiply their bias-corrected momentum by, RMSProp the gradient
    (on its way into the buffer, with momentum), and ScheduleFreeAdam the gradient in its base sequence. A rule of your
    own says what it is (`mcnqm.update_rule`). Where a schedule-free optimizer is judged at its average,
    ``theta`` is ``state_average``, and gradients are taken between that and ``state_base``.

    Results are bit-identical for any number of threads, any executor, and whichever other settings or trajectories
    are run along.

    The twin y of a trajectory θ is a linear optimizer on the same noise, which divides by the expectation of v under
    its own law where Adam divides by v (`mcnqm.analytic.mean_field`). So E L(y) is known exactly, and
    :math:`L(θ) - b (L(y) - E L(y))` has the mean of L(θ) for any b. Each trajectory's b is the regression coefficient
    of the others, over blocks of coordinates, which keeps the mean unbiased (`mcnqm.statistics.controlled`). Where
    noise dominates the gradient the variance falls by factors of hundreds to thousands; at large batches, late, it
    does not fall. The twin's rates depend on which of a few cells of its law a starting point fell into, one cell for
    every 8 trajectories, up to 8.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=100)
    >>> optimizer = mcnqm.SGD(lr=[0.1, 0.5], momentum=0.9)
    >>> runs = mcnqm.simulate(problem, optimizer, batch_size=32, steps=1000, trajectories=8)
    >>> runs.loss.dims, runs.risk.dims
    (('lr', 'trajectory', 'step'), ('lr', 'step'))
    >>> bool(runs.risk.sel(lr=0.1).isel(step=-1) < runs.risk.sel(lr=0.5).isel(step=-1))
    True
    >>> paths = mcnqm.simulate(problem, mcnqm.Adam(lr=0.01), 16, 300, trajectories=8, coordinates=[0, 99],
    ...                        record_state=True, target=[1.0, 0.1])
    >>> [name for name in paths.data_vars if "coordinate" in paths[name].dims]
    ['theta', 'state_first_moment', 'state_second_moment', 'gradient', 'effective_lr']
    >>> paths.first_passage.dims
    ('target', 'trajectory')
    >>> mcnqm.simulate(problem, mcnqm.SGD(lr=0.1), batch_size=0, steps=10)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: batch_size must be >= 1, got 0.0
    """
    # Long, since every argument is checked here, before any work, and most checks are of two arguments together.
    check_any_problem(problem)
    averaged = {} if average is None else {"average": checked_average(average)}
    settings = settings_of(optimizer, batch_size, schedules=True, **averaged)
    last = integer("steps", steps, 0, MAX_STEPS)
    wanted = recorded_steps(last, record)
    count = integer("trajectories", trajectories, 1, _MAX_INDEX)
    key = integer("seed", seed, 0, _MAX_SEED)
    chosen = None if coordinates is None else _indices("coordinates", coordinates, problem.dim)
    targets, several = (None, False) if target is None else _targets(target)
    reduction = None if reduce is None else checked_reduction(reduce)
    per_example = choice("minibatch", minibatch, ("exact", "per_example")) == "per_example"
    if per_example:
        if "batch_size" in settings.schedules:
            raise ParameterError("batch_size", batch_size, "not be a schedule with minibatch='per_example'")
        allowed = f"be whole numbers up to {MAX_EXAMPLES} with minibatch='per_example'"
        for b in settings.values["batch_size"]:
            if b != np.floor(b) or b > MAX_EXAMPLES:
                raise ParameterError("batch_size", float(b), allowed)
    single = choice("dtype", dtype, ("float64", "float32")) == "float32"
    if single and average is not None:
        raise ParameterError("average", average, "be None with dtype='float32'")
    excluded = "an average" if average is not None else "minibatch='per_example'" if per_example else None
    excluded = unknown_to_twins(problem) or excluded
    excluded = "dtype='float32'" if single else excluded
    excluded = "reduce" if reduction is not None else excluded
    cells = twin_cells(count) if _controlled(control_variate, optimizer, count, excluded) else 0
    _check_free(settings, (*(["target"] if several else []), *({} if reduction is None else reduction.coords())))
    pool = Pool(executor, threads)
    meter = meter_of(progress)

    who = first_trajectories(count, settings, 0 if reduction is not None else wanted.size)
    job = Job(problem, optimizer, settings, who, key, per_example, cells, dtype)
    states = _states(record_state, job, chosen, last)
    kept = 0 if chosen is None else chosen.size
    keep = iterate_row(optimizer) + 1 if states is None else 1 + len(state_names(job))
    if reduction is None:
        check_room(job, wanted.size, kept=kept * (keep if states is None else 2 * keep + 2))
    else:
        reduction.check_room(settings.size * wanted.size, count)
    until = last if targets is not None else int(wanted[-1])
    meter.start(job.lanes * (float(until) * problem.dim + float(wanted[-1]) * kept), "simulating")
    try:
        found, passages = run_ensemble(job, wanted, until, targets, reduction, pool, meter)
        along = {}
        if chosen is not None:
            paths = run_paths(job, wanted, chosen, pool, meter, keep=keep)
            along = {"theta": paths[..., iterate_row(optimizer)]}
            if states is not None:
                along |= states_along(job, wanted, chosen, paths, states, pool)
    finally:
        meter.close()

    dims = settings.dims
    variables = found.variables()
    if passages is not None:
        over = ("target", "trajectory") if several else ("trajectory",)
        variables["first_passage"] = (over, passages if several else passages[:, 0], {"units": "completed steps"})
    for name, path in along.items():
        units = UNITS.get(name)
        variables[name] = (("trajectory", "step", "coordinate"), path, {} if units is None else {"units": units})
    each = any("trajectory" in over for over, *_ in variables.values())
    return xr.Dataset(
        {name: ((*dims, *over), settings.unflatten(flat), more) for name, (over, flat, more) in variables.items()},
        coords={
            **settings.coords,
            **({"trajectory": np.arange(count)} if each else {}),
            "bound": list(BOUNDS),
            **settings.steps(wanted, {"units": "completed steps"}),
            **({} if chosen is None else {"coordinate": chosen}),
            **({} if targets is None else {"target": targets if several else targets[0]}),
            **({} if reduction is None else reduction.coords()),
        },
        attrs=settled(record=None if record is None else wanted, control_variate=bool(cells)),
    )


def noise(
    seed: int,
    trajectory: int | ArrayLike,
    coordinate: int | ArrayLike,
    steps: int,
    *,
    purpose: str = "gradient",
    noise_df: float | None = None,
) -> NDArray[np.float64]:
    """Replay the draws that drive any trajectory: standard normals or, with `noise_df`, Student's t of variance 1.

    Parameters
    ----------
    seed : int
        As given to `simulate`.
    trajectory, coordinate : int or array_like of int, shape (trajectories,), (coordinates,)
        Which streams. Any number below 2**32, whether or not it was run.
    steps : int
        How many draws of each, from step 0.
    purpose : {"gradient", "initial"}
        The gradient's noise, or the starting point's: θ(0) = mean + std * ``noise(..., 1, purpose="initial")``.
    noise_df : float, optional
        The problem's, of the gradient's noise. Starting points are normal whatever it is.

    Returns
    -------
    ndarray of float64, shape (trajectories, steps, coordinates)
        Entry ``[r, t, i]`` is the draw in the gradient of the update from step t to t + 1. The values are of
        float32 resolution, exactly as the kernels use them.

    Raises
    ------
    ParameterError
        If an argument is out of range.

    Examples
    --------
    One step of plain SGD by hand:

    >>> import numpy as np, mcnqm
    >>> problem = mcnqm.NoisyQuadratic(curvature=[1.0])
    >>> runs = mcnqm.simulate(problem, mcnqm.SGD(lr=0.5), batch_size=4, steps=1, trajectories=1, coordinates=[0])
    >>> start = mcnqm.noise(0, 0, 0, 1, purpose="initial")[0, 0, 0]
    >>> gradient = start + np.sqrt(1.0 / 4) * mcnqm.noise(0, 0, 0, 1)[0, 0, 0]
    >>> bool(np.isclose(runs.theta[0, 1, 0], start - 0.5 * gradient, rtol=1e-14))
    True
    """
    key = integer("seed", seed, 0, _MAX_SEED)
    purposes = {"gradient": GRADIENT, "initial": INITIAL}
    code = purposes[choice("purpose", purpose, tuple(purposes))]
    if noise_df is not None and purpose != "gradient":
        raise ParameterError("noise_df", noise_df, f"be None with purpose={purpose!r}")
    df = checked_degrees(noise_df)
    r = _indices("trajectory", trajectory, _MAX_INDEX).astype(np.uint32)
    i = _indices("coordinate", coordinate, _MAX_INDEX).astype(np.uint32)
    count = integer("steps", steps, 0, MAX_STEPS)
    what = f"normals of {r.size} trajectories x {count} steps x {i.size} coordinates"
    check_memory(12.0 * r.size * count * i.size, what, "steps", count)
    return replay(key, code, r, i, count, GAUSSIAN if df is None else df).astype(np.float64)


def _states(wanted: Any, job: Job, chosen: NDArray[np.int64] | None, last: int) -> tuple[str, ...] | None:
    """Names of the state variables to keep; None if nothing beside θ is."""
    if isinstance(wanted, (bool, np.bool_)) and not wanted:
        return None
    there = state_names(job)
    if chosen is None:
        raise ParameterError("record_state", wanted, "go with coordinates, whose state it is")
    if last == MAX_STEPS:
        raise ParameterError("steps", last, f"be below {MAX_STEPS} with record_state: a step has to follow")
    if isinstance(wanted, (bool, np.bool_)):
        names = there
    else:
        has = f"of this optimizer: {', '.join(there)}" if there else "; this optimizer has none"
        allowed = f"be True, False or names of state variables {has}".replace(" ;", ";")
        if isinstance(wanted, str) or not isinstance(wanted, Sequence) or not wanted:
            raise ParameterError("record_state", wanted, allowed)
        for name in wanted:
            if not isinstance(name, str) or name not in there:
                raise ParameterError("record_state", name, allowed)
        names = tuple(dict.fromkeys(wanted))
    _check_free(job.settings, [f"state_{name}" for name in names])
    return names


def _check_free(settings: Settings, names: Iterable[str]) -> None:
    """Raise `ParameterError` if a sweep has a name that the result needs for something that was asked for."""
    for name in names:
        if name in (*settings.dims, *settings.coords):
            raise ParameterError("hyperparameters", name, f"leave the name {name} to what the result calls so")


def _targets(value: Any) -> tuple[NDArray[np.float64], bool]:
    """The targets in an array, and whether they were given in one."""
    targets = positive.check("target", getattr(value, "values", value))
    if targets.ndim > 1 or np.unique(targets).size < targets.size:
        raise ParameterError("target", value, "be a number > 0 or a 1-D array of different ones")
    return np.atleast_1d(targets), targets.ndim == 1


def _controlled(wanted: bool | None, optimizer: Any, trajectories: int, excluded: str | None) -> bool:
    """Whether to run twins; `excluded` names what they do not go with."""
    possible = has_twin(optimizer) and excluded is None
    if wanted is None:
        return possible and trajectories >= _ENOUGH
    if not isinstance(wanted, (bool, np.bool_)):
        raise ParameterError("control_variate", wanted, "be True, False or None")
    if wanted and not possible:
        allowed = "be False: this optimizer has no twin" if excluded is None else f"be False with {excluded}"
        raise ParameterError("control_variate", wanted, allowed)
    return bool(wanted)


def _indices(name: str, value: Any, size: int) -> NDArray[np.int64]:
    allowed = f"be integers in [0, {size})"
    try:
        array = np.atleast_1d(np.asarray(value))
    except (TypeError, ValueError):  # a Dataset; ragged
        raise ParameterError(name, value, allowed) from None
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ParameterError(name, value, allowed)
    for entry in array[(array < 0) | (array >= size)]:
        raise ParameterError(name, int(entry), allowed)
    return array.astype(np.int64)
