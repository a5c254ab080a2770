"""Schedules of Adam and RMSProp: the searches on plain functions, and what they find on small problems."""

from __future__ import annotations

import numpy as np
import pytest

from mcnqm import Adam, NoisyQuadratic, ParameterError, RMSProp, optimize_schedule, schedules, simulate
from mcnqm.scheduling.adaptive import search_adaptive
from mcnqm.scheduling.horizon import shortest
from mcnqm.scheduling.pieces import equal_pieces
from mcnqm.scheduling.refinement import refine
from mcnqm.scheduling.twin import FAMILIES, TwinObjective, optimize_constant, optimize_family, optimize_pieces

PROBLEM = NoisyQuadratic.power_law(30)


@pytest.mark.parametrize("needed", [1, 2, 37, 1000])
@pytest.mark.parametrize("guess", [1, 50, 5000])
def test_shortest_finds_the_step(needed, guess):
    tried = []

    def solve(steps, near):
        tried.append(steps)
        assert (near is None) == (len(tried) == 1)
        return steps, 1.0 / steps

    steps, solution = shortest(solve, 1.0 / needed, guess, 10**7)
    assert steps == solution == needed
    assert len(tried) < 25


def test_shortest_of_long_runs_is_resolved_to_a_thousandth():
    steps, _ = shortest(lambda n, near: (n, 1.0 / n**0.7), 123_456.0**-0.7, 10, 10**7)
    assert 123_456 <= steps <= 123_456 * 1.001


@pytest.mark.parametrize("guess", [1, 99, 100, 10_000])
def test_shortest_gives_up(guess):
    """At the limit; and where the risk is not a number."""
    assert shortest(lambda n, near: (n, 1.0 / n), 1.0 / 101, guess, 100) is None
    assert shortest(lambda n, near: (n, 1.0 / n), 1.0 / 100, guess, 100) == (100, 100)
    assert shortest(lambda n, near: (n, np.nan), 0.1, guess, 1000) is None


def test_rates_are_bounded_by_the_problem_alone():
    """A start a thousand times as far, and an ε of any size: rates scale with them."""
    far = NoisyQuadratic(PROBLEM.curvature, noise=1e6 * PROBLEM.noise, initial_std=1e3)
    near = optimize_schedule(PROBLEM, Adam(lr=1.0, eps=0.0), 4, steps=30, pieces=3, refine=False)
    large = optimize_schedule(far, Adam(lr=1.0, eps=0.0), 4, steps=30, pieces=3, refine=False)
    np.testing.assert_allclose(large.lr, 1e3 * near.lr, rtol=0.02)
    damped = optimize_schedule(PROBLEM, Adam(lr=1.0, eps=1e4), 4, steps=30, pieces=3, refine=False)
    assert float(damped.twin_risk) < 0.5 * PROBLEM.initial_risk
    assert damped.lr.max() > 1e3


def test_an_unreachable_target_is_inf_and_not_for_ever():
    found = optimize_schedule(PROBLEM, Adam(lr=1.0), [4, 64], target=0.05, pieces=5, max_steps=40, refine=False)
    assert np.isinf(found.steps[0])
    assert np.isnan(found.lr[0]).all()
    alone = optimize_schedule(
        PROBLEM, Adam(lr=1.0), 64, target=0.5, pieces=3, max_steps=100, baselines=False, refine=False
    )
    assert np.isfinite(alone.steps)
    assert "gain" not in alone
    tiny = NoisyQuadratic([1.0, 0.5, 0.3], noise=[1e-6] * 3, initial_std=1e-3)
    quick = optimize_schedule(tiny, Adam(lr=1.0), 1, target=0.5 * tiny.initial_risk, pieces=3, refine=False)
    assert quick.steps < 1000


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"spacing": "geometric"}, "spacing"),
        ({"tune_momentum": True}, "tune_momentum"),
        ({"lengths": [5, 5]}, "lengths"),
        ({"reference_trajectories": 0}, "reference_trajectories"),
        ({"seed": -1}, "seed"),
        ({"largest_risk": 10.0}, "largest_risk"),
        ({"optimizer": Adam(lr=[0.1, 0.2])}, "lr"),
    ],
)
def test_refusals(changes, name):
    with pytest.raises(ParameterError) as caught:
        optimize_schedule(**{"problem": PROBLEM, "optimizer": Adam(lr=1.0), "batch_size": 4, "steps": 10, **changes})
    assert caught.value.name == name


def test_pieces_add_up():
    for steps in (1, 7, 50, 51, 1234):
        lengths = equal_pieces(steps, 50)
        assert lengths.sum() == steps
        assert lengths.size == min(steps, 50)
        assert lengths.max() - lengths.min() <= 1


def test_refine_minimises_and_never_worsens():
    lengths = equal_pieces(100, 10)
    log_rates = np.linspace(-1.0, -3.0, 10)

    def distance(schedule):
        return float(np.abs(np.log(schedule([0, 99]) / np.array([0.5, 0.02]))).sum())

    before = distance(schedules.piecewise(np.exp(log_rates), lengths))
    found, after = refine(distance, log_rates, lengths, evaluations=80)
    assert after == pytest.approx(distance(schedules.piecewise(np.exp(found), lengths)), rel=1e-9)
    assert after < 0.3 * before
    still, level = refine(lambda schedule: 1.0, log_rates, lengths)
    assert level == 1.0
    np.testing.assert_array_equal(still, log_rates)


@pytest.mark.parametrize("optimizer", [Adam(lr=1.0), RMSProp(lr=1.0)], ids=["Adam", "RMSProp"])
@pytest.mark.parametrize("batch_size", [1.0, 16.0, 256.0])
def test_pieces_beat_constants_and_families(optimizer, batch_size):
    """Of the twin, exactly; with one piece they are the best constant."""
    objective = TwinObjective(PROBLEM, optimizer, batch_size)
    steps = 400
    log_rate, constant = optimize_constant(objective, steps, 1e-2)
    one, risk = optimize_pieces(objective, equal_pieces(steps, 1), np.array([log_rate + 0.3]))
    assert risk == pytest.approx(constant, rel=1e-5)
    assert one[0] == pytest.approx(log_rate, abs=0.01)
    lengths = equal_pieces(steps, 50)
    _, best = optimize_pieces(objective, lengths, np.full(lengths.size, log_rate))
    assert best < 0.9 * constant
    for name in FAMILIES:
        schedule, family = optimize_family(objective, name, steps, log_rate)
        assert family == pytest.approx(objective.at(schedule(np.arange(steps))), rel=1e-12)
        assert best < family < constant


def test_the_objective_does_not_depend_on_threads():
    rates = np.geomspace(0.1, 0.01, 3000)
    found = []
    for threads in (1, 2):
        gradient = np.zeros(rates.size)
        found.append((TwinObjective(PROBLEM, Adam(lr=1.0), 4.0, threads).at(rates, gradient), gradient))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_a_horizon_is_reached_in_simulation():
    """Risk at most the target within four standard errors and a tenth of a percent; at three quarters of it, not."""
    target, batch_size = 0.05, 4.0
    found = search_adaptive(PROBLEM, Adam(lr=1.0), batch_size, target=target, pieces=10, refined=False)
    steps, stderr = int(found.lengths.sum()), found.values["risk_stderr"]
    assert found.values["risk"] < 1.001 * target + 4 * stderr
    assert found.baseline_steps["constant"] > 1.3 * steps
    assert all(needed >= 0.99 * steps for needed in found.baseline_steps.values())
    short = search_adaptive(PROBLEM, Adam(lr=1.0), batch_size, steps=3 * steps // 4, pieces=10, refined=False)
    assert short.values["risk"] > 1.05 * target
    schedule = schedules.piecewise(found.pieces["lr"], found.lengths)
    again = simulate(PROBLEM, Adam(lr=schedule), batch_size, steps, trajectories=64, seed=99, record=[steps])
    z = (float(again.risk[0]) - found.values["risk"]) / np.hypot(float(again.risk_stderr[0]), stderr)
    assert abs(z) < 4.5  # false alarms: 7e-6
