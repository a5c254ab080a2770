"""Fits against batch size: exact on exact curves, right intervals on noisy ones, and the regime by its rule.

Coverage: of N data sets with known errors, the share whose 95 % interval holds the truth must not lie below 0.95 by
more than chance allows. Chance: under a new seed, a true coverage of 0.95 would be rejected with probability ALPHA.
(Above 0.95 there is no test of this kind: scatter larger than stated widens the interval, and never the opposite, so
true errors give 0.95 to 0.98. That intervals are not far too wide is held by their width.) The negative control hands
the same test intervals that are too narrow, or about another truth, and it must reject.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from selection import mostly_slow

from mcnqm import SGD, NoisyQuadratic, analytic
from mcnqm.errors import ParameterError
from mcnqm.fits import log_slope, small_batch_regime, tradeoff

ALPHA = 1e-6
DATA_SETS = 400
OCTAVES = 2.0 ** np.arange(17)

logs = st.floats(-6, 6).map(lambda x: 10.0**x)


def covered(held):
    """Whether this many intervals that hold the truth is consistent with a coverage of at least 0.95."""
    held = np.asarray(held)
    return stats.binom.cdf(np.count_nonzero(held), held.size, 0.95) > ALPHA


# -------------------- exact curves --------------------


@settings(deadline=None)
@given(st.floats(-2, 2), logs, st.floats(-0.5, 0.5), st.integers(3, 12))
def test_slope_of_an_exact_curve_is_exact(slope, factor, bend, points):
    batch = 2.0 ** np.arange(points)
    value = factor * batch**slope * np.exp(bend * batch / batch[-1])
    found = log_slope(batch, value, 0 * batch)
    assert abs(found.slope - slope) < 1e-6
    assert found.slope_low <= slope + 1e-9
    assert found.slope_high >= slope - 1e-9
    straight = log_slope(batch, factor * batch**slope, 0.01 * factor * batch**slope, first_order=False)
    assert abs(straight.slope - slope) < 1e-6
    x = np.log(batch)
    half = stats.norm.ppf(0.975) * 0.01 / np.sqrt(np.sum((x - x.mean()) ** 2))
    assert np.isclose(straight.slope_high - straight.slope, half, rtol=1e-6)


@settings(deadline=None, max_examples=50)
@given(logs, logs, st.integers(4, 12), st.floats(0, 0.1))
def test_tradeoff_of_an_exact_curve_is_exact(S_min, first, points, error):
    batch = first * 4.0 ** np.arange(points)
    B_crit = np.sqrt(batch[0] * batch[-1])
    steps = S_min * (1 + B_crit / batch)
    found = tradeoff(batch, steps, error * steps)
    assert np.allclose([found.S_min, found.E_min, found.B_crit], [S_min, S_min * B_crit, B_crit], rtol=1e-6)
    assert found.misfit < 1e-6
    # The curve is the hyperbola of the paper.
    assert np.allclose((steps / found.S_min - 1) * (batch * steps / found.E_min - 1), 1, rtol=1e-4)


def test_tradeoff_covariance_is_that_of_the_linear_fit():
    # For small errors, weighted least squares on the two columns 1 and 1/B, which is linear.
    steps, error = 50 + 6400 / OCTAVES, 1e-4
    found = tradeoff(OCTAVES, steps, error * steps)
    design = np.stack([np.ones(17), 1 / OCTAVES], axis=1) / (error * steps)[:, None]
    sigma = np.sqrt(np.diag(np.linalg.inv(design.T @ design))) / [50, 6400]
    wide = [np.log(found.S_min_high / found.S_min_low), np.log(found.E_min_high / found.E_min_low)]
    assert np.allclose(wide, 2 * stats.norm.ppf(0.975) * sigma, rtol=1e-5)


# -------------------- units, order and missing points do not matter --------------------


@settings(deadline=None, max_examples=50)
@given(logs, logs, st.integers(0, 2**32 - 1))
def test_scale_and_order_do_not_matter(a, b, seed):
    rng = np.random.default_rng(seed)
    batch = OCTAVES[:12]
    steps = (50 + 6400 / batch) * (1 + 0.03 * rng.normal(size=12))
    error = 0.02 * steps * rng.uniform(0.5, 2, 12)
    order = rng.permutation(12)
    one, two = tradeoff(batch, steps, error), tradeoff(a * batch[order], b * steps[order], b * error[order])
    for name, unit in (("S_min", b), ("E_min", a * b), ("B_crit", a)):
        for end in ("", "_low", "_high"):
            assert np.isclose(getattr(two, name + end), unit * getattr(one, name + end), rtol=1e-5)
    assert np.isclose(one.misfit, two.misfit, atol=1e-6)
    assert np.allclose(
        log_slope(batch, steps, error), log_slope(a * batch[order], b * steps[order], b * error[order]), atol=1e-6
    )
    regime = small_batch_regime(batch, steps, error)
    assert (small_batch_regime(a * batch[order], b * steps[order], b * error[order]) == regime[order]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_were_not_reached_are_left_out(bad):
    keep = ~np.isin(np.arange(17), [0, 9, 16])
    steps = 50 + 6400 / OCTAVES
    holed, error = np.where(keep, steps, bad), np.where(keep, 0.01 * steps, bad)
    kept = OCTAVES[keep], steps[keep], 0.01 * steps[keep]
    assert tradeoff(OCTAVES, holed, error) == tradeoff(*kept)
    assert log_slope(OCTAVES, holed, error) == log_slope(*kept)
    regime = small_batch_regime(OCTAVES, holed, error)
    assert not regime[~keep].any()
    assert (regime[keep] == small_batch_regime(*kept)).all()
    nothing = np.full(17, bad)
    assert np.isnan(tradeoff(OCTAVES, nothing, nothing)).all()
    assert np.isnan(log_slope(OCTAVES, nothing, nothing)).all()
    assert not small_batch_regime(OCTAVES, nothing, nothing).any()


def test_a_limit_out_of_reach_is_said_to_be_unknown():
    rng = np.random.default_rng(0)
    for steps, unknown, known in ((1e5 / OCTAVES, "S_min", "E_min"), (100 + 0 * OCTAVES, "E_min", "S_min")):
        for noise in (0.0, 0.02):
            found = tradeoff(OCTAVES, steps * (1 + noise * rng.normal(size=17)), 0.02 * steps)
            if noise == 0.0:
                assert np.isnan(getattr(found, unknown))
                assert np.isnan(found.B_crit)
            assert getattr(found, unknown + "_low") < 1e-2 * getattr(found, unknown + "_high")
            truth = steps[0] if known == "S_min" else 1e5
            assert getattr(found, known + "_low") < truth < getattr(found, known + "_high") * 1.02


def test_misfit_is_the_scatter_that_errors_do_not_explain():
    rng = np.random.default_rng(1)
    batch = 2.0 ** np.linspace(0, 16, 2000)
    steps = (50 + 6400 / batch) * np.exp(0.05 * rng.normal(size=2000))
    assert tradeoff(batch, steps, 0.03 * steps).misfit == pytest.approx(0.04, abs=0.004)
    assert tradeoff(batch, steps, 0 * steps).misfit == pytest.approx(0.05, abs=0.004)
    assert tradeoff(batch, steps, 0.06 * steps).misfit == 0.0


# -------------------- coverage --------------------


def slope_intervals(rng, points, stated=1.0, truth=1.0):
    batch = 2.0 ** np.arange(points)
    rate = 3e-3 * batch / (1 + 0.02 * batch / batch[-1])
    error = 0.015 * rate * np.geomspace(0.6, 1.6, points)
    ends = [log_slope(batch, rate + error * rng.normal(size=points), stated * error)[1:] for _ in range(DATA_SETS)]
    low, high = np.array(ends).T
    return (low <= truth) & (truth <= high)


@pytest.mark.parametrize("points", mostly_slow([3, 4, 6, 10], 4))
def test_slope_interval_holds_the_truth(points):
    assert covered(slope_intervals(np.random.default_rng(points), points))


@pytest.mark.slow
def test_slope_interval_holds_the_truth_when_errors_are_understated():
    assert covered(slope_intervals(np.random.default_rng(2), 10, stated=1 / 3))


def test_coverage_of_slopes_notices_what_is_wrong():
    # Without freedom, understated errors cannot be noticed; and 0.97 is not the slope.
    assert not covered(slope_intervals(np.random.default_rng(3), 3, stated=1 / 2))
    assert not covered(slope_intervals(np.random.default_rng(3), 10, truth=0.97))


def tradeoff_intervals(rng, batch, stated=1.0, bias=1.0):
    truth = {"S_min": 50.0, "E_min": 6400.0, "B_crit": 128.0}
    steps = truth["S_min"] + truth["E_min"] / batch
    error = 0.02 * steps * np.geomspace(0.6, 1.6, batch.size)
    held = {name: [] for name in truth}
    for _ in range(DATA_SETS):
        found = tradeoff(batch, steps + error * rng.normal(size=batch.size), stated * error)
        for name, value in truth.items():
            held[name].append(getattr(found, name + "_low") <= bias * value <= getattr(found, name + "_high"))
    return held


@pytest.mark.slow
@pytest.mark.parametrize("batch", [OCTAVES[:14], 4.0 ** np.arange(1, 6)], ids=["octaves", "five points"])
def test_tradeoff_intervals_hold_the_truth(batch):
    for name, held in tradeoff_intervals(np.random.default_rng(batch.size), batch).items():
        assert covered(held), f"{name}: {np.mean(held)}"


@pytest.mark.slow
def test_coverage_of_tradeoffs_notices_what_is_wrong():
    for name, held in tradeoff_intervals(np.random.default_rng(5), OCTAVES[:14], bias=1.03).items():
        assert not covered(held), f"{name}: {np.mean(held)}"


# -------------------- the regime --------------------


@pytest.fixture(scope="module")
def tuned():
    """Exact steps at rates tuned on a grid, d = 200: {momentum: (batch, steps, rate)}, as far as B = 2^10."""
    problem = NoisyQuadratic.power_law(dim=200)
    batch = OCTAVES[:11]
    curves = {}
    for momentum in (0.0, 0.9):
        steps, rates = [], []
        for b in batch:
            # The best rate in examples is constant within the regime and falls beyond it.
            lr = np.geomspace(0.2, 1.1, 171) * 5.62e-3 * (1 - momentum) * b
            found = analytic.steps_to_target(problem, SGD(lr=lr, momentum=momentum), b, target=0.01).steps.values
            best = np.flatnonzero(found == found.min())
            steps.append(found.min())
            rates.append(np.sqrt(lr[best[0]] * lr[best[-1]]))
        curves[momentum] = batch, np.array(steps), np.array(rates)
    return curves


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_regime_and_slope_on_exact_curves(tuned, momentum):
    batch, steps, rates = tuned[momentum]
    regime = small_batch_regime(batch, steps, 0 * steps)
    examples = batch * steps
    size = np.count_nonzero(regime)
    assert size >= 5
    assert regime[:size].all()
    assert np.ptp(np.log(examples[regime])) < 0.1
    assert abs(np.log(examples[size] / examples[0])) > 0.04
    # Theory says 1 (the grid is fine to 1 %); a straight line through SGD's bent rates does not.
    found = log_slope(batch, rates, 0.003 * rates, regime)
    assert found.slope_low < 1 < found.slope_high
    assert found.slope == pytest.approx(1, abs=0.01)
    if momentum == 0.0:
        assert log_slope(batch, rates, 0.003 * rates, regime, first_order=False).slope_high < 1


def test_momentum_that_saves_examples_does_not_scale_perfectly_either(tuned):
    batch, steps, _ = tuned[0.9]
    examples = batch * steps
    dip = int(examples.argmin())
    assert examples[dip] < 0.92 * examples[0]
    assert not small_batch_regime(batch, steps, 0 * steps)[dip:].any()


def test_regime_follows_its_rule():
    def regime(steps, error=0.0, tolerance=0.05):
        return small_batch_regime(OCTAVES, steps, error * steps, tolerance)

    # On the trade-off E / E_min - 1 = B / B_crit. With B_crit = 1000, 5 % is passed at 64 and 1 % at 16.
    steps = 1e5 / OCTAVES + 100
    assert np.count_nonzero(regime(steps)) == 6
    assert np.count_nonzero(regime(steps, tolerance=0.01)) == 4
    # Errors excuse what they can explain.
    assert np.count_nonzero(regime(steps, error=0.02)) == 7
    # Back inside after having been outside does not count; too early an end is no regime at all.
    bump = 1e5 / OCTAVES
    bump[5] *= 1.2
    assert (regime(bump) == (np.arange(17) < 5)).all()
    assert not regime(100 + 0 * OCTAVES).any()
    assert not regime(1e5 / OCTAVES**0.8).any()


@pytest.mark.parametrize("seed", range(20))
def test_noise_rarely_cuts_the_regime_short(seed):
    rng = np.random.default_rng(seed)
    steps = 1e5 / OCTAVES + 100
    noisy = steps * (1 + 0.02 * rng.normal(size=17))
    assert 4 <= np.count_nonzero(small_batch_regime(OCTAVES, noisy, 0.02 * steps)) <= 8


# -------------------- bad input --------------------


@pytest.mark.parametrize("function", [tradeoff, log_slope, small_batch_regime])
def test_bad_input_is_refused_by_name(function):
    name = "value" if function is log_slope else "steps"
    good = np.array([1.0, 2.0, 4.0]), np.array([4.0, 2.0, 1.0]), np.array([0.1, 0.1, 0.1])
    for position, value, message in (
        (0, [1.0, 0.0, 2.0], "batch_size must be > 0, got 0.0"),
        (0, [1.0, np.nan, 2.0], "batch_size must be > 0 and finite"),
        (0, [1.0, 2.0, 2.0], "batch_size must hold each value once"),
        (0, 4.0, "batch_size must be one-dimensional"),
        (1, [4.0, -2.0, 1.0], f"{name} must be > 0, got -2.0"),
        (1, [4.0, 2.0], f"{name} must have the shape of batch_size"),
        (1, ["a", "b", "c"], f"{name} must be a real number"),
        (2, [0.1, -0.1, 0.1], f"{name}_stderr must be >= 0, got -0.1"),
        (2, 0.1, f"{name}_stderr must have the shape"),
    ):
        arguments = list(good)
        arguments[position] = value
        with pytest.raises(ParameterError, match="^" + message.replace("(", r"\(")):
            function(*arguments)


def test_bad_options_are_refused():
    ones = np.ones(3)
    with pytest.raises(ParameterError, match="tolerance must be > 0"):
        small_batch_regime(OCTAVES[:3], ones, ones, tolerance=0.0)
    for mask in ([1, 0, 1], [True, False]):
        with pytest.raises(ParameterError, match="mask must be boolean"):
            log_slope(OCTAVES[:3], ones, ones, mask)


def test_two_points_are_too_few():
    ones = np.ones(3)
    assert np.isnan(log_slope(OCTAVES[:3], ones, ones, [True, True, False])).all()
    assert np.isnan(log_slope(OCTAVES[:2], ones[:2], ones[:2])).all()


def test_regime_allows_twice_the_error_of_a_point_and_of_the_reference():
    """To the edge: just inside belongs, just outside does not."""
    batch, error = 2.0 ** np.arange(4), np.array([0.01, 0.02, 0.03, 0.04])
    reference = np.sqrt(np.sum(error[:3] ** 2)) / 3
    allowed = np.log1p(0.05) + 2 * np.hypot(error[3], reference)
    for off, inside in ((0.999, True), (1.001, False), (-0.999, True), (-1.001, False)):
        steps = 1000 / batch
        steps[3] *= np.exp(off * allowed)
        assert small_batch_regime(batch, steps, error * steps)[3] == inside, off


def test_intervals_of_few_points_that_scatter_are_student_s():
    """Against SciPy's own regression, whose errors come from the scatter alone."""
    batch = 2.0 ** np.arange(5)
    value = np.exp(0.5 * np.log(batch) + np.array([0.3, -0.2, -0.3, 0.4, -0.2]))
    found = log_slope(batch, value, 1e-9 * value, first_order=False)
    line = stats.linregress(np.log(batch), np.log(value))
    half = stats.t.ppf(0.975, 3) * line.stderr
    assert found.slope == pytest.approx(line.slope, rel=1e-6)
    assert found.slope_high - found.slope == pytest.approx(half, rel=1e-5)
    assert found.slope - found.slope_low == pytest.approx(half, rel=1e-5)


def test_without_errors_the_residuals_say_how_large_they_are():
    """Ordinary least squares, by SciPy; as many points as parameters say nothing of an error."""
    rng = np.random.default_rng(4)
    batch = 2.0 ** np.arange(9)
    rate = 0.01 * batch**0.7 * np.exp(0.1 * rng.normal(size=9))
    found = log_slope(batch, rate, first_order=False)
    line = stats.linregress(np.log(batch), np.log(rate))
    half = stats.t.ppf(0.975, 7) * line.stderr
    np.testing.assert_allclose(found, [line.slope, line.slope - half, line.slope + half], rtol=1e-6)
    few = log_slope(batch[:3], rate[:3])
    assert np.isfinite(few.slope)
    assert (few.slope_low, few.slope_high) == (-np.inf, np.inf)
    steps = (50 + 6400 / batch) * np.exp(0.02 * rng.normal(size=9))
    guessed = tradeoff(batch, steps)
    assert guessed == tradeoff(batch, steps, np.zeros(9))
    assert guessed.E_min_low < 6400 < guessed.E_min_high
    assert guessed.misfit == pytest.approx(0.02, rel=0.6)
    exact = small_batch_regime(batch, 10 + 1000 / batch)
    np.testing.assert_array_equal(exact, small_batch_regime(batch, 10 + 1000 / batch, 0 * batch))
