"""Chains against closed forms, brute force, finer grids and the SDE's limit."""

from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcnqm
from mcnqm import SGD, DoubleWell, NoisyQuadratic, ParameterError, QuarticWell
from mcnqm.analytic import chain
from mcnqm.analytic.chains.coordinates import Coordinate
from mcnqm.analytic.chains.limits import sde_escape
from mcnqm.analytic.chains.nodes import chain_on, window_of

WELLS = DoubleWell(noise=120.0)


def brute_force(problem, lr, batch_size, steps, count, seed=0):
    """Positions after every step, shape (steps + 1, count), of the first coordinate."""
    rng = np.random.default_rng(seed)
    theta = problem.initial_mean[0] + problem.initial_std[0] * rng.standard_normal(count)
    path = [theta]
    for _ in range(steps):
        noise = np.sqrt(problem.variance(theta[:, None])[:, 0] / batch_size) * rng.standard_normal(count)
        theta = theta - lr * (problem.gradient(theta[:, None])[:, 0] + noise)
        path.append(theta)
    return np.array(path)


@settings(max_examples=15, deadline=None)
@given(
    lr=st.floats(0.05, 1.2),
    noise=st.floats(0.1, 3.0),
    slope=st.floats(0.0, 0.5),
    mean=st.floats(-2.0, 2.0),
    std=st.sampled_from([0.0, 0.02, 1.0]),
    batch=st.integers(1, 64),
)
def test_quadratics_have_their_closed_form(lr, noise, slope, mean, std, batch):
    problem = NoisyQuadratic([1.0], noise, mean, std, multiplicity=3, multiplicative_noise=slope)
    factor = (1 - lr) ** 2 + lr**2 * slope / batch
    at = [0, 1, 2, 7, 40]
    try:
        found = chain.risk(problem, SGD(lr), batch, 40, record=at).risk.values
    except ParameterError as error:
        # Multiplicative noise has tails like powers: where they are fat, no window holds the chain.
        if slope > 0 and error.name in {"lr", "initial_mean"}:
            return
        raise
    second, expected = mean**2 + std**2, []
    for step in range(41):
        if step in at:
            expected.append(1.5 * second)
        second = factor * second + lr**2 * noise / batch
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    wrong = [1.5 * (mean**2 + std**2), *(1.001 * np.array(expected[1:]))]
    assert not np.allclose(found, wrong, rtol=1e-8)


def test_occupancy_of_the_wells_by_chain_and_by_the_sde():
    """At one ratio the rate alone moves the occupancy, and far more so where barriers are high."""
    found = [chain.stationary(WELLS, SGD(lr), batch) for lr, batch in [(0.02, 8), (0.05, 20), (0.1, 40)]]
    wide = [float(one.occupancy.sel(well="wide")) for one in found]
    np.testing.assert_allclose(wide, [0.6939, 0.7519, 0.8524], atol=1e-4)
    np.testing.assert_allclose([float(one.sde_occupancy.sel(well="wide")) for one in found], 0.6693, atol=1e-4)
    cold = chain.stationary(WELLS, SGD(0.1), 10 * 0.1 / 0.0063)
    assert float(cold.occupancy.sel(well="wide")) == pytest.approx(0.988, abs=5e-4)
    assert float(cold.sde_occupancy.sel(well="wide")) == pytest.approx(0.43, abs=5e-3)


def test_occupancy_against_brute_force():
    """Two steps of the run at 5 standard errors: false alarm 1e-6. The SDE's figure and another rate must fail."""
    record, count = [1, 20, 400], 40_000
    path = brute_force(WELLS, 0.1, 40, 400, count)[record]
    share = (path > WELLS.barrier).mean(axis=1)
    exact = chain.occupancy(WELLS, SGD([0.1, 0.09]), 40, 400, record=record).occupancy.sel(well="wide").values
    error = np.sqrt(exact[0] * (1 - exact[0]) / count)
    assert (np.abs(share - exact[0]) < 5 * error).all()
    assert (np.abs(share - exact[1]) > 5 * error).any()
    loss = (WELLS.loss(path[..., None]) - WELLS.floor)[..., 0]
    risk = chain.risk(WELLS, SGD(0.1), 40, 400, record=record).risk.values
    assert (np.abs(loss.mean(axis=1) - risk) < 5 * loss.std(axis=1) / np.sqrt(count)).all()


@pytest.mark.parametrize("start", ["sharp", "wide"])
def test_escape_against_brute_force(start):
    wells = DoubleWell(noise=120.0, start=start)
    count, steps = 4000, 3000
    path = brute_force(wells, 0.1, 40, steps, count) > wells.barrier
    left = path if start == "sharp" else ~path
    ever = left.any(axis=0)
    first = np.where(ever, left.argmax(axis=0), steps)  # cut off at the end of the run
    at = np.arange(steps)
    survival = chain.survival(wells, SGD(0.1), 40, steps, record=at).survival.values
    tail = survival.sum()  # E min(T, steps), the sum of P(T > t) for t < steps
    assert abs(first.mean() - tail) < 5 * first.std() / np.sqrt(count)
    for t in (1, 30, 300):
        share = (first > t).mean()
        assert abs(share - survival[t]) < 5 * np.sqrt(survival[t] * (1 - survival[t]) / count) + 1e-12
    whole = float(chain.escape_steps(wells, SGD(0.1), 40).steps)
    decay = survival[-1] / survival[-2]
    assert whole == pytest.approx(tail + survival[-1] * decay / (1 - decay), rel=1e-7)
    assert abs(first.mean() - 0.8 * tail) > 5 * first.std() / np.sqrt(count)  # as a control


@pytest.mark.parametrize(
    ("lr", "batch"), [(0.02, 8), (0.1, 40), (0.1, 200), (0.03, 90), pytest.param(0.05, 400, marks=pytest.mark.slow)]
)
def test_a_finer_grid_says_the_same(lr, batch):
    """Times from 1e2 to 1e15 steps, to 1e-8 of themselves."""
    coordinate = Coordinate(WELLS, 0, lr, batch)
    window = window_of(coordinate)
    steps = float(chain.escape_steps(WELLS, SGD(lr), batch).steps)
    finer = float(chain._escape_of(0, chain_on(coordinate, window, 3), 3)[0][0])
    assert steps == pytest.approx(finer, rel=1e-8)
    wide = float(chain.stationary(WELLS, SGD(lr), batch).occupancy.sel(well="wide"))
    assert wide == pytest.approx(chain._settled(chain_on(coordinate, window, 3), None)[0][1], abs=1e-8)
    plain = np.array([chain._settled(chain_on(coordinate, window, k), None)[0][1] for k in (0, 3)])
    assert abs(plain[0] - plain[1]) < 1e-4


def test_nodes_end_at_the_barrier():
    coordinate = Coordinate(WELLS, 0, 0.1, 40)
    nodes = chain_on(coordinate, window_of(coordinate), 1)
    inside = nodes.x < WELLS.barrier
    assert nodes.weight[inside].sum() == pytest.approx(WELLS.barrier - nodes.window[0], rel=1e-12)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(
    sharp=st.floats(4.0, 12.0),
    wide=st.floats(0.5, 2.0),
    offset=st.floats(-0.05, 0.05),
    ratio=st.floats(0.02, 0.06),
    lr=st.sampled_from([0.01, 0.02]),
)
def test_small_rates_are_the_sde(sharp, wide, offset, ratio, lr):
    """The difference falls in proportion to the rate, and at larger ones it is there: the control."""
    wells = DoubleWell(sharp, wide, 1.5, offset, 120.0)
    gap = []
    for one in (lr, 2 * lr, 5 * lr):
        found = chain.stationary(wells, SGD(one), one / (ratio / 10))
        gap.append(float((found.occupancy - found.sde_occupancy).sel(well="wide")))
    assert abs(gap[0]) < 0.08
    assert gap[1] == pytest.approx(2 * gap[0], rel=0.5, abs=4e-3)
    assert gap[2] > 2 * gap[0]


def test_escape_times_of_the_sde():
    """Figures of the double integral at T = 0.036, in units of time, and the chain's approach to it."""
    coordinate = Coordinate(DoubleWell(), 0, 1e-3, 1e-3 / 0.006)
    theory = sde_escape(coordinate, window_of(coordinate), 0)
    assert 1e-3 * theory["sde_steps"] == pytest.approx(4.56e6, rel=2e-3)
    assert 1e-3 * theory["sde_steps_to_minimum"] == pytest.approx(13.0e6, rel=5e-3)
    assert 1e-3 * theory["kramers_steps"] == pytest.approx(9.24e6, rel=2e-3)
    ratios = [
        float(f.steps / f.sde_steps)
        for f in (chain.escape_steps(DoubleWell(noise=12e3), SGD(lr), lr * 4e4) for lr in (1e-3, 4e-3))
    ]
    # A chain may jump over the barrier and back between two looks: the excess goes like the root of the rate.
    assert 1.0 < ratios[0] < ratios[1]
    assert (ratios[1] - 1) / (ratios[0] - 1) == pytest.approx(2.0, rel=0.35)


def test_quartic_wells_against_brute_force():
    problem = QuarticWell(curvature=0.5, quartic=2.0, noise=3.0, initial_mean=0.8, initial_std=0.2)
    count = 200_000
    path = brute_force(problem, 0.2, 2, 30, count)[[1, 5, 30]]
    loss = problem.loss(path[..., None])[..., 0]
    risk = chain.risk(problem, SGD(0.2), 2, 30, record=[1, 5, 30]).risk.values
    error = loss.std(axis=1) / np.sqrt(count)
    assert (np.abs(loss.mean(axis=1) - risk) < 5 * error).all()
    assert (np.abs(loss.mean(axis=1) - 1.03 * risk) > 5 * error).any()


@pytest.mark.slow
def test_long_runs_end_in_the_stationary_law():
    settled = chain.stationary(WELLS, SGD(0.1), 100)
    run = chain.risk(WELLS, SGD(0.1), 100, 2**34, record=[0, 2**34])
    assert float(run.risk[-1]) == pytest.approx(float(settled.risk), rel=1e-7)
    assert float(run.risk[0]) == pytest.approx(WELLS.initial_risk, rel=1e-12)
    share = chain.occupancy(WELLS, SGD(0.1), 100, 2**34, record=[2**34]).occupancy.squeeze()
    np.testing.assert_allclose(share, settled.occupancy, atol=1e-7)


def test_coordinates_add_up():
    two = DoubleWell([8.0, 8.0], [1.0, 2.0], noise=[120.0, 120.0])
    each = [DoubleWell(8.0, wide, noise=120.0) for wide in (1.0, 2.0)]
    risk = chain.risk(two, SGD(0.1), 40, 20, record=[5, 20]).risk
    np.testing.assert_allclose(risk, sum(chain.risk(one, SGD(0.1), 40, 20, record=[5, 20]).risk for one in each))
    share = chain.occupancy(two, SGD(0.1), 40, 20, record=[20]).occupancy
    parts = [chain.occupancy(one, SGD(0.1), 40, 20, record=[20]).occupancy for one in each]
    np.testing.assert_allclose(share, 0.5 * (parts[0] + parts[1]))
    steps = chain.escape_steps(two, SGD(0.1), 40).steps
    assert steps.dims == ("entry",)
    np.testing.assert_allclose(steps, [float(chain.escape_steps(one, SGD(0.1), 40).steps) for one in each])
    many = DoubleWell(noise=120.0, dim=7)
    one = chain.risk(WELLS, SGD(0.1), 40, 5, record=[5]).risk
    np.testing.assert_allclose(chain.risk(many, SGD(0.1), 40, 5, record=[5]).risk, 7 * one)


def test_density_integrates_to_one_and_sweeps_broadcast():
    at = np.linspace(-3.0, 5.0, 4001)
    found = chain.stationary(WELLS, SGD([0.05, 0.1]), [20, 40], positions=at)
    assert found.density.dims == ("lr", "batch_size", "entry", "position")
    np.testing.assert_allclose(found.density.sum("position") * (at[1] - at[0]), 1.0, rtol=1e-6)
    assert found.occupancy.dims == ("lr", "batch_size", "well")
    assert list(found.well.values) == ["sharp", "wide"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("optimizer", "name"),
        [
            (SGD(0.1, momentum=0.9), "momentum"),
            (SGD(0.1, precondition=0.5), "precondition"),
            (SGD(0.1, weight_decay=0.1), "weight_decay"),
            (SGD(mcnqm.schedules.cosine(0.1, steps=10)), "lr"),
            (mcnqm.Adam(0.1), "optimizer"),
        ],
    )
    def test_other_optimizers(self, optimizer, name):
        with pytest.raises(ParameterError) as error:
            chain.risk(WELLS, optimizer, 40, 10)
        assert error.value.name == name

    def test_problems(self):
        for problem, name in [
            (NoisyQuadratic([1.0], noise=0.0), "noise"),
            (NoisyQuadratic([1.0], noise_df=5.0), "noise_df"),
            ("wells", "problem"),
            (DoubleWell(noise=0.0), "variance"),
        ]:
            with pytest.raises(ParameterError) as error:
                chain.risk(problem, SGD(0.1), 4, 10)
            assert error.value.name == name
        with pytest.raises(ParameterError, match="two wells"):
            chain.occupancy(QuarticWell(), SGD(0.1), 4, 10)

    def test_unstable_rates_and_far_starts(self):
        with pytest.raises(ParameterError) as error:
            chain.stationary(NoisyQuadratic([1.0]), SGD(2.1), 4)
        assert error.value.name == "lr"
        with pytest.raises(ParameterError) as error:
            chain.risk(QuarticWell(initial_mean=30.0, initial_std=0.0), SGD(0.1), 4, 10)
        assert error.value.name in {"lr", "initial_mean"}
        with pytest.raises(ParameterError) as error:  # and no warning of NumPy's
            chain.occupancy(DoubleWell(noise=1e-300, initial_std=0.1), SGD(1e200), 500, 1)
        assert error.value.name == "lr"
        with pytest.raises(ParameterError) as error:  # tails like powers: at once, where it took minutes
            chain.stationary(NoisyQuadratic([1.0], multiplicative_noise=0.9), SGD(1.0), 1)
        assert error.value.name == "lr"
        line = NoisyQuadratic([1.0])
        for call in (
            lambda: chain.risk(line, SGD(1e200), 1, 0),
            lambda: chain.risk(line, SGD(1e200), 1, 5),
            lambda: chain.stationary(DoubleWell(), SGD(1e200), 1),
            lambda: chain.escape_steps(DoubleWell(), SGD(1e200), 1e6),
            lambda: chain.survival(DoubleWell(), SGD(1e-300), 1e6, 10),
        ):
            with suppress(ParameterError):  # an answer, or a refusal; no warning
                call()
        far = chain.escape_steps(DoubleWell(sharp=4.0, wide=2.0, offset=0.0, noise=1.0), SGD(1.0), 20.0)
        assert np.isfinite(far.sde_steps)  # and no warning of what lies beyond the start
        with pytest.raises(ParameterError, match="nodes"):
            chain.risk(DoubleWell(start=1e9), SGD(0.1), 4, 10)

    def test_a_landscape_ends_at_its_region(self):
        def loss(theta, p):
            return 0.5 * p.curvature * theta * theta

        def gradient(theta, p):
            return p.curvature * theta

        def variance(theta, p):
            return 1.0 + 0.0 * theta

        @mcnqm.landscape(loss, gradient, variance, region=lambda p: (-1.0, 1.0))
        class Bounded(NamedTuple):
            curvature: float = 1.0

        with pytest.raises(ParameterError):
            chain.risk(Bounded(initial_mean=0.9, initial_std=0.0), SGD(0.5), 1, 10)
        small = chain.risk(Bounded(initial_mean=0.1, initial_std=0.0), SGD(0.1), 100, 10).risk[-1]
        expected = NoisyQuadratic([1.0], 1.0, 0.1, 0.0)
        assert float(small) == pytest.approx(float(mcnqm.analytic.risk(expected, SGD(0.1), 100, 10).risk[-1]), rel=1e-8)


@pytest.mark.parametrize(
    "wells", [DoubleWell(noise=120.0, dim=3), DoubleWell([8.0, 9.0], [1.0, 2.0], noise=[120.0, 90.0], start="wide")]
)
def test_answers_say_how_they_came_about(wells):
    found = chain.risk(wells, SGD(0.1), 40, 3)
    assert mcnqm.provenance.problem_of(found) == wells
    assert mcnqm.provenance.rerun(found).identical(found)
