"""What schedules and averages buy: steps to a target against batch size, constant, averaged and optimised.

For every optimizer and batch size: the best constant rate, the best constant rate with the best exponential average of
the iterates (in closed form, where there is one), decaying families, and a schedule of many pieces, optimised at the
shortest horizon that reaches the target (`mcnqm.optimize_schedule`); beside the information bound and the Bayes bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.domains import positive
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD
from mcnqm.problems import NoisyQuadratic
from mcnqm.progress import Meter
from mcnqm.provenance import recorded
from mcnqm.scheduling import optimize_schedule
from mcnqm.scheduling.checks import SIMULATION, route_of
from mcnqm.scheduling.pieces import log_cap
from mcnqm.studies.cells import check_counts, finished, increasing
from mcnqm.studies.scaling import examples_of_bounds
from mcnqm.tuning.tuner import tune

__all__ = ["ScheduleConfig", "run"]

Array = NDArray[np.float64]

_SEARCH = {"lr": (1e-3, 1.0)}
"""Where the search for the best constant rate begins."""

_ZOOMS, _ROUNDS = 3, 12
"""Grids of rate and memory, each finer and around the best of the one before; where that lies at an edge, not finer."""

_POINTS = 11
"""Points of each grid along each axis."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Everything that decides the study's numbers.

    Attributes
    ----------
    problem : NoisyQuadratic
    optimizers : dict of str to optimizer
        Label to optimizer; its rate is replaced.
    batch_sizes : tuple of int
        Increasing.
    target : float
        Risk to reach.
    pieces : int
        Of the optimised schedules.
    largest_lr, largest_risk : float, optional
        Limits to the rates, and to the risk on the way, as of `mcnqm.optimize_schedule`. With the second there is no
        averaged strategy, whose iterates it does not know.
    seed : int
        Of the simulations that refine, find and confirm schedules of optimizers that are not linear.
    """

    problem: NoisyQuadratic = field(default_factory=lambda: NoisyQuadratic.power_law(1000))
    optimizers: Mapping[str, Any] = field(default_factory=lambda: {"sgd": SGD(lr=1.0)})
    batch_sizes: tuple[int, ...] = tuple(4**k for k in range(9))
    target: float = 0.01
    pieces: int = 50
    largest_lr: float | None = None
    largest_risk: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        increasing("batch_sizes", self.batch_sizes)
        positive.check("target", self.target)
        check_counts(self, 2**64 - 2, pieces=1)
        for name, limit in self.limits.items():
            positive.check(name, limit)
        if not self.optimizers:
            raise ParameterError("optimizers", self.optimizers, "not be empty")

    @property
    def limits(self) -> dict[str, Any]:
        """Those that are given, by name."""
        both = {"largest_lr": self.largest_lr, "largest_risk": self.largest_risk}
        return {name: limit for name, limit in both.items() if limit is not None}


@recorded("mcnqm.studies.schedules.run", ScheduleConfig)
def run(
    config: ScheduleConfig | None = None,
    *,
    executor: Executor | None = None,
    threads: int | None = None,
    meter: Meter | None = None,
) -> xr.Dataset:
    r"""Carry out the study.

    Parameters
    ----------
    config : ScheduleConfig, optional
        By default SGD on the paper's problem at d = 1000, batch sizes 1 to 65536.
    executor, threads
        As for `mcnqm.simulate`.
    meter : Meter, optional
        Told of cells done.

    Returns
    -------
    xarray.Dataset
        Over ``optimizer`` and ``batch_size``: ``steps`` over ``strategy`` too ("constant", "averaged", the families,
        "optimised"; NaN where there is none), the optimised schedule's ``risk`` and, where it was simulated,
        ``risk_stderr``; over ``piece`` too its ``lr``, ``start`` and ``length`` (steps); ``constant_lr`` (by theory,
        where there is one), ``averaged_lr`` and ``averaged_decay``, the best γ. Over ``batch_size``:
        ``information_bound`` and ``bayes_bound``, in steps.

    Raises
    ------
    ParameterError
        If the configuration is not allowed.

    Examples
    --------
    >>> from mcnqm import NoisyQuadratic
    >>> config = ScheduleConfig(NoisyQuadratic.power_law(30), batch_sizes=(4, 64), target=0.05, pieces=10)
    >>> study = run(config)
    >>> needed = study.steps.sel(optimizer="sgd", batch_size=4)
    >>> bool((needed.sel(strategy=["averaged", "optimised"]) < needed.sel(strategy="constant")).all())
    True
    """
    config = ScheduleConfig() if config is None else config
    parts = {
        (label, b): partial(_cell, config, optimizer, b, executor, threads)
        for label, optimizer in config.optimizers.items()
        for b in reversed(config.batch_sizes)
    }
    cells = finished(parts, "schedules", meter=meter)
    rows = [
        xr.concat(
            [cells[label, b] for b in config.batch_sizes],
            dim="batch_size",
            join="outer",
            combine_attrs="drop_conflicts",
        )
        for label in config.optimizers
    ]
    study: xr.Dataset = xr.concat(rows, dim="optimizer", join="outer", combine_attrs="drop")
    study = study.assign_coords(
        optimizer=list(config.optimizers),
        batch_size=("batch_size", np.array(config.batch_sizes, dtype=np.float64), {"units": "examples"}),
    )
    batch = study["batch_size"].values
    for name, examples in examples_of_bounds(config.problem, config.target).items():
        study[name] = ("batch_size", examples / batch, {"units": "steps"})
    study.attrs = {
        "target": config.target,
        "dim": config.problem.dim,
        "pieces": config.pieces,
        "seed": str(config.seed),
    }
    return study


def _cell(
    config: ScheduleConfig, optimizer: Any, batch_size: int, executor: Executor | None, threads: int | None
) -> xr.Dataset:
    linear = isinstance(optimizer, SGD)
    simulation: dict[str, Any] = {} if linear else {"seed": config.seed, "executor": executor, "threads": threads}
    found = optimize_schedule(
        config.problem,
        optimizer,
        batch_size,
        target=config.target,
        pieces=config.pieces,
        **config.limits,
        **simulation,
    )
    needed = {str(name): float(found["baseline_steps"].sel(baseline=name)) for name in found["baseline"].values}
    rate, decay = np.nan, np.nan
    needed["averaged"] = np.nan
    if isinstance(optimizer, SGD) and optimizer.momentum == 0 and config.largest_risk is None:
        needed["averaged"], rate, decay = _averaged(config, optimizer, batch_size, needed["constant"])
    needed["optimised"] = float(found["steps"])
    kept = found[["risk", "lr", "start", "length"]].reset_coords(drop=True)
    if "risk_stderr" in found:
        kept["risk_stderr"] = found["risk_stderr"].reset_coords(drop=True)
    # Runs of fewer steps than pieces have fewer.
    missing = {"piece": (0, config.pieces - kept.sizes["piece"])}
    kept = kept.pad(missing, constant_values={"lr": np.nan, "start": np.nan, "length": 0})
    return kept.assign(
        steps=("strategy", list(needed.values()), {"units": "steps"}),
        constant_lr=_constant(config, optimizer, batch_size),
        averaged_lr=rate,
        averaged_decay=decay,
    ).assign_coords(strategy=list(needed))


def _constant(config: ScheduleConfig, optimizer: Any, batch_size: int) -> float:
    """The best constant rate, by theory; NaN where there is none."""
    if route_of(config.problem, optimizer) == SIMULATION:
        return math.nan
    if config.limits:
        plain: dict[str, Any] = {} if isinstance(optimizer, SGD) else {"refine": False}
        found = optimize_schedule(
            config.problem,
            optimizer,
            batch_size,
            target=config.target,
            pieces=1,
            baselines=False,
            **config.limits,
            **plain,
        )
        return float(found["lr"][0])
    method = "analytic" if isinstance(optimizer, SGD) else "mean-field"
    found = tune(config.problem, optimizer, _SEARCH, batch_size=batch_size, target=config.target, method=method)
    return float(found["lr"])


def _averaged(config: ScheduleConfig, optimizer: SGD, batch_size: int, constant: float) -> tuple[float, float, float]:
    """Fewest steps with a constant rate and an exponential average; the rate and γ. Both are tuned in closed form."""
    if not math.isfinite(constant):
        return math.inf, math.nan, math.nan
    limit = float(analytic.largest_stable_lr(config.problem, optimizer._replace(momentum=0.0))["largest_stable_lr"])
    low = math.log(1e-4 * limit)
    high = math.log(0.999 * limit)
    if config.largest_lr is not None:
        high = min(high, log_cap(config.largest_lr))
        low = min(low, high - 4.0)
    memory = (math.log(0.3), math.log(max(0.5 * constant, 2.0)))
    rates, memories = np.linspace(low, high, 3 * _POINTS), np.linspace(*memory, _POINTS)
    best = (math.inf, math.nan, math.nan)
    finer = 0
    for _ in range(_ROUNDS):
        gamma = 1.0 - 1.0 / (1.0 + np.exp(memories))
        found = analytic.steps_to_target(
            config.problem,
            optimizer._replace(lr=xr.DataArray(np.exp(rates), dims="rate")),
            batch_size,
            config.target,
            average=xr.DataArray(gamma, dims="memory"),
            max_steps=int(2 * constant) + 1,
        )["steps"].transpose("rate", "memory")
        at = np.unravel_index(int(found.values.argmin()), found.shape)
        if float(found.values[at]) < best[0]:
            best = float(found.values[at]), float(np.exp(rates[at[0]])), float(gamma[at[1]])
        if not math.isfinite(best[0]):
            break
        inside = 0 < at[1] < memories.size - 1 and at[0] > 0 and (at[0] < rates.size - 1 or rates[-1] >= high)
        finer += int(inside)
        if finer == _ZOOMS:
            break
        gaps = (rates[1] - rates[0], memories[1] - memories[0])
        if not inside:
            gaps = tuple(0.5 * (_POINTS - 1) * gap for gap in gaps)
        centre = math.log(best[1]), math.log(best[2] / (1.0 - best[2]))
        rates = np.minimum(np.linspace(centre[0] - gaps[0], centre[0] + gaps[0], _POINTS), high)
        memories = np.linspace(centre[1] - gaps[1], centre[1] + gaps[1], _POINTS)
    return best
