"""Tables on a terminal of 80 columns: every number in full, every row on one line, what is constant said once."""

from __future__ import annotations

import io

import numpy as np
import pytest
from made_up_study import LABELS, study_of
from rich.console import Console

import mcnqm
from mcnqm.cli.parsing import parse_optimizer
from mcnqm.cli.scaling import _show_cells, _show_summary
from mcnqm.cli.simulate import _show
from mcnqm.cli.tables import console_of
from mcnqm.studies.comparison import compare

PROBLEM = mcnqm.NoisyQuadratic.power_law(dim=10)


def shown(show, data, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show(data, console)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines)
    assert not any("…" in line for line in lines), "nothing is cut"
    return lines


def table_of(specs, batch_size, **options):
    runs = compare(PROBLEM, {text: parse_optimizer(text) for text in specs}, batch_size, 500, **options)
    return runs, shown(_show, runs)


def body(lines):
    rule = next(k for k, line in enumerate(lines) if "───" in line)
    return [line.split() for line in lines[rule + 1 :] if line and not line.startswith("! ")]


def test_a_sweep_of_rates():
    runs, lines = table_of(["adam lr=1e-4:1e-2:9 beta2=0.99"], 64)
    assert lines[0] == "risk ± standard error: adam beta2=0.99, batch size 64, 64 trajectories"
    assert " ".join(lines).count("adam") == 1
    rows = body(lines)
    assert [row[0] for row in rows] == [
        *("0.0001", "0.000178", "0.000316", "0.000562", "0.001", "0.00178", "0.00316", "0.00562", "0.01")
    ]
    assert [row[-3] for row in rows] == [f"{r:.4g}" for r in runs.risk.isel(optimizer=0, step=-1).values]


def test_several_sweeps_at_once():
    runs, lines = table_of(["adam lr=1e-4,1e-2 beta1=0.8,0.9 beta2=0.99,0.999 weight_decay=0,0.01"], [1, 1024])
    rows = body(lines)
    assert len(rows) == 32, "a line each"
    assert rows[5][:5] == ["0.0001", "0.8", "0.999", "0", "1024"]
    last = runs.risk.isel(optimizer=0, step=-1).sel(lr=1e-4, beta1=0.8, beta2=0.999, weight_decay=0, batch_size=1024)
    assert rows[5][-3] == f"{float(last):.4g}"
    assert "step 500" in " ".join(lines), "where there is room for one step, it is the last"


def test_optimizers_with_long_names_are_named_once_and_in_full():
    specs = ["sgd lr=0.1 momentum=0.9 nesterov=true precondition=0.1", "adam lr=1e-3 beta1=0.9 eps=1e-6", "sgd lr=6"]
    _, lines = table_of(specs, [1, 4, 65536])
    text = " ".join(" ".join(line) for line in body(lines))
    for spec in specs:
        for word in spec.split():
            assert word in text
    assert text.count("nesterov=true") == 1
    assert text.count("64 of 64") == 3, "what diverged"
    assert text.count("0 of 64") == 6


def test_a_column_for_what_diverged_only_where_something_did():
    assert "diverged" not in " ".join(table_of(["sgd lr=0.1,0.2"], 4)[1])
    runs, lines = table_of(["sgd lr=0.1,3.0"], 4, trajectories=1)
    assert lines[0] == "risk: sgd, batch size 4, 1 trajectory"
    assert [row[-3:] for row in body(lines)] == [["0", "of", "1"], ["1", "of", "1"]]
    assert np.isinf(runs.risk.sel(lr=3.0).isel(optimizer=0, step=-1))


@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_study_of_many_optimizers(count):
    """Cut before: with more than three, side by side, no number was whole."""
    study = study_of(count)
    study["steps_stderr"][0, 0] = 2e4
    text = "\n".join(shown(_show_cells, study))
    for k in range(count):
        for steps, error in zip(study.steps.values[k], study.steps_stderr.values[k], strict=True):
            assert f"{steps:.0f} ± {error:.{0 if error >= 10 else 1}f}" in text
        for word in LABELS[k].split():
            assert word in text
    assert text.count("65536") == (count + 2) // 3, "three fit side by side"
    summary = "\n".join(shown(_show_summary, study))
    assert f"{float(study.slope[0]):.3f} [{float(study.slope_low[0]):.3f}, " in summary


def test_what_goes_into_a_pipe_is_not_torn(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console_of().width > 1000
    monkeypatch.setenv("COLUMNS", "80")
    assert console_of().width == 80
