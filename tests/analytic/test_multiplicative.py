"""Noise that rises with the parameter: second moments, steady states, edges and first passages."""

import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcnqm import SGD, Adam, NoisyQuadratic, ParameterError, analytic, averaging, schedules

OPTIMIZERS = {
    "sgd": SGD(0.3),
    "edge": SGD(1.2),
    "decay": SGD(0.2, weight_decay=0.3),
    "momentum": SGD(0.1, momentum=0.9),
    "flipped": SGD(2.2, momentum=0.7),
    "nesterov": SGD(0.1, momentum=0.9, nesterov=True),
    "dampening": SGD(0.3, momentum=0.8, dampening=0.8),
    "precondition": SGD(0.2, precondition=0.5),
    "newton": SGD(0.1, momentum=0.5, precondition=1.0),
}


def problem_of(slope=0.4, **changes):
    numbers = {
        "curvature": [1.0, 0.3, 0.05],
        "noise": [0.7, 1.5, 0.2],
        "initial_mean": [0.5, -1.0, 2.0],
        "initial_std": [1.0, 0.0, 0.3],
        "multiplicity": [1, 2, 3],
        "multiplicative_noise": [slope, 0.5 * slope, 0.02 * slope],
    }
    return NoisyQuadratic(**{**numbers, **changes})


def recursion(problem, optimizer, batch, steps, average=None, digits=60, **changing):
    """Risk at every step by P' = A P Aᵀ + b bᵀ (c + s P_θθ)/B, in mpmath."""
    values = {k: v if callable(v) else (lambda t, v=v: v) for k, v in {**optimizer._asdict(), **changing}.items()}
    total = [mpmath.mpf(0)] * (steps + 1)
    with mpmath.workdps(digits):
        for entry in zip(*problem._arrays()[:6], strict=True):
            h, c, m, sd, n, s = map(mpmath.mpf, map(float, entry))
            scale = h ** -mpmath.mpf(optimizer.precondition)
            state = mpmath.matrix([1, 0, 1])
            P = (m * m + sd * sd) * state * state.T
            for t in range(steps + 1):
                k = 2 if average is not None else 0
                total[t] += n * h * P[k, k] / 2
                lr, beta = mpmath.mpf(values["lr"](t)) * scale, mpmath.mpf(values["momentum"](t))
                gain = 1 - mpmath.mpf(values["dampening"](t)) if t else mpmath.mpf(1)
                pull = h + mpmath.mpf(values["weight_decay"](t))
                gamma = mpmath.mpf(0 if average is None else average(t) if callable(average) else average)
                m_row, m_kick = [gain * pull, beta, 0], gain
                if optimizer.nesterov:
                    t_row, t_kick = [1 - lr * (pull + beta * m_row[0]), -lr * beta * beta, 0], -lr * (1 + beta * gain)
                else:
                    t_row, t_kick = [1 - lr * m_row[0], -lr * beta, 0], -lr * gain
                a_row = [(1 - gamma) * t_row[0], (1 - gamma) * t_row[1], gamma]
                A, b = mpmath.matrix([t_row, m_row, a_row]), mpmath.matrix([t_kick, m_kick, (1 - gamma) * t_kick])
                P = A * P * A.T + b * b.T * (c + s * P[0, 0]) / batch
    return [float(x) for x in total]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("average", [None, 0.9])
def test_risk_is_the_recursion(name, average):
    problem, optimizer = problem_of(), OPTIMIZERS[name]
    at = [0, 1, 2, 3, 10, 77, 300]
    expected = np.array(recursion(problem, optimizer, 4, 300, average))[at]
    found = analytic.risk(problem, optimizer, 4, 300, record=at, average=average).risk.values
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    without = analytic.risk(problem_of(0.0), optimizer, 4, 300, record=at, average=average).risk.values
    assert not np.allclose(without, expected, rtol=1e-3)


@given(
    name=st.sampled_from(sorted(OPTIMIZERS)),
    slope=st.floats(0.0, 1.0),
    batch=st.integers(1, 50),
    average=st.sampled_from([None, 0.5, 0.99]),
)
def test_moments_add_up_to_the_risk(name, slope, batch, average):
    problem, optimizer = problem_of(slope), OPTIMIZERS[name]
    at = [0, 1, 5, 200]
    risk = analytic.risk(problem, optimizer, batch, 200, record=at, average=average).risk
    found = analytic.moments(problem, optimizer, batch, 200, record=at, average=average)
    kind = "theta" if average is None else "average"
    second = found[f"{kind}_mean"] ** 2 + found[f"{kind}_variance"]
    h = np.repeat(problem.curvature, problem.multiplicity)
    np.testing.assert_allclose(0.5 * (second * h).sum("coordinate"), risk, rtol=1e-12)


def test_long_runs_in_sixty_digits():
    """SGD near its edge, where s decides, for 10¹² steps: in closed form E θ² = ρᵗ P₀ + q (1 - ρᵗ)/(1 - ρ)."""
    for lr, slope, batch, t in itertools.product([1e-6, 0.3, 1.31], [0.5, 3e-8], [1.0, 3.0], [10**6, 10**12]):
        problem = NoisyQuadratic([1.0], 0.3, 0.7, 0.1, multiplicative_noise=slope)
        with mpmath.workdps(60):
            a, s = mpmath.mpf(lr), mpmath.mpf(slope) / batch
            rho, q = (1 - a) ** 2 + a * a * s, a * a * mpmath.mpf(0.3) / batch
            P0 = mpmath.mpf(float(problem.initial_second_moment[0]))
            if rho > 1 and t * mpmath.log(rho) > 600:
                continue
            expected = float((rho**t * P0 + q * (1 - rho**t) / (1 - rho)) / 2)
        found = analytic.risk(problem, SGD(lr), batch, t, record=[t]).risk.item()
        assert found == pytest.approx(expected, rel=1e-14)


def test_steady_states():
    problem = problem_of()
    for optimizer in OPTIMIZERS.values():
        settled = analytic.steady_state(problem, optimizer, 4, coordinates=[0, 5])
        run = analytic.risk(problem, optimizer, 4, 10**7, record=[10**7]).risk.item()
        moments = analytic.moments(problem, optimizer, 4, 10**7, record=[10**7], coordinates=[0, 5]).isel(step=0)
        assert settled.risk.item() == pytest.approx(run, rel=1e-13)
        for name in settled.data_vars:
            if name != "risk":
                np.testing.assert_allclose(settled[name], moments[name], rtol=1e-10)
    lr = 0.3
    one = NoisyQuadratic([1.0], 0.7, multiplicative_noise=2.0)
    expected = 0.5 * lr * 0.7 / 4 / (2 - lr * (1 + 2.0 / 4))
    assert analytic.steady_state(one, SGD(lr), 4).risk.item() == pytest.approx(expected, rel=1e-14)


@given(
    momentum=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    nesterov=st.booleans(),
    dampening=st.sampled_from([0.0, 0.5]),
    precondition=st.sampled_from([0.0, 0.5, 1.0]),
    weight_decay=st.sampled_from([0.0, 0.2]),
    batch=st.floats(1.0, 1e4),
    slope=st.floats(1e-3, 10.0),
)
def test_the_edge_is_where_second_moments_settle(
    momentum, nesterov, dampening, precondition, weight_decay, batch, slope
):
    nesterov &= momentum > 0
    dampening = dampening if momentum and not nesterov else 0.0
    optimizer = SGD(1.0, momentum, nesterov, precondition, weight_decay, dampening)
    problem = problem_of(slope)
    edge = analytic.largest_stable_lr(problem, optimizer, batch_size=batch).largest_stable_lr.item()
    below = analytic.steady_state(problem, optimizer._replace(lr=edge * (1 - 1e-9)), batch).risk.item()
    above = analytic.steady_state(problem, optimizer._replace(lr=edge * (1 + 1e-9)), batch).risk.item()
    assert np.isfinite(below)
    assert np.isinf(above)


def test_edges_and_what_they_ask_for():
    problem = NoisyQuadratic([2.0], multiplicative_noise=12.0)
    found = analytic.largest_stable_lr(problem, SGD(0.1), batch_size=[1, 3, 1e9]).largest_stable_lr
    np.testing.assert_allclose(found, [1 / 4.0, 1 / 2.0, 1.0], rtol=1e-8)
    with pytest.raises(ParameterError, match="batch_size"):
        analytic.largest_stable_lr(problem, SGD(0.1))
    with pytest.raises(ParameterError, match="batch_size"):
        analytic.largest_stable_lr(NoisyQuadratic([2.0]), SGD(0.1), batch_size=4)


def at_step(schedule):
    return lambda t: float(schedule.scale * schedule.curves[0].at(np.array([t]))[0])


@pytest.mark.parametrize(
    ("optimizer", "average"),
    [
        (SGD(schedules.cosine(0.4, steps=150)), None),
        (SGD(schedules.piecewise([0.3, 0.1, 0.02], [100, 80, 1])), None),
        (SGD(schedules.piecewise([0.1, 0.0, 0.05], [80, 80, 1]), momentum=0.8), None),
        (SGD(0.1, momentum=0.8, nesterov=True), averaging.tail(100)),
        (SGD(0.4), averaging.polynomial(2.0)),
        (SGD(schedules.linear(0.2, steps=200), momentum=0.9, dampening=0.5), 0.9),
    ],
)
def test_schedules(optimizer, average):
    problem, at = problem_of(), [0, 1, 60, 99, 101, 199, 250]
    changing = {k: at_step(v) for k, v in optimizer._asdict().items() if isinstance(v, schedules.Schedule)}
    decay = at_step(average) if isinstance(average, schedules.Schedule) else average
    expected = np.array(recursion(problem, optimizer, 4, 250, decay, digits=30, **changing))[at]
    found = analytic.risk(problem, optimizer, 4, 250, record=at, average=average).risk.values
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    moments = analytic.moments(problem, optimizer, 4, 250, record=at, average=average)
    kind = "theta" if average is None else "average"
    second = moments[f"{kind}_mean"] ** 2 + moments[f"{kind}_variance"]
    h = np.repeat(problem.curvature, problem.multiplicity)
    np.testing.assert_allclose(0.5 * (second * h).sum("coordinate"), expected, rtol=1e-11)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("average", [None, 0.9, averaging.tail(20)])
def test_first_passages_are_the_first(name, average):
    problem, optimizer = problem_of(), OPTIMIZERS[name]
    risk = analytic.risk(problem, optimizer, 4, 800, record=range(801), average=average).risk.values
    targets = np.unique(np.quantile(risk[np.isfinite(risk)], [0.02, 0.2, 0.5, 0.9]) * (1 + 1e-9 * np.arange(1, 5)))
    found = analytic.steps_to_target(problem, optimizer, 4, targets, max_steps=800, average=average).steps.values
    below = risk[:, None] <= targets
    expected = np.where(below.any(axis=0), below.argmax(axis=0), np.inf)
    np.testing.assert_array_equal(found, expected)
    settled = analytic.steady_state(problem, optimizer, 4).risk.item()
    if average is None:
        never = analytic.steps_to_target(problem, optimizer, 4, 0.5 * min(settled, risk.min())).steps.item()
        assert np.isinf(never)


def test_far_first_passages():
    problem = NoisyQuadratic.power_law(50, multiplicative_noise=0.1)
    for optimizer in (SGD(1e-5), SGD(1e-6, momentum=0.9)):
        steps = int(analytic.steps_to_target(problem, optimizer, 4, 0.05).steps.item())
        risk = analytic.risk(problem, optimizer, 4, steps, record=[steps - 1, steps]).risk.values
        assert risk[0] > 0.05 >= risk[1]


def test_scales_and_the_sde():
    problem = problem_of()
    P = problem.initial_second_moment
    scale = analytic.noise_scale(problem)
    n, h, c = problem.multiplicity, problem.curvature, problem.noise + problem.multiplicative_noise * P
    assert scale.B_simple.item() == pytest.approx((n * c).sum() / (n * h**2 * P).sum())
    assert scale.B_noise.item() == pytest.approx((n * h * c).sum() / (n * h**3 * P).sum())
    greedy = analytic.greedy_lr(problem, 4).lr.item()
    risks = analytic.risk(problem, SGD(greedy * np.array([0.99, 1.0, 1.01])), 4, 1, record=[1]).risk.values[:, 0]
    assert risks[1] < min(risks[0], risks[2])
    for lr in (1e-3, 1e-4):
        at = [int(2 / lr), int(20 / lr)]
        limit = analytic.sde_risk(problem, SGD(lr), lr * 100 + 1, at[-1], record=at).risk.values
        exact = analytic.risk(problem, SGD(lr), lr * 100 + 1, at[-1], record=at).risk.values
        np.testing.assert_allclose(limit, exact, rtol=20 * lr)


def test_what_knows_it_not_says_so():
    rising, heavy = problem_of(), problem_of(0.0, noise_df=5.0)
    for problem, name in [(rising, "multiplicative_noise"), (heavy, "noise_df")]:
        for call in (
            lambda p: analytic.information_bound(p, 10),
            lambda p: analytic.bayes_bound(p, 10),
        ):
            with pytest.raises(ParameterError) as error:
                call(problem)
            assert error.value.name == name
    for call in (
        lambda: analytic.theorem1(rising, SGD(0.1), 4, 10),
        lambda: analytic.mean_field.risk(rising, Adam(0.1), 4, 10),
        lambda: analytic.mean_field.moments(rising, Adam(0.1), 4, 10),
        lambda: analytic.mean_field.steps_to_target(rising, Adam(0.1), 4, 0.1),
    ):
        with pytest.raises(ParameterError) as error:
            call()
        assert error.value.name == "multiplicative_noise"
    same = problem_of(0.0)
    np.testing.assert_array_equal(
        analytic.risk(heavy, SGD(0.1), 4, 50).risk.values, analytic.risk(same, SGD(0.1), 4, 50).risk.values
    )
