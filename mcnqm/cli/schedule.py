"""``mcnqm schedule``: optimised learning-rate schedules against constant rates and averages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.console import Console

from mcnqm.cli.curves import words_of
from mcnqm.cli.outputs import Force, check_outputs, deliver
from mcnqm.cli.parsing import check_target, parse_optimizer
from mcnqm.cli.problems import Dim, Exponent, InitialStd, NoiseExponent, Spectrum, problem_of
from mcnqm.cli.tables import Column, print_side_by_side
from mcnqm.errors import ParameterError
from mcnqm.progress import RichMeter
from mcnqm.studies.schedules import ScheduleConfig, run

__all__ = ["schedule_command"]

_DEFAULT = ScheduleConfig()
_SIZES = ",".join(map(str, _DEFAULT.batch_sizes))


def schedule_command(
    optimizer: Annotated[
        list[str] | None,
        typer.Option(
            "--optimizer", "-o", help='Such as "sgd momentum=0.9" or "adam"; the rate is optimised. Repeat to compare.'
        ),
    ] = None,
    dim: Dim = None,
    exponent: Exponent = None,
    noise_exponent: NoiseExponent = None,
    initial_std: InitialStd = None,
    spectrum: Spectrum = None,
    batch_size: Annotated[
        str, typer.Option("--batch-size", "-b", help="Examples per step: a number, or a list such as 1,16,256.")
    ] = _SIZES,
    target: Annotated[float, typer.Option(help="Risk to reach.")] = _DEFAULT.target,
    pieces: Annotated[int, typer.Option(help="Pieces of a schedule, each with a rate of its own.")] = _DEFAULT.pieces,
    largest_lr: Annotated[float | None, typer.Option(help="Rate that no schedule exceeds.")] = None,
    largest_risk: Annotated[
        float | None, typer.Option(help="Risk that is not exceeded on the way, at least the initial one; SGD only.")
    ] = None,
    seed: Annotated[int, typer.Option(help="0 to 2**64 - 2; the same seed gives the same bits.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    output: Annotated[Path | None, typer.Option(help="Save the Dataset here (netCDF, .nc).")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw steps, schedules and rates (.png, .pdf, .svg).")] = None,
    force: Force = False,
) -> None:
    """Find the learning-rate schedule that reaches a target risk in the fewest steps.

    Beside it: the best constant rate, that with averaged iterates, decaying families, the information bound of unbiased
    estimates and the Bayes bound, which no method beats. SGD and momentum exactly; Adam and RMSProp by theory, refined
    and confirmed by simulation; all others by simulation alone, which takes a minute for each batch size.
    """
    config = ScheduleConfig(
        problem=problem_of(1000, dim, exponent, noise_exponent, initial_std, spectrum),
        optimizers={text: _without_rate(text) for text in optimizer} if optimizer else _DEFAULT.optimizers,
        batch_sizes=_sizes(batch_size),
        target=target,
        pieces=pieces,
        largest_lr=largest_lr,
        largest_risk=largest_risk,
        seed=seed,
    )
    check_target(target, config.problem)
    check_outputs(output, figure, force)
    study = run(config, threads=threads, meter=RichMeter())
    deliver(study, output, figure, _draw, _show)


def _draw(study: xr.Dataset) -> Any:
    from mcnqm.plots.schedules import plot_schedules  # noqa: PLC0415 - Matplotlib takes a second to import

    return plot_schedules(study)


def _without_rate(text: str) -> Any:
    if any(word.startswith("lr=") for word in words_of(text)[1:]):
        raise ParameterError("optimizer", text, "leave out lr, which is optimised")
    return parse_optimizer(f"{text} lr=1")


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ParameterError("batch_size", text, "be whole numbers such as 1,16,256") from None
    if any(size < 1 for size in sizes) or list(sizes) != sorted(set(sizes)):
        raise ParameterError("batch_size", text, "be whole numbers >= 1 that increase, such as 1,16,256")
    return sizes


def _show(study: xr.Dataset, console: Console) -> None:
    for label in study["optimizer"].values:
        console.print(f"{label}: steps to risk {study.attrs['target']:g}")
        one = study.sel(optimizer=label)
        strategies = [str(m) for m in one["strategy"].values if np.isfinite(one["steps"].sel(strategy=m)).any()]
        blocks = [
            [Column(name, [f"{s:.0f}" if np.isfinite(s) else "-" for s in one["steps"].sel(strategy=name).values])]
            for name in strategies
        ]
        for name in ("information_bound", "bayes_bound"):
            title = name.replace("_", " ").replace("bayes", "Bayes")
            blocks.append([Column(title, [f"{s:.0f}" for s in one[name].values])])
        print_side_by_side(console, Column("B", [f"{b:g}" for b in one["batch_size"].values]), blocks)
