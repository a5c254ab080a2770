r"""Two regimes of SGD, noise-dominated and curvature-dominated: where rates may grow with the batch, and until when.

Smith et al. (2020) put the largest stable rate at :math:`(2/h)/(1 + B_\text{noise}/B)` where noise rises with the
parameter; McCandlish et al. (2018) put the best one-step rate and its gain at the same form with the noise scale of the
moment. Here both are held against closed forms: the edge against B, the best rate for a target against B, n steps taken
as one, the noise scale along a run and the knee of steps against B, and its estimate from two batch sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.checkpoint import Checkpoint
from mcnqm.domains import positive
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD
from mcnqm.problems import NoisyQuadratic
from mcnqm.progress import Meter
from mcnqm.provenance import recorded
from mcnqm.studies.cells import Numbers, check_counts, finished, increasing

__all__ = ["NOISES", "RegimesConfig", "cells_of", "quick", "run"]

Array = NDArray[np.float64]

NOISES = ("additive", "multiplicative")
_MOMENTA = (0.0, 0.9)
_PURPOSE = 20


@dataclass(frozen=True)
class RegimesConfig(Numbers):
    """Everything that decides the study's numbers.

    Attributes
    ----------
    dim : int
        Coordinates, with h = c = 1/i.
    slope : float
        With multiplicative noise, s = slope × h.
    batch_sizes : tuple of int
    target : float
        Risk to reach.
    rates : int
        Rates that are tried for each batch size, evenly spaced in the logarithm over four decades below the edge.
    counts : tuple of int
        n of n steps taken as one.
    samples, estimates : int
        Gradients of either batch size in one estimate of the noise scale, and how many estimates.
    seed : int
    """

    dim: int = 1000
    slope: float = 4.0
    batch_sizes: tuple[int, ...] = tuple(2**k for k in range(15))
    target: float = 0.05
    rates: int = 61
    counts: tuple[int, ...] = (2, 4, 8, 16)
    samples: int = 256
    estimates: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, dim=1, rates=4, samples=4, estimates=4)
        positive.check("slope", self.slope)
        positive.check("target", self.target)
        increasing("counts", self.counts)
        increasing("batch_sizes", self.batch_sizes)
        if len(self.batch_sizes) < 2:
            raise ParameterError("batch_sizes", self.batch_sizes, "be two or more, between which slopes are taken")

    def problem(self, noise: str) -> NoisyQuadratic:
        """The problem, by the name of its noise."""
        plain = NoisyQuadratic.power_law(self.dim)
        if noise == "additive":
            return plain
        return NoisyQuadratic(plain.curvature, multiplicative_noise=self.slope * plain.curvature)


def quick(config: RegimesConfig | None = None) -> RegimesConfig:
    """A smaller study of the same questions: under a minute."""
    config = RegimesConfig() if config is None else config
    return replace(config, dim=100, batch_sizes=tuple(4**k for k in range(7)), rates=41, estimates=100)


def cells_of(config: RegimesConfig) -> list[str]:
    """Names of the parts of the study."""
    return list(_parts(config))


def _parts(config: RegimesConfig) -> dict[str, Any]:
    """Parts by name: what computes each."""
    works = {"edge": _edge, "best": _best, "as_one": _as_one, "gain": _gain, "estimate": _estimate}
    return {name: partial(work, config) for name, work in works.items()}


@recorded("mcnqm.studies.regimes.run", RegimesConfig)
def run(
    config: RegimesConfig | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    meter: Meter | None = None,
) -> xr.Dataset:
    r"""Carry out the study. All but the estimates of the noise scale is in closed form.

    Parameters
    ----------
    config : RegimesConfig, optional
    checkpoint : Checkpoint, optional
        Where finished parts are kept and found again.
    meter : Meter, optional
        Told of parts done.

    Returns
    -------
    xarray.Dataset
        - ``edge`` (momentum, batch_size): largest stable rate under multiplicative noise, and ``edge_formula``
          (batch_size), Smith's :math:`(2/h)/(1 + B_\text{noise}/B)` at the largest curvature, for plain SGD.
        - ``best_lr``, ``steps`` (noise_kind, batch_size): rate that reaches the target first, and its steps;
          ``lr_slope``, d log rate / d log B between neighbors. ``linear_until`` (noise_kind): the batch size at which
          that slope falls below 1/2.
        - ``knee`` (noise_kind): :math:`B_\text{crit} = E_\text{min} / S_\text{min}`, and ``scale_start``,
          ``scale_mean``, ``scale_end`` (noise_kind): the noise scale at the start of the run that is best at the knee,
          its mean over the steps, and at the end.
        - ``scale`` (noise_kind, progress): the noise scale along that run, at shares of its steps.
        - ``as_one_bias``, ``as_one_variance`` (count, rate): of one step at (n α, n B) against n steps at (α, B), αh =
          ``rate`` / n, relative error of the mean's factor and of the noise's variance. ``as_one_predicted``: the
          first-order estimate :math:`(n-1) αh` of the latter.
        - ``gain`` (batch_size): decrease of the risk by one step at the best rate, over that without noise;
          ``gain_formula``: :math:`1/(1 + B_\text{noise}/B)`.
        - ``estimated``, ``naive``, ``exact``: the simple noise scale from `samples` gradients of each of two batch
          sizes, 1 and 16: the quotient of the means of two unbiased estimators, the mean of their quotients, and in
          closed form; ``estimated_stderr`` and ``naive_stderr``: standard deviations of one such estimate.

    Raises
    ------
    ParameterError
        If the configuration is not allowed.

    Examples
    --------
    >>> study = run(RegimesConfig(dim=20, batch_sizes=(1, 16, 256, 4096), rates=31, estimates=20))
    >>> study.edge.sel(momentum=0.0).round(3).values, study.gain.round(3).values
    (array([0.4  , 1.6  , 1.969, 1.998]), array([0.429, 0.923, 0.995, 1.   ]))
    """
    config = RegimesConfig() if config is None else config
    found = finished(_parts(config), "regimes", checkpoint, meter)
    data: dict[str, Any] = {}
    for name, (part, dims, units) in _VARIABLES.items():
        data[name] = (dims, np.array(found[part][name]), {"units": units})
    return xr.Dataset(
        data,
        coords={
            "momentum": list(_MOMENTA),
            "batch_size": ("batch_size", list(config.batch_sizes), {"units": "examples"}),
            "noise_kind": list(NOISES),
            "progress": np.array(_PROGRESS),
            "count": list(config.counts),
            "rate": ("rate", list(_RATES), {"long_name": "n α h"}),
        },
        attrs={
            "dim": config.dim,
            "slope": config.slope,
            "target": config.target,
            "seed": str(config.seed),
            "method": "analytic",
        },
    )


_PROGRESS = (0.0, *np.geomspace(2e-3, 1.0, 40).tolist())
_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)

_VARIABLES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "edge": ("edge", ("momentum", "batch_size"), "parameter²/loss"),
    "edge_formula": ("edge", ("batch_size",), "parameter²/loss"),
    "best_lr": ("best", ("noise_kind", "batch_size"), "parameter²/loss"),
    "steps": ("best", ("noise_kind", "batch_size"), "steps"),
    "lr_slope": ("best", ("noise_kind", "batch_size"), "1"),
    "linear_until": ("best", ("noise_kind",), "examples"),
    "knee": ("best", ("noise_kind",), "examples"),
    "scale_start": ("best", ("noise_kind",), "examples"),
    "scale_mean": ("best", ("noise_kind",), "examples"),
    "scale_end": ("best", ("noise_kind",), "examples"),
    "scale": ("best", ("noise_kind", "progress"), "examples"),
    "as_one_bias": ("as_one", ("count", "rate"), "1"),
    "as_one_variance": ("as_one", ("count", "rate"), "1"),
    "as_one_predicted": ("as_one", ("count", "rate"), "1"),
    "gain": ("gain", ("batch_size",), "1"),
    "gain_formula": ("gain", ("batch_size",), "1"),
    "estimated": ("estimate", (), "examples"),
    "estimated_stderr": ("estimate", (), "examples"),
    "naive": ("estimate", (), "examples"),
    "naive_stderr": ("estimate", (), "examples"),
    "exact": ("estimate", (), "examples"),
}


def _edge(config: RegimesConfig) -> dict[str, Any]:
    problem, sizes = config.problem("multiplicative"), np.array(config.batch_sizes, dtype=np.float64)
    found = analytic.largest_stable_lr(problem, SGD(1.0, momentum=np.array(_MOMENTA)), batch_size=sizes)
    top = int(np.argmax(problem.curvature))
    h, s = problem.curvature[top], problem.multiplicative_noise[top]
    formula = (2.0 / h) / (1.0 + s / h**2 / sizes)
    return {"edge": found.largest_stable_lr.values.tolist(), "edge_formula": formula.tolist()}


def _best(config: RegimesConfig) -> dict[str, Any]:
    out: dict[str, list[Any]] = {name: [] for name, (part, _, _) in _VARIABLES.items() if part == "best"}
    sizes = np.array(config.batch_sizes, dtype=np.float64)
    for noise in NOISES:
        problem = config.problem(noise)
        rates, steps = (np.array(each) for each in zip(*(_tuned(config, problem, b) for b in sizes), strict=True))
        slope = np.gradient(np.log(rates), np.log(sizes))
        below = np.flatnonzero(slope < 0.5)
        examples = steps * sizes
        knee = float(examples.min() / steps.min())
        at = int(np.argmin(np.abs(np.log(sizes / knee))))
        scale, mean = _along(problem, float(rates[at]), float(sizes[at]), int(steps[at]))
        values = {
            "best_lr": rates.tolist(),
            "steps": steps.tolist(),
            "lr_slope": slope.tolist(),
            "linear_until": float(sizes[below[0]]) if below.size else float("inf"),
            "knee": knee,
            "scale_start": scale[0],
            "scale_mean": mean,
            "scale_end": scale[-1],
            "scale": scale,
        }
        for name, value in values.items():
            out[name].append(value)
    return out


def _tuned(config: RegimesConfig, problem: NoisyQuadratic, batch_size: float) -> tuple[float, float]:
    """Best rate and its steps, by two sweeps."""
    rising = bool(problem.multiplicative_noise.any())
    given = {"batch_size": batch_size} if rising else {}
    edge = float(analytic.largest_stable_lr(problem, SGD(1.0), **given).largest_stable_lr)
    # Where curvature dominates, the best rate is hardly below the edge.
    near = edge * (1.0 - np.logspace(-1.7, -6.0, 20))
    rates = np.concatenate([edge * np.logspace(-4.0, -0.01, config.rates), near])
    for _ in range(2):
        steps = analytic.steps_to_target(problem, SGD(rates), batch_size, config.target).steps.values
        best = int(np.argmin(steps))
        if not np.isfinite(steps[best]) or best in (0, rates.size - 1):
            raise ParameterError("target", config.target, "be one that some rate inside the sweep reaches first")
        fewest = rates[best], steps[best]
        rates = np.geomspace(rates[best - 1], rates[best + 1], config.rates)
    return float(fewest[0]), float(fewest[1])


def _along(problem: NoisyQuadratic, lr: float, batch_size: float, steps: int) -> tuple[list[float], float]:
    """The noise scale along a run, at shares of its steps, and its mean over steps."""
    at = np.round(np.array(_PROGRESS) * steps).astype(np.int64)
    record, where = np.unique(at, return_inverse=True)
    found = analytic.moments(problem, SGD(lr), batch_size, int(record[-1]), record=record)
    second = found.theta_mean.values**2 + found.theta_variance.values
    scale = np.array([float(analytic.noise_scale(problem, each).B_noise) for each in second])
    mean = float(np.trapezoid(scale, record) / max(record[-1] - record[0], 1)) if record.size > 1 else float(scale[0])
    return scale[where].tolist(), mean


def _as_one(config: RegimesConfig) -> dict[str, Any]:
    """One coordinate of curvature 1: n steps at (α, B) against one at (n α, n B)."""
    bias: list[list[float]] = []
    variance: list[list[float]] = []
    predicted: list[list[float]] = []
    for n in config.counts:
        rows: list[list[float]] = [[], [], []]
        for whole in _RATES:
            lr = whole / n
            certain, quiet = NoisyQuadratic([1.0], 1.0, 1.0, 0.0), NoisyQuadratic([1.0], 1.0, 0.0, 0.0)
            many = analytic.moments(certain, SGD(lr), 1.0, n, record=[n])
            one = analytic.moments(certain, SGD(whole), float(n), 1, record=[1])
            noisy = analytic.moments(quiet, SGD(lr), 1.0, n, record=[n]).theta_variance.item()
            single = analytic.moments(quiet, SGD(whole), float(n), 1, record=[1]).theta_variance.item()
            rows[0].append(abs(one.theta_mean.item() - many.theta_mean.item()) / abs(many.theta_mean.item()))
            rows[1].append(single / noisy - 1.0)
            rows[2].append((n - 1) * lr)
        for out, row in zip((bias, variance, predicted), rows, strict=True):
            out.append(row)
    return {"as_one_bias": bias, "as_one_variance": variance, "as_one_predicted": predicted}


def _gain(config: RegimesConfig) -> dict[str, Any]:
    problem = config.problem("additive")
    scale = analytic.noise_scale(problem)
    sizes = np.array(config.batch_sizes, dtype=np.float64)
    start = problem.initial_risk
    most = start - float(analytic.risk(problem, SGD(float(scale.largest_lr)), 1e300, 1, record=[1]).risk.squeeze())
    gains = []
    for b in sizes:
        lr = float(analytic.greedy_lr(problem, b).lr)
        gains.append((start - float(analytic.risk(problem, SGD(lr), b, 1, record=[1]).risk.squeeze())) / most)
    return {"gain": gains, "gain_formula": (1.0 / (1.0 + float(scale.B_noise) / sizes)).tolist()}


def _estimate(config: RegimesConfig) -> dict[str, Any]:
    """The simple noise scale at one point, from gradients of two batch sizes."""
    problem, draw = config.problem("additive"), np.random.default_rng([config.seed, _PURPOSE])
    # Half the start's distance: the gradient is smaller than the noise of one example, as it is in most of a run.
    theta = 0.5 * draw.standard_normal(problem.dim)
    slope = problem.curvature * theta
    small, large = 1.0, 16.0
    quotients, tops, bottoms = [], [], []
    for _ in range(config.estimates):
        square = []
        for b in (small, large):
            noise = np.sqrt(problem.noise / b) * draw.standard_normal((config.samples, problem.dim))
            square.append(np.sum((slope + noise) ** 2, axis=-1))
        signal = (large * square[1] - small * square[0]) / (large - small)
        trace = (square[0] - square[1]) / (1.0 / small - 1.0 / large)
        quotients.append(float(np.mean(trace / signal)))
        tops.append(float(trace.mean()))
        bottoms.append(float(signal.mean()))
    single = np.array(tops) / np.array(bottoms)
    return {
        "estimated": float(single.mean()),
        "estimated_stderr": float(single.std(ddof=1)),
        "naive": float(np.mean(quotients)),
        "naive_stderr": float(np.std(quotients, ddof=1)),
        "exact": float(problem.noise.sum() / np.sum(slope**2)),
    }
