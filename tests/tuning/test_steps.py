"""Steps to target and tuning: the simulated route against the exact one, and every way of not arriving."""

from __future__ import annotations

import numpy as np
import pytest

import mcnqm
from mcnqm import SGD, Adam, NoisyQuadratic, ParameterError
from mcnqm.statistics import jackknife
from mcnqm.tuning import smoothing

PROBLEM = NoisyQuadratic.power_law(300)


@pytest.mark.parametrize("optimizer", [SGD(lr=1.0), SGD(lr=1.0, momentum=0.9), SGD(lr=1.0, precondition=0.5)])
@pytest.mark.parametrize("batch_size", [4, 64, 1024])
def test_simulated_steps_agree_with_exact_ones(optimizer, batch_size):
    """Around the best rate; |z| < 4.5 with an error of 0.3 % added for the regression (false alarm below 1e-4)."""
    bounds = (1e-3, 0.5)
    best = float(
        mcnqm.tune(PROBLEM, optimizer, {"lr": bounds}, batch_size=batch_size, target=0.05, method="analytic").lr
    )
    swept = optimizer._replace(lr=best * np.array([0.8, 0.9, 1.0]))
    exact = mcnqm.steps_to_target(PROBLEM, swept, batch_size, 0.05, method="analytic")
    found = mcnqm.steps_to_target(PROBLEM, swept, batch_size, 0.05, trajectories=8, replicates=8, seed=3)
    error = np.hypot(found.steps_stderr, 0.003 * exact.steps + 0.5)
    z = (found.steps - exact.steps) / error
    assert np.abs(z).max() < 4.5, (found.steps.values, found.steps_stderr.values, exact.steps.values)


def test_a_plain_first_passage_is_early():
    """Negative control: the first time that the unsmoothed mean of a few trajectories is below the target."""
    optimizer, batch_size = SGD(lr=0.045), 4
    exact = float(mcnqm.steps_to_target(PROBLEM, optimizer, batch_size, 0.05, method="analytic").steps)
    last = int(1.2 * exact)
    runs = mcnqm.simulate(PROBLEM, optimizer, batch_size, last, trajectories=64, record=range(0, last, 4))
    groups = runs.loss.values.reshape(16, 4, -1).mean(axis=1)
    first = runs.step.values[(groups <= 0.05).argmax(axis=1)]
    found = mcnqm.steps_to_target(PROBLEM, optimizer, batch_size, 0.05, trajectories=4, replicates=16)
    assert first.mean() < 0.97 * exact
    assert abs(float(found.steps) / exact - 1) < 0.03


def test_short_runs_are_exact_to_the_step():
    """Without noise and with a fixed start there is nothing to estimate."""
    still = NoisyQuadratic([1.0, 0.1], noise=0.0, initial_mean=1.0, initial_std=0.0)
    swept = SGD(lr=[0.1, 0.5, 1.0, 1.9], momentum=0.5)
    exact = mcnqm.steps_to_target(still, swept, 1, 1e-3, method="analytic")
    found = mcnqm.steps_to_target(still, swept, 1, 1e-3)
    assert (exact.steps < 256).all()
    np.testing.assert_array_equal(found.steps, exact.steps)
    np.testing.assert_array_equal(found.steps_stderr, 0)


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize(("slowest", "target"), [(1e-3, 3.4e-8), (1e-9, 0.0101)], ids=["steep", "onto a floor"])
def test_a_risk_that_bends_gets_a_narrow_window(monkeypatch, slowest, target, guarded):
    """An exponential, in a run so long that the window is wide by default, to 0 or onto a plateau 1 % below the target.

    Negative control: without the guard a quadratic does not follow it.
    """
    if not guarded:
        monkeypatch.setattr(smoothing, "TELLING", np.inf)
    start = [1.0, 30.0, np.sqrt(2 * 0.01 / slowest)] if slowest < 1e-6 else [1.0, 1.0, 0.0]
    still = NoisyQuadratic([1.0, 1.5e-3, slowest], noise=0.0, initial_mean=start, initial_std=0.0)
    exact = float(mcnqm.steps_to_target(still, SGD(lr=1.0), 1, target, method="analytic").steps)
    found = float(mcnqm.steps_to_target(still, SGD(lr=1.0), 1, target).steps)
    assert exact > smoothing.WIDE_FROM
    assert (abs(found / exact - 1) < 1e-3) == guarded


@pytest.mark.slow
def test_errors_of_long_runs():
    """Eight trajectories in all, near the best rate: 60 seeds, z like t with 7 degrees of freedom (r.m.s. 1.18).

    Its r.m.s. over 60 seeds is above 1.6 by chance with probability below 1e-3. Negative control: the error of a mean
    that takes all trajectories for four times as many is too small.
    """
    optimizer = SGD(lr=0.045)
    exact = float(mcnqm.steps_to_target(PROBLEM, optimizer, 4, 0.05, method="analytic").steps)
    assert exact > smoothing.WIDE_FROM
    found = [
        mcnqm.steps_to_target(PROBLEM, optimizer, 4, 0.05, trajectories=1, replicates=8, seed=seed)
        for seed in range(60)
    ]
    z = np.array([(float(one.steps) - exact) / float(one.steps_stderr) for one in found])
    assert np.sqrt(np.mean(z**2)) < 1.6
    assert np.sqrt(np.mean((2 * z) ** 2)) > 1.6


def test_reached_at_the_start():
    assert float(mcnqm.steps_to_target(PROBLEM, SGD(lr=0.1), 4, 100.0).steps) == 0


def test_reasons():
    swept = SGD(lr=[0.01, 1.9, 3.0, 1e-6])
    found = mcnqm.steps_to_target(PROBLEM, swept, 1, 0.05, max_steps=50_000)
    assert found.reason.values.tolist() == ["reached", "steady state above target", "diverged", "step limit"]
    assert np.isinf(found.steps.values[1:]).all()
    hurried = mcnqm.steps_to_target(PROBLEM, SGD(lr=[0.05, 0.01]), 16, 0.05, overtaken_factor=1.3)
    assert hurried.reason.values.tolist() == ["reached", "overtaken"]


def test_a_plateau_is_not_a_steady_state():
    """Two time scales: the risk stands still for three octaves, then falls again."""
    slow = NoisyQuadratic([1.0, 1e-5], noise=1e-9, initial_mean=[1.0, 400.0], initial_std=0.0)
    exact = mcnqm.steps_to_target(slow, SGD(lr=0.5), 1, 0.3, method="analytic")
    found = mcnqm.steps_to_target(slow, SGD(lr=0.5), 1, 0.3)
    assert found.reason.item() == "reached"
    assert float(found.steps) == pytest.approx(float(exact.steps), rel=1e-3)


def test_errors_of_short_runs():
    """Crossings within a few steps: the error is not zero, and covers (rms z below 2 over 40 seeds)."""
    problem, optimizer = NoisyQuadratic.power_law(100), SGD(lr=0.8)
    exact = float(mcnqm.steps_to_target(problem, optimizer, 1024, 1.0, method="analytic").steps)
    found = [mcnqm.steps_to_target(problem, optimizer, 1024, 1.0, replicates=8, seed=seed) for seed in range(40)]
    errors = np.array([float(f.steps_stderr) for f in found])
    steps = np.array([float(f.steps) for f in found])
    assert 3 < exact < 256
    assert (errors > 0).all()
    assert np.sqrt(np.mean(((steps - 0.5 - (exact - 0.5)) / np.hypot(errors, 0.3)) ** 2)) < 2, (steps, errors, exact)
    assert steps.std() < 2 * errors.mean() + 0.5


def test_deterministic_and_the_same_on_any_number_of_threads():
    swept = Adam(lr=[1e-3, 3e-3])
    once = mcnqm.steps_to_target(PROBLEM, swept, 16, 0.05, threads=1)
    assert once.identical(mcnqm.steps_to_target(PROBLEM, swept, 16, 0.05, threads=2))
    alone = mcnqm.steps_to_target(PROBLEM, Adam(lr=3e-3), 16, 0.05)
    assert float(alone.steps) == float(once.steps[1])


@pytest.mark.parametrize("batch_size", [8, 128])
def test_tuned_rate_and_steps_agree_with_exact_ones(batch_size):
    """|z| < 4.5 each; the errors include the local fit's own."""
    for optimizer in (SGD(lr=1.0), SGD(lr=1.0, momentum=0.9)):
        arguments = {"batch_size": batch_size, "target": 0.05}
        exact = mcnqm.tune(PROBLEM, optimizer, {"lr": (1e-3, 1.0)}, method="analytic", **arguments)
        found = mcnqm.tune(PROBLEM, optimizer, {"lr": (1e-3, 1.0)}, replicates=8, **arguments)
        assert not found.at_edge
        assert abs(found.lr - exact.lr) < 4.5 * found.lr_stderr, (
            float(found.lr),
            float(found.lr_stderr),
            float(exact.lr),
        )
        assert abs(found.steps - exact.steps) < 4.5 * found.steps_stderr, (found.steps.item(), exact.steps.item())
        # Negative control: a rate off by a half is far outside.
        assert abs(1.5 * found.lr - exact.lr) > 4.5 * found.lr_stderr


def test_a_search_widens_by_itself():
    narrow = mcnqm.tune(PROBLEM, SGD(lr=1.0), {"lr": (1e-4, 1e-3)}, batch_size=64, target=0.05, method="analytic")
    wide = mcnqm.tune(PROBLEM, SGD(lr=1.0), {"lr": (1e-3, 1.0)}, batch_size=64, target=0.05, method="analytic")
    assert not narrow.at_edge
    assert float(narrow.steps) == pytest.approx(float(wide.steps), rel=0.01)


@pytest.mark.parametrize("method", ["simulate", "analytic"])
def test_a_target_reached_at_the_start(method):
    small = NoisyQuadratic.power_law(20)
    best = mcnqm.tune(small, SGD(lr=1.0), {"lr": (0.1, 0.2)}, batch_size=1, target=50.0, method=method)
    assert float(best.steps) == 0


def test_bounds_far_below_the_best_rate():
    """Nothing arrives between them: the search looks both ways."""
    small = NoisyQuadratic.power_law(20)
    best = mcnqm.tune(small, SGD(lr=1.0), {"lr": (1e-5, 1e-4)}, batch_size=16, target=0.05, max_steps=3000)
    exact = mcnqm.tune(small, SGD(lr=1.0), {"lr": (1e-2, 1.0)}, batch_size=16, target=0.05, method="analytic")
    assert float(best.steps) == pytest.approx(float(exact.steps), rel=0.1)


def test_several_hyperparameters_beat_one():
    small = NoisyQuadratic.power_law(30)
    arguments = {"batch_size": 256, "target": 0.02, "method": "analytic"}
    fixed = mcnqm.tune(small, SGD(lr=1.0, momentum=0.9), {"lr": (1e-2, 1.0)}, **arguments)
    both = mcnqm.tune(small, SGD(lr=1.0), {"lr": (1e-2, 1.0), "momentum": (0.0, 0.95)}, **arguments)
    assert float(both.steps) <= float(fixed.steps)
    assert 0 <= float(both.momentum) < 1


def test_an_unreachable_target():
    best = mcnqm.tune(
        PROBLEM, SGD(lr=1.0, precondition=-3.0), {"lr": (1.0, 2.0)}, batch_size=1, target=1e-9, max_steps=200
    )
    assert np.isinf(best.steps)
    assert np.isnan(best.lr)


def test_jackknife_of_a_mean_and_of_a_square():
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 1.0, size=(4000, 10))
    mean = x.mean(axis=1, keepdims=True)
    others = mean + (mean - x) / 9
    estimate, stderr = jackknife(np.concatenate([mean, others], axis=1))
    np.testing.assert_allclose(estimate, mean[:, 0], rtol=1e-12)
    np.testing.assert_allclose(stderr, x.std(axis=1, ddof=1) / np.sqrt(10), rtol=1e-12)
    # The square of a mean is biased by variance / n = 0.1; corrected it is not (standard errors: 0.01).
    square, _ = jackknife(np.concatenate([mean, others], axis=1) ** 2)
    assert abs((mean**2).mean() - 1.1) < 0.06
    assert abs(square.mean() - 1.0) < 0.06


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"target": 0.0}, "target"),
        ({"target": -1}, "target"),
        ({"method": "guess"}, "method"),
        ({"trajectories": 0}, "trajectories"),
        ({"replicates": 1}, "replicates"),
        ({"max_steps": 0}, "max_steps"),
        ({"overtaken_factor": 0.5}, "overtaken_factor"),
        ({"seed": -1}, "seed"),
        ({"problem": 3}, "problem"),
    ],
)
def test_bad_input(changes, name):
    arguments = {"problem": PROBLEM, "optimizer": SGD(lr=0.1), "batch_size": 4, "target": 0.1}
    with pytest.raises(ParameterError) as caught:
        mcnqm.steps_to_target(**{**arguments, **changes})
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("search", "name"),
    [
        ({}, "search"),
        ({"rate": (0.1, 1)}, "search"),
        ({"lr": 0.1}, "lr"),
        ({"lr": (1.0, 0.1)}, "lr"),
        ({"lr": (-1.0, 0.1)}, "lr"),
        ({"momentum": (0.5, 1.0)}, "momentum"),
    ],
)
def test_bad_search(search, name):
    with pytest.raises(ParameterError) as caught:
        mcnqm.tune(PROBLEM, SGD(lr=0.1), search, batch_size=4)
    assert caught.value.name == name
