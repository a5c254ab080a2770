"""`mcnqm verify`."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import typer
from rich import box
from rich.table import Table

from mcnqm import averaging
from mcnqm.cli.curves import parse_numbers
from mcnqm.cli.parsing import parse_optimizer
from mcnqm.cli.problems import Dim, Exponent, InitialStd, NoiseDf, NoiseExponent, NoiseSlope, Spectrum, problem_of
from mcnqm.cli.tables import console_of
from mcnqm.comparison import agreement
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD
from mcnqm.problems import DoubleWell, NoisyQuadratic, Problem, QuarticWell

__all__ = ["LINEAR_OPTIMIZERS", "verify_command"]

LINEAR_OPTIMIZERS: dict[str, SGD] = {
    "SGD": SGD(lr=0.1),
    "SGD at the edge": SGD(lr=1.9),
    "momentum": SGD(lr=0.05, momentum=0.9),
    "momentum at the edge": SGD(lr=3.6, momentum=0.9),
    "Nesterov": SGD(lr=0.05, momentum=0.9, nesterov=True),
    "weight decay": SGD(lr=0.1, weight_decay=0.1),
    "dampening, weight decay": SGD(lr=0.5, momentum=0.9, dampening=0.9, weight_decay=0.1),
    "SGD, p = 0.5": SGD(lr=0.02, precondition=0.5),
    "momentum, p = 0.75": SGD(lr=0.01, momentum=0.9, precondition=0.75),
    "Nesterov, p = 1": SGD(lr=0.01, momentum=0.5, nesterov=True, precondition=1.0),
}
"""Every kind of linear optimizer, well inside stability and near its edge."""

_COLUMNS = {
    "mean θ": ["theta_mean"],
    "var θ": ["theta_variance"],
    "mean m": ["momentum_mean"],
    "var m": ["momentum_variance"],
    "cov": ["theta_momentum_covariance"],
    "θ̄": ["average_mean", "average_variance"],
    "risk": ["risk"],
}
"""Moments whose largest z-score a column shows."""


def _averaged(problem: Problem, steps: int) -> dict[str, tuple[Problem, SGD, Any]]:
    """Runs that are judged by an average of the iterates, whose weights stay the same or change with the step."""
    late = averaging.tail(steps // 2)
    return {
        "SGD, exponential average": (problem, SGD(lr=0.5), 0.99),
        "momentum, average of the second half": (problem, SGD(lr=0.05, momentum=0.9), late),
        "Nesterov, polynomial average": (problem, SGD(lr=0.05, momentum=0.9, nesterov=True), averaging.polynomial(3)),
    }


def _other_laws(problem: NoisyQuadratic, steps: int) -> dict[str, tuple[Problem, SGD, Any]]:
    """Problems under which no law is Gaussian: their expectations are compared."""
    h = problem.curvature
    rising = NoisyQuadratic(h, multiplicative_noise=0.5 * h**2)
    heavy = NoisyQuadratic(h, noise_df=6.0)
    quartic: Any = QuarticWell  # to a type checker, the NamedTuple it is made of
    return {
        "SGD, multiplicative noise": (rising, SGD(lr=0.5), None),
        "momentum, multiplicative noise": (rising, SGD(lr=0.05, momentum=0.9), None),
        "Nesterov, multiplicative noise": (rising, SGD(lr=0.05, momentum=0.9, nesterov=True), None),
        "p = 0.5, multiplicative noise": (rising, SGD(lr=0.2, precondition=0.5), None),
        "SGD, average, multiplicative noise": (rising, SGD(lr=0.5), averaging.tail(steps // 2)),
        "SGD, Student's t": (heavy, SGD(lr=0.5), None),
        "momentum, Student's t": (heavy, SGD(lr=0.05, momentum=0.9), None),
        "SGD, two wells": (DoubleWell(), SGD(lr=0.1), None),
        "SGD, quartic well": (quartic(initial_mean=1.0, initial_std=0.2), SGD(lr=0.1), None),
    }


def verify_command(
    optimizer: Annotated[
        list[str] | None,
        typer.Option("--optimizer", "-o", metavar="SPEC", help="As for simulate; linear ones only. Default: all."),
    ] = None,
    batch_size: Annotated[str, typer.Option("--batch-size", "-b", help="Examples per step; a list to try several.")] = (
        "1,64"
    ),
    steps: Annotated[int, typer.Option("--steps", "-n", help="Steps to run.")] = 1000,
    trajectories: Annotated[int, typer.Option("--trajectories", "-r", help="Independent runs of each.")] = 512,
    dim: Dim = None,
    exponent: Exponent = None,
    noise_exponent: NoiseExponent = None,
    initial_std: InitialStd = None,
    spectrum: Spectrum = None,
    noise_slope: NoiseSlope = None,
    noise_df: NoiseDf = None,
    seed: Annotated[int, typer.Option(help="Try another: the false-alarm rate says how often it may fail.")] = 0,
    error_rate: Annotated[float, typer.Option(help="Chance that any of the rows is a false alarm.")] = 1e-3,
) -> None:
    """Hold simulation and theory against each other, for all linear optimizers and kinds of problems.

    For each, means, variances, the covariance with the momentum buffer and the risk are compared at nine steps. The
    columns show the largest z-score of each; the verdict comes from one p-value that accounts for their correlation.
    Then averages of the iterates, with their means and variances, noise that rises with the parameter, Student's t and
    landscapes, where expectations are compared. Exits with 1 if any disagrees.
    """
    problem = problem_of(200, dim, exponent, noise_exponent, initial_std, spectrum, noise_slope, noise_df)
    chosen = {text: parse_optimizer(text) for text in optimizer} if optimizer else LINEAR_OPTIMIZERS
    for text, one in chosen.items():
        swept = [name for name, value in one._asdict().items() if np.ndim(value)]
        if swept:
            raise ParameterError("optimizer", text, f"have a single value of {', '.join(swept)}")
    batch = parse_numbers("batch_size", batch_size)
    cases: dict[str, tuple[Problem, SGD, Any]] = {label: (problem, one, None) for label, one in chosen.items()}
    if not optimizer:
        cases |= _averaged(problem, steps) | _other_laws(problem, steps)
    columns = {name: moments for name, moments in _COLUMNS.items() if name != "θ̄" or not optimizer}
    rows = len(cases) * np.size(batch)
    table = Table(
        title=f"simulation against theory: largest |z| over steps, d = {problem.dim}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("optimizer", overflow="fold")
    for heading in ("B", *columns, "p"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    failed = 0
    for label, (model, one, average) in cases.items():
        report = agreement(
            model,
            one,
            batch,
            steps,
            trajectories=trajectories,
            seed=seed,
            average=average,
            error_rate=-math.expm1(math.log1p(-error_rate) / rows) if 0 < error_rate < 1 else error_rate,
            progress=True,
        )
        flat = report if "batch_size" in report.dims else report.expand_dims("batch_size")
        for k in range(flat.sizes["batch_size"]):
            row = flat.isel(batch_size=k)
            # Where a start is certain, or a buffer still empty, there is no z: of the others, the largest.
            z = abs(row["z"])
            largest = [np.fmax.reduce(z.reindex(moment=moments).values, axis=None) for moments in columns.values()]
            agrees = bool(row["agrees"])
            failed += not agrees
            table.add_row(
                label,
                f"{float(row['batch_size']):g}",
                *("" if np.isnan(most) else f"{most:.1f}" for most in largest),
                f"{float(row['p_value']):.3g}",
                "agree" if agrees else "[red]DISAGREE[/red]",
            )
    console = console_of()
    console.print(table)
    draws = f"{trajectories} trajectories, {steps} steps, seed {seed}"
    console.print(f"{rows - failed} of {rows} agree ({draws}; false alarm of any row: {error_rate:g})")
    if failed:
        raise typer.Exit(1)
