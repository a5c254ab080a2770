"""Steps to target by simulation: all lanes of a sweep advance together until each has hit, or cannot.

The estimator: in each of several replicates (groups of trajectories of their own), the first step at which the mean
loss over the replicate's trajectories is at or below the target. The answer is the mean over replicates, its standard
error their spread. A mean over few trajectories fluctuates, and a first passage takes the first favourable
fluctuation, so the estimator is biased towards early: see `mcnqm.steps_to_target`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcnqm.engine import Job, March, Pool
from mcnqm.progress import Meter

__all__ = ["REASONS", "RaceResult", "run_race"]

Array = NDArray[np.float64]

REASONS = ("reached", "diverged", "steady state above target", "step limit", "overtaken")
"""Why a setting stopped; anything but the first means that its steps are infinite."""

_REACHED, _DIVERGED, _STEADY, _LIMIT, _OVERTAKEN = range(5)

_EXACT_UNTIL = 256
"""Up to here every step is looked at; beyond, about every 1/256 of the steps so far."""

_STRETCH = 1.19
"""Lanes are looked at each time the number of steps has grown by so much."""

_FLAT = 0.02
"""A risk that falls by less than this between octaves of steps is steady."""


@dataclass(frozen=True)
class RaceResult:
    """First passages of a sweep.

    Attributes
    ----------
    steps : ndarray, shape (settings, replicates)
        First step at or below the target; inf if none.
    reason : ndarray of int, shape (settings,)
        Index into `REASONS`.
    """

    steps: Array
    reason: NDArray[np.int64]


def run_race(
    job: Job,
    targets: Array,
    replicates: int,
    pool: Pool,
    meter: Meter,
    *,
    max_steps: int,
    patience: float | None = None,
    groups: NDArray[np.int64] | None = None,
) -> RaceResult:
    """Run all settings until each has hit its target in every replicate, or cannot.

    Parameters
    ----------
    job : Job
        Its trajectories are split evenly into replicates.
    targets : ndarray, shape (settings,)
        Risk to reach.
    replicates : int
        Groups of trajectories.
    pool, meter
        Where, and who is told.
    max_steps : int
        Step limit.
    patience : float, optional
        Once a setting has hit in every replicate after t steps, others of its group go on to ``patience * t``.
    groups : ndarray of int, shape (settings,), optional
        Which settings compete. By default all.
    """
    size = job.settings.size
    steps = np.full((size, replicates), np.inf)
    reason = np.full(size, _LIMIT)
    group = np.zeros(size, dtype=np.int64) if groups is None else groups
    deadline = np.full(group.max() + 1, np.inf)
    march = March(job, pool, meter)
    # What the last look saw, per setting: for interpolation, and for telling a steady state.
    last_risk = np.full((size, replicates), np.inf)
    octaves: list[tuple[int, Array]] = []
    initial = job.problem.initial_risk
    scale = initial + 0.5 * float(np.sum(job.problem.multiplicity * job.problem.noise / job.problem.curvature))
    seen_at = 0

    while march.alive.size and march.step < max_steps:
        record = _looks(march.step, max_steps)
        first = march.step == 0 and seen_at == 0
        if first:
            record = np.concatenate([[0], record])
        alive = march.alive
        loss = march.advance(record)
        with np.errstate(invalid="ignore", over="ignore"):
            risk = loss.reshape(alive.size, replicates, -1, record.size).mean(axis=2)
            lost = ~(risk <= 1e20 * scale)
        risk[lost] = np.inf

        below = risk <= targets[alive][:, np.newaxis, np.newaxis]
        hit = below.any(axis=-1) & np.isinf(steps[alive])
        where = below.argmax(axis=-1)
        for a, k in zip(*np.nonzero(hit), strict=True):
            s, j = alive[a], where[a, k]
            before = (seen_at, last_risk[s, k]) if j == 0 else (int(record[j - 1]), float(risk[a, k, j - 1]))
            steps[s, k] = _crossing(before, (int(record[j]), float(risk[a, k, j])), float(targets[s]))
        last_risk[alive] = risk[..., -1]
        seen_at = march.step

        finished = np.isfinite(steps[alive]).all(axis=1)
        reason[alive[finished]] = _REACHED
        if patience is not None:
            for s in alive[finished]:
                deadline[group[s]] = min(deadline[group[s]], patience * float(steps[s].max()))
        diverged = np.isinf(risk[..., -1]).any(axis=1) & ~finished
        reason[alive[diverged]] = _DIVERGED
        overtaken = (march.step > deadline[group[alive]]) & ~finished & ~diverged
        reason[alive[overtaken]] = _OVERTAKEN
        gone = finished | diverged | overtaken

        if not octaves or march.step >= 2 * octaves[-1][0]:
            level = np.full(size, np.nan)
            level[alive] = np.log(np.where(np.isfinite(risk), risk, np.nan)).mean(axis=(1, 2))
            octaves.append((march.step, level))
            steady = _steady(octaves, alive, initial) & ~gone
            reason[alive[steady]] = _STEADY
            gone |= steady
        if gone.any():
            march.drop(gone)

    for failed in (_DIVERGED, _STEADY, _LIMIT, _OVERTAKEN):
        steps[reason == failed] = np.inf
    return RaceResult(steps, reason)


def _looks(step: int, max_steps: int) -> NDArray[np.int64]:
    """Steps to look at in the next stretch, the last a multiple of 64 (a block of noise) where possible."""
    if step < _EXACT_UNTIL:
        return np.arange(step + 1, min(2 * max(step, 32), _EXACT_UNTIL, max_steps) + 1)
    stop = min(64 * int(np.ceil(step * _STRETCH / 64)), max_steps)
    every = 4 * max(1, step // (4 * _EXACT_UNTIL))
    looks = np.arange(step + every, stop, every)
    return np.append(looks, stop)


def _crossing(before: tuple[int, float], after: tuple[int, float], target: float) -> float:
    """First step at or below the target between two looks, by linear interpolation of log risk."""
    (t0, r0), (t1, r1) = before, after
    if t1 - t0 <= 1 or not np.isfinite(r0) or r0 <= target:
        return float(t1)
    share = np.log(r0 / target) / np.log(r0 / max(r1, 1e-300))
    return float(min(t1, max(t0 + 1, np.ceil(t0 + share * (t1 - t0)))))


def _steady(octaves: list[tuple[int, Array]], alive: NDArray[np.int64], initial: float) -> NDArray[np.bool_]:
    """Settings whose risk has stopped falling for two octaves, neither at the start nor on the way up.

    A risk between half its initial value and that value is not judged: a small rate, or Adam's, may not have begun.
    """
    if len(octaves) < 4:
        return np.zeros(alive.size, dtype=np.bool_)
    now, before, earlier = (octaves[-k][1][alive] for k in (1, 2, 3))
    with np.errstate(invalid="ignore"):
        flat = (before - now < _FLAT) & (earlier - before < _FLAT)
        level = np.exp(now)
        return flat & ((level < 0.5 * initial) | (level > 1.01 * initial))
