"""Files that a command is going to write: checked before the work, and never overwritten without a word."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mcnqm.errors import ParameterError
from mcnqm.files import check_writable

__all__ = ["Force", "check_outputs"]

_SUFFIXES = {"output": (".nc",), "figure": (".png", ".pdf", ".svg")}

Force = Annotated[bool, typer.Option("--force", help="Overwrite files of --output and --figure that exist.")]
"""The option that every command with outputs has."""


def check_outputs(output: Path | None, figure: Path | None, force: bool) -> None:
    """Raise `ParameterError` where one cannot be written, or exists and may not be overwritten.

    Examples
    --------
    >>> check_outputs(Path("runs.nc"), None, force=False)
    >>> check_outputs(Path(__file__).with_suffix(".txt"), None, force=True)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: output must end in .nc, got '...outputs.txt'
    """
    for name, path in (("output", output), ("figure", figure)):
        if path is None:
            continue
        check_writable(name, path, _SUFFIXES[name])
        if os.path.lexists(path) and not force:
            raise ParameterError(name, str(path), "be a new file, but it exists; use --force to overwrite")
