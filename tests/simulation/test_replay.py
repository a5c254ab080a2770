"""Every optimizer's path, replayed from `mcnqm.noise` by a plain NumPy loop written from its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch_reference as reference
import xarray as xr

import mcnqm

DIM, STEPS = 50, 1000
TOLERANCE = 1e-11  # relative to the largest |theta| of the coordinate's path


def a_problem():
    rng = np.random.default_rng(3)
    return mcnqm.NoisyQuadratic(
        curvature=1.0 / np.arange(1, DIM + 1),
        noise=rng.uniform(0.2, 1.0, DIM),
        initial_mean=rng.normal(size=DIM),
        initial_std=rng.uniform(0.5, 1.0, DIM),
    )


def replay(problem, path_of, batch_size, seed, trajectory, **hyper):
    """The reference's path, from the start and the noise that `mcnqm.noise` gives."""
    where = np.arange(problem.dim)
    start = mcnqm.noise(seed, trajectory, where, 1, purpose="initial")[0, 0]
    z = mcnqm.noise(seed, trajectory, where, STEPS)[0]
    h, sigma = problem.curvature, np.sqrt(problem.noise / batch_size)
    theta = problem.initial_mean + problem.initial_std * start
    return path_of(theta, lambda t, x: h * x + sigma * z[t], STEPS, **hyper)


def assert_same_path(found, expected):
    error = np.abs(found - expected).max(axis=0) / np.abs(expected).max(axis=0)
    assert error.max() < TOLERANCE, f"coordinate {error.argmax()} is off by {error.max():.3g} relative"


CASES = {
    "SGD": (mcnqm.SGD(lr=0.3), reference.sgd, {"lr": 0.3}),
    "heavy ball": (mcnqm.SGD(lr=0.1, momentum=0.9), reference.sgd, {"lr": 0.1, "momentum": 0.9}),
    "Nesterov": (
        mcnqm.SGD(lr=0.1, momentum=0.95, nesterov=True),
        reference.sgd,
        {"lr": 0.1, "momentum": 0.95, "nesterov": True},
    ),
    "preconditioned heavy ball": (
        mcnqm.SGD(lr=0.05, momentum=0.5, precondition=0.5),
        reference.sgd,
        {"lr": 0.05, "momentum": 0.5, "scale": a_problem().curvature ** -0.5},
    ),
    "preconditioned SGD": (
        mcnqm.SGD(lr=0.02, precondition=1.0),
        reference.sgd,
        {"lr": 0.02, "scale": 1 / a_problem().curvature},
    ),
    "Adam": (mcnqm.Adam(lr=1e-2), reference.adam, {"lr": 1e-2}),
    "AdamW": (
        mcnqm.Adam(lr=1e-2, beta1=0.8, beta2=0.95, eps=0.1, weight_decay=0.1),
        reference.adam,
        {"lr": 1e-2, "beta1": 0.8, "beta2": 0.95, "eps": 0.1, "weight_decay": 0.1},
    ),
    "Adam without bias correction": (
        mcnqm.Adam(lr=1e-2, eps=1e-2, bias_correction=False),
        reference.adam,
        {"lr": 1e-2, "eps": 1e-2, "bias_correction": False},
    ),
    "Adam without momentum": (
        mcnqm.Adam(lr=1e-3, beta1=0.0, beta2=0.9),
        reference.adam,
        {"lr": 1e-3, "beta1": 0.0, "beta2": 0.9},
    ),
    "RMSProp": (
        mcnqm.RMSProp(lr=1e-2, alpha=0.95, eps=1e-3),
        reference.rmsprop,
        {"lr": 1e-2, "alpha": 0.95, "eps": 1e-3},
    ),
    "Lion": (
        mcnqm.Lion(lr=1e-3, beta1=0.85, beta2=0.95, weight_decay=0.05),
        reference.lion,
        {"lr": 1e-3, "beta1": 0.85, "beta2": 0.95, "weight_decay": 0.05},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_path_of_scalar_hyperparameters(name):
    optimizer, path_of, hyper = CASES[name]
    problem = a_problem()
    runs = mcnqm.simulate(
        problem, optimizer, 4, STEPS, trajectories=3, seed=11, coordinates=range(DIM), record=range(STEPS + 1)
    )
    for trajectory in range(3):
        expected = replay(problem, path_of, 4, 11, trajectory, **hyper)
        assert_same_path(runs.theta.isel(trajectory=trajectory).values, expected)
        loss = 0.5 * (problem.curvature * expected**2).sum(axis=1)
        np.testing.assert_allclose(runs.loss.isel(trajectory=trajectory), loss, rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_path_of_array_hyperparameters(name):
    """An outer product of learning rates and batch sizes: the other memory layout."""
    optimizer, path_of, hyper = CASES[name]
    problem = a_problem()
    rates, batches = hyper["lr"] * np.geomspace(0.1, 1, 6), [2, 8, 64]
    runs = mcnqm.simulate(
        problem,
        optimizer._replace(lr=rates),
        batches,
        STEPS,
        trajectories=2,
        seed=12,
        coordinates=range(DIM),
        record=[0, 1, 2, 3, 5, 8, 333, 998, STEPS],
    )
    assert runs.theta.dims == ("lr", "batch_size", "trajectory", "step", "coordinate")
    for i, lr in enumerate(rates):
        for j, batch in enumerate(batches):
            expected = replay(problem, path_of, batch, 12, 1, **{**hyper, "lr": lr})
            found = runs.theta.isel(lr=i, batch_size=j, trajectory=1)
            assert_same_path(found.values, expected[runs.step.values])


def test_reference_notices_a_wrong_hyperparameter():
    """Negative control: a change in the twelfth decimal of beta2 passes, one in the eighth does not."""
    problem = a_problem()
    runs = mcnqm.simulate(
        problem,
        mcnqm.Adam(lr=1e-2),
        4,
        STEPS,
        trajectories=1,
        coordinates=range(DIM),
        record=range(STEPS + 1),
    )
    wrong = replay(problem, reference.adam, 4, 0, 0, lr=1e-2, beta2=0.999 + 1e-8)
    with pytest.raises(AssertionError, match="off by"):
        assert_same_path(runs.theta.isel(trajectory=0).values, wrong)


def test_zipped_hyperparameters():
    """DataArrays on one dimension are zipped: Adam's square-root rule in one call."""
    problem = a_problem()
    B = xr.DataArray([1.0, 4.0, 16.0], dims="B", coords={"B": [1, 4, 16]})
    zipped = mcnqm.simulate(problem, mcnqm.Adam(lr=1e-3 * np.sqrt(B)), B, 100, trajectories=2)
    assert zipped.loss.dims == ("B", "trajectory", "step")
    for k, b in enumerate((1.0, 4.0, 16.0)):
        alone = mcnqm.simulate(problem, mcnqm.Adam(lr=1e-3 * np.sqrt(b)), b, 100, trajectories=2)
        assert np.array_equal(zipped.loss.isel(B=k), alone.loss)


def test_gradients_that_are_exactly_zero():
    """No noise and a start at the minimum: Adam's 0 / 0 must not poison the lane, even with eps = 0."""
    still = mcnqm.NoisyQuadratic([1.0, 0.5], noise=0.0, initial_std=0.0)
    for optimizer in (mcnqm.Adam(lr=0.1, eps=0.0), mcnqm.RMSProp(lr=0.1, eps=0.0), mcnqm.Lion(lr=0.1)):
        runs = mcnqm.simulate(still, optimizer, 1, 50, trajectories=2)
        assert (runs.loss == 0).all()
        assert not runs.diverged.any()
