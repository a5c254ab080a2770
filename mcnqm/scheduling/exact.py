r"""The best schedule of a linear optimizer: least risk after given steps, or fewest steps to a target.

The risk of pieces of constant rate and momentum comes from composed maps (`mcnqm.scheduling.composed`), with its exact
gradient, at a cost that does not depend on how long the pieces are. L-BFGS moves the logarithm of every rate below the
largest stable one, and -log(1 - momentum). ``docs/schedules.md`` derives and measures.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from mcnqm.domains import choice, integer, positive, real_array
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, Adam, Number, RMSProp, numeric_fields
from mcnqm.problems import NoisyQuadratic
from mcnqm.progress import meter_of
from mcnqm.provenance import arguments_of, optimizer_of, recorded, settled
from mcnqm.schedules import Schedule, piecewise, stack
from mcnqm.scheduling.adaptive import AdaptiveSearch, labelled, search_adaptive
from mcnqm.scheduling.composed import Composed
from mcnqm.scheduling.descent import descend
from mcnqm.scheduling.greedy import GreedyWalk
from mcnqm.scheduling.slow import SlowLimit
from mcnqm.settings import batch_size_domain

__all__ = ["BASELINES", "optimize_schedule", "piece_lengths", "schedules_of"]

Array = NDArray[np.float64]
Lengths = NDArray[np.int64]

BASELINES = ("constant", "greedy", "exponential", "cosine")

_LOWEST = -40.0
"""Least logarithm of a rate over the largest stable one: such a piece does nothing."""

_BELOW = 1e-9
"""By how much, relatively, the largest rate stays below the stability bound."""

_LONGEST_MEMORY = 18.0
"""Largest -log(1 - momentum): 1 - momentum = 1.5e-8."""

_BEND = 3.0
"""Of geometric spacing: pieces grow by a factor exp(3) from each end to the middle. See docs/schedules.md."""

_SMOOTH = 256
"""Pieces in place of the single steps of an exponential or cosine, in longer runs."""

_TIGHT, _LOOSE = 1e-11, 1e-5
"""Gain in the log risk at which a descent ends: the last one, and that from each of several starts."""

_SHARP = 1e-5
"""The same in a search for the steps, times them: one step more lowers the log risk by about one over them."""

_ROUNDS = 4
"""How often a search for a horizon starts over, where another start turns out to be better at its end."""

_MOST_STEPS = 2**52

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
    pieces: int = 50,
    lengths: ArrayLike | None = None,
    spacing: str | None = None,
    tune_momentum: bool = False,
    bins: int = 100,
    max_steps: int = 2**40,
    baselines: bool = True,
    refine: bool = True,
    trajectories: int = 16,
    seed: int = 0,
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Any = False,
) -> xr.Dataset:
    r"""Rates, and momenta if wanted, of the pieces of a schedule that minimise the risk, or the steps to a target.

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
        Examples per step, >= 1. An array is done one by one, for SGD each from its neighbour's schedule.
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
        Optimise the momentum of each piece, too.
    bins : int
        A problem with more entries is optimised on ``problem.binned(bins)`` first, and then on itself.
    max_steps : int
        Where to give up the search for T.
    baselines : bool
        Whether to compare with the baselines.
    refine : bool
        For adaptive optimizers: whether to improve the twin's schedule by simulation.
    trajectories, seed : int
        Of the simulations for adaptive optimizers: of each that refines, in runs of 500 steps or more (up to 16 times
        as many in shorter ones); confirmations have four times as many, and the next seed.
    executor, threads
        As for `mcnqm.simulate`; only adaptive optimizers are simulated.
    progress : bool or Meter
        A bar over the batch sizes.

    Returns
    -------
    xarray.Dataset
        Over the batch size's dimension, if it has one (…):
        ``lr`` (…, piece) in parameter² / loss, ``momentum`` (…, piece), ``length`` (…, piece) in steps, ``start`` (…,
        piece), the steps done before; ``risk`` (…) of the full problem, in units of the loss; ``steps`` (…), T, inf
        where `max_steps` does not do. Where a batch size has fewer pieces than others, the last have NaN and
        length 0. With baselines: ``baseline_risk`` (…, baseline) after as many steps, with `target` also
        ``baseline_steps`` (…, baseline), and ``gain`` (…, baseline), the quotient of the baseline's steps (without a
        target: risk) and ours. They are

        constant
            the best constant rate (and momentum, if that is tuned);
        greedy
            at each step the rate that minimises the risk after it, within the same bound; NaN with momentum, for which
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
    from the closed form for small rates (`mcnqm.scheduling.slow`), nearly the answer at small batches, from the
    best of every baseline projected onto the pieces, and from a neighbour's answer, and keeps the best. So it is never
    worse than the best constant, or than a projection. 50 pieces cost 0.1 % to 0.4 % of the risk against single
    steps: by so much, a baseline that is itself the optimum (greedy under Newton's preconditioner, where all
    coordinates are alike) is ahead.

    *Adaptive optimizers* (``docs/schedules.md``). The risk of the mean-field twin and its exact gradient stand in for
    theirs; pieces are equal, and the twin's answer is then improved by simulation in three directions (level, tilt and
    bend of log α), on common random numbers. ``risk`` is simulated on fresh trajectories, with ``risk_stderr``;
    ``unrefined_risk`` is that of the twin's own schedule, ``twin_risk`` what the twin says of it. Baselines are those
    of the twin, inf from 64 times the steps on. A horizon is resolved to a thousandth, of at most 2**22 steps; the
    simulated risk at its end is at the target within a few of its standard errors.

    *The horizon.* T is the least for which the optimised risk of the full problem is at or below the target, while
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
    if not isinstance(problem, NoisyQuadratic):
        raise ParameterError("problem", problem, "be a mcnqm.NoisyQuadratic")
    if not isinstance(optimizer, (SGD, Adam, RMSProp)):
        raise ParameterError("optimizer", optimizer, "be a mcnqm.SGD, Adam or RMSProp")
    for name, value in numeric_fields(optimizer).items():
        if isinstance(value, Schedule) or np.ndim(value):
            raise ParameterError(name, value, "be a scalar: schedules are what is sought")
    for name in _UNSEARCHED:
        value = getattr(optimizer, name, 0.0)
        if value and not isinstance(optimizer, SGD):
            allowed = "be left at its default: the gradient that the search follows does not know it"
            raise ParameterError(name, value, allowed)
    if (steps is None) == (target is None):
        raise ParameterError("steps, target", (steps, target), "be given one without the other")
    if steps is not None:
        steps = integer("steps", steps, 1, _MOST_STEPS)
    if target is not None:
        if np.ndim(target):
            raise ParameterError("target", f"shape {np.shape(target)}", "be a scalar: each has a schedule of its own")
        positive.check("target", target)
        if target >= problem.initial_risk:
            raise ParameterError("target", target, f"be below the initial risk, {problem.initial_risk:g}")
    linear = isinstance(optimizer, SGD)
    spacing = ("geometric" if linear else "equal") if spacing is None else spacing
    choice("spacing", spacing, ("geometric", "equal") if linear else ("equal",))
    options: dict[str, Any] = {
        "trajectories": integer("trajectories", trajectories, 1, 2**20),
        "seed": integer("seed", seed, 0, 2**64 - 2),
    }
    layout = _Layout(integer("pieces", pieces, 1, 2**20), spacing, None)
    if lengths is not None:
        layout = _Layout(0, spacing, _checked_lengths(lengths, steps))
    for name, switch in (("tune_momentum", tune_momentum), ("baselines", baselines), ("refine", refine)):
        if not isinstance(switch, bool):
            raise ParameterError(name, switch, "be True or False")
    count = integer("bins", bins, 1)
    limit = integer("max_steps", max_steps, 1, _MOST_STEPS)
    batch = _batch(batch_size)
    if not isinstance(optimizer, SGD):
        if tune_momentum or lengths is not None:
            name, value = ("tune_momentum", True) if tune_momentum else ("lengths", lengths)
            raise ParameterError(name, value, "be left out for an adaptive optimizer")
        searches: list[AdaptiveSearch | None] = []
        longest = min(limit, _LONGEST_ADAPTIVE)
        meter = meter_of(progress)
        meter.start(float(batch.size), "schedules")
        try:
            for b in batch.values.reshape(-1):
                searches.append(
                    search_adaptive(
                        *(problem, optimizer, float(b)),
                        steps=steps,
                        target=target,
                        pieces=pieces,
                        bins=count,
                        refined=refine,
                        max_steps=longest,
                        baselines=baselines,
                        **options,
                        executor=executor,
                        threads=threads,
                    )
                )
                meter.advance(1.0)
        finally:
            meter.close()
        found = labelled(searches, batch, target)
        return found.assign_attrs(settled(spacing=spacing, max_steps=longest), method="mean field and simulation")
    rule = _Rule.of(problem, optimizer, tune_momentum)
    small = problem.binned(count)
    slow = SlowLimit.of(small, rule.precondition, rule.weight_decay) if small.noise.any() else None
    meter = meter_of(progress)
    meter.start(float(batch.size), "schedules")
    answers: list[_Answer] = []
    try:
        for b in batch.values.reshape(-1):
            coarse = rule.composed(small, b)
            fine = coarse if small is problem else rule.composed(problem, b)
            neighbour = answers[-1].found if answers else None
            search = _Search(coarse, fine, rule, layout, slow, float(b), float(optimizer.lr))  # type: ignore[arg-type]
            answers.append(search.run(steps, target, limit, neighbour, baselines))
            meter.advance(1.0)
    finally:
        meter.close()
    return _labelled(answers, batch, target).assign_attrs(settled(spacing=spacing), method="analytic")


def schedules_of(result: xr.Dataset) -> Any:
    """The optimizer of a result of `optimize_schedule`, with its schedules in place of the rate and the momentum.

    Parameters
    ----------
    result : xarray.Dataset
        Of `optimize_schedule`, as returned or read from a file. Of several batch sizes, those that reached the target.

    Returns
    -------
    optimizer
        Ready for `mcnqm.simulate`: of several batch sizes, swept along ``batch_size``.

    Raises
    ------
    ParameterError
        If it is not such a result, or no batch size reached its target.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=20)
    >>> best = optimize_schedule(problem, mcnqm.SGD(lr=0.1), 4, steps=100, pieces=5)
    >>> optimizer = schedules_of(best)
    >>> optimizer.lr(0) == float(best.lr[0]), optimizer.lr(99) == float(best.lr[-1])
    (True, True)
    """
    needed = ("lr", "length", "steps")
    if not isinstance(result, xr.Dataset) or "config" not in result.attrs or any(n not in result for n in needed):
        raise ParameterError("result", type(result).__name__, "be what mcnqm.optimize_schedule returns")
    optimizer, given = optimizer_of(result), arguments_of(result)
    dims = [str(dim) for dim in result["steps"].dims]

    def one(at: xr.Dataset, name: str) -> Schedule:
        used = at["length"].values > 0
        return piecewise(at[name].values[used], at["length"].values[used].astype(np.int64))

    names = ["lr"] + (["momentum"] if given.get("tune_momentum") else [])
    reached = np.isfinite(result["steps"].values)
    if not reached.any():
        raise ParameterError("result", result["steps"].values, "have reached its target somewhere")
    if not dims:
        return optimizer._replace(**{name: one(result, name) for name in names})
    (dim,) = dims
    found = {}
    for name in names:
        labels = result[dim].values if dim in result.coords else np.arange(result.sizes[dim])
        curves = {np.asarray(labels[k]).item(): one(result.isel({dim: k}), name) for k in np.flatnonzero(reached)}
        found[name] = stack(curves, dim=dim)
    return optimizer._replace(**found)


def piece_lengths(steps: int, pieces: int, spacing: str = "geometric") -> Lengths:
    """Whole lengths of at most `pieces` pieces that sum to `steps`.

    Geometric lengths grow from both ends to the middle: rates change fastest at the start, where they fall from the
    largest, and at the end, where noise is averaged out.

    Examples
    --------
    >>> piece_lengths(100, 4, "equal"), piece_lengths(100, 6), piece_lengths(3, 50)
    (array([25, 25, 25, 25]), array([ 5, 13, 32, 32, 13,  5]), array([1, 1, 1]))
    """
    count = min(pieces, steps)
    place = np.arange(count + 1) / count
    if spacing == "geometric":
        near = np.expm1(_BEND * np.minimum(2.0 * place, 2.0 - 2.0 * place)) / np.expm1(_BEND)
        place = np.where(place <= 0.5, 0.5 * near, 1.0 - 0.5 * near)
    # Every piece has one step; the others are shared out.
    return np.diff(np.arange(count + 1) + np.round((steps - count) * place).astype(np.int64))


# ------------------------------------------------------------------------------------------------- what is searched


@dataclass(frozen=True)
class _Layout:
    pieces: int
    spacing: str
    lengths: Lengths | None

    def of(self, steps: int) -> Lengths:
        return self.lengths if self.lengths is not None else piece_lengths(steps, self.pieces, self.spacing)


@dataclass(frozen=True)
class _Rule:
    """The optimizer, and where its rates end."""

    nesterov: bool
    precondition: float
    weight_decay: float
    dampening: float
    momentum: float
    tuned: bool
    steepest: float

    @classmethod
    def of(cls, problem: NoisyQuadratic, optimizer: SGD, tuned: bool) -> _Rule:
        numbers = {name: float(value) for name, value in numeric_fields(optimizer).items()}
        decay, dampening = numbers["weight_decay"], numbers["dampening"]
        if tuned and dampening:
            raise ParameterError("tune_momentum", True, "be False with dampening, which needs momentum > 0 throughout")
        composed = Composed.of(problem, 1.0, precondition=numbers["precondition"], weight_decay=decay)
        steepest = float(composed.scale.max()) * (1.0 - dampening)
        rest = numbers["momentum"], tuned, steepest
        return cls(optimizer.nesterov, numbers["precondition"], decay, dampening, *rest)

    def composed(self, problem: NoisyQuadratic, batch_size: float) -> Composed:
        """The problem under it."""
        return Composed.of(
            *(problem, batch_size),
            precondition=self.precondition,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            dampening=self.dampening,
        )

    def largest(self, momentum: Array) -> tuple[Array, Array]:
        """Largest rate at a momentum, and the derivative of its logarithm by that."""
        lead = 1.0 + momentum
        bound = 2.0 * (1.0 - _BELOW) * lead / self.steepest
        if not self.nesterov:
            return bound, 1.0 / lead
        ahead = 1.0 + 2.0 * momentum
        return bound / ahead, 1.0 / lead - 2.0 / ahead


@dataclass(frozen=True)
class _Found:
    """A schedule: log of the rate over the largest, and -log(1 - momentum), of each piece."""

    lengths: Lengths
    x: Array
    y: Array

    def stretched(self, lengths: Lengths) -> _Found:
        """The same over pieces of other lengths: values at the middles, by the fraction of the run."""
        ends = np.cumsum(self.lengths) / self.lengths.sum()
        middles = (np.cumsum(lengths) - 0.5 * lengths) / lengths.sum()
        k = np.minimum(np.searchsorted(ends, middles, side="right"), ends.size - 1)
        return _Found(lengths, self.x[k], self.y[k])

    def values(self, rule: _Rule) -> tuple[Array, Array]:
        """Rates and momenta."""
        momentum = -np.expm1(-self.y) if rule.tuned else np.full(self.x.size, rule.momentum)
        return rule.largest(momentum)[0] * np.exp(self.x), momentum


class _Family(Protocol):
    """Schedules with parameters; the last of them, where momentum is tuned, is its place, or one for each piece."""

    @property
    def lengths(self) -> Lengths:
        """Steps of each piece."""

    def at(self, p: Array) -> _Found:
        """The schedule."""

    def pull(self, p: Array, by_x: Array, by_y: Array) -> Array:
        """Derivatives by the parameters from those by the pieces."""

    def bounds(self) -> list[tuple[float, float]]:
        """Of the parameters."""


@dataclass(frozen=True)
class _Free:
    """Every piece by itself; one piece is the constant."""

    lengths: Lengths
    tuned: bool

    def at(self, p: Array) -> _Found:
        k = self.lengths.size
        return _Found(self.lengths, p[:k], p[k:] if self.tuned else np.zeros(k))

    def pull(self, p: Array, by_x: Array, by_y: Array) -> Array:
        return np.concatenate([by_x, by_y]) if self.tuned else by_x

    def bounds(self) -> list[tuple[float, float]]:
        k = self.lengths.size
        return [(_LOWEST, 0.0)] * k + [(0.0, _LONGEST_MEMORY)] * (k if self.tuned else 0)

    def start(self, found: _Found) -> Array:
        near = found.stretched(self.lengths)
        return np.concatenate([near.x, near.y]) if self.tuned else near.x


@dataclass(frozen=True)
class _Exponential:
    """Parameters: log of the first rate over the largest, log of the final fraction."""

    lengths: Lengths
    tuned: bool

    def _place(self) -> Array:
        n = self.lengths
        return np.asarray((np.cumsum(n) - n + 0.5 * (n - 1)) / n.sum())

    def at(self, p: Array) -> _Found:
        place = self._place()
        return _Found(self.lengths, p[0] + p[1] * place, np.full(place.size, p[2] if self.tuned else 0.0))

    def pull(self, p: Array, by_x: Array, by_y: Array) -> Array:
        return np.array([by_x.sum(), by_x @ self._place(), by_y.sum()])[: 3 if self.tuned else 2]

    def bounds(self) -> list[tuple[float, float]]:
        return [(_LOWEST, 0.0), (_LOWEST, 0.0), (0.0, _LONGEST_MEMORY)][: 3 if self.tuned else 2]


class _Cosine(_Exponential):
    """Parameters: log of the first rate over the largest, the final fraction."""

    def _shape(self, final: float) -> tuple[Array, Array]:
        wave = 0.5 * (1.0 + np.cos(np.pi * self._place()))
        return wave, np.maximum(final + (1.0 - final) * wave, 1e-300)

    def at(self, p: Array) -> _Found:
        _, level = self._shape(p[1])
        return _Found(
            self.lengths, np.maximum(p[0] + np.log(level), -600.0), np.full(level.size, p[2] if self.tuned else 0.0)
        )

    def pull(self, p: Array, by_x: Array, by_y: Array) -> Array:
        wave, level = self._shape(p[1])
        return np.array([by_x.sum(), by_x @ ((1.0 - wave) / level), by_y.sum()])[: 3 if self.tuned else 2]

    def bounds(self) -> list[tuple[float, float]]:
        return [(_LOWEST, 0.0), (0.0, 1.0), (0.0, _LONGEST_MEMORY)][: 3 if self.tuned else 2]


_FAMILIES: dict[str, tuple[type[_Exponential], tuple[float, ...]]] = {
    "exponential": (_Exponential, (-0.5, -2.0, -5.0)),
    "cosine": (_Cosine, (0.5, 0.1, 0.01)),
}
"""Each with second parameters to start from."""


def _risk(composed: Composed, rule: _Rule, found: _Found) -> float:
    """Log of the risk."""
    risk = composed.risk(*found.values(rule), found.lengths)
    return float(np.log(max(risk, 1e-300)))


def _objective(composed: Composed, rule: _Rule, family: _Family) -> Callable[[Array], tuple[float, Array]]:
    """Log of the risk and its gradient, as a function of a family's parameters."""

    def objective(p: Array) -> tuple[float, Array]:
        found = family.at(p)
        lr, momentum = found.values(rule)
        risk, by_lr, by_momentum = composed.gradient(lr, momentum, family.lengths, by_momentum=rule.tuned)
        if not 1e-300 < risk < np.inf:
            return (-700.0 if risk <= 1e-300 else 700.0), np.zeros(p.size)
        by_x = by_lr * lr
        by_y = (by_momentum + by_x * rule.largest(momentum)[1]) * (1.0 - momentum) if rule.tuned else by_x
        return float(np.log(risk)), family.pull(p, by_x, by_y) / risk

    return objective


def _minimise(
    composed: Composed, rule: _Rule, family: _Family, starts: list[Array], tolerance: float = _TIGHT
) -> tuple[Array, float]:
    """Parameters of least risk and its logarithm: loosely from every start, then from the best to a tolerance."""
    objective = _objective(composed, rule, family)
    low, high = np.array(family.bounds()).T

    if len(starts) > 1:
        loose = max(_LOOSE, tolerance)
        tried = [descend(objective, start, low, high, tolerance=loose) for start in starts]
        starts = [min(tried, key=lambda one: one[1])[0]]
    return descend(objective, starts[0], low, high, tolerance=tolerance)


def _fewest(
    evaluate: Callable[[int, _Found | None], tuple[float, _Found]], guess: float, state: _Found | None, limit: int
) -> tuple[int, float, _Found] | None:
    """Least number of steps with a gap <= 0, that gap and the schedule: a secant in the logarithm of the steps.

    ``evaluate(steps, nearby)`` is the log of the risk over the target, and the schedule; it falls with the steps. None
    if it is not reached at `limit`. The answer is between a step that was found above, and itself.
    """
    low, high = 0, 0
    answer: tuple[int, float, _Found] | None = None
    t, slope, before = int(np.clip(guess, 1, limit)), -1.0, None
    for count in range(400):
        gap, state = evaluate(t, state)
        if gap <= 0.0:
            high, answer = t, (t, gap, state)
        else:
            low = t
        if (answer is not None and high - low <= 1) or (answer is None and low >= limit):
            break
        if before is not None and before[0] != t and np.isfinite(gap - before[1]):
            # Rounded lengths make it jitter from one step to the next.
            slope = float(np.clip((gap - before[1]) / np.log(t / before[0]), -200.0, -0.05))
        before = (t, gap)
        move = float(np.clip(-gap / slope, -2.0, 2.0)) if np.isfinite(gap) else 2.0
        t = int(np.ceil(min(t * np.exp(move), 2.0 * limit)))
        t = max(t, low + 1)
        t = min(t, limit if answer is None else high - 1)
        if answer is not None and count > 30:
            t = (low + high) // 2
    return answer


@dataclass(frozen=True)
class _Answer:
    """One batch size's."""

    found: _Found | None
    lr: Array
    momentum: Array
    steps: float
    risk: float
    baseline_steps: Array
    baseline_risk: Array


@dataclass(frozen=True)
class _Search:
    """The search at one batch size."""

    coarse: Composed
    fine: Composed
    rule: _Rule
    layout: _Layout
    slow: SlowLimit | None
    batch_size: float
    lr: float
    memory: dict[Any, Any] = field(default_factory=dict)
    """Answers that are asked for again: baselines by steps, and each family's last parameters."""

    def run(
        self, steps: int | None, target: float | None, limit: int, neighbour: _Found | None, baselines: bool
    ) -> _Answer:
        """All of it."""
        nothing = np.full(len(BASELINES), np.nan)
        if steps is not None:
            found = self.polished(self.best(steps, [neighbour] if neighbour is not None else []))
        else:
            assert target is not None
            reached = self.horizon(float(np.log(target)), limit, neighbour)
            if reached is None:
                return _Answer(None, np.empty(0), np.empty(0), np.inf, np.nan, nothing, nothing)
            found = reached
        total = int(found.lengths.sum())
        risk = _risk(self.fine, self.rule, found)
        passages, risks = nothing, nothing
        if baselines:
            projected = self.baselines(total)
            risks = np.array([self.value(name, total, projected) for name in BASELINES])
            if target is not None:
                passages = np.array([self.passage(name, target, limit, total) for name in BASELINES])
        lr, momentum = found.values(self.rule)
        return _Answer(found, lr, momentum, float(total), float(np.exp(risk)), passages, risks)

    # ------------------------------------------------------------------------------------------------- optimisation

    def constant(self, steps: int, composed: Composed | None = None) -> _Found:
        """The best constant, from a grid: with momentum and few steps there are several basins."""
        composed, rule, lengths = composed or self.coarse, self.rule, np.array([steps], dtype=np.int64)
        family = _Free(lengths, rule.tuned)
        x = -np.concatenate([np.geomspace(1e-7, 0.1, 12), np.linspace(0.2, 18.0, 60)])
        if not rule.tuned:
            risks = [_risk(self.coarse, rule, family.at(np.array([place]))) for place in x]
            starts = [np.array([x[k]]) for k in _valleys(np.array(risks), 3)]
            starts.append(np.log(np.array([self.lr]) / rule.largest(np.array([rule.momentum]))[0]))
        else:
            starts, lows = [], []
            for y in np.concatenate([[0.0], -np.log(np.geomspace(0.7, 1e-6, 20))]):
                risks = [_risk(self.coarse, rule, family.at(np.array([place, y]))) for place in x]
                k = int(np.argmin(risks))
                starts.append(np.array([x[k], y]))
                lows.append(risks[k])
            starts = [starts[k] for k in _valleys(np.array(lows), 3)]
        return family.at(_minimise(composed, rule, family, starts)[0])

    def smooth(self, name: str, steps: int, start: Array | None = None) -> tuple[_Found, Array]:
        """The best of a family, and its parameters."""
        kind, seconds = _FAMILIES[name]
        family = kind(piece_lengths(steps, _SMOOTH, "equal"), self.rule.tuned)
        if start is not None:
            starts = [start]
        else:
            # The constant is a member, its mean rate a guess of the others'.
            level = self.constant(steps)
            none = 0.0 if name == "exponential" else 1.0
            starts = [np.array([level.x[0], none, level.y[0]])]
            starts += [np.array([min(level.x[0] + 1.0, -0.1), second, level.y[0]]) for second in seconds]
            starts = [p[: 3 if self.rule.tuned else 2] for p in starts]
        p, _ = _minimise(self.coarse, self.rule, family, starts)
        return family.at(p), p

    def greedy(self, steps: int) -> _Found | None:
        """The greedy schedule's mean rate on each of our pieces."""
        if self.rule.momentum or self.rule.tuned:
            return None
        largest = self.rule.largest(np.zeros(1))[0]
        walk, lengths, rates = GreedyWalk(self.coarse, float(largest[0])), self.layout.of(steps), []
        for n, end in zip(lengths, np.cumsum(lengths), strict=True):
            area = walk.area
            walk.advance(int(end))
            rates.append((walk.area - area) / n)
        x = np.log(np.maximum(np.array(rates) / largest, np.exp(_LOWEST)))
        return _Found(lengths, x, np.zeros(x.size))

    def baselines(self, steps: int) -> dict[str, _Found | None]:
        """Every baseline, optimised at that many steps on the bins."""
        if steps not in self.memory:
            self.memory[steps] = {
                "constant": self.constant(steps),
                "greedy": self.greedy(steps),
                **{name: self.smooth(name, steps)[0] for name in _FAMILIES},
            }
        found: dict[str, _Found | None] = self.memory[steps]
        return found

    def slowly(self, steps: int, memory: float) -> list[_Found]:
        """The closed form for small rates, at a memory (-log(1 - momentum))."""
        if self.slow is None:
            return []
        lengths = self.layout.of(steps)
        momentum = np.full(lengths.size, -np.expm1(-memory))
        rates = self.slow.rates(steps * self.batch_size, lengths) * (1.0 - momentum) / (1.0 - self.rule.dampening)
        x = np.log(np.maximum(rates / self.rule.largest(momentum)[0], np.exp(_LOWEST)))
        return [_Found(lengths, np.minimum(x, 0.0), np.full(x.size, memory))]

    def improved(self, steps: int, starts: list[_Found], tolerance: float = _TIGHT) -> tuple[_Found, float]:
        """The best on the bins, from some starts."""
        family = _Free(self.layout.of(steps), self.rule.tuned)
        p, value = _minimise(self.coarse, self.rule, family, [family.start(found) for found in starts], tolerance)
        return family.at(p), value

    def best(self, steps: int, more: list[_Found], tolerance: float = _TIGHT) -> _Found:
        """The best on the bins, from all starts."""
        projected = [found for found in self.baselines(steps).values() if found is not None]
        memory = projected[0].y[0] if self.rule.tuned else -np.log1p(-self.rule.momentum)
        starts = projected + self.slowly(steps, float(memory)) + more
        if self.rule.tuned:
            starts += self.slowly(steps, 0.0)
        return self.improved(steps, starts, tolerance)[0]

    def polished(self, found: _Found, tolerance: float = _TIGHT) -> _Found:
        """The best of the full problem nearby."""
        if self.fine is self.coarse:
            return found
        family = _Free(found.lengths, self.rule.tuned)
        return family.at(_minimise(self.fine, self.rule, family, [family.start(found)], tolerance)[0])

    def horizon(self, goal: float, limit: int, neighbour: _Found | None) -> _Found | None:
        """Fewest steps to a log risk: on the bins, with other starts at the end, then on the full problem."""
        guess = self.slow.examples(float(np.exp(goal))) / self.batch_size if self.slow is not None else 1.0
        families: list[tuple[int, float, _Found]] = []
        for name in ("constant", *_FAMILIES):
            near = min([guess * 2.0] + [float(one[0]) for one in families]) if families else guess
            one = self.fewest(name, self.coarse, goal, limit, near)
            if one is not None:
                families.append(one)
        # What a family reaches, so do we, if its projection onto the pieces does. The constant is its own projection.
        most, start = limit, None
        for steps, _, found in sorted(families, key=lambda one: one[0]):
            own, value = self.improved(steps, [found, self.constant(steps)], _LOOSE)
            if value <= goal:
                most, start = steps, own
                break

        def bins(steps: int, state: _Found | None) -> tuple[float, _Found]:
            starts = [] if state is None else [state]
            if state is start:
                starts += self.slowly(steps, float(-np.log1p(-self.rule.momentum)))
            if self.rule.tuned or self.rule.momentum or not starts:
                starts.append(self.constant(steps))
            found, value = self.improved(steps, starts, max(_SHARP / steps, _TIGHT))
            return value - goal, found

        def full(steps: int, state: _Found | None) -> tuple[float, _Found]:
            assert state is not None
            found = self.polished(state.stretched(self.layout.of(steps)), max(_SHARP / steps, _TIGHT))
            return _risk(self.fine, self.rule, found) - goal, found

        if start is not None:
            guess = min(max(guess, 0.3 * most), most)
        reached = _fewest(bins, guess, start, most)
        if reached is None and most < limit:
            # A smooth family may need fewer steps than a few pieces do.
            reached = _fewest(bins, float(most), start, limit)
        if reached is None:
            return None
        if self.fine is not self.coarse:
            reached = _fewest(full, reached[0], reached[2], limit)
            if reached is None:
                return None
        others = [] if neighbour is None else [neighbour]
        for _ in range(_ROUNDS):
            steps, _, found = reached
            if steps == 1:
                break
            # Whether another start does with a step less.
            sharp = max(_SHARP / steps, _TIGHT)
            other = self.polished(self.best(steps - 1, [found, *others], sharp), sharp)
            gap = _risk(self.fine, self.rule, other) - goal
            if gap > 0.0:
                break
            again = _fewest(full if self.fine is not self.coarse else bins, steps - 1, other, steps - 1)
            reached = (steps - 1, gap, other) if again is None else again
        steps, gap, found = reached
        other = self.polished(self.best(steps, [found, *others]))
        return other if _risk(self.fine, self.rule, other) - goal < gap else found

    # ---------------------------------------------------------------------------------------------------- baselines

    def value(self, name: str, steps: int, projected: dict[str, _Found | None]) -> float:
        """A baseline's risk of the full problem."""
        if name == "greedy":
            if projected["greedy"] is None:
                return np.nan
            walk = GreedyWalk(self.fine, float(self.rule.largest(np.zeros(1))[0][0]))
            walk.advance(steps)
            return walk.risk
        found = self.constant(steps, self.fine) if name == "constant" else projected[name]
        assert found is not None
        return float(np.exp(_risk(self.fine, self.rule, found)))

    def passage(self, name: str, target: float, limit: int, guess: int) -> float:
        """A baseline's fewest steps."""
        if name == "greedy":
            if self.rule.momentum or self.rule.tuned:
                return np.nan
            walk = GreedyWalk(self.fine, float(self.rule.largest(np.zeros(1))[0][0]))
            walk.advance(limit, target)
            return float(walk.step) if walk.risk <= target else np.inf
        reached = self.fewest(name, self.fine, float(np.log(target)), limit, guess)
        return np.inf if reached is None else float(reached[0])

    def fewest(
        self, name: str, composed: Composed, goal: float, limit: int, guess: float
    ) -> tuple[int, float, _Found] | None:
        """Fewest steps of the constant or a smooth family."""

        def evaluate(steps: int, state: _Found | None) -> tuple[float, _Found]:
            if name == "constant":
                found = self.constant(steps, composed)
            else:
                found, self.memory[name] = self.smooth(name, steps, self.memory.get(name))
            return _risk(composed, self.rule, found) - goal, found

        reached = _fewest(evaluate, self.memory.get((name, goal), guess), None, limit)
        if reached is not None:
            self.memory[name, goal] = reached[0]
        return reached


def _valleys(values: Array, most: int) -> list[int]:
    """Places of the lowest local minima."""
    padded = np.concatenate([[np.inf], values, [np.inf]])
    low = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]))
    return [int(k) for k in low[np.argsort(values[low])][:most]]


# --------------------------------------------------------------------------------------------------- in and out


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
    along = ["batch_size"] if plain.ndim else []
    return xr.DataArray(plain, dims=along, coords=dict.fromkeys(along, plain))


def _labelled(answers: list[_Answer], batch: xr.DataArray, target: float | None) -> xr.Dataset:
    most = max([a.lr.size for a in answers] + [1])

    def pieces(values: list[Array], fill: float) -> NDArray[Any]:
        rows = [np.concatenate([v, np.full(most - v.size, fill)]) for v in values]
        return np.array(rows).reshape(*batch.shape, most)

    lengths = [a.found.lengths.astype(np.float64) if a.found is not None else np.empty(0) for a in answers]
    starts = [np.cumsum(n) - n for n in lengths]
    dims = tuple(str(dim) for dim in batch.dims)
    each, along = (*dims, "piece"), (*dims, "baseline")

    def scalars(values: list[float]) -> NDArray[Any]:
        return np.array(values).reshape(batch.shape)

    steps, risk = scalars([a.steps for a in answers]), scalars([a.risk for a in answers])
    data: dict[str, Any] = {
        "lr": (each, pieces([a.lr for a in answers], np.nan), {"units": "parameter²/loss"}),
        "momentum": (each, pieces([a.momentum for a in answers], np.nan), {"units": "1"}),
        "length": (each, pieces(lengths, 0).astype(np.int64), {"units": "steps"}),
        "start": (each, pieces(starts, np.nan), {"units": "steps", "long_name": "steps done before"}),
        "risk": (dims, risk, {"units": "loss", "long_name": "expected loss after all steps"}),
        "steps": (dims, steps, {"units": "steps"}),
    }
    if any(np.isfinite(a.baseline_risk).any() for a in answers):
        shape = (*batch.shape, len(BASELINES))
        risks = np.array([a.baseline_risk for a in answers]).reshape(shape)
        data["baseline_risk"] = (along, risks, {"units": "loss", "long_name": "expected loss after as many steps"})
        gain = risks / risk[..., np.newaxis]
        if target is not None:
            passages = np.array([a.baseline_steps for a in answers]).reshape(shape)
            data["baseline_steps"] = (along, passages, {"units": "steps", "long_name": "fewest steps to the target"})
            gain = passages / steps[..., np.newaxis]
        data["gain"] = (along, gain, {"units": "1", "long_name": "the baseline's steps (or risk) over ours"})
    coords = {str(name): value for name, value in batch.coords.items()}
    if not dims:
        coords["batch_size"] = batch
    if "gain" in data:
        coords["baseline"] = xr.DataArray(list(BASELINES), dims="baseline")
    return xr.Dataset(data, coords=coords)
