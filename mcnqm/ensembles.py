"""What is left of a run: losses, kept or reduced as they come, first passages, and the state along paths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.engine import (
    RECORDS,
    Job,
    Losses,
    Pool,
    portions,
    run_effective_lr,
    run_gradients,
    run_loss,
    run_passages,
    state_names,
)
from mcnqm.flags import Flag, flag_attrs
from mcnqm.progress import Meter
from mcnqm.reductions import Histogram, Moments, QuantileSketch, Reduction
from mcnqm.statistics import effective_number, mean_and_stderr, mean_interval

__all__ = ["DIVERGED_AT", "UNITS", "Kept", "Reduced", "Variable", "run_ensemble", "states_along"]

_EFFECTIVE, _ROUGH = 2.5, 0.1
"""Fewer effective trajectories than this are few, where the relative standard error of the risk is above the second."""

DIVERGED_AT = 1e20
"""A lane has diverged once its loss exceeds this many times the natural scale of the problem."""


UNITS = {"theta": "parameter", "gradient": "loss / parameter", "effective_lr": "parameter² / loss"}

Variable = tuple[tuple[str, ...], NDArray[Any], dict[str, Any]]
"""Dimensions after those of the sweep, values with all settings on the first axis, attributes."""


class Kept:
    """All losses of a run, and what is estimated from them."""

    def __init__(self) -> None:
        self._parts: list[Losses] = []
        self._diverged: list[NDArray[np.bool_]] = []

    def add(self, losses: Losses, diverged: NDArray[np.bool_]) -> None:
        """Keep these too."""
        self._parts.append(losses)
        self._diverged.append(diverged[..., -1])

    def variables(self) -> dict[str, Variable]:
        """Of a result."""
        losses = self._parts[0] if len(self._parts) == 1 else self._parts[0].beside(self._parts[1:])
        loss, sample = losses.loss, losses.sample
        risk, stderr = mean_and_stderr(sample, axis=1)
        interval = np.stack(mean_interval(sample, axis=1), axis=-1)
        variables: dict[str, Variable] = {
            "loss": (("trajectory", "step"), loss, {"units": "loss", "long_name": "L(θ)"}),
            **_estimates(risk, stderr, interval, effective_number(sample, axis=1)),
            "diverged": (("trajectory",), np.concatenate(self._diverged, axis=1), {}),
        }
        if losses.twin is not None:
            plain = mean_and_stderr(loss, axis=1)[1]
            with np.errstate(divide="ignore", invalid="ignore"):
                # At the start the twin explains everything, and only rounding is left.
                reduction = np.where(stderr > 1e-12 * risk, (plain / stderr) ** 2, np.inf)
            variables["variance_reduction"] = (("step",), reduction, {})
        return variables


class Reduced:
    """What is left of losses that are not kept."""

    def __init__(self, reduction: Reduction) -> None:
        self._levels = reduction.levels
        self._moments = Moments()
        self._sketch = None if reduction.levels is None else QuantileSketch()
        self._histogram = None if reduction.edges is None else Histogram(reduction.edges)

    def add(self, losses: Losses, diverged: NDArray[np.bool_]) -> None:
        """Count these too."""
        for part in (self._moments, self._sketch, self._histogram):
            if part is not None:
                part.add(losses.loss)

    def variables(self) -> dict[str, Variable]:
        """Of a result."""
        risk, stderr = self._moments.mean_and_stderr()
        interval = np.stack(self._moments.interval(), axis=-1)
        variables = _estimates(risk, stderr, interval, self._moments.effective_number())
        variables["diverged_count"] = (("step",), self._moments.infinite, {})
        if self._sketch is not None and self._levels is not None:
            variables["loss_quantile"] = (("quantile", "step"), self._sketch.quantiles(self._levels), {"units": "loss"})
        if self._histogram is not None:
            variables["loss_histogram"] = (("bin", "step"), self._histogram.counts, {"units": "trajectories"})
        return variables


def _estimates(
    risk: NDArray[np.float64], stderr: NDArray[np.float64], interval: NDArray[np.float64], number: NDArray[np.float64]
) -> dict[str, Variable]:
    """The risk with its errors, and where few of the trajectories carry the spread of all."""
    with np.errstate(invalid="ignore"):
        few = (number < _EFFECTIVE) & (stderr > _ROUGH * risk)
    return {
        "risk": (("step",), risk, {"units": "loss", "long_name": "E L(θ)"}),
        "risk_stderr": (("step",), stderr, {"units": "loss"}),
        "risk_interval": (("step", "bound"), interval, {"units": "loss"}),
        "flags": (("step",), np.where(few, np.int32(Flag.FEW_EFFECTIVE_TRAJECTORIES), np.int32(0)), flag_attrs()),
    }


def run_ensemble(
    job: Job,
    record: NDArray[np.int64],
    last: int,
    targets: NDArray[np.float64] | None,
    reduction: Reduction | None,
    pool: Pool,
    meter: Meter,
) -> tuple[Kept | Reduced, NDArray[np.float64] | None]:
    """Losses, kept or reduced, and first passages, shape (settings, targets, trajectories)."""
    scale = job.problem.loss_scale
    found: Kept | Reduced = Kept() if reduction is None else Reduced(reduction)
    passages = None if targets is None else np.empty((job.settings.size, targets.size, job.trajectories.size))
    whole = [(slice(None), job)]
    stays = targets is not None or record.size > RECORDS
    parts = whole if targets is None and reduction is None else portions(job, record.size, stays=stays)
    for where, part in parts:
        if targets is None or passages is None:
            losses = run_loss(part, record, pool, meter)
        else:
            losses, passages[..., where] = run_passages(part, record, last, targets, pool, meter)
        with np.errstate(invalid="ignore"):
            diverged = np.logical_or.accumulate(~(losses.loss <= DIVERGED_AT * scale), axis=-1)
        losses.loss[diverged] = np.inf
        if passages is not None:
            lost = np.where(diverged[..., -1], record[diverged.argmax(axis=-1)], np.inf)
            passages[..., where][passages[..., where] >= lost[:, np.newaxis]] = np.inf
        found.add(losses, diverged)
    return found, passages


def states_along(
    job: Job,
    record: NDArray[np.int64],
    coordinates: NDArray[np.int64],
    paths: NDArray[np.float64],
    names: tuple[str, ...],
    pool: Pool,
) -> dict[str, NDArray[np.float64]]:
    """States along paths, gradients and effective rates, each (settings, trajectories, records, coordinates)."""
    there = state_names(job)
    gradient = run_gradients(job, record, coordinates, paths[..., 0], pool)
    rates = run_effective_lr(job, record, gradient, paths[..., 1:], pool)
    along = {f"state_{name}": paths[..., 1 + there.index(name)] for name in names}
    return {**along, "gradient": gradient, **({} if rates is None else {"effective_lr": rates})}
