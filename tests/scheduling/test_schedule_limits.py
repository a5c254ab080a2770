"""A largest rate and a largest risk on the way: kept at every step, and no more than kept."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import optimize

from mcnqm import SGD, Adam, NoisyQuadratic, ParameterError, analytic, optimize_schedule, scheduled_optimizer
from mcnqm.schedules import piecewise
from mcnqm.scheduling import limits
from mcnqm.scheduling.families import Cosine, Exponential, Free
from mcnqm.scheduling.limits import highest_risk, minimize_within
from mcnqm.scheduling.pieces import log_cap, piece_lengths
from mcnqm.scheduling.rule import Candidate, Rule

PROBLEM = NoisyQuadratic.power_law(30)
START = PROBLEM.initial_risk


def walked(best: xr.Dataset, batch_size: float, problem: NoisyQuadratic = PROBLEM) -> np.ndarray:
    """Exact risk after every step, from theory that knows nothing of composed maps."""
    steps = int(best.steps)
    return analytic.risk(problem, scheduled_optimizer(best), batch_size, steps, record=np.arange(steps + 1)).risk.values


@pytest.mark.parametrize(
    ("optimizer", "batch_size", "steps"),
    [
        (SGD(lr=1.0), 4, 150),
        (SGD(lr=1.0, momentum=0.9), 64, 100),
        pytest.param(SGD(lr=1.0, momentum=0.8, nesterov=True), 16, 100, marks=pytest.mark.slow),
        pytest.param(SGD(lr=1.0, momentum=0.8, dampening=0.5), 64, 100, marks=pytest.mark.slow),
        pytest.param(SGD(lr=1.0, momentum=0.8), 64, 100, marks=pytest.mark.slow, id="tuned"),
    ],
)
def test_the_limit_holds_at_every_step_and_binds(
    optimizer: SGD, batch_size: int, steps: int, request: pytest.FixtureRequest
) -> None:
    problem, options = NoisyQuadratic.power_law(100), {"tune_momentum": "tuned" in request.node.name}
    free = optimize_schedule(problem, optimizer, batch_size, steps=steps, pieces=8, **options)
    limit = (float(free.largest_risk) * problem.initial_risk) ** 0.5
    assert limit > 1.1 * problem.initial_risk
    best = optimize_schedule(problem, optimizer, batch_size, steps=steps, pieces=8, largest_risk=limit, **options)
    for answer in (free, best):
        exact = walked(answer, batch_size, problem)
        assert float(answer.largest_risk) == pytest.approx(exact.max(), rel=1e-10)
        assert float(answer.risk) == pytest.approx(exact[-1], rel=1e-9)
    assert 0.99 * limit < exact.max() <= limit * (1 + 1e-12)
    assert float(free.risk) * (1 - 1e-9) <= float(best.risk)
    assert float(best.risk) <= float(best.baseline_risk.sel(baseline="constant")) * (1 + 1e-9)


@pytest.mark.parametrize("goal", [{"steps": 150}, {"target": 0.05}])
def test_slack_limits_change_no_bit(goal: dict) -> None:
    free = optimize_schedule(PROBLEM, SGD(lr=1.0), [4, 64], pieces=8, **goal)
    most = {"largest_lr": 10.0, "largest_risk": 1e6}
    slack = optimize_schedule(PROBLEM, SGD(lr=1.0), [4, 64], pieces=8, **most, **goal)
    xr.testing.assert_equal(free, slack)


def test_a_largest_rate_against_brute_force() -> None:
    """Two pieces: no pair of rates within the limit leaves less, and the best pair beyond it does."""
    lengths = [60, 40]

    def risk(rates: np.ndarray) -> float:
        optimizer = SGD(lr=piecewise(rates, lengths))
        return analytic.risk(PROBLEM, optimizer, 4, 100, record=[100]).risk.item()

    for largest in (0.5, 0.02):
        best = optimize_schedule(PROBLEM, SGD(lr=1.0), 4, steps=100, lengths=lengths, largest_lr=largest)
        brute = optimize.brute(risk, [(1e-4, largest), (1e-4, largest)], Ns=25, full_output=True, finish=None)
        assert (best.lr <= largest).all()
        assert best.lr[0] == largest  # it binds
        assert float(best.risk) <= brute[1] * (1 + 1e-12)
        assert float(best.risk) == pytest.approx(brute[1], rel=0.01)
        rates = np.geomspace(1e-4, largest, 200)
        constant = analytic.risk(PROBLEM, SGD(lr=rates), 4, 100, record=[100]).risk.values.min()
        assert float(best.baseline_risk.sel(baseline="constant")) == pytest.approx(constant, rel=1e-3)
        assert (best.baseline_risk >= best.risk).sel(baseline=["constant", "exponential"]).all()
    assert float(optimize_schedule(PROBLEM, SGD(lr=1.0), 4, steps=100, lengths=lengths).risk) < 0.9 * float(best.risk)


def test_a_largest_risk_against_brute_force() -> None:
    """Two pieces, on every pair of rates of a grid that stays within the limit at every step."""
    # A far start along a flat valley asks for rates under which the noise across it gets out of hand.
    problem, lengths = NoisyQuadratic([1.0, 0.02], [1.0, 0.02], initial_mean=[0.0, 10.0], initial_std=0.0), [80, 40]

    def curve(rates: np.ndarray) -> np.ndarray:
        optimizer = SGD(lr=piecewise(rates, lengths))
        return analytic.risk(problem, optimizer, 1, 120, record=np.arange(1, 121)).risk.values

    free = optimize_schedule(problem, SGD(lr=1.0), 1, steps=120, lengths=lengths)
    limit = 1.2 * problem.initial_risk
    assert float(free.largest_risk) > 1.5 * limit
    best = optimize_schedule(problem, SGD(lr=1.0), 1, steps=120, lengths=lengths, largest_risk=limit)
    assert curve(best.lr.values).max() <= limit * (1 + 1e-12)

    def risk(rates: np.ndarray) -> float:
        values = curve(rates)
        return float(values[-1]) if values.max() <= limit else 1e3

    near = best.lr.values
    brute = optimize.brute(risk, [(0.7 * x, min(1.1 * x, 1.999)) for x in near], Ns=41, full_output=True, finish=None)
    assert float(best.risk) <= brute[1] * (1 + 1e-12)
    assert float(best.risk) == pytest.approx(brute[1], rel=0.01)


@pytest.mark.slow
def test_a_largest_risk_against_another_method() -> None:
    """SciPy's SLSQP, with differences for gradients and a constraint at every step, ends at the same risk."""
    problem, lengths = NoisyQuadratic.power_law(100), piece_lengths(150, 6)
    limit = problem.initial_risk
    assert optimize_schedule(problem, SGD(lr=1.0), 4, steps=150, pieces=6).largest_risk > 2.0 * limit
    best = optimize_schedule(problem, SGD(lr=1.0), 4, steps=150, pieces=6, largest_risk=limit)

    def curve(x: np.ndarray) -> np.ndarray:
        optimizer = SGD(lr=piecewise(np.exp(x), lengths))
        return np.log(analytic.risk(problem, optimizer, 4, 150, record=np.arange(1, 151)).risk.values)

    found = optimize.minimize(
        lambda x: curve(x)[-1],
        np.log(best.lr.values) - 0.3,
        method="SLSQP",
        bounds=[(-12.0, np.log(1.9999999))] * 6,
        constraints={"type": "ineq", "fun": lambda x: np.log(limit) - curve(x)},
        options={"ftol": 1e-10, "maxiter": 300},
    )
    assert found.success
    assert np.log(float(best.risk)) == pytest.approx(found.fun, abs=2e-4)


def test_to_a_target() -> None:
    """Not fewer steps than without the limit; and with 2 % less the best within the limit is above the target."""
    problem, rule = NoisyQuadratic.power_law(100), {"target": 0.1, "pieces": 8, "baselines": False}
    start = problem.initial_risk
    free = optimize_schedule(problem, SGD(lr=1.0), 4, **rule)
    best = optimize_schedule(problem, SGD(lr=1.0), 4, largest_risk=start, **rule)
    assert float(free.largest_risk) > 1.5 * start
    assert best.steps >= free.steps
    assert walked(best, 4, problem).max() <= start * (1 + 1e-12)
    assert float(best.risk) <= 0.1
    fewer = {"steps": int(0.98 * best.steps), "pieces": 8, "baselines": False}
    assert float(optimize_schedule(problem, SGD(lr=1.0), 4, largest_risk=start, **fewer).risk) > 0.1
    slow = optimize_schedule(problem, SGD(lr=1.0), 4, largest_lr=0.1, **rule)
    assert slow.steps > free.steps
    assert (slow.lr <= 0.1).all()


def test_bins_only_lead_the_way_here_too() -> None:
    problem = NoisyQuadratic.power_law(120)
    best = optimize_schedule(
        problem, SGD(lr=1.0), 4, steps=150, pieces=6, bins=20, largest_risk=problem.initial_risk, baselines=False
    )
    full = optimize_schedule(
        problem, SGD(lr=1.0), 4, steps=150, pieces=6, bins=120, largest_risk=problem.initial_risk, baselines=False
    )
    assert walked(best, 4, problem).max() <= problem.initial_risk * (1 + 1e-12)
    assert float(best.risk) == pytest.approx(float(full.risk), rel=1e-3)


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("kind", [Free, Exponential, Cosine])
def test_gradients_of_what_is_minimized(tuned: bool, kind: type) -> None:
    """With dampening where momentum is not tuned: its first step is a piece of its own."""
    optimizer = SGD(lr=0.1, momentum=0.6, dampening=0.0 if tuned else 0.3)
    rule = Rule.of(PROBLEM, optimizer, tuned, 1.2)
    family = kind(piece_lengths(60, 6), tuned)
    function = limits._Lagrangian(rule.composed(PROBLEM, 1.0), rule, family, 1.0)
    function.multipliers = np.linspace(0.0, 1.0, function.parts.size)
    rng = np.random.default_rng(0)
    low, high = np.array(family.bounds()).T
    p = np.clip(rng.uniform(-1.5, -0.1, low.size), low, high)
    p = np.where(low == 0.0, rng.uniform(0.2, 0.8, low.size), p)
    function.limit = float(np.exp(np.median(function.excess(p))))  # half of the places are above it
    _, slopes = function(p)
    for k in range(p.size):
        up, down = p.copy(), p.copy()
        up[k] += 1e-6
        down[k] -= 1e-6
        assert slopes[k] == pytest.approx((function(up)[0] - function(down)[0]) / 2e-6, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_highest_risk_of_a_very_long_run(momentum: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not looked at step by step, it is the same: the peak inside of a piece is found, between its ends."""
    rule = Rule.of(PROBLEM, SGD(lr=1.0, momentum=momentum), False)
    composed = rule.composed(PROBLEM, 64.0)
    found = Candidate(np.array([3, 3000, 1500]), np.log([0.02, 0.97, 0.1]), np.zeros(3))
    every = highest_risk(composed, rule, found)
    lr, beta = found.values(rule)
    monkeypatch.setattr(limits, "_EVERY", 0)
    assert highest_risk(composed, rule, found) == pytest.approx(every, rel=1e-3)
    assert every > 1.05 * composed.risks(lr, beta, found.lengths).max()


def test_an_impossible_start_is_brought_within() -> None:
    """A descent may begin where the risk overflows the limit a millionfold; what comes out is within."""
    rule = Rule.of(PROBLEM, SGD(lr=1.0, momentum=0.99), False)
    composed, family = rule.composed(PROBLEM, 1.0), Free(piece_lengths(200, 5), False)
    p, value = minimize_within(composed, rule, family, [np.zeros(5)], 2.0 * START)
    assert highest_risk(composed, rule, family.at(p)) <= 2.0 * START
    assert value < np.log(START)


def test_adaptive_rates_have_a_largest_too() -> None:
    options = {"steps": 100, "pieces": 5, "reference_trajectories": 2}
    free = optimize_schedule(PROBLEM, Adam(lr=1.0), 16, **options)
    best = optimize_schedule(PROBLEM, Adam(lr=1.0), 16, largest_lr=0.03, **options)
    assert free.lr.max() > 0.06
    assert (best.lr <= 0.03).all()
    assert best.lr.max() > 0.0299
    assert (best.twin_risk > free.twin_risk).all()
    assert (best.baseline_risk >= free.baseline_risk * (1 - 1e-6)).all()
    for largest in (0.03, 1.0, 7.3, 1e-20, 1e20):
        assert 0.999999 * largest < np.exp(log_cap(largest)) <= largest
    assert log_cap(np.inf) == np.inf


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"largest_lr": 0.0}, "largest_lr"),
        ({"largest_lr": "high"}, "largest_lr"),
        ({"largest_lr": [0.1, 0.2]}, "largest_lr"),
        ({"largest_risk": -1.0}, "largest_risk"),
        ({"largest_risk": 0.99 * START}, "largest_risk"),
        ({"largest_risk": [10.0, 20.0]}, "largest_risk"),
        ({"largest_risk": np.inf}, "largest_risk"),
        ({"optimizer": Adam(lr=1.0), "largest_risk": 10.0}, "largest_risk"),
    ],
)
def test_refused_by_their_names(changes: dict, name: str) -> None:
    with pytest.raises(ParameterError) as caught:
        optimize_schedule(**{"problem": PROBLEM, "optimizer": SGD(lr=1.0), "batch_size": 4, "steps": 10, **changes})
    assert caught.value.name == name


def test_the_least_limit_there_is_would_overflow():
    with pytest.raises(ParameterError, match="largest_lr must be >= 1e-60"):
        optimize_schedule(NoisyQuadratic([1.0]), SGD(lr=1.0), 1, steps=1, largest_lr=5e-324)
