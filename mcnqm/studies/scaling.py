"""The scaling study: best learning rate, steps to target and critical batch size.

For every optimizer and batch size the hyperparameters are tuned by simulation, with errors over replicates; for linear
optimizers also in closed form. Finished cells (one optimizer at one batch size) are kept on disk, so that an
interrupted study continues where it stopped, to the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import optimize

from mcnqm import analytic
from mcnqm._version import __version__
from mcnqm.checkpoint import Checkpoint
from mcnqm.domains import positive
from mcnqm.engine import Pool
from mcnqm.errors import ParameterError
from mcnqm.fits import log_slope, small_batch_regime, tradeoff
from mcnqm.flags import flag_attrs
from mcnqm.problems import NoisyQuadratic, Problem, check_any_problem
from mcnqm.progress import Meter, NoMeter
from mcnqm.provenance import recorded
from mcnqm.statistics import BOUNDS
from mcnqm.studies.cells import check_counts, increasing
from mcnqm.studies.chains import KINDS, Chains, cell, safe_name, theory_at
from mcnqm.studies.contenders import CONTENDERS, Contender
from mcnqm.tuning.routes import exact_route
from mcnqm.tuning.search import Tuned
from mcnqm.tuning.searches import checked

__all__ = ["ScalingConfig", "cells_of", "examples_of_bounds", "run"]

Array = NDArray[np.float64]

_FEWEST = 3
"""With fewer steps than this, whole numbers cannot tell what is proportional to 1 / B."""

_REVISION = 4
"""Raised whenever the same configuration comes to give other numbers, lest a checkpoint mix them."""


def _default() -> dict[str, Contender]:
    return {name: CONTENDERS[name] for name in ("sgd", "momentum", "adam")}


@dataclass(frozen=True)
class ScalingConfig:
    """Everything that decides a scaling study's numbers.

    Attributes
    ----------
    problem : NoisyQuadratic or landscape
        Bounds are NaN unless its noise is additive and normal.
    contenders : dict of str to Contender
        Label to optimizer and search.
    batch_sizes : tuple of int
        Increasing.
    target : float
        Risk to reach.
    trajectories, replicates : int
        `reference_trajectories` and `replicates` of `mcnqm.tune`.
    seed : int
    max_steps : int
        Where to give up.
    """

    problem: Problem = field(default_factory=lambda: NoisyQuadratic.power_law(1000))
    contenders: Mapping[str, Contender] = field(default_factory=_default)
    batch_sizes: tuple[int, ...] = tuple(2**k for k in range(17))
    target: float = 0.01
    trajectories: int = 2
    replicates: int = 8
    seed: int = 0
    max_steps: int = 2**24

    def __post_init__(self) -> None:
        check_any_problem(self.problem)
        increasing("batch_sizes", self.batch_sizes)
        positive.check("target", self.target)
        check_counts(self, trajectories=1, replicates=2, max_steps=1)
        if not self.contenders:
            raise ParameterError("contenders", self.contenders, "not be empty")
        if len(set(map(safe_name, self.contenders))) < len(self.contenders):
            allowed = "have names that differ in their letters, digits, '-', '_' or '.': files are named by them"
            raise ParameterError("contenders", list(self.contenders), allowed)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings; two studies with the same are the same."""
        return {
            "problem": self.problem.to_dict(),
            "contenders": {
                label: [repr(c.optimizer), {k: list(map(float, v)) for k, v in c.search.items()}, c.half_life_at]
                for label, c in self.contenders.items()
            },
            "batch_sizes": [int(b) for b in self.batch_sizes],
            "target": float(self.target),
            "trajectories": self.trajectories,
            "replicates": self.replicates,
            "seed": self.seed,
            "max_steps": self.max_steps,
            "mcnqm_version": __version__,
            "revision": _REVISION,
        }


def cells_of(config: ScalingConfig) -> list[str]:
    """Names of all cells that a study may leave in its checkpoint."""
    return [cell(label, b, kind) for label in config.contenders for b in config.batch_sizes for kind in KINDS]


@recorded("mcnqm.studies.scaling.run", ScalingConfig)
def run(
    config: ScalingConfig | None = None,
    *,
    checkpoint: str | Path | Checkpoint | None = None,
    executor: Executor | None = None,
    threads: int | None = None,
    meter: Meter | None = None,
) -> xr.Dataset:
    """Carry out a scaling study.

    Parameters
    ----------
    config : ScalingConfig, optional
        By default the paper's problem at d = 1000: SGD, momentum 0.9 and Adam at batch sizes 1 to 65536.
    checkpoint : path or Checkpoint, optional
        Folder for finished cells. If it holds some of the same configuration, the study continues from them. One
        process at a time may use it.
    executor, threads
        As for `mcnqm.simulate`. Theories run ahead in threads of their own.
    meter : Meter, optional
        Told of cells done, weighted by their expected cost.

    Returns
    -------
    xarray.Dataset
        Over ``optimizer`` and ``batch_size``: ``steps``, ``lr``, ``effective_lr`` (each with ``_stderr``; steps and
        rates with a 95 % ``_interval`` too), ``freedom`` of these errors, ``at_edge``, ``flags`` (`mcnqm.flags.Flag`),
        further tuned hyperparameters under their names, ``analytic_steps``, ``analytic_effective_lr`` (by the
        ``theory`` of the optimizer: exact, in the mean field, or NaN) and ``in_regime``. Over ``optimizer``:
        ``slope`` of log effective rate against log batch size in the small-batch regime, ``S_min`` (steps),
        ``E_min`` (examples) and ``B_crit`` (examples) of (S / S_min - 1)(E / E_min - 1) = 1, each with ``_low`` and
        ``_high`` of a 95 % interval, and that fit's ``misfit``, and
        ``theory_error``, the root mean square over batch sizes of the relative difference between theory's steps and
        the simulated. Over ``batch_size``: ``information_bound`` and
        ``bayes_bound``, in steps.

    Raises
    ------
    ParameterError
        If the configuration is not allowed, or the checkpoint belongs to another or is in use.

    Warns
    -----
    RuntimeWarning
        If a cell of the checkpoint is broken, and so computed again.

    Examples
    --------
    >>> from mcnqm import NoisyQuadratic
    >>> config = ScalingConfig(NoisyQuadratic.power_law(30), batch_sizes=(64, 256), target=0.1)
    >>> study = run(config)
    >>> study.steps.dims
    ('optimizer', 'batch_size')
    """
    config = ScalingConfig() if config is None else config
    meter = NoMeter() if meter is None else meter
    pool = Pool(executor, threads)  # refused before there is a folder
    if isinstance(checkpoint, (str, Path)):
        with Checkpoint(checkpoint, config.to_dict()) as opened:
            return run(config, checkpoint=opened, executor=executor, threads=threads, meter=meter)
    try:
        chains = Chains(config, checkpoint, meter)
        meter.start(chains.work, "scaling")
        chains.run(pool)
    finally:
        meter.close()
    return _labeled(config, chains.simulated, chains.theory)


def _labeled(
    config: ScalingConfig,
    simulated: Mapping[str, Mapping[int, Tuned]],
    theory: Mapping[str, Mapping[int, Tuned | None]],
) -> xr.Dataset:
    labels = list(config.contenders)
    simulated = {
        label: {
            b: checked(
                one, theory[label][b], exact=_theory_name(config.problem, c) == "exact", max_steps=config.max_steps
            )
            for b, one in simulated[label].items()
        }
        for label, c in config.contenders.items()
    }
    dims = ("optimizer", "batch_size")
    batch = np.array(config.batch_sizes, dtype=np.float64)

    def table(read: Callable[[Contender, Any], float]) -> Array:
        rows = [[read(config.contenders[label], simulated[label][b]) for b in config.batch_sizes] for label in labels]
        return np.array(rows)

    def interval(read: Callable[[Contender, Any], tuple[float, float]]) -> Array:
        return np.stack([table(lambda c, t, k=k: read(c, t)[k]) for k in range(2)], axis=-1)  # type: ignore[misc]

    data: dict[str, Any] = {
        "steps": (dims, table(lambda c, t: t.steps), {"units": "steps"}),
        "steps_stderr": (dims, table(lambda c, t: t.steps_error), {"units": "steps"}),
        "steps_interval": ((*dims, "bound"), interval(lambda c, t: t.steps_interval), {"units": "steps"}),
        "freedom": (dims, table(lambda c, t: t.freedom).astype(int), {"long_name": "degrees of freedom of the errors"}),
        "at_edge": (dims, table(lambda c, t: t.at_edge).astype(bool)),
        "flags": (dims, table(lambda c, t: t.flags).astype(np.int32), flag_attrs()),
        "effective_lr": (dims, table(lambda c, t: c.effective_lr(t.values))),
    }
    tuned = list(dict.fromkeys(name for c in config.contenders.values() for name in c.search))
    for name in tuned:
        data[name] = (dims, table(partial(_value, name)))
        data[f"{name}_stderr"] = (dims, table(partial(_error, name)))
        data[f"{name}_interval"] = ((*dims, "bound"), interval(partial(_ends, name)))
    with np.errstate(invalid="ignore"):
        relative = data["lr_stderr"][1] / data["lr"][1]
    data["effective_lr_stderr"] = (dims, relative * data["effective_lr"][1])

    def closed(read: Callable[[Contender, Tuned], float]) -> Array:
        def one(label: str, known: Tuned | None) -> float:
            return np.nan if known is None else read(config.contenders[label], known)

        return np.array([[one(label, theory[label][b]) for b in config.batch_sizes] for label in labels])

    data["analytic_steps"] = (dims, closed(lambda c, t: t.steps), {"units": "steps"})
    data["analytic_effective_lr"] = (dims, closed(lambda c, t: c.effective_lr(t.values)))

    fitted, regime = _fitted(batch, {name: values for name, (_, values, *_) in data.items()})
    data["in_regime"] = (dims, regime)
    data["theory_error"] = (("optimizer",), _theory_error(data["steps"][1], data["analytic_steps"][1]))
    units = {"S_min": {"units": "steps"}, "E_min": {"units": "examples"}, "B_crit": {"units": "examples"}}
    for name, values in fitted.items():
        data[name] = (("optimizer",), values, units.get(name.split("_low")[0].split("_high")[0], {}))
    for name, examples in examples_of_bounds(config.problem, config.target).items():
        data[name] = (("batch_size",), examples / batch, {"units": "steps"})
    return xr.Dataset(
        data,
        coords={
            "optimizer": np.array(labels),
            "bound": list(BOUNDS),
            "batch_size": ("batch_size", batch, {"units": "examples"}),
            "theory": ("optimizer", [_theory_name(config.problem, c) for c in config.contenders.values()]),
        },
        attrs={
            "target": config.target,
            "dim": config.problem.dim,
            "trajectories": config.trajectories,
            "replicates": config.replicates,
            "seed": str(config.seed),
        },
    )


def _fitted(batch: Array, table: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
    """Slope, fewest steps and examples, and critical batch size with their ends, per optimizer; and the small batches.

    Of tables (optimizer, batch size) by the names of the result.
    """
    ends = ("", "_low", "_high")
    names = [*(q + end for q in ("slope", "S_min", "E_min", "B_crit") for end in ends), "misfit"]
    count = table["steps"].shape[0]
    fitted = {name: np.full(count, np.nan) for name in names}
    regime = np.zeros((count, batch.size), dtype=bool)
    for k in range(count):
        steps, error = table["steps"][k], table["steps_stderr"][k]
        steps = np.where(steps > 0, steps, np.inf)  # a target reached at the start says nothing of how steps scale
        regime[k] = small_batch_regime(batch, steps, error) & (steps >= _FEWEST)
        usable = regime[k] & ~table["at_edge"][k]
        slope = log_slope(batch, table["effective_lr"][k], table["effective_lr_stderr"][k], usable)
        fitted["slope"][k], fitted["slope_low"][k], fitted["slope_high"][k] = slope
        if np.isfinite(steps).sum() >= 3:
            bend = tradeoff(batch, steps, error)
            for name, values in fitted.items():
                if hasattr(bend, name):
                    values[k] = getattr(bend, name)
    return fitted, regime


def _theory_name(problem: Problem, contender: Contender) -> str:
    kind = theory_at(problem, contender)
    return "none" if kind is None else "exact" if kind is exact_route else "mean field"


def _theory_error(steps: Array, predicted: Array) -> Array:
    """Root mean square of how far theory's steps are from the simulated ones, relative to these, per optimizer."""
    with np.errstate(invalid="ignore"):
        off = np.where(np.isfinite(steps) & np.isfinite(predicted), predicted / steps - 1.0, np.nan)
    known = np.isfinite(off)
    total = np.where(known, off, 0.0) ** 2
    mean: Array = total.sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    return np.sqrt(mean)


def _value(name: str, contender: Contender, tuned: Tuned) -> float:
    return float(tuned.values.get(name, getattr(contender.optimizer, name, np.nan)))


def _ends(name: str, contender: Contender, tuned: Tuned) -> tuple[float, float]:
    low, high = tuned.intervals.get(name, (_value(name, contender, tuned),) * 2)
    return float(low), float(high)


def _error(name: str, contender: Contender, tuned: Tuned) -> float:
    return float(tuned.errors.get(name, 0.0))


def examples_of_bounds(problem: Problem, target: float) -> dict[str, float]:
    """Examples that the information bound and the Bayes bound ask for at the target; NaN where neither is known."""
    if not isinstance(problem, NoisyQuadratic) or problem.multiplicative_noise.any() or problem.noise_df is not None:
        return {"information_bound": math.nan, "bayes_bound": math.nan}
    one = float(analytic.information_bound(problem, 1.0)["risk"])

    def excess(log_examples: float) -> float:
        return math.log(float(analytic.bayes_bound(problem, math.exp(log_examples))["risk"]) / target)

    information = one / target
    if problem.initial_risk <= target or one == 0:
        return {"information_bound": information, "bayes_bound": 0.0}
    low = math.log(information)
    while excess(low) < 0:
        low -= 2.0
    bayes = math.exp(optimize.brentq(excess, low, math.log(information) + 1e-9))
    return {"information_bound": information, "bayes_bound": bayes}
