"""Steps to target of candidates, by either route: all that a search for the best of them asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.engine import Pool, has_twin
from mcnqm.optimizers import SGD
from mcnqm.problem import NoisyQuadratic
from mcnqm.progress import NoMeter
from mcnqm.race import Race, run_races
from mcnqm.schedules import Schedule
from mcnqm.steps import race_of

__all__ = [
    "LONG",
    "NUMBERS",
    "Route",
    "SimulatedRoute",
    "exact_route",
    "mean_field_route",
    "theory_of",
]

Array = NDArray[np.float64]

_PATIENCE = 1.2
"""Candidates that need more than so many times the fewest steps are given up."""

LONG = 40_000
"""Runs of so many steps get the trajectories that were asked for; longer ones fewer, shorter ones more."""

_EFFORT, _EFFORT_SHORT, _SHORT_EFFORT = 4.0, 16.0, 300
"""Up to so many times as many; up to so many steps the second. With few trajectories, a first passage at a large
batch picks a favourable draw of the starting points."""

_TWIN_FROM, _TWIN_REPLICATES = 1500, 4
"""Runs of so many steps need few trajectories if there is a control variate: noise has long been averaged by then. With
fewer than four, `controlled` has too few others to regress on."""

_NODES = ((1500, 4), (100, 8), (0, 16))
"""Nodes of the mean field while tuning, from so many steps on: the shorter the run, the less noise smooths the risk.
Against 32 nodes steps are off by 0.2 % at most (d = 1000), but below some 70 steps by more than 1 %."""

NUMBERS = 8e7
"""Most numbers of state at a time."""


class Route(Protocol):
    """Steps to target of candidates, by simulation or theory: all that a search asks for."""

    @property
    def exact(self) -> bool:
        """Whether answers are exact, whole steps, and cheap."""

    @property
    def sampled(self) -> bool:
        """Whether answers have a sampling error, to be reduced by more trajectories."""

    def steps(self, optimizer: Any, candidates: Mapping[str, Array], *, rough: bool, expected: float = np.inf) -> Array:
        """Steps of each candidate, shape (candidates, estimates); inf where the target is not reached.

        The first estimate is the whole sample's, the others leave one replicate out each (see `jackknife`).

        `rough` asks for a first impression. `expected` is about how many steps are needed: short runs are cheap and
        can afford more trajectories.
        """


@dataclass(frozen=True)
class _Exact:
    problem: NoisyQuadratic
    batch_size: float
    target: float
    exact: bool = True
    sampled: bool = False

    def steps(self, optimizer: Any, candidates: Mapping[str, Array], *, rough: bool, expected: float = np.inf) -> Array:
        found = analytic.steps_to_target(self.problem, _zipped(optimizer, candidates), self.batch_size, self.target)
        return found["steps"].values.reshape(-1, 1)


@dataclass(frozen=True)
class _MeanField:
    problem: NoisyQuadratic
    batch_size: float
    target: float
    exact: bool = False
    sampled: bool = False

    def steps(self, optimizer: Any, candidates: Mapping[str, Array], *, rough: bool, expected: float = np.inf) -> Array:
        everything = (self.problem, _zipped(optimizer, candidates), self.batch_size, self.target)
        fewest = expected
        for steps, nodes in _NODES:
            if fewest < steps:
                continue
            found = analytic.mean_field.steps_to_target(*everything, patience=_PATIENCE, nodes=nodes)["crossing"].values
            if (fewest := float(found.min())) >= steps:
                break
        return found.reshape(-1, 1)


@dataclass(frozen=True)
class SimulatedRoute:
    """Simulation.

    Attributes
    ----------
    problem : NoisyQuadratic
    batch_size, target : float
    options : mapping
        ``trajectories``, ``replicates``, ``seed``, ``max_steps`` and ``dtype``: see `mcnqm.steps_to_target`.
    pool : Pool
        Where to run.
    exact, sampled : bool
        See `Route`.
    """

    problem: NoisyQuadratic
    batch_size: float
    target: float
    options: Mapping[str, Any]
    pool: Pool
    exact: bool = False
    sampled: bool = True

    def race(self, optimizer: Any, candidates: Mapping[str, Array], rough: bool, expected: float) -> Race:
        """A sweep over the candidates, about to start."""
        options = dict(self.options)
        if rough:
            options.update(trajectories=1, replicates=4)
        else:
            count = next(iter(candidates.values())).size
            room = NUMBERS / (self.problem.dim * count * 3 * options["replicates"])
            effort = min(LONG / max(expected, 1.0), _EFFORT if expected > _SHORT_EFFORT else _EFFORT_SHORT)
            if expected <= _TWIN_FROM:
                options["control_variate"] = False  # before noise dominates it costs more than it brings
            elif has_twin(optimizer) and options.get("dtype") != "float32":
                options["replicates"] = min(options["replicates"], _TWIN_REPLICATES)
                effort /= 8.0
            options["trajectories"] = max(int(min(effort * options["trajectories"], room)), 1)
        return race_of(
            self.problem, _zipped(optimizer, candidates), self.batch_size, self.target, patience=_PATIENCE, **options
        )[0]

    def steps(self, optimizer: Any, candidates: Mapping[str, Array], *, rough: bool, expected: float = np.inf) -> Array:
        """See `Route.steps`."""
        ((_, result),) = run_races([self.race(optimizer, candidates, rough, expected)], self.pool, NoMeter())
        return result.steps


def exact_route(problem: NoisyQuadratic, batch_size: float, target: float) -> Route:
    """The closed form."""
    return _Exact(problem, batch_size, target)


def mean_field_route(problem: NoisyQuadratic, batch_size: float, target: float) -> Route:
    """The mean-field theory of adaptive optimizers."""
    return _MeanField(problem, batch_size, target)


def theory_of(optimizer: Any, tuned: Iterable[str] = ()) -> Callable[[NoisyQuadratic, float, float], Route] | None:
    """The route of the theory that an optimizer has, whatever the `tuned` values: exact, mean field, or none."""
    if isinstance(optimizer, SGD):
        return exact_route
    return mean_field_route if analytic.mean_field.covers(optimizer, tuned) else None


def _zipped(optimizer: Any, candidates: Mapping[str, Array]) -> Any:
    fields: dict[str, Any] = {name: xr.DataArray(values, dims="candidate") for name, values in candidates.items()}
    for name, value in fields.items():
        if isinstance(scheduled := getattr(optimizer, name), Schedule):  # its scale is what is tuned
            fields[name] = Schedule(value, scheduled.curves, scheduled.which)
    return optimizer._replace(**fields)
