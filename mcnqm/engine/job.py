"""What a run is: its problem, optimizer, settings, trajectories and seed, and the memory it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.engine.kinds import check_optimizer, kind_of_problem
from mcnqm.errors import ParameterError
from mcnqm.kernels.forms import kernel_form
from mcnqm.kernels.updates import rule_of
from mcnqm.memory import check_memory
from mcnqm.problems import Problem
from mcnqm.schedules import Scaled, Segments
from mcnqm.settings import Settings, Timetable

__all__ = ["RECORDS", "Job", "check_room", "first_trajectories", "joined", "may_join", "twin_cells"]

_MOST_COORDINATES = 2**32
"""The random numbers' counter holds a coordinate in 32 bits."""

RECORDS = 4096
"""Most records of a stretch."""


@dataclass(frozen=True)
class Job:
    """Everything that decides the numbers of a run.

    Attributes
    ----------
    problem : Problem
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

    problem: Problem
    optimizer: Any
    settings: Settings
    trajectories: NDArray[np.uint32]
    seed: int
    per_example: bool = False
    cells: int = 0
    dtype: str = "float64"

    def __post_init__(self) -> None:
        kind_of_problem(self.problem)
        check_optimizer(self.problem, self.optimizer, *self.form)

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
    stays = records > RECORDS if stays is None else stays
    needed = {
        "losses": 8.0 * lanes * records * (6 if job.cells else 2),  # once more for what is computed from them
        "paths": 8.0 * lanes * records * kept,
        "the state of all lanes": number * lanes * dim * variables * stays,
        "coordinates": 40.0 * dim,
    }
    size = f"{settings} setting{'s' * (settings != 1)} x {count} trajectories x {records} records x {dim} coordinates"
    largest = max(needed, key=lambda what: needed[what])
    check_memory(sum(needed.values()), f"{largest} of {size}, and what else there is,", name, count)
