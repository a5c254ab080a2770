"""The best schedules: `optimize_schedule` checks what it is asked once, and hands it to one of two searches.

For linear optimizers, the risk of pieces of constant rate and momentum comes from composed maps
(`mcnqm.scheduling.composed`), with its exact gradient, at a cost that does not depend on how long the pieces are.
L-BFGS moves the logarithm of every rate below the largest stable one, and -log(1 - momentum). Adaptive ones are in
`mcnqm.scheduling.adaptive`. ``docs/schedules.md`` derives and measures.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from mcnqm.arguments import default, refuse_unused, renamed, value_of
from mcnqm.domains import MOST_STEPS, choice, integer, positive, real_array
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, Adam, Number, RMSProp, numeric_fields
from mcnqm.problems import NoisyQuadratic
from mcnqm.progress import meter_of
from mcnqm.provenance import recorded
from mcnqm.schedules import Schedule
from mcnqm.scheduling.adaptive import search_adaptive
from mcnqm.scheduling.labels import ADAPTIVE, LINEAR, Best, labeled
from mcnqm.scheduling.pieces import Layout, Lengths
from mcnqm.scheduling.rule import Candidate, Rule
from mcnqm.scheduling.search import LinearSearch
from mcnqm.scheduling.small_rate import SmallRateLimit
from mcnqm.settings import batch_size_domain, check_distinct

__all__ = ["optimize_schedule"]

_LONGEST_ADAPTIVE = 2**22
"""The twin goes step by step: longer runs are not searched."""

_UNSEARCHED = ("eps_root", "eps_hat", "momentum", "centered")
"""Options of Adam and RMSProp that their search does not know."""


@recorded("mcnqm.optimize_schedule")
def optimize_schedule(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Number,
    *,
    steps: int | None = None,
    target: float | None = None,
    pieces: int = default(50),
    lengths: ArrayLike | None = None,
    spacing: str | None = None,
    tune_momentum: bool = False,
    bins: int = 100,
    max_steps: int | None = None,
    baselines: bool = True,
    refine: bool = default(True),
    reference_trajectories: int = default(16),
    seed: int = default(0),
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Any = False,
    trajectories: int | None = None,
) -> xr.Dataset:
    r"""Rates, and momenta if wanted, of the pieces of a schedule that minimize the risk, or the steps to a target.

    .. math::

        \min_{\alpha_1, \beta_1, \dots} E\,L(\theta_T)
        \quad\text{with}\quad 0 < \alpha_k < \alpha_\text{max}(\beta_k), \; \beta_k \in [0, 1)

    over the K pieces of a run of T steps, :math:`\alpha_\text{max}` the largest rate that is stable at the
    largest curvature; with `target`, the least T whose minimum is at or below it.

    Parameters
    ----------
    problem : NoisyQuadratic
    optimizer : SGD, Adam or RMSProp
        SGD with any momentum, Nesterov's form, preconditioner, weight decay and dampening, all scalar. Adam and RMSProp
        without `eps_root`, `eps_hat`, `momentum` and `centered`. Its learning rate is a first guess and
        decides nothing; its momentum is used, unless `tune_momentum`. Adam and RMSProp: see the notes.
    batch_size : Number
        Examples per step, >= 1. An array is done one by one, for SGD each from its neighbor's schedule.
    steps : int, optional
        T. Exactly one of `steps` and `target` must be given.
    target : float, optional
        Risk to reach, > 0 and below the initial one.
    pieces : int
        K; never more than there are steps.
    lengths : array_like of int, optional
        Steps of each piece, with `steps` alone and summing to it; instead of `pieces` and `spacing`.
    spacing : {"geometric", "equal"}, optional
        Geometric by default, and equal for adaptive optimizers. Lengths of the pieces: growing from either end to
        the middle by a factor of 20, or all alike.
    tune_momentum : bool
        Optimize the momentum of each piece, too.
    bins : int
        A problem with more entries is optimized on ``problem.binned(bins)`` first, and then on itself.
    max_steps : int, optional
        Where to give up the search for T; with `target` alone. By default as far as the method goes: 2**53 steps, 2**22
        for adaptive optimizers.
    baselines : bool
        Whether to compare with the baselines.
    refine : bool
        Adaptive optimizers only: whether to improve the twin's schedule by simulation.
    reference_trajectories, seed : int
        Adaptive optimizers only. Trajectories of each simulation that refines, in runs of 500 steps or more (up to 16
        times as many in shorter ones); confirmations have four times as many, and the next seed.
    executor, threads
        Adaptive optimizers only, since no others are simulated: as for `mcnqm.simulate`.
    progress : bool or Meter
        A bar over the batch sizes.
    trajectories : int, optional
        Deprecated name of `reference_trajectories`.

    Returns
    -------
    xarray.Dataset
        Over the batch size's dimension, if it has one (…):
        ``lr`` (…, piece) in parameter² / loss, ``momentum`` (…, piece), ``length`` (…, piece) in steps, ``start`` (…,
        piece), the steps done before; ``risk`` (…) of the full problem, in units of the loss; ``steps`` (…), T, inf
        if the target is not reached within `max_steps`. Where a batch size has fewer pieces than others, the last have
        NaN and length 0. With baselines: ``baseline_risk`` (…, baseline) after as many steps, with `target` also
        ``baseline_steps`` (…, baseline), and ``gain`` (…, baseline), the quotient of the baseline's steps (without a
        target: risk) and ours. They are

        constant
            the best constant rate (and momentum, if that is tuned);
        greedy
            at each step the rate that minimizes the risk after it, within the same bound; NaN with momentum, for which
            it is not defined;
        exponential, cosine
            `mcnqm.schedules.exponential` and ``cosine`` over all T steps, with the best start and final fraction (and
            momentum, if that is tuned).

    Raises
    ------
    ParameterError
        If an argument is not allowed, the optimizer is not linear, or a target is not below the initial risk.

    Notes
    -----
    *The bound.* A rate beyond stability for a few steps (as in Chebyshev's iteration) may help where there is no noise,
    but it needs the largest curvature exactly, and one step more of it diverges; so it is left out.

    *Starts.* There are local minima; one in ten random starts ends in one, up to 7 % above the best. The search starts
    from the closed form for small rates (`mcnqm.scheduling.small_rate`), nearly the answer at small batches, from the
    best of every baseline projected onto the pieces, and from a neighbor's answer, and keeps the best. So it is never
    worse than the best constant, or than a projection. 50 pieces cost 0.1 % to 0.4 % of the risk against single
    steps: by so much, a baseline that is itself the optimum (greedy under Newton's preconditioner, where all
    coordinates are alike) is ahead.

    *Adaptive optimizers* (``docs/schedules.md``). The risk of the mean-field twin and its exact gradient stand in for
    theirs; pieces are equal, and the twin's answer is then improved by simulation in three directions (level, tilt and
    bend of log α), on common random numbers. ``risk`` is simulated on fresh trajectories, with ``risk_stderr``;
    ``unrefined_risk`` is that of the twin's own schedule, ``twin_risk`` what the twin says of it. Baselines are those
    of the twin, inf from 64 times the steps on. A horizon is resolved to a thousandth, of at most 2**22 steps; the
    simulated risk at its end is at the target within a few of its standard errors.

    *The horizon.* T is the least for which the optimized risk of the full problem is at or below the target, while
    that of T - 1 is above, from all starts. With momentum and few steps local minima are many, and T may be one too
    large.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=100)
    >>> best = optimize_schedule(problem, mcnqm.SGD(lr=0.1), [1, 64], target=0.05, pieces=25)
    >>> best.steps.values
    array([1387.,   53.])
    >>> bool((best.steps <= best.baseline_steps).all()), bool((best.risk <= 0.05).all())
    (True, True)
    """
    reference_trajectories = renamed("trajectories", trajectories, "reference_trajectories", reference_trajectories)
    _check_optimizer(problem, optimizer)
    linear = isinstance(optimizer, SGD)
    if linear:
        refuse_unused(
            "be left out for SGD, whose answer is exact: nothing is simulated",
            refine=refine, reference_trajectories=reference_trajectories, seed=seed, executor=executor, threads=threads,
        )  # fmt: skip
    elif tune_momentum or lengths is not None:
        name, value = ("tune_momentum", True) if tune_momentum else ("lengths", lengths)
        raise ParameterError(name, value, "be left out for an adaptive optimizer")
    spacings = ("geometric", "equal") if linear else ("equal",)
    shape = choice("spacing", spacings[0] if spacing is None else spacing, spacings)
    if lengths is not None:
        refuse_unused("be left out where the lengths are given", pieces=pieces, spacing=spacing)
    most = integer("pieces", value_of(pieces), 1, 2**20)
    horizon = _horizon(problem, steps, target, max_steps, MOST_STEPS if linear else _LONGEST_ADAPTIVE)
    layout = Layout(most, shape, None if lengths is None else _checked_lengths(lengths, horizon.steps))
    refine = value_of(refine)
    for name, switch in (("tune_momentum", tune_momentum), ("baselines", baselines), ("refine", refine)):
        if not isinstance(switch, bool):
            raise ParameterError(name, switch, "be True or False")
    count, batch, meter = integer("bins", bins, 1), _batch(batch_size), meter_of(progress)
    sizes = [float(b) for b in batch.values.reshape(-1)]
    found: Iterator[Best | None]
    if linear:
        found = _linear(problem, optimizer, sizes, horizon, layout, tune_momentum, count, baselines)
    else:
        options: dict[str, Any] = {
            "trajectories": integer("reference_trajectories", value_of(reference_trajectories), 1, 2**20),
            "seed": integer("seed", value_of(seed), 0, 2**64 - 2),
        }
        found = (
            search_adaptive(
                *(problem, optimizer, b),
                steps=horizon.steps,
                target=horizon.target,
                max_steps=horizon.most,
                pieces=most,
                bins=count,
                refined=refine,
                baselines=baselines,
                **options,
                executor=executor,
                threads=threads,
            )
            for b in sizes
        )
    best = []
    meter.start(float(batch.size), "schedules")
    try:
        for one in found:
            best.append(one)
            meter.advance(1.0)
    finally:
        meter.close()
    answer = labeled(best, batch, horizon.target, LINEAR if linear else ADAPTIVE)
    return answer.assign_attrs(method="analytic" if linear else "mean field and simulation")


@dataclass(frozen=True)
class _Horizon:
    """How long a run is: so many steps, or as many as a target takes, up to the most allowed."""

    steps: int | None
    target: float | None
    most: int


def _horizon(
    problem: NoisyQuadratic, steps: int | None, target: float | None, max_steps: int | None, longest: int
) -> _Horizon:
    if (steps is None) == (target is None):
        raise ParameterError("steps, target", (steps, target), "be given one without the other")
    if steps is not None:
        refuse_unused("be left out where the steps are given", max_steps=max_steps)
        return _Horizon(integer("steps", steps, 1, MOST_STEPS), None, longest)
    assert target is not None
    if np.ndim(target):
        raise ParameterError("target", f"shape {np.shape(target)}", "be a scalar: each has a schedule of its own")
    positive.check("target", target)
    if target >= problem.initial_risk:
        raise ParameterError("target", target, f"be below the initial risk, {problem.initial_risk:g}")
    return _Horizon(None, target, longest if max_steps is None else integer("max_steps", max_steps, 1, longest))


def _linear(
    problem: NoisyQuadratic,
    optimizer: SGD,
    sizes: list[float],
    horizon: _Horizon,
    layout: Layout,
    tune_momentum: bool,
    bins: int,
    baselines: bool,
) -> Iterator[Best | None]:
    """The best schedule at one batch size after the other; each starts from its neighbor's, too."""
    rule = Rule.of(problem, optimizer, tune_momentum)
    small = problem.binned(bins)
    slow = SmallRateLimit.of(small, rule.precondition, rule.weight_decay) if small.noise.any() else None
    neighbor: Candidate | None = None
    for b in sizes:
        coarse = rule.composed(small, b)
        fine = coarse if small is problem else rule.composed(problem, b)
        search = LinearSearch(coarse, fine, rule, layout, slow, b, float(optimizer.lr))  # type: ignore[arg-type]
        answer = search.run(horizon.steps, horizon.target, horizon.most, neighbor, baselines)
        neighbor = None if answer is None else answer[0]
        yield None if answer is None else answer[1]


def _check_optimizer(problem: Any, optimizer: Any) -> None:
    """Refuse what no schedule can be sought for."""
    if not isinstance(problem, NoisyQuadratic):
        raise ParameterError("problem", problem, "be a mcnqm.NoisyQuadratic")
    if not isinstance(optimizer, (SGD, Adam, RMSProp)):
        raise ParameterError("optimizer", optimizer, "be a mcnqm.SGD, Adam or RMSProp")
    for name, value in numeric_fields(optimizer).items():
        if isinstance(value, Schedule) or np.ndim(value):
            raise ParameterError(name, value, "be a scalar: schedules are what is sought")
    for name in () if isinstance(optimizer, SGD) else _UNSEARCHED:
        if value := getattr(optimizer, name, 0.0):
            raise ParameterError(name, value, "be left at its default: the gradient that the search follows lacks it")


def _checked_lengths(lengths: ArrayLike, steps: int | None) -> Lengths:
    if steps is None:
        raise ParameterError("lengths", lengths, "go with steps, not with a target")
    given = np.asarray(lengths)
    allowed = f"be whole numbers >= 1 that sum to steps, {steps}"
    if given.dtype.kind not in "iu" or given.ndim != 1 or given.size == 0 or (given < 1).any() or given.sum() != steps:
        raise ParameterError("lengths", lengths, allowed)
    return given.astype(np.int64)


def _batch(batch_size: Any) -> xr.DataArray:
    if isinstance(batch_size, Schedule):
        raise ParameterError("batch_size", batch_size, "be the same at every step here")
    real_array("batch_size", getattr(batch_size, "values", batch_size))
    batch_size_domain.check("batch_size", getattr(batch_size, "values", batch_size))
    if np.ndim(batch_size) > 1:
        raise ParameterError("batch_size", f"shape {np.shape(batch_size)}", "be a scalar or one-dimensional")
    if isinstance(batch_size, xr.DataArray):
        if batch_size.dims in (("piece",), ("baseline",)):
            raise ParameterError("batch_size", batch_size.dims, "have a dimension with another name")
        return batch_size
    plain = np.asarray(batch_size)
    check_distinct("batch_size", plain)
    along = ["batch_size"] if plain.ndim else []
    return xr.DataArray(plain, dims=along, coords=dict.fromkeys(along, plain))
