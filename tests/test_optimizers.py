"""Descriptions of optimizers: ranges, comparison, and the extension point."""

from __future__ import annotations

import pickle
from typing import NamedTuple

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm import SGD, Adam, Lion, ParameterError, RMSProp
from mcnqm.cli.parsing import parse_optimizer
from mcnqm.domains import positive, unit_interval
from mcnqm.engine import Job, March, Pool, run_loss
from mcnqm.kernels.updates import rule_of
from mcnqm.optimizers import numeric_fields
from mcnqm.progress import NoMeter
from mcnqm.settings import settings_of


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(lr=0), "lr must be > 0, got 0.0"),
        (lambda: SGD(lr=-0.1), "lr must be > 0, got -0.1"),
        (lambda: SGD(lr=np.nan), "lr must be > 0 and finite, got nan"),
        (lambda: SGD(lr=[0.1, np.inf]), "lr must be > 0 and finite, got inf"),
        (lambda: SGD(lr=[]), "lr must not be empty"),
        (lambda: SGD(lr="fast"), "lr must be > 0, got 'fast'"),
        (lambda: SGD(lr=True), "lr must be > 0, got True"),
        (lambda: SGD(lr=None), "lr must be > 0, got None"),
        (lambda: SGD(lr=[[0.1]]), "lr must be a scalar, a 1-D array"),
        (lambda: SGD(lr=0.1, momentum=1), "momentum must be in [0, 1), got 1.0"),
        (lambda: SGD(lr=0.1, momentum=-0.1), "momentum must be in [0, 1), got -0.1"),
        (lambda: SGD(lr=0.1, nesterov=1), "nesterov must be True or False, got 1"),
        (lambda: SGD(lr=0.1, precondition=np.inf), "precondition must be finite, got inf"),
        (lambda: Adam(lr=0.1, beta1=1.0), "beta1 must be in [0, 1), got 1.0"),
        (lambda: Adam(lr=0.1, beta2=-1e-3), "beta2 must be in [0, 1), got -0.001"),
        (lambda: Adam(lr=0.1, eps=-1e-8), "eps must be >= 0, got -1e-08"),
        (lambda: Adam(lr=0.1, weight_decay=-1), "weight_decay must be >= 0, got -1.0"),
        (lambda: RMSProp(lr=0.1, alpha=1), "alpha must be in [0, 1), got 1.0"),
        (lambda: Lion(lr=xr.DataArray([0.1, -0.2])), "lr must be > 0, got -0.2"),
        (lambda: SGD(lr=0.1)._replace(lr=-1), "lr must be > 0, got -1.0"),
        (lambda: SGD(lr=0.1, weight_decay=-1), "weight_decay must be >= 0, got -1.0"),
        (lambda: SGD(lr=0.1, momentum=0.9, dampening=1), "dampening must be in [0, 1), got 1.0"),
        (lambda: SGD(lr=0.1, nesterov=True), "momentum must be > 0 with nesterov=True, got 0.0"),
        (lambda: SGD(lr=0.1, momentum=[0.9, 0.0], nesterov=True), "momentum must be > 0 with nesterov=True, got 0.0"),
        (lambda: SGD(0.1, 0.9, True, dampening=0.5), "dampening must be 0 with nesterov=True, got 0.5"),
        (lambda: SGD(lr=0.1, dampening=0.5), "dampening must be 0 where momentum is 0"),
        (lambda: SGD(lr=0.1, momentum=[0.9, 0.0], dampening=[0.1, 0.5]), "dampening must be 0 where momentum is 0"),
        (lambda: Adam(lr=0.1, eps_root=-1e-8), "eps_root must be >= 0, got -1e-08"),
        (lambda: Adam(lr=0.1, eps_hat=1), "eps_hat must be True or False, got 1"),
        (
            lambda: Adam(lr=0.1, eps_hat=True, bias_correction=False),
            "eps_hat must be False with bias_correction=False: it says how to correct, got True",
        ),
        (
            lambda: Adam(lr=0.1, present_betas=True, bias_correction=False),
            "present_betas must be False with bias_correction=False: it says how to correct, got True",
        ),
        (lambda: RMSProp(lr=0.1, momentum=1), "momentum must be in [0, 1), got 1.0"),
        (lambda: RMSProp(lr=0.1, eps_root=-1), "eps_root must be >= 0, got -1.0"),
        (lambda: RMSProp(lr=0.1, centered=0), "centered must be True or False, got 0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ParameterError) as caught:
        make()
    assert message in str(caught.value)


def test_zipped_momenta_and_dampenings_are_checked_setting_by_setting():
    zipped = {"dims": "k", "coords": {"k": [1, 2]}}
    momentum, dampening = xr.DataArray([0.9, 0.0], **zipped), xr.DataArray([0.5, 0.0], **zipped)
    assert SGD(lr=0.1, momentum=momentum, dampening=dampening).dampening.identical(dampening)
    with pytest.raises(ParameterError, match="dampening must be 0 where momentum is 0"):
        SGD(lr=0.1, momentum=momentum[::-1].assign_coords(k=[1, 2]), dampening=dampening)


@pytest.mark.parametrize("optimizer", [RMSProp(1e-2, momentum=0.5), RMSProp(1e-2, eps=1e-3, centered=True)])
def test_what_theory_lacks_is_tuned_by_simulation_alone(optimizer):
    """Elsewhere a tuned rate starts from what theory predicts."""
    problem = mcnqm.NoisyQuadratic.power_law(dim=10)
    best = mcnqm.tune(problem, optimizer, {"lr": (1e-3, 0.1)}, batch_size=64, target=0.3)
    assert 1 < float(best.steps) < 500
    with pytest.raises(ParameterError, match="for the mean-field theory of RMSProp"):
        mcnqm.tune(problem, optimizer, {"lr": (1e-3, 0.1)}, batch_size=64, target=0.3, method="mean-field")


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (Adam(1e-3, eps_root=1e-8), "eps_root"),
        (Adam(1e-3, eps_hat=True), "eps_hat"),
        (RMSProp(1e-3, eps_root=1e-8), "eps_root"),
        (RMSProp(1e-3, momentum=0.9), "momentum"),
        (RMSProp(1e-3, centered=True), "centered"),
    ],
)
def test_options_that_a_theory_lacks_are_refused_or_simulated(optimizer, name):
    problem = mcnqm.NoisyQuadratic.power_law(dim=3)
    with pytest.raises(ParameterError, match="refine must be left out for a search by simulation"):
        mcnqm.optimize_schedule(problem, optimizer, 4, steps=10, refine=True)
    if name in ("momentum", "centered"):
        with pytest.raises(ParameterError, match=f"{name} must be .* for the mean-field theory"):
            mcnqm.analytic.mean_field.risk(problem, optimizer, 4, 10)


def test_comparison_hash_and_pickle():
    a, b = SGD(lr=np.array([0.1, 0.2])), SGD(lr=[0.1, 0.2])
    assert a == b
    assert not a.__ne__(b)
    assert hash(a) == hash(b)
    assert a != SGD(lr=[0.1, 0.3])
    assert SGD(lr=0.1) != Adam(lr=0.1)
    assert pickle.loads(pickle.dumps(a)) == a


def test_arrays_are_frozen():
    rates = np.array([0.1, 0.2])
    optimizer = SGD(lr=rates)
    rates[0] = -1
    assert optimizer.lr[0] == 0.1
    with pytest.raises(ValueError, match="read-only"):
        optimizer.lr[0] = 1


# --------------------------------------------------------------------------------- an optimizer of the user's own


@mcnqm.hyperparameters(lr=positive, decay=unit_interval)
class Normalised(NamedTuple):
    """Momentum over a running mean of |g|, with a warm-up: every feature of the extension point at once."""

    lr: float
    decay: float = 0.9
    absolute: bool = True


def _clock(p, k):
    done = k[0] + 1.0
    return (done,), (p.lr * (done / 10.0 if done < 10.0 else 1.0),)


@mcnqm.update_rule(Normalised, state=("m", "a"), clock=_clock, clock_start=(0.0,))
def _normalised(p, c, g, theta, s):
    size = g if g > 0.0 else -g
    m = p.decay * s[0] + (1.0 - p.decay) * g
    a = p.decay * s[1] + (1.0 - p.decay) * (size if p.absolute > 0.0 else g * g)
    return theta - c[0] * m / (a + 1e-3), (m, a)


def _normalised_path(theta, gradient, steps, *, lr, decay):
    path, m, a = [theta.copy()], np.zeros_like(theta), np.zeros_like(theta)
    for t in range(steps):
        g = gradient(t, theta)
        m = decay * m + (1 - decay) * g
        a = decay * a + (1 - decay) * abs(g)
        theta = theta - lr * min(1.0, (t + 1) / 10) * m / (a + 1e-3)
        path.append(theta.copy())
    return np.stack(path)


def test_own_optimizer_in_a_sweep(small_problem):
    runs = mcnqm.simulate(
        small_problem, Normalised(lr=np.geomspace(1e-3, 1e-2, 9), decay=[0.5, 0.9]), 4, 200,
        trajectories=2, coordinates=range(7), record=range(201),
    )  # fmt: skip
    assert runs.loss.dims == ("lr", "decay", "trajectory", "step")
    z = mcnqm.noise(0, 1, range(7), 200)[0]
    start = mcnqm.noise(0, 1, range(7), 1, purpose="initial")[0, 0]
    theta = small_problem.initial_mean + small_problem.initial_std * start
    sigma = np.sqrt(small_problem.noise / 4)
    expected = _normalised_path(theta, lambda t, x: small_problem.curvature * x + sigma * z[t], 200, lr=1e-2, decay=0.9)
    found = runs.theta.isel(lr=-1, decay=1, trajectory=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def test_own_optimizer_by_name():
    assert parse_optimizer("normalised lr=0.1 absolute=false") == Normalised(0.1, 0.9, False)
    assert list(numeric_fields(Normalised(0.1))) == ["lr", "decay"]


def test_an_optimizer_without_an_update(small_problem):
    @mcnqm.hyperparameters(lr=positive)
    class Idle(NamedTuple):
        lr: float

    with pytest.raises(ParameterError, match=r"optimizer must have an update.*got 'Idle'"):
        mcnqm.simulate(small_problem, Idle(0.1), 4, 10)


def test_domains_of_unknown_fields():
    with pytest.raises(ParameterError, match="name fields of Odd"):

        @mcnqm.hyperparameters(rate=positive)
        class Odd(NamedTuple):
            lr: float


def test_an_edited_update_is_not_served_from_the_cache():
    """The fingerprint under which kernels are cached follows the source and the constants it names."""

    def rule(scale):
        @mcnqm.hyperparameters(lr=positive)
        class Scaled(NamedTuple):
            lr: float

        exec_globals = {"SCALE": scale}
        exec("def update(p, c, g, theta, s):\n    return theta - SCALE * p.lr * g, s", exec_globals)
        mcnqm.update_rule(Scaled)(exec_globals["update"])
        return rule_of(Scaled)

    assert rule(2.0).fingerprint == rule(2.0).fingerprint
    assert rule(2.0).fingerprint != rule(3.0).fingerprint


def test_a_second_update_for_a_class_replaces_the_first(small_problem):
    """As where a cell of a notebook is edited and run again; kernels compiled for the class hold the first update."""

    @mcnqm.hyperparameters(lr=positive)
    class Twice(NamedTuple):
        lr: float

    @mcnqm.update_rule(Twice)
    def one(p, c, g, theta, s):
        return theta - p.lr * g, s

    def risk(optimizer):
        return mcnqm.simulate(small_problem, optimizer, 4, 20, trajectories=2).risk.values

    first = risk(Twice(lr=0.1))
    np.testing.assert_allclose(first, risk(SGD(lr=0.1)), rtol=1e-12)
    mcnqm.update_rule(Twice)(one)  # the same again is harmless
    np.testing.assert_array_equal(first, risk(Twice(lr=0.1)))

    @mcnqm.update_rule(Twice)
    def two(p, c, g, theta, s):
        return theta - 2 * p.lr * g, s

    second = risk(Twice(lr=0.1))
    np.testing.assert_allclose(second, risk(SGD(lr=0.2)), rtol=1e-12)
    assert not np.allclose(first[1:], second[1:])


@mcnqm.hyperparameters(lr=positive)
class ClockWithoutState(NamedTuple):
    """Its coefficients need no memory."""

    lr: float


@mcnqm.update_rule(ClockWithoutState, clock=lambda p, k: (k, (p.lr,)))
def _clock_without_state(p, c, g, theta, s):
    return theta - c[0] * g, s


@pytest.mark.slow
def test_a_clock_without_state(small_problem):
    own = mcnqm.simulate(small_problem, ClockWithoutState(lr=0.1), 4, 70, trajectories=3)
    sgd = mcnqm.simulate(small_problem, SGD(lr=0.1), 4, 70, trajectories=3)
    np.testing.assert_allclose(own.loss, sgd.loss, rtol=1e-12)


def test_a_field_may_not_be_called_like_a_part_of_a_result(small_problem):
    @mcnqm.hyperparameters(lr=positive)
    class Odd(NamedTuple):
        lr: float
        step: float = 1.0

    with pytest.raises(ParameterError, match=r"not have fields named like parts of a result .* \"field 'step'\""):
        mcnqm.simulate(small_problem, Odd(0.1), 4, 10)


# ---------------------------------------------------------------------- an iterate elsewhere, and a start that is not 0


@mcnqm.hyperparameters(lr=positive, warm=positive)
class Lookahead(NamedTuple):
    """A slow sequence follows a fast one; losses are those of the slow one, and a sum of squares starts at `warm`."""

    lr: float
    warm: float = 0.5


def _lookahead_start(p, theta):
    return 0.5 * theta, p.warm


@mcnqm.update_rule(Lookahead, state=("slow", "squares"), start=_lookahead_start, iterate="slow")
def _lookahead(p, c, g, theta, s):
    squares = s[1] + g * g
    theta = theta - p.lr * g / np.sqrt(squares)
    return theta, (0.75 * s[0] + 0.25 * theta, squares)


def _lookahead_path(theta, gradient, steps, *, lr, warm):
    slow, squares, path = 0.5 * theta, np.full_like(theta, warm), [0.5 * theta]
    for t in range(steps):
        g = gradient(t, theta)
        squares = squares + g * g
        theta = theta - lr * g / np.sqrt(squares)
        slow = 0.75 * slow + 0.25 * theta
        path.append(slow)
    return np.stack(path)


def test_an_iterate_and_a_start_of_ones_own(small_problem):
    """In both layouts, with its average, on any cut, and in float32."""
    options = {"coordinates": range(7), "record": range(201)}
    h, sigma = small_problem.curvature, np.sqrt(small_problem.noise / 4)
    z = mcnqm.noise(0, 1, range(7), 200)[0]
    start = mcnqm.noise(0, 1, range(7), 1, purpose="initial")[0, 0]
    theta = small_problem.initial_mean + small_problem.initial_std * start
    expected = _lookahead_path(theta, lambda t, x: h * x + sigma * z[t], 200, lr=0.3, warm=2.0)
    swept = mcnqm.simulate(
        small_problem, Lookahead(lr=[0.1, 0.3, 0.5], warm=[0.5, 2.0]), 4, 200, trajectories=2, **options
    )
    alone = mcnqm.simulate(small_problem, Lookahead(lr=0.3, warm=2.0), 4, 200, trajectories=5, **options)
    for found in (swept.isel(lr=1, warm=1), alone):
        np.testing.assert_allclose(found.theta[1], expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        np.testing.assert_allclose(found.loss[1], 0.5 * (h * expected**2).sum(axis=1), rtol=1e-11)
    mean = [expected[0]]
    for x in expected[1:]:
        mean.append(0.9 * mean[-1] + 0.1 * x)
    averaged = mcnqm.simulate(small_problem, Lookahead(lr=0.3, warm=2.0), 4, 200, trajectories=2, average=0.9)
    np.testing.assert_allclose(averaged.loss[1], 0.5 * (h * np.array(mean) ** 2).sum(axis=1), rtol=1e-11)
    single = mcnqm.simulate(small_problem, Lookahead(lr=0.3, warm=2.0), 4, 200, trajectories=2, dtype="float32")
    np.testing.assert_allclose(single.loss[1], alone.loss[1], rtol=2e-3)


def test_an_iterate_that_is_no_variable_is_refused():
    with pytest.raises(ParameterError, match="iterate must be one of theta, m, a, got 'slow'"):
        mcnqm.update_rule(Normalised, state=("m", "a"), iterate="slow")(lambda p, c, g, theta, s: (theta, s))


def test_a_twin_whose_start_is_not_zero_may_be_cut_anywhere():
    """Schedule-free Adam in stretches, with settings dropped on the way, and its twin beside it, bit for bit."""
    problem = mcnqm.NoisyQuadratic.power_law(dim=12)
    optimizer = mcnqm.ScheduleFreeAdam(lr=np.geomspace(1e-3, 0.1, 5))
    job = Job(problem, optimizer, settings_of(optimizer, 4.0), np.arange(19, dtype=np.uint32), 0, cells=2)
    whole = run_loss(job, np.arange(101), Pool(), NoMeter())
    march = March(job, Pool(), NoMeter())
    for start, stop in ((0, 37), (38, 64), (65, 100)):
        part = march.advance(np.arange(start, stop + 1))
        for found, expected in zip(part, whole, strict=True):
            np.testing.assert_array_equal(found, expected[march.alive][..., start : stop + 1])
        march.drop(march.alive == 2)
    runs = mcnqm.simulate(problem, optimizer, 4, 100, trajectories=19)
    assert float(runs.variance_reduction.isel(lr=0, step=-1)) > 3


def test_what_is_no_named_tuple_is_refused_in_a_line():
    with pytest.raises(ParameterError, match=r"optimizer must be a class of typing.NamedTuple, got 'Plain'"):

        @mcnqm.hyperparameters(lr=mcnqm.extending.positive)
        class Plain:
            lr: float

    with pytest.raises(ParameterError, match="check must be a function of an instance"):
        mcnqm.hyperparameters(0.1)
