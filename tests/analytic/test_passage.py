"""First passage against a plain walk through every step."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mcnqm
from mcnqm import SGD, NoisyQuadratic, ParameterError, analytic


def first_step(problem: NoisyQuadratic, optimizer: SGD, batch_size: float, target: float, last: int) -> float:
    """The recursion of the second moments, step by step, in doubles; for p = 0, and without closed forms."""
    h, s2 = problem.curvature, problem.noise / batch_size
    lr, beta = float(optimizer.lr), float(optimizer.momentum)  # type: ignore[arg-type]
    P, C, Q = problem.initial_second_moment.copy(), np.zeros_like(h), np.zeros_like(h)
    weight = 0.5 * problem.multiplicity * h
    for step in range(last + 1):
        if np.sum(weight * P) <= target:
            return step
        noisy = h**2 * P + s2  # E g²
        if optimizer.nesterov:  # θ' = θ - α((1+β) g + β² m)
            gm, tm, tg, mm = h * C, C, h * P, Q
            a, b = lr * (1 + beta), lr * beta**2
            Q = beta**2 * mm + 2 * beta * gm + noisy
            new = P - 2 * a * tg - 2 * b * tm + a**2 * noisy + 2 * a * b * gm + b**2 * mm
            C = beta * tm + tg - a * (beta * gm + noisy) - b * (beta * mm + gm)
            P = new
        else:
            Q = beta**2 * Q + 2 * beta * h * C + noisy
            R = beta * C + h * P
            P, C = P - 2 * lr * R + lr**2 * Q, R - lr * Q
    return np.inf


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32))
def test_first_passage_is_that_of_the_step_by_step_walk(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 6))
    h = 10 ** rng.uniform(-3, 0, size)
    problem = NoisyQuadratic(
        h,
        h * rng.uniform(0, 1, size) * rng.choice([0.0, 0.01, 1.0]),
        initial_std=rng.uniform(0, 1, size) * rng.choice([0, 1, 1], size) + 1e-3,
        multiplicity=rng.integers(1, 4, size),
    )
    beta = float(rng.choice([0, 0.5, 0.9, 0.99]))
    nesterov = bool(rng.random() < 0.3) and beta > 0
    edge = 2 * (1 + beta) / (1 + 2 * beta if nesterov else 1)
    optimizer = SGD(float(rng.uniform(0.03, 1.05) ** 2 * edge / h.max()), beta, nesterov)
    batch_size = float(rng.integers(1, 20))
    last = 800
    curve = analytic.risk(problem, optimizer, batch_size, last, record=np.arange(last + 1)).risk.values
    # A level that the curve has at some step, or misses by a hair: dips are found, and not invented.
    level = float(rng.choice(curve[np.isfinite(curve)]) * rng.choice([1 + 1e-9, 1 - 1e-9]))
    assume(level > 0)
    expected = first_step(problem, optimizer, batch_size, level, last)
    got = analytic.steps_to_target(problem, optimizer, batch_size, level, max_steps=last).steps.item()
    assert got == expected


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_first_passage_of_an_average_and_of_a_preconditioner(seed: int) -> None:
    rng = np.random.default_rng(seed)
    h = 10 ** rng.uniform(-2, 0, 3)
    problem = NoisyQuadratic(h, 0.3 * h, initial_std=rng.uniform(0.1, 1, 3))
    average = float(rng.choice([0.5, 0.9, 0.99]))
    for optimizer, mean in (
        (SGD(rng.uniform(0.05, 1.9)), average),
        (SGD(rng.uniform(0.05, 1.9), 0.9, False, 0.5), None),
    ):
        curve = analytic.risk(problem, optimizer, 9, 600, record=np.arange(601), average=mean).risk.values
        level = float(rng.choice(curve)) * (1 + 1e-9)
        got = analytic.steps_to_target(problem, optimizer, 9, level, average=mean).steps.item()
        assert got == np.flatnonzero(curve <= level)[0]


def test_the_oscillating_case_that_breaks_bisection() -> None:
    problem, optimizer = NoisyQuadratic([1.0], 1e-6), SGD(1.0, momentum=0.99)
    curve = analytic.risk(problem, optimizer, 1, 400, record=np.arange(401)).risk.values
    assert np.sum(np.diff(curve) > 0) == 194  # not monotone by far
    for level in np.geomspace(curve.min() * 1.001, curve.max(), 200):
        got = analytic.steps_to_target(problem, optimizer, 1, level).steps.item()
        assert got == np.flatnonzero(curve <= level)[0] == first_step(problem, optimizer, 1, level, 400)


def test_plain_sgd_can_dip_below_a_target_and_rise_again() -> None:
    # A steep coordinate falls while a flat one, started at its minimum, climbs to its noise.
    problem = NoisyQuadratic([1.0, 0.01], [0.0, 40.0], initial_std=[1.0, 0.0])
    curve = analytic.risk(problem, SGD(0.05), 1, 2000, record=np.arange(2001)).risk.values
    low = int(np.argmin(curve))
    assert 10 < low < 500
    assert curve[-1] > 1.5 * curve[low]
    got = analytic.steps_to_target(problem, SGD(0.05), 1, curve[low] * (1 + 1e-12)).steps.item()
    assert got == low
    assert analytic.steps_to_target(problem, SGD(0.05), 1, curve[low] * (1 - 1e-9)).steps.item() == np.inf


def test_the_step_is_the_first_below_and_not_the_last_above() -> None:
    problem = NoisyQuadratic([1.0], 0.0)
    # risk 0.5 * 4**-t
    for t in range(6):
        assert analytic.steps_to_target(problem, SGD(0.5), 1, 0.5 * 4.0**-t).steps.item() == t
        assert analytic.steps_to_target(problem, SGD(0.5), 1, 0.5 * 4.0**-t * 0.999).steps.item() == t + 1


def test_a_passage_after_10_to_the_12_steps() -> None:
    problem = NoisyQuadratic([1e-12], 0.0)
    t = 10**12
    level = float(np.exp(-2 * t * 1e-12) * 0.5e-12)
    got = int(analytic.steps_to_target(problem, SGD(1.0), 1, level).steps.item())
    around = analytic.risk(problem, SGD(1.0), 1, got, record=[got - 1, got]).risk.values
    # Neighbouring risks differ by 2e-12, more than the error of either.
    assert around[0] > level >= around[1]
    assert abs(got / t - 1) < 1e-11


def test_what_is_out_of_reach_is_infinite() -> None:
    problem = NoisyQuadratic([1.0, 0.1])
    unreachable = analytic.steps_to_target(problem, SGD([0.5, 3.0], momentum=[0.0, 0.9]), 1, 1e-3).steps
    assert np.isinf(unreachable).all()
    stops = analytic.steps_to_target(problem, SGD(0.1), 1000, 0.01, max_steps=20).steps.item()
    assert stops == np.inf
    exact = int(analytic.steps_to_target(problem, SGD(0.1), 1000, 0.01).steps.item())
    assert analytic.steps_to_target(problem, SGD(0.1), 1000, 0.01, max_steps=exact).steps.item() == exact
    assert analytic.steps_to_target(problem, SGD(0.1), 1000, 0.01, max_steps=exact - 1).steps.item() == np.inf
    assert analytic.steps_to_target(problem, SGD(0.1), 1, 0.7, max_steps=0).steps.item() == 0


def test_the_table_of_tuned_preconditioned_sgd() -> None:
    problem = NoisyQuadratic.power_law(dim=1000)
    rates = np.logspace(-5, 0.5, 100)
    batch_size = 2.0 ** np.array([2, 6, 10, 14, 18])
    got = analytic.steps_to_target(problem, SGD(rates, precondition=[0.0, 0.5]), batch_size, 0.01).steps
    assert got.dims == ("lr", "precondition", "batch_size")
    assert got.min("lr").values.tolist() == [[116358, 7448, 982, 720, 705], [34298, 2149, 138, 29, 27]]


def test_grids_are_labelled_and_zipped() -> None:
    problem = NoisyQuadratic.power_law(dim=50)
    B = xr.DataArray([16.0, 64.0], dims="batch_size", coords={"batch_size": [16, 64]})
    target = xr.DataArray([0.1, 0.05], dims="target")
    grid = analytic.steps_to_target(problem, SGD(0.01 * np.sqrt(B), [0.0, 0.5]), B, target)
    assert grid.steps.dims == ("batch_size", "momentum", "target")
    assert grid.steps.attrs["units"] == "steps"
    one = analytic.steps_to_target(problem, SGD(0.01 * 8, 0.5), 64, 0.05).steps.item()
    assert grid.steps[1, 1, 1] == one
    assert grid.target.values.tolist() == [0.1, 0.05]


def test_bad_input_is_named() -> None:
    problem = NoisyQuadratic([1.0])
    with pytest.raises(ParameterError, match="target must be > 0"):
        analytic.steps_to_target(problem, SGD(0.1), 1, 0.0)
    with pytest.raises(ParameterError, match="max_steps must be an integer"):
        analytic.steps_to_target(problem, SGD(0.1), 1, 0.1, max_steps=-1)
    with pytest.raises(ParameterError, match="average must be in"):
        analytic.steps_to_target(problem, SGD(0.1, 0.5), 1, 0.1, average=1.0)
    with pytest.raises(ParameterError, match="linear in the gradient"):
        analytic.steps_to_target(problem, mcnqm.Adam(0.1), 1, 0.1)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("beyond", [1e-4, 0.1, 10.0])
def test_beyond_stability_nothing_arrives_even_without_noise(beyond, momentum):
    """Noise that only grows ends a search at once; without it, it ends where the mean overflows."""
    problem = NoisyQuadratic(curvature=[1.0, 0.3], noise=0.0)
    optimizer = SGD(lr=(2.0 + beyond) * (1.0 + momentum), momentum=momentum)
    assert np.isinf(analytic.steps_to_target(problem, optimizer, 1, 0.05).steps)
