"""`mcnqm scaling`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

from mcnqm.cli.parsing import parse_contender
from mcnqm.domains import integer
from mcnqm.files import check_writable, write_dataset, write_whole
from mcnqm.plots.scaling import plot_scaling
from mcnqm.problem import NoisyQuadratic
from mcnqm.progress import RichMeter
from mcnqm.studies.scaling import ScalingConfig, run

__all__ = ["scaling_command"]

_DEFAULT = ScalingConfig()


def scaling_command(
    optimizer: Annotated[
        list[str] | None,
        typer.Option(
            "--optimizer",
            "-o",
            metavar="NAME",
            help="sgd, momentum, nesterov, momentum-tuned, adam, adam-tuned, adam-examples, rmsprop, lion; or fixed "
            'hyperparameters, the rate being tuned: "adam beta2=0.99". Repeat for several. '
            "Default: sgd, momentum, adam.",
        ),
    ] = None,
    dim: Annotated[int, typer.Option("--dim", "-d", help="Coordinates; the paper has 10000.")] = 1000,
    exponent: Annotated[float, typer.Option(help="Spectrum h = c = i**-exponent.")] = 1.0,
    doublings: Annotated[int, typer.Option(help="Batch sizes 1, 2, 4, ... 2**doublings.")] = 16,
    target: Annotated[float, typer.Option(help="Risk to reach.")] = _DEFAULT.target,
    trajectories: Annotated[int, typer.Option("--trajectories", "-r", help="Of each replicate.")] = (
        _DEFAULT.trajectories
    ),
    replicates: Annotated[int, typer.Option(help="Groups of trajectories, for the errors.")] = _DEFAULT.replicates,
    seed: Annotated[int, typer.Option(help="0 to 2**64 - 1; the same seed gives the same bits.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    output: Annotated[
        Path, typer.Option(help="Save the Dataset here (netCDF, .nc); finished cells meanwhile in OUTPUT.parts.")
    ] = Path("scaling.nc"),
    figure: Annotated[Path | None, typer.Option(help="Draw steps and rates here (.png, .pdf, .svg).")] = None,
) -> None:
    """Answer how the best learning rate and the steps to a target scale with batch size.

    For each optimizer and batch size the learning rate is tuned by simulation, with errors; theory is drawn through it
    where there is one. Reports the slope of log rate against log batch size in the small-batch regime and the critical
    batch size. An interrupted study continues with the same command.
    """
    contenders = dict(parse_contender(text) for text in optimizer) if optimizer else _DEFAULT.contenders
    config = ScalingConfig(
        problem=NoisyQuadratic.power_law(integer("dim", dim, 1), exponent),
        contenders=contenders,
        batch_sizes=tuple(2**k for k in range(integer("doublings", doublings, 0, 40) + 1)),
        target=target,
        trajectories=trajectories,
        replicates=replicates,
        seed=seed,
    )
    output = check_writable("output", output, (".nc",))
    figure = check_writable("figure", figure, (".png", ".pdf", ".svg")) if figure else None
    parts = output.with_name(output.name + ".parts")
    try:
        study = run(config, checkpoint=parts, threads=threads, meter=RichMeter())
    except KeyboardInterrupt:
        typer.echo(f"Finished cells are kept in {parts}; the same command continues.", err=True)
        raise
    write_dataset(study, output)
    if figure:
        write_whole(figure, plot_scaling(study).savefig)
    shutil.rmtree(parts)
    console = Console(highlight=False)
    console.print(_cells(study))
    console.print(_summary(study))
    for path in (output, figure):
        if path:
            typer.echo(f"wrote {path}")


def _cells(study: xr.Dataset) -> Table:
    table = Table(title=f"tuned by simulation: steps to risk {study.attrs['target']:g} ± error, effective rate")
    table.box = box.SIMPLE_HEAD
    table.padding = (0, 1, 0, 0)
    table.add_column("B", justify="right", no_wrap=True)
    for label in study["optimizer"].values:
        table.add_column(str(label), justify="right", no_wrap=True)
        table.add_column("rate", justify="right", no_wrap=True)
    for b in study["batch_size"].values:
        row = [f"{b:g}"]
        for label in study["optimizer"].values:
            cell = study.sel(optimizer=label, batch_size=b)
            error = float(cell["steps_stderr"])
            row.append(f"{float(cell['steps']):.0f} ± {error:.{0 if error >= 10 else 1}f}")
            row.append(f"{float(cell['effective_lr']):.2g}{'!' if cell['at_edge'] else ''}")
        table.add_row(*row)
    return table


def _summary(study: xr.Dataset) -> Table:
    table = Table(
        title="scaling of the rate, and limits in steps and examples (95 % intervals)",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("optimizer", "log-log slope", "regime", "S_min", "B_crit"):
        table.add_column(heading, justify="left" if heading == "optimizer" else "right", no_wrap=heading != "regime")
    for label in study["optimizer"].values:
        one = study.sel(optimizer=label)
        members = one["batch_size"].values[one["in_regime"].values]
        regime = f"B ≤ {members.max():g}" if members.size else "too few points"
        cells = [f"{float(one['slope']):.3f} [{float(one['slope_low']):.3f}, {float(one['slope_high']):.3f}]", regime]
        for name in ("S_min", "B_crit"):
            low, high = float(one[f"{name}_low"]), float(one[f"{name}_high"])
            known = np.isfinite(float(one[name]))
            cells.append(f"{float(one[name]):.3g} [{low:.3g}, {high:.3g}]" if known else "not reached")
        table.add_row(str(label), *cells)
    return table
