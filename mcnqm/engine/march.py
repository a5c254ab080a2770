"""Runs that keep losses: all lanes advance together, a stretch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.engine.executor import Pool
from mcnqm.engine.job import RECORDS, Job, check_room
from mcnqm.engine.losses import Losses
from mcnqm.engine.tiles import Tile, blocks_of, of_block, shard_of, table_of, tiles_of
from mcnqm.kernels.loops import LANES
from mcnqm.kernels.shards import ShardResult, ShardState, advance_shard
from mcnqm.progress import Meter

__all__ = ["March", "run_loss"]

_TABLE = 2**19
"""Most numbers in a table of schedules: longer stretches are cut."""


class March:
    """All lanes of a job, advanced together a stretch at a time; settings can be dropped on the way.

    Parameters
    ----------
    job : Job
        What to run.
    pool : Pool
        Where.
    meter : Meter
        Told of coordinate updates done.
    most_lanes : int
        Widest group of lanes. Smaller shards are slower and change no bit of the result.
    """

    def __init__(self, job: Job, pool: Pool, meter: Meter, *, most_lanes: int = LANES) -> None:
        self._blocks = blocks_of(job.problem, job.cells)
        self._job, self._pool, self._meter, self._most_lanes = job, pool, meter, most_lanes
        self._kept: _Kept | None = None
        self.step = 0
        self.alive = np.arange(job.settings.size)
        """Indices of the settings that still run."""

    def advance(self, record: NDArray[np.int64], *, last: bool = False) -> Losses:
        """Run to ``record[-1]`` and return the losses of what is alive.

        Parameters
        ----------
        record : ndarray of int64
            Increasing steps, beyond the present one, or from 0 on at the start.
        last : bool
            Nothing follows: the state at the end need not be kept.
        """
        stops = [int(record[-1])]
        if self._job.timetable is not None:
            # Multiples of a block of noise; the state goes on from anywhere, bit for bit.
            most = max(256, _TABLE // self._job.timetable.curves // 256 * 256)
            stops = [*range((self.step // most + 1) * most, stops[0], most), stops[0]]
        parts, done = [], 0
        for stop in stops:
            until = int(np.searchsorted(record, stop, side="right"))
            parts.append(self._advance(record[done:until], stop, last=last and stop == stops[-1]))
            done = until
        return parts[0].join(parts[1:])

    def _advance(self, record: NDArray[np.int64], stop: int, *, last: bool) -> Losses:
        job = self._job
        real = tiles_of(job, self.alive, record.size, self._most_lanes)
        tiles = [replace(tile, settings=np.searchsorted(self.alive, tile.settings)) for tile in real]
        kind = job.form[0]
        table = table_of(job, self.step, stop)
        kept, self._kept = self._kept, None
        before = None if kept is None else kept.again(tiles)

        def tasks() -> Iterator[tuple[Any, ...]]:
            for t, tile in enumerate(real):
                shard = shard_of(job, tile, self._blocks[0], self.step, stop, record, table)
                for b, block in enumerate(self._blocks):
                    state = None if before is None else before(t, b)
                    if state is not None and not self._pool.own:
                        # A task may be run again, elsewhere or here: it must leave what it was given as it was.
                        state = state._replace(buffer=None)
                    yield kind, tile.by_setting, of_block(shard, block), state, self._pool.cancel

        kinds = 2 if job.cells else 1
        loss = np.zeros((2 * kinds if job.cells else 1, self.alive.size, job.trajectories.size, record.size))
        expected = np.zeros((self.alive.size, record.size))
        after: list[list[ShardState]] = []
        with closing(self._pool.map(_loss_only if last else advance_shard, tasks())) as results:
            for tile in tiles:
                lanes, where = tile.lanes(job), _consecutive(tile.settings)
                total: NDArray[np.float64] | None = None
                xy, yy = np.zeros((2, record.size, *lanes)) if job.cells else np.zeros((2, 0))
                twin_risk = np.zeros((record.size, lanes[1]))
                after.append([])
                for block in self._blocks:  # first to last: the order that makes sums reproducible
                    part = next(results)
                    if total is None:
                        total = np.zeros_like(part.out)  # in the same order, for a fast sum
                    total += part.out
                    twin_risk += part.expected
                    if job.cells:
                        x, y = np.moveaxis(part.out.reshape(record.size, *lanes, 2), -1, 0)
                        off = y - part.expected[:, np.newaxis]
                        yy += off * off
                        off *= x - part.expected[:, np.newaxis]
                        xy += off
                    self._meter.advance(float(math.prod(lanes)) * block.index.size * float(stop - self.step))
                    if part.state is not None:
                        after[-1].append(part.state)
                assert total is not None
                loss[:kinds, where, tile.trajectories] = total.reshape(record.size, *lanes, kinds).transpose(3, 2, 1, 0)
                if job.cells:
                    loss[2, where, tile.trajectories], loss[3, where, tile.trajectories] = xy.T, yy.T
                expected[where] = twin_risk.T
        self._kept = None if last else _Kept(self.alive.size, job.trajectories.size, tiles, after)
        self.step = stop
        return Losses(loss[0], loss[1], expected, loss[2], loss[3]) if job.cells else Losses(loss[0])

    def drop(self, gone: NDArray[np.bool_]) -> None:
        """Stop the settings where `gone`, one entry per setting alive."""
        stay = np.flatnonzero(~gone)
        self.alive = self.alive[stay]
        if self._kept is not None:
            self._kept.drop(stay)


class _Kept:
    """States between two stretches: shard by shard, as they came, for as long as lanes stay in the same tiles.

    To put them together and take them apart again moves every number of a state, which in short stretches costs as much
    as to advance it.
    """

    def __init__(self, settings: int, trajectories: int, tiles: list[Tile], parts: list[list[ShardState]]) -> None:
        self._settings, self._trajectories, self._tiles, self._parts = settings, trajectories, tiles, parts
        self._stay = np.arange(settings)

    def drop(self, stay: NDArray[np.int64]) -> None:
        """Go on with some of the settings."""
        self._stay = self._stay[stay]

    def again(self, tiles: list[Tile]) -> Callable[[int, int], ShardState]:
        """The state of a tile of those given, and of a block of coordinates, to be asked for once each."""
        parts = self._parts
        # Tiles hold all settings, so that they differ if one was dropped.
        if len(tiles) == len(self._tiles) and all(map(_alike, tiles, self._tiles)):
            return lambda t, b: parts[t].pop(0)
        whole = [self._whole([part[b] for part in parts]) for b in range(len(parts[0]))]
        parts.clear()
        return lambda t, b: whole[b].select(_consecutive(tiles[t].settings), tiles[t].trajectories)

    def _whole(self, parts: list[ShardState]) -> ShardState:
        """The state of all lanes that stay, from that of every tile, of one block of coordinates."""
        first = parts[0]
        coordinates, variables = first.lanes.shape[:2]
        whole = ShardState(
            np.empty((coordinates, variables, self._trajectories, self._settings), first.lanes.dtype),
            np.empty((first.clock.shape[0], self._settings)),
            np.empty((*first.moments.shape[:3], self._settings)),
        )
        for tile, part in zip(self._tiles, parts, strict=True):
            where = _consecutive(tile.settings)
            whole.lanes[:, :, tile.trajectories, where] = part.lanes
            whole.clock[:, where] = part.clock
            whole.moments[..., where] = part.moments
        return whole if self._stay.size == self._settings else whole.select(self._stay)


def _alike(one: Tile, other: Tile) -> bool:
    return (
        one.by_setting == other.by_setting
        and one.trajectories == other.trajectories
        and np.array_equal(one.settings, other.settings)
    )


def _consecutive(index: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Increasing indices as a slice where they are one: NumPy copies that faster."""
    first, stop = int(index[0]), int(index[-1]) + 1
    return slice(first, stop) if stop - first == index.size else index


def _loss_only(*task: Any) -> ShardResult:
    result = advance_shard(*task)
    return result._replace(out=np.ascontiguousarray(result.out), state=None)


def run_loss(job: Job, record: NDArray[np.int64], pool: Pool, meter: Meter, *, most_lanes: int = LANES) -> Losses:
    """Losses of every lane at every recorded step."""
    check_room(job, record.size)
    march = March(job, pool, meter, most_lanes=most_lanes)
    # Stretches, so that a shard's result stays small however dense the record is.
    cuts = range(0, record.size, RECORDS)
    first, *rest = [march.advance(record[i : i + RECORDS], last=i + RECORDS >= record.size) for i in cuts]
    return first.join(rest)
