"""Lanes and shards: plan a run, carry it out on any executor, reduce in a fixed order.

Every lane of every coordinate is a pure function of its hyperparameters and the seed, so a run may be cut anywhere.
Only sums over coordinates depend on an order, and that is fixed by the number of coordinates alone: sums within
blocks of consecutive coordinates, then over the blocks, first to last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcnqm.errors import ParameterError
from mcnqm.kernels.forms import has_twin, kernel_form
from mcnqm.kernels.loops import LANES, Shard
from mcnqm.kernels.shards import ShardResult, ShardState, advance_shard, padded
from mcnqm.kernels.updates import rule_of
from mcnqm.memory import check_memory
from mcnqm.pools import Closed, Gate, Pool
from mcnqm.problem import NoisyQuadratic
from mcnqm.progress import Meter
from mcnqm.schedules import Scaled, Segments
from mcnqm.settings import Settings, Timetable
from mcnqm.statistics import controlled, normal_strata

__all__ = [
    "Closed",
    "Gate",
    "Job",
    "Losses",
    "March",
    "Pool",
    "check_room",
    "first_trajectories",
    "has_twin",
    "joined",
    "kernel_form",
    "may_join",
    "run_loss",
    "run_paths",
    "twin_cells",
]

_REDUCTION_BLOCKS = 32
_SMALLEST_BLOCK = 8
_GROUPS = 16
"""Most groups of lanes in a shard, so that its state stays small."""

_PATHS = 32
"""Most coordinates of a shard that keeps paths."""

_MOST_COORDINATES = 2**32
"""The random numbers' counter holds a coordinate in 32 bits."""

_RECORDS = 4096
"""Most records of a stretch."""

_OUT_BYTES = 2**25
"""Most memory of a shard's result."""

_TABLE, _LONG_TABLE = 2**19, 2**27
"""Most numbers in a table of schedules: longer runs are cut, except those that keep paths, which have the second."""


@dataclass(frozen=True)
class Job:
    """Everything that decides the numbers of a run.

    Attributes
    ----------
    problem : NoisyQuadratic
    optimizer : optimizer
    settings : Settings
        Of the optimizer's hyperparameters and the batch size.
    trajectories : ndarray of uint32
        Which trajectories to run.
    seed : int
        64 bits.
    per_example : bool
        Draw every example, rather than the law of their mean.
    cells : int
        Run a mean-field twin beside every lane, its rates by so many cells of the starting point's law; 0: none. Not
        with an average (a value ``average`` among the settings).
    dtype : {"float64", "float32"}
        Of the state and of updates. The second with neither twins nor an average.
    """

    problem: NoisyQuadratic
    optimizer: Any
    settings: Settings
    trajectories: NDArray[np.uint32]
    seed: int
    per_example: bool = False
    cells: int = 0
    dtype: str = "float64"

    @property
    def lanes(self) -> int:
        """Trajectories times settings."""
        return self.settings.size * int(self.trajectories.size)

    @cached_property
    def form(self) -> tuple[type, NDArray[np.float64]]:
        """Hyperparameters as kernels know them, the batch size last: see `kernel_form`."""
        kind, rows = kernel_form(
            self.optimizer, {k: v for k, v in self.settings.values.items() if k not in ("batch_size", "average")}
        )
        return kind, np.vstack([rows, self.settings.values["batch_size"]])

    @cached_property
    def timetable(self) -> _Timetable | None:
        """What changes with the step: hyperparameters, the batch size, and the weight of the past in an average."""
        fields: tuple[str, ...] = self.form[0]._fields  # type: ignore[attr-defined]
        tables = dict(self.settings.schedules)
        if "average" in self.settings.values:
            # Kernels know no scale of an average: each of its numbers is a curve of its own.
            scale, table = self.settings.values["average"], tables.get("average")
            chosen = np.zeros_like(scale) if table is None else table.which.astype(np.float64)
            distinct, which = np.unique(np.stack([scale, chosen]), axis=1, return_inverse=True)
            base = (Segments((1,), (1.0,), (1.0,), ("constant",)),) if table is None else table.curves
            curves = tuple(Scaled(base[int(k)], float(v)) for v, k in distinct.T)
            domain = None if table is None else table.domain
            tables["average"] = Timetable("average", curves, which.reshape(-1), np.ones_like(scale), domain)
        tables = {name: table for name, table in tables.items() if name in (*fields, "batch_size", "average")}
        if not tables:  # or of a momentum that is 0 throughout, of which plain SGD knows nothing
            return None
        mask = tuple((0.0,) if name in tables else () for name in (*fields, "batch_size", "average"))
        return _Timetable(mask, tuple(tables[name] for name in (*fields, "batch_size", "average") if name in tables))


@dataclass(frozen=True)
class _Timetable:
    """Scheduled numbers, in the order of the kernels' mask.

    Attributes
    ----------
    mask : tuple of tuple
        See `mcnqm.kernels.loops.Shard`.
    rows : tuple of Timetable
    """

    mask: tuple[tuple[float, ...], ...]
    rows: tuple[Timetable, ...]

    @property
    def curves(self) -> int:
        return sum(len(row.curves) for row in self.rows)

    @cached_property
    def which(self) -> NDArray[np.int64]:
        """Whose row of the table each scheduled number follows, shape (rows, settings)."""
        first = np.cumsum([0, *(len(row.curves) for row in self.rows[:-1])])
        return np.stack([row.which + start for row, start in zip(self.rows, first, strict=True)])

    def table(self, start: int, stop: int) -> NDArray[np.float64]:
        """Factors at the steps from `start` to `stop` - 1, shape (curves, steps)."""
        step = np.arange(start, stop, dtype=np.int64)
        parts = []
        for row in self.rows:
            part = row.at(step)
            # What the batch size divides is a variance.
            parts.append(1.0 / np.sqrt(np.abs(part)) if row.name == "batch_size" else part)
        return np.ascontiguousarray(np.concatenate(parts))


def may_join(one: Job, other: Job) -> bool:
    """Whether two jobs differ in their settings alone, and so can run on the same noise by the same kernel."""
    plain = all(job.timetable is None and "average" not in job.settings.values for job in (one, other))
    names = getattr(one.optimizer, "_switches", ())
    return (
        plain
        and one.problem is other.problem
        and type(one.optimizer) is type(other.optimizer)
        and all(getattr(one.optimizer, name) == getattr(other.optimizer, name) for name in names)
        and np.array_equal(one.trajectories, other.trajectories)
        and (one.seed, one.per_example, one.cells, one.dtype)
        == (other.seed, other.per_example, other.cells, other.dtype)
    )


def joined(jobs: Sequence[Job]) -> Job:
    """The settings of all jobs in one, first to last; of jobs that `may_join`, or of a single one."""
    first, *others = jobs
    if not others:
        return first
    values = {name: np.concatenate([job.settings.values[name] for job in jobs]) for name in first.settings.values}
    size = sum(job.settings.size for job in jobs)
    return replace(first, settings=Settings(("setting",), (size,), values, {}))


def twin_cells(trajectories: int) -> int:
    """Cells for the twins of so many trajectories: more explain more, and cost as much as a trajectory each."""
    return min(max(trajectories // 8, 1), 8)


def first_trajectories(count: int, settings: Settings, records: int) -> NDArray[np.uint32]:
    """Trajectories 0 to `count` - 1, or `ParameterError` if not even their losses will fit into memory."""
    what = f"losses of {settings.size} settings x {count} trajectories x {records} records"
    check_memory(8.0 * settings.size * count * records, what, "trajectories", count)
    return np.arange(count, dtype=np.uint32)


def check_room(job: Job, records: int, *, kept: int = 0, stays: bool | None = None, name: str = "trajectories") -> None:
    """Raise `ParameterError` if the results of a run, or the state it goes on from, will not fit into memory.

    Parameters
    ----------
    job : Job
    records : int
        How many steps are recorded at a time.
    kept : int
        Paths to keep: coordinates times kept variables.
    stays : bool, optional
        Whether the state of all lanes stays between stretches; by default whether `run_loss` cuts such a run.
    name : str
        The parameter to lower, for the error.
    """
    settings, count, dim = job.settings.size, int(job.trajectories.size), job.problem.dim
    if dim > _MOST_COORDINATES:
        raise ParameterError("problem", f"{dim} coordinates", f"have at most {_MOST_COORDINATES}")
    lanes = float(settings) * count
    variables = len(job.form[0]._fields) + 2 if job.cells else 1 + len(rule_of(job.form[0]).state)  # type: ignore[attr-defined]
    number = 4 if job.dtype == "float32" else 8
    stays = records > _RECORDS if stays is None else stays
    needed = {
        "losses": 8.0 * lanes * records * (6 if job.cells else 2),  # once more for what is computed from them
        "paths": 8.0 * lanes * records * kept,
        "the state of all lanes": number * lanes * dim * variables * stays,
        "coordinates": 40.0 * dim,
    }
    size = f"{settings} setting{'s' * (settings != 1)} x {count} trajectories x {records} records x {dim} coordinates"
    largest = max(needed, key=lambda what: needed[what])
    check_memory(sum(needed.values()), f"{largest} of {size}, and what else there is,", name, count)


class Losses(NamedTuple):
    """Losses of lanes at recorded steps.

    Attributes
    ----------
    loss : ndarray, shape (settings, trajectories, records)
    twin : ndarray, shape (settings, trajectories, records), or None
        Loss of the mean-field twin on the same noise.
    expected : ndarray, shape (settings, records), or None
        Its expectation, exact.
    cross, square : ndarray, shape (settings, trajectories, records), or None
        Over blocks of coordinates, which are independent, the sums of (x - e)(y - e) and of (y - e)², with x the
        block's part of the loss, y of the twin's and e the latter's expectation: what `mcnqm.statistics.controlled`
        wants to know, from many pairs in each trajectory.
    """

    loss: NDArray[np.float64]
    twin: NDArray[np.float64] | None = None
    expected: NDArray[np.float64] | None = None
    cross: NDArray[np.float64] | None = None
    square: NDArray[np.float64] | None = None

    @property
    def sample(self) -> NDArray[np.float64]:
        """Losses less what their twins explain, if there are twins."""
        if self.twin is None or self.expected is None or self.cross is None or self.square is None:
            return self.loss
        return controlled(self.loss, self.twin, self.expected, (self.cross, self.square), axis=1)

    def pick(self, settings: Any, records: Any) -> Losses:
        """Those of some settings, at some of the records."""
        if np.size(records) == self.loss.shape[-1] and not isinstance(records, slice):
            records = slice(None)  # a view will do
        parts: list[Any] = [None if part is None else part[settings][..., records] for part in self]
        return Losses(*parts)

    def join(self, others: list[Losses]) -> Losses:
        """These records, then those of the others."""
        if not others:
            return self
        columns = zip(self, *others, strict=True)
        parts: list[Any] = [None if each[0] is None else np.concatenate(each, axis=-1) for each in columns]
        return Losses(*parts)


@dataclass(frozen=True)
class _Tile:
    """A block of lanes: the same for every block of coordinates."""

    by_setting: bool
    settings: NDArray[np.int64]
    trajectories: slice
    examples: int

    def lanes(self, job: Job) -> tuple[int, int]:
        """Trajectories and settings."""
        return job.trajectories[self.trajectories].size, self.settings.size


@dataclass(frozen=True)
class _Coordinates:
    index: NDArray[np.uint32]
    curvature: NDArray[np.float64]
    noise: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    edges: NDArray[np.float64]
    second: NDArray[np.float64]
    share: NDArray[np.float64]

    def __getitem__(self, part: slice | NDArray[np.int64]) -> _Coordinates:
        return _Coordinates(*(getattr(self, field.name)[part] for field in fields(self)))


def _coordinates(problem: NoisyQuadratic, cells: int = 0) -> _Coordinates:
    entry = np.repeat(np.arange(problem.size), problem.multiplicity)
    columns = [a[entry] for a in (problem.curvature, problem.noise, problem.initial_mean, problem.initial_std)]
    nothing = np.empty((problem.dim, 0))
    strata = normal_strata(columns[2], columns[3], cells) if cells else (nothing, nothing, nothing)
    return _Coordinates(np.arange(problem.dim, dtype=np.uint32), *columns, *strata)


def _parts(total: int, most: int) -> list[slice]:
    """Cut ``range(total)`` into nearly equal parts of at most `most`, full vectors of 8 where that is possible."""
    count = math.ceil(total / most)
    size = min(most, 8 * math.ceil(total / count / 8)) if total > most else total
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _tiles(job: Job, members: NDArray[np.int64], records: int, most_lanes: int = LANES) -> list[_Tile]:
    """Cut the settings `members` times all trajectories into tiles that one shard can hold."""
    width = min(most_lanes, LANES)
    wide, high = members.size, job.trajectories.size
    if max(wide, high) <= _GROUPS:  # whichever way leaves fewer lanes idle
        by_setting = high * padded(wide) <= wide * padded(high)
    else:
        by_setting = min(wide, width) >= min(high, width)
    groups = max(1, min(_GROUPS, _OUT_BYTES // (8 * LANES * max(records, 1))))
    batch = job.settings.values["batch_size"]
    kinds = [(0, members)]
    if job.per_example:  # examples are drawn for one batch size at a time
        kinds = [(int(b), members[batch[members] == b]) for b in np.unique(batch[members])]
    return [
        _Tile(by_setting, alike[part], where, examples)
        for examples, alike in kinds
        for part in _parts(alike.size, width if by_setting else groups)
        for where in _parts(job.trajectories.size, groups if by_setting else width)
    ]


def _shard(
    job: Job,
    tile: _Tile,
    part: _Coordinates,
    start: int,
    stop: int,
    record: NDArray[np.int64],
    table: NDArray[np.float64],
    keep: int = 0,
) -> Shard:
    columns, times = job.form[1][:, tile.settings], job.timetable
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
        zero=np.float32(0.0) if job.dtype == "float32" else 0.0,
    )


def _of(shard: Shard, part: _Coordinates) -> Shard:
    """The same of other coordinates."""
    return shard._replace(**_columns(part))


def _columns(part: _Coordinates) -> dict[str, Any]:
    """Coordinates as a shard has them."""
    columns = {field.name: getattr(part, field.name) for field in fields(part)}
    return {"coordinates": columns.pop("index"), "weight": 0.5 * part.curvature, **columns}


def _consecutive(index: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Increasing indices as a slice where they are one: NumPy copies that faster."""
    first, stop = int(index[0]), int(index[-1]) + 1
    return slice(first, stop) if stop - first == index.size else index


def _table(job: Job, start: int, stop: int) -> NDArray[np.float64]:
    return np.empty((0, 0)) if job.timetable is None else job.timetable.table(start, stop)


def _out(kind: type, by_setting: bool, shard: Shard, cancel: Any) -> NDArray[np.float64]:
    return np.ascontiguousarray(advance_shard(kind, by_setting, shard, cancel=cancel).out)


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
        everything = _coordinates(job.problem, job.cells)
        size = max(_SMALLEST_BLOCK, math.ceil(job.problem.dim / _REDUCTION_BLOCKS))
        self._blocks = [everything[start : start + size] for start in range(0, job.problem.dim, size)]
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
        real = _tiles(job, self.alive, record.size, self._most_lanes)
        tiles = [replace(tile, settings=np.searchsorted(self.alive, tile.settings)) for tile in real]
        kind = job.form[0]
        table = _table(job, self.step, stop)
        kept, self._kept = self._kept, None
        before = None if kept is None else kept.again(tiles)

        def tasks() -> Iterator[tuple[Any, ...]]:
            for t, tile in enumerate(real):
                shard = _shard(job, tile, self._blocks[0], self.step, stop, record, table)
                for b, block in enumerate(self._blocks):
                    state = None if before is None else before(t, b)
                    if state is not None and not self._pool.own:
                        # A task may be run again, elsewhere or here: it must leave what it was given as it was.
                        state = state._replace(room=None)
                    yield kind, tile.by_setting, _of(shard, block), state, self._pool.cancel

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

    def __init__(self, settings: int, trajectories: int, tiles: list[_Tile], parts: list[list[ShardState]]) -> None:
        self._settings, self._trajectories, self._tiles, self._parts = settings, trajectories, tiles, parts
        self._stay = np.arange(settings)

    def drop(self, stay: NDArray[np.int64]) -> None:
        """Go on with some of the settings."""
        self._stay = self._stay[stay]

    def again(self, tiles: list[_Tile]) -> Callable[[int, int], ShardState]:
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
        room = ShardState(
            np.empty((coordinates, variables, self._trajectories, self._settings), first.lanes.dtype),
            np.empty((first.clock.shape[0], self._settings)),
            np.empty((*first.moments.shape[:3], self._settings)),
        )
        for tile, part in zip(self._tiles, parts, strict=True):
            where = _consecutive(tile.settings)
            room.lanes[:, :, tile.trajectories, where] = part.lanes
            room.clock[:, where] = part.clock
            room.moments[..., where] = part.moments
        return room if self._stay.size == self._settings else room.select(self._stay)


def _alike(one: _Tile, other: _Tile) -> bool:
    return (
        one.by_setting == other.by_setting
        and one.trajectories == other.trajectories
        and np.array_equal(one.settings, other.settings)
    )


def _loss_only(*task: Any) -> ShardResult:
    result = advance_shard(*task)
    return result._replace(out=np.ascontiguousarray(result.out), state=None)


def run_loss(job: Job, record: NDArray[np.int64], pool: Pool, meter: Meter, *, most_lanes: int = LANES) -> Losses:
    """Losses of every lane at every recorded step."""
    check_room(job, record.size)
    march = March(job, pool, meter, most_lanes=most_lanes)
    # Stretches, so that a shard's result stays small however dense the record is.
    cuts = range(0, record.size, _RECORDS)
    first, *rest = [march.advance(record[i : i + _RECORDS], last=i + _RECORDS >= record.size) for i in cuts]
    return first.join(rest)


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

    The first `keep` of theta and the optimizer's state variables are kept. A coordinate is a pure function of the
    seed, so to keep its path it is simply run (again) on its own.
    """
    check_room(job, record.size, kept=coordinates.size * keep, stays=False)
    everything = _coordinates(job.problem)
    if job.timetable is not None and job.timetable.curves * float(record[-1]) > _LONG_TABLE:
        allowed = f"be None in a scheduled or averaged run of more than {_LONG_TABLE // job.timetable.curves} steps"
        raise ParameterError("coordinates", f"a run of {int(record[-1])} steps", allowed)
    table = _table(job, 0, int(record[-1]))
    affordable = _OUT_BYTES // (8 * LANES * _GROUPS * record.size * keep)
    blocks = _parts(coordinates.size, max(1, min(_PATHS, affordable)))
    tiles = _tiles(job, np.arange(job.settings.size), record.size * keep)
    paths = np.empty((job.settings.size, job.trajectories.size, record.size, coordinates.size, keep))
    tasks = (
        (
            job.form[0],
            tile.by_setting,
            _shard(job, tile, everything[coordinates[block]], 0, int(record[-1]), record, table, keep),
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
