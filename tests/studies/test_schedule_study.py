"""The schedule studies, small, and `mcnqm schedule` as a user runs it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from mcnqm import SGD, Adam, Lion, NoisyQuadratic, ParameterError, analytic
from mcnqm.plots.schedules import plot_schedules
from mcnqm.studies.batch_growth import BatchGrowthConfig
from mcnqm.studies.batch_growth import run as run_growth
from mcnqm.studies.schedules import ScheduleConfig, run

COMMAND = [sys.executable, "-c", "from mcnqm.cli import main; main()", "schedule"]
PROBLEM = NoisyQuadratic.power_law(30)


@pytest.fixture(scope="module")
def study():
    optimizers = {"sgd": SGD(lr=1.0), "momentum": SGD(lr=1.0, momentum=0.9)}
    return run(ScheduleConfig(PROBLEM, optimizers, batch_sizes=(2, 64), target=0.05, pieces=40))


def test_what_reaches_the_target_in_how_many_steps(study):
    """An average, tuned in closed form, is exact: the target is reached at its step and not before."""
    assert study.steps.dims == ("optimizer", "batch_size", "strategy")
    assert (study.steps.sel(strategy="optimised") <= study.steps.sel(strategy="constant")).all()
    for b in (2, 64):
        one = study.sel(optimizer="sgd", batch_size=b)
        steps = int(one.steps.sel(strategy="averaged"))
        assert steps < float(one.steps.sel(strategy="constant"))
        setting = PROBLEM, SGD(lr=float(one.averaged_lr)), b, steps
        curve = analytic.risk(*setting, average=float(one.averaged_decay), record=[steps - 1, steps]).risk
        assert curve[0] > 0.05 >= curve[1]
        constant = int(one.steps.sel(strategy="constant"))
        curve = analytic.risk(PROBLEM, SGD(lr=float(one.constant_lr)), b, constant, record=[constant]).risk
        assert curve[0] <= 0.05
    assert np.isnan(study.steps.sel(optimizer="momentum", strategy="averaged")).all()
    assert (study.risk <= 0.05).all()
    assert (study.bayes_bound < study.steps.min(("strategy", "optimizer"))).all()


def test_short_runs_have_fewer_pieces(study):
    """Steps of all pieces are those of the run; what is missing is NaN, and 0 steps long."""
    counts = np.isfinite(study.lr).sum("piece")
    assert counts.min() < study.sizes["piece"] == 40
    assert (study.length.sum("piece") == study.steps.sel(strategy="optimised")).all()
    assert ((study.length > 0) == np.isfinite(study.lr)).all()
    assert (np.isfinite(study.start) == np.isfinite(study.lr)).all()


def test_figure_has_a_row_for_each_optimizer(study):
    figure = plot_schedules(study)
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(panels) == 8
    assert {axes.get_xlabel() for axes in panels} == {"batch size (examples)", "share of the run that is done"}


def test_command(tmp_path):
    """Table, file and figure; and a second run does not overwrite them."""
    words = "-d 20 -b 4 --target 0.05 --pieces 6 --output s.nc --figure s.png"
    command = [*COMMAND, *words.split()]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=300)
    with xr.open_dataset(tmp_path / "s.nc") as saved:
        needed = saved.steps.sel(optimizer="sgd", batch_size=4)
        assert f"{float(needed.sel(strategy='optimised')):.0f}" in done.stdout
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    again = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=300)
    assert again.returncode == 2
    assert "--force" in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "sgd lr=0.1"], "leave out lr"),
        (["-b", "1,x"], "whole numbers"),
        (["-b", "4,1"], "increase"),
        (["--target", "-1"], "target must be > 0"),
        (["--pieces", "0"], "pieces"),
        (["--largest-lr", "0"], "largest_lr must be > 0"),
        (
            ["-d", "10", "-b", "4", "--target", "0.5", "--largest-risk", "1e-3"],
            "largest_risk must be at least the initial",
        ),
        (
            ["-d", "10", "-o", "adam", "-b", "4", "--largest-risk", "10"],
            "largest_risk must be left out for an adaptive",
        ),
    ],
)
def test_command_refuses(words, message, capsys, monkeypatch):
    from mcnqm.cli import main  # noqa: PLC0415

    monkeypatch.setattr(sys, "argv", ["mcnqm", "schedule", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_growth_equals_decay_under_the_own_rule_only():
    """Theory; and simulation is with it, |z| < 4.5 (false alarms 7e-6 a look, 2 looks) beside theory's own 1 %."""
    config = BatchGrowthConfig(
        *(NoisyQuadratic.power_law(50), {"adam": Adam(lr=2e-3)}),
        batch_size=1,
        stages=3,
        examples=2**14,
        trajectories=16,
    )
    end = run_growth(config).isel(examples=-1, optimizer=0)
    apart = np.abs(np.log(end.theory / end.theory.sel(way="rate decay")))
    assert apart.sel(way="batch growth, own rule") < 0.1
    assert apart.sel(way="batch growth, other rule") > 0.3
    assert (np.abs(end.risk - end.theory) < 4.5 * end.risk_stderr + 0.01 * end.theory).all()
    assert (end.step[1:] < end.step[0]).all()


def test_growth_refuses():
    with pytest.raises(ParameterError, match="multiple of the largest batch"):
        BatchGrowthConfig(examples=1000)


def test_what_can_only_be_simulated():
    """Lion: its schedule needs fewer steps than its best constant; theory's columns are empty."""
    study = run(ScheduleConfig(PROBLEM, {"lion": Lion(lr=1.0)}, batch_sizes=(64,), target=0.3, pieces=4))
    needed = study.steps.squeeze()
    assert needed.sel(strategy="optimised") < needed.sel(strategy="constant")
    assert np.isnan(needed.sel(strategy="averaged"))
    assert np.isnan(study.constant_lr).all()
    assert (study.risk <= 0.3).all()
    assert (study.risk_stderr > 0).all()
    assert len([axes for axes in plot_schedules(study).axes if axes.get_xlabel()]) == 4


def test_limits():
    """Every strategy's rates are within the limit; constant ones are the best there."""
    free, slow = (
        run(ScheduleConfig(PROBLEM, batch_sizes=(8,), target=0.1, pieces=8, largest_lr=lr)).squeeze()
        for lr in (None, 0.05)
    )
    assert (slow.steps >= free.steps).where(np.isfinite(free.steps), True).all()
    assert slow.steps.sel(strategy="optimised") > free.steps.sel(strategy="optimised")
    assert (slow.lr.fillna(0.0) <= 0.05).all()
    assert slow.constant_lr <= 0.05
    assert slow.averaged_lr <= 0.05
    constant = int(slow.steps.sel(strategy="constant"))
    curve = analytic.risk(PROBLEM, SGD(lr=float(slow.constant_lr)), 8, constant, record=[constant - 1, constant]).risk
    assert curve[0] > 0.1 >= curve[1]
    low = run(ScheduleConfig(PROBLEM, batch_sizes=(8,), target=0.1, pieces=8, largest_risk=PROBLEM.initial_risk))
    assert np.isnan(low.steps.sel(strategy="averaged")).all()
