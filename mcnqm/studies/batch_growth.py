r"""Decaying the learning rate against growing the batch, at equal examples.

For SGD only α / B enters while steps are small (Smith et al. 2018), so halving α and doubling B are the same. For Adam
it is α / √B, so halving α is the same as multiplying B by 4, if its memory is kept in examples: B → κB with
1 - β → κ(1 - β) for both (Malladi et al. 2022). Every run goes through stages of equally many examples; from stage to
stage the rate falls by a factor, or the batch grows by what the optimizer's own rule, or the other's, makes of that
factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.domains import integer, positive
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, Adam
from mcnqm.problems import NoisyQuadratic
from mcnqm.progress import Meter
from mcnqm.provenance import recorded
from mcnqm.schedules import piecewise
from mcnqm.simulation import simulate
from mcnqm.studies.cells import check_counts, finished

__all__ = ["WAYS", "BatchGrowthConfig", "run"]

Array = NDArray[np.float64]

WAYS = ("rate decay", "batch growth, own rule", "batch growth, other rule")
"""What changes from stage to stage. A rule is the power of B by which the rate scales: 1 for SGD, 1/2 for Adam."""


def _default() -> dict[str, Any]:
    return {"sgd": SGD(lr=0.25), "momentum": SGD(lr=0.025, momentum=0.9), "adam": Adam(lr=8e-3)}


@dataclass(frozen=True)
class BatchGrowthConfig:
    """Everything that decides the study's numbers.

    Attributes
    ----------
    problem : NoisyQuadratic
    optimizers : dict of str to optimizer
        With the rate of the first stage.
    batch_size : int
        Of the first stage.
    factor : int
        By which the rate falls from stage to stage, at least 2.
    stages : int
    examples : int
        Of each stage; a multiple of the largest batch, so that every stage is a whole number of steps.
    trajectories, seed : int
        Of the simulations.
    """

    problem: NoisyQuadratic = field(default_factory=lambda: NoisyQuadratic.power_law(1000))
    optimizers: Mapping[str, Any] = field(default_factory=_default)
    batch_size: int = 16
    factor: int = 2
    stages: int = 4
    examples: int = 2**15
    trajectories: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, batch_size=1, factor=2, stages=2, trajectories=2)
        positive.check("examples", self.examples)
        largest = self.batch_size * self.factor ** (2 * (self.stages - 1))
        if integer("examples", self.examples, 1) % largest:
            raise ParameterError("examples", self.examples, f"be a multiple of the largest batch, {largest}")
        if not self.optimizers:
            raise ParameterError("optimizers", self.optimizers, "not be empty")
        for label, one in self.optimizers.items():
            if not isinstance(one, (SGD, Adam)) or not isinstance(one.lr, float):
                raise ParameterError(f"optimizers[{label!r}]", one, "be a mcnqm.SGD or Adam with one rate")


@recorded("mcnqm.studies.batch_growth.run", BatchGrowthConfig)
def run(
    config: BatchGrowthConfig | None = None,
    *,
    executor: Executor | None = None,
    threads: int | None = None,
    meter: Meter | None = None,
) -> xr.Dataset:
    """Carry out the study.

    Parameters
    ----------
    config : BatchGrowthConfig, optional
    executor, threads
        As for `mcnqm.simulate`.
    meter : Meter, optional
        Told of runs done.

    Returns
    -------
    xarray.Dataset
        Over ``optimizer``, ``way`` (see `WAYS`) and ``examples``: ``risk`` and ``risk_stderr``, simulated,
        ``theory`` (exact for SGD, mean field for Adam) and ``step``, the steps done by then.

    Raises
    ------
    ParameterError
        If the configuration is not allowed.

    Examples
    --------
    >>> from mcnqm import NoisyQuadratic
    >>> few = {"batch_size": 1, "stages": 3, "examples": 2**14, "trajectories": 8}
    >>> study = run(BatchGrowthConfig(NoisyQuadratic.power_law(50), {"adam": Adam(lr=2e-3)}, **few))
    >>> end = study.theory.isel(examples=-1).sel(optimizer="adam")
    >>> apart = abs(np.log(end / end.sel(way="rate decay")))
    >>> bool(apart.sel(way="batch growth, own rule") < 0.3 * apart.sel(way="batch growth, other rule"))
    True
    """
    config = BatchGrowthConfig() if config is None else config
    per_stage = 8
    marks = np.linspace(0, config.stages * config.examples, per_stage * config.stages + 1).round().astype(np.int64)
    parts = {
        (label, way): partial(_run, config, optimizer, way, marks, executor, threads)
        for label, optimizer in config.optimizers.items()
        for way in WAYS
    }
    runs = finished(parts, "batch growth", meter=meter)
    rows = [xr.concat([runs[label, way] for way in WAYS], dim="way") for label in config.optimizers]
    study: xr.Dataset = xr.concat(rows, dim="optimizer").assign_coords(
        optimizer=list(config.optimizers), way=list(WAYS), examples=("examples", marks, {"units": "examples"})
    )
    study.attrs = {
        "dim": config.problem.dim,
        "batch_size": config.batch_size,
        "factor": config.factor,
        "trajectories": config.trajectories,
        "seed": str(config.seed),
    }
    return study


def _run(
    config: BatchGrowthConfig,
    optimizer: Any,
    way: str,
    marks: NDArray[np.int64],
    executor: Executor | None,
    threads: int | None,
) -> xr.Dataset:
    stage = np.arange(config.stages)
    linear = isinstance(optimizer, SGD)
    growth = config.factor if linear == (way == WAYS[1]) else config.factor**2
    batches = config.batch_size * (np.ones_like(stage) if way == WAYS[0] else growth**stage)
    lengths = config.examples // batches
    rates = optimizer.lr * (config.factor ** (-stage.astype(np.float64)) if way == WAYS[0] else np.ones(stage.size))
    changes: dict[str, Any] = {"lr": piecewise(rates, lengths)}
    if isinstance(optimizer, Adam) and way != WAYS[0]:
        for name in ("beta1", "beta2"):  # memory in examples, as far as there is any
            kept = np.maximum(1.0 - (1.0 - getattr(optimizer, name)) * batches / config.batch_size, 0.0)
            changes[name] = piecewise(kept, lengths)
    scheduled = optimizer._replace(**changes)
    batch_size = piecewise(batches.astype(np.float64), lengths)
    # Steps done after so many examples.
    ends = np.concatenate([[0], np.cumsum(lengths)])
    steps = np.floor(np.interp(marks, config.examples * np.arange(config.stages + 1), ends)).astype(np.int64)
    record, where = np.unique(steps, return_inverse=True)
    setting = (config.problem, scheduled, batch_size, int(steps[-1]))
    runs = simulate(
        *setting,
        record=record,
        trajectories=config.trajectories,
        seed=config.seed,
        executor=executor,
        threads=threads,
    )
    exact = analytic.risk if linear else analytic.mean_field.risk
    theory = exact(*setting, record=record)["risk"]
    return xr.Dataset(
        {
            "risk": ("examples", runs["risk"].values[where], {"units": "loss"}),
            "risk_stderr": ("examples", runs["risk_stderr"].values[where], {"units": "loss"}),
            "theory": ("examples", theory.values[where], {"units": "loss"}),
            "step": ("examples", steps, {"units": "steps"}),
        }
    )
