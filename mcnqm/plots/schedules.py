"""What schedules buy: steps against batch size, the schedules themselves, and where their rates end."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcnqm.plots.style import COLOURS, decades, new_figure
from mcnqm.plots.views import check_runs

__all__ = ["plot_schedules"]

Array = NDArray[np.float64]

_LOOKS = {
    "constant": (COLOURS[0], "o", "best constant rate"),
    "averaged": (COLOURS[2], "D", "constant, averaged iterates"),
    "greedy": (COLOURS[5], "P", "greedy rate"),
    "cosine": (COLOURS[3], "v", "cosine decay"),
    "exponential": (COLOURS[4], "^", "exponential decay"),
    "optimised": (COLOURS[1], "s", "optimised schedule"),
}

_MOST = 6
"""Most schedules of one panel."""


def plot_schedules(study: xr.Dataset) -> Figure:
    """Steps to target by every method, the optimised schedules, and their final rates; a row for each optimizer.

    Left: steps against batch size, with the information bound and the Bayes bound. Middle: optimised learning rates
    against the share of the run that is done, coloured by batch size. Right: rates against batch size, the constant,
    and the optimised schedule's median and last piece.

    Parameters
    ----------
    study : xarray.Dataset
        From `mcnqm.studies.schedules`.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mcnqm import NoisyQuadratic
    >>> from mcnqm.studies.schedules import ScheduleConfig, run
    >>> study = run(ScheduleConfig(NoisyQuadratic.power_law(30), batch_sizes=(4, 64), target=0.05, pieces=5))
    >>> len(plot_schedules(study).axes)  # three panels and a bar of colours
    4
    """
    check_runs(study, "schedules", "steps", "lr", "start", "length", "information_bound")
    labels = [str(label) for label in study["optimizer"].values]
    figure, panels = new_figure(3, width=4.6, height=4.4 * len(labels), rows=len(labels))
    facts = f"target risk {study.attrs['target']:g}, d = {study.attrs['dim']}, {study.attrs['pieces']} pieces"
    figure.suptitle(facts, fontsize=10)
    for k, label in enumerate(labels):
        one = study.sel(optimizer=label)
        left, middle, right = panels[3 * k : 3 * k + 3]
        _steps(left, one, label)
        _courses(middle, one, label)
        _rates(right, one, label)
    return figure


def _steps(axes: Axes, one: xr.Dataset, label: str) -> None:
    batch = one["batch_size"].values
    for strategy, (colour, marker, text) in _LOOKS.items():
        if strategy not in one["strategy"].values:
            continue
        steps = one["steps"].sel(strategy=strategy).values
        seen = np.isfinite(steps)
        if seen.any():
            axes.plot(batch[seen], steps[seen], color=colour, marker=marker, markersize=5, linewidth=1.2, label=text)
    low = np.nanmin(np.where(np.isfinite(one["steps"].values), one["steps"].values, np.nan))
    axes.plot(batch, one["information_bound"], color="0.45", linestyle=(0, (6, 3)), label="information bound")
    axes.plot(batch, one["bayes_bound"], color="black", linestyle=(0, (2, 2)), label="Bayes bound")
    decades(axes)
    axes.set_ylim(bottom=low / 3.0)
    axes.set_xlabel("batch size (examples)")
    axes.set_ylabel("steps to target")
    axes.set_title(label, fontsize=10)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")


def _courses(axes: Axes, one: xr.Dataset, label: str) -> None:
    batch = one["batch_size"].values
    chosen = np.unique(np.linspace(0, batch.size - 1, min(_MOST, batch.size)).round().astype(int))
    norm = LogNorm(batch.min(), max(batch.max(), 2.0 * batch.min()))
    colours = colormaps["viridis"]
    for k in chosen:
        lr, start, length = (one[name].isel(batch_size=k).values for name in ("lr", "start", "length"))
        seen = np.isfinite(lr)
        if not seen.any():  # not reached
            continue
        edges = np.append(start[seen], start[seen][-1] + length[seen][-1])
        axes.stairs(lr[seen], edges / edges[-1], color=colours(norm(batch[k])), linewidth=1.5, baseline=None)
    decades(axes, "y")
    # Pieces that stand still are off the page.
    top = float(np.nanmax(one["lr"].values))
    shown = one["lr"].where(one["lr"] > 1e-6 * top)
    axes.set_ylim(float(shown.min()) / 2.0, 2.0 * top)
    axes.set_xlabel("share of the run that is done")
    axes.set_ylabel("learning rate")
    axes.set_title(f"{label}: optimised schedules", fontsize=10)
    bar = axes.figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.02)
    bar.set_label("batch size (examples)")


def _rates(axes: Axes, one: xr.Dataset, label: str) -> None:
    batch = one["batch_size"].values
    lr = one["lr"].transpose("batch_size", "piece").values
    counts = np.isfinite(lr).sum(axis=1)
    last = np.where(counts > 0, lr[np.arange(batch.size), counts - 1], np.nan)
    axes.plot(batch, last, "s-", color=COLOURS[1], markersize=5, linewidth=1.2, label="optimised: last piece")
    axes.plot(batch, np.nanmedian(lr, axis=1), "s:", color=COLOURS[1], markersize=5, mfc="white", label="its median")
    if "constant_lr" in one:
        axes.plot(batch, one["constant_lr"], "o-", color=COLOURS[0], markersize=5, linewidth=1.2, label="best constant")
    if np.isfinite(one["averaged_lr"].values).any():
        axes.plot(
            batch, one["averaged_lr"], "D-", color=COLOURS[2], markersize=5, linewidth=1.2, label="constant, averaged"
        )
    decades(axes)
    axes.set_xlabel("batch size (examples)")
    axes.set_ylabel("learning rate")
    axes.set_title(f"{label}: rates", fontsize=10)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")
