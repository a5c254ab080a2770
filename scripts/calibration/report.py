"""Tables of what was measured: groups against the criteria, then every cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from calibration.cells import Cell
from calibration.scores import Score, Summary, faults, score, summarize
from calibration.store import Answer, Store

__all__ = ["Line", "judged", "lines_of", "markdown", "scores_of", "show"]

_SURE = 2.0
"""A single cell counts as failing only by so many standard errors: it has few seeds."""


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes
    ----------
    group, name, line : str
        Group; cell, or the group again; and what of it is estimated.
    summary : Summary
    faults : list of str
        Criteria that are not met.
    seconds : float
        Processor time of a call; NaN of a group.
    warned : float
        Share of calls from which a warning reached the user; NaN of a group.
    """

    group: str
    name: str
    line: str
    summary: Summary
    faults: list[str]
    seconds: float = math.nan
    warned: float = math.nan


def scores_of(cell: Cell, store: Store, answers: Sequence[Answer]) -> list[tuple[str, str, Score]]:
    """Kind, line and score of every estimate of a cell."""
    truths = store.truths(cell) or {}
    return [
        (e.kind, e.line, score(e, e.truth or truths[e.quantity], cluster=(cell.group, cell.label, answer.seed)))
        for answer in answers
        for e in answer.estimates
        if e.truth is not None or e.quantity in truths
    ]


def lines_of(cells: Iterable[Cell], store: Store) -> tuple[list[Line], list[Line]]:
    """Lines of groups, and of cells, from what is stored."""
    groups: dict[tuple[str, str], list[Score]] = {}
    single = []
    for cell in cells:
        if not (answers := store.answers(cell)):
            continue
        by_line: dict[tuple[str, str], list[Score]] = {}
        for kind, line, one in scores_of(cell, store, answers):
            by_line.setdefault((kind, line), []).append(one)
            groups.setdefault((cell.group, kind), []).append(one)
        seconds = sum(a.seconds for a in answers) / len(answers)
        warned = sum(a.warned for a in answers) / len(answers)
        for (kind, line), scores in by_line.items():
            summary = summarize(scores)
            found = judged(kind, summary, _SURE)
            single.append(Line(cell.group, cell.label, line, summary, found, seconds, warned))
    pooled = [Line(g, g, k, s, judged(k, s)) for (g, k), s in ((key, summarize(v)) for key, v in groups.items())]
    return pooled, single


def judged(kind: str, summary: Summary, allowance: float = 0.0) -> list[str]:
    """Criteria that estimates of a kind do not meet; see `calibration.scores.faults`."""
    if kind == "search":  # how good a search is differs from how well its answer knows itself
        return []
    # Intervals of fits allow for what the model does not fit, which the same fit to the right answers shares.
    fitted = kind in {"slope", "trade-off"}
    return [fault for fault in faults(summary, allowance) if not (fitted and fault == "errors too large")]


def _percent(x: float, digits: int = 1) -> str:
    return "" if math.isnan(x) else f"{100 * x:.{digits}f}"


def _with_error(x: float, error: float) -> str:
    return _percent(x) if math.isnan(error) else f"{100 * x:.1f} ± {100 * error:.1f}"


def _number(x: float) -> str:
    return "" if math.isnan(x) else f"{x:.2f}" if math.isfinite(x) else "∞"


_Columns: TypeAlias = tuple[tuple[str, Callable[[Line], str]], ...]

_COLUMNS: _Columns = (
    ("estimate of", lambda x: x.line),
    ("answers", lambda x: str(x.summary.count)),
    ("no answer, %", lambda x: _percent(x.summary.unanswered)),
    ("bias: median, %", lambda x: _percent(x.summary.bias_median)),
    ("mean, %", lambda x: _with_error(x.summary.bias_mean, x.summary.bias_stderr)),
    ("r.m.s. z", lambda x: _number(x.summary.rms_z)),
    ("largest", lambda x: _number(x.summary.largest_z)),
    ("68 % covers, %", lambda x: _with_error(x.summary.cover_68, x.summary.cover_68_stderr)),
    ("95 % covers, %", lambda x: _with_error(x.summary.cover_95, x.summary.cover_95_stderr)),
    ("off by 10 %, %", lambda x: _percent(x.summary.off)),
    ("and 4 errors, %", lambda x: _percent(x.summary.wrong, 2)),
    ("flagged: sound, %", lambda x: _percent(x.summary.flagged_sound)),
    ("wrong, %", lambda x: _percent(x.summary.flagged_wrong)),
    ("not met", lambda x: ", ".join(x.faults)),
)

_COST: _Columns = (
    ("ms a call", lambda x: f"{1000 * x.seconds:.0f}"),
    ("warns, %", lambda x: _percent(x.warned)),
)

_CELLS = (*_COLUMNS[:-1], *_COST, _COLUMNS[-1])

_WORDS = {"estimate of", "not met"}


def _tables(groups: Sequence[Line], cells: Sequence[Line]) -> Iterator[tuple[str, Sequence[Line], _Columns]]:
    """Title, lines and columns of every table: of all groups, then of the cells of each."""
    yield "Groups", groups, _COLUMNS
    for group in dict.fromkeys(line.group for line in cells):
        yield group.capitalize(), [line for line in cells if line.group == group], _CELLS


def show(console: Console, groups: Sequence[Line], cells: Sequence[Line]) -> None:
    """Print all tables."""
    for title, lines, columns in _tables(groups, cells):
        table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
        table.add_column("", no_wrap=True)
        for heading, _ in columns:
            left = heading in _WORDS
            broken = heading.replace(": ", ":\n").replace(", %", ",\n%").replace("covers", "\ncovers")
            table.add_column(broken, justify="left" if left else "right", no_wrap=True)
        previous = ""
        for line in lines:
            table.add_row("" if line.name == previous else line.name, *(text(line) for _, text in columns))
            previous = line.name
        console.print(table)


_INTRODUCTION = """# Calibration

    python scripts/calibrate.py --folder FOLDER --markdown docs/calibration.md

How far the estimates of `simulate`, `steps_to_target`, `tune` and the scaling study are from the right answers, and
whether the errors that they state say so: with the defaults that users get, over {seeds} seeds a cell at most. The
tables are of sources `{key}` ({version}).

**Right answers** are exact for SGD with and without momentum. For Adam, RMSProp and Lion they come from many plain
trajectories, without a control variate, of seeds that no estimate is given; their own error is taken into account.
Where several rates need the fewest whole steps, all of them are right, and the nearest counts. Slopes, S_min and B_crit
are compared with the same fit to the right steps and rates. Where two hyperparameters are tuned together, "steps there"
are compared with those at the hyperparameters that were found; "fewest steps" with the fewest known, which says how
good the search is, and is not judged.

**z** is the standard normal of the tail probability that Student's t has, with the replicates' degrees of freedom. An
error of a whole number of steps counts as 0.29 at least, that of rounding. In root mean squares |z| counts as 12 at
most. **Off** is what is off by 10 % or more; what is off by more than four stated errors too is called *wrong*.
**Flagged** are answers that carry a flag, as a share of those that are not wrong, and of those that are. ± is one
standard error, between seeds.

**Not met** names criteria: r.m.s. z between 0.8 and 1.25 ("errors too small", "errors too large"; the second only of
answers whose error is at least half a step, and larger than the range of rates that are as good, and not of fits, whose
intervals allow for what the model does not fit), 95 % intervals that cover at least 90 % ("coverage"), at most one
answer in a thousand wrong, at most one in a thousand wrong and not flagged, at most 5 % of sound answers flagged. A
single cell fails by more than two standard errors only. No answer is not a wrong one, but its interval covers nothing.
"""


def markdown(groups: Sequence[Line], cells: Sequence[Line], key: str, version: str, seeds: int) -> str:
    """The page of the documentation."""
    parts = [_INTRODUCTION.format(key=key, version=version, seeds=seeds)]
    for title, lines, columns in _tables(groups, cells):
        parts.append(f"## {title}\n")
        parts.append("| |" + "|".join(f" {heading} " for heading, _ in columns) + "|")
        parts.append("|---|" + "|".join("---" if heading in _WORDS else "---:" for heading, _ in columns) + "|")
        parts += [f"| {x.name} |" + "|".join(f" {text(x)} " for _, text in columns) + "|" for x in lines]
        parts.append("")
    return "\n".join(parts)
