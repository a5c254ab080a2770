r"""Which of two minima is found and held, and what decides it: the ratio α/B, or the rate as well.

Small steps follow a stochastic differential equation in which only α/B enters (Jastrzębski et al. 2018), so that its
stationary law weighs a sharp and a wide well by :math:`\sqrt{h_s/h_w}\, e^{-\Delta/T}`, :math:`T = \alpha c/(2B)`. Here
that is held against the Markov chain that SGD is, and against simulation of SGD, momentum and Adam: occupancy against
α/B, against α at a fixed ratio, and against the noise; escape times; a rate that decays against a batch that grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.analytic import chain
from mcnqm.checkpoint import Checkpoint
from mcnqm.domains import positive
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, Adam
from mcnqm.problems import DoubleWell
from mcnqm.progress import Meter
from mcnqm.provenance import recorded
from mcnqm.schedules import piecewise
from mcnqm.simulation import simulate
from mcnqm.studies.cells import Numbers, check_counts, finished, increasing

__all__ = ["ANNEALINGS", "OPTIMIZERS", "MinimaConfig", "cells_of", "quick", "run"]

Array = NDArray[np.float64]

OPTIMIZERS = ("sgd", "momentum", "adam")
ANNEALINGS = ("rate decay", "batch growth")

_BASE = 12.0
"""Per-example variance to which ratios refer."""

_FINE = 100
"""Batch sizes are those of examples a hundred times as noisy, so that none is below 1."""


@dataclass(frozen=True)
class MinimaConfig(Numbers):
    """Everything that decides the study's numbers.

    Attributes
    ----------
    sharp, wide, separation, offset : float
        Of the wells (`mcnqm.DoubleWell`), in their units; per-example variance 12.
    ratios : tuple of float
        α/B at which to look, in parameter²/loss per example.
    rates : tuple of float
        Rates at the fixed ratio; also those at which every ratio is looked at.
    ratio : float
        The fixed ratio α/B.
    momentum : float
        β; its rate is (1 - β) α.
    steps : int
        Of a simulated run, per coordinate; momentum and Adam begin in both wells.
    dim : int
        Coordinates of a simulated problem, all alike.
    trajectories, seed : int
    """

    sharp: float = 8.0
    wide: float = 1.0
    separation: float = 1.5
    offset: float = 0.05
    ratios: tuple[float, ...] = (0.00625, 0.0125, 0.025, 0.05, 0.1)
    rates: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.15)
    ratio: float = 0.025
    momentum: float = 0.9
    steps: int = 20_000
    dim: int = 64
    trajectories: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        increasing("ratios", self.ratios, positive)
        increasing("rates", self.rates, positive)
        positive.check("ratio", self.ratio)
        if not 0.0 < self.momentum < 1.0:
            raise ParameterError("momentum", self.momentum, "be in (0, 1)")
        check_counts(self, steps=16, dim=1, trajectories=2)
        self.wells("sharp")

    def wells(self, start: str, noise: float = _BASE, dim: int = 1) -> DoubleWell:
        """The problem; batch sizes are `_FINE` times those of the ratio, and so is the noise."""
        return DoubleWell(self.sharp, self.wide, self.separation, self.offset, _FINE * noise, start, dim)

    def batch_size(self, lr: float, ratio: float) -> float:
        """The batch size at which the ratio is had."""
        return _FINE * lr / ratio


def quick(config: MinimaConfig | None = None) -> MinimaConfig:
    """A smaller study of the same questions: under a minute."""
    config = MinimaConfig() if config is None else config
    return replace(config, ratios=(0.0125, 0.025, 0.05), rates=(0.02, 0.05, 0.1), steps=4000, dim=32, trajectories=8)


def cells_of(config: MinimaConfig) -> list[str]:
    """Names of the parts of the study."""
    return list(_parts(config))


@recorded("mcnqm.studies.minima.run", MinimaConfig)
def run(
    config: MinimaConfig | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    executor: Executor | None = None,
    threads: int | None = None,
    meter: Meter | None = None,
) -> xr.Dataset:
    r"""Carry out the study.

    Parameters
    ----------
    config : MinimaConfig, optional
    checkpoint : Checkpoint, optional
        Where finished parts are kept and found again.
    executor, threads
        As for `mcnqm.simulate`.
    meter : Meter, optional
        Told of parts done.

    Returns
    -------
    xarray.Dataset
        - ``chain`` and ``sde`` (ratio, rate): stationary occupancy of the wide well.
        - ``chain_width`` and ``sde_width`` (ratio, rate): mean curvature of the minimum in whose well it is, in loss /
          parameter².
        - ``simulated`` and ``simulated_stderr`` (optimizer, rate): occupancy at the fixed ratio, in the second half of
          runs that begin half in each well, for SGD, momentum at (1 - β) α, and Adam at the rate that has the same
          effective one where noise dominates, α sqrt(c/B).
        - ``noise_chain`` and ``noise_sde`` (noise, rate): occupancy at the fixed ratio when examples are as noisy as
          ``noise`` times 12.
        - ``escape_steps``, ``escape_sde``, ``escape_kramers`` (ratio, rate): mean steps from the sharp minimum past the
          barrier.
        - ``annealed``, ``annealed_stderr`` (annealing, stage): occupancy of the wide well at the end of each stage of
          equally many examples, as the rate falls by 2 or the batch grows by 2, simulated.

    Raises
    ------
    ParameterError
        If the configuration is not allowed.

    Examples
    --------
    >>> study = run(MinimaConfig(ratios=(0.025,), rates=(0.05, 0.1), steps=400, dim=8, trajectories=4))
    >>> study.chain.round(2).values, study.sde.round(2).values
    (array([[0.75, 0.85]]), array([[0.67, 0.67]]))
    """
    config = MinimaConfig() if config is None else config
    return _assembled(config, finished(_parts(config, executor=executor, threads=threads), "minima", checkpoint, meter))


def _parts(config: MinimaConfig, **workers: Any) -> dict[str, Any]:
    """Parts by name: what computes each."""
    parts = {}
    for lr in config.rates:
        for ratio in config.ratios:
            parts[f"chain-{ratio:g}-{lr:g}"] = partial(_chain, config, lr, ratio, _BASE)
        for factor in _FACTORS:
            parts[f"noise-{factor:g}-{lr:g}"] = partial(_chain, config, lr, config.ratio, factor * _BASE)
        for label in OPTIMIZERS:
            parts[f"simulated-{label}-{lr:g}"] = partial(_simulated, config, label, lr, workers)
    for way in ANNEALINGS:
        parts[f"annealed-{way.replace(' ', '-')}"] = partial(_annealed, config, way, workers)
    return parts


_FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Of the noise, at a fixed ratio."""


def _chain(config: MinimaConfig, lr: float, ratio: float, noise: float) -> dict[str, Any]:
    wells, batch = config.wells("sharp", noise), config.batch_size(lr, ratio)
    settled = chain.stationary(wells, SGD(lr), batch).sel(well="wide")
    escape = chain.escape_steps(wells, SGD(lr), batch)
    return {
        "chain": float(settled.occupancy),
        "sde": float(settled.sde_occupancy),
        "steps": float(escape.steps),
        "sde_steps": float(escape.sde_steps),
        "kramers_steps": float(escape.laplace_steps),
    }


def _optimizer(config: MinimaConfig, label: str, lr: float) -> Any:
    if label == "sgd":
        return SGD(lr)
    if label == "momentum":
        return SGD(lr * (1.0 - config.momentum), momentum=config.momentum)
    # Where noise dominates, v is c/B, and Adam is momentum at the rate of α over its root.
    scale = np.sqrt(_FINE * _BASE / config.batch_size(lr, config.ratio))
    return Adam(float(lr * scale))


def _in_wide(
    config: MinimaConfig, start: str, optimizer: Any, batch_size: Any, record: NDArray[np.int64], workers: Any
) -> xr.DataArray:
    """Where a run is in the wide well, over trajectories, recorded steps and coordinates."""
    wells = config.wells(start, dim=config.dim)
    given = {"record": record, "coordinates": np.arange(config.dim), **workers}
    given |= {"trajectories": config.trajectories, "seed": config.seed}
    found: xr.DataArray = simulate(wells, optimizer, batch_size, int(record[-1]), **given)["theta"] > wells.barrier
    return found


def _simulated(config: MinimaConfig, label: str, lr: float, workers: Any) -> dict[str, float]:
    record = np.linspace(config.steps // 2, config.steps, 9).astype(np.int64)
    run = _optimizer(config, label, lr), config.batch_size(lr, config.ratio), record, workers
    shares = [_in_wide(config, start, *run).mean(("step", "coordinate")).values for start in ("sharp", "wide")]
    # Both starts see the same noise: their mean is one sample.
    sample = np.mean(shares, axis=0)
    return {
        "occupancy": float(sample.mean()),
        "stderr": float(sample.std(ddof=1) / np.sqrt(sample.size)),
        "apart": float(np.mean(shares[1]) - np.mean(shares[0])),
    }


def _wide(config: MinimaConfig, lr: float, batch_size: float) -> Any:
    return chain.stationary(config.wells("sharp"), SGD(lr), batch_size).occupancy.sel(well="wide")


_STAGES = 5


def _annealed(config: MinimaConfig, way: str, workers: Any) -> dict[str, Any]:
    lr, ratio = config.rates[-2], config.ratios[-1]
    stage = np.arange(_STAGES)
    first = config.steps // 4
    if way == ANNEALINGS[0]:
        rates, batches = lr * 0.5**stage, np.full(_STAGES, config.batch_size(lr, ratio))
    else:
        rates, batches = np.full(_STAGES, lr), config.batch_size(lr, ratio) * 2.0**stage
    # Equally many examples in each stage, so fewer steps as batches grow.
    lengths = np.maximum((first * batches[0] / batches).round().astype(np.int64), 1)
    ends = np.cumsum(lengths)
    run = SGD(piecewise(rates, lengths)), piecewise(batches, lengths), ends, workers
    share = _in_wide(config, "sharp", *run).mean("coordinate").transpose("trajectory", "step").values
    return {
        "occupancy": share.mean(axis=0).tolist(),
        "stderr": (share.std(axis=0, ddof=1) / np.sqrt(share.shape[0])).tolist(),
        "chain": float(_wide(config, float(rates[-1]), float(batches[-1]))),
    }


def _assembled(config: MinimaConfig, found: Mapping[str, Mapping[str, Any]]) -> xr.Dataset:
    def table(kind: str, rows: Any, name: str) -> Array:
        return np.array([[found[f"{kind}-{row:g}-{lr:g}"][name] for lr in config.rates] for row in rows])

    wide, share = ("ratio", "rate"), {"units": "1", "long_name": "occupancy of the wide well"}
    steps = {"units": "steps"}
    occupancy = {name: table("chain", config.ratios, name) for name in ("chain", "sde")}
    data: dict[str, Any] = {name: (wide, value, share) for name, value in occupancy.items()}
    for name, value in occupancy.items():
        curvature = value * config.wide + (1.0 - value) * config.sharp
        data[f"{name}_width"] = (wide, curvature, {"units": "loss/parameter²", "long_name": "mean curvature held"})
    for name, source in (("escape_steps", "steps"), ("escape_sde", "sde_steps"), ("escape_kramers", "kramers_steps")):
        data[name] = (wide, table("chain", config.ratios, source), steps)
    for name in ("chain", "sde"):
        data[f"noise_{name}"] = (("noise", "rate"), table("noise", _FACTORS, name), share)
    cells = [[found[f"simulated-{label}-{lr:g}"] for lr in config.rates] for label in OPTIMIZERS]
    for name, source in (("simulated", "occupancy"), ("simulated_stderr", "stderr"), ("simulated_apart", "apart")):
        data[name] = (("optimizer", "rate"), np.array([[cell[source] for cell in row] for row in cells]), share)
    ways = [found[f"annealed-{way.replace(' ', '-')}"] for way in ANNEALINGS]
    for name, source in (("annealed", "occupancy"), ("annealed_stderr", "stderr")):
        data[name] = (("annealing", "stage"), np.array([one[source] for one in ways]), share)
    data["annealed_chain"] = ("annealing", np.array([one["chain"] for one in ways]), share)
    return xr.Dataset(
        data,
        coords={
            "ratio": ("ratio", list(config.ratios), {"units": "parameter²/loss per example", "long_name": "α/B"}),
            "rate": ("rate", list(config.rates), {"units": "parameter²/loss", "long_name": "α"}),
            "noise": ("noise", list(_FACTORS), {"units": str(_BASE), "long_name": "per-example variance"}),
            "optimizer": list(OPTIMIZERS),
            "annealing": list(ANNEALINGS),
            "stage": np.arange(1, _STAGES + 1),
        },
        attrs={
            "fixed_ratio": config.ratio,
            "seed": str(config.seed),
            "method": "chain, sde, simulate",
        },
    )
