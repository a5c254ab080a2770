"""Where claims are measured: the problems, how much work each measurement is worth, and what is already known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mcnqm._version import __version__
from mcnqm.checkpoint import Checkpoint
from mcnqm.domains import integer
from mcnqm.problems import NoisyQuadratic

__all__ = ["FULL", "QUICK", "Budget", "Lab"]


def _sources() -> str:
    """A fingerprint of the package's sources: a folder of finished measurements must not outlive what made them."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


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
    checkpoint : Checkpoint, optional
        Where finished measurements are kept.
    """

    budget: Budget = QUICK
    seed: int = 0
    executor: Executor | None = None
    threads: int | None = None
    checkpoint: Checkpoint | None = None
    _kept: dict[str, xr.Dataset] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(quick: bool, *, seed: int = 0, executor: Executor | None = None, threads: int | None = None) -> Lab:
        """A lab without a checkpoint."""
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
            "sources": _sources(),
        }

    @cached_property
    def described(self) -> str:
        """The same as text."""
        return json.dumps(self.config())

    def known(self, name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """A measurement by name: from memory, else from the checkpoint, else made now and kept."""
        if name not in self._kept:
            found = None if self.checkpoint is None else self.checkpoint.find(name)
            if found is None:
                made = compute()
                if self.checkpoint is not None:
                    self.checkpoint.keep(name, made.to_dict())
            else:
                made = _read_back(found)
            self._kept[name] = made
        return self._kept[name]


def _read_back(kept: dict[str, Any]) -> xr.Dataset:
    """A Dataset from plain types; lists know the shape of an array unless it is empty."""
    for variable in (*kept["data_vars"].values(), *kept["coords"].values()):
        shape = [kept["dims"][name] for name in variable["dims"]]
        if 0 in shape:
            variable["data"] = np.empty(shape)
    return xr.Dataset.from_dict(kept)
