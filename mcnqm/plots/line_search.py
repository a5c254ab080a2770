"""Losses along updates: how far optimizers go beyond the minimum of their line."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mcnqm.plots.style import COLOURS, new_figure

__all__ = ["plot_line_search"]

_MARKS = ("o", "s", "^")


def plot_line_search(study: xr.Dataset) -> Figure:
    """Step over exact step; proportionality to the gradient's norm; batch against rate; deviation from a parabola.

    Parameters
    ----------
    study : xarray.Dataset
        From `mcnqm.studies.line_search`.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mcnqm.studies.line_search import LineSearchConfig, run
    >>> few = LineSearchConfig(dim=5, steps=(0, 20), trajectories=4)
    >>> len(plot_line_search(run(few)).axes)
    4
    """
    figure, panels = new_figure(2, rows=2, width=5.4, height=8.0)
    _variation(panels[1], study)
    _exchange(panels[2], study)
    for name, label, color in (
        ("residual", "double wells, SGD", COLOURS[1]),
        ("quadratic_residual", "quadratic, SGD", COLOURS[0]),
    ):
        panels[3].plot(_at(study), study[name], "-o", color=color, label=label)
    panels[3].set_yscale("log")
    panels[3].set_ylabel("r.m.s. deviation / range")
    panels[3].set_title("full-batch loss along the update: deviation from a parabola", fontsize=10)
    panels[3].legend(fontsize=8, framealpha=0.85, edgecolor="none")
    for axes in panels:
        axes.set_xticks(_at(study), [str(step) for step in study["step"].values])
        axes.set_xlabel("step")
        axes.grid(True, alpha=0.3, linewidth=0.6)
    _ratios(panels[0], study)
    return figure


def _at(study: xr.Dataset) -> np.ndarray:
    """Steps are few and far between, so they are drawn evenly spaced."""
    return np.arange(study.sizes["step"])


def _ratios(axes: Axes, study: xr.Dataset) -> None:
    x = _at(study)
    for k, name in enumerate(study["optimizer"].values):
        one = study.sel(optimizer=name)
        mean, error = one["expected_ratio"].values, 2.0 * one["expected_ratio_stderr"].values
        # What is less certain than it is large says nothing on a logarithmic axis.
        known = error < mean
        axes.errorbar(
            x[known],
            mean[known],
            yerr=error[known],
            fmt=_MARKS[k],
            color=COLOURS[k],
            markersize=5,
            label=f"{name}, simulated ± 2 s.e.",
        )
        axes.plot(x, one["theory_ratio"], "-", color=COLOURS[k], linewidth=1.2)
        late = x.size + 0.12 * (k - 1)
        settled, spread = float(one["settled_simulated"]), 2.0 * float(one["settled_stderr"])
        axes.errorbar([late], [settled], yerr=[spread], fmt=_MARKS[k], color=COLOURS[k], markersize=5)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.axhline(2.0, color="black", linewidth=0.8, linestyle="--")
    axes.annotate("exact line search", (0.02, 1.04), fontsize=8, xycoords=("axes fraction", "data"))
    axes.annotate("steady state", (0.02, 2.08), fontsize=8, xycoords=("axes fraction", "data"))
    axes.set_xticks([*x, x.size], [*(str(step) for step in study["step"].values), "later"])
    axes.set_yscale("log")
    axes.set_ylabel("step taken / exact step, of means")
    axes.set_title("lines: closed form; points: simulated", fontsize=10)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none", loc="lower right")


def _variation(axes: Axes, study: xr.Dataset) -> None:
    x = _at(study)
    for k, name in enumerate(study["optimizer"].values):
        one = study.sel(optimizer=name)
        axes.plot(x, one["variation"], "-" + _MARKS[k], color=COLOURS[k], label=f"{name}, all batches")
        axes.plot(x, one["direction_variation"], "--", color=COLOURS[k], label="from one point")
    axes.set_yscale("log")
    axes.set_ylabel("std / mean of exact step over |g|")
    axes.set_title("is the exact step proportional to |g|? (0: yes)", fontsize=10)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")


def _exchange(axes: Axes, study: xr.Dataset) -> None:
    x = _at(study)
    for k, name in enumerate(study["optimizer"].values):
        one = study.sel(optimizer=name)
        axes.plot(x, one["exchange"], _MARKS[k], color=COLOURS[k], label=str(name))
        axes.plot(x, one["exchange_theory"], "-", color=COLOURS[k], linewidth=1.2)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_ylabel("quotient of expected ratios")
    axes.set_title(
        f"{study.attrs['factor']} times the batch against 1/{study.attrs['factor']} of the rate", fontsize=10
    )
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")
