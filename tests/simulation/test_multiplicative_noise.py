"""Multiplicative noise against its exact second moments: P' = A P Aᵀ + b bᵀ (c + s E θ²)/B.

Each example tests, for every coordinate and the risk at three steps, the mean of many trajectories against the exact
one, and rejects at 1e-6 each under another seed (seeds are fixed). The control leaves the s out of the recursion.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import mcnqm

TRAJECTORIES, STEPS = 4096, 40
RECORD = (1, 7, STEPS)
WORST = stats.norm.isf(0.5e-6)


def second_moments(problem, batch, lr, momentum, nesterov, precondition, slope):
    """E θ² of each coordinate at steps 0 to STEPS, of (theta, momentum buffer) from its definition."""
    rows = []
    for h, c, s, mean, std in zip(
        problem.curvature, problem.noise, slope, problem.initial_mean, problem.initial_std, strict=True
    ):
        rate = lr * h**-precondition
        # m' = β m + g; θ' = θ - rate (g + β m') by Nesterov, θ - rate m' else.
        push = 1.0 + momentum if nesterov else 1.0
        pull = momentum**2 if nesterov else momentum
        a = np.array([[1.0 - rate * push * h, -rate * pull], [h, momentum]])
        b = np.array([-rate * push, 1.0])
        moment = np.array([[mean**2 + std**2, 0.0], [0.0, 0.0]])
        path = [moment[0, 0]]
        for _ in range(STEPS):
            moment = a @ moment @ a.T + np.outer(b, b) * (c + s * moment[0, 0]) / batch
            path.append(moment[0, 0])
        rows.append(path)
    return np.array(rows)


def deviations(problem, batch, optimizer, expected):
    runs = mcnqm.simulate(
        *(problem, optimizer, batch, STEPS), trajectories=TRAJECTORIES, record=RECORD, coordinates=range(problem.dim)
    )
    square = runs.theta.values**2
    z = (square.mean(axis=0) - expected[:, RECORD].T) / (square.std(axis=0, ddof=1) / np.sqrt(TRAJECTORIES))
    risk = 0.5 * problem.curvature @ expected[:, RECORD]
    return np.concatenate([z.reshape(-1), ((runs.risk - risk) / runs.risk_stderr).values])


def some_problem(seed, df, batch, lr, momentum, precondition, share):
    """Noise that rises so fast that it alone makes up a `share` of the steady second moments.

    Nearer to the edge of stability a square has no variance, and a mean of squares no error.
    """
    rng = np.random.default_rng(seed)
    h = rng.uniform(0.1, 1.0, 3)
    slope = 2.0 * share * h * batch * (1.0 - momentum) / (lr * h**-precondition)
    return mcnqm.NoisyQuadratic(
        *(h, rng.uniform(0.1, 1.0, 3), rng.normal(size=3), rng.uniform(0.1, 1.0, 3)),
        multiplicative_noise=slope,
        noise_df=df,
    )


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32),
    batch=st.sampled_from([4, 16, 64]),
    lr=st.floats(0.02, 0.3),
    momentum=st.sampled_from([0.0, 0.5, 0.8]),
    nesterov=st.booleans(),
    precondition=st.sampled_from([0.0, 0.5]),
    df=st.sampled_from([None, 9.0]),
    share=st.floats(0.05, 0.2),
)
def test_second_moments(seed, batch, lr, momentum, nesterov, precondition, df, share):
    problem = some_problem(seed, df, batch, lr, momentum, precondition, share)
    nesterov = nesterov and momentum > 0
    optimizer = mcnqm.SGD(lr=lr, momentum=momentum, nesterov=nesterov, precondition=precondition)
    known = (problem, batch, lr, momentum, nesterov, precondition)
    expected = second_moments(*known, problem.multiplicative_noise)
    assert np.abs(deviations(problem, batch, optimizer, expected)).max() < WORST


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_control(momentum):
    """The same without the noise that rises must be rejected."""
    problem = some_problem(1, None, 4, 0.3, momentum, 0.0, 0.2)
    optimizer = mcnqm.SGD(lr=0.3, momentum=momentum)
    known = (problem, 4, 0.3, momentum, False, 0.0)
    right = second_moments(*known, problem.multiplicative_noise)
    wrong = second_moments(*known, 0.0 * problem.multiplicative_noise)
    assert np.abs(deviations(problem, 4, optimizer, right)).max() < WORST
    assert np.abs(deviations(problem, 4, optimizer, wrong)).max() > WORST


def test_no_multiplicative_noise_is_the_plain_quadratic():
    """To the bit; and very little of it is near."""
    plain = mcnqm.NoisyQuadratic.power_law(20)
    zero = mcnqm.NoisyQuadratic.power_law(20, multiplicative_noise=0.0)
    little = mcnqm.NoisyQuadratic.power_law(20, multiplicative_noise=1e-14)
    runs = [mcnqm.simulate(p, mcnqm.SGD(lr=0.3), 4, 50, trajectories=4) for p in (plain, zero, little)]
    assert runs[0].identical(runs[1])
    np.testing.assert_allclose(runs[2].loss, runs[0].loss, rtol=1e-10)
