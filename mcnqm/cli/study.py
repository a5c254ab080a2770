"""`mcnqm study NAME`: studies of noise and landscapes, each with its figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
import xarray as xr
from rich.console import Console

from mcnqm._version import __version__
from mcnqm.checkpoint import Checkpoint
from mcnqm.cli.interrupts import said_on_interruption
from mcnqm.cli.outputs import Force, check_outputs, deliver
from mcnqm.domains import choice
from mcnqm.engine.executor import Pool
from mcnqm.errors import ParameterError
from mcnqm.progress import RichMeter
from mcnqm.studies import line_search, minima, regimes

__all__ = ["study_command"]


class _Study(NamedTuple):
    """What a study is: its module, how it is drawn, and what its table shows."""

    module: Any
    config: Any
    draw: Callable[[xr.Dataset], Any]
    shown: tuple[str, ...]
    simulates: bool = True


def _draw_minima(study: xr.Dataset) -> Any:
    from mcnqm.plots.minima import plot_minima  # noqa: PLC0415 - Matplotlib takes a second to import

    return plot_minima(study)


def _draw_line_search(study: xr.Dataset) -> Any:
    from mcnqm.plots.line_search import plot_line_search  # noqa: PLC0415 - as above

    return plot_line_search(study)


def _draw_regimes(study: xr.Dataset) -> Any:
    from mcnqm.plots.regimes import plot_regimes  # noqa: PLC0415 - as above

    return plot_regimes(study)


_STUDIES = {
    "minima": _Study(minima, minima.MinimaConfig, _draw_minima, ("chain", "sde", "simulated", "escape_steps")),
    "regimes": _Study(
        regimes, regimes.RegimesConfig, _draw_regimes, ("edge", "best_lr", "steps", "linear_until", "knee"), False
    ),
    "line-search": _Study(
        line_search, line_search.LineSearchConfig, _draw_line_search, ("ratio", "expected_ratio", "residual")
    ),
}


def study_command(
    name: Annotated[str, typer.Argument(help="minima, regimes or line-search.")],
    quick: Annotated[bool, typer.Option("--quick", help="A smaller study of the same questions.")] = False,
    seed: Annotated[int, typer.Option(help="0 to 2**64 - 1; the same seed gives the same bits.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Save the Dataset here (netCDF, .nc); finished parts meanwhile in OUTPUT.parts."),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the study here (.png, .pdf, .svg).")] = None,
    force: Force = False,
) -> None:
    """Run a study of noise and landscapes.

    `minima`: which of two minima is held. `regimes`: where rates may grow with the batch. `line-search`: the loss along
    the update's direction.

    With `--output`, an interrupted study continues with the same command.
    """
    study = _STUDIES[choice("name", name, tuple(_STUDIES))]
    config = study.config(seed=seed)
    if quick:
        config = study.module.quick(config)
    check_outputs(output, figure, force)
    Pool(threads=threads)  # refused before there is a folder
    if threads is not None and not study.simulates:
        raise ParameterError("threads", threads, f"be left out: {name} is in closed form")
    how = {"threads": threads} if study.simulates else {}

    def show(result: xr.Dataset, console: Console) -> None:
        for variable in study.shown:
            unit = result[variable].attrs.get("units", "1")
            what = result[variable].attrs.get("long_name", variable.replace("_", " "))
            console.print(f"{what}, {variable}" + ("" if unit == "1" else f" ({unit})"), markup=False)
            table = result[variable].to_series().round(4)
            console.print((table if result[variable].ndim == 1 else table.unstack(-1)).to_string(), markup=False)

    if output is None:
        result = study.module.run(config, meter=RichMeter(), **how)
        deliver(result, None, figure, study.draw, show)
        return
    decides = {"study": name, **config.to_dict(), "mcnqm_version": __version__}
    parts = Checkpoint(output.with_name(output.name + ".parts"), decides)
    with parts:
        said_on_interruption.append(f"Finished parts are kept in {parts.folder}; the same command continues.")
        result = study.module.run(config, checkpoint=parts, meter=RichMeter(), **how)

        def saved() -> None:
            parts.remove(study.module.cells_of(config))
            said_on_interruption.clear()

        deliver(result, output, figure, study.draw, show, saved=saved)
