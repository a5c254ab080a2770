"""Schedules and averages themselves, and the simulation that follows them, replayed in plain NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from selection import mostly_slow

import mcnqm
from mcnqm import SGD, Adam, Lion, ParameterError, RMSProp, averaging, schedules
from mcnqm.engine import march
from mcnqm.schedules import Schedule

T = np.arange(40)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.constant(0.3), np.full(40, 0.3)),
        (schedules.piecewise([3, 1, 2], [5, 10, 1]), np.r_[np.full(5, 3), np.full(10, 1), np.full(25, 2)]),
        (schedules.piecewise([3, 1], 4), np.r_[np.full(4, 3), np.full(36, 1)]),
        (schedules.exponential(2.0, steps=20, final=0.1), 2.0 * 0.1 ** np.minimum(T / 20, 1)),
        (schedules.exponential(2.0, steps=20, final=8.0), 2.0 * 8.0 ** np.minimum(T / 20, 1)),
        (schedules.linear(2.0, steps=20), 2.0 * (1 - np.minimum(T / 20, 1))),
        (schedules.linear(2.0, steps=20, final=3.0), 2.0 * (1 + 2 * np.minimum(T / 20, 1))),
        (schedules.cosine(2.0, steps=20, final=0.1), 1.1 + 0.9 * np.cos(np.pi * np.minimum(T / 20, 1))),
        (
            schedules.warmup_stable_decay(2.0, warmup=4, stable=6, decay=10, final=0.5),
            2.0 * np.minimum((T + 1) / 5, 1 - 0.5 * np.clip((T - 10) / 10, 0, 1)),
        ),
        (schedules.warmup_stable_decay(2.0, warmup=0, stable=0, decay=8), 2.0 * (1 - np.minimum(T / 8, 1))),
        (
            schedules.warmup_stable_decay(1.0, warmup=0, stable=5, decay=10, final=0.01, shape="exponential"),
            0.01 ** np.clip((T - 5) / 10, 0, 1),
        ),
        (schedules.sampled([5.0, 4.0, 3.0]), np.r_[5.0, 4.0, np.full(38, 3.0)]),
        (schedules.from_function(lambda t: 1 / (1 + t), 3.0), 3.0 / (1 + T)),
        (schedules.from_function(lambda t: 2.0), np.full(40, 2.0)),
        (averaging.tail(7), np.maximum(T - 6, 0) / (np.maximum(T - 6, 0) + 1)),
        (averaging.polynomial(2.5), (T + 1) / (T + 4.5)),
        (averaging.growing(0.6, eta=4.0), np.minimum((T + 1) / (T + 6), 0.6)),
        (averaging.growing(0.7), np.minimum(0.7, (1 + T) / (10 + T))),  # TensorFlow's, of num_updates = T
        (
            schedules.join([schedules.linear(0.5, steps=9), schedules.cosine(2.0, steps=20, final=0.1)], [6]),
            np.where(T < 6, 0.5 * (1 - T / 9), 1.1 + 0.9 * np.cos(np.pi * np.clip((T - 6) / 20, 0, 1))),
        ),
        (
            schedules.join([schedules.piecewise([3, 1], 4), schedules.from_function(lambda t: t), averaging.tail(3)],
                           [6, 8]),
            np.select([T < 4, T < 6, T < 8], [3, 1, T - 6], np.maximum(T - 10, 0) / (np.maximum(T - 10, 0) + 1)),
        ),
        (schedules.join([schedules.constant(2.0)], []), np.full(40, 2.0)),
        (schedules.join([schedules.constant(2.0), schedules.linear(1.0, steps=9)], [5]).later(7),
         1 - np.minimum((T + 2) / 9, 1)),
        (
            schedules.warmup_stable_decay(2.0, warmup=4, stable=6, decay=10, final=0.5, initial=0.2),
            2.0 * np.minimum(0.2 + 0.8 * T / 4, 1 - 0.5 * np.clip((T - 10) / 10, 0, 1)),
        ),
        (schedules.linear(2.0, steps=20).later(5), 2.0 * (1 - np.minimum((T + 5) / 20, 1))),
    ],
)  # fmt: skip
def test_values(schedule, expected):
    np.testing.assert_allclose(schedule(T), expected, rtol=1e-14, atol=1e-15)
    assert schedule(7) == schedule(T)[7]
    np.testing.assert_allclose((schedule * 3)(T), 3 * schedule(T), rtol=1e-15)
    # What a curve says of itself is true.
    for curve in schedule.curves:
        start = 0
        for stop, flat in zip(*schedules.stretches(curve), strict=True):
            inside = curve.at(np.arange(start, min(stop, start + 100)))
            assert not flat or np.ptp(inside) == 0.0
            start = stop
        assert start == schedules.FOREVER


def test_equality_hash_and_repr():
    a, b = schedules.cosine(0.1, steps=10), schedules.cosine(0.1, steps=10)
    assert a == b
    assert hash(a) == hash(b)
    assert a != schedules.cosine(0.1, steps=11)
    assert a != schedules.cosine(0.2, steps=10)
    assert a != 0.1
    assert SGD(a) == SGD(b)
    assert hash(SGD(a)) == hash(SGD(b))
    assert SGD(a) != SGD(0.1)
    assert repr(a) == "Schedule(cosine from 0.1 to 0 in 10 steps)"
    assert repr(a * [1.0, 2.0]) == "Schedule(2 values x cosine from 1 to 0 in 10 steps)"
    assert repr(schedules.from_function(np.sqrt)) == "Schedule(numpy.sqrt)"
    assert repr(schedules.stack({1: a, 2: b})) == "Schedule(2 values x 2 curves)"
    swept = a * xr.DataArray([1.0, 2.0], dims="x")
    assert swept == b * xr.DataArray([1.0, 2.0], dims="x")
    assert swept != a * [1.0, 2.0]


def test_scaling_and_sweeping():
    decay = schedules.linear(0.2, steps=10)
    np.testing.assert_allclose((decay * [1.0, 2.0]).scale, [0.2, 0.4])
    np.testing.assert_allclose((np.array([1.0, 2.0]) * decay).scale, [0.2, 0.4])
    both = (decay * [1.0, 2.0])([0, 5])
    assert both.dims[-1] == "step"
    np.testing.assert_allclose(both, [[0.2, 0.1], [0.4, 0.2]])
    runs = mcnqm.simulate(mcnqm.NoisyQuadratic.power_law(5), SGD(decay * [1.0, 2.0]), [1, 4], 20, trajectories=2)
    assert runs.loss.dims == ("lr", "batch_size", "trajectory", "step")
    np.testing.assert_allclose(runs.lr, [0.2, 0.4])
    many = schedules.stack({1: decay, 16: decay * 4}, dim="batch_size")
    B = xr.DataArray([1, 16], dims="batch_size", coords={"batch_size": [1, 16]})
    zipped = mcnqm.simulate(mcnqm.NoisyQuadratic.power_law(5), SGD(many), B, 20, trajectories=2)
    assert zipped.loss.dims == ("batch_size", "trajectory", "step")
    one = mcnqm.simulate(mcnqm.NoisyQuadratic.power_law(5), SGD(decay * 4), 16, 20, trajectories=2)
    np.testing.assert_array_equal(zipped.loss.sel(batch_size=16), one.loss)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.constant("x"), "value must be finite"),
        (lambda: schedules.piecewise([1.0, np.nan], 2), "values must be finite, got nan"),
        (lambda: schedules.piecewise([1.0, 2.0], [1]), "lengths must be whole numbers >= 1, one for each of the 2"),
        (lambda: schedules.piecewise([1.0, 2.0], [1, 0]), "lengths must be whole numbers"),
        (lambda: schedules.piecewise([1.0, 2.0], 1.5), "lengths must be whole numbers"),
        (lambda: schedules.exponential(1.0, steps=10, final=0.0), "final must be > 0, got 0.0"),
        (lambda: schedules.linear(1.0, steps=0), "steps must be an integer in"),
        (lambda: schedules.cosine(1.0, steps=5, final=-1.0), "final must be >= 0, got -1.0"),
        (lambda: schedules.warmup_stable_decay(1.0, warmup=0, stable=0, decay=0), "be at least one step"),
        (lambda: schedules.warmup_stable_decay(1.0, warmup=0, stable=1, decay=0, shape="x"), "shape must be one of"),
        (lambda: schedules.warmup_stable_decay(1.0, warmup=0, stable=1, decay=1, initial=0.0), "initial must be None"),
        (lambda: schedules.warmup_stable_decay(1.0, warmup=1, stable=1, decay=1, initial=-1), "initial must be >= 0"),
        (lambda: schedules.join([], []), "schedules must be at least one schedule, in a list"),
        (lambda: schedules.join([0.1], []), "schedules must be at least one schedule, in a list"),
        (lambda: schedules.join([schedules.constant([1.0, 2.0])], []), "schedules must not be sweeps themselves"),
        (lambda: schedules.join(2 * [schedules.constant(1.0)], []), "increase, 1 for 2 schedules, got"),
        (lambda: schedules.join(3 * [schedules.constant(1.0)], [5, 5]), "boundaries must be whole numbers >= 1 that"),
        (lambda: schedules.join(2 * [schedules.constant(1.0)], [0]), "boundaries must be whole numbers >= 1 that"),
        (lambda: schedules.join(2 * [schedules.constant(1.0)], [1.5]), "boundaries must be whole numbers >= 1 that"),
        (lambda: SGD(schedules.join([schedules.constant(-1.0), schedules.constant(1.0)], [5])), "lr must be >= 0"),
        (lambda: schedules.from_function(3.0), "function must be callable"),
        (lambda: schedules.from_function(lambda t: t[:1])([1, 2]), "function must return one value for each"),
        (lambda: schedules.stack({}), "schedules must map at least one label"),
        (lambda: schedules.stack({1: schedules.constant([1.0, 2.0])}), "schedules must not be sweeps themselves"),
        (lambda: schedules.constant(1.0)(-1), "step must be whole numbers >= 0"),
        (lambda: schedules.constant(1.0)(0.5), "step must be whole numbers >= 0"),
        (lambda: schedules.constant(1.0) * "a", "factor must be a number"),
        (lambda: schedules.constant(1.0) * schedules.constant(1.0), "factor must be a number"),
        (lambda: SGD(schedules.constant(-0.1)), "lr must be >= 0, got -0.1"),
        (lambda: SGD(0.1, schedules.linear(0.5, steps=4, final=2.0)), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: averaging.tail(-1), "start must be an integer in"),
        (lambda: averaging.polynomial(-1.0), "eta must be >= 0"),
        (lambda: averaging.growing(1.0), r"decay must be in \[0, 1\)"),
        (lambda: simulate(SGD(0.1), schedules.linear(4.0, steps=9)), "batch_size must be >= 1, got 0.0"),
        (lambda: simulate(SGD(schedules.from_function(lambda t: 0.1 - t))), "lr must be >= 0, got -0.9"),
        (lambda: simulate(SGD(0.1), average=1.5), r"average must be in \[0, 1\], got 1.5"),
        (lambda: simulate(SGD(0.1), average=schedules.from_function(lambda t: t)), "average must be .* got 2"),
        (
            lambda: mcnqm.steps_to_target(PROBLEM, Adam(0.1), 1, 0.1, method="mean-field", average=0.5),
            "average must be None in the mean field, got 0.5",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(make, message):
    with pytest.raises(ParameterError, match=message):
        make()


PROBLEM = mcnqm.NoisyQuadratic.power_law(20)
STEPS, TRAJECTORIES = 300, 3
LR = schedules.cosine(0.2, steps=STEPS, final=0.1)
SLOW = schedules.linear(0.02, steps=STEPS, final=0.1)
BETA = schedules.linear(0.9, steps=STEPS, final=0.5)
BATCH = schedules.exponential(4.0, steps=STEPS, final=16.0)
AVERAGE = averaging.tail(150)


def simulate(optimizer, batch_size=4, **options):
    return mcnqm.simulate(PROBLEM, optimizer, batch_size, STEPS, trajectories=TRAJECTORIES, **options)


def replay(optimizer, batch_size=BATCH, average=None, seed=0):
    """Losses by the definitions, one step at a time, shape (trajectories, steps + 1)."""
    h, c, where = PROBLEM.curvature, PROBLEM.noise, np.arange(PROBLEM.dim)
    x = mcnqm.noise(seed, range(TRAJECTORIES), where, 1, purpose="initial")[:, 0]
    z = mcnqm.noise(seed, range(TRAJECTORIES), where, STEPS)
    now = lambda value, t: value(t) if isinstance(value, Schedule) else value  # noqa: E731
    m, v, mean = np.zeros_like(x), np.zeros_like(x), x.copy()
    power1 = power2 = 1.0
    losses = [0.5 * (h * mean**2).sum(axis=1)]
    for t in range(STEPS):
        p = {name: now(value, t) for name, value in optimizer._asdict().items()}
        g = h * x + np.sqrt(c / now(batch_size, t)) * z[:, t]
        if isinstance(optimizer, SGD):
            m = p["momentum"] * m + g
            x = x - p["lr"] * (g + p["momentum"] * m if optimizer.nesterov else m)
        elif isinstance(optimizer, Adam):
            m, v = p["beta1"] * m + (1 - p["beta1"]) * g, p["beta2"] * v + (1 - p["beta2"]) * g**2
            power1, power2 = power1 * p["beta1"], power2 * p["beta2"]
            step = (m / (1 - power1)) / (np.sqrt(v / (1 - power2)) + p["eps"])
            x = x - p["lr"] * p["weight_decay"] * x - p["lr"] * step
        elif isinstance(optimizer, RMSProp):
            v = p["alpha"] * v + (1 - p["alpha"]) * g**2
            x = x - p["lr"] * g / (np.sqrt(v) + p["eps"])
        else:
            sign = np.sign(p["beta1"] * m + (1 - p["beta1"]) * g)
            x = x - p["lr"] * p["weight_decay"] * x - p["lr"] * sign
            m = p["beta2"] * m + (1 - p["beta2"]) * g
        gamma = 0.0 if average is None else now(average, t)
        mean = gamma * mean + (1 - gamma) * x
        losses.append(0.5 * (h * mean**2).sum(axis=1))
    return np.array(losses).T


OPTIMIZERS = {
    "SGD": SGD(LR),
    "heavy ball": SGD(LR, BETA),
    "Nesterov": SGD(LR, BETA, nesterov=True),
    "AdamW": Adam(SLOW, beta1=BETA, beta2=schedules.linear(0.99, steps=STEPS, final=0.95), weight_decay=0.1),
    "RMSProp": RMSProp(SLOW),
    "Lion": Lion(SLOW * 0.1, weight_decay=0.05),
}


@pytest.mark.parametrize("name", mostly_slow(OPTIMIZERS, "heavy ball"))
def test_simulation_follows_schedules(name):
    """Rates, momentum, batch sizes and an average, in both layouts: fewer settings than trajectories, and more."""
    optimizer = OPTIMIZERS[name]
    expected = replay(optimizer, average=AVERAGE)
    runs = simulate(optimizer, BATCH, average=AVERAGE)
    np.testing.assert_allclose(runs.loss, expected[:, runs.step], rtol=1e-9)
    swept = simulate(optimizer._replace(lr=optimizer.lr * [0.25, 0.5, 0.75, 1.0, 0.1]), BATCH, average=AVERAGE)
    np.testing.assert_allclose(swept.loss[3], expected[:, runs.step], rtol=1e-9)
    half = replay(optimizer._replace(lr=optimizer.lr * 0.5), average=AVERAGE)
    np.testing.assert_allclose(swept.loss[1], half[:, runs.step], rtol=1e-9)


@pytest.mark.parametrize(
    "average", [0.9, schedules.linear(0.99, steps=STEPS, final=0.5), averaging.polynomial(3.0), averaging.growing(0.9)]
)
def test_simulation_averages(average):
    """A number, a schedule with a scale, and sweeps of both: all with the same kernel as above."""
    runs = simulate(OPTIMIZERS["heavy ball"], BATCH, average=average)
    np.testing.assert_allclose(runs.loss, replay(OPTIMIZERS["heavy ball"], average=average)[:, runs.step], rtol=1e-9)
    swept = simulate(OPTIMIZERS["heavy ball"], BATCH, average=average * np.array([0.5, 0.9]))
    for k, factor in enumerate((0.5, 0.9)):
        expected = replay(OPTIMIZERS["heavy ball"], average=average * factor)
        np.testing.assert_allclose(swept.loss[k], expected[:, runs.step], rtol=1e-9)


@pytest.mark.parametrize("name", ["heavy ball", "AdamW"])
def test_bits_do_not_depend_on_how_a_run_is_cut(name, monkeypatch):
    optimizer = OPTIMIZERS[name]._replace(lr=OPTIMIZERS[name].lr * [0.25, 0.5, 0.75, 1.0, 0.1])
    runs = simulate(optimizer, BATCH, average=AVERAGE)
    assert simulate(optimizer, BATCH, average=AVERAGE, threads=1).identical(runs)
    one = simulate(OPTIMIZERS[name], BATCH, average=AVERAGE)
    np.testing.assert_array_equal(one.loss, runs.loss[3])
    monkeypatch.setattr(march, "_TABLE", 600)
    assert simulate(optimizer, BATCH, average=AVERAGE).identical(runs)


@pytest.mark.slow
def test_the_twin_of_adam_follows_its_schedule():
    """Unbiased, and worth its cost: |z| < 5 of the mean over 2048 plain trajectories (1e-6 for a new seed)."""
    optimizer = Adam(schedules.linear(0.01, steps=1500, final=0.1))
    arguments = {"batch_size": 1.0, "steps": 1500, "record": [1500]}
    plain = mcnqm.simulate(PROBLEM, optimizer, trajectories=2048, seed=1, control_variate=False, **arguments)
    helped = mcnqm.simulate(PROBLEM, optimizer, trajectories=256, **arguments)
    error = np.hypot(plain.risk_stderr, helped.risk_stderr).item()
    assert abs(plain.risk - helped.risk).item() < 5 * error
    assert helped.variance_reduction.item() > 20
    # Negative control: the same rate without its schedule.
    wrong = mcnqm.simulate(PROBLEM, Adam(0.01), trajectories=256, **arguments)
    assert not abs(plain.risk - wrong.risk).item() < 5 * error


def test_a_result_can_be_stored(tmp_path):
    optimizer = SGD(schedules.stack({"a": LR, "b": LR * 2}), BETA)
    runs = simulate(optimizer, BATCH, average=AVERAGE)
    runs.to_netcdf(tmp_path / "runs.nc")
    with xr.open_dataset(tmp_path / "runs.nc") as again:
        np.testing.assert_array_equal(again.loss, runs.loss)
        config = json.loads(again.attrs["config"])
    assert config["batch_size"] == BATCH.to_dict()
    assert config["average"]["curves"] == [{"start": 150, "eta": 0.0, "limit": 1.0}]
    assert config["optimizer"]["momentum"]["curves"][0]["shapes"] == ["linear"]
    assert config["optimizer"]["lr"]["which"] == [0, 1]


# ------------------------------------------------------------------------------------------------ found by a reviewer


def test_a_scheduled_momentum_of_zero_is_none():
    problem = mcnqm.NoisyQuadratic.power_law(5)
    runs = mcnqm.simulate(problem, mcnqm.SGD(lr=0.1, momentum=mcnqm.schedules.constant(0.0)), 4, 9, trajectories=2)
    plain = mcnqm.simulate(problem, mcnqm.SGD(lr=0.1), 4, 9, trajectories=2)
    np.testing.assert_array_equal(runs.loss, plain.loss)


@pytest.mark.parametrize("call", [{"steps": 0}, {"steps": 10, "record": [0]}])
def test_no_step_of_a_schedule(call):
    problem = mcnqm.NoisyQuadratic.power_law(5)
    runs = mcnqm.simulate(problem, mcnqm.SGD(lr=mcnqm.schedules.cosine(0.1, 10)), 4, trajectories=2, **call)
    assert runs.sizes["step"] == 1


def test_no_schedule_of_a_preconditioner():
    """Its power is of the curvature, not of what a schedule multiplies."""
    optimizer = mcnqm.SGD(lr=0.1, precondition=mcnqm.schedules.piecewise([0.0, 1.0], 5))
    with pytest.raises(mcnqm.ParameterError, match="precondition must be the same at every step"):
        mcnqm.simulate(mcnqm.NoisyQuadratic.power_law(5), optimizer, 4, 10)


@pytest.mark.parametrize("make", [mcnqm.schedules.linear, mcnqm.schedules.cosine, mcnqm.schedules.exponential])
def test_a_final_fraction_is_one_number(make):
    with pytest.raises(mcnqm.ParameterError, match="final must be a scalar"):
        make(0.1, 10, final=[0.1, 0.2])


# --------------------------------------------------------------------------- the end points of torch's and optax's


def torch_linear(t, rate, start, end, total):
    """``LinearLR``, from its documentation."""
    return rate * (start + (end - start) * np.minimum(t, total) / total)


def torch_cosine(t, rate, T_max, eta_min):
    """``CosineAnnealingLR``, its closed form."""
    return eta_min + (rate - eta_min) * (1 + np.cos(np.pi * t / T_max)) / 2


def torch_one_cycle(t, top, total, pct_start=0.3, div_factor=25.0, final_div_factor=1e4):
    """``OneCycleLR`` with cosines in two phases."""
    first = top / div_factor
    turn, end = pct_start * total - 1, total - 1
    cos = lambda a, b, x: b + (a - b) / 2 * (1 + np.cos(np.pi * x))  # noqa: E731
    return np.where(t <= turn, cos(first, top, t / turn), cos(top, first / final_div_factor, (t - turn) / (end - turn)))


def optax_warmup_cosine(t, init, peak, warmup, decay_steps, end):
    """``warmup_cosine_decay_schedule``, whose `decay_steps` count the warm-up."""
    x = np.clip((t - warmup) / (decay_steps - warmup), 0, 1)
    alpha = end / peak
    return np.where(
        t < warmup, init + (peak - init) * t / warmup, peak * ((1 - alpha) * 0.5 * (1 + np.cos(np.pi * x)) + alpha)
    )


@pytest.mark.parametrize(
    ("schedule", "expected", "last"),
    [
        (schedules.linear(0.3 / 3, steps=5, final=3.0), torch_linear(T, 0.3, 1 / 3, 1.0, 5), 39),
        (schedules.linear(0.3, steps=5, final=0.2), 0.3 + (0.06 - 0.3) * np.clip(T / 5, 0, 1), 39),  # optax's
        (schedules.cosine(0.3, steps=20, final=0.1), torch_cosine(T, 0.3, 20, 0.03), 20),
        (schedules.exponential(0.3, steps=39, final=0.9**39), 0.3 * 0.9**T, 39),
        (schedules.exponential(0.3, steps=39, final=0.5 ** (39 / 7)), 0.3 * 0.5 ** (T / 7), 39),  # optax's
        (schedules.piecewise([0.3, 0.03, 0.003], [5, 10, 1]), 0.3 * 0.1 ** ((T >= 5) * 1.0 + (T >= 15)), 39),
        (
            schedules.join([schedules.cosine(0.3 / 25, steps=11, final=25.0),
                            schedules.cosine(0.3, steps=28, final=1 / 25e4)], [11]),
            torch_one_cycle(T, 0.3, 40), 39,
        ),
        (
            schedules.join([schedules.linear(0.03, steps=8, final=10.0), schedules.exponential(0.3, 31, 0.9**31)], [8]),
            np.where(T < 8, torch_linear(T, 0.3, 0.1, 1.0, 8), 0.3 * 0.9 ** (T - 8.0)), 39,
        ),
        (
            schedules.warmup_stable_decay(0.3, warmup=8, stable=0, decay=22, final=0.1, shape="cosine", initial=0.2),
            optax_warmup_cosine(T, 0.06, 0.3, 8, 30, 0.03), 39,
        ),
    ],
    ids=["LinearLR", "linear_schedule", "CosineAnnealingLR", "ExponentialLR", "exponential_decay", "MultiStepLR",
         "OneCycleLR", "SequentialLR", "warmup_cosine_decay_schedule"],
)  # fmt: skip
def test_end_points_of_torch_and_optax(schedule, expected, last):
    np.testing.assert_allclose(schedule(T[: last + 1]), expected[: last + 1], rtol=1e-12)


def test_joined_schedules_by_both_routes():
    """What a join says of its stretches is used by the theory, which leaps over those that are flat."""
    rate = schedules.join(
        [schedules.linear(0.05, steps=30, final=10.0), schedules.constant(0.5), schedules.cosine(0.5, steps=100)],
        [30, 230],
    )
    same = schedules.piecewise(rate(np.arange(400)), 1)
    for record in ([400], [10, 100, 231, 300]):
        exact, plain = (mcnqm.analytic.risk(PROBLEM, SGD(s, 0.5), 4, 400, record=record).risk for s in (rate, same))
        np.testing.assert_allclose(exact, plain, rtol=1e-13)
    joined, sampled = (mcnqm.simulate(PROBLEM, SGD(s), 4, 400, trajectories=3).loss for s in (rate, same))
    np.testing.assert_array_equal(joined, sampled)
