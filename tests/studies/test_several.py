"""Scaling studies side by side: several targets, several problems, landscapes."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from command_line import in_this_process

import mcnqm
from mcnqm import SGD, DoubleWell, NoisyQuadratic, ParameterError
from mcnqm.cli.parsing import parse_contenders
from mcnqm.files import write_dataset
from mcnqm.plots.several import plot_several
from mcnqm.provenance import rerun
from mcnqm.studies.contenders import Contender
from mcnqm.studies.scaling import ScalingConfig, examples_of_bounds, run
from mcnqm.studies.several import members, run_each

SMALL = NoisyQuadratic.power_law(30)
CONFIG = ScalingConfig(SMALL, {"sgd": Contender(SGD(lr=1.0))}, batch_sizes=(64, 128, 256), target=0.1)


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return run_each(CONFIG, targets=[0.2, 0.1], problems={"plain": SMALL, "twice": NoisyQuadratic.power_law(60)})


def test_each_study_is_what_it_is_alone(study):
    alone = run(CONFIG)
    found = study.sel(problem="plain", target=0.1)
    for name in alone.data_vars:
        np.testing.assert_array_equal(found[name].values, alone[name].values, err_msg=name)
    assert study.steps.dims == ("problem", "target", "optimizer", "batch_size")
    assert (study.steps.sel(target=0.1) > study.steps.sel(target=0.2)).all()


def test_members_know_what_differs(study):
    texts = [text for text, _ in members(study)]
    assert texts == ["plain, target 0.2", "plain, target 0.1", "twice, target 0.2", "twice, target 0.1"]
    last = members(study)[-1][1]
    assert last.attrs["dim"] == 60
    assert last.attrs["target"] == 0.1
    assert last.steps.dims == ("optimizer", "batch_size")


def test_saved_read_back_and_run_again(study, tmp_path):
    write_dataset(study, tmp_path / "several.nc")
    with xr.open_dataset(tmp_path / "several.nc") as found:
        found.load()
    again = rerun(found)
    for name in study.data_vars:
        np.testing.assert_array_equal(again[name].values, study[name].values, err_msg=name)


def test_continued_from_its_folder(study, tmp_path, monkeypatch):
    made = run_each(CONFIG, targets=[0.2, 0.1], checkpoint=tmp_path / "parts")
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["target-0.1", "target-0.2"]
    monkeypatch.setattr("mcnqm.tuning.searches.run_races", None)  # whoever simulates again fails
    again = run_each(CONFIG, targets=[0.2, 0.1], checkpoint=tmp_path / "parts")
    xr.testing.assert_identical(made, again)


def test_the_figure_has_a_panel_and_a_shade_for_each(study):
    two = plot_several(study)
    assert len(two.axes) == 2
    labels = [text.get_text() for text in two.axes[0].get_legend().get_texts()]
    assert [label.split(": ")[0] for label in labels] == [text for text, _ in members(study)]
    # The highest points are those of the larger problem at the harder target.
    tops = [line.get_ydata() for line in two.axes[0].lines if line.get_linestyle() == "-"]
    np.testing.assert_array_equal(max(tops, key=np.max), study.analytic_steps.sel(problem="twice", target=0.1)[0])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "targets, problems"),
        ({"targets": []}, "targets"),
        ({"targets": 0.1}, "targets"),
        ({"targets": [0.1, 0.1]}, "targets"),
        ({"targets": [0.1, -1.0]}, "targets"),
        ({"problems": [SMALL]}, "problems"),
        ({"problems": {}}, "problems"),
        ({"problems": {"a b": SMALL, "a?b": SMALL}}, "problems"),
        ({"problems": {"a": 3}}, "problem"),
        ({"targets": [0.1], "threads": 0}, "threads"),
    ],
)
def test_refusals(changes, name, tmp_path):
    with pytest.raises(ParameterError, match=f"^{name} must"):
        run_each(CONFIG, **changes, checkpoint=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "problem", [DoubleWell(), NoisyQuadratic([1.0], noise_df=5.0), NoisyQuadratic([1.0], multiplicative_noise=1.0)]
)
def test_bounds_that_nobody_knows_are_nan(problem):
    assert np.isnan(list(examples_of_bounds(problem, 0.01).values())).all()
    assert np.isfinite(list(examples_of_bounds(NoisyQuadratic([1.0]), 0.01).values())).all()


def test_a_study_of_wells():
    wells = DoubleWell(start="wide", initial_std=0.3, noise=0.2, dim=20)
    config = ScalingConfig(wells, {"sgd": Contender(SGD(lr=1.0))}, batch_sizes=(1, 2, 4), target=1.1)
    study = run(config)
    assert study.theory.values.tolist() == ["none"]
    assert np.isfinite(study.steps.values).all()
    assert (np.diff(study.steps.values[0]) <= 0).all()


def test_sweeps_of_a_contender_are_contenders():
    found = parse_contenders("sgd precondition=0,0.5 momentum=0.9")
    assert [one.optimizer.precondition for one in found.values()] == [0.0, 0.5]
    assert list(found) == ["sgd precondition=0 momentum=0.9", "sgd precondition=0.5 momentum=0.9"]
    with pytest.raises(ParameterError, match="momentum must be the same at every step"):
        parse_contenders("sgd momentum=cosine(0.5,steps=10)")


def test_several_targets_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "mcnqm scaling -d 30 -o 'sgd precondition=0,0.5' --doublings 2 --target 0.2,0.1 --output s.nc --figure s.png"
    code, out, err = in_this_process(monkeypatch, capsys, line)
    assert (code, err) == (0, "")
    assert out.index("steps to risk 0.2") < out.index("steps to risk 0.1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.nc", "s.png"]
    with xr.open_dataset("s.nc") as study:
        assert study.steps.dims == ("target", "optimizer", "batch_size")
        assert study.target.values.tolist() == [0.2, 0.1]
        config = ScalingConfig(SMALL, parse_contenders("sgd precondition=0.5"), batch_sizes=(1, 2, 4), target=0.1)
        np.testing.assert_array_equal(study.steps.sel(target=0.1)[1], run(config).steps[0])


def test_several_targets_share_no_folder_with_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.nc.parts" / "target-0.2").mkdir(parents=True)
    (tmp_path / "s.nc.parts" / "target-0.2" / "mine.txt").write_text("x")
    line = "mcnqm scaling -d 30 -o sgd --doublings 1 --target 0.2,0.1 --output s.nc"
    code, _, err = in_this_process(monkeypatch, capsys, line)
    assert code == 2
    assert "mine.txt" in err
    assert (tmp_path / "s.nc.parts" / "target-0.2" / "mine.txt").read_text() == "x"


def test_problems_of_other_kinds_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lands.py").write_text(
        "import mcnqm\nwells = mcnqm.DoubleWell(start='wide', dim=3)\nKind = mcnqm.QuarticWell\nnothing = 3\n"
    )

    def risk(options: str) -> xr.DataArray:
        line = f"mcnqm simulate -o 'sgd lr=0.05' -b 4 -n 20 -r 5 --output r.nc --force {options}"
        code, _, err = in_this_process(monkeypatch, capsys, line)
        assert (code, err) == (0, "")
        with xr.open_dataset("r.nc") as runs:
            return runs.risk.isel(optimizer=0).load()

    h = NoisyQuadratic.power_law(20).curvature
    quartic = mcnqm.QuarticWell
    same = {
        "--landscape 'double_well noise=2 start=wide dim=7'": DoubleWell(noise=2.0, start="wide", dim=7),
        "--landscape 'double_well sharp=8,9 start=0.5'": DoubleWell(sharp=[8.0, 9.0], start=0.5),
        "--landscape 'quartic_well quartic=1,2 multiplicity=2,3 initial_std=0.1'": quartic(
            quartic=[1.0, 2.0], multiplicity=[2, 3], initial_std=0.1
        ),
        "--landscape lands:wells": DoubleWell(start="wide", dim=3),
        "--landscape 'lands:Kind noise=0.5'": quartic(noise=0.5),
        "-d 20 --noise-slope 0.5 --noise-df 5": NoisyQuadratic(h, multiplicative_noise=0.5 * h, noise_df=5.0),
    }
    for options, problem in same.items():
        expected = mcnqm.simulate(problem, SGD(lr=0.05), 4, 20, trajectories=5).risk
        np.testing.assert_array_equal(risk(options), expected, err_msg=options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--landscape ''", "landscape must look like"),
        ("--landscape valley", "landscape must be one of double_well, quartic_well or module:Class"),
        ("--landscape 'double_well depth=1'", "landscape must have fields among sharp, wide"),
        ("--landscape 'double_well dim=1 dim=2'", "landscape must give dim once"),
        ("--landscape 'double_well start=middle'", "start must be one of 'sharp', 'wide'"),
        ("--landscape 'double_well noise=x'", "noise must be a number"),
        ("--landscape 'double_well dim=1.5'", "dim must be"),
        ("--landscape nowhere:Wells", "landscape must be importable"),
        ("--landscape math:pi", "landscape must be made with mcnqm.landscape"),
        ("--landscape double_well --dim 3", "dim must be left out with --landscape"),
        ("--landscape double_well --noise-slope 1", "noise_slope must be left out with --landscape"),
        ("--noise-slope -1", "noise_slope must be >= 0"),
        ("--noise-df 2", "noise_df must be"),
    ],
)
def test_problems_that_are_refused_on_the_command_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = in_this_process(monkeypatch, capsys, f"mcnqm simulate -n 5 {options} --output r.nc")
    assert code == 2
    assert message in " ".join((out + err).split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("noise", ["--noise-slope 0.5", "--noise-df 5", ""])
def test_a_target_out_of_all_reach_is_refused_whatever_the_noise(noise, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = f"mcnqm scaling -d 9 -o adam --doublings 2 --target 1e-15 {noise}"
    code, _, err = in_this_process(monkeypatch, capsys, line)
    assert code == 2
    assert "target must be one that can be reached" in err
    assert not list(tmp_path.iterdir())
