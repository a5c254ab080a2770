"""Simulation and theory hold each other: over random problems, and against deliberately wrong formulas.

`check` is the one test. A new seed would make it fail with probability `ERROR_RATE` per case; the seeds and
hypothesis's examples are fixed. The negative controls hand the same check a theory with one fault each, and it must
fail.
"""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

import mcnqm
from mcnqm import SGD, NoisyQuadratic, analytic, averaging, schedules
from mcnqm.comparison import EXACT, Theory, agreement

ERROR_RATE = 1e-6


def check(problem, optimizer, batch_size, steps, *, theory=EXACT, trajectories=2048, seed=0, average=None):
    report = agreement(
        problem,
        optimizer,
        batch_size,
        steps,
        trajectories=trajectories,
        seed=seed,
        error_rate=ERROR_RATE,
        theory=theory,
        average=average,
    )
    worst = report.z_independent.where(np.abs(report.z_independent) > 4).to_series().dropna()
    assert bool(report.agrees), (
        f"{optimizer} at B = {batch_size}, {steps} steps on {problem}: p = {float(report.p_value):.3g}, "
        f"consistent: {bool(report.consistent)}, z beyond 4:\n{worst}"
    )


# ------------------------------------------------------------------------------------------------ random problems

positive_logs = st.floats(-6, 0).map(lambda x: 10.0**x)


@st.composite
def problems(draw):
    n = draw(st.integers(1, 5))
    vector = lambda each: draw(st.lists(each, min_size=n, max_size=n))  # noqa: E731
    return NoisyQuadratic(
        curvature=vector(positive_logs),
        noise=vector(st.one_of(st.just(0.0), st.floats(-3, 1).map(lambda x: 10.0**x))),
        initial_mean=vector(st.floats(-3, 3)),
        initial_std=vector(st.one_of(st.just(0.0), st.floats(0.01, 3))),
        multiplicity=vector(st.integers(1, 3)),
    )


@st.composite
def linear_optimizers(draw, problem):
    momentum = draw(st.one_of(st.just(0.0), st.floats(0.01, 0.99)))
    nesterov = draw(st.booleans()) and momentum > 0
    shape = SGD(
        lr=1.0,
        momentum=momentum,
        nesterov=nesterov,
        precondition=draw(st.sampled_from([0.0, 0.0, 0.3, 0.5, 1.0])),
        weight_decay=draw(st.sampled_from([0.0, 0.0, 1e-3, 0.3])),
        dampening=0.0 if nesterov or not momentum else draw(st.sampled_from([0.0, 0.1, 0.9])),
    )
    edge = float(analytic.largest_stable_lr(problem, shape).largest_stable_lr)
    return shape._replace(lr=edge * draw(st.one_of(st.floats(1e-3, 0.99), st.floats(0.9, 0.99))))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), problems(), st.sampled_from([1, 2, 10, 333.0]), st.integers(1, 300))
def test_simulation_and_theory_agree(data, problem, batch_size, steps):
    check(problem, data.draw(linear_optimizers(problem)), batch_size, steps)


averages = st.one_of(
    st.sampled_from([0.0, 0.5, 0.99, 1 - 1e-9]),
    st.integers(0, 100).map(averaging.tail),
    st.floats(0.5, 0.999).map(averaging.growing),
    st.floats(0.0, 8.0).map(averaging.polynomial),
    st.floats(0.0, 0.99).map(lambda gamma: schedules.piecewise([gamma, 0.9, 0.2], [5, 20, 1])),
)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), problems(), st.sampled_from([1, 10, 333.0]), st.integers(1, 200), averages)
def test_averages_agree(data, problem, batch_size, steps, average):
    check(problem, data.draw(linear_optimizers(problem)), batch_size, steps, average=average, trajectories=512)


# ----------------------------------------------------------------------------------------------- negative controls


def recursion(fault=None):
    """A theory of its own: the moment recursion, one step at a time in plain NumPy, with at most one fault."""

    def numbers(problem, optimizer, batch_size):
        h = np.repeat(problem.curvature, problem.multiplicity)
        c, mean, std = (
            np.repeat(a, problem.multiplicity) for a in (problem.noise, problem.initial_mean, problem.initial_std)
        )
        rate = optimizer.lr * (1.01 if fault == "rate off by 1 %" else 1.0)
        power = optimizer.precondition if fault == "preconditioner on the wrong side" else -optimizer.precondition
        scale = batch_size**2 if fault == "noise scaled twice" else batch_size
        return h, c / scale, mean, std, rate * h**power, optimizer.momentum

    def matrices(h, rate, beta, nesterov):
        zero = 0 * h
        if nesterov:
            A = [[1 - rate * (1 + beta) * h, zero - rate * beta**2], [h, zero + beta]]
            return np.moveaxis(np.array(A), -1, 0), np.stack([-rate * (1 + beta), zero + 1], axis=-1)
        A = [[1 - rate * h, zero - rate * beta], [h, zero + beta]]
        return np.moveaxis(np.array(A), -1, 0), np.stack([-rate, zero + 1], axis=-1)

    def walk(problem, optimizer, batch_size, record):
        h, variance, mean, std, rate, beta = numbers(problem, optimizer, batch_size)
        A, b = matrices(h, rate, beta, optimizer.nesterov)
        mu = np.stack([mean, 0 * mean], axis=-1)
        P = np.zeros((h.size, 2, 2))
        P[:, 0, 0] = std**2
        late = 1 if fault == "off by one in t" else 0
        kept = {}
        for t in range(int(record[-1]) + late + 1):
            kept[t - late] = (mu, P)
            mu = (A @ mu[..., np.newaxis])[..., 0]
            before = P.copy()
            if fault == "no cross term":
                before[:, 0, 1] = before[:, 1, 0] = 0
            P = A @ before @ A.swapaxes(-1, -2) + b[:, :, np.newaxis] * b[:, np.newaxis, :] * variance[:, None, None]
        return np.stack([kept[int(t)][0] for t in record]), np.stack([kept[int(t)][1] for t in record])

    def moments(problem, optimizer, batch_size, steps, *, record):
        mu, P = walk(problem, optimizer, batch_size, record)
        dims = ("step", "coordinate")
        found = {"theta_mean": (dims, mu[..., 0]), "theta_variance": (dims, P[..., 0, 0])}
        if optimizer.momentum > 0:
            found["momentum_mean"] = (dims, mu[..., 1])
            found["momentum_variance"] = (dims, P[..., 1, 1])
            found["theta_momentum_covariance"] = (dims, P[..., 0, 1])
        return xr.Dataset(found)

    def transition(problem, optimizer, batch_size, steps):
        h, _, _, _, rate, beta = numbers(problem, optimizer, batch_size)
        size = 2 if optimizer.momentum > 0 else 1
        power = np.linalg.matrix_power(matrices(h, rate, beta, optimizer.nesterov)[0], steps)
        return xr.Dataset({"transition": (("coordinate", "to", "of"), power[:, :size, :size])})

    def risk(problem, optimizer, batch_size, steps, *, record):
        mu, P = walk(problem, optimizer, batch_size, record)
        weight = 0.5 * np.repeat(problem.curvature, problem.multiplicity)
        return xr.Dataset({"risk": ("step", (weight * (P[..., 0, 0] + mu[..., 0] ** 2)).sum(axis=-1))})

    return Theory(moments, transition, risk)


CONTROL = NoisyQuadratic(
    curvature=1.0 / np.arange(1, 101), noise=1.0, initial_mean=np.linspace(-1, 1, 100), initial_std=0.7
)
FAULTS = {
    "rate off by 1 %": (SGD(lr=0.3), 4),
    "noise scaled twice": (SGD(lr=0.3), 2),
    "no cross term": (SGD(lr=0.1, momentum=0.5), 4),
    "off by one in t": (SGD(lr=0.3), 4),
    "preconditioner on the wrong side": (SGD(lr=0.05, precondition=0.5), 4),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_recursion_without_its_fault_agrees(name):
    """So that the rejection below is of the fault and of nothing else."""
    optimizer, batch_size = FAULTS[name]
    check(CONTROL, optimizer, batch_size, 200, theory=recursion())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_rejected(fault, momentum):
    optimizer, batch_size = FAULTS[fault]
    if fault != "no cross term":
        optimizer = optimizer._replace(momentum=momentum)
    with pytest.raises(AssertionError, match="p = "):
        check(CONTROL, optimizer, batch_size, 200, theory=recursion(fault))


@pytest.mark.parametrize("fault", [f for f in FAULTS if f not in ("no cross term", "off by one in t")])
def test_the_statistics_alone_reject_it(fault):
    """Some faults make the theory inconsistent in itself; those that do not are seen in the data."""
    optimizer, batch_size = FAULTS[fault]
    report = agreement(CONTROL, optimizer, batch_size, 200, trajectories=2048, theory=recursion(fault))
    assert bool(report.consistent)
    assert float(report.p_value) < ERROR_RATE


def taking(change):
    """The exact theory of another optimizer."""
    return Theory(
        *(
            lambda problem, optimizer, *a, one=one, **k: one(problem, change(optimizer), *a, **k)
            for one in (analytic.moments, analytic.transition, analytic.risk)
        )
    )


DAMPENED = SGD(lr=0.5, momentum=0.6, weight_decay=0.1, dampening=0.6)
WRONG = {
    "no decay": (DAMPENED, lambda o: o._replace(weight_decay=0.0)),
    "decay off by 5 %": (DAMPENED, lambda o: o._replace(weight_decay=1.05 * o.weight_decay)),
    "no dampening": (DAMPENED, lambda o: o._replace(dampening=0.0)),
    "decay of plain SGD off by 5 %": (SGD(0.3, weight_decay=0.2), lambda o: o._replace(weight_decay=0.21)),
}


def test_decay_and_dampening_agree():
    check(CONTROL, DAMPENED, 4, 200, theory=taking(lambda o: o))
    check(CONTROL, SGD(0.3, weight_decay=0.2), 4, 200)
    check(CONTROL, DAMPENED, 4, 40, theory=EXACT)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_decay_or_dampening_is_rejected(name):
    optimizer, change = WRONG[name]
    report = agreement(CONTROL, optimizer, 4, 200, trajectories=2048, theory=taking(change))
    assert float(report.p_value) < ERROR_RATE


def test_a_first_gradient_that_is_dampened_too_is_rejected():
    """What torch does not do: one step, in which the whole gradient counts."""
    plain = SGD(lr=0.5, momentum=0.6, dampening=0.6)
    weaker = taking(lambda o: o._replace(lr=0.4 * o.lr, dampening=0.0))
    assert float(agreement(CONTROL, plain, 4, 1, record=[0, 1], theory=EXACT).p_value) > ERROR_RATE
    assert float(agreement(CONTROL, plain, 4, 1, record=[0, 1], theory=weaker).p_value) < ERROR_RATE


def averaged_as(change):
    """The exact theory of another average."""
    return Theory(
        *(
            lambda *a, average, one=one, **k: one(*a, average=change(average), **k)
            for one in (analytic.moments, analytic.transition, analytic.risk)
        )
    )


WRONG_AVERAGES = {
    "γ off by 0.5 %": (0.9, lambda gamma: 1.005 * gamma),
    "a schedule's γ off by 1 %": (schedules.piecewise([0.5, 0.9], [20, 1]), lambda gamma: 1.01 * gamma),
    "begins a step late": (averaging.tail(20), lambda gamma: gamma.later(1)),
}


@pytest.mark.parametrize(
    ("name", "optimizer"),
    list(zip(WRONG_AVERAGES, [SGD(lr=0.1, momentum=0.8), DAMPENED, SGD(lr=0.3)], strict=True)),
)
def test_a_wrong_average_is_rejected(name, optimizer):
    average, change = WRONG_AVERAGES[name]
    check(CONTROL, optimizer, 4, 60, theory=averaged_as(lambda gamma: gamma), average=average)
    report = agreement(CONTROL, optimizer, 4, 60, trajectories=2048, theory=averaged_as(change), average=average)
    assert bool(report.consistent)  # it is the data that reject it
    assert float(report.p_value) < ERROR_RATE


def test_a_theory_of_the_iterates_is_no_theory_of_their_average():
    alone = Theory(*(lambda *a, average, one=one, **k: one(*a, **k) for one in EXACT))
    with pytest.raises(mcnqm.ParameterError, match="theory must have moments of theta and average here"):
        agreement(CONTROL, SGD(lr=0.3), 4, 60, theory=alone, average=0.9)
    mixed = EXACT._replace(risk=alone.risk)
    report = agreement(CONTROL, SGD(lr=0.3), 4, 60, theory=mixed, average=0.9, trajectories=16)
    assert not bool(report.consistent)


def test_an_inconsistent_theory_is_rejected_without_data():
    risk = lambda *a, **k: analytic.risk(*a, **k) * (1 + 1e-6)  # noqa: E731
    report = agreement(CONTROL, SGD(lr=0.1), 4, 10, theory=EXACT._replace(risk=risk), trajectories=16)
    assert not bool(report.consistent)
    assert not bool(report.agrees)


def test_a_fault_at_an_unstable_rate_is_rejected():
    check(CONTROL, SGD(lr=2.5), 4, 200, theory=recursion())
    with pytest.raises(AssertionError, match="p = "):
        check(CONTROL, SGD(lr=2.5), 4, 200, theory=recursion("rate off by 1 %"))


def test_a_fault_early_in_an_unstable_run_is_rejected():
    """The run's start is tiny beside its end, but it is not rounding: all of it counts."""
    problem, optimizer = NoisyQuadratic([1.0], noise=[1.0]), SGD(lr=3.0)
    moments = lambda *a, **k: analytic.moments(*a, **k) * (1 + 0.1 * (analytic.moments(*a, **k).step == 2))  # noqa: E731
    report = agreement(problem, optimizer, 4, 100, theory=EXACT._replace(moments=moments), trajectories=16)
    assert not bool(report.consistent)
    early = agreement(problem, optimizer, 4, 100, trajectories=16).z_independent
    assert not np.isnan(early.sel(statistic="theta_variance", step=early.step < 20)).any()


# ------------------------------------------------------------------------------------------------------ the report


def test_shape_of_the_report():
    report = agreement(CONTROL, SGD(lr=[0.1, 0.2], momentum=0.5), [1, 8], 100, trajectories=64)
    assert report.z.dims == ("lr", "batch_size", "moment", "step")
    assert report.p_value.dims == report.agrees.dims == ("lr", "batch_size")
    assert report.step.values[0] == 0
    assert report.step.values[-1] == 100
    averaged = agreement(CONTROL, SGD(lr=0.1, momentum=0.5), 8, 100, trajectories=64, average=[0.5, 0.9])
    assert averaged.z.dims == ("average", "moment", "step")
    assert list(averaged.moment.values) == [*report.moment.values[:-1], "average_mean", "average_variance", "risk"]
    # The iterate's own statistics do not know of an average, nor the results of another beside it.
    alone = agreement(CONTROL, SGD(lr=0.1, momentum=0.5), 8, 100, trajectories=64)
    statistic = list(alone.statistic.values)
    xr.testing.assert_equal(
        averaged.z_independent.sel(statistic=statistic).isel(average=0, drop=True), alone.z_independent
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": mcnqm.Adam(lr=0.1)}, "optimizer must be linear"),
        ({"optimizer": SGD(lr=1e9), "steps": 1000}, "optimizer must be stable"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"trajectories": 7}, "trajectories must be an integer in"),
        ({"error_rate": 0.0}, "error_rate must be in"),
        ({"seed": -1}, "seed must be"),
        ({"average": 1.5}, "average must be in"),
        ({"average": 1.0}, "average must be in"),
    ],
)
def test_bad_input(changes, message):
    arguments = {"problem": CONTROL, "optimizer": SGD(lr=0.1), "batch_size": 4, "steps": 10}
    with pytest.raises(mcnqm.ParameterError, match=message):
        agreement(**{**arguments, **changes})


def test_marginal_z_are_standard_normal():
    """Mean 0 and variance 1 over seeds, at every moment; false alarm below 1e-5 over the six."""
    problem = NoisyQuadratic([1.0, 0.3, 0.05], noise=[0.5, 1.0, 2.0], initial_mean=[1.0, 0.0, -1.0])
    z = np.stack(
        [
            agreement(problem, SGD(lr=0.2, momentum=0.5), 4, 40, trajectories=64, seed=seed, record=[40]).z.values[:, 0]
            for seed in range(200)
        ]
    )
    assert np.abs(z.mean(axis=0)).max() < 5 / np.sqrt(200), z.mean(axis=0)
    assert np.abs(z.var(axis=0) - 1).max() < 5 * np.sqrt(2 / 200), z.var(axis=0)


@pytest.mark.parametrize(
    "optimizer", [SGD(lr=2.2), SGD(lr=5.0), SGD(lr=4.5, momentum=0.9), SGD(lr=2.0, momentum=0.9, nesterov=True)]
)
def test_z_of_an_unstable_rate_is_finite(optimizer):
    """|z| < 5.5: false alarm below 1e-6 over all of them."""
    report = agreement(NoisyQuadratic.power_law(20), optimizer, 8, 200, trajectories=64, error_rate=ERROR_RATE)
    assert float(analytic.largest_stable_lr(NoisyQuadratic.power_law(20), optimizer).largest_stable_lr) < optimizer.lr
    assert bool(report.agrees)
    assert np.abs(report.z).max() < 5.5
    assert not np.isnan(report.z.sel(moment="risk")).any()


def test_z_of_the_risk_is_nan_within_rounding():
    """One coordinate has shrunk to what rounding may be, and hides another that never was more."""
    shrunk = NoisyQuadratic([1.0, 1e-6], noise=0.0, initial_std=[1.0, 1e-12])
    z = agreement(shrunk, SGD(lr=0.5), 1, 40, trajectories=64, record=[0, 40]).z.sel(moment="risk")
    assert np.isfinite(z[0])
    assert np.isnan(z[1])
    # Nothing random at all, and next to nothing beside something certain.
    certain = NoisyQuadratic([1.0, 0.1], noise=0.0, initial_mean=1.0, initial_std=[0.0, 0.0])
    assert np.isnan(agreement(certain, SGD(lr=0.5), 1, 40, trajectories=8).z).all()
    faint = NoisyQuadratic([1.0, 0.1], noise=0.0, initial_mean=[1.0, 0.0], initial_std=[0.0, 1e-6])
    z = agreement(faint, SGD(lr=1e-3), 1, 40, trajectories=8).z
    assert np.isnan(z.sel(moment="risk")).all()
    assert np.isfinite(z.sel(moment="theta_variance")).all()


def test_z_of_the_risk_shows_a_certain_coordinate_that_is_wrong():
    certain = NoisyQuadratic([1.0, 0.1], noise=0.0, initial_mean=1.0, initial_std=0.0)
    slow = lambda f: lambda p, o, *a, **k: f(p, o._replace(lr=0.99 * o.lr), *a, **k)  # noqa: E731
    wrong = Theory(slow(analytic.moments), slow(analytic.transition), slow(analytic.risk))
    report = agreement(certain, SGD(lr=0.5), 1, 40, trajectories=8, theory=wrong)
    assert (report.z.sel(moment="risk")[1:] == -np.inf).all()
    assert not bool(report.agrees)


# ----------------------------------------------------------------------------------------------------- calibration


@pytest.mark.slow
@pytest.mark.parametrize("average", [None, 0.9, averaging.tail(20)])
@pytest.mark.parametrize(
    "optimizer", [SGD(lr=0.5), SGD(lr=0.1, momentum=0.9), SGD(lr=0.1, momentum=0.9, nesterov=True)]
)
def test_p_values_are_uniform(optimizer, average):
    """Kolmogorov-Smirnov over 600 seeds; a new set of seeds fails with probability 1e-4 per case."""
    problem = NoisyQuadratic([1.0, 0.2, 0.01], noise=[0.5, 1.0, 2.0], initial_mean=[1.0, 0.0, -1.0])
    given = {"trajectories": 32, "average": average}
    p = [float(agreement(problem, optimizer, 4, 60, seed=seed, **given).p_value) for seed in range(600)]
    found = stats.kstest(p, "uniform")
    assert found.pvalue > 1e-4, found
    # Negative control: z-scores of correlated steps, combined as if they were independent, are not uniform.
    wrong = []
    for seed in range(600):
        z = agreement(problem, optimizer, 4, 60, seed=seed, **given).z.values
        wrong.append(stats.chi2.sf(np.nansum(z**2), np.isfinite(z).sum()))
    assert stats.kstest(wrong, "uniform").pvalue < 1e-4


@pytest.mark.slow
def test_intervals_cover():
    """Of the 95 % intervals of the risk over 1000 seeds, 95 % cover: within 4 binomial standard errors (6e-5)."""
    problem, optimizer = NoisyQuadratic.power_law(200), SGD(lr=[0.05, 0.5], momentum=0.5)
    record = [0, 10, 100, 400]
    exact = analytic.risk(problem, optimizer, 8, 400, record=record).risk
    quantile = stats.t.ppf(0.975, 31)
    covered, narrow = [], []
    for seed in range(1000):
        runs = mcnqm.simulate(problem, optimizer, 8, 400, trajectories=32, seed=seed, record=record)
        off = np.abs(runs.risk - exact)
        covered.append((off <= quantile * runs.risk_stderr).values)
        narrow.append((off <= 0.8 * quantile * runs.risk_stderr).values)
    error = np.sqrt(0.95 * 0.05 / 1000)
    assert np.abs(np.mean(covered, axis=0) - 0.95).max() < 4 * error, np.mean(covered, axis=0)
    # Negative control: errors understated by a fifth.
    assert np.abs(np.mean(narrow, axis=0) - 0.95).max() > 4 * error, np.mean(narrow, axis=0)
