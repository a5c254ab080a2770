"""Claims about two wells, and about noise that rises with the parameter."""

from __future__ import annotations

import numpy as np

from mcnqm import analytic
from mcnqm.analytic import chain
from mcnqm.claims.claim import Ask, Claim, Effect, Found
from mcnqm.claims.curves import Curves, curve
from mcnqm.claims.intervals import exact, quotient, slope
from mcnqm.claims.tuned import RATE_ERROR
from mcnqm.optimizers import SGD
from mcnqm.problems import DoubleWell, NoisyQuadratic
from mcnqm.simulation import simulate
from mcnqm.tuning.tuner import tune

__all__ = ["CLAIMS"]

_SAME = (0.95, 1.05)
_MORE = (1.05, np.inf)


def _odds(wells: DoubleWell, rate: float, batch_size: float) -> float:
    """Of the wide well over the sharp one, in the stationary law."""
    found = chain.stationary(wells, SGD(lr=rate), batch_size)["occupancy"]
    return float(found.sel(well="wide") / found.sel(well="sharp"))


def _minima(ask: Ask) -> Found:
    wells = DoubleWell(offset=-0.05) if ask.control else DoubleWell()
    effects, series = {}, {}
    for rate, larger, smaller in _PAIRS:
        # The quadrature's own error is far below.
        effects[f"odds of the wide well at four times α/B, over those at α/B = {rate / smaller:g}, α = {rate:g}"] = (
            exact(_odds(wells, rate, larger) / _odds(wells, rate, smaller), 1e-3)
        )
        sizes = np.geomspace(larger, smaller, 7)
        series[f"α = {rate:g}"] = curve(rate / sizes, [_odds(wells, rate, b) for b in sizes])
    counts = []
    for b in (2.0, 4.0):
        runs = simulate(
            wells,
            SGD(lr=0.1),
            b,
            20_000,
            trajectories=4096,
            record=[20_000],
            coordinates=[0],
            **ask.lab.running,
        )
        counts.append(float((runs["theta"].values > np.asarray(wells.barrier).item()).mean()))
    odds = [share / (1.0 - share) for share in counts]
    errors = [1.0 / np.sqrt(4096 * share * (1.0 - share)) for share in counts]
    effects["odds of the wide well at α/B = 0.05 over those at 0.025, α = 0.1, simulated"] = quotient(
        *odds, ask.level, *errors
    )
    series["α = 0.1, simulated"] = curve([0.05, 0.025], odds, np.multiply(odds, errors))
    return Found(effects, Curves(series, "α/B", "odds of the wide well over the sharp one"))


_PAIRS = ((0.0125, 1.0, 4.0), (0.025, 1.0, 4.0), (0.1, 4.0, 16.0))
"""Rate, and the batch sizes of four times the ratio and of the ratio itself."""

_SCALE = 1000.0
"""B_noise of every coordinate in the claims about noise that rises with the parameter."""


def _regimes(ask: Ask) -> Found:
    problem = ask.lab.problem
    problem = NoisyQuadratic(
        problem.curvature,
        problem.noise,
        multiplicity=problem.multiplicity,
        multiplicative_noise=_SCALE * problem.curvature**2,
    )
    effects, series = {}, {}
    for name, sizes, _ in _REGIMES:
        # The control: examples of a batch are correlated.
        seen = np.sqrt(sizes) if ask.control else np.array(sizes)
        best = tune(
            problem,
            SGD(lr=1.0),
            {"lr": (1e-3, 1.0)},
            batch_size=seen,
            target=ask.lab.budget.target,
            method="analytic",
        )
        rates = best["lr"].values
        effects[f"slope of log best rate on log B, {name}"] = slope(
            sizes, rates, RATE_ERROR * rates, ask.level, first_order=False
        )
        edge = analytic.largest_stable_lr(problem, SGD(lr=1.0), batch_size=seen)["largest_stable_lr"].values
        small = 1e-6 * edge  # an exact number; the smallest error the fit takes for one
        effects[f"slope of log largest stable rate on log B, {name}"] = slope(
            sizes, edge, small, ask.level, first_order=False
        )
        series[f"best rate, {name}"] = curve(sizes, rates)
        series[f"largest stable rate, {name}"] = curve(sizes, edge)
    return Found(effects, Curves(series, "batch size B (examples)", "learning rate"))


_REGIMES = (
    ("noise-dominated", tuple(2.0**k for k in range(5)), _SAME),
    ("curvature-dominated", tuple(2.0**k for k in range(18, 23)), (-0.05, 0.05)),
)


def _stable(ask: Ask) -> Found:
    """Growth of the second moment per step at (2/h)/(1 + B_noise/B), one coordinate without additive noise."""
    h = 0.5
    rising = (0.25 if ask.control else 1.0) * _SCALE * h**2
    one = NoisyQuadratic(curvature=[h], noise=[0.0], multiplicative_noise=rising)
    effects, rates = {}, []
    for b in _STABLE:
        rate = (2.0 / h) / (1.0 + _SCALE / b)
        risk = analytic.risk(one, SGD(lr=rate), b, 101, record=[100, 101])["risk"].values
        effects[f"growth of the risk per step at the predicted edge, B = {b:g}"] = exact(float(risk[1] / risk[0]))
        runs = simulate(one, SGD(lr=rate), b, 1, trajectories=2**17, record=[0, 1], **ask.lab.running)
        risk, error = runs["risk"].values, runs["risk_stderr"].values
        effects[f"the same in the first step, simulated, B = {b:g}"] = quotient(
            float(risk[1]), one.initial_risk, ask.level, float(error[1] / risk[1])
        )
        rates.append(rate)
    grid = np.geomspace(1.0, 1e6, 60)
    exactly = analytic.largest_stable_lr(one, SGD(lr=1.0), batch_size=grid)["largest_stable_lr"].values
    series = {"largest stable rate": curve(grid, exactly), "(2/h)/(1 + B_noise/B)": curve(_STABLE, rates)}
    return Found(effects, Curves(series, "batch size B (examples)", "learning rate"))


_STABLE = (10.0, 1000.0, 100_000.0)

CLAIMS = (
    Claim(
        "ratio-selects-minima",
        "two wells, and noise that rises with the parameter",
        "Jastrzębski et al. 2018 (Three Factors)",
        "Between two wells, a larger α/B favors the wider one.",
        "Odds of the wide well (h = 1, shallower by 0.05) over the sharp one (h = 8) in the stationary law of "
        "plain SGD, "
        "at four times the ratio over those at the ratio: a Markov chain, exact to quadrature, at three rates; and "
        "simulated, 4096 trajectories of 20 000 steps.",
        (
            *(
                Effect(
                    f"odds of the wide well at four times α/B, over those at α/B = {rate / b:g}, α = {rate:g}",
                    f"α = {rate:g}",
                    *_MORE,
                )
                for rate, _, b in _PAIRS
            ),
            Effect(
                "odds of the wide well at α/B = 0.05 over those at 0.025, α = 0.1, simulated",
                "α = 0.1, simulated",
                *_MORE,
            ),
        ),
        "A wide well that is deeper by 0.05, which noise can only empty.",
        _minima,
        cost=5.0,
    ),
    Claim(
        "noise-regimes",
        "two wells, and noise that rises with the parameter",
        "Smith et al. 2020",
        "There is a noise-dominated regime, where the linear rule holds, and a curvature-dominated one, where "
        "it does not.",
        "Per-example variance c + 1000 h² θ² (B_noise = 1000) with h = c = 1/i: slopes of the best rate for the "
        "target and "
        "of the largest stable rate on log B, in closed form, at B = 1 to 16 and at B = 2^18 to 2^22.",
        tuple(
            Effect(f"slope of log {what} rate on log B, {name}", name, *allowed)
            for name, _, allowed in _REGIMES
            for what in ("best", "largest stable")
        ),
        "Examples of a batch are correlated: the noise falls as 1/sqrt(B).",
        _regimes,
        cost=3.0,
    ),
    Claim(
        "largest-stable-lr",
        "two wells, and noise that rises with the parameter",
        "Smith et al. 2020",
        "With multiplicative noise the largest stable rate is (2/λ) / (1 + B_noise/B).",
        "One coordinate with variance 1000 h² θ² per example: growth of the exact risk per step at that rate, "
        "which is 1 "
        "at the edge of stability, for B = 10, 1000, 100 000; and of the first step, simulated.",
        tuple(
            Effect(text.format(b), f"B = {b:g}{more}", *allowed)
            for b in _STABLE
            for text, more, allowed in (
                ("growth of the risk per step at the predicted edge, B = {:g}", "", (1.0 - 1e-6, 1.0 + 1e-6)),
                ("the same in the first step, simulated, B = {:g}", ", simulated", _SAME),
            )
        ),
        "A quarter of the noise that the prediction is made for.",
        _stable,
        cost=2.0,
    ),
)
"""Claims of this theme."""
