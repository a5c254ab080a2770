"""Steps to target of candidates, by either route: all that a search for the best of them asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.engine import Pool, has_twin
from mcnqm.optimizers import SGD
from mcnqm.problems import NoisyQuadratic, Problem, is_gaussian, is_quadratic, unknown_to_twins
from mcnqm.progress import NoMeter
from mcnqm.schedules import Schedule
from mcnqm.tuning.passages import race_of
from mcnqm.tuning.race import Race, run_races

__all__ = [
    "LONG",
    "NUMBERS",
    "SHORT",
    "Found",
    "Query",
    "Route",
    "SimulatedRoute",
    "exact_route",
    "first_trajectory",
    "mean_field_nodes",
    "mean_field_route",
    "sample_of",
    "theory_of",
    "zipped",
]

Array = NDArray[np.float64]

_PATIENCE = 1.2
"""Candidates that need more than so many times the fewest steps are given up."""

LONG = 40_000
"""Runs of so many steps get the trajectories that were asked for; longer ones fewer, shorter ones more."""

_DIM, _SMALL = 1000, 250
"""With fewer coordinates than the first a step costs less, and buys more trajectories in proportion."""

SHORT = 600
"""Runs of so many steps are cheap: candidates get intervals, and winners run again on fresh noise."""

_EFFORT, _EFFORT_SHORT, _SHORT_EFFORT = 4.0, 16.0, 300
"""Up to so many times as many; the second up to so many steps, and with up to `_SMALL` coordinates. With few
trajectories, a first passage at a large batch picks a favourable draw of the starting points."""

_LEAST, _LEAST_TWINS = 8, 6
"""Fewest trajectories: with fewer an error says little about itself. The second with a control variate."""

_TWIN_FROM, _TWIN_SHARE = 1500, 8.0
"""Runs of so many steps need so many times fewer trajectories if there is a control variate: noise has long been
averaged by then."""

_FRESH, _APART = 2**31, 2**24
"""Number of the first trajectory of the first fresh sample, and how far the next ones are from each other."""

_NODES = ((1500, 4), (100, 8), (0, 16))
"""Nodes of the mean field while tuning, from so many steps on: the shorter the run, the less noise smooths the risk.
Against 32 nodes steps are off by 0.2 % at most (d = 1000), but below some 70 steps by more than 1 %."""

NUMBERS = 8e7
"""Most numbers of state at a time."""


class Query(NamedTuple):
    """What a search wants to know of candidates.

    Attributes
    ----------
    optimizer : optimizer
    candidates : dict of str to ndarray
        Values of each tuned hyperparameter.
    rough : bool
        Whether a first impression will do.
    expected : float
        About how many steps are needed: short runs are cheap and can afford more trajectories.
    fresh : int
        0: on the search's own noise; else on fresh noise of this number, with intervals.
    give_up : float
        On fresh noise: after so many steps.
    """

    optimizer: Any
    candidates: Mapping[str, Array]
    rough: bool = False
    expected: float = np.inf
    fresh: int = 0
    give_up: float = np.inf


class Found(NamedTuple):
    """Steps of candidates, or at a horizon their risk.

    Attributes
    ----------
    steps : ndarray, shape (candidates, estimates)
        Inf where the target is not reached, or the risk diverges. The first estimate is the whole sample's, the others
        leave one replicate out each (see `jackknife`).
    interval : ndarray, shape (candidates, 2)
        95 % interval of the first, in short runs and on fresh noise; else NaN.
    effective : ndarray, shape (candidates,)
        Effective number of replicates, likewise.
    """

    steps: Array
    interval: Array
    effective: Array

    def pick(self, candidate: int) -> Found:
        """That of one candidate."""
        return Found(*(column[candidate : candidate + 1] for column in self))


def _certain(steps: Array) -> Found:
    """Theory's answer."""
    return Found(steps, np.full((steps.shape[0], 2), np.nan), np.full(steps.shape[0], np.nan))


class Route(Protocol):
    """Steps to target of candidates, by simulation or theory: all that a search asks for.

    Or their risk at a horizon (`mcnqm.tuning.horizon`): then that is what "steps" of a `Found` stands for.
    """

    @property
    def problem(self) -> Problem:
        """What is optimized."""

    @property
    def batch_size(self) -> float:
        """Examples per step."""

    @property
    def target(self) -> float:
        """Risk to reach; NaN at a horizon."""

    @property
    def horizon(self) -> int | None:
        """Steps after which the risk is wanted; None where a target is to be reached."""

    @property
    def exact(self) -> bool:
        """Whether answers are exact, whole steps, and cheap."""

    @property
    def sampled(self) -> bool:
        """Whether answers have a sampling error, to be reduced by more trajectories."""

    def find(self, query: Query) -> Found:
        """Answer it."""


@dataclass(frozen=True)
class _Exact:
    problem: NoisyQuadratic
    batch_size: float
    target: float
    max_steps: int | None = None
    exact: bool = True
    sampled: bool = False
    horizon: None = None

    def find(self, query: Query) -> Found:
        swept = zipped(query.optimizer, query.candidates)
        found = analytic.steps_to_target(self.problem, swept, self.batch_size, self.target, max_steps=self.max_steps)
        return _certain(found["steps"].values.reshape(-1, 1))


@dataclass(frozen=True)
class _MeanField:
    problem: NoisyQuadratic
    batch_size: float
    target: float
    max_steps: int | None = None
    exact: bool = False
    sampled: bool = False
    horizon: None = None

    def find(self, query: Query) -> Found:
        swept = zipped(query.optimizer, query.candidates)
        everything = (self.problem, swept, self.batch_size, self.target)
        fewest = query.expected
        for steps, nodes in _NODES:
            if fewest < steps:
                continue
            found = analytic.mean_field.steps_to_target(
                *everything, max_steps=self.max_steps, overtaken_factor=_PATIENCE, nodes=nodes
            )["crossing"].values
            if (fewest := float(found.min())) >= steps:
                break
        return _certain(found.reshape(-1, 1))


@dataclass(frozen=True)
class SimulatedRoute:
    """Simulation.

    Attributes
    ----------
    problem : Problem
    batch_size, target : float
    options : mapping
        ``trajectories``, ``replicates``, ``seed``, ``max_steps`` and ``dtype``: see `mcnqm.steps_to_target`.
    pool : Pool
        Where to run.
    exact, sampled, horizon
        See `Route`.
    """

    problem: Problem
    batch_size: float
    target: float
    options: Mapping[str, Any]
    pool: Pool
    exact: bool = False
    sampled: bool = True
    horizon: None = None

    def race(self, query: Query) -> Race:
        """A sweep over the candidates, about to start."""
        options = sample_of(self.problem, query, self.options)
        options["max_steps"] = int(min(options["max_steps"], max(query.give_up, 64.0)))
        certain = query.fresh > 0 or (query.expected <= SHORT and not query.rough)
        return race_of(
            self.problem, zipped(query.optimizer, query.candidates), self.batch_size, self.target,
            patience=None if query.fresh else _PATIENCE, certain=certain, first=first_trajectory(query.fresh),
            **options,
        )[0]  # fmt: skip

    def find(self, query: Query) -> Found:
        """See `Route.find`."""
        ((_, result),) = run_races([self.race(query)], self.pool, NoMeter())
        return Found(result.steps, result.interval, result.effective)


def sample_of(problem: Problem, query: Query, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a simulation with the trajectories that a query deserves: see `mcnqm.tune`.

    Parameters
    ----------
    problem : Problem
    query : Query
    options : mapping
        ``trajectories``, ``replicates``, and what else there is; "control_variate" comes in where twins do not pay.
    """
    options, expected = dict(options), query.expected
    if query.rough:
        options.update(trajectories=1, replicates=4)
        return options
    count = next(iter(query.candidates.values())).size
    room = NUMBERS / (problem.dim * count * 3)
    short = expected <= _SHORT_EFFORT or problem.dim <= _SMALL
    effort = LONG / max(expected, 1.0) * max(_DIM / problem.dim, 1.0)
    effort = min(effort, _EFFORT_SHORT if short else _EFFORT)
    least = _LEAST
    if expected <= _TWIN_FROM:
        options["control_variate"] = False  # before noise dominates it costs more than it brings
    elif has_twin(query.optimizer) and unknown_to_twins(problem) is None and options.get("dtype") != "float32":
        effort, least = effort / _TWIN_SHARE, _LEAST_TWINS
    total = max(int(min(effort * options["trajectories"] * options["replicates"], room)), least)
    options["replicates"] = min(options["replicates"], total)
    options["trajectories"] = total // options["replicates"]
    return options


def first_trajectory(fresh: int) -> int:
    """Number of the first trajectory of a query's sample: see `Query.fresh`."""
    return _FRESH + (fresh - 1) * _APART if fresh else 0


def exact_route(problem: NoisyQuadratic, batch_size: float, target: float, max_steps: int | None = None) -> Route:
    """The closed form, as far as `max_steps`."""
    return _Exact(problem, batch_size, target, max_steps)


def mean_field_route(problem: NoisyQuadratic, batch_size: float, target: float, max_steps: int | None = None) -> Route:
    """The mean-field theory of adaptive optimizers, as far as `max_steps`."""
    return _MeanField(problem, batch_size, target, max_steps)


def theory_of(
    problem: Problem, optimizer: Any, tuned: Iterable[str] = ()
) -> Callable[[Any, float, float], Route] | None:
    """The route of the theory that an optimizer has on a problem, whatever the `tuned` values.

    Exact, mean field, or none.
    """
    if isinstance(optimizer, SGD):
        return exact_route if is_quadratic(problem) else None
    return mean_field_route if is_gaussian(problem) and analytic.mean_field.covers(optimizer, tuned) else None


def mean_field_nodes(steps: int) -> int:
    """Nodes of the mean field for runs of so many steps."""
    return next(nodes for least, nodes in _NODES if steps >= least)


def zipped(optimizer: Any, candidates: Mapping[str, Array]) -> Any:
    """The optimizer with candidates along a dimension of their own."""
    fields: dict[str, Any] = {name: xr.DataArray(values, dims="candidate") for name, values in candidates.items()}
    for name, value in fields.items():
        if isinstance(scheduled := getattr(optimizer, name), Schedule):  # its scale is what is tuned
            fields[name] = Schedule(value, scheduled.curves, scheduled.which)
    return optimizer._replace(**fields)
