"""What a figure of the paper is here, and how much work its points are worth."""

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

__all__ = ["FULL", "QUICK", "Figure", "Scale", "Work"]


@dataclass(frozen=True)
class Scale:
    """How large the figures' problem is, and how dense their points.

    Attributes
    ----------
    dim, bins : int
        Coordinates, and distinct curvatures that the spectrum is quantized to (`dim` for none).
    octaves : int
        Batch sizes of closed forms: 1, 2, 4, ..., 2**octaves.
    powers : tuple of float
        Of the preconditioner.
    schedule_batch_sizes : tuple of float
    pieces : int
    adam_batch_sizes : tuple of int
        At which true Adam is tuned by simulation.
    simulated_batch_sizes : tuple of float
        At which SGD and momentum are simulated with their best rate.
    replicates, trajectories : int
        Of simulations; see `mcnqm.tune` and `mcnqm.simulate`.
    target : float
        Risk to reach.
    """

    dim: int = 1000
    bins: int = 100
    octaves: int = 20
    powers: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    schedule_batch_sizes: tuple[float, ...] = tuple(4.0**k for k in range(10))
    pieces: int = 50
    adam_batch_sizes: tuple[int, ...] = tuple(4**k for k in range(9))
    simulated_batch_sizes: tuple[float, ...] = (64.0, 1024.0, 16384.0, 2.0**18)
    replicates: int = 16
    trajectories: int = 4096
    target: float = 0.01


QUICK = Scale()
"""All figures within three minutes on two cores."""

FULL = Scale(
    dim=10_000,
    bins=10_000,
    schedule_batch_sizes=tuple(2.0**k for k in range(19)),
    adam_batch_sizes=tuple(2**k for k in range(4, 17)),
)
"""At the paper's size: 10 000 coordinates. Adam from B = 16 on."""


@dataclass(frozen=True)
class Work:
    """Where figures are computed; what several of them show is computed once.

    Attributes
    ----------
    scale : Scale
    seed : int
        Of all simulations.
    executor, threads
        As for `mcnqm.simulate`.
    cells : Cells
        Finished parts.
    """

    scale: Scale = QUICK
    seed: int = 0
    executor: Executor | None = None
    threads: int | None = None
    cells: Cells = field(default_factory=Cells, repr=False, compare=False)

    def __post_init__(self) -> None:
        integer("seed", self.seed, 0, 2**63 - 1)

    @cached_property
    def problem(self) -> NoisyQuadratic:
        """The paper's, h = c = 1/i and θ(0) ~ N(0, I)."""
        full = NoisyQuadratic.power_law(self.scale.dim)
        return full if self.scale.bins >= self.scale.dim else full.binned(self.scale.bins)

    @property
    def running(self) -> dict[str, Any]:
        """What every simulation is told."""
        return {"seed": self.seed, "executor": self.executor, "threads": self.threads}

    def config(self) -> dict[str, Any]:
        """What decides the numbers, in plain types."""
        return {
            "scale": json.loads(json.dumps(asdict(self.scale))),
            "seed": self.seed,
            "mcnqm_version": __version__,
            "sources": source_fingerprint(),
        }


@dataclass(frozen=True)
class Figure:
    """A figure of the paper.

    Attributes
    ----------
    number : str
        Such as "3a".
    caption : str
        What the paper says it shows.
    settings : str
        What it is drawn with here, and which of it the text of the paper does not give.
    compute : callable
        `Work` to the figure's data.
    cost : float
        About how many seconds of one core the quick version takes, if nothing is shared; weighs the progress bar.
    """

    number: str
    caption: str
    settings: str
    compute: Callable[[Work], xr.Dataset]
    cost: float = 1.0

    def data(self, work: Work) -> xr.Dataset:
        """The figure's numbers, with its number, caption, settings and configuration as attributes.

        Examples
        --------
        >>> from mcnqm.studies.paper import FIGURES, Work
        >>> FIGURES["9"].data(Work()).attrs["figure"]
        '9'
        """
        made = work.cells.known(f"figure-{self.number}", lambda: self.compute(work))
        return made.assign_attrs(
            figure=self.number,
            caption=self.caption,
            settings=self.settings,
            dim=work.scale.dim,
            target=work.scale.target,
            seed=str(work.seed),
            mcnqm_version=__version__,
            config=json.dumps(work.config()),
        )
