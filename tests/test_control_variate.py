"""Control variates: the cells of the twin's law, the estimator, and what `simulate` makes of them."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

import mcnqm
from mcnqm import SGD, Adam, Lion, NoisyQuadratic, ParameterError, RMSProp
from mcnqm.engine import has_twin, twin_cells
from mcnqm.files import write_dataset
from mcnqm.statistics import controlled, mean_and_stderr, normal_strata

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


def all_outcomes(n):
    """Every outcome of n independent pairs, its probability, and the means: three places for each pair.

    Every pair has a scale of its own, so that no two are ever equal, and the same mean control. The sample is a curved
    function of the control plus something else: where a coefficient from all pairs would be most biased.
    """
    law = np.array([(-1.0, 0.5), (0.5, 0.3), (1.75, 0.2)])  # of mean 0
    draws = np.array(list(itertools.product(range(3), repeat=n)))
    chance = law[draws, 1].prod(axis=1)
    y = 0.2 + law[draws, 0] * 1.1 ** np.arange(n)
    x = 5.0 + y + y**2 + np.array([0.4, -0.3, 0.1])[draws]
    return x, y, chance, float(chance @ x.mean(axis=1)), 0.2


def one_coefficient(x, y, expected):
    """What `controlled` is not: the textbook's coefficient from all draws."""
    dx, dy = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    yy = (dy * dy).sum(-1, keepdims=True)
    slope = np.divide((dx * dy).sum(-1, keepdims=True), yy, out=np.zeros_like(yy), where=yy > 1e-12)
    return x - slope * (y - expected[:, np.newaxis])


@pytest.mark.parametrize("n", [4, 5, 7])
def test_the_mean_is_unbiased(n):
    """Exactly: over all outcomes of n pairs. And with one coefficient from all pairs it is not, by the same sum."""
    x, y, chance, truth, expected = all_outcomes(n)
    target = np.full(chance.size, expected)
    assert chance.sum() == pytest.approx(1.0, rel=1e-12)
    assert chance @ controlled(x, y, target).mean(axis=1) == pytest.approx(truth, rel=1e-12)
    assert abs(chance @ one_coefficient(x, y, target).mean(axis=1) - truth) > 1e-3 * truth
    assert abs(chance @ controlled(x, y, target + 0.01).mean(axis=1) - truth) > 1e-3 * truth, "a wrong expected value"


def test_an_outlier_among_equals():
    """Left to themselves, the others say nothing about the slope: the coefficient of the outlier is 0."""
    x, y = np.array([0.0, 9.0, 0.0, 0.0, 0.0]), np.array([-1.0, 2.0, -1.0, -1.0, -1.0])
    np.testing.assert_allclose(controlled(x, y, np.asarray(0.2)), [3.6, 9.0, 3.6, 3.6, 3.6], rtol=1e-9)


def test_it_does_something():
    """Over the same outcomes the variance falls where the control explains much."""
    rng = np.random.default_rng(3)
    y = rng.normal(size=(2000, 16))
    x = y + 0.1 * rng.normal(size=y.shape)
    assert controlled(x, y, np.zeros(2000)).mean(axis=1).var() < 0.02 * x.mean(axis=1).var()


def test_a_useless_control_costs_little():
    """F-shrunk coefficients: 20000 samples of 16, variance at most 10 % above the plain mean's (standard error 1.4 %,
    of a ratio of correlated estimates less). Unshrunk, it is 1 / 13 and more above."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 20_000, 16))
    plain = x.mean(axis=1).var()
    assert controlled(x, y, np.zeros(20_000)).mean(axis=1).var() < 1.06 * plain
    assert one_coefficient(x, y, np.zeros(20_000)).mean(axis=1).var() > 1.06 * plain


samples = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=(2, 7)))
shifts = st.floats(-100.0, 100.0)
scales = st.floats(0.01, 100.0)


@settings(max_examples=50)
@given(samples, shifts, shifts, scales, st.sampled_from([-1.0, 1.0]), scales)
def test_units_and_origins_do_not_matter(pair, up, along, scale, sign, unit):
    """Of the control, none; of the sample, they carry over."""
    x, y = pair[0] + pair[1], pair[1]
    plain = controlled(x, y, np.asarray(0.1))
    size = 1.0 + abs(up) + abs(along)
    np.testing.assert_allclose(controlled(x + up, y, np.asarray(0.1)), plain + up, atol=1e-9 * size)
    moved = controlled(x, sign * scale * (y + along), np.asarray(sign * scale * (0.1 + along)))
    np.testing.assert_allclose(moved, plain, atol=1e-9 * size)
    np.testing.assert_allclose(controlled(unit * x, y, np.asarray(0.1)), unit * plain, rtol=1e-9, atol=1e-9 * unit)


def test_order_of_the_samples_does_not_matter():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(2, 9))
    x = x + y
    order = rng.permutation(9)
    moved = controlled(x[order], y[order], np.asarray(0.0))
    np.testing.assert_allclose(moved, controlled(x, y, np.asarray(0.0))[order], rtol=1e-12)


def test_no_sample_knows_its_own_coefficient():
    """Moving one control moves its own sample in proportion: its coefficient comes from the others."""
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(2, 8))
    x = x + y

    def first(shift):
        moved = y.copy()
        moved[0] += shift
        return controlled(x, moved, np.asarray(0.0))[0]

    assert first(2.0) - first(0.0) == pytest.approx(2.0 * (first(1.0) - first(0.0)), rel=1e-9)
    assert abs(first(1.0) - first(0.0)) > 0.1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_pairs_pass_through(n):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(5, n))
    assert np.array_equal(controlled(x, x, np.zeros(5)), x)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("where", ["sample", "control", "expected"])
def test_what_is_not_finite_passes_through(bad, where):
    """The samples of that entry as they are, and nothing of its neighbours."""
    rng = np.random.default_rng(6)
    x, y, target = rng.normal(size=(3, 8)), rng.normal(size=(3, 8)), np.zeros(3)
    x += y
    good = controlled(x, y, target)
    {"sample": x, "control": y, "expected": target}[where][1, ...] = bad
    if where != "expected":
        {"sample": x, "control": y}[where][1, 1:] = 1.0
    found = controlled(x, y, target)
    assert np.array_equal(found[1], x[1], equal_nan=True)
    assert np.array_equal(found[[0, 2]], good[[0, 2]])


def test_constant_samples_and_controls():
    rng = np.random.default_rng(2)
    y = rng.normal(size=8)
    np.testing.assert_allclose(controlled(np.full(8, 3.0), y, np.asarray(0.0)), 3.0, rtol=1e-12)
    assert np.array_equal(controlled(y, np.full(8, 3.0), np.asarray(3.0)), y)
    np.testing.assert_allclose(controlled(y, y, np.asarray(0.25)), 0.25, atol=1e-12)


def test_along_any_axis():
    rng = np.random.default_rng(2)
    x, y, target = rng.normal(size=(2, 6, 3)), rng.normal(size=(2, 6, 3)), rng.normal(size=(2, 3))
    found = controlled(x, y, target, axis=1)
    for i, j in itertools.product(range(2), range(3)):
        np.testing.assert_allclose(found[i, :, j], controlled(x[i, :, j], y[i, :, j], target[i, j]), rtol=1e-12)


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
    """`risk` is the mean of `controlled` losses: with 7 trajectories too, and not with 3."""
    for trajectories in (4, 7):
        runs = call(trajectories=trajectories, control_variate=True)
        assert not np.allclose(runs.risk, runs.loss.mean("trajectory"), rtol=1e-6)
    few = call(trajectories=3, control_variate=True)
    np.testing.assert_allclose(few.risk, few.loss.mean("trajectory"), rtol=1e-13)
    np.testing.assert_allclose(few.risk_stderr, mean_and_stderr(few.loss.values, axis=0)[1], rtol=1e-12)
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
