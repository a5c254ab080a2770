r"""Does SGD perform an exact line search? Losses along the direction of an update, at several times of a run.

Along an update u the full-batch loss of a quadratic is a parabola,
:math:`L(\theta - su) = L - s\, u^T \nabla L + \tfrac12 s^2 u^T H u`, least at
:math:`s^* = u^T\nabla L / u^T H u`, while the optimizer stops at s = 1. The *ratio* of the step taken to the exact one
is 1 for an exact line search (Mutschler & Zell 2021). On average over batches it is
:math:`E\,u^T H u / E\,u^T\nabla L`; where the law of θ no longer changes, that is exactly 2 for any optimizer, since
there :math:`E\, L(\theta - u) = E\, L(\theta)`.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.checkpoint import Checkpoint
from mcnqm.domains import Domain, positive
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, Adam
from mcnqm.problems import DoubleWell, NoisyQuadratic
from mcnqm.progress import Meter
from mcnqm.provenance import recorded
from mcnqm.simulation import simulate
from mcnqm.statistics import jackknife
from mcnqm.studies.cells import Numbers, check_counts, finished, increasing

__all__ = ["OPTIMIZERS", "LineSearchConfig", "cells_of", "quick", "run"]

Array = NDArray[np.float64]

OPTIMIZERS = ("sgd", "momentum", "adam")

_WELLS = "wells"
_ALONG = np.linspace(-1.0, 3.0, 41)
"""Multiples of the update at which the loss is looked at."""

_whole = Domain("be whole numbers >= 0", lambda x: (x >= 0) & (x == np.floor(x)))

_APART = 50
"""Steps between the updates that stand for the steady state."""

_PURPOSE = 19
"""Of the directions that are drawn apart from the run's own."""


@dataclass(frozen=True)
class LineSearchConfig(Numbers):
    """Everything that decides the study's numbers.

    Attributes
    ----------
    dim : int
        Coordinates, with h = c = 1/i.
    batch_size : int
    lr : float
        Of SGD, in parameter²/loss; momentum has (1 - β) of it, and Adam `adam_lr`.
    momentum : float
    adam_lr : float
        In parameter units.
    steps : tuple of int
        After how many steps to look.
    factor : int
        k of k times the batch against 1/k of the rate.
    directions : int
        Fresh batches from one point, at least 2.
    late : int
        Updates of a trajectory, 50 steps apart from the last of `steps` on, that stand for the steady state.
    trajectories, seed : int
    """

    dim: int = 300
    batch_size: int = 8
    lr: float = 0.05
    momentum: float = 0.9
    adam_lr: float = 0.005
    steps: tuple[int, ...] = (0, 100, 1000, 6000, 30_000)
    factor: int = 4
    directions: int = 16
    late: int = 400
    trajectories: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "adam_lr"):
            positive.check(name, getattr(self, name))
        if not 0.0 < self.momentum < 1.0:
            raise ParameterError("momentum", self.momentum, "be in (0, 1)")
        check_counts(self, dim=2, batch_size=1, factor=2, directions=2, late=1, trajectories=2)
        increasing("steps", self.steps, _whole)

    @property
    def problem(self) -> NoisyQuadratic:
        """The noisy quadratic."""
        return NoisyQuadratic.power_law(self.dim)

    def optimizer(self, label: str) -> Any:
        """By its name in the result."""
        if label == "momentum":
            return SGD(self.lr * (1.0 - self.momentum), momentum=self.momentum)
        return Adam(self.adam_lr) if label == "adam" else SGD(self.lr)


def quick(config: LineSearchConfig | None = None) -> LineSearchConfig:
    """A smaller study of the same questions: under a minute."""
    config = LineSearchConfig() if config is None else config
    return replace(config, dim=100, steps=(0, 100, 1000, 5000), late=200, trajectories=64)


def cells_of(config: LineSearchConfig) -> list[str]:
    """Names of the parts of the study."""
    return list(_parts(config))


def _parts(config: LineSearchConfig, **workers: Any) -> dict[str, Any]:
    """Parts by name: what computes each."""
    parts: dict[str, Any] = {label: partial(_lines, config, label, workers) for label in OPTIMIZERS}
    return {**parts, _WELLS: partial(_wells, config, workers)}


@recorded("mcnqm.studies.line_search.run", LineSearchConfig)
def run(
    config: LineSearchConfig | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    executor: Executor | None = None,
    threads: int | None = None,
    meter: Meter | None = None,
) -> xr.Dataset:
    r"""Carry out the study.

    Parameters
    ----------
    config : LineSearchConfig, optional
    checkpoint : Checkpoint, optional
        Where finished parts are kept and found again.
    executor, threads
        As for `mcnqm.simulate`.
    meter : Meter, optional
        Told of parts done.

    Returns
    -------
    xarray.Dataset
        Over ``optimizer`` and ``step``, on the noisy quadratic:

        - ``expected_ratio``, ``expected_ratio_stderr``: step taken over the exact one,
          :math:`E\,u^T H u / E\,u^T\nabla L`, simulated; ``theory_ratio``, in closed form for SGD and momentum, with
          ``settled_ratio`` (optimizer) that of the steady state; NaN for Adam. ``settled_simulated`` and
          ``settled_stderr`` (optimizer), the same over many updates late in the simulated runs.
        - ``ratio``: median over batches of :math:`u^T H u / u^T\nabla L`; ``uphill``: share of batches whose update
          leads uphill at first.
        - ``batch_ratio``: median of the same with the minibatch's own loss, :math:`u^T H u / u^T g`.
        - ``norm_correlation``: over batches, of the length of the exact step along g with \|g\|.
        - ``variation``: of that length over \|g\|, standard deviation over mean, among all batches;
          ``direction_variation`` the same among fresh batches from one point.
        - ``exchange``: how much further k times the batch goes beyond its line's minimum than 1/k of the rate does,
          as a quotient of the two expected ratios; 1 if they are the same. ``exchange_theory`` for SGD and momentum.

        Over ``step``: ``residual``, the deviation of the full-batch loss from the best parabola over s in [-1, 3],
        r.m.s. as a share of its range; median, for SGD on 100 coordinates of double wells. ``quadratic_residual`` is
        that of SGD on the quadratic.

    Raises
    ------
    ParameterError
        If the configuration is not allowed.

    Examples
    --------
    >>> study = run(LineSearchConfig(dim=10, steps=(0, 1000), trajectories=64))
    >>> study.settled_ratio.sel(optimizer="sgd").round(9).item()
    2.0
    >>> off = abs(study.settled_simulated - 2.0) / study.settled_stderr
    >>> bool((off < 4).all())
    True
    """
    config = LineSearchConfig() if config is None else config
    found = finished(_parts(config, executor=executor, threads=threads), "line search", checkpoint, meter)
    data: dict[str, Any] = {
        name: (("optimizer", "step"), np.array([found[label][name] for label in OPTIMIZERS]), {"long_name": text})
        for name, text in _NAMES.items()
    }
    for name, source in (
        ("settled_ratio", "settled_ratio"),
        ("settled_simulated", "settled"),
        ("settled_stderr", "settled_stderr"),
    ):
        data[name] = ("optimizer", np.array([found[label][source] for label in OPTIMIZERS]))
    data["residual"] = ("step", np.array(found[_WELLS]["residual"]), {"long_name": "deviation from a parabola, wells"})
    data["quadratic_residual"] = ("step", np.array(found["sgd"]["residual"]))
    return xr.Dataset(
        data,
        coords={"optimizer": list(OPTIMIZERS), "step": ("step", list(config.steps), {"units": "steps"})},
        attrs={
            "dim": config.dim,
            "batch_size": config.batch_size,
            "factor": config.factor,
            "seed": str(config.seed),
            "method": "simulate, analytic",
        },
    )


_NAMES = {
    "expected_ratio": "step taken over exact step, of mean slopes and curvatures",
    "expected_ratio_stderr": "its standard error",
    "theory_ratio": "the same in closed form",
    "ratio": "median step taken over exact step",
    "uphill": "share of updates that lead uphill at first",
    "batch_ratio": "median step taken over the minibatch's own exact step",
    "norm_correlation": "of exact step along g and |g|",
    "variation": "of exact step over |g|, all batches",
    "direction_variation": "of exact step over |g|, batches from one point",
    "exchange": "k times the batch against 1/k of the rate",
    "exchange_theory": "the same in closed form",
}


def _updates(
    config: LineSearchConfig, problem: Any, optimizer: Any, at: NDArray[np.int64], workers: Any, **options: Any
) -> list[Array]:
    """Parameters at those steps, updates that follow and, with the state, gradients; (trajectory, step, coordinate)."""
    record = np.unique(np.concatenate([at, at + 1]))
    given = {"record": record, "coordinates": np.arange(problem.dim), **options, **workers}
    given |= {"trajectories": config.trajectories, "seed": config.seed}
    runs = simulate(problem, optimizer, config.batch_size, int(record[-1]), **given)
    looks = [("theta", at), ("theta", at + 1), *([("gradient", at)] if options else [])]
    order = ("trajectory", "step", "coordinate")
    theta, after, *g = (runs[name].sel(step=step).transpose(*order).values for name, step in looks)
    return [theta, theta - after, *g]


def _lines(config: LineSearchConfig, label: str, workers: Any) -> dict[str, Any]:
    at, h = np.array(config.steps), config.problem.curvature
    theta, u, g = _updates(config, config.problem, config.optimizer(label), at, workers, record_state=True)
    slope = h * theta
    down, bend = np.sum(u * slope, axis=-1), np.sum(h * u * u, axis=-1)
    expected, stderr = _quotient(bend, down)
    out: dict[str, Any] = {
        "expected_ratio": expected.tolist(),
        "expected_ratio_stderr": stderr.tolist(),
        "ratio": np.median(bend / down, axis=0).tolist(),
        "uphill": np.mean(down < 0, axis=0).tolist(),
        "batch_ratio": np.median(bend / np.sum(u * g, axis=-1), axis=0).tolist(),
        "residual": _residual(lambda x: 0.5 * np.sum(h * x * x, axis=-1), theta, u).tolist(),
    }
    out |= _directions(config, theta, slope) | _theory(config, label)
    out["settled"], out["settled_stderr"] = _settled(config, label, workers)
    return out


def _settled(config: LineSearchConfig, label: str, workers: Any) -> tuple[float, float]:
    """The expected ratio over many updates after the last step, and its error over trajectories."""
    at = config.steps[-1] + _APART * np.arange(config.late)
    theta, u = _updates(config, config.problem, config.optimizer(label), at, workers)
    bend, down = (np.sum(config.problem.curvature * u * other, axis=-1).mean(axis=1) for other in (u, theta))
    ratio, stderr = _quotient(bend, down)
    return float(ratio), float(stderr)


def _quotient(top: Array, bottom: Array) -> tuple[Array, Array]:
    """Quotient of means over trajectories, and its error, leaving out one after the other."""
    whole = top.mean(axis=0) / bottom.mean(axis=0)
    others = (top.sum(axis=0) - top) / (bottom.sum(axis=0) - bottom)
    _, stderr = jackknife(np.concatenate([np.asarray(whole)[np.newaxis], others]), axis=0)
    return whole, stderr


def _directions(config: LineSearchConfig, theta: Array, slope: Array) -> dict[str, Any]:
    """Fresh batches from every point: exact steps along them, and k times the batch against 1/k of the rate."""
    h, c = config.problem.curvature, config.problem.noise
    draw = np.random.default_rng([config.seed, _PURPOSE])
    shape = (config.directions, *theta.shape)
    root = np.sqrt(c / config.batch_size)
    g = slope + root * draw.standard_normal(shape)
    large = slope + root / np.sqrt(config.factor) * draw.standard_normal(shape)
    exact = np.sum(g * slope, axis=-1) / np.sum(h * g * g, axis=-1)  # in rates: how far along g, over |g|
    norm = np.sqrt(np.sum(g * g, axis=-1))
    length = exact * norm
    correlation = [
        float(np.corrcoef(length[..., k].ravel(), norm[..., k].ravel())[0, 1]) for k in range(len(config.steps))
    ]
    # Of the expected ratio, α E gᵀHg / E gᵀ∇L: α at kB, over α/k at B.
    bends = [np.sum(h * one * one, axis=-1).mean(axis=(0, 1)) for one in (large, g)]
    slopes = [np.sum(one * slope, axis=-1).mean(axis=(0, 1)) for one in (large, g)]
    return {
        "norm_correlation": correlation,
        "variation": (exact.std(axis=(0, 1)) / np.abs(exact.mean(axis=(0, 1)))).tolist(),
        "direction_variation": (exact.std(axis=0).mean(axis=0) / np.abs(exact.mean(axis=(0, 1)))).tolist(),
        "exchange": (config.factor * (bends[0] / slopes[0]) / (bends[1] / slopes[1])).tolist(),
    }


def _theory(config: LineSearchConfig, label: str) -> dict[str, Any]:
    """Expected ratios in closed form, and in the steady state; NaN for Adam."""
    at, problem = np.array(config.steps), config.problem
    if label == "adam":
        nothing = [float("nan")] * at.size
        return {"theory_ratio": nothing, "exchange_theory": nothing, "settled_ratio": float("nan")}
    optimizer = config.optimizer(label)
    h, c, B = problem.curvature, problem.noise, float(config.batch_size)
    found = analytic.moments(problem, optimizer, B, int(at[-1]), record=at)
    settled = analytic.steady_state(problem, optimizer, B, coordinates=np.arange(config.dim))

    def second(data: xr.Dataset, name: str) -> Array:
        """E of a product, from the central moment and the means, which are 0 in the steady state."""
        one, other = {"theta": ("theta",) * 2, "momentum": ("momentum",) * 2, "both": ("theta", "momentum")}[name]
        central = data["theta_momentum_covariance" if name == "both" else f"{one}_variance"].values
        means = data[f"{one}_mean"].values * data[f"{other}_mean"].values if f"{one}_mean" in data else 0.0
        return np.asarray(central + means)

    def ratio(data: xr.Dataset) -> Array:
        P = second(data, "theta")
        beta, C, Q = float(optimizer.momentum), np.zeros_like(P), np.zeros_like(P)
        if beta:
            C, Q = second(data, "both"), second(data, "momentum")
        # The update is α m', m' = β m + g.
        down = h * (beta * C + h * P)
        bend = h * (beta**2 * Q + 2.0 * beta * h * C + h**2 * P + c / B)
        return np.asarray(float(optimizer.lr) * bend.sum(axis=-1) / down.sum(axis=-1))

    P = second(found, "theta")
    pull, push = np.sum(h**3 * P, axis=-1), np.sum(h * c) / B
    return {
        "theory_ratio": ratio(found).tolist(),
        "settled_ratio": float(ratio(settled)),
        "exchange_theory": ((config.factor * pull + push) / (pull + push)).tolist(),
    }


def _wells(config: LineSearchConfig, workers: Any) -> dict[str, Any]:
    wells = DoubleWell(dim=100, initial_std=0.3)
    theta, u = _updates(config, wells, SGD(config.lr), np.array(config.steps), workers)

    def loss(x: Array) -> Array:
        return np.asarray(wells.loss(x[..., np.newaxis])[..., 0].sum(axis=-1))

    return {"residual": _residual(loss, theta, u).tolist()}


def _residual(loss: Any, theta: Array, u: Array) -> Array:
    """R.m.s. deviation of losses along updates from the best parabola, as a share of their range; median, (steps,)."""
    along = np.stack([loss(theta - s * u) for s in _ALONG])
    design = np.vander(_ALONG, 3)
    flat = along.reshape(_ALONG.size, -1)
    left = flat - design @ np.linalg.lstsq(design, flat, rcond=None)[0]
    share = np.sqrt(np.mean(left**2, axis=0)) / np.ptp(flat, axis=0)
    return np.asarray(np.median(share.reshape(theta.shape[:2]), axis=0))
