"""Exponentials and logarithms of kernels against NumPy's, over their whole range."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from mcnqm.kernels.exponential import expm1_positive
from mcnqm.kernels.jit import OPTIONS
from mcnqm.problems.arithmetic import exp, log

RNG = np.random.default_rng(0)
N = 200_000


@numba.njit(**OPTIONS)
def _exp(x, out):
    for j in range(x.size):
        out[j] = exp(x[j])


@numba.njit(**OPTIONS)
def _log(x, out):
    for j in range(x.size):
        out[j] = log(x[j])


@numba.njit(**OPTIONS)
def _expm1(x, out):
    for j in range(x.size):
        out[j] = expm1_positive(x[j])


def of(function, x):
    out = np.empty_like(x)
    function(x, out)
    return out


def relative(found, expected):
    return np.abs(found / expected - 1.0).max()


@pytest.mark.parametrize("x", [RNG.uniform(-700, 700, N), RNG.normal(size=N), 1e-8 * RNG.normal(size=N)])
def test_exponential(x):
    assert relative(of(_exp, x), np.exp(x.astype(np.longdouble))) < 2.3e-16


def test_exponential_in_single_precision():
    x = RNG.uniform(-80, 80, N).astype(np.float32)
    assert relative(of(_exp, x), np.exp(x.astype(np.float64))) < 1.3e-7


def test_exponential_stops_and_keeps_nan():
    ends = of(_exp, np.array([1e3, np.inf, -1e3, -np.inf]))
    np.testing.assert_allclose(ends, np.exp([700.0, 700.0, -700.0, -700.0]), rtol=1e-13)
    assert np.isnan(of(_exp, np.array([np.nan]))).all()
    assert np.isnan(of(_exp, np.array([np.nan], np.float32))).all()


def test_exponential_less_one():
    x = np.concatenate([RNG.uniform(0, 50, N), np.geomspace(1e-30, 1, N)]).astype(np.float32)
    assert relative(of(_expm1, x), np.expm1(x.astype(np.float64))) < 2e-7


@pytest.mark.parametrize(
    "x", [np.exp(RNG.uniform(-700, 700, N)), 1 + RNG.uniform(0, 1, N), 1 + 1e-6 * RNG.normal(size=N)]
)
def test_logarithm(x):
    x = x[x != 1.0]
    assert relative(of(_log, x), np.log(x.astype(np.longdouble))) < 2.3e-16


def test_logarithm_at_its_ends():
    x = np.array([0.0, -1.0, np.inf, np.nan, 1.0])
    np.testing.assert_array_equal(of(_log, x), [-np.inf, np.nan, np.inf, np.nan, 0.0])
