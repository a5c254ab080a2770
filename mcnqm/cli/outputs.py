"""Files that a command is going to write: checked before the work, and written before anything is printed.

The data file comes first, then the figure, then the table on the terminal. Each is tried whatever became of the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import xarray as xr
from rich.console import Console

from mcnqm.cli.tables import console_of
from mcnqm.errors import ParameterError
from mcnqm.files import check_writable, write_dataset, write_whole

__all__ = ["Force", "Undelivered", "check_outputs", "deliver", "written"]

_SUFFIXES = {"output": (".nc",), "figure": (".png", ".pdf", ".svg")}

Force = Annotated[bool, typer.Option("--force", help="Overwrite files of --output and --figure that exist.")]
"""The option that every command with outputs has."""

written: list[Path] = []
"""Files that this command has written so far."""


class Undelivered(Exception):  # noqa: N818 - it holds errors, of which there may be several
    """Some of a command's results could not be written or shown, after all the others were.

    Attributes
    ----------
    failures : list of (str, Exception)
        What could not be done, and why.
    """

    def __init__(self, failures: list[tuple[str, Exception]]) -> None:
        self.failures = failures
        super().__init__("; ".join(f"{what}: {error}" for what, error in failures))


def check_outputs(output: Path | None, figure: Path | None, force: bool, *, called: str = "figure") -> None:
    """Raise `ParameterError` where one cannot be written, or exists and may not be overwritten.

    `called` is the option that names the figure.

    Examples
    --------
    >>> check_outputs(Path("runs.nc"), None, force=False)
    >>> check_outputs(Path(__file__).with_suffix(".txt"), None, force=True)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: output must end in .nc, got '...outputs.txt'
    """
    written.clear()
    for name, path in (("output", output), ("figure", figure)):
        if path is None:
            continue
        option = called if name == "figure" else name
        check_writable(option, path, _SUFFIXES[name])
        if os.path.lexists(path) and not force:
            raise ParameterError(option, str(path), "be a new file, but it exists; use --force to overwrite")


def deliver(
    result: xr.Dataset,
    output: Path | None,
    figure: Path | None,
    draw: Callable[[xr.Dataset], Any],
    show: Callable[[xr.Dataset, Console], None] | None,
    *,
    saved: Callable[[], None] | None = None,
) -> None:
    """Write the data, then the figure, then show the table; what fails costs none of the others.

    Parameters
    ----------
    result : Dataset
    output, figure : Path or None
        Where to write it, and its picture.
    draw : callable
        Makes a Matplotlib figure of the result.
    show : callable or None
        Prints the result; None for a quiet command.
    saved : callable, optional
        What to do once the data file is on the disk.

    Raises
    ------
    Undelivered
        In the end, if anything failed.
    """
    failures: list[tuple[str, Exception]] = []

    def attempt(what: str, step: Callable[[], None]) -> bool:
        try:
            step()
        except Exception as error:
            failures.append((what, error))
            return False
        return True

    def put_data() -> None:
        assert output is not None
        write_dataset(result, output)
        written.append(output)

    def put_figure() -> None:
        assert figure is not None
        write_whole(figure, draw(result).savefig)
        written.append(figure)

    if (output is None or attempt(f"{output} was not written", put_data)) and saved is not None:
        attempt("the parts of the study were not removed", saved)
    if figure is not None:
        attempt(f"{figure} was not drawn", put_figure)
    if show is not None:
        attempt("the table was not shown", lambda: show(result, console_of()))
        for path in written:
            typer.echo(f"wrote {path}")
    if failures:
        raise Undelivered(failures)
