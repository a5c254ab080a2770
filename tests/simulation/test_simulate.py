"""The public call: shapes and labels, what is recorded, divergence, and every kind of bad input."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm import SGD, Adam, NoisyQuadratic, ParameterError

PROBLEM = NoisyQuadratic.power_law(dim=20)


def test_labels_of_a_scalar_run():
    runs = mcnqm.simulate(PROBLEM, SGD(lr=0.1), 32, 100, trajectories=4, seed=3)
    assert runs.loss.dims == ("trajectory", "step")
    assert runs.risk.dims == runs.risk_stderr.dims == ("step",)
    assert runs.diverged.dims == ("trajectory",)
    assert runs.step.values.tolist() == list(range(101))
    assert runs.loss.attrs["units"] == "loss"
    assert float(runs.coords["lr"]) == 0.1
    assert float(runs.coords["batch_size"]) == 32
    assert runs.attrs["mcnqm_version"] == mcnqm.__version__
    assert (runs.attrs["seed"], runs.attrs["steps"], runs.attrs["trajectories"]) == (3, 100, 4)


def test_labels_of_a_sweep():
    optimizer = SGD(lr=[0.1, 0.2, 0.3], momentum=[0.0, 0.9])
    runs = mcnqm.simulate(PROBLEM, optimizer, [1, 8, 64, 512], 50, trajectories=2, coordinates=[3, 0])
    assert runs.loss.dims == ("lr", "momentum", "batch_size", "trajectory", "step")
    assert runs.theta.dims == (*runs.loss.dims, "coordinate")
    assert runs.coordinate.values.tolist() == [3, 0]
    assert runs.sizes["batch_size"] == 4
    one = mcnqm.simulate(PROBLEM, SGD(lr=0.2, momentum=0.9), 64, 50, trajectories=2, coordinates=[3])
    chosen = runs.sel(lr=0.2, momentum=0.9, batch_size=64)
    assert np.array_equal(one.loss, chosen.loss)
    assert np.array_equal(one.theta.sel(coordinate=3), chosen.theta.sel(coordinate=3))


def test_risk_is_the_mean_and_its_error():
    runs = mcnqm.simulate(PROBLEM, SGD(lr=[0.1, 0.2]), 4, 64, trajectories=7)
    np.testing.assert_allclose(runs.risk, runs.loss.mean("trajectory"), rtol=1e-14)
    np.testing.assert_allclose(runs.risk_stderr, runs.loss.std("trajectory", ddof=1) / np.sqrt(7), rtol=1e-12)


def test_a_single_trajectory_has_no_error_estimate():
    runs = mcnqm.simulate(PROBLEM, SGD(lr=0.1), 4, 10, trajectories=1)
    assert np.isnan(runs.risk_stderr).all()
    assert np.isfinite(runs.risk).all()


def test_no_steps():
    runs = mcnqm.simulate(PROBLEM, Adam(lr=0.1), 4, 0, trajectories=3, coordinates=range(20))
    assert runs.step.values.tolist() == [0]
    start = mcnqm.noise(0, [0, 1, 2], range(20), 1, purpose="initial")
    np.testing.assert_array_equal(runs.theta.isel(step=0), start[:, 0])


def test_multiplicity_is_coordinates_of_their_own():
    packed = NoisyQuadratic([1.0, 0.25], multiplicity=[2, 3], initial_mean=[0.5, 0.0])
    spread = NoisyQuadratic([1.0, 1.0, 0.25, 0.25, 0.25], initial_mean=[0.5, 0.5, 0.0, 0.0, 0.0])
    a, b = (mcnqm.simulate(p, Adam(lr=0.1), 4, 100, trajectories=3, coordinates=[0, 4]) for p in (packed, spread))
    assert np.array_equal(a.loss, b.loss)
    assert np.array_equal(a.theta, b.theta)


def test_divergence_is_reported():
    runs = mcnqm.simulate(PROBLEM, SGD(lr=[0.1, 2.1, 3.0]), 4, 5000, trajectories=3)
    assert runs.diverged.values.tolist() == [[False] * 3, [True] * 3, [True] * 3]
    assert not np.isnan(runs.loss).any()
    assert np.isinf(runs.risk.sel(lr=3.0).isel(step=-1))
    assert np.isinf(runs.risk_stderr.sel(lr=3.0).isel(step=-1))
    assert np.isfinite(runs.risk.sel(lr=0.1)).all()
    lost = np.isinf(runs.loss).values
    assert (lost[..., 1:] >= lost[..., :-1]).all(), "once diverged, always diverged"


def test_diverged_at_the_limit_of_floats():
    """Past overflow the state is NaN, which must not be mistaken for a small loss."""
    runs = mcnqm.simulate(PROBLEM, SGD(lr=1e200), 4, 10, trajectories=2, record=[10])
    assert np.isinf(runs.loss).all()
    assert runs.diverged.all()


def test_saved_and_read_back(tmp_path):
    B = xr.DataArray([1, 4], dims="batch_size", coords={"batch_size": [1, 4]})
    runs = mcnqm.simulate(PROBLEM, Adam(lr=1e-3 * B), B, 300, trajectories=2, seed=2**63, coordinates=[1])
    runs.to_netcdf(tmp_path / "runs.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "runs.nc") as back:
        xr.testing.assert_identical(back.load(), runs)
    config = json.loads(back.attrs["config"])
    assert NoisyQuadratic.from_dict(config["problem"]) == PROBLEM
    assert config["optimizer"]["beta2"] == 0.999
    assert config["seed"] == 2**63
    assert int(back.attrs["seed"]) == 2**63


def test_million_steps_keep_a_few_hundred_points():
    runs = mcnqm.simulate(NoisyQuadratic.power_law(dim=2), SGD(lr=0.1), 4, 1_000_000, trajectories=2)
    assert 100 < runs.sizes["step"] < 400
    assert runs.step[-1] == 1_000_000


def call(**changes):
    arguments = {
        "problem": PROBLEM,
        "optimizer": SGD(lr=0.1),
        "batch_size": 4,
        "steps": 10,
        "trajectories": 2,
    }
    return mcnqm.simulate(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"problem": "x"}, "problem", "be a mcnqm.NoisyQuadratic"),
        ({"optimizer": "adam"}, "optimizer", "be an optimizer"),
        ({"batch_size": 0}, "batch_size", ">= 1, got 0"),
        ({"batch_size": [4, 0.5]}, "batch_size", ">= 1, got 0.5"),
        ({"batch_size": np.nan}, "batch_size", "nan"),
        ({"batch_size": np.inf}, "batch_size", "inf"),
        ({"batch_size": "four"}, "batch_size", "'four'"),
        ({"batch_size": []}, "batch_size", "empty"),
        ({"batch_size": [[1, 2]]}, "batch_size", "1-D"),
        ({"batch_size": 2.5, "minibatch": "per_example"}, "batch_size", "2.5"),
        ({"steps": -1}, "steps", "got -1"),
        ({"steps": 2.0}, "steps", "got 2.0"),
        ({"steps": True}, "steps", "got True"),
        ({"steps": 2**34 + 1}, "steps", "got 17179869185"),
        ({"trajectories": 0}, "trajectories", "got 0"),
        ({"seed": -1}, "seed", "got -1"),
        ({"seed": 2**64}, "seed", "got 18446744073709551616"),
        ({"seed": 0.5}, "seed", "got 0.5"),
        ({"record": [0, 11]}, "record", "got 11"),
        ({"record": [3, 3]}, "record", "got 3"),
        ({"record": [0.5]}, "record", "got [0.5]"),
        ({"record": []}, "record", "got []"),
        ({"coordinates": [20]}, "coordinates", "got 20"),
        ({"coordinates": [-1]}, "coordinates", "got -1"),
        ({"minibatch": "exakt"}, "minibatch", "got 'exakt'"),
        ({"threads": 0}, "threads", "got 0"),
        ({"executor": 3}, "executor", "submit"),
        ({"progress": 3}, "progress", "got 3"),
        ({"optimizer": SGD(lr=xr.DataArray([0.1], dims="step"))}, "lr", "dimension 'step'"),
        (
            {"batch_size": 8 * xr.DataArray([1, 4], dims="batch_size", coords={"batch_size": [1, 4]})},
            "batch_size",
            "labels",
        ),
        (
            {"optimizer": SGD(lr=xr.DataArray([0.1, 0.2], dims="k"), momentum=xr.DataArray([0.1] * 3, dims="k"))},
            "hyperparameters",
            "shared dimension",
        ),
    ],
)
def test_bad_input(changes, name, message):
    with pytest.raises(ParameterError) as caught:
        call(**changes)
    assert caught.value.name == name
    assert name in str(caught.value)
    assert message in str(caught.value)


def test_threads_and_executor_together():
    with pytest.raises(ParameterError, match="threads must be None"):
        call(threads=2, executor=object())


def test_steps_may_be_a_numpy_integer():
    assert call(steps=np.int64(10), seed=np.uint64(3)).identical(call(steps=10, seed=3))


def test_dense_records_in_stretches():
    """More records than one stretch holds: the same numbers."""
    dense = call(steps=9000, record=range(9001))
    assert np.array_equal(call(steps=9000).loss, dense.loss.sel(step=call(steps=9000).step))


def test_workers_stop_when_the_meter_fails():
    class Failing(Count):
        def advance(self, amount):
            raise RuntimeError("no more")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="no more"):
        call(steps=200_000, progress=Failing())
    assert threading.active_count() == before


def test_an_error_in_a_worker_is_not_lost(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("broken kernel")

    monkeypatch.setattr("mcnqm.engine.march.advance_shard", fail)
    with pytest.raises(RuntimeError, match="broken kernel"):
        call()


class Count:
    """A meter that remembers."""

    def __init__(self):
        self.total, self.done, self.closed = 0.0, 0.0, False

    def start(self, total, label):
        self.total = total

    def advance(self, amount):
        self.done += amount

    def close(self):
        self.closed = True


def test_progress_adds_up():
    meter = Count()
    call(optimizer=SGD(lr=np.linspace(0.1, 0.2, 70)), trajectories=20, progress=meter, coordinates=[1, 2])
    assert meter.closed
    assert meter.done == pytest.approx(meter.total)


def test_a_run_that_comes_back_has_diverged_all_the_same():
    """A rate far beyond stability, then one that takes everything back to the minimum."""
    problem = mcnqm.NoisyQuadratic(curvature=[1.0], noise=[0.01], initial_mean=[1.0])
    blast = mcnqm.schedules.piecewise([1e3, 0.5], [10, 400])
    runs = mcnqm.simulate(problem, mcnqm.SGD(lr=blast), 4, 400, trajectories=3, coordinates=[0])
    assert runs.diverged.all()
    assert np.isinf(runs.loss.isel(step=-1)).all()
    assert np.isinf(runs.risk.isel(step=-1))
    assert (np.abs(runs.theta.isel(step=-1)) < 1.0).all(), "it did come back"
    calm = mcnqm.SGD(lr=mcnqm.schedules.piecewise([1.5, 0.5], [10, 400]))
    assert not mcnqm.simulate(problem, calm, 4, 400, trajectories=3).diverged.any(), "control"


def test_examples_are_counted_where_the_batch_grows():
    """By plain sums; under a sweep of batch sizes, each setting has its own."""
    size = mcnqm.schedules.join([mcnqm.schedules.linear(4.0, steps=10, final=3.0), mcnqm.schedules.constant(7.0)], [10])
    at, problem = [0, 3, 10, 25], NoisyQuadratic.power_law(3)
    expected = np.concatenate([[0.0], np.cumsum(size(np.arange(25)))])[at]
    runs = mcnqm.simulate(problem, SGD(lr=[0.1, 0.2]), size, 25, trajectories=2, record=at)
    assert runs.examples.dims == ("step",)
    np.testing.assert_allclose(runs.examples, expected, rtol=1e-14)
    np.testing.assert_array_equal(
        mcnqm.analytic.risk(problem, SGD(lr=0.1), size, 25, record=at).examples, runs.examples
    )
    swept = mcnqm.schedules.linear([4.0, 8.0], steps=10, final=3.0)
    runs = mcnqm.simulate(problem, SGD(lr=[0.1, 0.2]), swept, 10, trajectories=2)
    assert runs.examples.dims == ("batch_size", "step")
    np.testing.assert_allclose(runs.examples[:, -1], [76.0, 152.0], rtol=1e-14)
    # At once where it is flat, however long.
    long = mcnqm.analytic.risk(
        problem, SGD(lr=0.1), mcnqm.schedules.piecewise([4, 16], [10, 10]), 10**12, record=[10**12]
    )
    assert float(long.examples[0]) == 40 + 16 * (10**12 - 10)
    assert "examples" not in mcnqm.simulate(problem, SGD(lr=0.1), 4, 5, trajectories=2).coords
