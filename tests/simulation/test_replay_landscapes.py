"""Landscapes, multiplicative noise and Student's t, replayed from `mcnqm.noise` by a plain NumPy loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch_reference as reference
from made_up_landscapes import Basin, Ripples
from scipy import special
from student_reference import student

import mcnqm
from mcnqm import provenance
from mcnqm.kernels.noise import EXAMPLE, STUDENT_EXAMPLE
from mcnqm.kernels.shards import replay as raw

STEPS, SEED, BATCH = 300, 11, 4
TOLERANCE = 1e-11  # relative to the largest |theta| of the coordinate's path

RNG = np.random.default_rng(3)
DIM = 9
H = 1.0 / np.arange(1, DIM + 1)
QUADRATIC = mcnqm.NoisyQuadratic(
    H, RNG.uniform(0.2, 1.0, DIM), RNG.normal(size=DIM), 0.7, multiplicative_noise=RNG.uniform(0.1, 1.0, DIM)
)
STUDENT = mcnqm.NoisyQuadratic(H, RNG.uniform(0.2, 1.0, DIM), initial_mean=1.0, noise_df=2.7)
BOTH = mcnqm.NoisyQuadratic(H, multiplicative_noise=0.3, noise_df=4.0)


def soft_minimum(x, k=30.0):
    return -np.logaddexp(-k * 4.0 * (x + 0.5) ** 2, -k * (0.05 + 0.5 * (x - 1.0) ** 2)) / k


def soft_slope(x, k=30.0):
    share = special.expit(-k * (4.0 * (x + 0.5) ** 2 - 0.05 - 0.5 * (x - 1.0) ** 2))
    return share * 8.0 * (x + 0.5) + (1.0 - share) * (x - 1.0)


def quadratic(problem):
    s = problem.multiplicative_noise
    return lambda x: 0.5 * H * x**2, lambda x: H * x, lambda x: problem.noise + s * x**2


PROBLEMS = {  # and loss, gradient and variance in NumPy
    "multiplicative": (QUADRATIC, *quadratic(QUADRATIC)),
    "Student": (STUDENT, *quadratic(STUDENT)),
    "both": (BOTH, *quadratic(BOTH)),
    "wells": (
        mcnqm.DoubleWell(dim=DIM, initial_std=0.5),
        lambda x: soft_minimum(x) - min(soft_minimum(-0.5), soft_minimum(1.0)),
        soft_slope,
        lambda x: np.full_like(x, 12.0),
    ),
    "quartic": (
        mcnqm.QuarticWell(curvature=H, quartic=0.2, noise=0.5),
        lambda x: 0.5 * H * x**2 + 0.05 * x**4,
        lambda x: H * x + 0.2 * x**3,
        lambda x: np.full_like(x, 0.5),
    ),
    "ripples": (
        Ripples(curvature=H),
        lambda x: 0.5 * H * x**2 + 0.3 * (1 - np.cos(x)),
        lambda x: H * x + 0.3 * np.sin(x),
        lambda x: 1.0 + 0.5 * np.maximum(x, 0.0) ** 2,
    ),
}
OPTIMIZERS = {
    "SGD": (mcnqm.SGD(lr=0.1), reference.sgd, {"lr": 0.1}),
    "heavy ball": (mcnqm.SGD(lr=0.05, momentum=0.9), reference.sgd, {"lr": 0.05, "momentum": 0.9}),
    "Adam": (mcnqm.Adam(lr=0.01, eps=1e-3), reference.adam, {"lr": 0.01, "eps": 1e-3}),
    "Lion": (mcnqm.Lion(lr=1e-3), reference.lion, {"lr": 1e-3}),
}


def replay(name, path_of, trajectory, draws=None, batch=BATCH, **hyper):
    """The reference's path, from the start and the noise that `mcnqm.noise` gives."""
    problem, _, gradient, variance = PROBLEMS[name]
    where = np.arange(problem.dim)
    start = mcnqm.noise(SEED, trajectory, where, 1, purpose="initial")[0, 0]
    z = mcnqm.noise(SEED, trajectory, where, STEPS, noise_df=problem.noise_df)[0] if draws is None else draws
    theta = problem.initial_mean + problem.initial_std * start
    return path_of(theta, lambda t, x: gradient(x) + np.sqrt(variance(x) / batch) * z[t], STEPS, **hyper)


def assert_same_path(found, expected, tolerance=TOLERANCE):
    error = np.abs(found - expected).max(axis=0) / np.abs(expected).max(axis=0)
    assert error.max() < tolerance, f"coordinate {error.argmax()} is off by {error.max():.3g} relative"


PAIRS = [(p, o) for p in PROBLEMS for o in OPTIMIZERS]
QUICK = {("wells", "SGD"), ("multiplicative", "SGD"), ("both", "SGD"), ("multiplicative", "Adam"), ("ripples", "SGD")}


@pytest.mark.parametrize(
    ("name", "optimizer"), [pytest.param(*p, marks=[] if p in QUICK else pytest.mark.slow) for p in PAIRS]
)
def test_path(name, optimizer):
    """In either memory layout, with losses."""
    problem, loss = PROBLEMS[name][:2]
    made, path_of, hyper = OPTIMIZERS[optimizer]
    options = {"trajectories": 3, "seed": SEED, "coordinates": range(DIM), "record": range(STEPS + 1)}
    runs = mcnqm.simulate(problem, made, BATCH, STEPS, **options)
    swept = mcnqm.simulate(
        problem, made._replace(lr=hyper["lr"] * np.array([0.5, 1.0, 0.7])), [1, BATCH], STEPS, **options
    )
    tolerance = 1e-9 if optimizer == "Lion" and name == "wells" else TOLERANCE
    for trajectory in range(3):
        expected = replay(name, path_of, trajectory, **hyper)
        assert_same_path(runs.theta.isel(trajectory=trajectory).values, expected, tolerance)
        one = swept.isel(lr=1, batch_size=1, trajectory=trajectory)
        assert_same_path(one.theta.values, expected, tolerance)
        total = loss(expected).sum(axis=1)
        np.testing.assert_allclose(runs.loss.isel(trajectory=trajectory), total, rtol=1e-9, atol=1e-12)
    assert not np.allclose(replay(name, path_of, 1, **hyper)[-1], replay(name, path_of, 0, **hyper)[-1])


@pytest.mark.parametrize("name", ["both", "wells"])
def test_path_of_examples(name):
    """The mean of so many draws: of Student's t another law than that of the batch."""
    problem = PROBLEMS[name][0]
    runs = mcnqm.simulate(
        *(problem, mcnqm.SGD(lr=0.1), BATCH, STEPS),
        trajectories=1, seed=SEED, coordinates=range(DIM), record=range(STEPS + 1), minibatch="per_example",
    )  # fmt: skip
    where, who = np.arange(DIM, dtype=np.uint32), np.zeros(1, np.uint32)
    purpose = EXAMPLE if problem.noise_df is None else STUDENT_EXAMPLE
    each = []
    for e in range(BATCH):
        if problem.noise_df is None:
            each.append(raw(SEED, np.uint32(int(purpose) | e << 8), who, where, STEPS)[0])
        else:
            each.append(student_example(problem.noise_df, e))
    z = np.sqrt(BATCH) * np.float32(np.mean(each, axis=0, dtype=np.float64))
    expected = replay(name, reference.sgd, 0, draws=z.astype(np.float64), lr=0.1)
    # A mean is rounded to single precision before it is scaled.
    assert_same_path(runs.theta.values[0], expected, 1e-6)
    assert np.abs(expected - replay(name, reference.sgd, 0, lr=0.1)).max() > 0.01


def student_example(df, example):
    draws = [[student(SEED, 0, i, t, df, 18 | example << 8) for i in range(DIM)] for t in range(STEPS)]
    return np.array(draws, np.float32)


def test_schedules_and_averages():
    """Rate and batch size change; losses are those of an average."""
    name, lr, decay = "wells", 0.1, 0.98
    problem, loss, gradient, variance = PROBLEMS[name]
    runs = mcnqm.simulate(
        *(problem, mcnqm.SGD(lr=mcnqm.schedules.cosine(lr, STEPS))),
        *(mcnqm.schedules.linear(BATCH, STEPS, final=4.0), STEPS),
        average=decay, trajectories=2, seed=SEED, coordinates=range(DIM), record=range(STEPS + 1),
    )  # fmt: skip
    share = np.arange(STEPS) / STEPS
    where, factor, growth = np.arange(DIM), (1 + np.cos(np.pi * share)) / 2, 1 + 3 * share
    z = mcnqm.noise(SEED, 1, where, STEPS)[0]
    x = problem.initial_mean + problem.initial_std * mcnqm.noise(SEED, 1, where, 1, purpose="initial")[0, 0]
    mean, path, averages = x, [x], [x]
    for t in range(STEPS):
        x = x - lr * factor[t] * (gradient(x) + np.sqrt(variance(x) / (BATCH * growth[t])) * z[t])
        mean = decay * mean + (1 - decay) * x
        path.append(x)
        averages.append(mean)
    assert_same_path(runs.theta.values[1], np.stack(path))
    np.testing.assert_allclose(runs.loss.values[1], loss(np.stack(averages)).sum(axis=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["wells", "multiplicative"])
def test_single_precision(name):
    """Close over a few steps, and not the same."""
    problem = PROBLEMS[name][0]
    options = {"trajectories": 2, "seed": SEED, "coordinates": range(DIM), "record": range(21)}
    double = mcnqm.simulate(problem, mcnqm.SGD(lr=0.05), BATCH, 20, **options)
    single = mcnqm.simulate(problem, mcnqm.SGD(lr=0.05), BATCH, 20, dtype="float32", **options)
    gap = np.abs(double.theta - single.theta).max()
    assert 0 < gap < 1e-4


def test_what_leaves_every_well_has_diverged():
    """By its loss, or because it is outside the region, where the loss says nothing; and nobody else."""
    runs = mcnqm.simulate(mcnqm.DoubleWell(), mcnqm.SGD(lr=[0.1, 2.5]), 4, 400, trajectories=3)
    assert not runs.diverged.sel(lr=0.1).any()
    assert runs.diverged.sel(lr=2.5).all()
    assert np.isinf(runs.risk.sel(lr=2.5)[-1])
    runs = mcnqm.simulate(
        Basin(noise=20.0), mcnqm.SGD(lr=0.3), 1, 300, trajectories=64, coordinates=[0], record=range(301)
    )
    outside = (np.abs(runs.theta.isel(coordinate=0)) > 6.0).cumsum("step") > 0
    assert 0 < outside.isel(step=-1).mean() < 1 or outside.isel(step=-1).all()
    np.testing.assert_array_equal(np.isinf(runs.loss), outside)
    np.testing.assert_array_equal(runs.diverged, outside.isel(step=-1))
    within = mcnqm.simulate(Basin(noise=20.0, edge=1e6), mcnqm.SGD(lr=0.3), 1, 300, trajectories=64)
    assert not within.diverged.any()


def test_twins_are_refused():
    for problem in (QUADRATIC, mcnqm.DoubleWell()):
        with pytest.raises(mcnqm.ParameterError, match="control_variate must be False with"):
            mcnqm.simulate(problem, mcnqm.Adam(lr=0.1), 4, 10, control_variate=True)
        with pytest.raises(mcnqm.ParameterError, match="control_variate must be False with"):
            mcnqm.steps_to_target(problem, mcnqm.Adam(lr=0.1), 4, control_variate=True)
    assert "variance_reduction" not in mcnqm.simulate(QUADRATIC, mcnqm.Adam(lr=0.1), 4, 10, trajectories=16)
    # Of Student's t the twin knows all that it needs, the variance.
    assert "variance_reduction" in mcnqm.simulate(STUDENT, mcnqm.Adam(lr=0.1), 4, 10, trajectories=16)


def test_no_curvature_to_precondition_with():
    with pytest.raises(mcnqm.ParameterError, match="precondition must not depend on the curvature"):
        mcnqm.simulate(mcnqm.DoubleWell(), mcnqm.SGD(lr=0.1, precondition=0.5), 4, 10)
    # On a quadratic multiplicative noise is preconditioned with the rest.
    runs = mcnqm.simulate(
        *(QUADRATIC, mcnqm.SGD(lr=0.1, precondition=0.5), BATCH, STEPS),
        trajectories=1, seed=SEED, coordinates=range(DIM), record=range(STEPS + 1),
    )  # fmt: skip
    expected = replay("multiplicative", reference.sgd, 0, lr=0.1, scale=H**-0.5)
    assert_same_path(runs.theta.values[0], expected)


@pytest.mark.parametrize("name", ["multiplicative", "both", "wells", "quartic"])
def test_states_passages_and_the_call_again(name):
    """The gradient is the one that the momentum saw; a result can be made again from what it says of itself."""
    problem = PROBLEMS[name][0]
    made = mcnqm.SGD(lr=0.05, momentum=0.5)
    options = {"trajectories": 4, "coordinates": [0, 3], "record_state": True, "target": 0.5, "record": range(41)}
    runs = mcnqm.simulate(problem, made, BATCH, 40, **options)
    momentum, gradient = runs.state_momentum.values, runs.gradient.values
    np.testing.assert_allclose(momentum[:, 1:], 0.5 * momentum[:, :-1] + gradient[:, :-1], rtol=1e-12, atol=1e-13)
    first = np.argmax(runs.loss.values <= 0.5, axis=1)
    np.testing.assert_array_equal(runs.first_passage, np.where((runs.loss <= 0.5).any("step"), first, np.inf))
    assert provenance.rerun(runs).identical(runs)
