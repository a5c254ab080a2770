"""Steps to target by simulation: all lanes of a sweep advance together until each has hit, or cannot.

The estimator: the first step at which the estimated risk is at or below the target. The estimate is the mean loss over
all trajectories at every step, smoothed where a first passage would otherwise pick out the first favourable fluctuation
(`mcnqm.tuning.smoothing`). Losses of adaptive optimizers are first freed of what their mean-field twins explain
(`mcnqm.statistics.controlled`).

Errors come from the jackknife: the same is done with each of several replicates (groups of trajectories) left out. An
interval comes from those of the risk: it begins where the risk may be at the target, and ends where it surely is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

from mcnqm.engine import Job, Losses, March, Pool, check_room, joined
from mcnqm.ensembles import DIVERGED_AT
from mcnqm.progress import Meter
from mcnqm.statistics import LEAST_SHARE, effective_number, jackknife, mean_interval, pseudo_values
from mcnqm.tuning.smoothing import FAR, RAW_UNTIL, Curve, Swing, Window, first_passage

__all__ = ["REASONS", "Race", "RaceResult", "Runner", "at_least", "risk_estimates", "run_races", "summarise"]

Array = NDArray[np.float64]

REASONS = ("reached", "diverged", "steady state above target", "step limit", "overtaken")
"""Why a setting stopped; anything but the first means that its steps are infinite."""

_REACHED, _DIVERGED, _STEADY, _LIMIT, _OVERTAKEN = range(5)

_EXACT_UNTIL, _SWINGING_UNTIL = 256, 2048
"""Up to here every step is looked at, up to the second while the risk may oscillate, lest a dip fall between two looks;
beyond, about every 1/256 of the steps so far."""

_BEYOND = 1.5
"""A race that wants to be certain follows a risk for so many times the steps it took to the target, no further."""

_STRIDE, _STRETCH = 1.5, 1.12
"""Lanes are looked at each time the number of steps has grown by so much: far from the target, and near it, where what
runs beyond it is wasted."""

_PARTS, _PARTED_FROM = 4, 4096
"""From so many steps on, where that costs little, lanes may leave at every quarter of a stretch near the target."""

_ROUNDED = 1e-12
"""Crossings that differ by no more, relative, are the same: regressions of equal curves round differently."""

_FLAT = 0.02
"""A risk that falls by less than this between octaves of steps is steady."""


@dataclass(frozen=True)
class RaceResult:
    """First passages of a sweep.

    Attributes
    ----------
    steps : ndarray, shape (settings, 1 + replicates)
        When the risk crosses the target, by linear interpolation between looks; of all trajectories, then with each
        replicate left out; inf if never. The first step at or below the target is the next integer.
    reason : ndarray of int, shape (settings,)
        Index into `REASONS`.
    interval : ndarray, shape (settings, 2)
        95 % interval of the crossing; NaN where none was asked for or the target was not reached.
    effective : ndarray, shape (settings,)
        How many of the replicates carry the spread of the risk at the crossing (`effective_number`).
    """

    steps: Array
    reason: NDArray[np.int64]
    interval: Array
    effective: Array


class Runner(Protocol):
    """A sweep that `run_races` carries along: `Race`, or another that only looks elsewhere."""

    @property
    def job(self) -> Job:
        """What runs."""

    @property
    def running(self) -> bool:
        """Whether anything is left to be decided."""

    def looks(self) -> NDArray[np.int64]:
        """Steps of the next stretch, at which `see` wants the losses."""

    def see(self, record: NDArray[np.int64], losses: Losses) -> NDArray[np.bool_]:
        """Take the losses of the settings still running there, and say which of them may stop."""

    def result(self) -> RaceResult:
        """What is known at the end."""


class Race:
    """One sweep on its way to its targets: which steps it wants to look at, and what it makes of the losses there.

    Parameters
    ----------
    job : Job
        Its trajectories are split evenly into replicates.
    targets : ndarray, shape (settings,)
        Risk to reach.
    replicates : int
        Groups of trajectories to leave out.
    max_steps : int
        Step limit.
    patience : float, optional
        Once a setting has hit after t steps, others go on to ``patience * t``.
    may_settle : ndarray of bool, shape (settings,), optional
        Where a risk that has stopped falling may be taken for its steady state. By default everywhere.
    settle_from : float
        From which step on: until then schedules may yet move it.
    jumps : ndarray of int, optional
        Steps at which a schedule jumps, and the risk has a kink.
    swings_until, swing : optional
        See `mcnqm.tuning.smoothing.Curve`.
    certain : bool
        Follow each risk beyond the target for as long as an interval wants.
    """

    def __init__(
        self,
        job: Job,
        targets: Array,
        replicates: int,
        *,
        max_steps: int,
        patience: float | None = None,
        may_settle: NDArray[np.bool_] | None = None,
        settle_from: float = 0.0,
        jumps: NDArray[np.int64] | None = None,
        swings_until: Array | None = None,
        swing: Swing | None = None,
        certain: bool = False,
    ) -> None:
        size = job.settings.size
        self.job = job
        self._targets, self._replicates, self._max_steps, self._patience = targets, replicates, max_steps, patience
        self._settle = np.ones(size, dtype=np.bool_) if may_settle is None else may_settle
        self._settle_from = settle_from
        self._window, self._certain = Window(wide=not job.cells), certain
        kinks = np.empty(0, np.int64) if jumps is None else np.unique(jumps)
        self._curve = Curve(targets, 1 + replicates, kinks, self._window, swings_until, swing)
        longest = 0.0 if swings_until is None else float(np.max(swings_until))
        self._exact_until = int(np.clip(longest, _EXACT_UNTIL, _SWINGING_UNTIL))
        self._initial = job.problem.initial_risk
        self._endless = DIVERGED_AT * job.problem.loss_scale
        self._steps = np.full((size, 1 + replicates), np.inf)
        self._interval = np.full((size, 2), np.nan)
        self._effective = np.full(size, np.nan)
        self._reason = np.full(size, _LIMIT)
        self._alive = np.arange(size)
        self._planned: list[NDArray[np.int64]] = []
        self._octaves: list[tuple[int, Array]] = []
        self._deadline, self._far, self._step = np.inf, True, 0

    @property
    def running(self) -> bool:
        """Whether anything is left to be decided."""
        return self._alive.size > 0 and self._step < self._max_steps

    def looks(self) -> NDArray[np.int64]:
        """Steps of the next stretch, at which `see` wants the losses."""
        if not self._planned:
            record = _looks(self._step, self._max_steps, _STRIDE if self._far else _STRETCH, self._exact_until)
            if self._step == 0:
                record = np.concatenate([[0], record])
            # Looks depend on where a stretch begins, but lanes may leave within it.
            self._planned = np.array_split(record, 1 if self._far or self._step < _PARTED_FROM else _PARTS)
        return self._planned.pop(0)

    def see(self, record: NDArray[np.int64], losses: Losses) -> NDArray[np.bool_]:
        """Take the losses of the settings still running at what `looks` asked for, and say which of them may stop."""
        alive, targets, curve = self._alive, self._targets, self._curve
        with np.errstate(invalid="ignore", over="ignore"):
            risk = risk_estimates(losses, self._replicates)
            risk[~(risk <= self._endless)] = np.inf
        known = losses.expected
        if record[0] == 0:
            curve.start(risk[..., 0])
            record, risk = record[1:], risk[..., 1:]
            known = None if known is None else known[..., 1:]
        self._step = step = int(record[-1])
        curve.extend(record, risk, alive, known=known, last=step >= self._max_steps)
        self._far = bool((risk[:, 0, -1] > FAR * targets[alive]).all())
        self._steps[alive] = np.minimum(self._steps[alive], curve.crossings(alive, targets[alive]))

        finished = self._finished(alive)
        self._reason[alive[np.isfinite(self._steps[alive, 0])]] = _REACHED
        if self._patience is not None:
            for s in alive[finished]:
                self._deadline = min(self._deadline, self._patience * float(self._steps[s, 0]))
        diverged = np.isinf(risk[..., -1]).any(axis=1) & ~finished
        self._note(alive[diverged], _DIVERGED)
        # The estimate lags behind by the regression's window.
        overtaken = (step > self._window.stop(self._deadline)) & ~finished & ~diverged
        self._note(alive[overtaken], _OVERTAKEN)
        gone = np.asarray(finished | diverged | overtaken)

        if not self._octaves or step >= 2 * self._octaves[-1][0]:
            level = np.full(targets.size, np.nan)
            above = np.isfinite(risk) & (risk > 0.0)  # nothing is left where there is no noise
            level[alive] = np.log(np.where(above, risk, np.nan)).mean(axis=(1, 2))
            self._octaves.append((step, level))
            steady = _steady(self._octaves, alive, self._initial, self._settle_from) & self._settle[alive] & ~gone
            steady &= risk[:, 0, -1] > targets[alive]  # below it the crossing only waits for its window
            self._note(alive[steady], _STEADY)
            gone |= steady
        self._alive = alive[~gone]
        return gone

    def _finished(self, alive: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Settings of which nothing more is to be learnt: every estimate has hit, and the interval, if one is wanted.

        Where a part of the sample does not reach what the whole has reached, the risk barely touches the target. It is
        followed a little further and then given up.
        """
        whole = self._steps[alive, 0]
        late = self._step > self._window.stop(_BEYOND * np.where(np.isfinite(whole), whole, 0.0))
        finished = np.isfinite(self._steps[alive]).all(axis=1)
        if self._certain:
            for s in alive[finished]:
                self._interval[s], self._effective[s] = self._interval_of(int(s))
            finished &= np.isfinite(self._interval[alive]).all(axis=1)
        return np.asarray(finished | (np.isfinite(whole) & late))

    def _interval_of(self, setting: int) -> tuple[tuple[float, float], float]:
        """Interval of a crossing, and the effective number of replicates there.

        From the first step at which the risk may be at the target to the first from which on it surely is, by the ends
        of an interval of the risk at each look; inf where it has not been followed so far.
        """
        crossing, target = float(self._steps[setting, 0]), float(self._targets[setting])
        if crossing == 0.0:
            return (0.0, 0.0), float(self._replicates)
        steps, risk = self._curve.near(setting, target)
        parts = pseudo_values(risk, axis=0)
        low, high = mean_interval(parts, axis=0)
        first = first_passage(steps, low, target)
        after = slice(max(int(np.searchsorted(steps, crossing)) - 1, 0), None)
        last = first_passage(steps[after], high[after], target)
        here = min(int(np.searchsorted(steps, crossing)), steps.size - 1)
        return (min(first, crossing), max(last, crossing)), float(effective_number(parts[:, here]))

    def _note(self, settings: NDArray[np.int64], reason: int) -> None:
        """Why these stop, unless they had reached the target before."""
        self._reason[settings[self._reason[settings] != _REACHED]] = reason

    def result(self) -> RaceResult:
        """What is known at the end."""
        if self._certain:
            for s in np.flatnonzero((self._reason == _REACHED) & np.isnan(self._interval[:, 0])):
                self._interval[s], self._effective[s] = self._interval_of(int(s))
        steps = np.where(np.isfinite(self._steps[:, :1]), self._steps, np.inf)
        return RaceResult(steps, self._reason, self._interval, self._effective)


def run_races(races: Sequence[Runner], pool: Pool, meter: Meter) -> Iterator[tuple[int, RaceResult]]:
    """Run all settings until each has hit its target, whichever replicate is left out, or cannot.

    Several races share their noise, which is then drawn but once. Each is as it would be alone, bit for bit: it looks
    at the steps that it asked for, and knows nothing of the others.

    Parameters
    ----------
    races : sequence of Runner
        Of jobs that can be joined.
    pool, meter
        Where, and who is told.

    Yields
    ------
    int, RaceResult
        The number of each race and its result, as soon as it is known.
    """
    job = joined([race.job for race in races])
    check_room(job, _EXACT_UNTIL, stays=True)
    march = March(job, pool, meter)
    ends = np.cumsum([0, *(race.job.settings.size for race in races)])
    wanted = {k: race.looks() for k, race in enumerate(races)}
    asked = dict(wanted)
    parts: dict[int, list[Losses]] = {k: [] for k in wanted}
    while wanted:
        stop = min(int(looks[-1]) for looks in wanted.values())
        record = np.unique(np.concatenate([looks[looks <= stop] for looks in wanted.values()]))
        alive = march.alive
        losses = march.advance(record)
        gone, over = np.zeros(alive.size, dtype=np.bool_), []
        for k in list(wanted):
            mine = slice(*np.searchsorted(alive, ends[k : k + 2]))
            now = int(np.searchsorted(wanted[k], stop, side="right"))
            if now:
                parts[k].append(losses.pick(mine, np.searchsorted(record, wanted[k][:now])))
            wanted[k] = wanted[k][now:]
            if wanted[k].size:
                continue
            first, *rest = parts[k]
            gone[mine] = races[k].see(asked[k], first.join(rest))
            if races[k].running:
                wanted[k] = asked[k] = races[k].looks()
                parts[k] = []
            else:
                gone[mine] = True
                over.append(k)
                del wanted[k], asked[k], parts[k]
        if gone.any():
            march.drop(gone)
        for k in over:
            yield k, races[k].result()


def _looks(step: int, max_steps: int, stretch: float, exact_until: int) -> NDArray[np.int64]:
    """Steps to look at in the next stretch, the last a multiple of 64 (a quarter block of noise) where possible."""
    if step < _EXACT_UNTIL:
        return np.arange(step + 1, min(4 * max(step, 16), _EXACT_UNTIL, max_steps) + 1)
    stop = min(64 * int(np.ceil(step * stretch / 64)), max_steps)
    every = 1 if step < exact_until else 4 * max(1, step // (4 * _EXACT_UNTIL))
    looks = np.arange(step + every, stop, every)
    return np.append(looks, stop)


def risk_estimates(losses: Losses, replicates: int) -> Array:
    """Estimated risk, of all trajectories and with each replicate left out: (settings, 1 + replicates, records)."""
    risk = _estimates(losses.loss, replicates)
    if losses.twin is None:
        return risk
    return np.asarray(np.maximum(_estimates(losses.sample, replicates), LEAST_SHARE * risk))


def _estimates(loss: Array, replicates: int) -> Array:
    """Mean loss over all trajectories, and with each replicate left out: (settings, 1 + replicates, records)."""
    groups = loss.reshape(loss.shape[0], replicates, -1, loss.shape[-1]).mean(axis=2)
    whole = groups.mean(axis=1, keepdims=True)
    others = whole + (whole - groups) / (replicates - 1)
    return np.concatenate([whole, others], axis=1)


def summarise(crossings: Array) -> tuple[Array, Array]:
    """Best estimate and standard error of crossing times, shape (..., estimates).

    Long runs: the jackknife's. A crossing within the first `RAW_UNTIL` steps, on a risk that is not smoothed, jumps
    between dips of an oscillation rather than being a smooth function of the sample; correcting its bias would only
    multiply the noise, so there the estimate is that of all trajectories, and the spread alone is taken. So too where
    the correction would exceed the error or a fifth of the steps: it is then a jump from one dip to another. Where an
    estimate with a part left out does not arrive, the error is NaN.
    """
    corrected, stderr = jackknife(crossings)
    whole = crossings[..., 0]
    with np.errstate(invalid="ignore"):
        stderr = np.where(stderr <= _ROUNDED * whole, 0.0, stderr)
        smooth = (whole > RAW_UNTIL) & (np.abs(corrected - whole) <= np.minimum(stderr, 0.2 * whole))
    return np.where(smooth, corrected, whole), stderr


def at_least(stderr: Array, interval: Array, freedom: int) -> Array:
    """Standard errors no smaller than their interval's half width over Student's t, shapes (...), (..., 2).

    Where a risk is nearly flat at the target, or oscillates about it, crossings of parts of the sample are closer to
    each other than to the truth. Where a part does not arrive, that half width is the error.
    """
    with np.errstate(invalid="ignore"):
        wide = 0.5 * (interval[..., 1] - interval[..., 0]) / float(special.stdtrit(freedom, 0.975))
        wide = np.where(wide <= _ROUNDED * interval[..., 1], 0.0, np.where(np.isfinite(wide), wide, np.nan))
    return np.fmax(stderr, wide)


def _steady(
    octaves: list[tuple[int, Array]], alive: NDArray[np.int64], initial: float, settle_from: float
) -> NDArray[np.bool_]:
    """Settings whose risk has stopped falling for two octaves, neither at the start nor on the way up.

    Between half its initial value and that value a risk may only have begun to fall, if the rate is small or Adam's: it
    must have fallen by a twentieth, and then no further for four octaves.
    """
    if len(octaves) < 4 or octaves[-3][0] < settle_from:
        return np.zeros(alive.size, dtype=np.bool_)
    now, before, earlier = (octaves[-k][1][alive] for k in (1, 2, 3))
    with np.errstate(invalid="ignore"):
        flat = (before - now < _FLAT) & (earlier - before < _FLAT)
        level = np.exp(now)
        longer = flat & (level < 0.95 * initial) & (len(octaves) >= 6 and octaves[-5][0] >= settle_from)
        for k in (3, 4) if longer.any() else ():
            longer &= octaves[-k - 1][1][alive] - octaves[-k][1][alive] < _FLAT
        return np.asarray(flat & ((level < 0.5 * initial) | (level > 1.01 * initial) | longer))
