"""What all figures share: sizes, colors that survive color blindness and print, and honest log axes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

__all__ = ["COLOURS", "DASHES", "Picture", "decades", "ink", "new_figure", "one_panel"]

COLOURS: Sequence[str] = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette."""


DASHES: Sequence[str] = ("-", "--", "-.", ":")
"""So that curves on top of each other can both be seen."""


class Picture(Figure):
    """A figure that a notebook shows, though pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        self.savefig(drawn, format="png")
        return drawn.getvalue()


def ink() -> Any:
    """The color of text and axes: black, or white in a dark style."""
    return mpl.rcParams["text.color"]


def new_figure(
    columns: int = 1, *, rows: int = 1, width: float = 7.0, height: float = 4.6
) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, row after row, made without pyplot's global state."""
    figure = Picture(figsize=(width * columns, height), layout="constrained", dpi=150)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.reshape(-1))


def one_panel(ax: Axes | None, *, width: float = 7.0, height: float = 4.6) -> tuple[Figure, Axes]:
    """The panel that was passed and its figure, or a new one."""
    if ax is None:
        figure, (panel,) = new_figure(width=width, height=height)
        return figure, panel
    return cast("Figure", ax.get_figure(root=True)), ax


def decades(axes: Axes, which: str = "both") -> None:
    """Logarithmic axes with every decade labelled and minor ticks between."""
    for name in ("x", "y"):
        if which in ("both", name):
            getattr(axes, f"set_{name}scale")("log")
            axis = getattr(axes, f"{name}axis")
            axis.set_major_locator(LogLocator(base=10, numticks=20))
            axis.set_minor_locator(LogLocator(base=10, subs=range(2, 10), numticks=200))
            axis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", alpha=0.3, linewidth=0.6)
