"""`mcnqm reproduce`."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import xarray as xr
from rich.console import Console

from mcnqm.cli.caching import kept_cells
from mcnqm.cli.outputs import Undelivered, written
from mcnqm.engine.executor import Pool
from mcnqm.errors import ParameterError
from mcnqm.files import check_writable, write_dataset, write_whole
from mcnqm.progress import RichMeter
from mcnqm.studies.paper import FIGURES, FULL, QUICK, Work

__all__ = ["reproduce_command"]


def reproduce_command(
    figure: Annotated[
        list[str] | None, typer.Argument(metavar="[FIGURE]...", help=f"Of {', '.join(FIGURES)}. Default: all.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick/--full", help="d = 1000 in a minute or two, or the paper's d = 10000.")
    ] = True,
    folder: Annotated[Path, typer.Option("--output", help="Folder for figure3a.png, .svg and .nc, ...")] = (
        Path("reproduced")
    ),
    seed: Annotated[int, typer.Option(help="Of all simulations, 0 to 2**63 - 1.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of finished parts. Default: one for each configuration, in the user's cache."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Draw the figures of Zhang et al. 2019 again, on the same axes.

    Lines are closed forms; points with error bars are simulated, true Adam among them. Each figure is written as PNG
    and as SVG, with its numbers beside it. Finished parts are kept, and an interrupted command continues.
    """
    chosen = list(dict.fromkeys(figure)) if figure else list(FIGURES)
    for number in chosen:
        if number not in FIGURES:
            raise ParameterError("figure", number, f"be one of {', '.join(FIGURES)}")
    written.clear()
    if os.path.lexists(folder) and not folder.is_dir():
        raise ParameterError("output", str(folder), "be a folder")
    paths = {number: [folder / f"figure{number}{end}" for end in (".nc", ".png", ".svg")] for number in chosen}
    for path in (path for group in paths.values() for path in group):
        if os.path.lexists(path) and not force:
            raise ParameterError("output", str(path), "hold new files, but this exists; use --force to overwrite")
    Pool(threads=threads)  # refused before there is a folder
    folder.mkdir(parents=True, exist_ok=True)
    check_writable("output", paths[chosen[0]][0], (".nc",))
    work = Work(QUICK if quick else FULL, seed=seed, threads=threads)
    data: dict[str, xr.Dataset] = {}
    meter = RichMeter()
    with ExitStack() as stack:
        work = replace(work, cells=kept_cells(stack, work.config(), cache, "reproduce"))
        meter.start(sum(FIGURES[number].cost for number in chosen), "figures")
        try:
            for number in chosen:
                data[number] = FIGURES[number].data(work)
                meter.advance(FIGURES[number].cost)
        finally:
            meter.close()
    _write(data, paths)


def _write(data: dict[str, xr.Dataset], paths: dict[str, list[Path]]) -> None:
    """Files of each figure, and what it is drawn with; what fails costs none of the others."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second to import

    from mcnqm.plots.paper import plot_paper_figure  # noqa: PLC0415

    console, failures = Console(highlight=False), []
    for number, one in data.items():
        try:
            write_dataset(_without_switches(one), paths[number][0])
            written.append(paths[number][0])
            with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mcnqm"}):
                drawn = plot_paper_figure(one)
                for path in paths[number][1:]:
                    write_whole(path, drawn.savefig)
                    written.append(path)
        except Exception as error:
            failures.append((f"figure {number} was not written", error))
        console.print(f"figure {number}: {one.attrs['caption']}", markup=False)
        console.print(f"  {one.attrs['settings']}", markup=False)
    for path in written:
        typer.echo(f"wrote {path}")
    if failures:
        raise Undelivered(failures)


def _without_switches(data: xr.Dataset) -> xr.Dataset:
    """Booleans as 0 and 1, which every reader of netCDF knows."""
    switches = {name: data[name].astype("int8") for name in data.coords if data[name].dtype == bool}
    return data.assign_coords(switches).assign_attrs(config=json.dumps(json.loads(data.attrs["config"])))
