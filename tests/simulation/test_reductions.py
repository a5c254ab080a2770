"""Very many trajectories, reduced as they come."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm import SGD, ParameterError, memory
from mcnqm.engine import passages
from mcnqm.reductions import LEVELS, RESOLUTION, Moments, QuantileSketch
from mcnqm.statistics import effective_number, mean_and_stderr, mean_interval

RECORD = [0, 3, 77, 250]
EDGES = [0.0, 0.1, 0.5, 1.0, 2.0, np.inf]
BOTH = {"quantiles": [0.0, 0.001, 0.5, 0.9, 0.99, 1.0], "histogram": EDGES}


@pytest.fixture
def small_portions(monkeypatch):
    """2000 trajectories in 32 groups."""
    monkeypatch.setattr(passages, "_PORTION", 1000)


def test_what_is_left_is_what_all_of_it_would_give(small_problem, small_portions):
    optimizer, options = SGD(lr=[0.1, 0.5], momentum=0.5), {"trajectories": 2000, "seed": 3, "record": RECORD}
    whole = mcnqm.simulate(small_problem, optimizer, 2, 250, target=0.2, **options)
    runs = mcnqm.simulate(small_problem, optimizer, 2, 250, target=0.2, reduce=BOTH, **options)
    assert "loss" not in runs
    assert runs.loss_quantile.dims == ("lr", "quantile", "step")
    exact = whole.loss.quantile(BOTH["quantiles"], "trajectory").transpose("lr", "quantile", "step")
    assert abs(runs.loss_quantile.values / exact.values - 1.0).max() <= RESOLUTION
    for i in range(2):
        for k in range(len(RECORD)):
            counts, _ = np.histogram(whole.loss[i, :, k], EDGES)
            np.testing.assert_array_equal(runs.loss_histogram[i, :, k], counts)
    assert runs.bin_high.values.tolist() == EDGES[1:]
    for name in ("risk", "risk_stderr", "risk_interval"):
        np.testing.assert_allclose(runs[name], whole[name], rtol=1e-11)
    np.testing.assert_array_equal(runs.first_passage, whole.first_passage)
    assert (runs.diverged_count == 0).all()
    np.testing.assert_array_equal(runs.flags, whole.flags)


def test_any_executor_gives_the_same_bits(small_problem, small_portions):
    options = {"trajectories": 300, "reduce": "quantiles", "average": 0.9}
    ours = mcnqm.simulate(small_problem, SGD(lr=0.3), 2, 100, threads=1, **options)
    with ThreadPoolExecutor(3) as executor:
        theirs = mcnqm.simulate(small_problem, SGD(lr=0.3), 2, 100, executor=executor, **options)
    assert ours.identical(theirs)
    assert ours["quantile"].values.tolist() == list(LEVELS)
    assert "trajectory" not in ours.dims


def test_what_has_diverged_counts_as_infinite(small_problem):
    runs = mcnqm.simulate(small_problem, SGD(lr=[0.1, 50.0]), 2, 200, trajectories=100, reduce=BOTH)
    lost = runs.sel(lr=50.0).isel(step=-1)
    assert int(lost.diverged_count) == 100
    assert np.isinf(lost.risk)
    assert np.isinf(lost.loss_quantile).all()
    assert np.isfinite(runs.sel(lr=0.1).loss_quantile).all()
    assert int(lost.loss_histogram[-1]) == 100
    assert np.isfinite(runs.sel(lr=50.0).isel(step=0).loss_quantile).all()


def test_quantiles_of_anything(small_problem):
    """Numbers of either sign over hundreds of decades, zeros and infinities."""
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(-300, 300, (2, 999, 3))) * rng.choice([-1.0, 1.0, 1.0, 0.0], (2, 999, 3))
    x[0, :40, 1] = np.inf
    sketch = QuantileSketch()
    for part in np.array_split(x, 5, axis=1):
        sketch.add(part)
    levels = np.array([0.0, 0.1, 0.25, 0.5, 0.77, 1.0])
    found = sketch.quantiles(levels)
    exact = np.moveaxis(np.quantile(x, levels, axis=1, method="lower"), 0, 1)
    places = levels * 998
    whole = places == np.floor(places)
    finite = np.isfinite(exact)
    size = np.where(finite, np.abs(exact), 1.0)
    error = np.abs(np.where(finite, found - np.where(finite, exact, 0.0), 0.0)) / np.maximum(size, 1e-300)
    assert error[:, whole].max() <= RESOLUTION
    np.testing.assert_array_equal(np.isinf(found[:, whole]), ~finite[:, whole])


def test_moments_of_portions_are_those_of_all():
    x = np.random.default_rng(1).gamma(0.3, size=(2, 500, 3)) + 10.0
    x[1, 7, 2] = np.inf
    moments = Moments()
    for cut in (slice(0, 1), slice(1, 2), slice(2, 350), slice(350, 500)):
        moments.add(x[:, cut])
    for found, exact in zip(moments.mean_and_stderr(), mean_and_stderr(x, axis=1), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-12)
    for found, exact in zip(moments.interval(), mean_interval(x, axis=1), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-11)
    assert moments.infinite.tolist() == [[0, 0, 0], [0, 0, 1]]
    off = x[0] - x[0].mean(axis=0)
    np.testing.assert_allclose(
        moments.effective_number()[0], (off**2).sum(axis=0) ** 2 / (off**4).sum(axis=0), rtol=1e-11
    )
    # From the median instead of the mean the number hardly differs where it matters: one that stands out.
    x[0, 3, 0] = 1e6
    alone = Moments()
    alone.add(x)
    np.testing.assert_allclose(alone.effective_number()[0, 0], effective_number(x, axis=1)[0, 0], rtol=0.02)


def test_memory_does_not_grow_with_the_trajectories(monkeypatch):
    """100 000 trajectories of 50 records: 40 MB of losses, of which 2 are there at a time."""
    problem = mcnqm.NoisyQuadratic([1.0])
    monkeypatch.setattr(memory, "available", lambda: 5e7)
    monkeypatch.setattr(memory, "_SPARE", 2**24)
    monkeypatch.setattr(passages, "_PORTION", 2**18)
    options = {"trajectories": 100_000, "record": range(151, 201)}
    with pytest.raises(ParameterError, match="trajectories must be lowered"):
        mcnqm.simulate(problem, SGD(lr=0.1), 4, 200, **options)
    mcnqm.simulate(problem, SGD(lr=0.1), 4, 200, trajectories=2, reduce="quantiles")  # compiled, imported
    tracemalloc.start()
    runs = mcnqm.simulate(problem, SGD(lr=0.1), 4, 200, reduce="quantiles", **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e7
    # θ is normal with a known variance, so that the median of the loss is.
    variance = 0.81**200 + 0.01 / 4 * (1 - 0.81**200) / (1 - 0.81)
    median = float(runs.loss_quantile.sel(quantile=0.5)[-1])
    assert median == pytest.approx(0.5 * variance * 0.4549364, rel=0.02)


@pytest.mark.parametrize(
    "reduce",
    [
        *("mean", "histogram", True, 3, {}, ["quantiles"], {"quantiles": []}, {"quantiles": "all"}),
        *({"quantiles": [0.5, 0.5]}, {"quantiles": [-0.1]}, {"quantiles": [0.1, 1.1]}, {"quantiles": [np.nan]}),
        *({"histogram": [1.0]}, {"histogram": [1.0, 0.5]}, {"histogram": [[0, 1]]}, {"bins": [0, 1]}),
        {"quantiles": [0.5], "median": None},
    ],
)
def test_reductions_that_are_none(small_problem, reduce):
    with pytest.raises(ParameterError, match="reduce must"):
        mcnqm.simulate(small_problem, SGD(lr=0.1), 4, 5, reduce=reduce)


def test_names_that_a_result_needs(small_problem):
    for dim, options in (("target", {"target": [0.1, 0.2]}), ("quantile", {"reduce": "quantiles"})):
        lr = xr.DataArray([0.1, 0.2], dims=dim)
        with pytest.raises(ParameterError, match=f"leave the name {dim} to"):
            mcnqm.simulate(small_problem, SGD(lr=lr), 4, 5, **options)
        assert mcnqm.simulate(small_problem, SGD(lr=lr), 4, 5, trajectories=2).sizes[dim] == 2


def test_a_control_variate_needs_the_losses(small_problem):
    with pytest.raises(ParameterError, match="control_variate must be False with reduce"):
        mcnqm.simulate(small_problem, mcnqm.Adam(lr=0.1), 4, 5, reduce="quantiles", control_variate=True)
    runs = mcnqm.simulate(small_problem, mcnqm.Adam(lr=0.1), 4, 5, reduce="quantiles")
    assert "variance_reduction" not in runs
