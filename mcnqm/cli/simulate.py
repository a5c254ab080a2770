"""`mcnqm simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.console import Console

from mcnqm.cli.outputs import Force, check_outputs, deliver
from mcnqm.cli.parsing import parse_numbers, parse_optimizer
from mcnqm.cli.tables import Column, print_table, width_of
from mcnqm.domains import integer
from mcnqm.errors import ParameterError
from mcnqm.flags import explanations
from mcnqm.plots.wording import constants, coordinate, labels, name_of, varying
from mcnqm.problems import NoisyQuadratic
from mcnqm.studies.comparison import DEFAULT_OPTIMIZERS, compare

__all__ = ["simulate_command"]


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
    trajectories: Annotated[int, typer.Option("--trajectories", "-r", help="Independent runs of each.")] = 64,
    dim: Annotated[int, typer.Option("--dim", "-d", help="Coordinates; the paper has 10000.")] = 1000,
    exponent: Annotated[float, typer.Option(help="Spectrum h = c = i**-exponent.")] = 1.0,
    seed: Annotated[int, typer.Option(help="0 to 2**64 - 1; the same seed gives the same bits.")] = 0,
    minibatch: Annotated[
        str, typer.Option(help="exact: the averaged gradient's law; per_example: average B drawn gradients.")
    ] = "exact",
    threads: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    output: Annotated[Path | None, typer.Option(help="Save the Dataset here (netCDF, .nc).")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw risk against steps here (.png, .pdf, .svg).")] = None,
    force: Force = False,
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
    check_outputs(output, figure, force)
    if figure is not None:
        integer("steps", steps, 1)  # a logarithmic axis has no 0

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
    deliver(runs, output, figure, _draw, None if quiet else _show)


def _draw(runs: xr.Dataset) -> Any:
    from mcnqm.plots.risk_curves import risk  # noqa: PLC0415 - Matplotlib takes a second to import

    return risk(runs)


def _show(runs: xr.Dataset, console: Console) -> None:
    """Risk of every setting at the end and at a tenth and a hundredth of it; what all share, above the table."""
    dims = varying(runs)
    single = {dim: 0 for dim in runs["risk"].dims if dim != "step" and dim not in dims}
    flat = runs[["risk", "risk_stderr", "flags", "diverged"]].isel(single).transpose(*dims, "step", "trajectory")
    count, steps = runs.sizes["trajectory"], runs["step"].values
    risk, error, flags = (flat[name].values.reshape(-1, steps.size) for name in ("risk", "risk_stderr", "flags"))
    lost = flat["diverged"].values.reshape(-1, count).sum(axis=-1)

    settings, places = [], np.unravel_index(np.arange(len(lost)), tuple(runs.sizes[dim] for dim in dims) or (1,))
    for dim, place in zip(dims, places, strict=False):
        names = [labels(coordinate(runs, dim))[k] for k in place]
        if dim == "optimizer":  # not repeated down the rows that it heads
            names = ["" if j and place[j] == place[j - 1] else name for j, name in enumerate(names)]
        settings.append(Column(name_of(coordinate(runs, dim)), names, names=dim == "optimizer"))
    results: list[Column] = []
    shown: set[int] = set()
    for k in np.unique([np.abs(steps - part).argmin() for part in (steps[-1] // 100, steps[-1] // 10, steps[-1])]):
        shown |= {k}
        cells = [
            f"{value:.4g}" + (f" ± {spread:.1g}" if np.isfinite(spread) else "") + ("!" if flag else "")
            for value, spread, flag in zip(risk[:, k], error[:, k], flags[:, k], strict=True)
        ]
        results.append(Column(f"step {steps[k]}", cells))
    extra = [Column("diverged", [f"{n} of {count}" for n in lost])] if lost.any() else []
    while len(results) > 1 and width_of([*settings, *results, *extra]) > console.width:
        del results[0]  # rather than cut numbers, show fewer

    facts = [*constants(runs), f"{count} trajectories" if count > 1 else "1 trajectory"]
    console.print(f"risk{' ± standard error' if count > 1 else ''}: {', '.join(facts)}", markup=False)
    print_table(console, [*settings, *results, *extra])
    for line in explanations(flags[:, sorted(shown)]):
        console.print(f"! {line}", markup=False)
