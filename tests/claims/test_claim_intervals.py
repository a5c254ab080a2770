"""Intervals of estimates, and critical batch sizes."""

import numpy as np
import pytest
from scipy import stats

from mcnqm.claims.intervals import critical_batch, exact, mean, quotient, scatter, slope
from mcnqm.errors import ParameterError
from mcnqm.fits import log_slope


def test_critical_batch_size_is_that_of_the_trade_off():
    batch = 2.0 ** np.arange(24)
    for crit in (700.0, 1000.0, 90_000.0):
        found = critical_batch(batch, 50.0 * (1.0 + crit / batch))
        assert found == pytest.approx(crit, rel=0.01)


def test_critical_batch_size_beyond_the_last_is_infinite():
    batch = 2.0 ** np.arange(10)
    assert critical_batch(batch, 1e6 / batch) == np.inf
    assert critical_batch(batch, 1e6 / batch**1.01) == np.inf


def test_a_dip_of_the_examples_is_where_they_are_counted_from():
    batch = 4.0 ** np.arange(6)
    examples = np.array([100.0, 90.0, 50.0, 100.0, 400.0, 1600.0])
    assert critical_batch(batch, examples / batch) == pytest.approx(64.0)


@pytest.mark.parametrize("level", [0.9, 0.999])
def test_intervals_of_means_cover(level):
    """400 samples of 8: the count of misses is binomial; false-alarm rate 1e-6 on either side."""
    rng = np.random.default_rng(1)
    missed = 0
    for sample in rng.normal(3.0, 1.0, (400, 8)):
        found = scatter(sample, level)
        missed += not found.low <= 3.0 <= found.high
    law = stats.binom(400, 1.0 - level)
    assert law.ppf(1e-6) <= missed <= law.ppf(1.0 - 1e-6)


def test_widths():
    assert exact(2.0, 0.01) == pytest.approx((2.0, 1.98, 2.02))
    assert exact(-2.0, 0.01) == pytest.approx((-2.0, -2.02, -1.98))
    assert mean(0.0, 1.0, 0.95).high == pytest.approx(1.96, abs=1e-3)
    assert mean(0.0, 1.0, 0.95, 4).high == pytest.approx(2.776, abs=1e-3)
    found = quotient(2.0, 1.0, 0.95, 0.03, 0.04)
    assert np.log(found.high / 2.0) == pytest.approx(1.96 * 0.05, rel=1e-3)


def test_slopes_have_the_level_that_was_asked_for():
    batch = 2.0 ** np.arange(5)
    rate = 0.1 * batch
    usual, surer = slope(batch, rate, 0.01 * rate, 0.95), slope(batch, rate, 0.01 * rate, 0.9999)
    assert usual.value == pytest.approx(1.0)
    assert surer.high - 1.0 == pytest.approx((usual.high - 1.0) * stats.norm.ppf(0.99995) / stats.norm.ppf(0.975))
    with pytest.raises(ParameterError, match="level"):
        log_slope(batch, rate, 0.01 * rate, level=1.0)
