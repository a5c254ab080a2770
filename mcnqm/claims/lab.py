"""Where claims are measured: the problems, how much work each measurement is worth, and what is already known."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import xarray as xr

from mcnqm._version import __version__
from mcnqm.domains import integer
from mcnqm.problems import NoisyQuadratic
from mcnqm.studies.cells import Cells, source_fingerprint

__all__ = ["FULL", "QUICK", "Budget", "Lab"]


@dataclass(frozen=True)
class Budget:
    """How much work the measurements are worth.

    Attributes
    ----------
    dim : int
        Coordinates of the problem of closed forms, h = c = 1/i.
    bins : int
        Distinct curvatures that its spectrum is quantized to, as the paper does; `dim` for none.
    simulated_dim : int
        Coordinates of the problem on which true Adam runs.
    small_dim : int
        The same where many variants of Adam run.
    octaves : int
        Batch sizes of closed forms: 1, 2, 4, ..., 2**octaves.
    adam_batch_sizes : tuple of int
    pieces : int
        Of optimized schedules.
    replicates : int
        Of tuning by simulation; see `mcnqm.tune`.
    trajectories : int
        Of single simulations whose errors are those of a mean.
    target : float
        Risk to reach.
    """

    dim: int = 1000
    bins: int = 100
    simulated_dim: int = 1000
    small_dim: int = 200
    octaves: int = 24
    adam_batch_sizes: tuple[int, ...] = tuple(4**k for k in range(9))
    pieces: int = 50
    replicates: int = 16
    trajectories: int = 2**16
    target: float = 0.01


QUICK = Budget()
"""All claims within three minutes on two cores."""

FULL = Budget(
    dim=10_000,
    bins=10_000,
    simulated_dim=10_000,
    small_dim=1000,
    adam_batch_sizes=tuple(2**k for k in range(4, 17)),
    replicates=32,
    trajectories=2**18,
)
"""At the paper's 10 000 coordinates."""


@dataclass(frozen=True)
class Lab:
    """A place to measure claims in; measurements that several of them need are made once.

    Attributes
    ----------
    budget : Budget
    seed : int
        Of all simulations.
    executor, threads
        As for `mcnqm.simulate`.
    cells : Cells
        Finished measurements.
    """

    budget: Budget = QUICK
    seed: int = 0
    executor: Executor | None = None
    threads: int | None = None
    cells: Cells = field(default_factory=Cells, repr=False, compare=False)

    @staticmethod
    def of(quick: bool, *, seed: int = 0, executor: Executor | None = None, threads: int | None = None) -> Lab:
        """A lab that keeps what is finished in memory only."""
        return Lab(QUICK if quick else FULL, integer("seed", seed, 0, 2**63 - 1), executor, threads)

    @cached_property
    def problem(self) -> NoisyQuadratic:
        """That of closed forms."""
        full = NoisyQuadratic.power_law(self.budget.dim)
        return full if self.budget.bins >= self.budget.dim else full.binned(self.budget.bins)

    @cached_property
    def simulated(self) -> NoisyQuadratic:
        """That on which true Adam runs."""
        return NoisyQuadratic.power_law(self.budget.simulated_dim)

    @cached_property
    def small(self) -> NoisyQuadratic:
        """That on which many variants of Adam run."""
        return NoisyQuadratic.power_law(self.budget.small_dim)

    @property
    def running(self) -> dict[str, Any]:
        """What every simulation is told."""
        return {"seed": self.seed, "executor": self.executor, "threads": self.threads}

    def config(self) -> dict[str, Any]:
        """What decides the numbers, in plain types."""
        return {
            "budget": json.loads(json.dumps(asdict(self.budget))),
            "seed": self.seed,
            "mcnqm_version": __version__,
            "sources": source_fingerprint(),
        }

    @cached_property
    def described(self) -> str:
        """The same as text."""
        return json.dumps(self.config())

    def known(self, name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """A measurement by name: from memory, else from the checkpoint, else made now and kept."""
        return self.cells.known(name, compute)
