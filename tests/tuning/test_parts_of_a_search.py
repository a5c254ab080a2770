"""What races and searches do at their seams: parts left out, windows' lag, jumps, edges, fits of parts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import mcnqm
from mcnqm import SGD, NoisyQuadratic, analytic, schedules
from mcnqm.engine import Pool
from mcnqm.progress import meter_of
from mcnqm.statistics import jackknife
from mcnqm.tuning import line, smoothing
from mcnqm.tuning.passages import race_of
from mcnqm.tuning.race import REASONS, _estimates, run_races
from mcnqm.tuning.routes import Found

QUIET = NoisyQuadratic(curvature=[1.0], noise=[0.0], initial_mean=[1.0], initial_std=[0.0])
"""Without noise and with a certain start every risk is known by hand: ½ (1 - α)^2t."""


def test_estimates_leave_out_one_part_each():
    loss = np.random.default_rng(0).exponential(size=(3, 12, 5))
    found = _estimates(loss, 4)
    np.testing.assert_allclose(found[:, 0], loss.mean(axis=1), rtol=1e-14)
    for k in range(4):
        others = np.delete(loss, slice(3 * k, 3 * k + 3), axis=1)
        np.testing.assert_allclose(found[:, 1 + k], others.mean(axis=1), rtol=1e-13)


@pytest.mark.parametrize("share", [0.93, 0.995])
def test_nobody_is_given_up_before_the_window_has_passed(share):
    """A setting that arrives just before patience ends is seen to arrive: estimates lag behind by half a window."""
    patience, first = 1.3, 2000
    rates = -np.expm1(-0.5 * np.log(10.0) / np.array([first, share * patience * first]))
    optimizer = SGD(lr=rates)
    options = {"trajectories": 1, "replicates": 2, "seed": 0, "max_steps": 10**5, "patience": patience}
    race, _ = race_of(QUIET, optimizer, 1, 0.05, **options)
    ((_, result),) = run_races([race], Pool(None, 1), meter_of(False))
    exact = analytic.steps_to_target(QUIET, optimizer, 1, 0.05).steps.values
    np.testing.assert_allclose(np.ceil(result.steps[:, 0]), exact, atol=1.0)
    assert [REASONS[k] for k in result.reason] == ["reached", "reached"]
    late = SGD(lr=-np.expm1(-0.5 * np.log(10.0) / np.array([first, 1.5 * patience * first])))
    race, _ = race_of(QUIET, late, 1, 0.05, **options)
    ((_, result),) = run_races([race], Pool(None, 1), meter_of(False))
    assert [REASONS[k] for k in result.reason] == ["reached", "overtaken"], "control"


@pytest.mark.parametrize("drop", [1000, 1030, 2050, 4090, 4200, 8300])
def test_a_rate_that_drops_late_is_waited_for(drop):
    """A steady state under the rate so far is none that stays: the risk falls once more after the drop."""
    problem = NoisyQuadratic.power_law(10)
    optimizer = mcnqm.Lion(lr=schedules.piecewise([0.02, 1e-3], [drop, 10**6]))  # whose steady state nobody knows
    found = mcnqm.steps_to_target(problem, optimizer, 4, 0.03, trajectories=16, replicates=4, max_steps=10**5)
    assert str(found.reason.values) == "reached"
    assert float(found.steps) > drop
    constant = mcnqm.steps_to_target(
        problem, mcnqm.Lion(lr=0.02), 4, 0.03, trajectories=16, replicates=4, max_steps=10**5
    )
    assert str(constant.reason.values) == "steady state above target", "control"


@pytest.mark.parametrize("at", [0.98, 1.0, 1.02])
def test_no_regression_reaches_across_a_jump(at, monkeypatch):
    """Where the rate jumps up, the risk has a kink; a window across it would be off by its own width."""
    monkeypatch.setattr(smoothing, "TELLING", np.inf)  # or the estimates themselves would tell
    slow, fast = 2e-4, 2e-2
    jump = 4000
    optimizer = SGD(lr=schedules.piecewise([slow, fast], [jump, 10**5]))
    target = 0.5 * (1 - slow) ** (2 * jump) * {0.98: 1.02, 1.0: 0.98, 1.02: 0.7}[at]
    exact = int(analytic.steps_to_target(QUIET, optimizer, 1, target).steps)
    found = mcnqm.steps_to_target(QUIET, optimizer, 1, target, trajectories=1, replicates=2)
    assert abs(float(found.steps) - exact) <= 2


def test_a_best_rate_below_the_bounds_is_found(monkeypatch):
    monkeypatch.setattr(line, "_SPAN", 1e-3)  # so that the fine grid does not get there by itself
    found = mcnqm.tune(QUIET, SGD(lr=1.0), {"lr": (1.6, 1.95)}, batch_size=1, target=0.05, method="analytic")
    assert not bool(found.at_edge)
    assert float(found.steps) == 1.0
    assert abs(1.0 - float(found.lr)) <= np.sqrt(0.1)


@pytest.mark.slow
def test_an_edge_that_widening_does_not_reach_is_said(monkeypatch):
    problem, optimizer = NoisyQuadratic.power_law(20), mcnqm.Lion(lr=1.0)
    where = {"batch_size": 1, "target": 0.02, "max_steps": 10**5}
    best = mcnqm.tune(problem, optimizer, {"lr": (1e-4, 0.1)}, **where)
    assert not bool(best.at_edge)
    monkeypatch.setattr(line, "WIDEN", 0)
    monkeypatch.setattr(line, "_SPAN", 1e-3)  # so that the fine grid does not get there by itself
    below = {"lr": (0.3 * float(best.lr), 0.301 * float(best.lr))}
    assert bool(mcnqm.tune(problem, optimizer, below, **where).at_edge)


def test_every_part_of_the_sample_has_a_fit_of_its_own():
    """Parts whose optima lie apart by design: the error of the rate is the jackknife's of their own optima."""
    places = np.log(0.1) + np.linspace(-0.2, 0.2, 9)
    tops = np.log(0.1) + np.concatenate([[0.0], 0.01 * np.linspace(-1, 1, 8) + 0.001])
    steps = 2000.0 * (1 + 2.0 * (places[:, np.newaxis] - tops) ** 2)
    interval = np.stack([steps.min(axis=1), steps.max(axis=1)], axis=1)
    found = Found(steps, interval, np.full(9, 8.0))
    route = SimpleNamespace(sampled=True, exact=False)
    tuned, _ = line._fitted(route, SGD(lr=0.1), "lr", places, found, False)
    centre, error = jackknife(tops)
    assert np.log(tuned.values["lr"]) == pytest.approx(float(centre), abs=2e-4)
    stated = tuned.errors["lr"] / tuned.values["lr"]
    assert stated >= 0.95 * np.hypot(float(error), line.FIT_RATE)
    alike, _ = line._fitted(
        route, SGD(lr=0.1), "lr", places, found._replace(steps=np.repeat(steps[:, :1], 9, axis=1)), False
    )
    assert alike.errors["lr"] < 0.6 * tuned.errors["lr"], "control"
