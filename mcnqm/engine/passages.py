"""First passages of single trajectories, exact to the step, with losses at recorded steps beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.engine.executor import Pool
from mcnqm.engine.job import RECORDS, Job, check_room
from mcnqm.engine.losses import Losses
from mcnqm.engine.march import March
from mcnqm.kernels.loops import LANES
from mcnqm.kernels.updates import rule_of
from mcnqm.progress import Meter

__all__ = ["portions", "run_passages"]

Array = NDArray[np.float64]

_PORTION = 2**22
"""Most numbers at a time of a run that is reduced as it goes: losses and, where it is cut, the state of all lanes."""

_STRETCH = 2**22
"""Most losses of a stretch whose every step is looked at."""


def portions(job: Job, records: int, *, stays: bool) -> Iterator[tuple[slice, Job]]:
    """A job by groups of trajectories, each of a bounded number of losses and, if it `stays`, bounded state.

    How large they are depends on the job alone, and not on the machine: what is summed over them has the same bits
    everywhere.
    """
    variables = (len(job.form[0]._fields) + 2) if job.cells else 2 + len(rule_of(job.form[0]).state)  # type: ignore[attr-defined]
    each = job.settings.size * (records * (6 if job.cells else 2) + job.problem.dim * variables * stays)
    most = max(16, _PORTION // each)
    for round_number in (16 * LANES, LANES):
        if most >= round_number:
            most = most // round_number * round_number
            break
    for first in range(0, job.trajectories.size, most):
        where = slice(first, min(first + most, job.trajectories.size))
        yield where, replace(job, trajectories=job.trajectories[where])


def run_passages(
    job: Job, record: NDArray[np.int64], last: int, targets: Array, pool: Pool, meter: Meter
) -> tuple[Losses, Array]:
    """Losses at recorded steps, and the first step up to `last` at which each trajectory's own is at or below a target.

    Parameters
    ----------
    job : Job
    record : ndarray of int64, shape (records,)
        Increasing, up to `last`.
    last : int
        Steps to run.
    targets : ndarray, shape (targets,)
        Losses to reach.
    pool : Pool
        Where.
    meter : Meter
        Told of coordinate updates done.

    Returns
    -------
    losses : Losses
        Bit for bit those of `run_loss`.
    passages : ndarray, shape (settings, targets, trajectories)
        inf where there is none.

    Notes
    -----
    The run is cut into stretches in which every step is recorded and looked at, so that no more than one of them is in
    memory; from where every trajectory has passed on, the recorded steps alone.
    """
    length = int(np.clip(_STRETCH // (job.lanes * (6 if job.cells else 2)), 16, RECORDS))
    check_room(job, max(length, record.size), stays=last >= length)
    march = March(job, pool, meter)
    passages = np.full((job.settings.size, targets.size, job.trajectories.size), np.inf)
    parts: list[Losses] = []
    start = 0
    while start <= last and not np.isfinite(passages).all():
        stop = min(start + length, last + 1)
        losses = march.advance(np.arange(start, stop), last=stop > last)
        for k, target in enumerate(targets):
            reached = losses.loss <= target
            first = start + reached.argmax(axis=-1).astype(np.float64)
            passages[:, k] = np.minimum(passages[:, k], np.where(reached.any(axis=-1), first, np.inf))
        due = record[(record >= start) & (record < stop)] - start
        if due.size:
            parts.append(losses.pick(slice(None), due))
        start = stop
    rest = record[record >= start]
    cuts = range(0, rest.size, RECORDS)
    parts += [march.advance(rest[i : i + RECORDS], last=i + RECORDS >= rest.size) for i in cuts]
    found: list[Any] = [None if part is None else np.ascontiguousarray(part) for part in parts[0].join(parts[1:])]
    return Losses(*found), passages  # laid out as those of `run_loss`: sums over them depend on it
