"""Scaling studies at several targets or of several problems: how the curves move."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mcnqm.plots.scaling import (
    few_decades,
    key_of,
    limits_of_steps,
    name_of_rate,
    octaves,
    points,
    theory_line,
    theory_of_line,
)
from mcnqm.plots.style import decades, ink, new_figure
from mcnqm.plots.views import check_runs
from mcnqm.plots.wording import three_digits
from mcnqm.studies.several import members

__all__ = ["plot_several"]

_MARKERS = "osD^vPX"


def plot_several(study: xr.Dataset) -> Figure:
    """Steps to target and the tuned rate against batch size: a column for each optimizer, a shade for each study.

    Points are simulated, with bars of two standard errors, filled in the perfect-scaling regime and hollow beyond it;
    full lines are exact, dashed ones mean-field theory. Triangles are critical batch sizes, at twice the least steps.

    Parameters
    ----------
    study : xarray.Dataset
        From `mcnqm.studies.several`.

    Returns
    -------
    matplotlib.figure.Figure
        Two rows of panels.
    """
    check_runs(study, "scaling", "steps", "effective_lr", "analytic_steps", "B_crit", "information_bound")
    each = [(text, one.transpose("optimizer", "batch_size", ...)) for text, one in members(study)]
    names = [str(label) for label in study["optimizer"].values]
    batch = study["batch_size"].values.astype(float)
    figure, panels = new_figure(len(names), rows=2, width=max(4.4, 8.0 / len(names)), height=7.4)
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(each)))  # without the end that is lost on white
    for rank, name in enumerate(names):
        above, below = panels[rank], panels[len(names) + rank]
        for k, (text, whole) in enumerate(each):
            one = whole.isel(optimizer=rank)
            look = {"color": shades[k], "marker": _MARKERS[k % len(_MARKERS)], "markersize": 6}
            points(above, one, "steps", look, f"{text}: {_critical(one)}")
            points(below, one, "effective_lr", look, text)
            style = "--" if theory_of_line(one) == "mean field" else "-"
            theory_line(above, batch, one["analytic_steps"].values, color=look["color"], linestyle=style)
            theory_line(below, batch, one["analytic_effective_lr"].values, color=look["color"], linestyle=style)
            _triangle(above, one, batch, look["color"])
        above.set_title(name, fontsize=10)
        above.legend(fontsize=8, frameon=False)
    _share(panels[: len(names)], study)
    _share(panels[len(names) :], None)
    for axes in panels:
        decades(axes, "y")
        octaves(axes, batch)
        few_decades(axes)
    for axes in panels[len(names) :]:
        axes.set_xlabel("batch size (examples)")
    panels[0].set_ylabel("steps to target")
    panels[len(names)].set_ylabel(name_of_rate(study))
    dims = {one.attrs["dim"] for _, one in each if "dim" in one.attrs}
    if len(dims) == 1:
        figure.suptitle(f"d = {dims.pop()}", fontsize=10)
    key = [handle for handle in key_of(each[0][1]) if handle.get_label() != "fitted trade-off"]
    figure.legend(handles=key, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    return figure


def _critical(one: xr.Dataset) -> str:
    value = float(one["B_crit"])
    return f"$B_{{crit}}$ {three_digits(value)}" if np.isfinite(value) else "$B_{crit}$ not determined"


def _triangle(axes: Axes, one: xr.Dataset, batch: Any, color: Any) -> None:
    value, height = float(one["B_crit"]), 2.0 * float(one["S_min"])
    if np.isfinite([value, height]).all() and batch[0] <= value <= batch[-1]:
        axes.plot([value], [height], "v", color=color, markersize=9, markeredgecolor=ink(), zorder=5)


def _share(panels: list[Axes], study: xr.Dataset | None) -> None:
    """Optimizers are compared across a row: the same limits in all its panels."""
    for axes in panels[1:]:
        axes.sharey(panels[0])
    if study is not None:
        limits_of_steps(panels[0], study)
