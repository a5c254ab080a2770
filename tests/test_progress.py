"""Progress: a bar is for terminals; a log gets lines, also while nothing is reported."""

from __future__ import annotations

import sys
import time

import pytest

from mcnqm import progress
from mcnqm.progress import RichMeter


def test_where_there_is_no_terminal_lines_are_written(monkeypatch, capsys):
    monkeypatch.setattr(progress._Lines, "every", 0.1)
    meter = RichMeter()
    meter.start(8.0, "scaling")
    meter.advance(2.0)
    deadline = time.monotonic() + 20
    said = ""
    while said.count("\n") < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
        said += capsys.readouterr().err
    meter.close()
    assert said.startswith("scaling: 25% done after ")
    time.sleep(0.3)
    capsys.readouterr()
    time.sleep(0.3)
    assert capsys.readouterr().err == "", "closed"


@pytest.mark.parametrize("total", [float("nan"), 0.0])
def test_of_an_unknown_amount_the_time_is_told(monkeypatch, capsys, total):
    monkeypatch.setattr(progress._Lines, "every", 0.05)
    meter = RichMeter()
    meter.start(total, "tuning")
    time.sleep(0.3)
    meter.close()
    assert capsys.readouterr().err.startswith("tuning: after ")


def test_short_work_says_nothing(capsys):
    meter = RichMeter()
    meter.start(1.0, "simulating")
    meter.advance(1.0)
    meter.close()
    assert capsys.readouterr().err == ""


def test_in_a_notebook_one_line_is_written_again_and_again(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(progress._Notebook, "every", 0.05)
    meter = RichMeter()
    meter.start(4.0, "tuning")
    meter.advance(1.0)
    time.sleep(0.4)
    meter.close()
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("\rtuning: 25% done after 0 s") >= 2
    assert "\n" not in captured.out
    assert captured.out.endswith("\r" + " " * len("tuning: 25% done after 0 s") + "\r")
    meter.close()
    assert capsys.readouterr().out == "", "closed"
