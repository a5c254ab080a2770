"""Tuned optimizers against batch size: what many claims are about, measured once."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.claims.curves import Curve, curve
from mcnqm.claims.lab import Lab
from mcnqm.optimizers import SGD, Adam
from mcnqm.problems import NoisyQuadratic
from mcnqm.scheduling.public import optimize_schedule
from mcnqm.studies.tuned_momentum import tune_curve
from mcnqm.tuning.tuner import tune

__all__ = ["RATE_ERROR", "adam", "best_schedules", "freely_tuned", "octaves", "steps_error", "tuned", "tuned_adam"]

RATE_ERROR = 0.006
"""Relative standard error of a best rate in closed form, found on a grid of 1 %: its rounding is uniform."""

_RATES = {"lr": (1e-3, 1.0)}


def octaves(lab: Lab) -> NDArray[np.float64]:
    """Batch sizes 1, 2, 4, ... of closed forms."""
    return np.asarray(2.0 ** np.arange(lab.budget.octaves + 1), dtype=np.float64)


def steps_error(steps: Any) -> NDArray[np.float64]:
    """Relative error of tuned steps in closed form: half a step, and what 1 % in the rate may leave."""
    return np.asarray(1e-3 + 0.5 / np.asarray(steps, dtype=np.float64))


def tuned(
    lab: Lab, *, power: float = 0.0, momentum: float = 0.0, target: float | None = None, correlated: bool = False
) -> xr.Dataset:
    """``steps``, ``lr`` and ``effective_lr`` (batch_size) of SGD with the best rate, in closed form.

    Parameters
    ----------
    lab : Lab
    power, momentum : float
        Preconditioner and momentum.
    target : float, optional
        Risk to reach; by default that of the budget.
    correlated : bool
        A law for controls: examples of a batch are correlated, so that the noise falls as 1/sqrt(B), not as 1/B.
    """
    target = lab.budget.target if target is None else target

    def compute() -> xr.Dataset:
        sizes = octaves(lab)
        seen = np.sqrt(sizes) if correlated else sizes
        optimizer = SGD(lr=1.0, momentum=momentum, precondition=power)
        best = tune(lab.problem, optimizer, _RATES, batch_size=seen, target=target, method="analytic")
        found = best[["steps", "lr"]].assign(effective_lr=best["lr"] / (1.0 - momentum))
        return found.assign_coords(batch_size=sizes).drop_attrs()

    return lab.known(f"tuned-p{power:g}-m{momentum:g}-t{target:g}{'-correlated' if correlated else ''}", compute)


def freely_tuned(lab: Lab, *, power: float = 0.0) -> xr.Dataset:
    """``steps``, ``lr``, ``momentum`` and ``effective_lr`` (batch_size), rate and momentum being tuned."""

    def compute() -> xr.Dataset:
        found = tune_curve(lab.problem, octaves(lab), power, momentum=None, target=lab.budget.target)
        return found.assign(effective_lr=found["lr"] / (1.0 - found["momentum"]))

    return lab.known(f"free-p{power:g}", compute)


def tuned_adam(
    lab: Lab, name: str, optimizer: Adam, sizes: tuple[int, ...], *, problem: NoisyQuadratic | None = None
) -> xr.Dataset:
    """``steps``, ``lr``, their ``_stderr`` and ``freedom`` (batch_size) of true Adam with the best rate, simulated."""

    def compute() -> xr.Dataset:
        best = tune(
            lab.simulated if problem is None else problem,
            optimizer,
            {"lr": (1e-3, 0.3)},
            batch_size=np.array(sizes, dtype=np.float64),
            target=lab.budget.target,
            replicates=lab.budget.replicates,
            **lab.running,
        )
        return best[["steps", "steps_stderr", "lr", "lr_stderr", "freedom", "flags"]].drop_attrs()

    return lab.known(f"adam-{name}", compute)


def adam(lab: Lab) -> xr.Dataset:
    """True Adam with the default betas, at every batch size of the budget."""
    return tuned_adam(lab, "default", Adam(lr=1.0), lab.budget.adam_batch_sizes)


def best_schedules(lab: Lab, power: float, sizes: tuple[float, ...]) -> xr.Dataset:
    """The best schedule for the target, with the best constant rate's steps (``constant``), in closed form."""

    def compute() -> xr.Dataset:
        found = optimize_schedule(
            lab.problem,
            SGD(lr=1.0, precondition=power),
            np.array(sizes),
            target=lab.budget.target,
            pieces=lab.budget.pieces,
        )
        constant = found["baseline_steps"].sel(baseline="constant", drop=True)
        return found[["lr", "start", "length", "steps", "risk"]].assign(constant=constant).drop_attrs()

    return lab.known(f"schedules-p{power:g}-{'-'.join(f'{b:g}' for b in sizes)}", compute)


def of(dataset: xr.Dataset, name: str = "steps") -> Curve:
    """A variable over the batch size, as a curve."""
    error = dataset[f"{name}_stderr"].values if f"{name}_stderr" in dataset else None
    return curve(dataset["batch_size"].values, dataset[name].values, error)
