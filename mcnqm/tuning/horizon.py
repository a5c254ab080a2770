"""Risk of candidates at a horizon, by simulation or theory: what a search for the least risk asks for.

By simulation the risk is the mean loss over all trajectories after the given number of steps; losses of adaptive
optimizers are first freed of what their mean-field twins explain. The step is fixed beforehand, so this estimate has no
bias, unlike a first passage, which picks a step by the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.engine import Job, Losses, Pool, twin_cells
from mcnqm.ensembles import DIVERGED_AT
from mcnqm.problems import NoisyQuadratic, Problem, unknown_to_twins
from mcnqm.progress import NoMeter
from mcnqm.settings import settings_of
from mcnqm.statistics import effective_number, mean_interval, pseudo_values
from mcnqm.tuning.passages import use_twins
from mcnqm.tuning.race import RaceResult, risk_estimates, run_races
from mcnqm.tuning.routes import (
    NUMBERS,
    Found,
    Query,
    Route,
    exact_route,
    first_trajectory,
    mean_field_nodes,
    mean_field_route,
    sample_of,
    zipped,
)

__all__ = ["HorizonRace", "SimulatedRisk", "risk_by_theory"]

Array = NDArray[np.float64]

_FIRST_LOOK = 256
"""Diverged settings are dropped after so many steps, and each time their number has doubled."""

_CONFIRMED_BY = 4
"""A single candidate on fresh noise, whose risk is to be reported, gets so many times as many trajectories."""

_ROUGH_SHARE, _ROUGH_LEAST = 4, 16
"""For a first impression so many times fewer, but no fewer than the second number."""


class HorizonRace:
    """One sweep on its way to its horizon, beside others (`mcnqm.tuning.race.run_races`).

    Parameters
    ----------
    job : Job
        Its trajectories are split evenly into replicates.
    horizon : int
        Steps to run.
    replicates : int
        Groups of trajectories to leave out.
    """

    def __init__(self, job: Job, horizon: int, replicates: int) -> None:
        self.job = job
        self._horizon, self._replicates, self._step = horizon, replicates, 0
        self._limit = DIVERGED_AT * job.problem.loss_scale
        self._alive = np.arange(job.settings.size)
        self._risk = np.full((job.settings.size, 1 + replicates), np.inf)

    @property
    def running(self) -> bool:
        """Whether the horizon is yet to be reached, by anyone."""
        return self._alive.size > 0 and self._step < self._horizon

    def looks(self) -> NDArray[np.int64]:
        """The next step to look at."""
        return np.array([min(max(2 * self._step, _FIRST_LOOK), self._horizon)], dtype=np.int64)

    def see(self, record: NDArray[np.int64], losses: Losses) -> NDArray[np.bool_]:
        """Drop the settings of which a trajectory has diverged; at the horizon, take the risk of the others."""
        self._step = int(record[-1])
        with np.errstate(invalid="ignore", over="ignore"):
            gone = np.asarray(~(losses.loss[..., -1] <= self._limit).all(axis=1))
            if self._step == self._horizon:
                risk = risk_estimates(losses, self._replicates)[..., -1]
                self._risk[self._alive] = np.where(gone[:, np.newaxis], np.inf, risk)
        self._alive = self._alive[~gone]
        return gone

    def result(self) -> RaceResult:
        """Risks in the place of steps, inf where diverged, with intervals."""
        finite = np.isfinite(self._risk).all(axis=1)
        interval = np.full((finite.size, 2), np.nan)
        effective = np.full(finite.size, np.nan)
        if finite.any():
            parts = pseudo_values(self._risk[finite])
            interval[finite] = np.stack(mean_interval(parts), axis=-1)
            effective[finite] = effective_number(parts)
        return RaceResult(self._risk, np.where(finite, 0, 1), interval, effective)


@dataclass(frozen=True)
class SimulatedRisk:
    """Simulation up to a horizon.

    Attributes
    ----------
    problem : Problem
    batch_size : float
    horizon : int
        Steps.
    options : mapping
        ``trajectories``, ``replicates``, ``seed`` and ``dtype``: see `mcnqm.tune`.
    pool : Pool
        Where to run.
    target, exact, sampled
        See `mcnqm.tuning.routes.Route`.
    """

    problem: Problem
    batch_size: float
    horizon: int
    options: Mapping[str, Any]
    pool: Pool
    target: float = np.nan
    exact: bool = False
    sampled: bool = True

    def race(self, query: Query) -> HorizonRace:
        """A sweep over the candidates, about to start."""
        swept = zipped(query.optimizer, query.candidates)
        single = self.options["dtype"] == "float32"
        excluded = "dtype='float32'" if single else unknown_to_twins(self.problem)
        trajectories, replicates = self._sample(query)
        # Twins pay at every horizon: there are no other steps to smooth over.
        cells = twin_cells(trajectories) if use_twins(None, swept, excluded) else 0
        first = first_trajectory(query.fresh)
        job = Job(
            self.problem,
            swept,
            settings_of(swept, self.batch_size, schedules=True),
            np.arange(first, first + trajectories, dtype=np.uint32),
            self.options["seed"],
            cells=cells,
            dtype=self.options["dtype"],
        )
        return HorizonRace(job, self.horizon, replicates)

    def _sample(self, query: Query) -> tuple[int, int]:
        """How many trajectories, in how many groups."""
        options = sample_of(self.problem, query._replace(expected=float(self.horizon), rough=False), self.options)
        replicates = options["replicates"]
        total = replicates * options["trajectories"]
        if query.rough:
            total = max(total // _ROUGH_SHARE, min(total, _ROUGH_LEAST))
        if query.fresh and next(iter(query.candidates.values())).size == 1:
            total = max(total, min(_CONFIRMED_BY * total, int(NUMBERS / (self.problem.dim * 3))))
        replicates = min(replicates, total)
        return total // replicates * replicates, replicates

    def find(self, query: Query) -> Found:
        """See `mcnqm.tuning.routes.Route.find`."""
        ((_, result),) = run_races([self.race(query)], self.pool, NoMeter())
        return Found(result.steps, result.interval, result.effective)


@dataclass(frozen=True)
class _Theory:
    """Risk at a horizon in closed form, or in the mean field."""

    problem: NoisyQuadratic
    batch_size: float
    horizon: int
    exact: bool
    target: float = np.nan
    sampled: bool = False

    def find(self, query: Query) -> Found:
        swept, record = zipped(query.optimizer, query.candidates), [self.horizon]
        if self.exact:
            answer = analytic.risk(self.problem, swept, self.batch_size, self.horizon, record=record)
        else:
            nodes = mean_field_nodes(self.horizon)
            answer = analytic.mean_field.risk(
                self.problem, swept, self.batch_size, self.horizon, record=record, nodes=nodes
            )
        risk = answer["risk"].values.reshape(-1, 1)
        diverged = ~(risk <= DIVERGED_AT * self.problem.loss_scale)
        nothing = np.full(risk.shape[0], np.nan)
        return Found(np.where(diverged, np.inf, risk), np.stack([nothing, nothing], axis=-1), nothing)


def risk_by_theory(kind: Callable[..., Route], problem: Any, batch_size: float, horizon: int) -> Route:
    """The risk at a horizon by the theory of a `kind` of route to a target: exact, or the mean field's."""
    assert kind in (exact_route, mean_field_route)
    return _Theory(problem, batch_size, horizon, kind is exact_route)
