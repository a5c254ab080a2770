"""Steady states, stability, bounds, noise scales and the diffusion limit."""

from __future__ import annotations

import exact_recursion
import mpmath
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import minimize_scalar

from mcnqm import SGD, Adam, NoisyQuadratic, ParameterError, analytic

# ------------------------------------------------------------------------------------------ steady states


def lyapunov(h: float, c: float, optimizer: SGD, average: float | None) -> np.ndarray:
    problem = NoisyQuadratic([h], c)
    case = exact_recursion.Case(problem, optimizer, 1.0, average)
    columns = [exact_recursion.update(case, h, list(e), 0.0, float) for e in np.eye(3)]
    b = np.array(exact_recursion.update(case, h, [0.0] * 3, 1.0, float))
    return solve_discrete_lyapunov(np.array(columns).T, np.outer(b, b) * c)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("average", [None, 0.0, 0.7, 0.9])
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9])
def test_steady_state_solves_the_lyapunov_equation(nesterov: bool, average: float | None, beta: float) -> None:
    for u in (0.01, 0.1, 1.0, 1.3):
        optimizer = SGD(u / 0.2, beta, nesterov and beta > 0, 0.0)
        P = lyapunov(0.2, 0.7, optimizer, average)
        got = analytic.steady_state(NoisyQuadratic([0.2], 0.7), optimizer, 1, coordinates=[0], average=average)
        np.testing.assert_allclose(got.theta_variance.item(), P[0, 0], rtol=1e-10)
        if beta > 0:
            np.testing.assert_allclose(got.momentum_variance.item(), P[1, 1], rtol=1e-10)
            np.testing.assert_allclose(got.theta_momentum_covariance.item(), P[0, 1], rtol=1e-10, atol=1e-12)
        if average is not None:
            np.testing.assert_allclose(got.average_variance.item(), P[2, 2], rtol=1e-10)
            np.testing.assert_allclose(got.theta_average_covariance.item(), P[0, 2], rtol=1e-10)
        if average is not None and beta > 0:
            np.testing.assert_allclose(got.momentum_average_covariance.item(), P[1, 2], rtol=1e-10, atol=1e-12)
        which = 0 if average is None else 2
        np.testing.assert_allclose(got.risk.item(), 0.1 * P[which, which], rtol=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.99, 1 - 1e-12])
def test_steady_state_is_the_closed_form_from_edge_to_edge(beta: float) -> None:
    edge = 2 * (1 + beta)
    for u in [10.0**-k for k in range(1, 17)] + [edge * (1 - 10.0**-k) for k in range(1, 15)] + [(1 - beta**0.5) ** 2]:
        if u == 0:
            continue
        got = analytic.steady_state(NoisyQuadratic([1.0]), SGD(u, beta), 8).risk.item()
        a, b = mpmath.mpf(u), mpmath.mpf(beta)
        with mpmath.workdps(40):
            expected = (1 + b) * a / (16 * (2 * b + 2 - a) * (1 - b))
            assert abs(got - expected) / expected < 1e-14, u


def test_steady_state_of_an_average() -> None:
    u, gamma = 0.3, 0.9
    plain = analytic.steady_state(NoisyQuadratic([1.0]), SGD(u), 1).risk.item()
    r = 1 - u
    expected = plain * (1 - gamma) / (1 + gamma) * (1 + gamma * r) / (1 - gamma * r)
    got = analytic.steady_state(NoisyQuadratic([1.0]), SGD(u), 1, average=gamma).risk.item()
    assert got == pytest.approx(expected, rel=1e-14)


def test_steady_state_is_where_the_risk_goes() -> None:
    problem = NoisyQuadratic([1.0, 0.03], [0.5, 2.0], initial_mean=3.0, multiplicity=[1, 4])
    for optimizer in (SGD(0.4), SGD(3.3, 0.8), SGD(0.4, 0.8, True), SGD(0.4, 0.8, False, 0.5)):
        for average in (None, 0.95):
            late = analytic.risk(problem, optimizer, [1, 5], 10**6, record=[10**6], average=average).risk[:, 0]
            limit = analytic.steady_state(problem, optimizer, [1, 5], average=average).risk
            np.testing.assert_allclose(late, limit, rtol=1e-14)
    moments = analytic.moments(problem, SGD(3.3, 0.8), 5, 10**6, record=[10**6]).isel(step=0)
    limit = analytic.steady_state(problem, SGD(3.3, 0.8), 5, coordinates=range(5))
    for name in ("theta_variance", "momentum_variance", "theta_momentum_covariance"):
        np.testing.assert_allclose(limit[name], moments[name], rtol=1e-13)


def test_an_unstable_coordinate_is_infinite_and_a_silent_one_is_not() -> None:
    loud = analytic.steady_state(NoisyQuadratic([1.0, 0.1]), SGD([1.0, 2.0, 3.0]), 1, coordinates=[0, 1])
    assert np.isinf(loud.risk).values.tolist() == [False, True, True]
    assert np.isinf(loud.theta_variance).values.tolist() == [[False, False], [True, False], [True, False]]
    silent = analytic.steady_state(NoisyQuadratic([1.0, 0.1], [0.0, 1.0]), SGD(3.0), 1)
    assert silent.risk.item() == pytest.approx(0.3 / (2 * 1.7) / 0.1, rel=1e-14)


# ---------------------------------------------------------------------------------------------- stability


@pytest.mark.parametrize("nesterov", [False, True])
def test_convergence_rate_is_the_spectral_radius(nesterov: bool) -> None:
    beta = np.array([0.3, 0.9, 0.99] if nesterov else [0.0, 0.3, 0.9, 0.99])
    rates = np.geomspace(1e-3, 5, 40)
    problem = NoisyQuadratic([1.0, 0.2], multiplicity=[2, 1])
    got = analytic.convergence_rate(problem, SGD(rates, beta, nesterov))
    assert got.spectral_radius.dims == ("lr", "momentum", "coordinate")
    for (i, lr), (j, b) in ((a, c) for a in enumerate(rates) for c in enumerate(beta)):
        radii = []
        for h in (1.0, 1.0, 0.2):
            A = [[1 - lr * h, -lr * b], [h, b]]
            if nesterov:
                A = [[1 - lr * (1 + b) * h, -lr * b * b], [h, b]]
            radii.append(np.abs(np.linalg.eigvals(A)).max())
        # Double roots make the eigenvalues of the oracle good to the root of its precision only.
        np.testing.assert_allclose(got.spectral_radius[i, j], radii, rtol=1e-7, atol=1e-7)
        assert got.slowest[i, j] == got.spectral_radius[i, j].max()


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.999, 1 - 1e-10])
def test_decay_keeps_its_digits_at_both_edges(beta: float) -> None:
    edge = 2 * (1 + beta)
    rates = [10.0**-k for k in range(1, 19)] + [edge * (1 - 10.0**-k) for k in range(1, 16)]
    got = analytic.convergence_rate(NoisyQuadratic([1.0]), SGD(rates, beta)).decay.values[:, 0]
    with mpmath.workdps(80):
        for value, u in zip(got, map(mpmath.mpf, rates), strict=True):
            middle = (1 - u + beta) / 2
            root = mpmath.sqrt(mpmath.mpc(middle**2 - mpmath.mpf(beta)))
            expected = -mpmath.log(max(abs(middle + root), abs(middle - root)))
            assert abs(value - expected) <= 1e-14 * abs(expected), u


def test_decay_says_how_fast_the_risk_falls() -> None:
    problem = NoisyQuadratic([1.0, 0.01], 0.0)
    for optimizer, average in ((SGD(0.5), None), (SGD(0.5, 0.3), None), (SGD(0.5), 0.999)):
        rate = analytic.convergence_rate(problem, optimizer, average=average)
        late = analytic.risk(problem, optimizer, 1, 40_000, record=[20_000, 20_001], average=average).risk.values
        assert late[1] / late[0] == pytest.approx(rate.slowest.item() ** 2, rel=1e-9)
        assert rate.relaxation.item() == pytest.approx(-1 / np.log(rate.slowest.item()), rel=1e-9)
    assert analytic.convergence_rate(problem, SGD(3.0)).relaxation.item() == np.inf


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 1.5])
def test_largest_stable_lr_separates_decay_from_growth(nesterov: bool, p: float) -> None:
    problem = NoisyQuadratic([3.0, 0.7, 0.2])
    beta = np.array([0.5, 0.95] if nesterov else [0.0, 0.5, 0.95])
    top = analytic.largest_stable_lr(problem, SGD(0.1, beta, nesterov, p)).largest_stable_lr
    for b, lr in zip(beta, top.values, strict=True):
        for factor, stable in ((1 - 1e-9, True), (1 + 1e-9, False)):
            slowest = analytic.convergence_rate(problem, SGD(lr * factor, b, nesterov, p)).decay.values.min()
            assert (slowest > 0) == stable


@pytest.mark.parametrize("answer", [analytic.largest_stable_lr, analytic.convergence_rate])
def test_a_rate_by_batch_size_where_there_is_none(answer) -> None:
    """Stability does not know the batch size: a dimension of that name is like any other, and its labels are kept."""
    problem = NoisyQuadratic([3.0, 0.7])
    B = xr.DataArray([1.0, 4.0], dims="batch_size", coords={"batch_size": [1, 4]})
    found = answer(problem, SGD(lr=0.1 * B, momentum=[0.0, 0.9]))
    assert dict(found.sizes)["batch_size"] == 2
    assert found.batch_size.values.tolist() == [1, 4]
    assert found.lr.values.tolist() == [0.1, 0.4]
    for k, lr in enumerate((0.1, 0.4)):
        alone = answer(problem, SGD(lr=lr, momentum=[0.0, 0.9]))
        for name in alone:
            np.testing.assert_array_equal(found[name].isel(batch_size=k), alone[name])
    with pytest.raises(ParameterError, match="lr must use a hyperparameter's name for a dimension only where"):
        analytic.risk(problem, SGD(lr=0.1 * B), 4, 10)  # here there is a batch size, and it does not vary


# ------------------------------------------------------------------------------------------------- bounds


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=4),
    st.floats(1e-3, 0.999),
    st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(1, 100),
)
def test_theorem_1_bounds_the_exact_value(h: list[float], share: float, beta: float, p: float, B: int) -> None:
    problem = NoisyQuadratic(h, noise=np.sqrt(h), initial_mean=0.5)
    lr = float(share * analytic.largest_stable_lr(problem, SGD(1.0, beta, False, p)).largest_stable_lr)
    both = analytic.theorem1(problem, SGD(lr, beta, False, p), B, 3000, record=[*range(200), 3000])
    assert (both.bound >= both.exact * (1 - 1e-14)).all()
    assert both.bound[0] > both.exact[0]  # strictly: an inequality, not the paper's equality
    steady = analytic.steady_state(problem, SGD(lr, beta, False, p), B).risk.item()
    exact = analytic.risk(problem, SGD(lr, beta, False, p), B, 3000, record=[*range(200), 3000]).risk
    np.testing.assert_array_equal(both.exact, exact)
    np.testing.assert_allclose(both.bound[0] - problem.initial_risk, steady, rtol=1e-9)


def test_theorem_1_in_the_papers_notation() -> None:
    h, c, lr, beta, B = 0.3, 0.8, 0.5, 0.9, 4
    roots = np.roots([1, -(1 - lr * h + beta), beta]).astype(complex)
    both = analytic.theorem1(NoisyQuadratic([h], c), SGD(lr, beta), B, 50)
    for t in range(51):
        first, second = roots
        D = (first ** (t + 1) - second ** (t + 1) - beta * (first**t - second**t)) / (first - second)
        expected = D.real**2 * h / 2 + (1 + beta) * lr * c / (2 * B * (2 * beta + 2 - lr * h) * (1 - beta))
        assert both.bound[t].item() == pytest.approx(expected, rel=1e-12)


def test_theorem_1_beyond_stability_and_for_nesterov() -> None:
    wild = analytic.theorem1(NoisyQuadratic([1.0]), SGD(4.0, 0.5), 1, 10)
    assert np.isinf(wild.bound).all()
    assert np.isfinite(wild.exact).all()
    with pytest.raises(ParameterError, match="nesterov must be False"):
        analytic.theorem1(NoisyQuadratic([1.0]), SGD(0.1, 0.5, nesterov=True), 1, 10)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=5),
    st.just(0.0) | st.floats(1e-100, 3.0),  # of subnormal noise a bound has few digits
    st.floats(0.1, 1e8),
)
def test_who_knows_the_start_knows_more(h: list[float], noise: float, N: float) -> None:
    problem = NoisyQuadratic(h, noise, initial_std=0.7, multiplicity=2)
    bayes = analytic.bayes_bound(problem, N).risk.item()
    assert bayes <= analytic.information_bound(problem, N).risk.item() * (1 + 1e-14)
    assert bayes <= problem.initial_risk * (1 + 1e-14)
    assert analytic.bayes_bound(problem, 2 * N).risk.item() <= bayes


def test_the_bounds_meet_when_examples_abound() -> None:
    problem = NoisyQuadratic.power_law(dim=100)
    N = [1e12, 1e13]
    both = analytic.bayes_bound(problem, N).risk / analytic.information_bound(problem, N).risk
    np.testing.assert_allclose(both, 1.0, rtol=1e-9)
    assert analytic.information_bound(problem, 1e12).risk.item() == pytest.approx(100 / 2e12)


def test_the_kalman_gain_meets_the_bayes_bound_at_every_step() -> None:
    h, c, s, B = 0.7, 2.0, 1.3, 3
    problem = NoisyQuadratic([h], c, initial_std=s)
    P = s**2
    bound = analytic.bayes_bound(problem, B * np.arange(101)).risk.values
    for t in range(101):
        assert 0.5 * h * P == pytest.approx(bound[t], rel=1e-13)
        # The gain is the greedy rate, and one step of SGD from the present law is one step of the filter.
        lr = analytic.greedy_lr(problem, B, second_moment=P).lr.item()
        assert lr == pytest.approx(h * P / (h**2 * P + c / B), rel=1e-14)
        now = NoisyQuadratic([h], c, initial_std=np.sqrt(P))
        P = analytic.risk(now, SGD(lr), B, 1).risk[1].item() / (0.5 * h)


def test_no_sgd_beats_the_bayes_bound() -> None:
    problem = NoisyQuadratic.power_law(dim=30)
    runs = analytic.risk(problem, SGD(np.geomspace(1e-3, 1.9, 20), [0.0, 0.9]), [1, 16], 500)
    N = runs.step * runs.batch_size
    bound = analytic.bayes_bound(problem, N.stack(flat=N.dims).values).risk.values.reshape(N.shape)
    assert (runs.risk.transpose(..., *N.dims).values >= bound * (1 - 1e-12)).all()


def test_bounds_without_noise_or_spread() -> None:
    problem = NoisyQuadratic([1.0, 2.0], [0.0, 1.0], initial_std=[1.0, 0.0])
    assert analytic.bayes_bound(problem, [0.0, 1.0]).risk.values.tolist() == [0.5, 0.0]
    for call, bad in ((analytic.information_bound, 0.0), (analytic.bayes_bound, -1.0)):
        with pytest.raises(ParameterError, match="examples must be"):
            call(problem, bad)


# ------------------------------------------------------------------------------------------- noise scales


def test_greedy_rate_minimises_the_next_risk() -> None:
    problem = NoisyQuadratic([2.0, 0.5, 0.1], [1.0, 3.0, 0.2], initial_mean=[1.0, 0.0, -2.0], multiplicity=[1, 2, 3])
    for B in (1, 7, 1e6):
        best = minimize_scalar(
            lambda lr, B=B: analytic.risk(problem, SGD(lr), B, 1).risk[1].item(),
            bounds=(1e-4, 2),
            method="bounded",
        )
        assert analytic.greedy_lr(problem, B).lr.item() == pytest.approx(best.x, rel=1e-4)


def test_greedy_rate_is_mccandlishs() -> None:
    problem = NoisyQuadratic([2.0, 0.5], [1.0, 3.0])
    P = np.array([0.3, 0.8])
    h, c, B = problem.curvature, problem.noise, np.array([1.0, 10.0, 100.0])
    expected = [np.sum(h**2 * P) / np.sum(h * (h**2 * P + c / b)) for b in B]
    np.testing.assert_allclose(analytic.greedy_lr(problem, B, P).lr, expected, rtol=1e-14)
    scale = analytic.noise_scale(problem, P)
    assert scale.B_simple.item() == pytest.approx(np.sum(c) / np.sum(h**2 * P))
    # At B = B_noise the greedy rate is half of its largest.
    half = analytic.greedy_lr(problem, scale.B_noise.item(), P).lr.item()
    assert half == pytest.approx(0.5 * scale.largest_lr.item())


def test_noise_scale_needs_a_gradient() -> None:
    with pytest.raises(ParameterError, match="second_moment must be > 0"):
        analytic.noise_scale(NoisyQuadratic([1.0]), 0.0)
    with pytest.raises(ParameterError, match="second_moment must be a scalar"):
        analytic.noise_scale(NoisyQuadratic([1.0]), [1.0, 2.0])
    with pytest.raises(ParameterError, match="second_moment must be >= 0"):
        analytic.greedy_lr(NoisyQuadratic([1.0]), 1, [-1.0])


# -------------------------------------------------------------------------------------------------- diffusion


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_sgd_tends_to_its_diffusion_linearly_in_the_rate(p: float) -> None:
    problem = NoisyQuadratic([1.0, 0.3], [0.5, 2.0], initial_std=[1.0, 0.2])
    error = []
    for halvings in (6, 7, 8):
        steps = 2**halvings
        optimizer, B = SGD(2.0**-halvings, precondition=p), 2.0 ** (8 - halvings)  # one temperature
        sde = analytic.sde_risk(problem, optimizer, B, steps, record=[steps]).risk.item()
        error.append(analytic.risk(problem, optimizer, B, steps, record=[steps]).risk.item() / sde - 1)
    assert abs(error[0] / error[1] - 2) < 0.1
    assert abs(error[1] / error[2] - 2) < 0.05


def test_only_the_temperature_matters_at_equal_time() -> None:
    problem = NoisyQuadratic.power_law(dim=20)
    a = analytic.sde_risk(problem, SGD(0.1), 2, 100, record=[0, 10, 100]).risk.values
    b = analytic.sde_risk(problem, SGD(0.4), 8, 25, record=[0, 1, 25]).risk.values
    np.testing.assert_allclose(a[[0, 2]], b[[0, 2]], rtol=1e-13)
    late = analytic.sde_risk(problem, SGD(0.1), 2, 10**9, record=[10**9]).risk.item()
    assert late == pytest.approx(np.sum(0.1 * problem.noise / 8), rel=1e-14)
    with pytest.raises(ParameterError, match="momentum must be 0"):
        analytic.sde_risk(problem, SGD(0.1, 0.9), 2, 10)


@pytest.mark.parametrize(
    "call",
    [
        lambda p, o: analytic.steady_state(p, o, 1),
        analytic.convergence_rate,
        analytic.largest_stable_lr,
        lambda p, o: analytic.theorem1(p, o, 1, 10),
        lambda p, o: analytic.sde_risk(p, o, 1, 10),
    ],
)
def test_an_optimizer_that_is_not_linear_is_refused(call: object) -> None:
    with pytest.raises(ParameterError, match="optimizer must be linear"):
        call(NoisyQuadratic([1.0]), Adam(0.1))  # type: ignore[operator]


# ------------------------------------------------------------------------------- where digits are few: 60-digit values


def exact_decay(lr, momentum, nesterov):
    """-log of the spectral radius of one coordinate of curvature 1, in 60 digits."""
    with mpmath.workdps(60):
        a, b = mpmath.mpf(lr), mpmath.mpf(momentum)
        matrix = (1 - a * (1 + b), -a * b * b, mpmath.mpf(1), b) if nesterov else (1 - a, -a * b, mpmath.mpf(1), b)
        half, determinant = (matrix[0] + matrix[3]) / 2, matrix[0] * matrix[3] - matrix[1] * matrix[2]
        root = mpmath.sqrt(half * half - determinant)
        return -mpmath.log(max(abs(half + root), abs(half - root)))


@settings(deadline=None, max_examples=150)
@given(st.floats(-12.0, -0.1), st.floats(-14.0, -0.01), st.sampled_from([-1.0, 1.0]), st.booleans())
def test_decay_close_to_the_edge_and_beyond(near_one, near_edge, side, nesterov):
    """Beyond the edge with momentum near 1 it was right to 4.5e-13, and to 2e-14 for small radii."""
    momentum = 1.0 - 10.0**near_one
    edge = 2 * (1 + momentum) / (1 + 2 * momentum) if nesterov else 2 * (1 + momentum)
    lr = edge * (1.0 + side * 10.0**near_edge)
    optimizer = SGD(lr, momentum, nesterov=nesterov)
    found = float(analytic.convergence_rate(NoisyQuadratic([1.0]), optimizer).decay[0])
    exact = exact_decay(lr, momentum, nesterov)
    assert abs(found - exact) <= 2e-15 * abs(exact)


@settings(deadline=None, max_examples=100)
@given(st.floats(0.0, 0.999), st.floats(-14.0, -9.0))
def test_theorem_1_close_to_the_edge(momentum, near_edge):
    """After 2**52 steps only the second term is left. It was below the exact risk, since 2 (1 + beta) rounds."""
    lr = 2 * (1 + momentum) * (1 - 10.0**near_edge)
    with mpmath.workdps(60):
        a, b = mpmath.mpf(lr), mpmath.mpf(momentum)
        if a >= 2 * (1 + b):
            return
        exact = (1 + b) * a / (2 * (2 * b + 2 - a) * (1 - b))
    both = analytic.theorem1(NoisyQuadratic([1.0]), SGD(lr, momentum), 1, 2**52, record=[2**52])
    if near_edge > -12.0:  # nearer, 2**52 steps are not enough for the first term to be gone
        assert abs(float(both.bound[0]) / exact - 1) < 1e-14
    assert float(both.bound[0]) >= float(both.exact[0]) * (1 - 1e-14)


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_the_bayes_bound_is_the_posterior_variance_whatever_the_mean(mean: float) -> None:
    """By Bayes's rule on a grid: a prior's mean that is known leaves nothing to learn."""
    h, c, s, N = 0.7, 2.0, 1.3, 5
    theta = np.linspace(mean - 12.0, mean + 12.0, 40_001)
    # Averaged over data: the posterior of a Gaussian location has the same variance for all of them; take one.
    prior = -0.5 * ((theta - mean) / s) ** 2
    likelihood = -0.5 * N * (0.4 - h * theta) ** 2 / c
    weight = np.exp(prior + likelihood - (prior + likelihood).max())
    weight /= weight.sum()
    variance = weight @ theta**2 - (weight @ theta) ** 2
    problem = NoisyQuadratic([h], c, initial_mean=mean, initial_std=s)
    assert analytic.bayes_bound(problem, N).risk.item() == pytest.approx(0.5 * h * variance, rel=1e-8)
