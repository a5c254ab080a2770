"""The figures of the paper: closed forms against other routes and published numbers, and simulated points upon them."""

import dataclasses

import numpy as np
import pytest

import mcnqm
from mcnqm import analytic
from mcnqm.errors import ParameterError
from mcnqm.plots.paper import plot_paper_figure
from mcnqm.studies.cells import Cells
from mcnqm.studies.paper import FIGURES, Scale, Work
from mcnqm.studies.tuned_momentum import tune_curve

SMALL = Scale(
    dim=30,
    bins=30,
    octaves=8,
    powers=(0.0, 0.5),
    schedule_batch_sizes=(1.0, 16.0, 256.0),
    pieces=8,
    adam_batch_sizes=(4, 64),
    simulated_batch_sizes=(16.0, 256.0),
    replicates=4,
    trajectories=2048,
    target=0.1,
)


@pytest.fixture(scope="module")
def work():
    return Work(SMALL)


@pytest.mark.parametrize("number", ["1", "2", "9", "11", "12b"])
def test_figures_are_drawn_and_described(number, work):
    data = FIGURES[number].data(work)
    assert data.attrs["figure"] == number
    assert len(data.attrs["settings"]) > 30
    figure = plot_paper_figure(data)
    axes = figure.axes[0]
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    assert len(axes.get_lines()) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("number", ["3a", "3b", "3c", "12a", "12c", "13"])
def test_long_figures_are_drawn_and_described(number, work):
    if number in ("3b", "13", "3c"):
        work = dataclasses.replace(work, scale=dataclasses.replace(SMALL, powers=(0.0, 0.5, 1.0)), cells=Cells())
    data = FIGURES[number].data(work)
    axes = plot_paper_figure(data).axes[0]
    assert [*axes.get_lines(), *axes.patches]
    if number == "3a":  # simulated points lie on the curves: 95 % intervals of 8, at most three beside (1e-4 by chance)
        exact = data.steps.sel(momentum=0, power=data.simulated_power.values, batch_size=[16.0, 256.0])
        low, high = (data.simulated_steps_interval.sel(simulated_momentum=0.0, bound=end) for end in ("low", "high"))
        assert ((low.values <= exact.values + 1) & (exact.values - 1 <= high.values)).sum() >= 3


def test_simulated_points_of_figure_1_lie_on_its_lines(work):
    """48 points, |z| < 5: false-alarm rate 3e-5; the lines of the other schedule are rejected."""
    data = FIGURES["1"].data(work)
    exact = data.risk.sel(step=data.point.values).values
    z = (data.simulated_risk.values - exact) / data.simulated_risk_stderr.values
    assert np.abs(z).max() < 5.0
    wrong = (data.simulated_risk.values - exact[::-1]) / data.simulated_risk_stderr.values
    assert np.abs(wrong).max() > 20.0


def test_figure_2_is_momentum_at_the_effective_rate_until_it_is_underdamped(work):
    data = FIGURES["2"].data(work)
    slow = data.sel(momentum=slice(0.0, 0.9))
    assert float(abs(slow.convergence_rate - slow.effective_convergence_rate).max()) < 2e-3
    assert float(abs(slow.steady_state_risk / slow.effective_steady_state_risk - 1.0).max()) < 0.01
    # Beyond β = (1 - sqrt(αh))² the roots are complex, of size sqrt(β).
    fast = data.sel(momentum=slice(0.97, 1.0))
    np.testing.assert_allclose(fast.convergence_rate, np.sqrt(fast.momentum), rtol=1e-12)


def test_figure_9_curves_match_as_the_paper_says(work):
    data = FIGURES["9"].data(work)
    assert float(abs(data.momentum - data.effective).max()) < 0.02
    assert float(abs(data.momentum - data.effective.roll(scaling=8)).max()) > 0.1


@pytest.mark.parametrize(("power", "expected"), [(0.0, (116358, 7448)), (0.5, (34298, 2149))])
def test_steps_of_figure_3a_are_those_of_another_program(power, expected):
    """Of a grid of 100 rates from 1e-5 to 10^0.5, which our finer search may beat by a percent."""
    found = tune_curve(mcnqm.NoisyQuadratic.power_law(1000), [4.0, 64.0], power, momentum=0.0)["steps"].values
    assert (found <= expected).all()
    np.testing.assert_allclose(found, expected, rtol=0.01)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_tuned_curves_agree_with_tune(momentum):
    problem, sizes = mcnqm.NoisyQuadratic.power_law(100), [4.0, 64.0, 1024.0]
    found = tune_curve(problem, sizes, 0.5, momentum=momentum, target=0.05)
    optimizer = mcnqm.SGD(lr=1.0, momentum=momentum, precondition=0.5)
    search = {"lr": (1e-3, 1.0)}
    best = mcnqm.tune(problem, optimizer, search, batch_size=sizes, target=0.05, method="analytic")
    np.testing.assert_allclose(found.steps, best.steps, rtol=3e-3, atol=1.0)
    for b in range(3):  # the numbers belong together
        one = mcnqm.SGD(lr=found.lr[b].item(), momentum=found.momentum[b].item(), precondition=0.5)
        assert float(analytic.steps_to_target(problem, one, sizes[b], 0.05).steps) == float(found.steps[b])
    np.testing.assert_allclose(found.momentum, momentum, atol=1e-15)


def test_tuning_momentum_too_is_never_worse():
    problem, sizes = mcnqm.NoisyQuadratic.power_law(100), [1.0, 64.0, 4096.0]
    curves = [tune_curve(problem, sizes, 0.0, momentum=m, target=0.05)["steps"].values for m in (None, 0.0, 0.9)]
    assert (curves[0] <= np.minimum(curves[1], curves[2]) * 1.01).all()
    assert curves[0][0] < 0.95 * curves[1][0]
    assert curves[0][2] < 0.5 * curves[1][2]


def test_what_tuned_curves_refuse():
    problem = mcnqm.NoisyQuadratic.power_law(5)
    for name, call in (
        ("momentum", lambda: tune_curve(problem, [1.0], 0.0, momentum=1.0)),
        ("batch_sizes", lambda: tune_curve(problem, [2.0, 1.0], 0.0, momentum=0.0)),
        ("problem", lambda: tune_curve(mcnqm.NoisyQuadratic([2.0]), [1.0], 0.0, momentum=0.0)),
    ):
        with pytest.raises(ParameterError) as refused:
            call()
        assert refused.value.name == name
