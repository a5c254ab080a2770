"""`mcnqm scaling`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.console import Console

from mcnqm.checkpoint import Checkpoint
from mcnqm.cli.interrupts import said_on_interruption
from mcnqm.cli.outputs import Force, check_outputs, deliver
from mcnqm.cli.parsing import check_target, parse_contender
from mcnqm.cli.problems import Dim, Exponent, InitialStd, NoiseExponent, Spectrum, problem_of
from mcnqm.cli.tables import Column, print_side_by_side
from mcnqm.domains import integer
from mcnqm.engine.executor import Pool
from mcnqm.errors import ParameterError
from mcnqm.flags import explanations
from mcnqm.plots.wording import three_digits
from mcnqm.progress import RichMeter
from mcnqm.studies.scaling import ScalingConfig, cells_of, examples_of_bounds, run

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
    dim: Dim = None,
    exponent: Exponent = None,
    noise_exponent: NoiseExponent = None,
    initial_std: InitialStd = None,
    spectrum: Spectrum = None,
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
    force: Force = False,
) -> None:
    """Answer how the best learning rate and the steps to a target scale with batch size.

    For each optimizer and batch size the learning rate is tuned by simulation, with errors; theory is drawn through it
    where there is one. Reports the slope of log rate against log batch size in the small-batch regime and the critical
    batch size. An interrupted study continues with the same command.
    """
    contenders = dict(parse_contender(text) for text in optimizer) if optimizer else _DEFAULT.contenders
    config = ScalingConfig(
        problem=problem_of(1000, dim, exponent, noise_exponent, initial_std, spectrum),
        contenders=contenders,
        batch_sizes=tuple(2**k for k in range(integer("doublings", doublings, 0, 40) + 1)),
        target=target,
        trajectories=trajectories,
        replicates=replicates,
        seed=seed,
    )
    check_target(target, config.problem)
    _check_reach(config)
    check_outputs(output, figure, force)
    Pool(threads=threads)  # refused before there is a folder
    parts = Checkpoint(output.with_name(output.name + ".parts"), config.to_dict())
    with parts:
        said_on_interruption.append(f"Finished cells are kept in {parts.folder}; the same command continues.")
        study = run(config, checkpoint=parts, threads=threads, meter=RichMeter())

        def saved() -> None:
            parts.remove(cells_of(config))
            said_on_interruption.clear()

        deliver(study, output, figure, _draw, _show, saved=saved)


def _check_reach(config: ScalingConfig) -> None:
    """Raise `ParameterError` if at no batch size any optimizer can reach the target before the study gives up."""
    largest = config.batch_sizes[-1]
    fewest = examples_of_bounds(config.problem, config.target)["bayes_bound"] / largest
    if fewest > config.max_steps:
        allowed = (
            f"be one that can be reached: at batch size {largest} no optimizer needs fewer than {fewest:.3g} steps, "
            f"and the study gives up at {config.max_steps}"
        )
        raise ParameterError("target", config.target, allowed)


def _draw(study: xr.Dataset) -> Any:
    from mcnqm.plots.scaling import plot_scaling  # noqa: PLC0415 - Matplotlib takes a second to import

    return plot_scaling(study)


def _show(study: xr.Dataset, console: Console) -> None:
    _show_cells(study, console)
    _show_summary(study, console)


def _show_cells(study: xr.Dataset, console: Console) -> None:
    console.print(f"tuned by simulation: steps to risk {study.attrs['target']:g} ± error, effective rate")
    blocks = []
    for label in study["optimizer"].values:
        one = study.sel(optimizer=label)
        steps, errors, rates, edges, flags = (
            one[name].values for name in ("steps", "steps_stderr", "effective_lr", "at_edge", "flags")
        )
        needed = [
            f"{s:.0f} ± {e:.{0 if e >= 10 else 1}f}{'!' if flag else ''}"
            for s, e, flag in zip(steps, errors, flags, strict=True)
        ]
        rate = [f"{r:.2g}{'!' if edge else ''}" for r, edge in zip(rates, edges, strict=True)]
        blocks.append([Column(str(label), needed), Column("rate", rate)])
    print_side_by_side(console, Column("B", [f"{b:g}" for b in study["batch_size"].values]), blocks)
    for line in explanations(study["flags"]):
        console.print(f"! {line}", markup=False)


def _show_summary(study: xr.Dataset, console: Console) -> None:
    console.print("scaling of the rate, and limits in steps and examples (95 % intervals)")
    names = [str(label) for label in study["optimizer"].values]
    slopes, regimes = [], []
    limits: dict[str, list[str]] = {"S_min": [], "B_crit": []}
    for label in names:
        one = study.sel(optimizer=label)
        members = one["batch_size"].values[one["in_regime"].values]
        regimes.append(f"B ≤ {members.max():g}" if members.size else "too few points")
        slopes.append(f"{float(one['slope']):.3f} [{float(one['slope_low']):.3f}, {float(one['slope_high']):.3f}]")
        for name, cells in limits.items():
            value, low, high = (three_digits(float(one[name + end])) for end in ("", "_low", "_high"))
            cells.append(f"{value} [{low}, {high}]" if np.isfinite(float(one[name])) else "not reached")
    blocks = [[Column("log-log slope", slopes), Column("regime", regimes)]]
    blocks += [[Column(name, cells)] for name, cells in limits.items()]
    print_side_by_side(console, Column("optimizer", names, names=True), blocks)
