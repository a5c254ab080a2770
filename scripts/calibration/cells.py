"""What is measured: some sixty questions that users ask, each at the defaults that they get."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

import mcnqm
from calibration import truth
from calibration.reading import default_of, flags_of, read, read_fit
from calibration.scores import Estimate, Truth
from mcnqm.fits import log_slope, small_batch_regime, tradeoff
from mcnqm.studies import scaling
from mcnqm.studies.contenders import CONTENDERS

__all__ = ["CELLS", "Cell", "seed_of"]

_SHARED = {"threads": 1}


class Cell(Protocol):
    """A question whose right answer is known, and how it is asked with a seed."""

    @property
    def group(self) -> str:
        """Cells of a group are judged together."""

    @property
    def label(self) -> str:
        """The question in a few words, unique."""

    @property
    def dim(self) -> int:
        """Coordinates of the problem."""

    def truths(self) -> dict[str, Truth]:
        """Right answers, by quantity."""

    def measure(self, seed: int, truths: Mapping[str, Truth]) -> list[Estimate]:
        """Answers of `mcnqm` with a seed."""


def seed_of(cell: Cell, k: int) -> int:
    """The k-th seed of a cell: cells share none, so that what is pooled over them is independent."""
    return zlib.crc32(f"{cell.group}/{cell.label}".encode()) * 2**20 + k


def _name(optimizer: Any, *tuned: str) -> str:
    """Such as ``SGD(lr=0.1, momentum=0.9)``: what differs from the defaults, and is not tuned."""
    defaults = type(optimizer)._field_defaults
    parts = []
    for name, value in optimizer._asdict().items():
        if name in tuned:
            parts.append(name)
        elif name not in defaults or value != defaults[name]:
            parts.append(f"{name}={value:g}" if not isinstance(value, bool) else f"{name}={value}")
    return f"{type(optimizer).__name__}({', '.join(parts)})"


def _family(optimizer: Any) -> str:
    return "linear" if truth.is_linear(optimizer) else "adaptive"


@dataclass(frozen=True)
class RiskCell:
    """`simulate`: the risk at recorded steps, early, midway and late."""

    optimizer: Any
    dim: int
    batch_size: int
    record: tuple[int, ...]

    @property
    def group(self) -> str:
        """See `Cell`."""
        return f"simulate, {_family(self.optimizer)}"

    @property
    def label(self) -> str:
        """See `Cell`."""
        return f"{_name(self.optimizer)} d={self.dim} B={self.batch_size}"

    def truths(self) -> dict[str, Truth]:
        """See `Cell`."""
        right = truth.risk_at(_problem(self.dim), self.optimizer, self.batch_size, self.record)
        return {f"risk at {t}": value for t, value in zip(self.record, right, strict=True)}

    def measure(self, seed: int, truths: Mapping[str, Truth]) -> list[Estimate]:
        """See `Cell`."""
        runs = mcnqm.simulate(
            _problem(self.dim), self.optimizer, self.batch_size, self.record[-1], record=list(self.record), seed=seed,
            **_SHARED,
        )  # fmt: skip
        freedom = default_of(mcnqm.simulate, "trajectories") - 1
        return [
            read(runs.sel(step=t), "risk", quantity=f"risk at {t}", kind="risk", freedom=freedom) for t in self.record
        ]


@dataclass(frozen=True)
class StepsCell:
    """`steps_to_target` at given hyperparameters."""

    optimizer: Any
    dim: int
    batch_size: int
    target: float

    @property
    def group(self) -> str:
        """See `Cell`."""
        return f"steps, {_family(self.optimizer)}"

    @property
    def label(self) -> str:
        """See `Cell`."""
        return f"{_name(self.optimizer)} d={self.dim} B={self.batch_size} target={self.target:g}"

    def truths(self) -> dict[str, Truth]:
        """See `Cell`."""
        return {"steps": truth.steps_at(_problem(self.dim), self.optimizer, self.batch_size, self.target)}

    def measure(self, seed: int, truths: Mapping[str, Truth]) -> list[Estimate]:
        """See `Cell`."""
        found = mcnqm.steps_to_target(
            _problem(self.dim), self.optimizer, self.batch_size, self.target, seed=seed, **_SHARED
        )
        freedom = default_of(mcnqm.steps_to_target, "replicates") - 1
        return [read(found, "steps", quantity="steps", kind="steps", freedom=freedom, whole=True)]


@dataclass(frozen=True)
class TuneCell:
    """`tune`: the best learning rate and its steps."""

    optimizer: Any
    dim: int
    batch_size: int
    target: float
    bounds: tuple[float, float]

    @property
    def group(self) -> str:
        """See `Cell`."""
        return f"tune, {_family(self.optimizer)}"

    @property
    def label(self) -> str:
        """See `Cell`."""
        return f"{_name(self.optimizer, 'lr')} d={self.dim} B={self.batch_size} target={self.target:g}"

    def truths(self) -> dict[str, Truth]:
        """See `Cell`."""
        steps, rate = truth.best_rate(_problem(self.dim), self.optimizer, self.batch_size, self.target, self.bounds)
        return {"steps": steps, "lr": rate}

    def measure(self, seed: int, truths: Mapping[str, Truth]) -> list[Estimate]:
        """See `Cell`."""
        found = mcnqm.tune(
            _problem(self.dim), self.optimizer, {"lr": self.bounds}, batch_size=self.batch_size, target=self.target,
            seed=seed, **_SHARED,
        )  # fmt: skip
        freedom = default_of(mcnqm.tune, "replicates") - 1
        return [
            read(found, "steps", quantity="steps", kind="steps", freedom=freedom, whole=True),
            read(found, "lr", quantity="lr", kind="rate", freedom=freedom),
        ]


@dataclass(frozen=True)
class JointCell:
    """`tune` of two hyperparameters: the steps that it reports, against those at the hyperparameters that it found.

    How far they are from the fewest is shown too, and not judged: no search promises the best of several basins.
    """

    optimizer: Any
    dim: int
    batch_size: int
    target: float
    search: tuple[tuple[str, float, float], ...]

    @property
    def group(self) -> str:
        """See `Cell`."""
        return f"tune two, {_family(self.optimizer)}"

    @property
    def label(self) -> str:
        """See `Cell`."""
        names = [name for name, _, _ in self.search]
        return f"{_name(self.optimizer, *names)} d={self.dim} B={self.batch_size} target={self.target:g}"

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """The search."""
        return {name: (low, high) for name, low, high in self.search}

    def truths(self) -> dict[str, Truth]:
        """See `Cell`."""
        best = truth.best_of_several(_problem(self.dim), self.optimizer, self.batch_size, self.target, self.bounds)
        return {"fewest steps": best}

    def measure(self, seed: int, truths: Mapping[str, Truth]) -> list[Estimate]:
        """See `Cell`."""
        problem = _problem(self.dim)
        found = mcnqm.tune(
            problem, self.optimizer, self.bounds, batch_size=self.batch_size, target=self.target, seed=seed, **_SHARED
        )
        freedom = default_of(mcnqm.tune, "replicates") - 1
        values = {name: float(found[name]) for name in self.bounds}
        if not all(map(math.isfinite, values.values())):
            there = truths["fewest steps"]  # it says that nothing reaches the target; this does
        elif truth.is_linear(self.optimizer):
            there = truth.steps_at(problem, self.optimizer._replace(**values), self.batch_size, self.target)
        else:
            # Far enough to tell a place that is late from one that never arrives, within a factor of two.
            horizon = 2 * math.ceil(max(truths["fewest steps"].value, _finite(float(found["steps"])))) + 32
            there = truth.plain_steps(
                problem, self.optimizer._replace(**values), self.batch_size, self.target, horizon, 2048, stream=8
            )
        at_place = read(found, "steps", quantity="steps there", kind="steps", freedom=freedom, whole=True, truth=there)
        best = read(found, "steps", quantity="fewest steps", kind="search", freedom=freedom, whole=True)
        return [at_place, best]


@dataclass(frozen=True)
class ScalingCell:
    """The scaling study of one optimizer: steps and rates at every batch size, slope, and limits of the trade-off.

    The right slope and limits are those of the same fits, with the same weights, to the right steps and rates.
    """

    contender: str
    dim: int
    batch_sizes: tuple[int, ...]
    target: float

    @property
    def group(self) -> str:
        """See `Cell`."""
        return f"scaling, {_family(CONTENDERS[self.contender].optimizer)}"

    @property
    def label(self) -> str:
        """See `Cell`."""
        sizes = f"B={self.batch_sizes[0]}..{self.batch_sizes[-1]}"
        return f"{self.contender} d={self.dim} {sizes} target={self.target:g}"

    def truths(self) -> dict[str, Truth]:
        """See `Cell`."""
        found = {}
        contender = CONTENDERS[self.contender]
        for b in self.batch_sizes:
            steps, rate = truth.best_rate(_problem(self.dim), contender.at(b), b, self.target, contender.search["lr"])
            found |= {f"steps at B={b}": steps, f"lr at B={b}": rate}
        return found

    def measure(self, seed: int, truths: Mapping[str, Truth]) -> list[Estimate]:
        """See `Cell`."""
        contenders = {self.contender: CONTENDERS[self.contender]}
        config = scaling.ScalingConfig(_problem(self.dim), contenders, self.batch_sizes, self.target, seed=seed)
        study = scaling.run(config, **_SHARED).isel(optimizer=0)
        found: list[Estimate] = []
        freedom = config.replicates - 1
        for b in self.batch_sizes:
            there = study.sel(batch_size=b)
            found += [
                read(
                    there, "steps", quantity=f"steps at B={b}", line="steps", kind="steps", freedom=freedom, whole=True
                ),
                read(there, "lr", quantity=f"lr at B={b}", line="lr", kind="rate", freedom=freedom),
            ]
        batch = np.array(self.batch_sizes, dtype=float)
        right = [np.array([truths[f"{name} at B={b}"].value for b in self.batch_sizes]) for name in ("steps", "lr")]
        error = [np.array([truths[f"{name} at B={b}"].stderr for b in self.batch_sizes]) for name in ("steps", "lr")]
        inside = study["in_regime"].values.astype(bool) & ~study["at_edge"].values.astype(bool)
        flags = [flags_of(study.isel(batch_size=k)) for k in range(batch.size)]

        def flagged(which: Any) -> int:
            return int(np.bitwise_or.reduce(np.array(flags)[which])) if np.any(which) else 0

        if math.isfinite(float(study["slope"])):
            # Weights of the study, values of the truth: what differs then is the sample, not the model.
            weights = study["lr_stderr"].values / study["lr"].values
        else:
            weights, inside = np.full(batch.size, 0.01), small_batch_regime(batch, right[0], 0.01 * right[0])

        def slope_of(rates: Any) -> float:
            return log_slope(batch, rates, weights * rates, inside).slope

        slope = slope_of(right[1])
        moved = [slope_of(right[1] + step) - slope for step in np.diag(error[1]) if step.any()]
        known = Truth(slope, math.hypot(*moved))
        found.append(read_fit(study, "slope", kind="slope", logarithmic=False, flags=flagged(inside), truth=known))
        if math.isfinite(float(study["B_crit"])):
            relative = study["steps_stderr"].values / study["steps"].values
            bend = tradeoff(batch, right[0], np.where(np.isfinite(relative), relative * right[0], np.nan))
            for name in ("S_min", "B_crit"):
                known = Truth(getattr(bend, name))
                found.append(
                    read_fit(study, name, kind="trade-off", logarithmic=True, flags=flagged(slice(None)), truth=known)
                )
        # Of what the fit to the right answers leaves open there is no truth.
        return [e for e in found if e.truth is None or not math.isnan(e.truth.value)]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


@cache
def _problem(dim: int) -> mcnqm.NoisyQuadratic:
    return mcnqm.NoisyQuadratic.power_law(dim)


def _sgd(lr: float, momentum: float = 0.0, nesterov: bool = False) -> mcnqm.SGD:
    return mcnqm.SGD(lr=lr, momentum=momentum, nesterov=nesterov)


_TUNED_BETAS = {"beta1": 0.9062, "beta2": 0.9685}
_SGD_RATES = (1e-2, 2.0)
_ADAPTIVE_RATES = (1e-3, 0.3)

_RISK = [
    RiskCell(_sgd(0.08), 20, 1, (5, 50, 400)),
    RiskCell(_sgd(0.4), 100, 16, (5, 60, 300)),
    RiskCell(_sgd(1.8), 100, 4096, (5, 15, 50)),
    RiskCell(_sgd(0.07), 1000, 16, (30, 300, 3000)),
    RiskCell(_sgd(0.048, 0.9), 100, 16, (10, 60, 260)),
    RiskCell(_sgd(0.02, 0.98), 100, 256, (10, 60, 250)),
    RiskCell(_sgd(0.02, 0.99), 100, 1024, (20, 100, 300)),
    RiskCell(_sgd(3.0, 0.9), 1000, 65536, (4, 12, 36)),
    RiskCell(_sgd(0.15, 0.9, True), 100, 64, (4, 20, 80)),
    RiskCell(_sgd(0.002, 0.98, True), 20, 1, (20, 100, 500)),
    RiskCell(mcnqm.Adam(lr=4e-3), 100, 1, (100, 600, 3000)),
    RiskCell(mcnqm.Adam(lr=8e-3), 100, 16, (20, 60, 250)),
    RiskCell(mcnqm.Adam(lr=0.005657, **_TUNED_BETAS), 100, 1024, (50, 200, 500)),
    RiskCell(mcnqm.Adam(lr=0.06), 100, 4096, (10, 50, 200)),
    RiskCell(mcnqm.Adam(lr=0.1), 20, 65536, (5, 15, 40)),
    RiskCell(mcnqm.Adam(lr=0.03, beta2=0.9), 100, 64, (10, 50, 200)),
    RiskCell(mcnqm.Adam(lr=2e-3), 1000, 4, (100, 600, 3000)),
    RiskCell(mcnqm.RMSProp(lr=0.02), 100, 16, (5, 40, 200)),
    RiskCell(mcnqm.RMSProp(lr=0.02), 1000, 1024, (10, 40, 150)),
    RiskCell(mcnqm.Lion(lr=0.01), 100, 64, (20, 80, 300)),
]

_STEPS = [
    StepsCell(_sgd(0.02, 0.99), 100, 1024, 0.05),
    StepsCell(_sgd(0.42), 100, 16, 0.05),
    StepsCell(_sgd(0.1), 20, 1, 0.2),
    StepsCell(_sgd(0.02), 100, 4, 0.02),
    StepsCell(_sgd(1.76), 100, 512, 0.05),
    StepsCell(_sgd(1.8), 1000, 1024, 0.05),
    StepsCell(_sgd(0.08, 0.9), 100, 64, 0.02),
    StepsCell(_sgd(0.02, 0.98), 100, 256, 0.02),
    StepsCell(_sgd(0.05, 0.98), 20, 65536, 0.01),
    StepsCell(_sgd(0.3, 0.9, True), 100, 256, 0.05),
    StepsCell(_sgd(1.7, 0.9), 1000, 1024, 0.05),
    StepsCell(mcnqm.Adam(lr=9e-3), 100, 4, 0.05),
    StepsCell(mcnqm.Adam(lr=0.03), 100, 1024, 0.02),
    StepsCell(mcnqm.Adam(lr=0.1), 100, 65536, 0.05),
    StepsCell(mcnqm.Adam(lr=0.03), 20, 1, 0.1),
    StepsCell(mcnqm.Adam(lr=0.005657, **_TUNED_BETAS), 100, 1024, 0.01),
    StepsCell(mcnqm.Adam(lr=0.02), 1000, 64, 0.05),
    StepsCell(mcnqm.RMSProp(lr=0.02), 100, 64, 0.05),
    StepsCell(mcnqm.Lion(lr=0.01), 100, 16, 0.1),
    StepsCell(mcnqm.Lion(lr=0.02), 100, 1024, 0.05),
]

_TUNE = [
    TuneCell(_sgd(1.0), 20, 1, 0.2, _SGD_RATES),
    TuneCell(_sgd(1.0), 100, 16, 0.05, _SGD_RATES),
    TuneCell(_sgd(1.0), 100, 64, 0.05, _SGD_RATES),
    TuneCell(_sgd(1.0), 100, 512, 0.05, _SGD_RATES),
    TuneCell(_sgd(1.0), 100, 4096, 0.02, _SGD_RATES),
    TuneCell(_sgd(1.0), 1000, 1024, 0.05, _SGD_RATES),
    TuneCell(_sgd(1.0, 0.9), 100, 512, 0.05, (1e-2, 3.0)),
    TuneCell(_sgd(1.0, 0.9), 100, 16384, 0.05, (1e-2, 3.0)),
    TuneCell(_sgd(1.0, 0.9), 1000, 65536, 0.05, (1e-2, 3.0)),
    TuneCell(_sgd(1.0, 0.98), 20, 64, 0.05, (1e-3, 1.0)),
    TuneCell(_sgd(1.0, 0.99), 100, 10000, 0.05, (1e-3, 1.0)),
    TuneCell(_sgd(1.0, 0.9, True), 100, 64, 0.05, (1e-2, 1.0)),
    TuneCell(mcnqm.Adam(lr=1.0), 100, 4, 0.01, _ADAPTIVE_RATES),
    TuneCell(mcnqm.Adam(lr=1.0), 100, 256, 0.05, _ADAPTIVE_RATES),
    TuneCell(mcnqm.Adam(lr=1.0), 100, 16384, 0.05, _ADAPTIVE_RATES),
    TuneCell(mcnqm.Adam(lr=1.0), 1000, 64, 0.05, _ADAPTIVE_RATES),
    TuneCell(mcnqm.Adam(lr=1.0, **_TUNED_BETAS), 20, 4, 0.05, _ADAPTIVE_RATES),
    TuneCell(mcnqm.RMSProp(lr=1.0), 100, 64, 0.05, _ADAPTIVE_RATES),
    TuneCell(mcnqm.Lion(lr=1.0), 100, 64, 0.05, _ADAPTIVE_RATES),
]

_JOINT = [
    JointCell(_sgd(1.0, 0.9), 100, 32, 0.05, (("lr", 1e-2, 3.0), ("momentum", 0.0, 0.98))),
    JointCell(_sgd(1.0, 0.9), 20, 1024, 0.02, (("lr", 1e-2, 3.0), ("momentum", 0.0, 0.98))),
    JointCell(mcnqm.Adam(lr=1.0), 200, 16, 0.05, (("lr", 1e-3, 0.1), ("beta2", 0.9, 0.9999))),
    JointCell(mcnqm.Adam(lr=1.0), 100, 256, 0.05, (("lr", 1e-3, 0.3), ("beta1", 0.0, 0.98))),
]

_SCALING = [
    ScalingCell("sgd", 100, tuple(2**k for k in range(0, 13, 2)), 0.05),
    ScalingCell("momentum", 100, tuple(2**k for k in range(0, 15, 2)), 0.05),
    ScalingCell("nesterov", 20, tuple(2**k for k in range(10)), 0.02),
    ScalingCell("adam", 100, tuple(2**k for k in range(5)), 0.01),
    ScalingCell("adam", 100, tuple(2**k for k in range(2, 11)), 0.05),
]

CELLS: tuple[Cell, ...] = (*_RISK, *_STEPS, *_TUNE, *_JOINT, *_SCALING)
"""All cells, in the order of the report."""
