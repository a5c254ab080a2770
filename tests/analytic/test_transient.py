"""Risk and moments against the optimizers' own equations in many-digit arithmetic."""

from __future__ import annotations

from fractions import Fraction

import exact_recursion
import mpmath
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from selection import mostly_slow

import mcnqm
from mcnqm import SGD, NoisyQuadratic, ParameterError, analytic
from mcnqm.record import recorded_steps

KINDS = (
    *("sgd", "heavy ball", "nesterov", "averaged", "averaged heavy ball", "preconditioned"),
    *("decayed", "heavy ball decayed", "nesterov decayed", "preconditioned decayed", "dampened", "averaged dampened"),
)

SMALLEST = 1e-250
LARGEST = float(np.finfo(np.float64).max)
"""Below, the low words of a double-double are no longer normal numbers, and digits fade."""


def relative_error(case: exact_recursion.Case, steps: int) -> float:
    expected = exact_recursion.risk(case, steps)
    got = analytic.risk(
        case.problem, case.optimizer, case.batch_size, steps, record=[steps], average=case.average
    ).risk.item()
    if expected < SMALLEST:
        return 0.0 if got < 2 * SMALLEST else np.inf
    if expected > LARGEST:  # an unstable rate, beyond what a double holds
        return 0.0 if got > 0.5 * LARGEST else np.inf
    return float(abs(got - expected) / expected)


@pytest.mark.parametrize(
    "kind", mostly_slow(KINDS, "heavy ball", "averaged heavy ball", "dampened", "preconditioned decayed")
)
def test_risk_equals_the_recursion_in_500_random_cases(kind: str) -> None:
    rng = np.random.default_rng([KINDS.index(kind), 3])
    worst = (0.0, None, 0)
    with mpmath.workdps(60):
        for _ in range(500):
            case = exact_recursion.random_case(rng, kind)
            steps = int(rng.choice([0, 1, 2, 3, 7, 8, 20, 63], p=[0.05, 0.1, 0.1, 0.15, 0.15, 0.15, 0.2, 0.1]))
            worst = max(worst, (relative_error(case, steps), case, steps), key=lambda entry: entry[0])
    assert worst[0] < 2e-15, worst


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_risk_equals_the_recursion_over_a_thousand_steps(kind: str) -> None:
    rng = np.random.default_rng([KINDS.index(kind), 4])
    with mpmath.workdps(80):
        worst = max(relative_error(exact_recursion.random_case(rng, kind), 1000) for _ in range(50))
    assert worst < 2e-15


@pytest.mark.parametrize("kind", ["sgd", "heavy ball", "nesterov", "averaged", "nesterov decayed", "averaged dampened"])
def test_risk_equals_the_rational_recursion(kind: str) -> None:
    rng = np.random.default_rng([KINDS.index(kind), 5])
    for _ in range(20):
        case = exact_recursion.random_case(rng, kind)
        expected = exact_recursion.risk(case, 9, Fraction)
        got = analytic.risk(case.problem, case.optimizer, case.batch_size, 9, record=[9], average=case.average)
        assert float(abs(Fraction(got.risk.item()) - expected) / expected) < 1e-15 if expected else not got.risk


@pytest.mark.parametrize("steps", [10**6, 10**9, 10**12])
@pytest.mark.parametrize("beta", [0.0, 0.9, 1 - 1e-9])
def test_risk_after_very_many_steps(steps: int, beta: float) -> None:
    edge = 2 * (1 + beta)
    double_root = (1 - np.sqrt(beta)) ** 2
    for u in (
        0.1 / steps,
        1e-3 / steps,
        edge * (1 - 1e-12),
        edge * (1 - 0.01 / steps),
        double_root or 0.5,
        1.0,
    ):
        for h, noise in ((1.0, 1.0), (1e-8, 0.0), (1e-8, 1e-3)):
            lr = u / h
            with mpmath.workdps(200):
                expected = exact_recursion.heavy_ball_closed_form(h, noise, lr, beta, steps=steps)
                got = analytic.risk(NoisyQuadratic([h], noise), SGD(lr, beta), 1, steps, record=[steps]).risk.item()
                if expected < 1e-250:
                    assert got < 1e-240
                    continue
                assert abs(got - expected) / expected < 1e-14, (u, h, noise)


def test_risk_of_the_whole_spectrum_is_summed_without_loss() -> None:
    problem = NoisyQuadratic(10.0 ** np.linspace(-8, 0, 5001))
    got = analytic.risk(problem, SGD(0.7), 3, 10**6, record=[0, 1, 10**6]).risk.values
    with mpmath.workdps(40):
        for value, t in zip(got, (0, 1, 10**6), strict=True):
            total = mpmath.mpf(0)
            for h in map(mpmath.mpf, problem.curvature):
                u = h * mpmath.mpf(0.7)
                decay = (1 - u) ** (2 * t)
                total += decay * h / 2 + (1 - decay) * u / (6 * (2 - u))
            assert abs(value - total) / total < 1e-15


@pytest.mark.parametrize("kind", KINDS)
def test_moments_equal_the_recursion(kind: str) -> None:
    rng = np.random.default_rng([KINDS.index(kind), 6])
    for _ in range(25):
        case = exact_recursion.random_case(rng, kind)
        steps = int(rng.integers(0, 15))
        got = analytic.moments(
            case.problem, case.optimizer, case.batch_size, steps, record=[steps], average=case.average
        ).isel(step=0)
        entry = np.repeat(np.arange(case.problem.size), case.problem.multiplicity)
        assert got.sizes["coordinate"] == case.problem.dim
        with mpmath.workdps(60):
            for i, e in enumerate(entry):
                mean, P = exact_recursion.second_moments(case, int(e), steps, mpmath.mpf)
                C = [[P[j][k] - mean[j] * mean[k] for k in range(3)] for j in range(3)]
                scale = [mpmath.sqrt(P[j][j]) for j in range(3)]
                expected = {"theta_mean": (mean[0], scale[0]), "theta_variance": (C[0][0], P[0][0])}
                if case.optimizer.momentum > 0:
                    expected["momentum_mean"] = (mean[1], scale[1])
                    expected["momentum_variance"] = (C[1][1], P[1][1])
                    expected["theta_momentum_covariance"] = (C[0][1], scale[0] * scale[1])
                if case.average is not None:
                    expected["average_mean"] = (mean[2], scale[2])
                    expected["average_variance"] = (C[2][2], P[2][2])
                    expected["theta_average_covariance"] = (C[0][2], scale[0] * scale[2])
                    if case.optimizer.momentum > 0:
                        expected["momentum_average_covariance"] = (C[1][2], scale[1] * scale[2])
                assert set(got.data_vars) == set(expected)
                for name, (value, size) in expected.items():
                    assert abs(got[name].values[i] - value) <= 1e-13 * size + SMALLEST, (name, case, steps)


def test_moments_of_the_oscillation_keep_digits_at_a_zero_crossing() -> None:
    # cos(ωt) nearly vanishes at many steps; each mean still has 12 digits of its own.
    problem, optimizer = NoisyQuadratic([1.0], 0.0, initial_mean=1.0, initial_std=0.0), SGD(1.0, 0.99)
    got = analytic.moments(problem, optimizer, 1, 300, record=np.arange(301)).theta_mean.values[:, 0]
    with mpmath.workdps(60):
        theta, m = mpmath.mpf(1), mpmath.mpf(0)
        for t in range(301):
            assert abs(got[t] - theta) <= 1e-15 * abs(theta)
            m = mpmath.mpf(0.99) * m + theta
            theta -= m


def test_answers_have_the_labels_of_a_sweep() -> None:
    problem = NoisyQuadratic([1.0, 0.1], multiplicity=[2, 3])
    B = xr.DataArray([1.0, 4.0, 9.0], dims="batch_size", coords={"batch_size": [1, 4, 9]})
    swept = analytic.risk(problem, SGD(0.01 * np.sqrt(B), momentum=[0.0, 0.9]), B, 1000)
    assert swept.risk.dims == ("batch_size", "momentum", "step")
    np.testing.assert_array_equal(swept.step, recorded_steps(1000))
    assert swept.risk.attrs["units"] == "loss"
    assert swept.step.attrs["units"] == "steps"
    for b in (0, 1, 2):
        for k, beta in enumerate((0.0, 0.9)):
            one = analytic.risk(problem, SGD(0.01 * np.sqrt(B.values[b]), beta), B.values[b], 1000)
            # Equal bit for bit, although one shares its map with other batch sizes and the other does not.
            np.testing.assert_array_equal(one.risk, swept.risk[b, k])
    some = analytic.moments(problem, SGD(0.1, [0.0, 0.9]), 2, 3, coordinates=[4, 0])
    assert some.theta_momentum_covariance.dims == ("momentum", "step", "coordinate")
    assert some.coordinate.values.tolist() == [4, 0]
    np.testing.assert_array_equal(some.theta_mean.isel(step=0), 0.0)
    assert "momentum_mean" not in analytic.moments(problem, SGD(0.1), 2, 3)


def test_risk_is_the_weighted_sum_of_the_moments() -> None:
    problem = NoisyQuadratic([1.0, 0.1], [0.3, 2.0], initial_mean=[1.0, -2.0], multiplicity=[2, 3])
    h = np.repeat(problem.curvature, problem.multiplicity)
    for average in (None, 0.9):
        name = "theta" if average is None else "average"
        parts = analytic.moments(problem, SGD(0.2, 0.8), 5, 50, average=average)
        second = parts[f"{name}_mean"] ** 2 + parts[f"{name}_variance"]
        expected = 0.5 * (second * h).sum("coordinate")
        got = analytic.risk(problem, SGD(0.2, 0.8), 5, 50, average=average).risk
        np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_the_batch_of_a_block_does_not_matter() -> None:
    # 300 coordinates fill more than two blocks; each must be counted once.
    problem = NoisyQuadratic(np.full(300, 0.1))
    single = NoisyQuadratic([0.1], multiplicity=300)
    np.testing.assert_allclose(
        analytic.risk(problem, SGD(0.5, 0.9), 2, 500).risk,
        analytic.risk(single, SGD(0.5, 0.9), 2, 500).risk,
        rtol=1e-15,
    )


@pytest.mark.parametrize("optimizer", [SGD(3.0), SGD(5.0, 0.9), SGD(2.0, 0.9, nesterov=True), SGD(1e300), SGD(1e308)])
def test_an_unstable_rate_grows_to_infinity_in_silence(optimizer: SGD) -> None:
    problem = NoisyQuadratic([1.0, 1e-3])
    risk = analytic.risk(problem, optimizer, 1, 10**6).risk.values
    assert not np.isnan(risk).any()
    assert risk[-1] == np.inf
    moments = analytic.moments(problem, optimizer, 1, 10**6)
    assert moments.theta_variance.values[-1, 0] == np.inf
    assert not np.isnan(moments.theta_variance).any()


def test_what_nothing_drives_stays_at_zero() -> None:
    still = NoisyQuadratic([1.0], noise=0.0, initial_std=0.0)
    assert (analytic.risk(still, SGD(3.0, 0.5), 1, 10**6).risk == 0).all()
    assert (analytic.moments(still, SGD(3.0, 0.5), 1, 10**6).theta_variance == 0).all()


@pytest.mark.parametrize("optimizer", [mcnqm.Adam(1e-3), mcnqm.Lion(1e-3), mcnqm.RMSProp(1e-3)])
@pytest.mark.parametrize("call", [analytic.risk, analytic.moments])
def test_an_optimizer_that_is_not_linear_is_refused(call: object, optimizer: object) -> None:
    with pytest.raises(ParameterError, match="optimizer must be linear in the gradient"):
        call(NoisyQuadratic([1.0]), optimizer, 1, 10)  # type: ignore[operator]


def test_bad_input_is_named() -> None:
    problem = NoisyQuadratic([1.0, 2.0])
    with pytest.raises(ParameterError, match="average must be in"):
        analytic.risk(problem, SGD(0.1), 1, 10, average=1.0)
    with pytest.raises(ParameterError, match="coordinates must be an integer in"):
        analytic.moments(problem, SGD(0.1), 1, 10, coordinates=[2])
    with pytest.raises(ParameterError, match="coordinates must be a sequence"):
        analytic.moments(problem, SGD(0.1), 1, 10, coordinates=3)
    with pytest.raises(ParameterError, match="batch_size must be >= 1"):
        analytic.risk(problem, SGD(0.1), 0, 10)
    with pytest.raises(ParameterError, match="steps must be an integer"):
        analytic.risk(problem, SGD(0.1), 1, -1)


# ---------------------------------------------------------------------------------------- invariances

rates = st.floats(1e-4, 1.9)
momenta = st.sampled_from([0.0, 0.5, 0.9, 0.99])
spectra = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=5)


@settings(deadline=None, max_examples=50)
@given(spectra, rates, momenta, st.booleans(), st.floats(0.0, 1.5))
def test_preconditioning_is_plain_sgd_on_another_problem(
    h: list[float], lr: float, beta: float, nesterov: bool, p: float
) -> None:
    curvature, nesterov = np.array(h), nesterov and beta > 0
    noise = curvature**0.7
    mean, std = 0.3 + curvature, 1.0 + curvature
    lr = lr / (curvature ** (1 - p)).max()
    there = analytic.risk(NoisyQuadratic(curvature, noise, mean, std), SGD(lr, beta, nesterov, p), 3, 60).risk
    scale = curvature ** (p / 2)  # φ = h^(p/2) θ
    other = NoisyQuadratic(curvature ** (1 - p), noise * curvature**-p, mean * scale, std * scale)
    np.testing.assert_allclose(analytic.risk(other, SGD(lr, beta, nesterov), 3, 60).risk, there, rtol=1e-11)


@settings(deadline=None, max_examples=50)
@given(spectra, rates, momenta, st.booleans(), st.tuples(st.integers(-20, 20), st.integers(-20, 20)))
def test_units_do_not_matter(h: list[float], lr: float, beta: float, nesterov: bool, units: tuple[int, int]) -> None:
    # Powers of two scale without rounding, so the answers must agree to the last bit or two.
    a, b = 2.0 ** units[0], 2.0 ** units[1]  # new loss = a * loss, new parameter = b * parameter
    curvature, nesterov = np.array(h), nesterov and beta > 0
    lr = lr / curvature.max()
    base = analytic.risk(NoisyQuadratic(curvature, curvature), SGD(lr, beta, nesterov), 7, 40).risk
    scaled = NoisyQuadratic(curvature * a / b**2, curvature * a**2 / b**2, initial_std=b)
    other = analytic.risk(scaled, SGD(lr * b**2 / a, beta, nesterov), 7, 40).risk
    np.testing.assert_allclose(other, a * base, rtol=1e-15)


@settings(deadline=None, max_examples=30)
@given(spectra, rates, momenta, st.integers(1, 40))
def test_a_run_is_a_map_of_step_counts(h: list[float], lr: float, beta: float, late: int) -> None:
    # Asking for every step, or only for the last, takes different ways up the ladder.
    problem = NoisyQuadratic(h)
    every = analytic.risk(problem, SGD(lr, beta), 2, 300, record=np.arange(301)).risk
    once = analytic.risk(problem, SGD(lr, beta), 2, 300, record=[late, 7 * late]).risk
    np.testing.assert_allclose(once, every.sel(step=[late, 7 * late]), rtol=1e-15)
