"""`mcnqm simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

from mcnqm.cli.parsing import parse_numbers, parse_optimizer
from mcnqm.domains import integer
from mcnqm.errors import ParameterError
from mcnqm.files import check_writable, write_dataset, write_whole
from mcnqm.plots.risk import plot_risk
from mcnqm.problem import NoisyQuadratic
from mcnqm.studies.comparison import DEFAULT_OPTIMIZERS, compare

__all__ = ["simulate_command"]

_FIGURES = (".png", ".pdf", ".svg")


def simulate_command(
    optimizer: Annotated[
        list[str] | None,
        typer.Option(
            "--optimizer",
            "-o",
            metavar="SPEC",
            help='Name and hyperparameters, such as "sgd lr=0.1 momentum=0.9"; repeat to compare. A value may be a '
            "list 0.1,0.2 or a log-spaced range 1e-3:1e-1:9. Names: sgd, adam, rmsprop, lion, or your own as "
            "module:Class. Default: SGD, momentum 0.9 and Adam.",
        ),
    ] = None,
    batch_size: Annotated[
        str, typer.Option("--batch-size", "-b", help="Examples per step; a list or a range to sweep.")
    ] = "16",
    steps: Annotated[int, typer.Option("--steps", "-n", help="Steps to run.")] = 30_000,
    trajectories: Annotated[int, typer.Option("--trajectories", "-r", help="Independent runs of each.")] = 16,
    dim: Annotated[int, typer.Option("--dim", "-d", help="Coordinates; the paper has 10000.")] = 1000,
    exponent: Annotated[float, typer.Option(help="Spectrum h = c = i**-exponent.")] = 1.0,
    seed: Annotated[int, typer.Option(help="0 to 2**64 - 1; the same seed gives the same bits.")] = 0,
    minibatch: Annotated[
        str, typer.Option(help="exact: the averaged gradient's law; per_example: average B drawn gradients.")
    ] = "exact",
    threads: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    output: Annotated[Path | None, typer.Option(help="Save the Dataset here (netCDF, .nc).")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw risk against steps here (.png, .pdf, .svg).")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no table.")] = False,
) -> None:
    """Run optimizers on noisy minibatch gradients and report the risk.

    Optimizers compared in one call see the same noise. Diverged runs are reported as inf.
    """
    problem = NoisyQuadratic.power_law(integer("dim", dim, 1), exponent)
    chosen = {text: parse_optimizer(text) for text in optimizer} if optimizer else dict(DEFAULT_OPTIMIZERS)
    if optimizer and len(chosen) < len(optimizer):
        raise ParameterError("optimizer", optimizer, "be given once each")
    batch = parse_numbers("batch_size", batch_size)
    output = check_writable("output", output, (".nc",)) if output else None
    figure = check_writable("figure", figure, _FIGURES) if figure else None

    runs = compare(
        problem,
        chosen,
        batch,
        steps,
        trajectories=trajectories,
        seed=seed,
        minibatch=minibatch,
        threads=threads,
        progress=not quiet,
    )
    if not quiet:
        Console(highlight=False).print(_table(runs))
    if output:
        write_dataset(runs, output)
    if figure:
        write_whole(figure, plot_risk(runs).savefig)
    for path in (output, figure):
        if path and not quiet:
            typer.echo(f"wrote {path}")


def _table(runs: xr.Dataset) -> Table:
    """Risk of every setting at the end and at a tenth and a hundredth of it."""
    steps = runs["step"].values
    wanted = [steps[-1] // 100, steps[-1] // 10, steps[-1]]
    shown = np.unique([int(np.abs(steps - w).argmin()) for w in wanted])
    dims = [dim for dim in runs["risk"].dims if dim != "step"]
    table = Table(title="risk ± standard error", box=box.SIMPLE_HEAD)
    for dim in dims:
        table.add_column(str(dim))
    for k in shown:
        table.add_column(f"step {steps[k]}", justify="right", no_wrap=True)
    table.add_column("diverged", justify="right")
    flat = runs[["risk", "risk_stderr", "diverged"]].stack(setting=dims)
    for j in range(flat.sizes["setting"]):
        one = flat.isel(setting=j)
        labels = [one.coords[dim].item() for dim in dims]
        cells = []
        for k in shown:
            risk, error = (float(one[name].isel(step=int(k))) for name in ("risk", "risk_stderr"))
            cells.append(f"{risk:.4g}" + (f" ± {error:.1g}" if np.isfinite(error) else ""))
        lost = int(one["diverged"].sum())
        table.add_row(
            *(label if isinstance(label, str) else f"{label:g}" for label in labels),
            *cells,
            f"{lost} of {runs.sizes['trajectory']}",
        )
    return table
