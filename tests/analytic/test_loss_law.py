import numpy as np
import pytest
from scipy import stats

import mcnqm
from mcnqm import SGD, NoisyQuadratic, ParameterError, analytic, averaging, schedules

LEVELS = np.array([0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999])


def start(problem, **options):
    """The law at the start, where it is known: at step 0."""
    return analytic.loss_law(problem, SGD(lr=0.1), 4, 0, probability=LEVELS, **options).isel(step=0)


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_equal_coordinates_are_a_chi_square(count):
    law = start(NoisyQuadratic([2.0], multiplicity=count))
    np.testing.assert_allclose(stats.chi2.cdf(law.loss, count), LEVELS, atol=2e-8 if count > 2 else 2e-5)
    np.testing.assert_allclose(law.density[1:], stats.chi2.pdf(law.loss[1:], count), rtol=2e-3)
    assert law.risk == pytest.approx(count)
    assert law.loss_std == pytest.approx(np.sqrt(2.0 * count))


def test_a_start_away_from_the_minimum_is_a_noncentral_one():
    law = start(NoisyQuadratic([2.0], initial_mean=1.5, multiplicity=6))
    np.testing.assert_allclose(stats.ncx2.cdf(law.loss, 6, 6 * 1.5**2), LEVELS, atol=1e-7)


def test_different_weights_in_pairs_are_a_sum_of_exponentials():
    rates = np.array([0.5, 1.0, 3.0, 10.0])  # of exponentials; each a pair of squares with half the mean
    law = start(NoisyQuadratic(1.0 / rates, multiplicity=2))
    share = [np.prod(np.delete(rates, k) / (np.delete(rates, k) - rate)) for k, rate in enumerate(rates)]
    below = 1.0 - np.sum([s * np.exp(-r * law.loss.values) for s, r in zip(share, rates, strict=True)], axis=0)
    np.testing.assert_allclose(below, LEVELS, atol=1e-6)


def test_what_is_certain_has_no_spread():
    law = start(NoisyQuadratic([2.0, 1.0], initial_mean=[1.0, 2.0], initial_std=0.0))
    np.testing.assert_allclose(law.loss, 3.0)
    assert np.isinf(law.density).all()
    one = start(NoisyQuadratic([2.0, 1.0], initial_mean=[0.0, 2.0], initial_std=[1.0, 0.0]))
    np.testing.assert_allclose(stats.chi2.cdf(one.loss - 2.0, 1), LEVELS, atol=1e-9)


def test_binning_at_equal_curvature_and_small_weights_change_nothing():
    full = analytic.loss_law(NoisyQuadratic(np.repeat([1.0, 1e-3], [3, 500])), SGD(lr=0.1), 4, 50, record=[50])
    short = analytic.loss_law(NoisyQuadratic([1.0, 1e-3], multiplicity=[3, 500]), SGD(lr=0.1), 4, 50, record=[50])
    np.testing.assert_allclose(full.loss, short.loss, rtol=1e-9)


CASES = {
    "momentum": (SGD(lr=[0.1, 0.3], momentum=0.9), 8, None),
    "schedule": (SGD(lr=schedules.cosine(0.5, steps=60)), 8, None),
    "average": (SGD(lr=0.5), 8, averaging.tail(20)),
    "preconditioned": (SGD(lr=0.1, precondition=0.5), schedules.linear(4, 60, final=4.0), None),
}


def distances(law, runs, count):
    """Largest distance between the shares of trajectories below the law's quantiles and their probabilities."""
    below = (runs.loss <= law.loss).mean("trajectory")
    return float(abs(below - law.probability).max())


@pytest.mark.parametrize("name", CASES)
def test_simulated_losses_follow_the_law(name):
    """By the Dvoretzky-Kiefer-Wolfowitz inequality, and a union bound over up to 6 curves: false alarms below 1e-6."""
    optimizer, batch_size, average = CASES[name]
    problem, count, record = NoisyQuadratic.power_law(15), 4096, [1, 12, 60]
    options = {"record": record, "average": average}
    runs = mcnqm.simulate(problem, optimizer, batch_size, 60, trajectories=count, seed=5, **options)
    law = analytic.loss_law(problem, optimizer, batch_size, 60, probability=LEVELS, **options)
    allowed = np.sqrt(np.log(2 * 6 / 1e-6) / (2 * count))
    assert distances(law, runs, count) < allowed
    # Negative control: 40 % more noise.
    other = NoisyQuadratic(problem.curvature, 1.4 * problem.noise)
    wrong = analytic.loss_law(other, optimizer, batch_size, 60, probability=LEVELS, **options)
    assert distances(wrong, runs, count) > allowed


def test_mean_is_the_risk_and_overflow_is_nan():
    sweep = SGD(lr=[0.1, 100.0])
    law = analytic.loss_law(NoisyQuadratic.power_law(5), sweep, 4, 1000, record=[3, 1000])
    exact = analytic.risk(NoisyQuadratic.power_law(5), sweep, 4, 1000, record=[3, 1000])
    np.testing.assert_allclose(law.risk.sel(lr=0.1), exact.risk.sel(lr=0.1), rtol=1e-12)
    assert law.loss.dims == ("lr", "step", "probability")
    assert np.isnan(law.loss.sel(lr=100.0, step=1000)).all()


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, [[0.5]], np.nan, "half"])
def test_probabilities_are_between_0_and_1(wrong):
    with pytest.raises(ParameterError, match="probability"):
        analytic.loss_law(NoisyQuadratic([1.0]), SGD(lr=0.1), 4, 10, probability=wrong)
    with pytest.raises(ParameterError, match="optimizer"):
        analytic.loss_law(NoisyQuadratic([1.0]), mcnqm.Adam(lr=0.1), 4, 10)
