"""`mcnqm study`."""

import xarray as xr
from typer.testing import CliRunner

from mcnqm.cli import study
from mcnqm.cli.app import app
from mcnqm.studies import line_search


def small(config):
    return line_search.LineSearchConfig(dim=5, steps=(0, 20), late=3, trajectories=4, seed=config.seed)


def test_a_study_is_saved_drawn_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(study._STUDIES["line-search"].module, "quick", small)
    output, figure = tmp_path / "lines.nc", tmp_path / "lines.png"
    words = ["study", "line-search", "--quick", "--seed", "3", "--output", str(output), "--figure", str(figure)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "expected_ratio" in result.output
    assert xr.load_dataset(output, engine="scipy").attrs["seed"] == "3"
    assert figure.stat().st_size > 10_000
    assert not output.with_name("lines.nc.parts").exists()


def test_threads_are_refused_where_nothing_is_simulated():
    result = CliRunner().invoke(app, ["study", "regimes", "--threads", "2"])
    assert "threads" in str(result.exception)


def test_unknown_names_are_refused():
    result = CliRunner().invoke(app, ["study", "maxima"])
    assert result.exit_code != 0
