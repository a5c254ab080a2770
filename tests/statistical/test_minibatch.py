"""Averaging B drawn gradients and drawing their average: one law.

Each test compares many trajectories by a two-sample statistic with a stated false-alarm rate for a new seed, and a
negative control shows that it rejects a wrong law.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import mcnqm

ALPHA = 1e-6
TRAJECTORIES = 4000


def final_theta(minibatch, batch_size, *, noise_factor=1.0, seed=0, optimizer=None):
    h = np.array([1.0, 0.3, 0.02])
    problem = mcnqm.NoisyQuadratic(h, noise=noise_factor * np.array([0.5, 1.0, 2.0]), initial_mean=1.0)
    runs = mcnqm.simulate(
        problem,
        optimizer or mcnqm.SGD(lr=0.3, momentum=0.5),
        batch_size,
        30,
        trajectories=TRAJECTORIES,
        seed=seed,
        coordinates=[0, 1, 2],
        record=[30],
        minibatch=minibatch,
    )
    return runs.theta.isel(step=0).values


def p_value(a, b):
    """Smallest two-sample p-value over coordinates and statistics, Bonferroni: distribution, mean, variance."""
    tests = []
    for i in range(a.shape[1]):
        x, y = a[:, i], b[:, i]
        tests.append(stats.ks_2samp(x, y).pvalue)
        tests.append(stats.ttest_ind(x, y, equal_var=False).pvalue)
        tests.append(stats.ttest_ind((x - x.mean()) ** 2, (y - y.mean()) ** 2, equal_var=False).pvalue)
    return min(1.0, len(tests) * min(tests))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 16])
@pytest.mark.parametrize("optimizer", [mcnqm.SGD(lr=0.3, momentum=0.5), mcnqm.Adam(lr=0.05)])
def test_one_law(batch_size, optimizer):
    """False alarm: 1e-6 per case (different seeds, so that the two samples are independent)."""
    exact = final_theta("exact", batch_size, optimizer=optimizer, seed=1)
    literal = final_theta("per_example", batch_size, optimizer=optimizer, seed=2)
    p = p_value(exact, literal)
    assert p > ALPHA, f"p = {p:.3g} at batch size {batch_size}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_factor": 1.25},  # variance off by a quarter
        {"noise_factor": 7.0},  # not averaged at all
        {"noise_factor": 1 / 7.0},  # averaged twice
    ],
)
def test_a_wrong_law_is_rejected(wrong):
    """Negative control: the statistic sees a wrong variance."""
    p = p_value(final_theta("exact", 7, seed=1, **wrong), final_theta("per_example", 7, seed=2))
    assert p < ALPHA, f"p = {p:.3g} for {wrong}"


def test_examples_are_shared_between_batch_sizes():
    """Batches of different size on one trajectory share their first examples: common random numbers."""
    problem = mcnqm.NoisyQuadratic([1.0], noise=1.0, initial_std=0.0)
    runs = mcnqm.simulate(
        problem, mcnqm.SGD(lr=1.0), [1, 2, 3], 1, trajectories=200, coordinates=[0], minibatch="per_example"
    )
    gradient = -runs.theta.isel(step=1, coordinate=0)  # from 0, one step at rate 1
    first = gradient.sel(batch_size=1)
    second = 2 * gradient.sel(batch_size=2) - first
    third = 3 * gradient.sel(batch_size=3) - 2 * gradient.sel(batch_size=2)
    correlation = np.corrcoef(np.stack([first, second, third]))
    # 1 / sqrt(200) = 0.07: 0.35 is five standard errors, a false alarm below 1e-6.
    assert np.abs(correlation - np.eye(3)).max() < 0.35, correlation


def test_per_example_is_bit_identical_however_it_is_cut():
    problem = mcnqm.NoisyQuadratic.power_law(40)
    options = {"steps": 70, "minibatch": "per_example", "seed": 3}
    whole = mcnqm.simulate(problem, mcnqm.Adam(lr=[0.1, 0.2]), [1, 5, 8], trajectories=12, **options)
    one = mcnqm.simulate(problem, mcnqm.Adam(lr=0.2), 5, trajectories=3, threads=1, **options)
    assert np.array_equal(one.loss, whole.loss.sel(lr=0.2, batch_size=5, trajectory=slice(0, 2)))
