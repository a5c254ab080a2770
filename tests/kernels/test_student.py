"""Student's t from Philox: the formula, the law, and where its bits come from.

Tests of the law reject a perfect generator with a probability of 1e-6 each under another seed (seeds are fixed), and
must reject normals of the same variance, and a t with half a degree of freedom more.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy import stats
from student_reference import student

import mcnqm
from mcnqm.kernels import noise as streams

ALPHA = 1e-6
DF = (2.5, 3.0, 5.0, 30.0)


@pytest.mark.parametrize("df", [*DF, 2.001, 1e4, 1e12])
def test_draws_follow_the_formula(df):
    z = mcnqm.noise(7, [0, 5], [3, 1000], 23, noise_df=df)
    for (r, t, i), value in np.ndenumerate(z):
        expected = student(7, (0, 5)[r], (3, 1000)[i], t, min(df, 1e9))
        assert value == pytest.approx(expected, rel=2e-5, abs=2e-5)


def draws(df, seed=1):
    return mcnqm.noise(seed, np.arange(64), np.arange(64), 256, noise_df=df).reshape(-1)


def distance(sample, df):
    """p-value of Kolmogorov's and Smirnov's test against Student's t of variance 1."""
    scale = np.sqrt((df - 2) / df)
    return stats.kstest(sample, stats.t(df, scale=scale).cdf).pvalue


@pytest.mark.parametrize("df", DF)
def test_law(df):
    sample = draws(df)
    assert distance(sample, df) > ALPHA
    assert distance(sample, df + 0.5) < ALPHA or df > 10
    if df < 10:
        assert distance(mcnqm.noise(1, np.arange(64), np.arange(64), 256).reshape(-1), df) < ALPHA


def test_variance_is_one():
    """At 8 degrees of freedom the fourth moment, and so the error of a variance, is finite."""
    sample = draws(8.0)
    fourth = stats.t(8.0, scale=np.sqrt(6 / 8)).stats("k") + 3.0
    error = np.sqrt((fourth - 1.0) / sample.size)
    z = (np.mean(sample**2) - 1.0) / error
    assert abs(z) < stats.norm.isf(ALPHA / 2)
    assert abs((np.mean((1.02 * sample) ** 2) - 1.0) / error) > stats.norm.isf(ALPHA / 2)  # 2 % off is seen


def test_draws_of_one_call_are_independent():
    """Squares too: the sine of a pair, which would be uncorrelated and yet dependent, is not used."""
    z = mcnqm.noise(3, np.arange(64), np.arange(64), 256, noise_df=9.0)
    ranks = stats.rankdata(np.abs(z)).reshape(z.shape)
    worst = stats.norm.isf(ALPHA / 12)
    for lag in (1, 2, 3):
        one, other = ranks[:, :-lag].reshape(-1), ranks[:, lag:].reshape(-1)
        assert abs(np.corrcoef(one, other)[0, 1]) * np.sqrt(one.size) < worst
    # A common radius would be seen.
    rng = np.random.default_rng(0)
    radius = rng.chisquare(9.0, size=one.size) ** -0.5
    pair = np.abs(radius * rng.normal(size=(2, one.size)))
    assert abs(stats.spearmanr(*pair).statistic) * np.sqrt(one.size) > worst


def test_bits_never_change():
    z = mcnqm.noise(2**35 + 3, np.arange(8), np.arange(16), 128, noise_df=4.5)
    assert hashlib.sha256(z.astype("<f4").tobytes()).hexdigest()[:32] == "c09dc92d0c446e3b8dcf95d2a552492d"


def test_streams_of_their_own():
    z = mcnqm.noise(0, 0, 0, 64)
    assert not np.intersect1d(z, mcnqm.noise(0, 0, 0, 64, noise_df=1e9)).size
    purposes = {int(p) for p in (streams.INITIAL, streams.GRADIENT, streams.EXAMPLE)}
    mine = {int(p) + half for p in (streams.STUDENT, streams.STUDENT_EXAMPLE) for half in (0, 1)}
    assert len(mine) == 4
    assert not purposes & mine
    assert max(mine) < 256, "the example's number takes the bytes above"


def test_refused():
    with pytest.raises(mcnqm.ParameterError, match="noise_df must be None with purpose='initial'"):
        mcnqm.noise(0, 0, 0, 4, purpose="initial", noise_df=3.0)
    with pytest.raises(mcnqm.ParameterError, match="noise_df must be None for Gaussian noise, or a number > 2"):
        mcnqm.noise(0, 0, 0, 4, noise_df=2.0)
