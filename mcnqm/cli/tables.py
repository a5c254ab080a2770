"""Tables for a terminal: numbers are never cut, names fold, and what has no room side by side goes below."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["Column", "console_of", "print_side_by_side", "print_table", "width_of"]

_UNLIMITED = 10_000

_GAP = 2
"""Width between two columns."""


class Column(NamedTuple):
    """One column: a heading, the cells, and whether they are names, on the left and free to fold, or numbers."""

    heading: str
    cells: Sequence[str]
    names: bool = False


def console_of() -> Console:
    """A console for tables: as wide as the terminal, and without a limit where there is none, as in a pipe."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, width=_UNLIMITED if wide else None)


def width_of(columns: Sequence[Column]) -> int:
    """Width of a table of these columns; of names, what they may claim before others have to give way."""
    return 1 + sum(_GAP + _inner(column) for column in columns)


def _inner(column: Column) -> int:
    widest = max(map(len, column.cells), default=0)
    if column.names:
        return max(min(widest, 20), len(column.heading))
    return max(widest, *map(len, _folded(column)))


def _folded(column: Column) -> list[str]:
    """A heading in lines hardly wider than the numbers under it."""
    width = max(8, *map(len, column.cells))
    return textwrap.wrap(column.heading, width, break_long_words=False, break_on_hyphens=False) or [""]


def print_table(console: Console, columns: Sequence[Column]) -> None:
    """Print one table."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        heading = column.heading if column.names else "\n".join(_folded(column))
        justify = "left" if column.names else "right"
        table.add_column(escape(heading), justify=justify, overflow="fold", no_wrap=not column.names)  # type: ignore[arg-type]
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(escape, row))
    console.print(table)


def print_side_by_side(console: Console, first: Column, blocks: Sequence[Sequence[Column]]) -> None:
    """Print blocks of columns beside `first`, in as many tables, one below the other, as the width asks for."""
    group = [first]
    for block in blocks:
        if len(group) > 1 and width_of([*group, *block]) > console.width:
            print_table(console, group)
            group = [first]
        group += block
    print_table(console, group)
