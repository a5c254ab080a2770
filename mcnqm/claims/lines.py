"""Claims about the full-batch loss along the line of one step (Mutschler and Zell's line-search perspective)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.claims.claim import Ask, Claim, Effect, Estimate, Found
from mcnqm.claims.curves import Curves, curve
from mcnqm.claims.intervals import exact, mean, scatter
from mcnqm.optimizers import SGD
from mcnqm.problems import NoisyQuadratic
from mcnqm.simulation import noise, simulate
from mcnqm.statistics import jackknife

__all__ = ["CLAIMS"]

Array = NDArray[np.float64]

_PROBLEM = NoisyQuadratic.power_law(100)
_RATE, _BATCH_SIZE, _STEPS = 0.05, 8, 6000
_AT = np.concatenate([np.arange(0, 200, 10), np.arange(200, _STEPS + 1, 100)])


class _Lines(NamedTuple):
    """Points θ of trajectories at recorded steps, and a batch gradient at each: (trajectory, step, coordinate)."""

    theta: Array
    gradient: Array

    def minimum(self) -> Array:
        """Rate of the step to the least full-batch loss along the gradient, s* = gᵀHθ / gᵀHg."""
        h = _PROBLEM.curvature
        above = np.sum(self.gradient * h * self.theta, axis=-1)
        return np.asarray(above / np.sum(h * self.gradient**2, axis=-1))


def _lines(ask: Ask, trajectories: int = 64) -> _Lines:
    """A run of SGD, and the gradient of the step that follows each recorded one, from the noise that drove it."""
    every = np.arange(_PROBLEM.dim)
    runs = simulate(
        _PROBLEM,
        SGD(lr=_RATE),
        _BATCH_SIZE,
        _STEPS,
        trajectories=trajectories,
        record=_AT,
        coordinates=every,
        **ask.lab.running,
    )
    theta = runs["theta"].values
    gradient = np.empty_like(theta)
    for r in range(trajectories):
        z = noise(ask.lab.seed, r, every, _STEPS + 1)[0, _AT]
        gradient[r] = _PROBLEM.curvature * theta[r] + np.sqrt(_PROBLEM.noise / _BATCH_SIZE) * z
    return _Lines(theta, gradient)


def _loss(theta: Array, control: bool) -> Array:
    """The full-batch loss; for the control, that of softened coordinates, log cosh."""
    each = np.log(np.cosh(np.minimum(np.abs(theta), 300.0))) if control else 0.5 * theta**2
    return np.asarray(np.sum(_PROBLEM.curvature * each, axis=-1))


def _parabolic(ask: Ask) -> Found:
    lines = _lines(ask, 8)
    best = lines.minimum()[..., None]
    places = np.linspace(-1.0, 3.0, 9)
    losses = np.stack([_loss(lines.theta - k * best * lines.gradient, ask.control) for k in places])
    # The parabola through the first, middle and last place, at all of them.
    nodes = places[[0, 4, 8]]
    weights = np.array([[np.prod([(x - b) / (a - b) for b in nodes if b != a]) for a in nodes] for x in places])
    gap = np.abs(np.einsum("pn,nrt->prt", weights, losses[[0, 4, 8]]) - losses) / losses.max(axis=0)
    shown = losses[:, 0, 0]
    series = {
        "loss along a step, start of the run": curve(places, shown),
        "parabola": curve(places, weights @ shown[[0, 4, 8]]),
    }
    effects = {"largest gap between loss and parabola, over the loss": exact(float(gap.max()), 1e-3)}
    return Found(effects, Curves(series, "place along the line, over its minimum's", "full-batch loss", False, False))


def _ratio(rate: float, second_moment: Array) -> float:
    """A rate over that of the line's minimum on average over batches, E gᵀ∇L / E gᵀHg."""
    return rate / float(analytic.greedy_lr(_PROBLEM, _BATCH_SIZE, second_moment)["lr"])


def _exact_search(ask: Ask) -> Found:
    every = np.arange(_PROBLEM.dim)
    found = analytic.moments(_PROBLEM, SGD(lr=_RATE), _BATCH_SIZE, _STEPS, record=_AT, coordinates=every)
    square = found["theta_variance"].values + found["theta_mean"].values ** 2
    stable = analytic.steady_state(_PROBLEM, SGD(lr=_RATE), _BATCH_SIZE, coordinates=every)["theta_variance"].values
    shares = np.array([_ratio(_RATE, row) for row in square])
    rates = np.array([_RATE / share for share in shares])
    lines = _lines(ask)
    h = _PROBLEM.curvature
    above = np.sum(lines.gradient * h * lines.theta, axis=-1)
    below = np.sum(h * lines.gradient**2, axis=-1)
    late = _AT >= 0.75 * _STEPS
    # Of a quotient of means, by what each trajectory contributes: they are independent.
    quotient = _RATE * below[:, late].mean(axis=1) / above[:, late].mean()
    tenth = int(np.searchsorted(_AT, 0.1 * _STEPS))
    greedy = 1.0 if not ask.control else 2.0
    late_exact = _ratio(_RATE, stable)
    effects = {
        "constant rate over the line's minimum, start": exact(shares[0]),
        "constant rate over the line's minimum, a tenth of the run": exact(shares[tenth]),
        "constant rate over the line's minimum, steady state": exact(late_exact),
        "the same in the last quarter of the run, simulated": scatter(quotient, ask.level),
        "greedy rate over the line's minimum": exact(greedy * rates[tenth] / (_RATE / shares[tenth])),
    }
    simulated = _RATE * below.mean(axis=0) / above.mean(axis=0)
    series = {
        "constant rate 0.05, closed form": curve(_AT[1:], shares[1:]),
        "constant rate 0.05, simulated": curve(_AT[1:], simulated[1:]),
        "greedy rate": curve(_AT[[1, -1]], [1.0, 1.0]),
    }
    return Found(effects, Curves(series, "step", "rate over that of the line's minimum"))


def _elasticity(size: Array, step: Array, level: float) -> Estimate:
    """Relative change of the step per relative change of the size, by regression; jackknife over trajectories."""
    groups = 32
    which = np.arange(size.shape[0]) % groups

    def fitted(kept: NDArray[np.bool_]) -> float:
        x, y = size[kept].ravel(), step[kept].ravel()
        return float(np.cov(x, y)[0, 1] / np.var(x, ddof=1) * x.mean() / y.mean())

    left_out = [fitted(which != g) for g in range(groups)]
    value, stderr = jackknife(np.array([fitted(which >= 0), *left_out]))
    return mean(float(value), float(stderr), level, groups - 1)


_TRAJECTORIES, _DRAWS = 3072, 8
_POINTS = np.concatenate([np.arange(0, 201, 20), np.arange(_STEPS // 2, _STEPS + 1, 200)])


def _norm(ask: Ask) -> Found:
    """At each recorded point of a run, many batches: norm of the gradient, and length of the step to the minimum."""
    every, h = np.arange(_PROBLEM.dim), _PROBLEM.curvature
    runs = simulate(
        _PROBLEM,
        SGD(lr=_RATE),
        _BATCH_SIZE,
        _STEPS,
        trajectories=_TRAJECTORIES,
        record=_POINTS,
        coordinates=every,
        **ask.lab.running,
    )
    size = np.empty((_TRAJECTORIES, _POINTS.size, _DRAWS))
    step = np.empty_like(size)
    for r, theta in enumerate(runs["theta"].values):
        z = noise(ask.lab.seed, 2**31 + r, every, _POINTS.size * _DRAWS)[0].reshape(_POINTS.size, _DRAWS, -1)
        gradient = (h * theta)[:, None] + np.sqrt(_PROBLEM.noise / _BATCH_SIZE) * z
        size[r] = np.sqrt(np.sum(gradient**2, axis=-1))
        step[r] = _Lines(theta[:, None], gradient).minimum() * size[r]
    if ask.control:  # a law of steps of equal length, whatever the gradient
        step = np.broadcast_to(np.abs(step).mean(), step.shape)
    early, late = _POINTS <= 200, _POINTS >= 0.5 * _STEPS
    effects = {
        "elasticity of the step to the minimum by the norm, first 200 steps": _elasticity(
            size[:, early], step[:, early], ask.level
        ),
        "elasticity of the step to the minimum by the norm, second half of the run": _elasticity(
            size[:, late], step[:, late], ask.level
        ),
    }
    series: dict[str, Any] = {}
    for name, part in (("first 200 steps", early), ("second half", late)):
        x, y = size[:, part].ravel(), step[:, part].ravel()
        edges = np.quantile(x, np.linspace(0.0, 1.0, 21))
        middle = 0.5 * (edges[1:] + edges[:-1])
        inside = [y[(x >= low) & (x <= high)] for low, high in pairwise(edges)]
        series[name] = curve(middle, [each.mean() for each in inside])
    return Found(
        effects, Curves(series, "norm of the batch gradient", "length of the step to the minimum", True, False)
    )


CLAIMS = (
    Claim(
        "line-parabolic",
        "line search",
        "Mutschler and Zell 2021",
        "The full-batch loss along the direction of a step is a parabola.",
        "Loss at nine places along the batch gradients of 8 runs of SGD (d = 100, B = 8, lr 0.05) beside the parabola "
        "through three of them. The model is quadratic, so this is exact here by construction.",
        (Effect("largest gap between loss and parabola, over the loss", "the quadratic model", 0.0, 0.01),),
        "A loss of log cosh in every coordinate.",
        _parabolic,
        cost=1.0,
    ),
    Claim(
        "line-exact-search",
        "line search",
        "Mutschler and Zell 2021",
        "At the right rate SGD on average performs an exact line search on the full-batch loss.",
        "The rate over that of the line's minimum on average over batches, |∇L|² / (∇LᵀH∇L + tr(HC)/B), along a run "
        "(d = 100, B = 8, lr 0.05) in closed form, and simulated at its end; 10 % allowed.",
        (
            Effect("constant rate over the line's minimum, start", "constant rate, start", 0.9, 1.1),
            Effect("constant rate over the line's minimum, a tenth of the run", "constant rate, middle", 0.9, 1.1),
            Effect("constant rate over the line's minimum, steady state", "constant rate, steady state", 0.9, 1.1),
            Effect("the same in the last quarter of the run, simulated", "constant rate, end, simulated", 0.9, 1.1),
            Effect("greedy rate over the line's minimum", "the greedy rate, step by step", 0.9, 1.1),
        ),
        "Twice the greedy rate.",
        _exact_search,
        cost=3.0,
    ),
    Claim(
        "step-proportional-norm",
        "line search",
        "Mutschler and Zell 2021",
        "The length of the step to the line's minimum is nearly proportional to the norm of the batch gradient.",
        "Elasticity (relative change of the length per relative change of the norm) over batches at 27 points "
        "of 3072 runs of SGD (d = 100, "
        "B = 8, lr 0.05): 1 is proportional, 25 % allowed.",
        (
            Effect("elasticity of the step to the minimum by the norm, first 200 steps", "decay", 0.75, 1.25),
            Effect(
                "elasticity of the step to the minimum by the norm, second half of the run", "steady state", 0.75, 1.25
            ),
        ),
        "Steps of equal length.",
        _norm,
        cost=2.0,
    ),
)
"""Claims of this theme."""
