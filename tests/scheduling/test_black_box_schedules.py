"""Schedules found by simulation alone: against exact ones, against constants on other noise, and to the bit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm import (
    SGD,
    Adam,
    DoubleWell,
    Lion,
    NAdam,
    NoisyQuadratic,
    ParameterError,
    QuarticWell,
    RMSProp,
    analytic,
    optimize_schedule,
    scheduled_optimizer,
    simulate,
)
from mcnqm.extending import positive
from mcnqm.scheduling.black_box import KNOTS, knots_to_pieces

PROBLEM = NoisyQuadratic.power_law(30)
RISING = NoisyQuadratic(PROBLEM.curvature, noise=PROBLEM.noise, multiplicative_noise=PROBLEM.curvature)
HEAVY = NoisyQuadratic(PROBLEM.curvature, noise=PROBLEM.noise, noise_df=5.0)
ANHARMONIC = QuarticWell(curvature=[1.0, 0.1], quartic=[0.5, 0.1], noise=1.0, initial_std=2.0)


@mcnqm.hyperparameters(lr=positive)
class Downhill(NamedTuple):
    """Plain SGD, as somebody writes it who does not know that there is one."""

    lr: float


@mcnqm.update_rule(Downhill, state=())
def downhill(p, c, g, theta, s):
    return theta - p.lr * g, ()


@mcnqm.hyperparameters(step=positive)
class Rateless(NamedTuple):
    step: float


@pytest.fixture(scope="module")
def lion() -> xr.Dataset:
    return optimize_schedule(PROBLEM, Lion(lr=1.0), 16, steps=200)


def test_it_finds_the_exact_optimum() -> None:
    """Exact risk within 3 % of the exact optimum of the same pieces and largest rate; the best constant is not."""
    cut = {"steps": 200, "pieces": 4, "largest_lr": 1.8}
    exact = optimize_schedule(PROBLEM, SGD(lr=1.0), 16, **cut)
    found = optimize_schedule(PROBLEM, Downhill(lr=1.0), 16, reference_trajectories=128, **cut)
    assert exact.attrs["method"] == "analytic"
    assert found.attrs["method"] == "simulation"
    schedule = scheduled_optimizer(found)
    assert type(schedule) is Downhill
    risk = analytic.risk(PROBLEM, SGD(lr=schedule.lr), 16, 200, record=[200]).risk.item()
    assert 1.0 <= risk / exact.risk.item() < 1.03
    assert exact.baseline_risk.sel(baseline="constant") > 1.2 * exact.risk
    assert (found.lr <= 1.8).all()
    assert (found.length == exact.length).all()
    # What it reports is unbiased: one look, false alarms 7e-6; the search's own noise is four times as few.
    assert abs(found.risk.item() - risk) < 4.5 * found.risk_stderr.item()


def test_many_pieces_follow_a_few_knots() -> None:
    """Fifty pieces of six knots are within 3 % of fifty free ones."""
    exact = optimize_schedule(PROBLEM, SGD(lr=1.0), 16, steps=300, baselines=False)
    found = optimize_schedule(
        PROBLEM, Downhill(lr=1.0), 16, steps=300, largest_lr=2.0, reference_trajectories=64, baselines=False
    )
    assert found.sizes["piece"] == 50
    risk = analytic.risk(PROBLEM, SGD(lr=scheduled_optimizer(found).lr), 16, 300, record=[300]).risk
    assert risk.item() < 1.03 * exact.risk.item()
    bends = np.diff(np.log(found.lr.values), 2)
    assert (np.abs(bends) > 1e-9).sum() <= 2 * (KNOTS - 2)
    weights = knots_to_pieces(50)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
    assert (weights >= 0.0).all()


def test_lion_beats_its_best_constant_on_other_noise(lion: xr.Dataset) -> None:
    """z > 4.5, one-sided false alarms 3.4e-6. A schedule of one piece must not: it is the constant."""

    def z(answer: xr.Dataset) -> float:
        one = answer.sel(baseline="constant")
        return ((one.baseline_risk - one.risk) / np.hypot(one.baseline_risk_stderr, one.risk_stderr)).item()

    assert z(lion) > 4.5
    assert lion.gain.sel(baseline="constant") > 2.0
    assert (lion.gain == lion.baseline_risk / lion.risk).all()
    assert abs(z(optimize_schedule(PROBLEM, Lion(lr=1.0), 16, steps=200, pieces=1))) < 1.0


def test_the_noise_of_the_search_and_that_of_the_answer(lion: xr.Dataset) -> None:
    """Of a run of 200 steps 32 trajectories are searched on, and 128 others give the risk, to the bit."""
    optimizer = scheduled_optimizer(lion)
    again = simulate(PROBLEM, optimizer, 16, 200, trajectories=128, seed=1, record=[200])
    assert again.risk.item() == lion.risk.item()
    assert again.risk_stderr.item() == lion.risk_stderr.item()
    searched = {"trajectories": 32, "seed": 0, "record": [200]}
    ours = simulate(PROBLEM, optimizer, 16, 200, **searched).risk.item()
    rates = np.geomspace(1e-4, 1.0, 200)
    assert ours < simulate(PROBLEM, Lion(lr=rates), 16, 200, **searched).risk.min()
    assert ours < lion.risk.item()  # it flatters: here by a few percent


def test_bits_depend_on_the_seed_and_on_nothing_else(lion: xr.Dataset) -> None:
    again = optimize_schedule(PROBLEM, Lion(lr=1.0), 16, steps=200, threads=1)
    xr.testing.assert_identical(again, lion)
    other = optimize_schedule(PROBLEM, Lion(lr=1.0), 16, steps=200, seed=5, baselines=False)
    assert (other.lr != lion.lr).all()
    assert "gain" not in other
    both = optimize_schedule(PROBLEM, Lion(lr=1.0), [64, 16], steps=200)
    np.testing.assert_array_equal(both.lr.sel(batch_size=16), lion.lr)


@pytest.mark.parametrize("guess", [1e-12, 1e6])
def test_the_given_rate_decides_little(lion: xr.Dataset, guess: float) -> None:
    far = optimize_schedule(PROBLEM, Lion(lr=guess), 16, steps=200)
    assert far.risk.item() == pytest.approx(lion.risk.item(), rel=0.1)
    assert far.baseline_risk.sel(baseline="constant").item() == pytest.approx(
        lion.baseline_risk.sel(baseline="constant").item(), rel=0.1
    )


@pytest.mark.parametrize(
    ("problem", "optimizer"),
    [
        (PROBLEM, Adam(lr=1.0, eps_root=1e-6)),
        pytest.param(PROBLEM, RMSProp(lr=1.0, momentum=0.5), marks=pytest.mark.slow),
        pytest.param(PROBLEM, NAdam(lr=1.0), marks=pytest.mark.slow),
        (RISING, SGD(lr=1.0, momentum=0.5)),
        pytest.param(HEAVY, Adam(lr=1.0), marks=pytest.mark.slow),
        (ANHARMONIC, SGD(lr=1.0)),
    ],
    ids=["eps_root", "momentum", "nadam", "rising", "heavy", "landscape"],
)
def test_what_no_theory_knows(problem: mcnqm.problems.Problem, optimizer: object) -> None:
    found = optimize_schedule(problem, optimizer, [8, 64], steps=60, pieces=5, reference_trajectories=8)
    assert found.attrs["method"] == "simulation"
    assert found.lr.dims == ("batch_size", "piece")
    assert (found.risk - 4.5 * found.risk_stderr < found.baseline_risk.sel(baseline="constant")).all()
    assert (found.risk < problem.initial_risk).all()
    assert (found.length.sum("piece") == 60).all()


def test_of_rising_noise_theory_agrees() -> None:
    """Closed forms know plain SGD on noise that rises; one look each, false alarms 7e-6."""
    found = optimize_schedule(RISING, SGD(lr=1.0), 8, steps=100, pieces=3, spacing="equal")
    exact = analytic.risk(RISING, scheduled_optimizer(found), 8, 100, record=[100]).risk.item()
    assert abs(found.risk.item() - exact) < 4.5 * found.risk_stderr.item()
    rates = np.geomspace(1e-3, 1.0, 100)
    assert exact < analytic.risk(RISING, SGD(lr=rates), 8, 100, record=[100]).risk.min()


def test_where_standing_still_is_best() -> None:
    """From the lowest minimum every step leads up."""
    at_best = DoubleWell(sharp=8.0, wide=1.0, separation=1.5, offset=0.05, noise=12.0, start="sharp", dim=2)
    found = optimize_schedule(at_best, SGD(lr=1.0), 4, steps=10, pieces=2, reference_trajectories=2)
    assert abs(found.risk.item()) < 1e-12


def test_to_a_target() -> None:
    """Reached on fresh noise, at a horizon that fewer steps do not reach; and told from one that is out of reach."""
    short = {"pieces": 3, "reference_trajectories": 4}
    found = optimize_schedule(PROBLEM, Lion(lr=1.0), [64, 8], target=0.2, max_steps=10, **short)
    assert np.isinf(found.steps.sel(batch_size=8))
    assert np.isnan(found.lr.sel(batch_size=8)).all()
    one = found.sel(batch_size=64)
    steps = int(one.steps)
    assert one.risk <= 0.2
    assert steps < one.baseline_steps.sel(baseline="constant")
    np.testing.assert_allclose(one.gain, one.baseline_steps / steps)
    fewer = optimize_schedule(PROBLEM, Lion(lr=1.0), 64, steps=steps - 1, baselines=False, **short)
    assert fewer.risk > 0.2
    assert scheduled_optimizer(one).lr(steps - 1) == one.lr.values[-1]


def test_a_file_gives_the_optimizer_back(lion: xr.Dataset, tmp_path) -> None:
    lion.to_netcdf(tmp_path / "lion.nc", engine="scipy")
    again = xr.load_dataset(tmp_path / "lion.nc", engine="scipy")
    assert scheduled_optimizer(again) == scheduled_optimizer(lion)
    assert type(scheduled_optimizer(again)) is Lion
    xr.testing.assert_identical(mcnqm.provenance.rerun(again), lion)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"steps": None, "target": 1e3}, "target"),
        ({"steps": None, "target": 0.1, "max_steps": 2**35}, "max_steps"),
        ({"largest_risk": 10.0}, "largest_risk"),
        ({"tune_momentum": True}, "tune_momentum"),
        ({"bins": 100}, "bins"),
        ({"refine": True}, "refine"),
        ({"max_steps": 10}, "max_steps"),
        ({"steps": 2**35}, "steps"),
        ({"largest_lr": 0.0}, "largest_lr"),
        ({"largest_lr": [0.1, 0.2]}, "largest_lr"),
        ({"reference_trajectories": 0}, "reference_trajectories"),
        ({"seed": 2**64 - 1}, "seed"),
        ({"spacing": "random"}, "spacing"),
        ({"optimizer": Lion(lr=[0.1, 0.2])}, "lr"),
        ({"optimizer": Rateless(step=1.0)}, "optimizer"),
        ({"optimizer": 3}, "optimizer"),
    ],
)
def test_refused_by_name(changes: dict, name: str) -> None:
    with pytest.raises(ParameterError) as caught:
        optimize_schedule(**{"problem": PROBLEM, "optimizer": Lion(lr=1.0), "batch_size": 4, "steps": 10, **changes})
    assert caught.value.name == name
