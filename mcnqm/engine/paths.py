"""Runs that keep paths of chosen coordinates."""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.engine.executor import Pool
from mcnqm.engine.job import Job, check_room
from mcnqm.engine.tiles import GROUPS, OUT_BYTES, coordinates_of, cut, shard_of, table_of, tiles_of
from mcnqm.errors import ParameterError
from mcnqm.kernels.loops import LANES, Shard
from mcnqm.kernels.shards import advance_shard
from mcnqm.progress import Meter

__all__ = ["run_paths"]

_PATHS = 32
"""Most coordinates of a shard that keeps paths."""

_LONG_TABLE = 2**27
"""Most numbers in a table of schedules: the runs here are not cut."""


def run_paths(
    job: Job,
    record: NDArray[np.int64],
    coordinates: NDArray[np.int64],
    pool: Pool,
    meter: Meter,
    *,
    keep: int = 1,
) -> NDArray[np.float64]:
    """Paths of chosen coordinates, shape (settings, trajectories, records, coordinates, kept variables).

    The first `keep` of theta, the optimizer's state variables and an average of the iterates are kept. A coordinate is
    a pure function of the seed, so to keep its path it is simply run (again) on its own.
    """
    check_room(job, record.size, kept=coordinates.size * keep, stays=False)
    everything = coordinates_of(job.problem)
    if job.timetable is not None and job.timetable.curves * float(record[-1]) > _LONG_TABLE:
        allowed = f"be None in a scheduled or averaged run of more than {_LONG_TABLE // job.timetable.curves} steps"
        raise ParameterError("coordinates", f"a run of {int(record[-1])} steps", allowed)
    table = table_of(job, 0, int(record[-1]))
    affordable = OUT_BYTES // (8 * LANES * GROUPS * record.size * keep)
    blocks = cut(coordinates.size, max(1, min(_PATHS, affordable)))
    tiles = tiles_of(job, np.arange(job.settings.size), record.size * keep)
    paths = np.empty((job.settings.size, job.trajectories.size, record.size, coordinates.size, keep))
    tasks = (
        (
            job.form[0],
            tile.by_setting,
            shard_of(job, tile, everything[coordinates[block]], 0, int(record[-1]), record, table, keep),
            pool.cancel,
        )
        for tile in tiles
        for block in blocks
    )
    with closing(pool.map(_out, tasks)) as results:
        for tile in tiles:
            for block in blocks:
                part = next(results)
                paths[tile.settings, tile.trajectories, :, block] = part.transpose(2, 1, 0, 3, 4)
                meter.advance(float(math.prod(tile.lanes(job))) * part.shape[3] * float(record[-1]))
    return paths


def _out(kind: type, by_setting: bool, shard: Shard, cancel: Any) -> NDArray[np.float64]:
    return np.ascontiguousarray(advance_shard(kind, by_setting, shard, cancel=cancel).out)
