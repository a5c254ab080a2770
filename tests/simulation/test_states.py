"""Recorded states, gradients and effective rates, against published forms that read `mcnqm.noise`, in plain NumPy."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import published_forms
import pytest
import xarray as xr
from selection import mostly_slow
from test_published_forms import CASES, PROBLEM

import mcnqm
from mcnqm import ParameterError
from mcnqm.domains import positive, unit_interval
from mcnqm.schedules import Schedule, linear

SEED, STEPS, TOLERANCE = 8, 601, 1e-11
RECORD = [0, 1, 2, 5, 38, 97, 255, 256, 257, 599, STEPS]
WHERE = [0, 7, 29]
GROWING = linear(2.0, STEPS, 31.5)
"""A batch size that is hardly ever whole."""

NAMES = {  # of the published forms' own variables
    "SGD": {"momentum": "buffer"},
    "Adam": {"first_moment": "m", "second_moment": "v"},
    "RMSProp": {"second_moment": "v", "mean_gradient": "n", "momentum": "buffer"},
    "NAdam": {"first_moment": "m", "second_moment": "v"},
    "AdEMAMix": {"first_moment": "m", "slow_moment": "n", "second_moment": "v"},
    "Lion": {"momentum": "m"},
    "Signum": {"momentum": "m"},
    "ScheduleFreeSGD": {"base": "z", "average": "x"},
    "ScheduleFreeAdam": {"base": "z", "average": "x", "second_moment": "v"},
}


def replay(optimizer, trajectory, batch_size):
    """States before, gradients and effective rates of the steps after those recorded."""
    h, where = PROBLEM.curvature[WHERE], np.array(WHERE)
    start = mcnqm.noise(SEED, trajectory, where, 1, purpose="initial")[0, 0]
    z = mcnqm.noise(SEED, trajectory, where, STEPS + 1)[0]
    batch = batch_size(np.arange(STEPS + 1)) if isinstance(batch_size, Schedule) else np.full(STEPS + 1, batch_size)
    given = optimizer._asdict()
    tables = {k: v(np.arange(STEPS + 1)) if isinstance(v, Schedule) else None for k, v in given.items()}

    def now(t):
        return {k: given[k] if table is None else table[t] for k, table in tables.items()}

    name = type(optimizer).__name__
    run = published_forms.FORMS[name](PROBLEM.initial_mean[WHERE] + PROBLEM.initial_std[WHERE] * start, now)
    point, _ = next(run)
    found = {key: [] for key in (*(f"state_{own}" for own in NAMES[name]), "gradient", "effective_lr")}
    product = 1.0
    for t in range(STEPS + 1):
        state = run.gi_frame.f_locals
        values = {
            f"state_{own}": np.zeros(len(WHERE)) if state.get(theirs) is None else state[theirs]
            for own, theirs in NAMES[name].items()
        }
        g = h * point + np.sqrt(PROBLEM.noise[WHERE] / batch[t]) * z[t]
        point, _ = run.send(g)
        state, p = run.gi_frame.f_locals, now(t)
        rate = np.full(len(WHERE), np.nan)
        if name == "RMSProp":
            spread = state["v"] - state["n"] ** 2 if p["centered"] else state["v"]
            rate = p["lr"] / (np.sqrt(spread + p["eps_root"]) + p["eps"])
        elif "v" in state:
            product *= p["beta2"]
            power = p["beta2"] ** (t + 1) if name != "Adam" or p["present_betas"] else product
            root = p.get("eps_root", 0.0)
            rate = p["lr"] / (np.sqrt(state["v"] / (1 - power) + root) + p["eps"])
            if p.get("eps_hat"):
                rate = p["lr"] * np.sqrt(1 - power) / (np.sqrt(state["v"] + root) + p["eps"])
        if t in RECORD:
            for key, value in {**values, "gradient": g, "effective_lr": rate}.items():
                found[key].append(value)
    return {key: np.stack(values) for key, values in found.items()}


def assert_replayed(runs, expected):
    """`runs` of one setting and one trajectory."""
    there = {name for name in runs.data_vars if "coordinate" in runs[name].dims} - {"theta"}
    known = {name for name, values in expected.items() if not np.isnan(values).any()}
    assert there <= known
    assert {"gradient"} <= there
    assert "effective_lr" not in known - there
    for name in there:
        scale = np.abs(expected[name]).max(axis=0)
        error = (np.abs(runs[name].values - expected[name]) / scale).max()
        assert error < TOLERANCE, f"{name} is off by {error:.3g}"


QUICK = ("dampened", "Adam, Keras", "RMSProp, centered", "schedule-free Adam", "Lion, scheduled")
OPTIONS = {"seed": SEED, "coordinates": WHERE, "record": RECORD, "record_state": True}


@pytest.mark.parametrize("name", mostly_slow(CASES, *QUICK))
def test_states_are_those_of_the_published_form(name):
    """In both layouts of lanes; and an average, which changes losses, changes nothing of it."""
    optimizer = CASES[name]
    runs = mcnqm.simulate(PROBLEM, optimizer, 4, STEPS, trajectories=2, **OPTIONS)
    for trajectory in range(2):
        assert_replayed(runs.isel(trajectory=trajectory), replay(optimizer, trajectory, 4.0))
    rates = optimizer.lr * np.array([0.3, 1.0, 0.1])
    swept = mcnqm.simulate(PROBLEM, optimizer._replace(lr=rates), 4, STEPS, trajectories=1, **OPTIONS)
    averaged = mcnqm.simulate(PROBLEM, optimizer, 4, STEPS, trajectories=2, average=0.9, **OPTIONS)
    assert not np.array_equal(averaged.loss, runs.loss)
    for variable in ("theta", "gradient", *(v for v in runs.data_vars if v.startswith(("state_", "effective_")))):
        np.testing.assert_array_equal(swept[variable][1], runs[variable][:1])
        np.testing.assert_array_equal(averaged[variable], runs[variable])


@pytest.mark.parametrize("name", mostly_slow(CASES, "Adam, Keras"))
def test_with_a_schedule_of_the_batch_size_and_an_average(name):
    optimizer = CASES[name]
    runs = mcnqm.simulate(
        PROBLEM, optimizer, GROWING, STEPS, trajectories=2, average=mcnqm.averaging.tail(100), **OPTIONS
    )
    assert_replayed(runs.isel(trajectory=1), replay(optimizer, 1, GROWING))


def test_the_oracle_notices():
    """Negative control: the step before, another trajectory, an option in its eighth decimal."""
    optimizer = CASES["Adam, Keras"]
    runs = mcnqm.simulate(PROBLEM, optimizer, 4, STEPS, trajectories=1, **OPTIONS).isel(trajectory=0)
    assert_replayed(runs, replay(optimizer, 0, 4.0))
    for wrong in (replay(optimizer, 1, 4.0), replay(optimizer._replace(beta2=0.999 - 1e-8), 0, 4.0)):
        with pytest.raises(AssertionError, match="off by"):
            assert_replayed(runs, wrong)


def test_float32_is_close_and_draws_of_examples_are_averaged():
    adam = mcnqm.Adam(lr=1e-2)
    options = {**OPTIONS, "trajectories": 3, "record": [0, 17, 100]}
    wide, narrow = (mcnqm.simulate(PROBLEM, adam, 4, 100, dtype=dtype, **options) for dtype in ("float64", "float32"))
    for name in ("state_first_moment", "state_second_moment", "gradient", "effective_lr"):
        np.testing.assert_allclose(narrow[name], wide[name], rtol=2e-3, atol=1e-5)
        assert not np.array_equal(narrow[name], wide[name])
    # Of one example the average is the draw itself, at the next step as at any other: θ says what it was.
    sgd = mcnqm.SGD(lr=0.1)
    every = {**OPTIONS, "trajectories": 3, "record": range(101), "minibatch": "per_example"}
    runs = mcnqm.simulate(PROBLEM, sgd, [1, 5], 100, **every)
    taken = -runs.theta.diff("step").values / 0.1
    np.testing.assert_allclose(runs.gradient.values[:, :, :-1], taken, rtol=1e-9, atol=1e-11)


def test_any_executor_and_any_cut_gives_the_same_bits():
    optimizer = mcnqm.Adam(lr=[1e-3, 1e-2], beta2=linear(0.99, 50, 1.005))
    options = {**OPTIONS, "trajectories": 70, "average": 0.5}
    ours = mcnqm.simulate(PROBLEM, optimizer, [2, 8], STEPS, **options)
    with ThreadPoolExecutor(2) as executor:
        theirs = mcnqm.simulate(PROBLEM, optimizer, [2, 8], STEPS, executor=executor, **options)
    assert ours.drop_attrs().identical(theirs.drop_attrs())
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        elsewhere = mcnqm.simulate(PROBLEM, optimizer, [2, 8], STEPS, executor=executor, **options)
    assert ours.drop_attrs().identical(elsewhere.drop_attrs())
    alone = mcnqm.simulate(
        PROBLEM, optimizer._replace(lr=1e-2), 8, STEPS, **{**options, "coordinates": WHERE[1], "trajectories": 3}
    )
    for name in ("state_second_moment", "gradient", "effective_lr"):
        np.testing.assert_array_equal(alone[name][..., 0], ours[name][1, 1, :3, :, 1])


@mcnqm.hyperparameters(lr=positive, momentum=unit_interval)
class Normed(NamedTuple):
    """An optimizer of one's own, with a rate."""

    lr: float
    momentum: float = 0.5


def _rate(p, k, g, s):
    return p.lr / (1.0 + np.abs(p.momentum * s[0] + g))


@mcnqm.update_rule(Normed, state=("speed",), effective_lr=_rate)
def _normed(p, c, g, theta, s):
    m = p.momentum * s[0] + g
    return theta - p.lr * m / (1.0 + abs(m)), (m,)


def test_an_optimizer_of_ones_own_has_its_own_names_and_rate():
    runs = mcnqm.simulate(PROBLEM, Normed(lr=[0.1, 0.2]), 4, 50, trajectories=2, coordinates=[3], record_state=True)
    assert runs.state_speed.dims == ("lr", "trajectory", "step", "coordinate")
    following = 0.5 * runs.state_speed.values[:, :, :-1] + runs.gradient.values[:, :, :-1]
    np.testing.assert_allclose(runs.state_speed.values[:, :, 1:], following, rtol=1e-13)
    moved = -runs.theta.diff("step").values / following
    np.testing.assert_allclose(runs.effective_lr.values[:, :, :-1], moved, rtol=1e-9)


def test_some_of_the_states_and_those_that_are_not_there():
    adam = mcnqm.Adam(lr=0.1)

    def run(optimizer=adam, coordinates=(0,), **options):
        return mcnqm.simulate(PROBLEM, optimizer, 4, 3, trajectories=1, coordinates=coordinates, **options)

    runs = run(record_state=["second_moment"])
    assert {name for name in runs.data_vars if name.startswith("state_")} == {"state_second_moment"}
    assert {"gradient", "effective_lr", "theta"} <= set(runs.data_vars)
    assert "effective_lr" not in run(mcnqm.SGD(lr=0.1, momentum=0.9), record_state=True)
    assert not [v for v in run(mcnqm.SGD(lr=0.1), record_state=True).data_vars if v.startswith("state_")]
    assert "gradient" not in run()
    for wrong in (["momentum"], ["second_moment", "speed"], "second_moment", [], [3], 7, None):
        with pytest.raises(ParameterError, match="record_state must be True, False or names of state variables of"):
            run(record_state=wrong)
    with pytest.raises(ParameterError, match="this optimizer has none"):
        run(mcnqm.SGD(lr=0.1), record_state=["momentum"])
    with pytest.raises(ParameterError, match="record_state must go with coordinates"):
        run(coordinates=None, record_state=True)
    with pytest.raises(ParameterError, match="names that differ"):
        mcnqm.update_rule(Normed, state=("one", "one"))
    with pytest.raises(ParameterError, match="leave the name state_second_moment to"):
        run(mcnqm.Adam(lr=xr.DataArray([0.1, 0.2], dims="state_second_moment")), record_state=True)
