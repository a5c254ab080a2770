"""Weight decay and dampening in every closed form that has them, against the optimizer's own recursion."""

from __future__ import annotations

import exact_recursion
import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mcnqm
from mcnqm import SGD, NoisyQuadratic, ParameterError, analytic, averaging, optimize_schedule, schedules
from mcnqm.scheduling.rule import Rule
from mcnqm.scheduling.small_rate import SmallRateLimit

PROBLEM = NoisyQuadratic([1.0, 0.3, 0.01], [0.5, 1.0, 2.0], initial_mean=[1.0, 0.0, -1.0], initial_std=0.5)
DECAYED = SGD(0.3, weight_decay=0.2)
DAMPENED = SGD(2.0, 0.9, weight_decay=0.05, dampening=0.8)
BOTH = pytest.mark.parametrize("optimizer", [DECAYED, SGD(0.3, 0.9, True, 0.5, 0.2), DAMPENED])


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32))
def test_first_passage_is_that_of_the_exact_curve(seed: int) -> None:
    """The curve is held against 60 digits in test_transient; here no dip of it is passed over, and none invented."""
    rng = np.random.default_rng(seed)
    size, beta = int(rng.integers(1, 5)), float(rng.choice([0.0, 0.5, 0.9, 0.99]))
    h = 10 ** rng.uniform(-3, 0, size)
    problem = NoisyQuadratic(
        h,
        h * rng.uniform(0, 1, size) * rng.choice([0.0, 0.01, 1.0]),
        initial_std=rng.uniform(0, 1, size) * rng.choice([0, 1, 1], size) + 1e-3,
    )
    decay = float(rng.choice([0.0, 0.1, 1.0]) * h.max())
    dampening = float(rng.choice([0.1, beta, 0.99])) if beta else 0.0
    edge = 2 * (1 + beta) / (1 - dampening) / (h.max() + decay)
    optimizer = SGD(float(rng.uniform(0.03, 1.05) ** 2 * edge), beta, weight_decay=decay, dampening=dampening)
    average = [None, None, 0.9, averaging.tail(20)][int(rng.integers(4))]
    batch_size, last = float(rng.integers(1, 20)), 500
    every = np.arange(last + 1)
    curve = analytic.risk(problem, optimizer, batch_size, last, record=every, average=average).risk.values
    level = float(rng.choice(curve[np.isfinite(curve)]) * rng.choice([1 + 1e-9, 1 - 1e-9]))
    assume(level > 0)
    expected = np.flatnonzero(curve <= level)[0] if (curve <= level).any() else np.inf
    found = analytic.steps_to_target(problem, optimizer, batch_size, level, max_steps=last, average=average)
    assert found.steps.item() == expected


@BOTH
@pytest.mark.parametrize("average", [None, 0.95])
def test_the_steady_state_is_where_risk_and_moments_go(optimizer: SGD, average: float | None) -> None:
    late = analytic.moments(PROBLEM, optimizer, 3, 10**5, record=[10**5], average=average).isel(step=0)
    limit = analytic.steady_state(PROBLEM, optimizer, 3, coordinates=range(3), average=average)
    for name in set(limit.data_vars) - {"risk"}:
        np.testing.assert_allclose(late[name], limit[name], rtol=1e-13)
    risk = analytic.risk(PROBLEM, optimizer, 3, 10**5, record=[10**5], average=average).risk[0]
    np.testing.assert_allclose(risk, limit.risk, rtol=1e-13)


def test_the_steady_state_with_decay_is_its_closed_form() -> None:
    h, decay, lr, beta, dampening, c = 0.3, 0.2, 1.5, 0.5, 0.25, 2.0
    got = analytic.steady_state(NoisyQuadratic([h], c), SGD(lr, beta, False, 0.0, decay, dampening), 1).risk.item()
    a, pull = lr * (1 - dampening), h + decay
    expected = (1 + beta) * a * c / (2 * (2 + 2 * beta - a * pull) * (1 - beta)) * h / pull
    assert got == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize(("beta", "nesterov", "dampening"), [(0.0, False, 0.0), (0.9, True, 0.0), (0.9, False, 0.7)])
def test_the_largest_stable_rate_separates_decay_from_growth(beta, nesterov, dampening, p) -> None:
    optimizer = SGD(0.1, beta, nesterov, p, 0.4, dampening)
    top = analytic.largest_stable_lr(PROBLEM, optimizer).largest_stable_lr.item()
    for factor, stable in ((1 - 1e-9, True), (1 + 1e-9, False)):
        rate = analytic.convergence_rate(PROBLEM, optimizer._replace(lr=top * factor))
        assert (rate.decay.values.min() > 0) == stable
        assert np.isfinite(analytic.steady_state(PROBLEM, optimizer._replace(lr=top * factor), 1).risk) == stable


@BOTH
def test_the_rate_of_convergence_is_that_of_the_risk(optimizer: SGD) -> None:
    silent = NoisyQuadratic(PROBLEM.curvature[2:], 0.0)
    slowest = analytic.convergence_rate(silent, optimizer).slowest.item()
    end = int(-200 / np.log(slowest))
    risk = analytic.risk(silent, optimizer, 1, end, record=range(end + 1)).risk.values
    # Peaks of the oscillation, if there is one, over a tenth of the run in its middle and at its end.
    tenth = end // 10
    peaks = np.log([risk[5 * tenth : 6 * tenth].max(), risk[9 * tenth : 10 * tenth].max()])
    assert np.diff(peaks).item() / (4 * tenth) == pytest.approx(2 * np.log(slowest), rel=0.02)


def test_theorem_1_with_decay_and_without_dampening() -> None:
    for optimizer in (DECAYED, SGD(0.3, 0.9, weight_decay=0.2)):
        both = analytic.theorem1(PROBLEM, optimizer, 3, 10**5, record=[1, 30, 10**5])
        assert (both.bound >= both.exact * (1 - 1e-15)).all()
        assert (both.bound[:2] > both.exact[:2] * 1.001).all()
        np.testing.assert_allclose(both.bound[-1], analytic.steady_state(PROBLEM, optimizer, 3).risk, rtol=1e-13)
    with pytest.raises(ParameterError, match=r"dampening must be 0.*got 0\.8"):
        analytic.theorem1(PROBLEM, DAMPENED, 3, 10)
    # Why it is refused: the risk exceeds what would be the bound.
    alone = NoisyQuadratic([1.0], 1.0, initial_std=0.0)
    dampened = SGD(0.5, 0.5, dampening=0.9)
    steady = analytic.steady_state(alone, dampened, 1).risk
    assert analytic.risk(alone, dampened, 1, 1, record=[1]).risk[0] > steady


def test_the_small_step_limit_with_decay() -> None:
    exact = analytic.risk(PROBLEM, SGD(1e-5, weight_decay=0.3), 2, 10**6, record=[10**5, 10**6]).risk
    limit = analytic.sde_risk(PROBLEM, SGD(1e-5, weight_decay=0.3), 2, 10**6, record=[10**5, 10**6]).risk
    np.testing.assert_allclose(limit, exact, rtol=2e-5)
    with pytest.raises(ParameterError, match="momentum must be 0"):
        analytic.sde_risk(PROBLEM, DAMPENED, 2, 10)


@BOTH
def test_the_transition_is_the_response_of_the_recursion(optimizer: SGD) -> None:
    case = exact_recursion.Case(PROBLEM, optimizer, 1.0)
    for steps in (1, 2, 17):
        got = analytic.transition(PROBLEM, optimizer, 1, steps).transition.values
        for entry, h in enumerate(PROBLEM.curvature):
            mean, _ = exact_recursion.second_moments(case, entry, steps, mpmath.mpf)
            start = PROBLEM.initial_mean[entry]
            np.testing.assert_allclose(got[entry, :, 0] * start, [float(m) for m in mean[: got.shape[1]]], rtol=1e-12)
            if got.shape[1] == 2:
                # A buffer before the first step: what it moves is the same with and without a start.
                state = [mpmath.mpf(0), mpmath.mpf(1), mpmath.mpf(0)]
                state[1] = optimizer.momentum * state[1]
                state[0] = -optimizer.lr * h**-optimizer.precondition * state[1]
                if optimizer.nesterov:
                    state[0] *= optimizer.momentum
                for _ in range(steps - 1):
                    state = exact_recursion.update(case, h, state, 0, mpmath.mpf)
                np.testing.assert_allclose(got[entry, :, 1], [float(x) for x in state[:2]], rtol=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "tune"),
    [
        (SGD(0.1, weight_decay=0.02), False),
        (SGD(0.1, 0.8, dampening=0.8, weight_decay=0.01), False),
        pytest.param(SGD(0.1, 0.5, nesterov=True, weight_decay=0.02), True, marks=pytest.mark.slow),
    ],
)
def test_the_best_schedule_has_the_risk_that_it_says(optimizer: SGD, tune: bool) -> None:
    problem = NoisyQuadratic.power_law(dim=20)
    best = optimize_schedule(problem, optimizer, 16, target=0.06, pieces=12, tune_momentum=tune)
    steps = int(best.steps)
    under = mcnqm.scheduled_optimizer(best)
    assert (under.weight_decay, under.dampening) == (optimizer.weight_decay, optimizer.dampening)
    exact = analytic.risk(problem, under, 16, steps, record=[steps]).risk.item()
    assert best.risk.item() == pytest.approx(exact, rel=1e-9)
    assert best.risk <= 0.06
    constant = best.baseline_steps.sel(baseline="constant").item()
    assert steps <= constant
    # The constant baseline is what a search over rates finds: at one less, no rate gets there.
    rates = np.geomspace(0.02, 1, 400) * float(analytic.largest_stable_lr(problem, optimizer).largest_stable_lr)
    if not tune:
        early = analytic.risk(problem, optimizer._replace(lr=rates), 16, int(constant), record=[int(constant) - 1])
        assert early.risk.min() > 0.06


@pytest.mark.parametrize("optimizer", [DAMPENED, SGD(0.1, 0.5, True, 0.5, 0.2), DECAYED])
def test_rates_are_sought_up_to_the_edge_of_stability(optimizer: SGD) -> None:
    top = analytic.largest_stable_lr(PROBLEM, optimizer).largest_stable_lr.item()
    largest = Rule.of(PROBLEM, optimizer, False).largest(np.array([optimizer.momentum]))[0].item()
    assert largest == pytest.approx(top, rel=1e-3)
    assert largest <= top


def test_the_limit_of_small_rates_with_decay() -> None:
    """On one coordinate it is that of the curvature h + λ, where the loss weighs h of it."""
    h, decay = 0.3, 0.2
    limit = SmallRateLimit.of(NoisyQuadratic([h], [2.0]), 0.0, decay)
    other = SmallRateLimit.of(NoisyQuadratic([h + decay], [2.0]))
    for examples in (10.0, 1e3, 1e6):
        assert limit.risk(examples) == pytest.approx(h / (h + decay) * other.risk(examples), rel=1e-12)
        lengths = np.full(4, 25)
        np.testing.assert_allclose(limit.rates(examples, lengths), other.rates(examples, lengths), rtol=1e-12)


def test_momentum_is_not_tuned_with_dampening() -> None:
    with pytest.raises(ParameterError, match="tune_momentum must be False with dampening"):
        optimize_schedule(PROBLEM, DAMPENED, 4, steps=50, tune_momentum=True)


def test_steps_to_target_by_simulation_where_a_schedule_takes_the_momentum_away() -> None:
    """The steady state at the end of the schedule is asked for, where Nesterov's form has no momentum left."""
    optimizer = SGD(0.5, schedules.piecewise([0.9, 0.0], [20, 1]), nesterov=True, weight_decay=0.1)
    found = mcnqm.steps_to_target(PROBLEM, optimizer, 1, target=1e-3, trajectories=8, max_steps=500)
    assert found.steps.item() == np.inf
