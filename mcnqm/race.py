"""Steps to target by simulation: all lanes of a sweep advance together until each has hit, or cannot.

The estimator: the first step at which the estimated risk is at or below the target. Up to `_RAW_UNTIL` steps the
estimate is the mean loss over all trajectories at every step. Later, where a first passage would pick out the first
favourable fluctuation of that mean, it is a local quadratic regression of the mean loss on log t: the risk is smooth
there, while fluctuations last for a fraction of the window, and the regression is linear in the loss, so it does not
bias the risk. The window is a factor exp(±`_WINDOW`) in t; in long runs exp(±`_WIDE`), unless the
risk is seen to bend too much for that.

Losses of adaptive optimizers are first freed of what their mean-field twins explain (`mcnqm.statistics.controlled`).
Little noise is left then, so their window stays narrow.

Errors come from the jackknife: the same is done with each of several replicates (groups of trajectories) left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.engine import Job, Losses, March, Pool, check_room, joined
from mcnqm.progress import Meter
from mcnqm.statistics import controlled, jackknife

__all__ = ["REASONS", "Race", "RaceResult", "run_races", "summarise"]

Array = NDArray[np.float64]

REASONS = ("reached", "diverged", "steady state above target", "step limit", "overtaken")
"""Why a setting stopped; anything but the first means that its steps are infinite."""

_REACHED, _DIVERGED, _STEADY, _LIMIT, _OVERTAKEN = range(5)

_EXACT_UNTIL = 256
"""Up to here every step is looked at; beyond, about every 1/256 of the steps so far."""

_RAW_UNTIL = 96
"""Up to here the mean loss is taken as it is: a window would hold few steps, and momentum may still oscillate."""

_WINDOW = 0.12
"""Half the width of the regression's window, in log t."""

_WIDE, _WIDE_FROM = 0.25, 2000
"""The same from so many steps on: the error of SGD's steps falls by a third, for runs longer by an eighth."""

_TELLING = 5.0
"""Where the wide window's estimate differs from the narrow one's by more than so many standard errors of that, a
quadratic does not follow the risk over the wide one."""

_FEWEST = 6
"""Looks that a regression needs."""

_FAR = 3.0
"""Risks above so many targets are far from them."""

_STRIDE, _STRETCH = 1.5, 1.12
"""Lanes are looked at each time the number of steps has grown by so much: far from the target, and near it, where what
runs beyond it is wasted."""

_PARTS, _PARTED_FROM = 4, 4096
"""From so many steps on, where that costs little, lanes may leave at every quarter of a stretch near the target."""

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
    """

    steps: Array
    reason: NDArray[np.int64]


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
    ) -> None:
        size = job.settings.size
        self.job = job
        self._targets, self._replicates, self._max_steps, self._patience = targets, replicates, max_steps, patience
        self._settle = np.ones(size, dtype=np.bool_) if may_settle is None else may_settle
        self._settle_from = settle_from
        self._window = _Window(wide=not job.cells)
        kinks = np.empty(0, np.int64) if jumps is None else np.unique(jumps)
        self._curve = _Curve(targets, 1 + replicates, kinks, self._window)
        problem = job.problem
        self._initial = problem.initial_risk
        steady = 0.5 * float(np.sum(problem.multiplicity * problem.noise / problem.curvature))
        self._endless = 1e20 * (self._initial + steady)
        self._steps = np.full((size, 1 + replicates), np.inf)
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
            record = _looks(self._step, self._max_steps, _STRIDE if self._far else _STRETCH)
            if self._step == 0:
                record = np.concatenate([[0], record])
            # Looks depend on where a stretch begins, but lanes may leave within it.
            self._planned = np.array_split(record, 1 if self._far or self._step < _PARTED_FROM else _PARTS)
        return self._planned.pop(0)

    def see(self, record: NDArray[np.int64], losses: Losses) -> NDArray[np.bool_]:
        """Take the losses of the settings still running at what `looks` asked for, and say which of them may stop."""
        alive, targets, curve = self._alive, self._targets, self._curve
        loss = losses.loss
        if losses.twin is not None and losses.expected is not None:
            loss = controlled(loss, losses.twin, losses.expected, axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            risk = _estimates(loss, self._replicates)
            risk[~(risk <= self._endless)] = np.inf
        if record[0] == 0:
            curve.start(risk[..., 0])
            record, risk = record[1:], risk[..., 1:]
        self._step = step = int(record[-1])
        curve.extend(record, risk, alive, last=step >= self._max_steps)
        self._far = bool((risk[:, 0, -1] > _FAR * targets[alive]).all())
        self._steps[alive] = np.minimum(self._steps[alive], curve.crossings(alive, targets[alive]))

        finished = np.isfinite(self._steps[alive]).all(axis=1)
        self._reason[alive[finished]] = _REACHED
        if self._patience is not None:
            for s in alive[finished]:
                self._deadline = min(self._deadline, self._patience * float(self._steps[s].max()))
        diverged = np.isinf(risk[..., -1]).any(axis=1) & ~finished
        self._reason[alive[diverged]] = _DIVERGED
        # The estimate lags behind by the regression's window.
        overtaken = (step > self._window.stop(self._deadline)) & ~finished & ~diverged
        self._reason[alive[overtaken]] = _OVERTAKEN
        gone = np.asarray(finished | diverged | overtaken)

        if not self._octaves or step >= 2 * self._octaves[-1][0]:
            level = np.full(targets.size, np.nan)
            level[alive] = np.log(np.where(np.isfinite(risk), risk, np.nan)).mean(axis=(1, 2))
            self._octaves.append((step, level))
            steady = _steady(self._octaves, alive, self._initial, self._settle_from) & self._settle[alive] & ~gone
            steady &= risk[:, 0, -1] > targets[alive]  # below it the crossing only waits for its window
            self._reason[alive[steady]] = _STEADY
            gone |= steady
        self._alive = alive[~gone]
        return gone

    def result(self) -> RaceResult:
        """What is known at the end."""
        failed = np.isin(self._reason, (_DIVERGED, _STEADY, _LIMIT, _OVERTAKEN))
        return RaceResult(np.where(failed[:, np.newaxis], np.inf, self._steps), self._reason)


def run_races(races: Sequence[Race], pool: Pool, meter: Meter) -> Iterator[tuple[int, RaceResult]]:
    """Run all settings until each has hit its target, whichever replicate is left out, or cannot.

    Several races share their noise, which is then drawn but once. Each is as it would be alone, bit for bit: it looks
    at the steps that it asked for, and knows nothing of the others.

    Parameters
    ----------
    races : sequence of Race
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


def _looks(step: int, max_steps: int, stretch: float) -> NDArray[np.int64]:
    """Steps to look at in the next stretch, the last a multiple of 64 (a quarter block of noise) where possible."""
    if step < _EXACT_UNTIL:
        return np.arange(step + 1, min(4 * max(step, 16), _EXACT_UNTIL, max_steps) + 1)
    stop = min(64 * int(np.ceil(step * stretch / 64)), max_steps)
    every = 4 * max(1, step // (4 * _EXACT_UNTIL))
    looks = np.arange(step + every, stop, every)
    return np.append(looks, stop)


def _estimates(loss: Array, replicates: int) -> Array:
    """Mean loss over all trajectories, and with each replicate left out: (settings, 1 + replicates, records)."""
    groups = loss.reshape(loss.shape[0], replicates, -1, loss.shape[-1]).mean(axis=2)
    whole = groups.mean(axis=1, keepdims=True)
    others = whole + (whole - groups) / (replicates - 1)
    return np.concatenate([whole, others], axis=1)


@dataclass(frozen=True)
class _Window:
    """How far a regression reaches.

    Attributes
    ----------
    wide : bool
        Whether long runs have the wide window.
    """

    wide: bool

    def half(self, t: Any) -> Any:
        """Half the width at t, in log t."""
        return np.where(self.wide & (np.asarray(t) > _WIDE_FROM), _WIDE, _WINDOW)

    def stop(self, t: Any) -> Any:
        """The last step that the estimate at t wants."""
        return t * np.exp(self.half(t)) * (1 + 1e-12)


class _Curve:
    """Estimated risk at the looks so far, of every setting and estimate, smoothed once its window is complete."""

    def __init__(self, targets: Array, estimates: int, jumps: NDArray[Any], window: _Window) -> None:
        self._window, settings = window, targets.size
        self._near = _FAR * targets[:, np.newaxis]
        self._jumps = np.concatenate([[-np.inf], jumps, [np.inf]])
        self.steps = np.empty(0)
        self._raw = np.empty((settings, estimates, 0))
        self._settled = 0  # looks whose estimate is final
        self._fresh = 0  # of these, where the newest begin
        self._risk = np.empty((settings, estimates, 0))

    def start(self, risk: Array) -> None:
        """The risk at step 0, of all settings."""
        self.steps = np.zeros(1)
        self._raw = risk[..., np.newaxis].copy()
        self._risk = self._raw.copy()
        self._settled = 1

    def extend(self, record: NDArray[np.int64], risk: Array, alive: NDArray[np.int64], *, last: bool) -> None:
        """Add looks of the settings `alive`; at the `last`, settle for the window there is."""
        new = np.full((*self._raw.shape[:2], record.size), np.inf)
        new[alive] = risk
        self.steps = np.append(self.steps, record)
        self._raw = np.concatenate([self._raw, new], axis=2)
        complete = last | (self.steps <= _RAW_UNTIL) | (self._window.stop(self.steps) <= self.steps[-1])
        settled = int(complete.sum())
        self._risk = np.concatenate([self._risk, self._estimates(self._settled, settled, alive)], axis=2)
        self._fresh, self._settled = self._settled, settled

    def _estimates(self, start: int, stop: int, alive: NDArray[np.int64]) -> Array:
        """Estimates at looks `start` to `stop` - 1, smoothed where somebody asks for it."""
        estimate, steps = self._raw[..., start:stop].copy(), self.steps[start:stop]
        # Far from the target nobody does: a sound regression is at least half the plain mean.
        near = (estimate[alive] <= self._near[alive, :, np.newaxis]).any(axis=(0, 1))
        asked = np.flatnonzero(near & (steps > _RAW_UNTIL))
        if not asked.size:
            return estimate
        here = np.ix_(alive, np.arange(estimate.shape[1]), asked)
        half, raw = self._window.half(steps[asked]), estimate[here]
        smooth = self._regressions(start + asked, half, alive)
        wide = np.flatnonzero(half > _WINDOW)
        if wide.size:
            narrow = self._regressions(start + asked[wide], np.full(wide.size, _WINDOW), alive)
            with np.errstate(invalid="ignore"):
                gap = smooth[..., wide] - narrow
                bent = np.abs(gap[:, 0]) > _TELLING * jackknife(gap, axis=1)[1]
            smooth[..., wide] = np.where(bent[:, np.newaxis], narrow, smooth[..., wide])
        with np.errstate(invalid="ignore"):
            # Where a diverging risk outruns the quadratic, the regression means nothing.
            sound = (smooth > 0.5 * raw) & (smooth < 2 * raw)
        estimate[here] = np.where(sound, smooth, raw)
        return estimate

    def _regressions(self, looks: NDArray[np.int64], half: Array, alive: NDArray[np.int64]) -> Array:
        """The local quadratic's values at `looks`, or the plain mean where there are too few looks for one."""
        windows = [self._weights(int(k), float(h)) for k, h in zip(looks, half, strict=True)]
        low, high = min(w.start for w, _ in windows), max(w.stop for w, _ in windows)
        weights = np.zeros((high - low, looks.size))
        for column, (window, weight) in enumerate(windows):
            weights[window.start - low : window.stop - low, column] = weight
        raw = self._raw[alive, :, low:high]
        finite = np.isfinite(raw)
        if finite.all():
            return np.asarray(raw @ weights)
        smooth = np.where(finite, raw, 0.0) @ weights
        return np.where(~finite @ (weights != 0.0), np.nan, smooth)

    def _weights(self, k: int, half: float) -> tuple[slice, Array]:
        """Which looks the estimate at look `k` is a sum of, and with what weights."""
        t = self.steps[k]
        early, late = t * np.exp(-half), t * np.exp(half) * (1 + 1e-12)
        # Not across a kink. The risk at the step of a jump is still that before it.
        k_next = int(np.searchsorted(self._jumps, t))
        early, late = max(early, self._jumps[k_next - 1]), min(late, self._jumps[k_next] + 0.5)
        window = slice(*np.searchsorted(self.steps, [early, late]).tolist())
        if window.stop - window.start < _FEWEST:
            return slice(k, k + 1), np.ones(1)
        x = np.log(self.steps[window] / t)
        x /= np.abs(x).max()
        powers = np.stack([np.ones_like(x), x, x**2])
        return window, np.linalg.solve(powers @ powers.T, powers)[0]

    def crossings(self, alive: NDArray[np.int64], targets: Array) -> Array:
        """First step at or below the target among the newest estimates, shape (alive, estimates), inf if none."""
        first = max(self._fresh - 1, 0)
        risk, steps = self._risk[alive, :, first:], self.steps[first : self._settled]
        below = risk <= targets[:, np.newaxis, np.newaxis]
        found = np.full(below.shape[:2], np.inf)
        for a, k in zip(*np.nonzero(below.any(axis=2)), strict=True):
            j = int(below[a, k].argmax())
            found[a, k] = steps[j]
            if j > 0 and np.isfinite(risk[a, k, j - 1]):
                above, under = risk[a, k, j - 1], risk[a, k, j]
                share = (above - targets[a]) / (above - under)
                found[a, k] = steps[j - 1] + share * (steps[j] - steps[j - 1])
        return found


def summarise(crossings: Array) -> tuple[Array, Array]:
    """Best estimate and standard error of crossing times, shape (..., estimates).

    Long runs: the jackknife's. A crossing within the first `_RAW_UNTIL` steps, on a risk that is not smoothed, jumps
    between dips of an oscillation rather than being a smooth function of the sample; correcting its bias would only
    multiply the noise, so there the estimate is that of all trajectories, and the spread alone is taken. So too where
    the correction would exceed the error or a fifth of the steps: it is then a jump from one dip to another.
    """
    corrected, stderr = jackknife(crossings)
    whole = crossings[..., 0]
    with np.errstate(invalid="ignore"):
        smooth = (whole > _RAW_UNTIL) & (np.abs(corrected - whole) <= np.minimum(stderr, 0.2 * whole))
    return np.where(smooth, corrected, np.where(np.isfinite(corrected), whole, np.inf)), stderr


def _steady(
    octaves: list[tuple[int, Array]], alive: NDArray[np.int64], initial: float, settle_from: float
) -> NDArray[np.bool_]:
    """Settings whose risk has stopped falling for two octaves, neither at the start nor on the way up.

    A risk between half its initial value and that value is not judged: a small rate, or Adam's, may not have begun.
    """
    if len(octaves) < 4 or octaves[-3][0] < settle_from:
        return np.zeros(alive.size, dtype=np.bool_)
    now, before, earlier = (octaves[-k][1][alive] for k in (1, 2, 3))
    with np.errstate(invalid="ignore"):
        flat = (before - now < _FLAT) & (earlier - before < _FLAT)
        level = np.exp(now)
        return flat & ((level < 0.5 * initial) | (level > 1.01 * initial))
