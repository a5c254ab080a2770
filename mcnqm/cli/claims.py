"""`mcnqm claims`."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import xarray as xr
from rich.console import Console

from mcnqm.claims.claim import ERROR_RATE
from mcnqm.claims.lab import Lab
from mcnqm.claims.ledger import all_claims, get, measure_all, records, summary
from mcnqm.cli.caching import kept_cells
from mcnqm.cli.outputs import Undelivered, written
from mcnqm.cli.page import allowed_range, check_templates, claims_page, digits
from mcnqm.cli.tables import Column, print_table
from mcnqm.engine.executor import Pool
from mcnqm.errors import ParameterError
from mcnqm.files import check_writable, write_dataset, write_text, write_whole
from mcnqm.progress import RichMeter

__all__ = ["claims_command"]

_SUFFIXES = {"output": (".nc", ".json"), "figure": (".png", ".pdf", ".svg"), "html": (".html",)}


def claims_command(
    claim: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Which; one alone is explained. Default: all.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick/--full", help="d = 1000 in a minute or two, or the paper's d = 10000.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of all simulations, 0 to 2**63 - 1.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Save verdicts and effects here (.nc), or all of it with the curves (.json).")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page with every figure, number and verdict.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the curves of one claim (.png, .pdf, .svg).")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of finished measurements. Default: one for each configuration, in the user's cache."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Measure what the literature claims about this model, and say which of it holds.

    Each claim predicts ranges of some effects; these are measured, in closed form where the optimizer is linear and by
    simulation where it is Adam, with simultaneous intervals. The verdict follows by a rule: supported, refuted, or
    qualified, with what holds and what fails. Finished measurements are kept, and an interrupted command continues.
    """
    chosen = [get(id_) for id_ in dict.fromkeys(claim)] if claim else list(all_claims())
    written.clear()
    if figure is not None and len(chosen) > 1:
        raise ParameterError("figure", str(figure), "be asked for with a single claim; --html draws all")
    for name, path in (("output", output), ("html", html), ("figure", figure)):
        if path is not None:
            check_writable(name, path, _SUFFIXES[name])
            if os.path.lexists(path) and not force:
                raise ParameterError(name, str(path), "be a new file, but it exists; use --force to overwrite")
    if html is not None:
        check_templates(str(html))
    Pool(threads=threads)  # refused before there is a folder
    with ExitStack() as stack:
        lab = Lab.of(quick, seed=seed, threads=threads)
        lab = replace(lab, cells=kept_cells(stack, lab.config(), cache, "claims"))
        found = measure_all(lab, chosen, meter=RichMeter())
    command = " ".join(["mcnqm", *sys.argv[1:]])
    failures: list[tuple[str, Exception]] = []
    writers: tuple[tuple[Path | None, Callable[[Path], None]], ...] = (
        (output, lambda path: _save(found, path)),
        (html, lambda path: write_text(path, claims_page(found, command))),
        (figure, lambda path: write_whole(path, _draw(found[chosen[0].id]).savefig)),
    )
    for path, write in writers:
        if path is not None:
            try:
                write(path)
                written.append(path)
            except Exception as error:
                failures.append((f"{path} was not written", error))
    console = Console(highlight=False)
    if len(chosen) == 1:
        _explain(found, console)
    else:
        _show(found, console)
    for path in written:
        typer.echo(f"wrote {path}")
    if failures:
        raise Undelivered(failures)


def _save(found: dict[str, xr.Dataset], path: Path) -> None:
    if path.suffix == ".nc":
        write_dataset(summary(found), path)
        return
    some = next(iter(found.values())).attrs
    head: dict[str, Any] = {name: some[name] for name in ("mcnqm_version", "seed", "error_rate", "family")}
    head["config"] = json.loads(some["config"])
    write_text(path, json.dumps({**head, "claims": records(found)}, indent=1, ensure_ascii=False))


def _draw(measured: xr.Dataset) -> Any:
    from mcnqm.plots.claims import plot_claim  # noqa: PLC0415 - Matplotlib takes a second to import

    return plot_claim(measured)


def _show(found: dict[str, xr.Dataset], console: Console) -> None:
    rows = records(found)
    held = [
        f"{sum(effect['outcome'] == 'holds' for effect in row['effects'])} of {len(row['effects'])}"
        if row["effects"]
        else ""
        for row in rows
    ]
    print_table(
        console,
        [
            Column("claim", [row["id"] for row in rows], names=True),
            Column("verdict", [row["verdict"] for row in rows], names=True),
            Column("effects hold", held),
            Column("statement", [row["statement"] for row in rows], names=True),
        ],
    )
    counts = Counter(row["verdict"] for row in rows)
    console.print(", ".join(f"{count} {word}" for word, count in counts.items()))
    console.print(
        f"A wrong verdict anywhere has a probability of at most {ERROR_RATE:g}; `mcnqm claims ID` explains one."
    )


def _explain(found: dict[str, xr.Dataset], console: Console) -> None:
    (row,) = records(found)
    console.print(f"{row['id']}: {row['verdict']}", markup=False)
    console.print(f"{row['statement']} ({row['source']})", markup=False)
    if row["effects"]:
        console.print(f"Measured: {row['measured']}", markup=False)
        effects = row["effects"]
        print_table(
            console,
            [
                Column("effect", [each["name"] for each in effects], names=True),
                Column("where", [each["regime"] for each in effects], names=True),
                Column("estimate", [digits(each["estimate"]) for each in effects]),
                Column("interval", [" to ".join(map(digits, each["interval"])) for each in effects]),
                Column("allowed", [allowed_range(each) for each in effects]),
                Column("outcome", [each["outcome"] for each in effects], names=True),
            ],
        )
    console.print(f"Verdict: {row['verdict']}. {row['because']}", markup=False)
    if row["effects"]:
        console.print(f"Rule: {row['rule']}", markup=False)
        console.print(f"Control, whose verdict must differ: {row['control_law']}", markup=False)
