"""Lanes and shards: plan a run, carry it out on any executor, reduce in a fixed order.

Every lane of every coordinate is a pure function of its hyperparameters and the seed, so a run may be cut anywhere.
Only sums over coordinates depend on an order, and that is fixed by the number of coordinates alone: sums within
blocks of consecutive coordinates, then over the blocks, first to last.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mcnqm.domains import integer
from mcnqm.errors import ParameterError
from mcnqm.kernels.loops import LANES, Shard
from mcnqm.kernels.shards import advance_shard, new_cancel_flag
from mcnqm.kernels.updates import HeavyBall, Nesterov, PlainSGD
from mcnqm.optimizers import SGD
from mcnqm.problem import NoisyQuadratic
from mcnqm.progress import Meter
from mcnqm.settings import Settings

__all__ = ["Job", "Pool", "kernel_form", "run_loss", "run_paths"]

T = TypeVar("T")

_REDUCTION_BLOCKS = 32
_SMALLEST_BLOCK = 8
_GROUPS = 16
"""Most groups of lanes in a shard, so that its state stays small."""

_PATHS = 32
"""Most coordinates of a shard that keeps paths."""

_OUT_BYTES = 2**25
"""Most memory of a shard's result."""


def kernel_form(optimizer: Any, values: dict[str, NDArray[np.float64]]) -> tuple[type, NDArray[np.float64]]:
    """The NamedTuple type that kernels know an optimizer by, and its fields, shape (fields, settings).

    SGD comes in three forms, so that nobody pays for a momentum that is zero or a switch that is off.
    """
    kind: type = type(optimizer)
    columns = dict(values)
    if isinstance(optimizer, SGD):
        kind = Nesterov if optimizer.nesterov else HeavyBall
        if not values["momentum"].any():
            kind = PlainSGD
    else:
        size = next(iter(values.values())).size
        columns.update({name: np.full(size, float(getattr(optimizer, name))) for name in optimizer._switches})
    fields: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    return kind, np.stack([columns[name] for name in fields])


class Pool:
    """Runs functions over tasks on an executor, results in order, and cleans up after an interruption.

    Parameters
    ----------
    executor : concurrent.futures.Executor, optional
        Anything with `submit`: threads, processes, a Dask cluster's. By default, threads of our own.
    threads : int, optional
        How many, without an executor. By default one per available core.
    """

    def __init__(self, executor: Executor | None = None, threads: int | None = None) -> None:
        if executor is not None and threads is not None:
            raise ParameterError("threads", threads, "be None when an executor is given")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise ParameterError("executor", executor, "have a submit method, as concurrent.futures executors do")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = cores if threads is None else integer("threads", threads, 1)
        self.executor = executor
        self.cancel = new_cancel_flag()

    @contextmanager
    def _submitter(self) -> Iterator[Executor]:
        if self.executor is not None:
            yield self.executor
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="mcnqm") as own:
            yield own

    @staticmethod
    def _next(pending: deque[Future[T]]) -> T:
        result = pending[0].result()  # stays among the pending while we wait, to be cancelled with them
        pending.popleft()
        return result

    def map(self, function: Callable[..., T], tasks: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Yield ``function(*task)`` for each task, in order, with a bounded number in flight."""
        # Kernels in our own threads see the flag at once; a copy of it in another process never changes, and
        # such a worker finishes the shard it is at.
        window = 4 * max(self.workers, getattr(self.executor, "_max_workers", 1) or 1)
        pending: deque[Future[T]] = deque()
        with self._submitter() as pool:
            try:
                for task in tasks:
                    pending.append(pool.submit(function, *task))
                    if len(pending) >= window:
                        yield self._next(pending)
                while pending:
                    yield self._next(pending)
            except BaseException:
                for future in pending:
                    self.cancel[0] = 1
                    future.cancel()
                raise


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
    record : ndarray of int64
        Steps to record.
    per_example : bool
        Draw every example, rather than the law of their mean.
    """

    problem: NoisyQuadratic
    optimizer: Any
    settings: Settings
    trajectories: NDArray[np.uint32]
    seed: int
    record: NDArray[np.int64]
    per_example: bool = False

    @property
    def updates(self) -> float:
        """Coordinate updates of the whole run."""
        return float(self.problem.dim) * self.settings.size * self.trajectories.size * float(self.record[-1])


@dataclass(frozen=True)
class _Tile:
    """A block of lanes: the same for every block of coordinates."""

    kind: type
    by_setting: bool
    columns: NDArray[np.float64]  # (fields + 1, LANES)
    settings: slice | NDArray[np.int64]
    trajectories: NDArray[np.uint32]
    where: slice
    examples: int
    lanes: tuple[int, int]  # trajectories, settings in use, without padding


@dataclass(frozen=True)
class _Coordinates:
    index: NDArray[np.uint32]
    curvature: NDArray[np.float64]
    noise: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def __getitem__(self, part: slice | NDArray[np.int64]) -> _Coordinates:
        return _Coordinates(self.index[part], self.curvature[part], self.noise[part], self.mean[part], self.std[part])


def _coordinates(problem: NoisyQuadratic) -> _Coordinates:
    entry = np.repeat(np.arange(problem.size), problem.multiplicity)
    return _Coordinates(
        np.arange(problem.dim, dtype=np.uint32),
        *(a[entry] for a in (problem.curvature, problem.noise, problem.initial_mean, problem.initial_std)),
    )


def _parts(total: int, most: int) -> list[slice]:
    """Cut ``range(total)`` into nearly equal parts of at most `most`, full vectors of 8 where that is possible."""
    count = math.ceil(total / most)
    size = min(most, 8 * math.ceil(total / count / 8)) if total > most else total
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _padded(n: int) -> int:
    """Lanes to run for `n` wanted: a full vector is cheaper than a few left-over lanes on their own."""
    return min(LANES, 8 * math.ceil(n / 8)) if n % 8 > 2 else n


def _tiles(job: Job, most_lanes: int, kept: int) -> Iterator[_Tile]:
    kind, fields = kernel_form(job.optimizer, {k: v for k, v in job.settings.values.items() if k != "batch_size"})
    batch = job.settings.values["batch_size"]
    width = min(most_lanes, LANES)
    by_setting = min(job.settings.size, width) >= min(job.trajectories.size, width)
    affordable = _OUT_BYTES // (8 * LANES * job.record.size * max(kept, 1))
    groups = max(1, min(_GROUPS, affordable))

    # Examples are drawn for one batch size at a time.
    batches: list[tuple[int, NDArray[np.int64]]] = [(0, np.arange(batch.size))]
    if job.per_example:
        batches = [(int(b), np.flatnonzero(batch == b)) for b in np.unique(batch)]
    for examples, members in batches:
        for part in _parts(members.size, width if by_setting else groups):
            chosen = members[part]
            n_settings = _padded(chosen.size) if by_setting else chosen.size
            columns = np.ones((fields.shape[0] + 1, LANES))
            columns[:-1, :n_settings] = fields[:, np.resize(chosen, n_settings)]
            # Averaged examples already have the variance of their mean.
            columns[-1, :n_settings] = 1.0 if job.per_example else batch[np.resize(chosen, n_settings)]
            for where in _parts(job.trajectories.size, groups if by_setting else width):
                lanes = job.trajectories[where]
                padded = lanes if by_setting else np.resize(lanes, _padded(lanes.size))
                yield _Tile(kind, by_setting, columns, chosen, padded, where, examples, (lanes.size, chosen.size))


def _shard(job: Job, tile: _Tile, part: _Coordinates, keep: int) -> Shard:
    n_settings = _padded(tile.lanes[1]) if tile.by_setting else tile.lanes[1]
    return Shard(
        seed=np.uint64(job.seed),
        examples=tile.examples,
        settings=tile.columns,
        n_settings=n_settings,
        trajectories=tile.trajectories,
        coordinates=part.index,
        curvature=part.curvature,
        noise=part.noise,
        mean=part.mean,
        std=part.std,
        weight=0.5 * part.curvature,
        start=0,
        stop=int(job.record[-1]),
        record=job.record,
        keep=keep,
    )


def _out(kind: type, by_setting: bool, shard: Shard, lanes: tuple[int, int], cancel: Any) -> NDArray[np.float64]:
    out, _ = advance_shard(kind, by_setting, shard, cancel=cancel)
    return np.ascontiguousarray(out[:, : lanes[0], : lanes[1]])


def _task(job: Job, tile: _Tile, part: _Coordinates, keep: int, pool: Pool) -> tuple[Any, ...]:
    return tile.kind, tile.by_setting, _shard(job, tile, part, keep), tile.lanes, pool.cancel


def run_loss(job: Job, pool: Pool, meter: Meter, *, most_lanes: int = LANES) -> NDArray[np.float64]:
    """Loss of every lane at every recorded step, shape (settings, trajectories, records).

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
    everything = _coordinates(job.problem)
    size = max(_SMALLEST_BLOCK, math.ceil(job.problem.dim / _REDUCTION_BLOCKS))
    blocks = [everything[start : start + size] for start in range(0, job.problem.dim, size)]
    tiles = list(_tiles(job, most_lanes, 0))
    loss = np.zeros((job.settings.size, job.trajectories.size, job.record.size))
    tasks = (_task(job, tile, block, 0, pool) for tile in tiles for block in blocks)
    results = pool.map(_out, tasks)
    for tile in tiles:
        total = np.zeros((job.record.size, *tile.lanes))
        for block in blocks:  # first to last: the order that makes sums reproducible
            total += next(results)
            meter.advance(float(math.prod(tile.lanes)) * block.index.size * float(job.record[-1]))
        loss[tile.settings, tile.where] = total.transpose(2, 1, 0)
    results.close()  # type: ignore[attr-defined]
    return loss


def run_paths(
    job: Job, coordinates: NDArray[np.int64], pool: Pool, meter: Meter, *, keep: int = 1
) -> NDArray[np.float64]:
    """Paths of chosen coordinates, shape (settings, trajectories, records, coordinates, kept variables).

    The first `keep` of theta and the optimizer's state variables are kept. A coordinate is a pure function of the
    seed, so to keep its path it is simply run (again) on its own.
    """
    everything = _coordinates(job.problem)
    affordable = _OUT_BYTES // (8 * LANES * _GROUPS * job.record.size * keep)
    blocks = _parts(coordinates.size, max(1, min(_PATHS, affordable)))
    tiles = list(_tiles(job, LANES, keep))
    shape = (job.settings.size, job.trajectories.size, job.record.size, coordinates.size, keep)
    paths = np.empty(shape)
    tasks = (_task(job, tile, everything[coordinates[block]], keep, pool) for tile in tiles for block in blocks)
    results = pool.map(_out, tasks)
    for tile in tiles:
        for block in blocks:
            part = next(results)
            paths[tile.settings, tile.where, :, block] = part.transpose(2, 1, 0, 3, 4)
            meter.advance(float(math.prod(tile.lanes)) * part.shape[3] * float(job.record[-1]))
    results.close()  # type: ignore[attr-defined]
    return paths
