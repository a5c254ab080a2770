"""`mcnqm simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.console import Console

from mcnqm.cli.curves import parse_average, parse_numbers, parse_value, parse_whole, words_of
from mcnqm.cli.outputs import Force, check_outputs, deliver
from mcnqm.cli.parsing import expanded, parse_optimizer
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
from mcnqm.cli.tables import Column, print_table, width_of
from mcnqm.domains import choice, integer
from mcnqm.errors import ParameterError
from mcnqm.flags import explanations
from mcnqm.plots import VIEWS
from mcnqm.plots.wording import constants, coordinate, labels, name_of, varying
from mcnqm.studies.comparison import DEFAULT_OPTIMIZERS, compare

__all__ = ["simulate_command"]

_VIEWS = ("risk", "ensemble", "distribution", "paths", "phase", "state", "heatmap")


def simulate_command(
    optimizer: Annotated[
        list[str] | None,
        typer.Option(
            "--optimizer",
            "-o",
            metavar="SPEC",
            help='Name and hyperparameters, such as "sgd lr=0.1 momentum=0.9"; repeat to compare. A value may be a '
            "list 0.1,0.2, a log-spaced range 1e-3:1e-1:9 or a schedule cosine(0.5,steps=1000): constant, linear, "
            "cosine, exponential, piecewise, warmup_stable_decay. Names: sgd, adam, rmsprop, lion, or your own as "
            "module:Class. Default: SGD, momentum 0.9 and Adam.",
        ),
    ] = None,
    batch_size: Annotated[
        str, typer.Option("--batch-size", "-b", help="Examples per step; a list or a range to sweep, or a schedule.")
    ] = "16",
    steps: Annotated[int, typer.Option("--steps", "-n", help="Steps to run.")] = 30_000,
    trajectories: Annotated[int, typer.Option("--trajectories", "-r", help="Independent runs of each.")] = 64,
    dim: Dim = None,
    exponent: Exponent = None,
    noise_exponent: NoiseExponent = None,
    initial_std: InitialStd = None,
    spectrum: Spectrum = None,
    noise_slope: NoiseSlope = None,
    noise_df: NoiseDf = None,
    landscape: LandscapeSpec = None,
    seed: Annotated[int, typer.Option(help="0 to 2**64 - 1; the same seed gives the same bits.")] = 0,
    minibatch: Annotated[
        str, typer.Option(help="exact: the averaged gradient's law; per_example: average B drawn gradients.")
    ] = "exact",
    average: Annotated[
        str | None,
        typer.Option(
            help="Average the iterates: a weight of the past, 0.99, or tail(100), polynomial(3), growing(0.99)."
        ),
    ] = None,
    record: Annotated[
        str | None, typer.Option(help="Steps to record: a list 0,10,100, or a log-spaced range 1:30000:50.")
    ] = None,
    coordinates: Annotated[str | None, typer.Option(help="Coordinates whose paths to save, such as 0,9,99.")] = None,
    record_state: Annotated[
        bool, typer.Option("--record-state", help="Save the optimizer's state and gradients there, too.")
    ] = False,
    target: Annotated[
        str | None, typer.Option(help="Loss to reach, or a list: the first step at which each trajectory is there.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    output: Annotated[Path | None, typer.Option(help="Save the Dataset here (netCDF, .nc).")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw it here (.png, .pdf, .svg).")] = None,
    view: Annotated[
        str, typer.Option(help=f"What --figure shows: {', '.join(_VIEWS)} (see mcnqm plot --help).")
    ] = "risk",
    force: Force = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no table.")] = False,
) -> None:
    """Run optimizers on noisy minibatch gradients and report the risk.

    Optimizers compared in one call see the same noise. Diverged runs are reported as inf.
    """
    problem = any_problem_of(
        landscape, 1000, dim, exponent, noise_exponent, initial_std, spectrum, noise_slope, noise_df
    )
    chosen = _optimizers(optimizer) if optimizer else dict(DEFAULT_OPTIMIZERS)
    batch = parse_value("batch_size", batch_size)
    options: dict[str, Any] = {
        "average": None if average is None else parse_average(average),
        "record": None if record is None else parse_whole("record", record),
        "coordinates": None if coordinates is None else parse_whole("coordinates", coordinates),
        "record_state": record_state,
        "target": None if target is None else parse_numbers("target", target),
    }
    check_outputs(output, figure, force)
    _check_view(view, figure, coordinates is not None, record_state)
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
        **options,
        threads=threads,
        progress=not quiet,
    )
    drawn = None
    if figure is not None and view != "risk":
        drawn = VIEWS[view](runs)  # before anything is written: a sweep may have nothing of the kind
    deliver(runs, output, figure, _draw if drawn is None else lambda _: drawn, None if quiet else _show)


def _check_view(view: str, figure: Path | None, paths: bool, states: bool) -> None:
    """Raise `ParameterError` if a view is not one of runs, is not to be drawn, or shows what is not to be recorded."""
    choice("view", view, _VIEWS)
    if view == "risk":
        return
    if figure is None:
        raise ParameterError("view", view, "go with --figure, which it draws")
    if view in ("paths", "phase", "state") and not paths:
        raise ParameterError("view", view, "go with --coordinates, whose paths it shows")
    if view in ("phase", "state") and not states:
        raise ParameterError("view", view, "go with --record-state, which it shows")


def _optimizers(texts: list[str]) -> dict[str, Any]:
    """By their texts; beside others, each point of a sweep is one of its own."""
    several: dict[str, Any] = {}
    for text in texts:
        label = " ".join(words_of(text))
        for name, one in (expanded(label) if len(texts) > 1 else {label: parse_optimizer(label)}).items():
            if name in several:
                raise ParameterError("optimizer", texts, "be given once each")
            several[name] = one
    return several


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
    extra = _passages(runs, dims)
    extra += [Column("diverged", [f"{n} of {count}" for n in lost])] if lost.any() else []
    while len(results) > 1 and width_of([*settings, *results, *extra]) > console.width:
        del results[0]  # rather than cut numbers, show fewer

    facts = [*constants(runs), f"{count} trajectories" if count > 1 else "1 trajectory"]
    console.print(f"risk{' ± standard error' if count > 1 else ''}: {', '.join(facts)}", markup=False)
    print_table(console, [*settings, *results, *extra])
    for line in explanations(flags[:, sorted(shown)]):
        console.print(f"! {line}", markup=False)


def _passages(runs: xr.Dataset, dims: list[str]) -> list[Column]:
    """The median of first passages, a column for each target."""
    if "first_passage" not in runs:
        return []
    single = {dim: 0 for dim in runs["risk"].dims if dim != "step" and dim not in dims}
    passages = runs["first_passage"].isel(single)
    passages = passages if "target" in passages.dims else passages.expand_dims("target")
    flat = passages.transpose("target", *dims, "trajectory").values
    medians = np.quantile(flat.reshape(flat.shape[0], -1, flat.shape[-1]), 0.5, axis=-1, method="lower")
    names = np.atleast_1d(runs["target"].values)
    return [
        Column(f"steps to {name:g}, median", [f"{m:.0f}" if np.isfinite(m) else "never" for m in row])
        for name, row in zip(names, medians, strict=True)
    ]
