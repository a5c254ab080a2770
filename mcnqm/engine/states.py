"""What goes with paths that are known: the gradient of the step that follows, and effective rates."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.engine.executor import Pool
from mcnqm.engine.job import Job
from mcnqm.engine.tiles import coordinates_of, cut, shard_of, table_of, tiles_of
from mcnqm.kernels.loops import LANES, Shard
from mcnqm.kernels.rules.probe import Probe
from mcnqm.kernels.shards import ShardState, advance_shard
from mcnqm.kernels.updates import rule_of
from mcnqm.settings import Settings

__all__ = ["run_effective_lr", "run_gradients", "state_names"]

Array = NDArray[np.float64]

_NUMBERS = 2**22
"""Most numbers of a task."""


def state_names(job: Job) -> tuple[str, ...]:
    """Names of the optimizer's state variables, in the order in which `run_paths` keeps them after theta."""
    return rule_of(job.form[0]).state


def run_gradients(
    job: Job, record: NDArray[np.int64], coordinates: NDArray[np.int64], theta: Array, pool: Pool
) -> Array:
    """The gradient that the step after each recorded one sees, bit for bit.

    Parameters
    ----------
    job : Job
    record : ndarray of int64, shape (records,)
    coordinates : ndarray of int64, shape (coordinates,)
    theta : ndarray, shape (settings, trajectories, records, coordinates)
        Where gradients are taken: of `run_paths`, the first variable that it keeps.
    pool : Pool
        Where.

    Returns
    -------
    ndarray, of the shape of `theta`

    Notes
    -----
    `Probe`, put where the optimizer was, takes that one step with the kernel's own loop: whatever kind of noise there
    is, and however its arithmetic is done, there is no second way of doing it.
    """
    values = {"unused": np.ones(job.settings.size), "batch_size": job.settings.values["batch_size"]}
    scheduled = {name: table for name, table in job.settings.schedules.items() if name == "batch_size"}
    settings = Settings(job.settings.dims, job.settings.shape, values, {}, scheduled)
    probe = replace(job, optimizer=Probe(1.0), settings=settings, cells=0)
    everything = coordinates_of(job.problem)[coordinates]
    tiles = tiles_of(probe, np.arange(settings.size), record.size)
    most = max(1, _NUMBERS // (LANES * record.size))
    blocks = cut(coordinates.size, min(coordinates.size, most))
    times = () if probe.timetable is None else probe.timetable.rows
    table = np.ones((0, record.size)) if not times else _factors(probe, record)
    tasks = (
        (
            probe.form[0],
            tile.by_setting,
            shard_of(probe, tile, everything[block], 0, 1, record[:1], np.ascontiguousarray(table[:, :1])),
            record,
            table,
            theta[tile.settings, tile.trajectories, :, block],
            pool.cancel,
        )
        for tile in tiles
        for block in blocks
    )
    gradient = np.empty_like(theta)
    with closing(pool.map(_probe, tasks)) as results:
        for tile in tiles:
            for block in blocks:
                gradient[tile.settings, tile.trajectories, :, block] = next(results)
    return gradient


def _factors(job: Job, record: NDArray[np.int64]) -> Array:
    """Factors of scheduled numbers at chosen steps, shape (curves, records)."""
    return np.concatenate([table_of(job, int(step), int(step) + 1) for step in record], axis=1)


def _probe(
    kind: type, by_setting: bool, shard: Shard, record: NDArray[np.int64], table: Array, theta: Array, cancel: Any
) -> Array:
    """Gradients of one tile and block, shape (settings, trajectories, records, coordinates)."""
    settings, trajectories, _, coordinates = theta.shape
    gradient = np.empty(theta.shape)
    nothing = np.empty((0, settings)), np.empty((coordinates, 0, 0, settings))
    for r, step in enumerate(record.tolist()):
        lanes = np.zeros((coordinates, 2, trajectories, settings), type(shard.zero))
        lanes[:, 0] = theta[:, :, r].transpose(2, 1, 0)
        there = shard._replace(
            start=step,
            stop=step + 1,
            record=np.array([step + 1]),
            keep=2,
            table=np.ascontiguousarray(table[:, r : r + 1]),
        )
        out = advance_shard(kind, by_setting, there, ShardState(lanes, *nothing), cancel).out
        gradient[:, :, r] = out[0, ..., 1].transpose(1, 0, 2)
    return gradient


def run_effective_lr(job: Job, record: NDArray[np.int64], gradient: Array, state: Array, pool: Pool) -> Array | None:
    """By what the step after each recorded one multiplies the gradient or an average of them; None if not adaptive.

    Parameters
    ----------
    job : Job
    record : ndarray of int64, shape (records,)
    gradient : ndarray, shape (settings, trajectories, records, coordinates)
        Of that step.
    state : ndarray, shape (settings, trajectories, records, coordinates, variables)
        Before it.
    pool : Pool
        Where.
    """
    kind, rows = job.form
    rule = rule_of(kind)
    if rule.effective_lr is None:
        return None
    fields: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    values = {name: np.repeat(row[:, np.newaxis], record.size, axis=1) for name, row in zip(fields, rows, strict=False)}
    for row in () if job.timetable is None else job.timetable.rows:
        if row.name in values:
            values[row.name] *= row.at(record)[row.which]
    clock = _clocks(job, record, pool)

    def spread(array: Array) -> Array:
        return array[:, np.newaxis, :, np.newaxis]

    p = kind._make(spread(values[name]) for name in fields)  # type: ignore[attr-defined]
    k, s = tuple(map(spread, clock)), tuple(np.moveaxis(state, -1, 0))
    with np.errstate(all="ignore"):  # of a lane that diverged
        rate: Array = rule.effective_lr(p, k, gradient, s)
    return np.broadcast_to(rate, gradient.shape)


def _clocks(job: Job, record: NDArray[np.int64], pool: Pool) -> Array:
    """The clock after the step that follows each recorded one, shape (clock variables, settings, records)."""
    clock = np.empty((len(rule_of(job.form[0]).clock_start), job.settings.size, record.size))
    if clock.shape[0] == 0:
        return clock
    plain = replace(job, cells=0, trajectories=job.trajectories[:1])
    # As vectors lie in the run itself, so that no kernel is compiled for this alone.
    by_setting = tiles_of(job, np.arange(job.settings.size), record.size)[0].by_setting
    tiles = [
        replace(tile, by_setting=by_setting, examples=0)
        for tile in tiles_of(plain, np.arange(job.settings.size), record.size)
    ]
    # In this process: a job does not travel, and there is little to do.
    here = pool if pool.own else Pool()
    tasks = ((plain, tile, record, here.cancel) for tile in tiles)
    with closing(here.map(_clock_of, tasks)) as results:
        for tile, part in zip(tiles, results, strict=True):
            clock[:, tile.settings] = part
    return clock


def _clock_of(job: Job, tile: Any, record: NDArray[np.int64], cancel: Any) -> Array:
    """The same of one tile: a shard without coordinates advances the clock and nothing else."""
    nothing = coordinates_of(job.problem)[np.empty(0, np.int64)]
    parts, state, start = [], None, 0
    for step in record.tolist():
        shard = shard_of(job, tile, nothing, start, step + 1, np.empty(0, np.int64), table_of(job, start, step + 1))
        state = advance_shard(job.form[0], tile.by_setting, shard, state, cancel).state
        assert state is not None
        parts.append(state.clock.copy())
        start = step + 1
    return np.stack(parts, axis=-1)
