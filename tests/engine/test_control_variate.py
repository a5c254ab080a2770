"""Control variates: the cells of the twin's law, the estimator, and what `simulate` makes of them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

import mcnqm
from mcnqm import SGD, Adam, Lion, NoisyQuadratic, ParameterError, RMSProp
from mcnqm.engine import Job, Pool, has_twin, run_loss, twin_cells
from mcnqm.files import write_dataset
from mcnqm.progress import NoMeter
from mcnqm.settings import settings_of
from mcnqm.statistics import controlled, normal_strata

PROBLEM = NoisyQuadratic.power_law(dim=20)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(300)

# -------------------------------------------------------------------------------------------------------------- cells

means = st.floats(-30.0, 30.0)
stds = st.floats(0.01, 30.0)


@settings(deadline=None, max_examples=40)
@given(means, stds, st.integers(1, 8))
def test_cells_against_quadrature(m, s, cells):
    """Probability and second moment between the edges, integrated over both branches of the normal density."""
    edges, second, share = (row[0] for row in normal_strata(np.array([m]), np.array([s]), cells))
    bounds = np.array([max(0.0, abs(m) - 15.0 * s), *np.sqrt(edges), abs(m) + 15.0 * s])  # all but 1e-50 of it
    half = 0.5 * np.diff(bounds)[:, np.newaxis]
    x = bounds[:-1, np.newaxis] + half * (NODES + 1.0)
    mass = half * WEIGHTS * (stats.norm.pdf(x, m, s) + stats.norm.pdf(-x, m, s))
    np.testing.assert_allclose(share, mass.sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(share, 1 / cells, rtol=1e-9)
    np.testing.assert_allclose(second, (x**2 * mass).sum(axis=1) / mass.sum(axis=1), rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(means, stds, st.integers(1, 8))
def test_cells_make_up_the_whole(m, s, cells):
    edges, second, share = (row[0] for row in normal_strata(np.array([m]), np.array([s]), cells))
    assert (np.diff(edges) > 0).all()
    assert (np.diff(second) > 0).all()
    low, high = np.array([0.0, *edges]), np.array([*edges, np.inf])
    assert ((low <= second) & (second <= high)).all(), "the mean of a cell lies within it"
    assert share.sum() == pytest.approx(1.0, rel=1e-12)
    assert (share * second).sum() == pytest.approx(m * m + s * s, rel=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 2), (2, 3)])
def test_cells_are_truncated_normals(low, high):
    """Mean 0: by symmetry a cell is a normal truncated on one side of 0."""
    edges, second, share = (row[0] for row in normal_strata(np.zeros(1), np.full(1, 2.5), 3))
    bounds = np.sqrt([0.0, *edges, np.inf])
    law = stats.truncnorm(bounds[low] / 2.5, bounds[high] / 2.5, scale=2.5)
    assert second[low] == pytest.approx(law.var() + law.mean() ** 2, rel=1e-9)
    assert share[low] == pytest.approx(1 / 3, rel=1e-12)


def test_cells_against_adaptive_quadrature():
    m, s = 0.7, 1.3
    edges, second, share = (row[0] for row in normal_strata(np.array([m]), np.array([s]), 4))
    law = stats.foldnorm(m / s, scale=s)
    bounds = [0.0, *np.sqrt(edges), m + 12 * s]
    for k, (a, b) in enumerate(itertools.pairwise(bounds)):
        whole = integrate.quad(lambda x: x * x * law.pdf(x), a, b, epsabs=1e-13)[0]
        assert second[k] * share[k] == pytest.approx(whole, rel=1e-9)


def test_cells_of_a_certain_start():
    edges, second, share = normal_strata(np.array([-1.5, 0.0]), np.zeros(2), 3)
    assert np.isinf(edges).all(), "nothing is ever above the first cell"
    assert np.array_equal(second, [[2.25] * 3, [0.0] * 3])
    assert np.array_equal(share, [[1.0, 0.0, 0.0]] * 2)


def test_cells_of_many_laws_keep_their_order():
    mean, std = np.array([1.0, 0.0, 1.0, -1.0, 2.0]), np.array([0.5, 1.0, 0.5, 0.5, 0.0])
    together = normal_strata(mean, std, 4)
    for k in range(5):
        alone = normal_strata(mean[k : k + 1], std[k : k + 1], 4)
        assert all(np.array_equal(a[k], b[0]) for a, b in zip(together, alone, strict=True))
    assert all(np.allclose(part[0], part[3], rtol=1e-12) for part in together), "only the size of x counts"


def test_number_of_cells():
    assert [twin_cells(n) for n in (1, 7, 8, 15, 16, 63, 64, 10**6)] == [1, 1, 1, 1, 2, 7, 8, 8]


# ---------------------------------------------------------------------------------------------------------- estimator


def products_of(x_parts, y_parts, expected):
    """What `controlled` wants to know of pairs that are sums of parts along the last axis."""
    off = y_parts - expected
    return ((x_parts - expected) * off).sum(-1), (off**2).sum(-1)


def all_outcomes(n):
    """Every outcome of n independent pairs of two parts, its probability, and the means.

    The sample is a curved function of the control plus something else: where a coefficient that knows its own pair is
    most biased. Three places for each part; every pair has a scale of its own, so that no two are ever equal.
    """
    law = np.array([(-1.0, 0.5), (0.5, 0.3), (1.75, 0.2)])  # of mean 0
    draws = np.array(list(itertools.product(range(3), repeat=2 * n))).reshape(-1, n, 2)
    chance = law[draws, 1].prod(axis=(1, 2))
    y = 1.2 + law[draws, 0] * 1.1 ** np.arange(n)[:, np.newaxis]
    x = 2.5 + y + y**2 + np.array([0.4, -0.3, 0.1])[draws]
    return x, y, chance, float(chance @ x.sum(-1).mean(axis=1)), 1.2


def estimate(x, y, expected):
    products = products_of(x, y, expected)
    return controlled(x.sum(-1), y.sum(-1), np.full(x.shape[:-2], x.shape[-1] * expected), products).mean(-1)


def knows_itself(x, y, expected):
    """What `controlled` is not: the same coefficient for all, from all pairs."""
    xy, yy = products_of(x, y, expected)
    b = xy.sum(-1) / yy.sum(-1)
    return (x.sum(-1) - b[:, np.newaxis] * (y.sum(-1) - 2 * expected)).mean(-1)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_mean_is_unbiased(n):
    """Exactly: over all outcomes of n pairs. And with one coefficient from all pairs it is not, by the same sum."""
    x, y, chance, truth, expected = all_outcomes(n)
    assert chance.sum() == pytest.approx(1.0, rel=1e-12)
    assert chance @ estimate(x, y, expected) == pytest.approx(truth, rel=1e-12)
    assert abs(chance @ knows_itself(x, y, expected) - truth) > 1e-3 * truth
    wrong = controlled(x.sum(-1), y.sum(-1), np.full(chance.size, 2 * expected + 0.02), products_of(x, y, expected))
    assert abs(chance @ wrong.mean(-1) - truth) > 1e-3 * truth, "a wrong expected value"


def heavy_tailed(rng, samples, pairs, parts=16):
    """Losses of a few trajectories: sums of squares, the twin's nearly the same, a few parts far out."""
    y = rng.normal(size=(samples, pairs, parts)) ** 2 * rng.lognormal(sigma=1.0, size=(samples, pairs, parts))
    return y * (1.0 + 0.1 * rng.normal(size=y.shape)), y, np.exp(0.5)


def leave_one_out_regression(x, y, expected):
    """The textbook's slope over the other pairs themselves, of which there are few."""
    n = x.shape[-1]
    found = np.empty_like(x)
    for r in range(n):
        others = np.arange(n) != r
        dx, dy = (a[:, others] - a[:, others].mean(1, keepdims=True) for a in (x, y))
        found[:, r] = x[:, r] - (dx * dy).sum(1) / (dy * dy).sum(1) * (y[:, r] - expected)
    return found.mean(1)


def test_few_pairs_are_enough():
    """Four pairs: hardly an estimate far off, none at or below 0. By a regression over the pairs there are more."""
    x, y, expected = heavy_tailed(np.random.default_rng(3), 20_000, 4)
    truth = 16 * expected
    found = estimate(x, y, expected)
    assert found.min() > 0.3 * truth
    assert (np.abs(found / truth - 1) > 0.5).sum() < 20
    assert found.std() < 0.2 * x.sum(-1).mean(-1).std()
    naive = leave_one_out_regression(x.sum(-1), y.sum(-1), truth)
    assert (np.abs(naive / truth - 1) > 0.5).sum() > 30
    assert (naive <= 0).any()


def test_a_useless_control_costs_little():
    """An independent control of 16 parts: variance at most 5 % above the plain mean's (standard error 1.0 %)."""
    rng = np.random.default_rng(4)
    x, y = rng.exponential(size=(2, 20_000, 8, 16))
    assert estimate(x, y, 1.0).var() < 1.05 * x.sum(-1).mean(-1).var()


def test_a_correction_that_goes_too_far_is_refused():
    """The others say that sample and control go together; this one control is far out, its sample is not."""
    x = np.full((4, 1), 1.0) + np.arange(4)[:, np.newaxis] * 0.1
    y = x.copy()
    y[0] = 50.0
    products = products_of(x, y, 1.0)
    raw = x[:, 0] - np.clip((products[0].sum() - products[0]) / (products[1].sum() - products[1]), 0, 4) * (
        y[:, 0] - 1.0
    )
    assert raw.mean() < 0.1 * x.mean(), "without the bound"
    assert np.array_equal(controlled(x[:, 0], y[:, 0], np.asarray(1.0), products), x[:, 0])


samples = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).exponential(size=(2, 7, 5)))
scales = st.floats(0.01, 100.0)


@settings(max_examples=50)
@given(samples, scales)
def test_units_do_not_matter(pair, unit):
    x, y = pair[0] + pair[1], pair[1]
    np.testing.assert_allclose(estimate(unit * x, unit * y, unit), unit * estimate(x, y, 1.0), rtol=1e-9)


@settings(max_examples=50)
@given(samples)
def test_estimates_are_positive(pair):
    assert estimate(pair[0], 3 * pair[1], 3.0) > 0
    assert estimate(pair[0] + 5 * pair[1], pair[1], 1.0) > 0


def test_order_of_the_samples_does_not_matter():
    rng = np.random.default_rng(8)
    x, y = rng.exponential(size=(2, 9, 4))
    x = x + y
    order = rng.permutation(9)
    plain = controlled(x.sum(-1), y.sum(-1), np.asarray(4.0), products_of(x, y, 1.0))
    x, y = x[order], y[order]
    moved = controlled(x.sum(-1), y.sum(-1), np.asarray(4.0), products_of(x, y, 1.0))
    np.testing.assert_allclose(moved, plain[order], rtol=1e-12)


def test_no_sample_knows_its_own_coefficient():
    """Moving one control moves its own sample in proportion: its coefficient comes from the others."""
    rng = np.random.default_rng(9)
    x, y = rng.exponential(size=(2, 8, 4))
    x = 5 + x + y

    def first(shift):
        moved = y.copy()
        moved[0, 0] += shift
        return controlled(x.sum(-1), moved.sum(-1), np.asarray(4.0), products_of(x, moved, 1.0))[0]

    assert first(2.0) - first(0.0) == pytest.approx(2.0 * (first(1.0) - first(0.0)), rel=1e-9)
    assert abs(first(1.0) - first(0.0)) > 0.1


def test_a_single_pair_passes_through():
    x = np.ones((5, 1))
    assert np.array_equal(controlled(x, 2 * x, np.zeros(5), (x, x)), x)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("where", ["sample", "control", "expected"])
def test_what_is_not_finite_passes_through(bad, where):
    """The samples of that entry as they are, and nothing of its neighbors."""
    rng = np.random.default_rng(6)
    parts_x, parts_y = rng.exponential(size=(2, 3, 8, 4))
    products = products_of(parts_x, parts_y, 1.0)
    x, y, target = parts_x.sum(-1), parts_y.sum(-1), np.full(3, 4.0)
    good = controlled(x, y, target, products)
    {"sample": x, "control": y, "expected": target}[where][1, ...] = bad
    found = controlled(x, y, target, products)
    assert np.array_equal(found[1], x[1], equal_nan=True)
    assert np.array_equal(found[[0, 2]], good[[0, 2]])


def test_constant_samples_and_controls():
    rng = np.random.default_rng(2)
    y = rng.exponential(size=(8, 4))
    same = np.ones((8, 4))
    np.testing.assert_allclose(estimate(same, y, 1.0), 4.0, rtol=0.5)  # (x - e) = 0: nothing is explained
    assert np.array_equal(controlled(y.sum(-1), 4 * same[:, 0], np.asarray(4.0), products_of(y, same, 1.0)), y.sum(-1))
    np.testing.assert_allclose(estimate(y, y, 1.0), 4.0, rtol=1e-12)


def test_along_any_axis():
    rng = np.random.default_rng(2)
    x, y = rng.exponential(size=(2, 2, 6, 3, 4))
    products = products_of(x, y, 1.0)
    found = controlled(x.sum(-1), y.sum(-1), np.full((2, 3), 4.0), products, axis=1)
    for i, j in itertools.product(range(2), range(3)):
        alone = controlled(x.sum(-1)[i, :, j], y.sum(-1)[i, :, j], np.asarray(4.0), tuple(p[i, :, j] for p in products))
        np.testing.assert_allclose(found[i, :, j], alone, rtol=1e-12)


def test_products_are_those_of_the_blocks():
    """The engine's sums over its blocks of coordinates: eight coordinates a block here, three blocks."""
    job = Job(PROBLEM, Adam(lr=1e-2), settings_of(Adam(lr=1e-2), 4), np.arange(6, dtype=np.uint32), 0, cells=1)
    record = np.array([0, 7, 40])
    losses = run_loss(job, record, Pool(), NoMeter())
    xy, yy = np.zeros((2, 6, 3))
    for block in (range(8), range(8, 16), range(16, 20)):
        alone = NoisyQuadratic(
            PROBLEM.curvature[list(block)], PROBLEM.noise[list(block)], initial_std=PROBLEM.initial_std[list(block)]
        )
        # On its own a block has coordinates 0, 1, ...: noise of its own. What is checked is the algebra of the sum.
        part = run_loss(replace(job, problem=alone), record, Pool(), NoMeter())
        assert part.cross is not None
        off = part.twin[0] - part.expected[0]
        np.testing.assert_allclose(part.square[0], off**2, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(part.cross[0], (part.loss[0] - part.expected[0]) * off, rtol=1e-9, atol=1e-15)
        if block[0] == 0:
            xy += part.cross[0]
            yy += part.square[0]
    assert (losses.square[0] >= yy - 1e-12).all(), "the first block's, and those of the others"
    assert not np.allclose(losses.square[0], (losses.twin[0] - losses.expected[0]) ** 2), "not one block"


# ----------------------------------------------------------------------------------------------------------- simulate


def call(**changes):
    arguments = {"problem": PROBLEM, "optimizer": Adam(lr=1e-2), "batch_size": 4, "steps": 40, "trajectories": 16}
    return mcnqm.simulate(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": SGD(lr=0.1), "control_variate": True}, "has no twin"),
        ({"optimizer": SGD(lr=0.1, momentum=0.9), "control_variate": True}, "has no twin"),
        ({"optimizer": Lion(lr=0.1), "control_variate": True}, "has no twin"),
        ({"minibatch": "per_example", "control_variate": True}, "per_example"),
        ({"control_variate": "yes"}, "be True, False or None"),
        ({"control_variate": 1}, "be True, False or None"),
        ({"control_variate": 0.0}, "be True, False or None"),
        ({"optimizer": SGD(lr=0.1), "control_variate": 1}, "be True, False or None"),
    ],
)
def test_bad_control_variate(changes, message):
    with pytest.raises(ParameterError, match=message) as caught:
        call(**changes)
    assert caught.value.name == "control_variate"


def test_who_has_a_twin():
    twins = [has_twin(one) for one in (Adam(lr=1.0), RMSProp(lr=1.0), SGD(lr=1.0), Lion(lr=1.0))]
    assert twins == [True, True, False, False]


@pytest.mark.parametrize(
    ("changes", "on"),
    [
        ({}, True),
        ({"optimizer": RMSProp(lr=1e-2)}, True),
        ({"trajectories": 8}, True),
        ({"trajectories": 7}, False),
        ({"trajectories": 7, "control_variate": True}, True),
        ({"control_variate": False}, False),
        ({"control_variate": np.True_, "trajectories": 4}, True),
        ({"minibatch": "per_example"}, False),
        ({"optimizer": SGD(lr=0.1)}, False),
        ({"optimizer": Lion(lr=0.1)}, False),
        ({"optimizer": SGD(lr=0.1), "control_variate": False}, False),
    ],
)
def test_when_twins_run(changes, on):
    runs = call(**changes)
    assert ("variance_reduction" in runs) == on
    assert json.loads(runs.attrs["config"])["control_variate"] is on


def test_what_it_answers():
    sweep = {"optimizer": Adam(lr=[1e-3, 1e-2]), "batch_size": [1, 64], "coordinates": [0, 3]}
    runs, plain = call(**sweep), call(**sweep, control_variate=False)
    assert set(runs) == {*plain, "variance_reduction"}
    for name in ("loss", "diverged", "theta"):
        assert runs[name].identical(plain[name]), "a twin changes no trajectory"
    assert runs.variance_reduction.dims == runs.risk.dims == ("lr", "batch_size", "step")
    later = {"step": slice(1, None)}
    np.testing.assert_allclose(
        runs.variance_reduction.isel(later), ((plain.risk_stderr / runs.risk_stderr) ** 2).isel(later), rtol=1e-9
    )
    np.testing.assert_allclose(plain.risk, plain.loss.mean("trajectory"), rtol=1e-13)
    assert (runs.variance_reduction.isel(step=0) == np.inf).all(), "at the start the twin is the trajectory"
    np.testing.assert_allclose(runs.risk.isel(step=0), PROBLEM.initial_risk, rtol=1e-12)
    assert (runs.variance_reduction.sel(batch_size=1, lr=1e-3) > 100).all()


def test_it_is_the_estimator_of_all_others():
    """`risk` is the mean of `controlled` losses: with 2 trajectories too, and not with 1."""
    for trajectories in (2, 7):
        runs = call(trajectories=trajectories, control_variate=True)
        assert not np.allclose(runs.risk, runs.loss.mean("trajectory"), rtol=1e-6)
    one = call(trajectories=1, control_variate=True)
    assert np.isfinite(one.risk).all()
    assert np.isnan(one.risk_stderr).all()


def test_diverged_lanes_stay_infinite():
    runs = call(optimizer=Adam(lr=[1e-2, 1e200]), record=[0, 10, 40])
    assert runs.diverged.sel(lr=1e200).all()
    assert np.isinf(runs.risk.sel(lr=1e200)[1:]).all()
    assert np.isinf(runs.risk_stderr.sel(lr=1e200)[1:]).all()
    assert np.isfinite(runs.risk.sel(lr=1e-2)).all()
    alone = call(record=[0, 10, 40])
    assert np.array_equal(runs.risk.sel(lr=1e-2), alone.risk)


def test_no_steps():
    runs = call(steps=0)
    assert float(runs.risk[0]) == pytest.approx(PROBLEM.initial_risk, rel=1e-12)


def test_bits_do_not_depend_on_threads_or_neighbours():
    sweep = call(optimizer=Adam(lr=[1e-3, 1e-2, 1e-1]), batch_size=[1, 4], threads=1)
    assert call(optimizer=Adam(lr=[1e-3, 1e-2, 1e-1]), batch_size=[1, 4], threads=2).identical(sweep)
    alone = call()
    for name in ("risk", "risk_stderr", "variance_reduction"):
        assert np.array_equal(alone[name], sweep[name].sel(lr=1e-2, batch_size=4))


def test_saved_and_read_back(tmp_path):
    runs = call(optimizer=Adam(lr=[1e-3, 1e-2]))
    write_dataset(runs, tmp_path / "runs.nc")
    with xr.open_dataset(tmp_path / "runs.nc") as back:
        xr.testing.assert_identical(back.load(), runs)
