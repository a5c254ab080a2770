"""Fixtures of the whole suite."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import settings

import mcnqm

sys.path.insert(0, str(Path(__file__).parent))  # for the references beside the tests
matplotlib.use("Agg")

# Examples that depend on the tests alone: what passes here passes everywhere.
settings.register_profile("mcnqm", derandomize=True, deadline=None)
# Fresh ones: pytest --hypothesis-profile=explore prints the blob that reproduces what it finds.
settings.register_profile("explore", derandomize=False, deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("mcnqm")


@pytest.fixture
def small_problem():
    """Seven coordinates in which nothing is equal to anything else."""
    rng = np.random.default_rng(7)
    return mcnqm.NoisyQuadratic(
        curvature=rng.uniform(0.05, 1.0, 7),
        noise=rng.uniform(0.1, 2.0, 7),
        initial_mean=rng.normal(size=7),
        initial_std=rng.uniform(0.1, 1.5, 7),
    )
