"""`mcnqm scaling`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.console import Console

from mcnqm.checkpoint import Checkpoint
from mcnqm.cli.curves import parse_numbers
from mcnqm.cli.interrupts import said_on_interruption
from mcnqm.cli.outputs import Force, check_outputs, deliver
from mcnqm.cli.parsing import check_target, parse_contenders
from mcnqm.cli.problems import (
    Dim,
    Exponent,
    InitialStd,
    LandscapeSpec,
    NoiseDf,
    NoiseExponent,
    NoiseSlope,
    Spectrum,
    any_problem_of,
)
from mcnqm.cli.tables import Column, print_side_by_side
from mcnqm.domains import integer
from mcnqm.engine.executor import Pool
from mcnqm.errors import ParameterError
from mcnqm.flags import explanations
from mcnqm.plots.wording import three_digits
from mcnqm.problems import NoisyQuadratic
from mcnqm.progress import RichMeter
from mcnqm.studies.scaling import ScalingConfig, cells_of, examples_of_bounds, run
from mcnqm.studies.several import ALONG, Parts, configs_of, members, run_each

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
            'hyperparameters, the rate being tuned: "adam beta2=0.99", "sgd precondition=0,0.5,1". Repeat for several. '
            "Default: sgd, momentum, adam.",
        ),
    ] = None,
    dim: Dim = None,
    exponent: Exponent = None,
    noise_exponent: NoiseExponent = None,
    initial_std: InitialStd = None,
    spectrum: Spectrum = None,
    noise_slope: NoiseSlope = None,
    noise_df: NoiseDf = None,
    landscape: LandscapeSpec = None,
    doublings: Annotated[int, typer.Option(help="Batch sizes 1, 2, 4, ... 2**doublings.")] = 16,
    target: Annotated[str, typer.Option(help="Risk to reach, or a list: a study of each.")] = f"{_DEFAULT.target:g}",
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
    contenders = dict(_DEFAULT.contenders)
    if optimizer:
        contenders = {label: one for text in optimizer for label, one in parse_contenders(text).items()}
    targets = np.atleast_1d(parse_numbers("target", target)).tolist()
    config = ScalingConfig(
        problem=any_problem_of(
            landscape, 1000, dim, exponent, noise_exponent, initial_std, spectrum, noise_slope, noise_df
        ),
        contenders=contenders,
        batch_sizes=tuple(2**k for k in range(integer("doublings", doublings, 0, 40) + 1)),
        target=targets[0],
        trajectories=trajectories,
        replicates=replicates,
        seed=seed,
    )
    each = configs_of(config, targets, None)
    for one in each.values():
        check_target(one.target, one.problem)
        _check_reach(one)
    check_outputs(output, figure, force)
    Pool(threads=threads)  # refused before there is a folder
    folder = output.with_name(output.name + ".parts")
    parts = Checkpoint(folder, config.to_dict()) if len(each) == 1 else Parts(folder, each)
    with parts:
        said_on_interruption.append(f"Finished cells are kept in {folder}; the same command continues.")
        if isinstance(parts, Checkpoint):
            study = run(config, checkpoint=parts, threads=threads, meter=RichMeter())
        else:
            study = run_each(config, targets=targets, checkpoint=parts, threads=threads, meter=RichMeter())

        def saved() -> None:
            if isinstance(parts, Checkpoint):
                parts.remove(cells_of(config))
            else:
                parts.remove()
            said_on_interruption.clear()

        deliver(study, output, figure, _draw, _show, saved=saved)


def _check_reach(config: ScalingConfig) -> None:
    """Raise `ParameterError` if at no batch size any optimizer can reach the target before the study gives up."""
    largest, problem, slack = config.batch_sizes[-1], config.problem, 1.0
    if isinstance(problem, NoisyQuadratic) and (problem.noise_df is not None or problem.multiplicative_noise.any()):
        # Of other noise no bound is known: that of its additive, normal part, if it is missed by far.
        problem = NoisyQuadratic(problem.curvature, problem.noise, problem.initial_mean, problem.initial_std)
        slack = 0.01
    fewest = slack * examples_of_bounds(problem, config.target)["bayes_bound"] / largest
    if fewest > config.max_steps:  # of a landscape, NaN: nothing is refused
        allowed = (
            f"be one that can be reached: at batch size {largest} no optimizer needs fewer than {fewest:.3g} steps, "
            f"and the study gives up at {config.max_steps}"
        )
        raise ParameterError("target", config.target, allowed)


def _draw(study: xr.Dataset) -> Any:
    from mcnqm.plots.scaling import plot_scaling  # noqa: PLC0415 - Matplotlib takes a second to import
    from mcnqm.plots.several import plot_several  # noqa: PLC0415

    return (plot_several if set(ALONG) & set(study.dims) else plot_scaling)(study)


def _show(study: xr.Dataset, console: Console) -> None:
    for _, one in members(study):
        _show_cells(one, console)
        _show_summary(one, console)


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
