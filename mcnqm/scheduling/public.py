"""The best schedules: `optimize_schedule` checks what it is asked once, and hands it to one of three searches.

For linear optimizers, the risk of pieces of constant rate and momentum comes from composed maps
(`mcnqm.scheduling.composed`), with its exact gradient, at a cost that does not depend on how long the pieces are.
L-BFGS moves the logarithm of every rate below the largest stable one, and -log(1 - momentum). Adaptive ones are in
`mcnqm.scheduling.adaptive`, and what can only be simulated in `mcnqm.scheduling.black_box`. ``docs/schedules.md``
derives and measures.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

import xarray as xr
from numpy.typing import ArrayLike

from mcnqm.arguments import default, refuse_unused, renamed, value_of
from mcnqm.domains import choice, integer
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, Number
from mcnqm.problems import NoisyQuadratic, Problem
from mcnqm.progress import meter_of
from mcnqm.provenance import recorded
from mcnqm.scheduling.adaptive import search_adaptive
from mcnqm.scheduling.black_box import search_by_simulation
from mcnqm.scheduling.checks import (
    EXACT,
    SIMULATION,
    TWIN,
    Horizon,
    batch_of,
    horizon_of,
    lengths_of,
    limit_of,
    route_of,
)
from mcnqm.scheduling.labels import ADAPTIVE, LINEAR, SIMULATED, Best, labeled
from mcnqm.scheduling.pieces import Layout
from mcnqm.scheduling.rule import Candidate, Rule
from mcnqm.scheduling.search import LinearSearch
from mcnqm.scheduling.small_rate import SmallRateLimit

__all__ = ["optimize_schedule"]

_WORDING = {EXACT: LINEAR, TWIN: ADAPTIVE, SIMULATION: SIMULATED}


@recorded("mcnqm.optimize_schedule")
def optimize_schedule(
    problem: Problem,
    optimizer: Any,
    batch_size: Number,
    *,
    steps: int | None = None,
    target: float | None = None,
    pieces: int = default(50),
    lengths: ArrayLike | None = None,
    spacing: str | None = None,
    tune_momentum: bool = False,
    largest_lr: float | None = None,
    largest_risk: float | None = None,
    bins: int = default(100),
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
    problem : NoisyQuadratic or landscape
    optimizer : optimizer
        Any with a hyperparameter `lr`, all scalar. Its learning rate is a first guess and decides nothing; the others
        are used, but momentum if `tune_momentum`. There are three searches (see the notes): an exact one for `SGD`,
        whatever its options; one on the mean-field twin and by simulation for Adam and RMSProp without `eps_root`,
        `eps_hat`, `momentum` and `centered`; and one by simulation alone for all others, for landscapes, and for noise
        that rises with the parameter or, but for SGD, is Student's t.
    batch_size : Number
        Examples per step, >= 1. An array is done one by one, for SGD each from its neighbor's schedule.
    steps : int, optional
        T. Exactly one of `steps` and `target` must be given.
    target : float, optional
        Risk to reach, > 0 and below the initial one.
    pieces : int
        K; never more than there are steps. By simulation alone, more than 6 follow 6 knots.
    lengths : array_like of int, optional
        Steps of each piece, with `steps` alone and summing to it; instead of `pieces` and `spacing`.
    spacing : {"geometric", "equal"}, optional
        Geometric by default, and equal for adaptive optimizers. Lengths of the pieces: growing from either end to
        the middle by a factor of 20, or all alike.
    tune_momentum : bool
        Optimize the momentum of each piece, too. SGD only.
    largest_lr : float, optional
        Rate that no piece exceeds, nor a baseline, > 0.
    largest_risk : float, optional
        Risk that is not exceeded after any step, at least the initial one. SGD only. Constant, exponential and cosine
        baselines are the best of theirs within the limit, too (and greedy never raises the risk).
    bins : int
        A problem with more entries is optimized on ``problem.binned(bins)`` first, and then on itself. Not used by
        simulation alone.
    max_steps : int, optional
        Where to give up the search for T; with `target` alone. By default as far as the method goes: 2**53 steps, 2**22
        with a twin, 2**16 by simulation alone (where more may be given).
    baselines : bool
        Whether to compare with the baselines.
    refine : bool
        Where there is a twin only: whether to improve its schedule by simulation.
    reference_trajectories, seed : int
        Where something is simulated only. Trajectories of each simulation of the search, in runs of 500 steps or more
        (up to 16 times as many in shorter ones); confirmations have four times as many, and the next seed.
    executor, threads
        Where something is simulated only: as for `mcnqm.simulate`.
    progress : bool or Meter
        A bar over the batch sizes.
    trajectories : int, optional
        Deprecated name of `reference_trajectories`.

    Returns
    -------
    xarray.Dataset
        Over the batch size's dimension, if it has one (…):
        ``lr`` (…, piece) in parameter² / loss, ``momentum`` (…, piece), ``length`` (…, piece) in steps, ``start`` (…,
        piece), the steps done before; ``risk`` (…) of the full problem, in units of the loss; of SGD
        ``largest_risk`` (…), the largest after any step, or at the start; ``steps`` (…), T, inf
        if the target is not reached within `max_steps`. What is simulated has ``risk_stderr``, and by simulation alone
        ``baseline_risk_stderr``, of the same fresh noise. Where a batch size has fewer pieces than others, the last
        have NaN and length 0. With baselines: ``baseline_risk`` (…, baseline) after as many steps, with `target` also
        ``baseline_steps`` (…, baseline), and ``gain`` (…, baseline), the quotient of the baseline's steps (without a
        target: risk) and ours. They are

        constant
            the best constant rate (and momentum, if that is tuned);
        greedy
            at each step the rate that minimizes the risk after it, within the same bound; NaN with momentum, for which
            it is not defined; of SGD only;
        exponential, cosine
            `mcnqm.schedules.exponential` and ``cosine`` over all T steps, with the best start and final fraction (and
            momentum, if that is tuned).

    Raises
    ------
    ParameterError
        If an argument is not allowed or not used, or a target is not below the initial risk.

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

    *By simulation alone.* All candidates run on the same noise, a generation of them as one sweep; SciPy's differential
    evolution finds a basin, and L-BFGS with differences of a sweep its bottom. The log rates of more than 6 pieces are
    interpolated between 6 knots. On the noise of the search the answer is never worse than the best constant rate; its
    risk and the baselines' are then simulated on other noise. A horizon is resolved to a hundredth, by the risk on that
    other noise; baselines that need 16 times the steps are given up, and inf. There is no bound of stability: a first
    piece may well be beyond it for a few steps, unless `largest_lr` says otherwise.

    *The largest risk.* A limit is kept after every step, and ``largest_risk`` is of every step, up to 2**25 steps times
    coordinates; in longer runs at some twenty places of each piece, and around the highest of them. An augmented
    Lagrangian follows it, some thirty times as slow as without a limit, to 1e-6 of the risk or so. A limit that does
    not bind changes no bit.

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
    route = route_of(problem, optimizer)
    _refuse(
        route,
        tune_momentum=tune_momentum or None,
        lengths=lengths,
        largest_risk=largest_risk,
        bins=bins,
        refine=refine,
        reference_trajectories=reference_trajectories,
        seed=seed,
        executor=executor,
        threads=threads,
    )
    spacings = ("equal",) if route == TWIN else ("geometric", "equal")
    shape = choice("spacing", spacings[0] if spacing is None else spacing, spacings)
    if lengths is not None:
        refuse_unused("be left out where the lengths are given", pieces=pieces, spacing=spacing)
    most = integer("pieces", value_of(pieces), 1, 2**20)
    horizon = horizon_of(problem, steps, target, max_steps, route)
    layout = Layout(most, shape, None if lengths is None else lengths_of(lengths, horizon.steps))
    refine = value_of(refine)
    for name, switch in (("tune_momentum", tune_momentum), ("baselines", baselines), ("refine", refine)):
        if not isinstance(switch, bool):
            raise ParameterError(name, switch, "be True or False")
    count, batch, meter = integer("bins", value_of(bins), 1), batch_of(batch_size), meter_of(progress)
    limits = _Limits(
        limit_of("largest_lr", largest_lr), limit_of("largest_risk", largest_risk, float(problem.initial_risk))
    )
    sizes = [float(b) for b in batch.values.reshape(-1)]
    simulation: dict[str, Any] = {
        "trajectories": integer("reference_trajectories", value_of(reference_trajectories), 1, 2**20),
        "seed": integer("seed", value_of(seed), 0, 2**64 - 2),
        "executor": executor,
        "threads": threads,
    }
    found: Iterator[Best | None]
    if route == EXACT:
        assert isinstance(problem, NoisyQuadratic)
        found = _linear(problem, optimizer, sizes, horizon, layout, tune_momentum, limits, count, baselines)
    elif route == TWIN:
        assert isinstance(problem, NoisyQuadratic)
        found = (
            search_adaptive(
                *(problem, optimizer, b),
                steps=horizon.steps,
                target=horizon.target,
                max_steps=horizon.most,
                pieces=most,
                largest_lr=limits.lr,
                bins=count,
                refined=refine,
                baselines=baselines,
                **simulation,
            )
            for b in sizes
        )
    else:
        found = (
            search_by_simulation(
                *(problem, optimizer, b, layout),
                steps=horizon.steps,
                target=horizon.target,
                max_steps=horizon.most,
                largest_lr=limits.lr,
                baselines=baselines,
                **simulation,
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
    return labeled(best, batch, horizon.target, _WORDING[route]).assign_attrs(method=route)


class _Limits(NamedTuple):
    """Largest rate, and largest risk on the way; inf where there is none."""

    lr: float
    risk: float


def _refuse(route: str, **given: Any) -> None:
    """Raise `ParameterError` for an argument that the search does not use."""
    unused = {
        EXACT: (
            "be left out for SGD, whose answer is exact: nothing is simulated",
            ("refine", "reference_trajectories", "seed", "executor", "threads"),
        ),
        TWIN: ("be left out for an adaptive optimizer", ("tune_momentum", "lengths", "largest_risk")),
        SIMULATION: ("be left out for a search by simulation", ("tune_momentum", "largest_risk", "bins", "refine")),
    }
    allowed, names = unused[route]
    refuse_unused(allowed, **{name: given[name] for name in names})


def _linear(
    problem: NoisyQuadratic,
    optimizer: SGD,
    sizes: list[float],
    horizon: Horizon,
    layout: Layout,
    tune_momentum: bool,
    limits: _Limits,
    bins: int,
    baselines: bool,
) -> Iterator[Best | None]:
    """The best schedule at one batch size after the other; each starts from its neighbor's, too."""
    rule = Rule.of(problem, optimizer, tune_momentum, limits.lr)
    small = problem.binned(bins)
    slow = SmallRateLimit.of(small, rule.precondition, rule.weight_decay) if small.noise.any() else None
    neighbor: Candidate | None = None
    for b in sizes:
        coarse = rule.composed(small, b)
        fine = coarse if small is problem else rule.composed(problem, b)
        lr = float(optimizer.lr)  # type: ignore[arg-type]
        search = LinearSearch(coarse, fine, rule, layout, slow, b, lr, limits.risk, problem.initial_risk)
        answer = search.run(horizon.steps, horizon.target, horizon.most, neighbor, baselines)
        neighbor = None if answer is None else answer[0]
        yield None if answer is None else answer[1]
