"""Claims about the learning rate of SGD and momentum against batch size, and about what only the ratio decides."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.claims.claim import Ask, Claim, Effect, Found
from mcnqm.claims.curves import Curves, curve
from mcnqm.claims.intervals import exact, quotient, slope
from mcnqm.claims.tuned import RATE_ERROR, freely_tuned, octaves, of, tuned
from mcnqm.optimizers import SGD
from mcnqm.problems import NoisyQuadratic
from mcnqm.simulation import simulate

__all__ = ["CLAIMS"]

_SAME = (0.95, 1.05)
_SAME_RATE = (0.9, 1.1)
"""Rates that differ by less are the same: the steps are flat at the best one."""
_BATCH = "batch size B (examples)"
_SMALL = 16.0
"""Batch sizes up to this one are small: a fortieth of SGD's critical one at d = 1000."""


def _linear_sgd(ask: Ask) -> Found:
    curves = {p: tuned(ask.lab, power=p, correlated=ask.control) for p in (0.0, 0.5)}
    effects, series = {}, {}
    for p, one in curves.items():
        limit = float(analytic.largest_stable_lr(ask.lab.problem, SGD(lr=1.0, precondition=p))["largest_stable_lr"])
        effects[f"slope of log rate on log B, B = 1 to 16, p = {p:g}"] = slope(*_points(one), ask.level)
        last = float(one["lr"][-1])
        effects[f"best rate at the largest B over the largest stable one, p = {p:g}"] = exact(last / limit, 0.01)
        series[f"p = {p:g}"] = of(one, "lr")
        series[f"largest stable rate, p = {p:g}"] = curve(octaves(ask.lab), np.full(one["lr"].size, limit))
    return Found(effects, Curves(series, _BATCH, "best learning rate"))


def _points(one: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Batch sizes, effective rates and their errors where batches are small."""
    few = one.sel(batch_size=slice(None, _SMALL))
    rates = few["effective_lr"].values
    return few["batch_size"].values, rates, RATE_ERROR * rates


def _linear_momentum(ask: Ask) -> Found:
    plain = tuned(ask.lab)
    fixed = tuned(ask.lab, momentum=0.9, correlated=ask.control)
    free = fixed if ask.control else freely_tuned(ask.lab)
    effects = {}
    for name, one in (("momentum 0.9", fixed), ("momentum tuned freely", free)):
        effects[f"slope of log effective rate on log B, B = 1 to 16, {name}"] = slope(*_points(one), ask.level)
        for b in (4.0, 16.0):
            rates = [float(each["effective_lr"].sel(batch_size=b)) for each in (one, plain)]
            # Two rates, each on a grid of 1 %.
            effects[f"best effective rate over SGD's rate, {name}, B = {b:g}"] = exact(rates[0] / rates[1], 0.02)
    series = {
        "SGD": of(plain, "effective_lr"),
        "momentum 0.9": of(fixed, "effective_lr"),
        "momentum tuned freely": of(free, "effective_lr"),
    }
    return Found(effects, Curves(series, _BATCH, "best effective learning rate α/(1-β)"))


_ONE = NoisyQuadratic(curvature=[1.0])


def _level(rate: float, batch_size: float) -> float:
    return float(analytic.steady_state(_ONE, SGD(lr=rate), batch_size)["risk"])


def _ratio_governs(ask: Ask) -> Found:
    """Steady states at one α/B, on one coordinate of curvature 1: closed form, and simulated."""

    def seen(batch_size: float) -> float:  # the control: a batch averages only the root of its examples
        return float(np.sqrt(batch_size)) if ask.control else batch_size

    ratio = 0.5 / 64.0
    limit = ratio / 4.0
    effects = {}
    slow, slower = ((r, r / ratio) for r in (ratio * 2.0, ratio))
    effects["steady state over that at half the rate and batch, αh = 0.016"] = exact(
        _level(slow[0], seen(slow[1])) / _level(slower[0], seen(slower[1]))
    )
    rate = 0.05
    correction = (_level(rate, seen(rate / ratio)) / limit - 1.0) / (rate / 2.0)
    effects["correction over αh/2, αh = 0.05"] = exact(correction)
    fast = 1.0
    effects["steady state over that of the small-rate limit, αh = 1"] = exact(_level(fast, seen(fast / ratio)) / limit)
    for rate in (0.05, 1.0):
        at = [int(10.0 / rate) + 20]
        runs = simulate(
            _ONE,
            SGD(lr=rate),
            seen(rate / ratio),
            at[0],
            trajectories=ask.lab.budget.trajectories,
            record=at,
            **ask.lab.running,
        )
        value, error = float(runs["risk"][0]), float(runs["risk_stderr"][0])
        effects[f"simulated steady state over limit × 1/(1 - αh/2), αh = {rate:g}"] = quotient(
            value, limit / (1.0 - rate / 2.0), ask.level, error / value
        )
    rates = np.geomspace(ratio, 1.8, 40)
    found = [_level(float(a), seen(float(a / ratio))) / limit for a in rates]
    series = {
        "steady state over αc/(4B)": curve(rates, found),
        "1 + αh/2": curve(rates, 1.0 + rates / 2.0),
    }
    return Found(effects, Curves(series, "αh", "at α/B = 1/128, over the small-rate limit", log_y=False))


def _n_steps(ask: Ask) -> Found:
    """Risk of n steps at (α, B) beside one at (nα, nB): largest factor between the risks at equal examples."""
    n, problem = 8, ask.lab.problem
    effects, series = {}, {}
    for product in _PRODUCTS:
        batch_size, stages = 16.0, int(40.0 / product) + 20
        at = np.unique(np.geomspace(1, stages, 200).astype(int))
        slow = analytic.risk(problem, SGD(lr=product / n), batch_size, n * stages, record=n * at)["risk"].values
        one = product if not ask.control else product / np.sqrt(n)
        fast = analytic.risk(problem, SGD(lr=one), n * batch_size, stages, record=at)["risk"].values
        factor = float(np.exp(np.abs(np.log(fast / slow)).max()))
        effects[f"largest factor between the risks of a run, nαh = {product:g}"] = exact(factor)
        series[f"nαh = {product:g}"] = curve(product * at, fast / slow)
    return Found(effects, Curves(series, "nα × step", "risk of one step over that of n = 8", log_y=False))


_PRODUCTS = (0.01, 0.1, 1.0, 1.9)


def _batch_equals_lr(ask: Ask) -> Found:
    """Risk at k times the batch beside 1/k of the rate: steady state, step along the line, and steps to a target."""
    k, problem, rate, batch_size = 4.0, ask.lab.problem, 0.05, 16.0
    larger, smaller = (SGD(lr=rate), k * batch_size), (SGD(lr=rate / k), batch_size)
    if ask.control:  # the noise falls as the root of the batch
        larger, smaller = ((optimizer, float(np.sqrt(batch))) for optimizer, batch in (larger, smaller))
    levels = [float(analytic.steady_state(problem, *one)["risk"]) for one in (larger, smaller)]
    first = np.cumsum(problem.multiplicity) - problem.multiplicity
    late = analytic.steady_state(problem, *smaller, coordinates=first)["theta_variance"].values

    def share(second_moment: NDArray[np.float64]) -> float:
        """Step over that to the line's minimum at one and the same law of θ, the larger batch over the smaller."""
        both = [
            np.asarray(one.lr).item() / float(analytic.greedy_lr(problem, b, second_moment)["lr"]) for one, b in pair
        ]
        return float(both[0] / both[1])

    pair = (larger, smaller)
    target = 4.0 * max(levels)
    steps = [float(analytic.steps_to_target(problem, *one, target)["steps"]) for one in (larger, smaller)]
    effects = {
        "steady state over that at 1/k of the rate, k = 4": exact(levels[0] / levels[1]),
        "step over the line's minimum, over that at 1/k of the rate, end of a run": exact(share(late)),
        "step over the line's minimum, over that at 1/k of the rate, start": exact(
            share(problem.initial_second_moment)
        ),
        "steps to four times the steady state, over those at 1/k of the rate": exact(steps[0] / steps[1], 2 / steps[0]),
    }
    at = np.unique(np.geomspace(1, 2.0 * max(steps), 80).astype(int))
    series = {
        name: curve(at, analytic.risk(problem, *one, int(at[-1]), record=at)["risk"].values)
        for name, one in (("batch 64", larger), ("batch 16, a quarter of the rate", smaller))
    }
    return Found(effects, Curves(series, "step", "risk"))


CLAIMS = (
    Claim(
        "lr-linear-sgd",
        "learning rates",
        "Zhang et al. 2019, Fig. 12a",
        "The best constant rate of SGD is proportional to the batch size until it meets the stability limit.",
        "Best rate in closed form at every octave of B: its logarithmic slope at B = 1 to 16, in the limit of small "
        "batches, and the rate at the largest B over the largest stable one; without preconditioner and with P "
        "= H^0.5.",
        tuple(
            Effect(f"{what}, p = {p:g}", f"p = {p:g}, {regime}", low, high)
            for p in (0.0, 0.5)
            for what, regime, low, high in (
                ("slope of log rate on log B, B = 1 to 16", "small batches", *_SAME),
                ("best rate at the largest B over the largest stable one", "large batches", 0.9, 1.01),
            )
        ),
        "Examples of a batch are correlated: the noise falls as 1/sqrt(B).",
        _linear_sgd,
        cost=2.0,
    ),
    Claim(
        "lr-linear-momentum",
        "learning rates",
        "Zhang et al. 2019, Fig. 12b-c",
        "The best effective rate of momentum, α/(1-β), is proportional to the batch size and equal to SGD's at small "
        "batches.",
        "Best rate in closed form with momentum 0.9 and with momentum tuned freely: slope at B = 1 to 16, and "
        "effective "
        "rate over the best rate of SGD at B = 4 and 16.",
        tuple(
            Effect(text.format(name), f"{name}, {regime}", *allowed)
            for name in ("momentum 0.9", "momentum tuned freely")
            for text, regime, allowed in (
                ("slope of log effective rate on log B, B = 1 to 16, {}", "slope", _SAME),
                ("best effective rate over SGD's rate, {}, B = 4", "B = 4", _SAME_RATE),
                ("best effective rate over SGD's rate, {}, B = 16", "B = 16", _SAME_RATE),
            )
        ),
        "Examples of a batch are correlated: the noise falls as 1/sqrt(B).",
        _linear_momentum,
        cost=2.0,
    ),
    Claim(
        "ratio-governs",
        "learning rates",
        "Jastrzębski et al. 2018 (Three Factors)",
        "Only α/B sets the steady-state loss as αh → 0; the correction is αh/2.",
        "Steady state of one coordinate at α/B = 1/128 for rates up to αh = 1, in closed form, over αc/(4B); the same "
        "simulated, over the closed form.",
        (
            Effect("steady state over that at half the rate and batch, αh = 0.016", "small rates", *_SAME),
            Effect("correction over αh/2, αh = 0.05", "small rates, correction", *_SAME),
            Effect("simulated steady state over limit × 1/(1 - αh/2), αh = 0.05", "small rates, simulated", *_SAME),
            Effect("simulated steady state over limit × 1/(1 - αh/2), αh = 1", "αh = 1, simulated", *_SAME),
            Effect("steady state over that of the small-rate limit, αh = 1", "ratio alone, αh = 1", *_SAME),
        ),
        "A batch averages only the root of its examples: the noise falls as 1/sqrt(B).",
        _ratio_governs,
        cost=1.0,
    ),
    Claim(
        "n-steps-one",
        "learning rates",
        "Smith et al. 2020",
        "n updates at rate ε act as one update at nε, at the same temperature ε/B.",
        "Risk of SGD at (α, B = 16) every 8 steps beside one step at (8α, 128), h = 1/i: the largest factor between "
        "them over a run from the start to the steady state of most coordinates (5 % allowed), nαh = 0.01 to 1.9.",
        tuple(
            Effect(f"largest factor between the risks of a run, nαh = {x:g}", f"nαh = {x:g}", 1.0, 1.05)
            for x in _PRODUCTS
        ),
        "One step at sqrt(n) times the rate.",
        _n_steps,
        cost=2.0,
    ),
    Claim(
        "batch-equals-lr",
        "learning rates",
        "Mutschler and Zell 2021 (line search)",
        "k times the batch acts as 1/k of the rate.",
        "SGD at lr 0.05, B = 64, beside lr 0.0125, B = 16, in closed form: steady state, the step over that to the "
        "minimum along the line (on average over batches, at the law of the start and of the steady state), and "
        "steps to "
        "a target.",
        (
            Effect("steady state over that at 1/k of the rate, k = 4", "steady state", *_SAME),
            Effect(
                "step over the line's minimum, over that at 1/k of the rate, end of a run",
                "step, noise-dominated",
                *_SAME,
            ),
            Effect(
                "step over the line's minimum, over that at 1/k of the rate, start", "step, curvature-dominated", *_SAME
            ),
            Effect("steps to four times the steady state, over those at 1/k of the rate", "speed", *_SAME),
        ),
        "Examples of a batch are correlated: the noise falls as 1/sqrt(B).",
        _batch_equals_lr,
        cost=1.0,
    ),
)
"""Claims of this theme."""
