"""How a run is cut: lanes into tiles, coordinates into blocks, and a shard for each pair of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.engine.job import Job
from mcnqm.engine.kinds import kind_of_problem
from mcnqm.kernels.loops import LANES, Shard
from mcnqm.kernels.noise import GAUSSIAN
from mcnqm.kernels.shards import padded
from mcnqm.problems import NoisyQuadratic, Problem
from mcnqm.statistics import normal_strata

__all__ = [
    "GROUPS",
    "OUT_BYTES",
    "Coordinates",
    "Tile",
    "blocks_of",
    "coordinates_of",
    "cut",
    "of_block",
    "shard_of",
    "table_of",
    "tiles_of",
]

_REDUCTION_BLOCKS = 32
_SMALLEST_BLOCK = 8

GROUPS = 16
"""Most groups of lanes in a shard, so that its state stays small."""

OUT_BYTES = 2**25
"""Most memory of a shard's result."""


@dataclass(frozen=True)
class Tile:
    """A block of lanes: the same for every block of coordinates."""

    by_setting: bool
    settings: NDArray[np.int64]
    trajectories: slice
    examples: int

    def lanes(self, job: Job) -> tuple[int, int]:
        """Trajectories and settings."""
        return job.trajectories[self.trajectories].size, self.settings.size


@dataclass(frozen=True)
class Coordinates:
    """Columns of numbers, one entry per coordinate: see `mcnqm.kernels.loops.Shard`."""

    index: NDArray[np.uint32]
    curvature: NDArray[np.float64]
    noise: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    edges: NDArray[np.float64]
    second: NDArray[np.float64]
    share: NDArray[np.float64]
    numbers: NDArray[np.float64]
    bounds: NDArray[np.float64]

    def __getitem__(self, part: slice | NDArray[np.int64]) -> Coordinates:
        return Coordinates(*(getattr(self, field.name)[part] for field in fields(self)))


def coordinates_of(problem: Problem, cells: int = 0) -> Coordinates:
    """All coordinates of a problem, each as often as its multiplicity says."""
    entry = np.repeat(np.arange(problem.size), problem.multiplicity)
    kind = kind_of_problem(problem)
    # The variance of a gradient of some other kind is that kind's.
    noise = problem.noise if kind.numbers is None and isinstance(problem, NoisyQuadratic) else np.ones(problem.size)
    columns = [a[entry] for a in (kind.curvature, noise, problem.initial_mean, problem.initial_std)]
    nothing = np.empty((problem.dim, 0))
    strata = normal_strata(columns[2], columns[3], cells) if cells else (nothing, nothing, nothing)
    columns += [*strata, kind.columns[entry], kind.bounds[entry]]
    return Coordinates(np.arange(problem.dim, dtype=np.uint32), *columns)


def blocks_of(problem: Problem, cells: int = 0) -> list[Coordinates]:
    """All coordinates in the blocks whose number and order make sums over them reproducible."""
    everything = coordinates_of(problem, cells)
    size = max(_SMALLEST_BLOCK, math.ceil(problem.dim / _REDUCTION_BLOCKS))
    return [everything[start : start + size] for start in range(0, problem.dim, size)]


def cut(total: int, most: int) -> list[slice]:
    """Cut ``range(total)`` into nearly equal parts of at most `most`, full vectors of 8 where that is possible."""
    count = math.ceil(total / most)
    size = min(most, 8 * math.ceil(total / count / 8)) if total > most else total
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def tiles_of(job: Job, members: NDArray[np.int64], records: int, most_lanes: int = LANES) -> list[Tile]:
    """Cut the settings `members` times all trajectories into tiles that one shard can hold."""
    width = min(most_lanes, LANES)
    wide, high = members.size, job.trajectories.size
    if max(wide, high) <= GROUPS:  # whichever way leaves fewer lanes idle
        by_setting = high * padded(wide) <= wide * padded(high)
    else:
        by_setting = min(wide, width) >= min(high, width)
    groups = max(1, min(GROUPS, OUT_BYTES // (8 * LANES * max(records, 1))))
    batch = job.settings.values["batch_size"]
    kinds = [(0, members)]
    if job.per_example:  # examples are drawn for one batch size at a time
        kinds = [(int(b), members[batch[members] == b]) for b in np.unique(batch[members])]
    return [
        Tile(by_setting, alike[part], where, examples)
        for examples, alike in kinds
        for part in cut(alike.size, width if by_setting else groups)
        for where in cut(job.trajectories.size, groups if by_setting else width)
    ]


def shard_of(
    job: Job,
    tile: Tile,
    part: Coordinates,
    start: int,
    stop: int,
    record: NDArray[np.int64],
    table: NDArray[np.float64],
    keep: int = 0,
) -> Shard:
    """The task of one tile and one block of coordinates, from step `start` to `stop`."""
    columns, times = job.form[1][:, tile.settings], job.timetable
    numbers = kind_of_problem(job.problem).numbers
    fields = () if numbers is None else numbers._fields  # type: ignore[attr-defined]
    single = job.dtype == "float32"
    evenly = bool((columns[-1] == columns[-1, 0]).all()) and (times is None or not times.mask[-2])
    if job.per_example:
        columns[-1] = 1.0  # averaged examples already have the variance of their mean
    return Shard(
        seed=np.uint64(job.seed),
        examples=tile.examples,
        settings=columns,
        n_settings=tile.settings.size,
        trajectories=job.trajectories[tile.trajectories],
        **_columns(part),
        start=start,
        stop=stop,
        record=record,
        keep=keep,
        scheduled=() if times is None else times.mask,
        table=table,
        which=np.empty((0, tile.settings.size), np.int64) if times is None else times.which[:, tile.settings],
        evenly=evenly,
        zero=np.float32(0.0) if single else 0.0,
        df=GAUSSIAN if job.problem.noise_df is None else job.problem.noise_df,
        kind=() if numbers is None else numbers(*(np.float32(0.0) if single else 0.0 for _ in fields)),
        wide_kind=() if numbers is None else numbers(*(0.0 for _ in fields)),
    )


def of_block(shard: Shard, part: Coordinates) -> Shard:
    """The same of other coordinates."""
    return shard._replace(**_columns(part))


def _columns(part: Coordinates) -> dict[str, Any]:
    """Coordinates as a shard has them."""
    columns = {field.name: getattr(part, field.name) for field in fields(part)}
    return {"coordinates": columns.pop("index"), "weight": 0.5 * part.curvature, **columns}


def table_of(job: Job, start: int, stop: int) -> NDArray[np.float64]:
    """Factors of scheduled numbers at these steps; empty without schedules."""
    return np.empty((0, 0)) if job.timetable is None else job.timetable.table(start, stop)
