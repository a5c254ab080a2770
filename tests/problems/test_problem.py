"""The problem: what it is, what it refuses, and what binning keeps."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcnqm import NoisyQuadratic, ParameterError


def test_paper_problem():
    problem = NoisyQuadratic.power_law(10_000)
    assert problem.dim == problem.size == 10_000
    assert problem.condition_number == pytest.approx(1e4)
    assert problem.trace == problem.noise_trace == pytest.approx(9.7876060, abs=1e-6)
    assert problem.initial_risk == pytest.approx(4.8938030, abs=1e-6)
    assert NoisyQuadratic.power_law(1000).initial_risk == pytest.approx(3.7427354, abs=1e-6)


def test_immutable_and_its_own():
    h = np.array([1.0, 0.5])
    problem = NoisyQuadratic(h)
    h[0] = 7
    assert problem.curvature[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        problem.curvature[0] = 2
    with pytest.raises(AttributeError):
        problem.curvature = h


def test_comparable_hashable_picklable_readable():
    a = NoisyQuadratic([1.0, 0.5], noise=[0.1, 0.2])
    b = NoisyQuadratic([1.0, 0.5], noise=[0.1, 0.2], initial_mean=-0.0)
    assert a == b
    assert hash(a) == hash(b)
    assert a != NoisyQuadratic([1.0, 0.5])
    assert a != "problem"
    again = pickle.loads(pickle.dumps(a))
    assert again == a
    with pytest.raises(ValueError, match="read-only"):
        again.noise[0] = 1
    assert repr(a).startswith("NoisyQuadratic(dim=2, curvature=[0.5 .. 1], noise=[0.1 .. 0.2]")


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60),
    st.integers(1, 70),
    st.integers(0, 2**32 - 1),
)
def test_binning_keeps_every_trace(curvature, bins, seed):
    rng = np.random.default_rng(seed)
    n = len(curvature)
    problem = NoisyQuadratic(
        curvature, rng.uniform(0, 2, n), rng.normal(size=n), rng.uniform(0, 2, n), rng.integers(1, 5, n)
    )
    small = problem.binned(bins)
    assert small.size <= max(bins, 1)
    assert small.dim == problem.dim
    assert small.trace == pytest.approx(problem.trace, rel=1e-12)
    assert small.noise_trace == pytest.approx(problem.noise_trace, rel=1e-12)
    assert small.initial_risk == pytest.approx(problem.initial_risk, rel=1e-12)
    assert NoisyQuadratic.from_dict(small.to_dict()) == small


def test_binning_to_full_size_changes_nothing():
    problem = NoisyQuadratic.power_law(30)
    assert problem.binned(30) is problem
    assert problem.binned(10).size <= 10


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ({"curvature": [1.0, 0.0]}, "curvature", "0.0"),
        ({"curvature": [1.0, -2.0]}, "curvature", "-2.0"),
        ({"curvature": [np.nan]}, "curvature", "nan"),
        ({"curvature": [np.inf]}, "curvature", "inf"),
        ({"curvature": []}, "curvature", "[]"),
        ({"curvature": 1.0}, "curvature", "()"),
        ({"curvature": [[1.0]]}, "curvature", "(1, 1)"),
        ({"curvature": ["a"]}, "curvature", "['a']"),
        ({"curvature": [True]}, "curvature", "[True]"),
        ({"curvature": [1j]}, "curvature", "1j"),
        ({"noise": -0.5}, "noise", "-0.5"),
        ({"noise": [0.1]}, "noise", "(1,)"),
        ({"noise": [0.1, np.nan]}, "noise", "nan"),
        ({"initial_mean": [0, np.inf]}, "initial_mean", "inf"),
        ({"initial_mean": [0, 0, 0]}, "initial_mean", "(3,)"),
        ({"initial_std": -1}, "initial_std", "-1.0"),
        ({"multiplicity": 0}, "multiplicity", "0.0"),
        ({"multiplicity": 1e30}, "multiplicity", "1e+30"),
        ({"multiplicity": [1, 1.5]}, "multiplicity", "1.5"),
    ],
)
def test_bad_input(arguments, name, value):
    with pytest.raises(ParameterError) as caught:
        NoisyQuadratic(**{"curvature": [1.0, 0.5], **arguments})
    assert caught.value.name == name
    assert str(caught.value).startswith(f"{name} must ")
    assert value in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0,), "dim"), ((2.0,), "dim"), ((3, -1.0), "exponent"), ((3, np.nan), "exponent"), ((3, 1000.0), "exponent")],
)
def test_bad_power_law(arguments, name):
    with pytest.raises(ParameterError, match=rf"^{name} must"):
        NoisyQuadratic.power_law(*arguments)


def test_bad_binning():
    with pytest.raises(ParameterError, match=r"^n must be an integer >= 1, got 0"):
        NoisyQuadratic.power_law(5).binned(0)


@pytest.mark.parametrize("name", ["curvature", "noise", "initial_mean", "initial_std"])
def test_numbers_whose_powers_overflow_are_refused(name):
    with pytest.raises(ParameterError, match=f"{name} must be at most 1e\\+60 in size") as caught:
        NoisyQuadratic(**{"curvature": [1.0, 1.0], name: [1.0, 1e200]})
    assert caught.value.value == 1e200
    with pytest.raises(ParameterError, match="curvature must be >= 1e-60"):
        NoisyQuadratic(curvature=[1.0, 1e-200])


def test_noise_that_rises_with_the_parameter():
    problem = NoisyQuadratic([1.0, 0.5], multiplicative_noise=[0.2, 0.4], noise_df=5)
    again = NoisyQuadratic.from_dict(problem.to_dict())
    assert again == pickle.loads(pickle.dumps(problem)) == problem
    assert hash(again) == hash(problem)
    assert problem != NoisyQuadratic([1.0, 0.5], noise_df=5)
    assert problem != NoisyQuadratic([1.0, 0.5], multiplicative_noise=[0.2, 0.4])
    assert repr(problem).endswith("multiplicative_noise=[0.2 .. 0.4], noise_df=5)")
    assert "multiplicative_noise" not in NoisyQuadratic([1.0]).to_dict()
    assert NoisyQuadratic.power_law(3, multiplicative_noise=0.1, noise_df=3.5).noise_df == 3.5
    binned = NoisyQuadratic([1.0, 0.99, 0.1], multiplicative_noise=[1.0, 2.0, 4.0], noise_df=5).binned(2)
    np.testing.assert_allclose(binned.multiplicative_noise, [1.5, 4.0])
    assert binned.noise_df == 5


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"multiplicative_noise": -0.1}, "multiplicative_noise must be >= 0, got -0.1"),
        ({"multiplicative_noise": [1.0]}, "multiplicative_noise must be a scalar or have curvature's shape"),
        ({"multiplicative_noise": np.nan}, "multiplicative_noise must be >= 0 and finite, got nan"),
        ({"noise_df": 2}, "noise_df must be None for Gaussian noise, or a number > 2"),
        ({"noise_df": np.inf}, "noise_df must be None"),
        ({"noise_df": [3.0, 4.0]}, "noise_df must be None"),
        ({"noise_df": "5"}, "noise_df must be None"),
    ],
)
def test_refused_noise(numbers, message):
    with pytest.raises(ParameterError, match=message):
        NoisyQuadratic([1.0, 0.5], **numbers)
