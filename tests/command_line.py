"""The command line without a process of its own."""

from __future__ import annotations

import shlex
import sys

import pytest

from mcnqm.cli import main


def in_this_process(monkeypatch, capsys, line):
    """A command line without a process of its own, in a terminal of 80 columns: exit code, output and errors."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr()
    return stopped.value.code or 0, shown.out, shown.err
