"""What schedules buy: steps against batch size, the schedules themselves, and where their rates end."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcnqm.plots.style import COLOURS, decades, ink, new_figure
from mcnqm.plots.views import check_runs
from mcnqm.plots.wording import three_digits

__all__ = ["plot_schedules"]

Array = NDArray[np.float64]

_LOOKS = {
    "constant": (COLOURS[0], "o", "best constant rate"),
    "averaged": (COLOURS[2], "D", "constant, averaged iterates"),
    "greedy": (COLOURS[5], "P", "greedy rate"),
    "cosine": (COLOURS[3], "v", "cosine decay"),
    "exponential": (COLOURS[4], "^", "exponential decay"),
    "optimised": (COLOURS[1], "s", "optimized schedule"),
}

_FAR = 3.0
"""Steps over those of the optimized schedule up to which differences are shown."""

_MOST = 6
"""Most schedules of one panel."""


def plot_schedules(study: xr.Dataset) -> Figure:
    """Steps to target by every method, the optimized schedules, and their final rates; a row for each optimizer.

    First: steps over the Bayes bound against batch size, which no method gets below 1. Second: steps over those of the
    optimized schedule, where differences of a few percent show; what needs more than three times as many is beyond it,
    and named so. Third: optimized learning rates against the share of the run that is done, for several batch sizes.
    Fourth: rates against batch size, the constant, and the optimized schedule's median and last piece.

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
    >>> len(plot_schedules(study).axes)
    4
    """
    check_runs(study, "schedules", "steps", "lr", "start", "length", "information_bound")
    labels = [str(label) for label in study["optimizer"].values]
    figure, panels = new_figure(4, width=4.2, height=5.0 * len(labels), rows=len(labels))
    facts = f"target risk {study.attrs['target']:g}, d = {study.attrs['dim']}, {study.attrs['pieces']} pieces"
    figure.suptitle(facts, fontsize=10)
    for k, label in enumerate(labels):
        one = study.sel(optimizer=label)
        first, second, third, fourth = panels[4 * k : 4 * k + 4]
        _steps(first, one, label)
        _differences(second, one, label)
        _courses(third, one, label)
        _rates(fourth, one, label)
    return figure


def _strategies(one: xr.Dataset) -> list[tuple[str, tuple[str, str, str], Array]]:
    found = []
    for strategy, look in _LOOKS.items():
        if strategy in one["strategy"].values:
            steps = one["steps"].sel(strategy=strategy).values
            if np.isfinite(steps).any():
                found.append((strategy, look, steps))
    return found


def _steps(axes: Axes, one: xr.Dataset, label: str) -> None:
    batch, bound = one["batch_size"].values, one["bayes_bound"].values
    kept = []
    for strategy, (color, marker, text), steps in _strategies(one):
        ratio = steps / bound
        axes.plot(batch, ratio, color=color, marker=marker, markersize=5, linewidth=1.2, label=text)
        if strategy != "greedy":  # hundreds of times as many would set the range
            kept.append(ratio[np.isfinite(ratio)])
    axes.plot(batch, one["information_bound"] / bound, color="0.45", linestyle=(0, (6, 3)), label="information bound")
    axes.axhline(1.0, color=ink(), linestyle=(0, (2, 2)), label="Bayes bound")
    decades(axes)
    top = max((values.max() for values in kept if values.size), default=10.0)
    axes.set_ylim(0.8, 1.6 * top)
    axes.set_xlabel("batch size (examples)")
    axes.set_ylabel("steps to target / Bayes bound")
    axes.set_title(label, fontsize=10)
    _below(axes)


def _differences(axes: Axes, one: xr.Dataset, label: str) -> None:
    batch = one["batch_size"].values
    best = one["steps"].sel(strategy="optimised").values
    for _, (color, marker, text), steps in _strategies(one):
        ratio = steps / best
        seen = np.isfinite(ratio)
        shown = seen & (ratio <= _FAR)
        beyond = f" (up to {three_digits(float(np.max(ratio[seen])))})" if (seen & ~shown).any() else ""
        look: dict[str, Any] = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.2}
        axes.plot(batch[shown], ratio[shown], label=text + beyond, **look)
    decades(axes, "x")
    drawn = [value for line in axes.lines for value in np.asarray(line.get_ydata(), dtype=float)]
    axes.set_ylim(min(0.98, min(drawn, default=1.0) - 0.02), min(_FAR, max(drawn, default=1.1)) + 0.05)
    axes.set_xlabel("batch size (examples)")
    axes.set_ylabel("steps / steps of the optimized schedule")
    axes.set_title(f"{label}: differences", fontsize=10)
    _below(axes)


def _below(axes: Axes, columns: int = 2) -> None:
    """A legend under the panel, where no point is."""
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns, frameon=False)


def _courses(axes: Axes, one: xr.Dataset, label: str) -> None:
    batch = one["batch_size"].values
    chosen = np.unique(np.linspace(0, batch.size - 1, min(_MOST, batch.size)).round().astype(int))
    shades = colormaps["viridis"](np.linspace(0.0, 0.88, chosen.size))  # without the end that is lost on white
    for color, k in zip(shades, chosen, strict=True):
        lr, start, length = (one[name].isel(batch_size=k).values for name in ("lr", "start", "length"))
        seen = np.isfinite(lr)
        if not seen.any():  # not reached
            continue
        edges = np.append(start[seen], start[seen][-1] + length[seen][-1])
        name = f"B = {batch[k]:g}"
        axes.stairs(lr[seen], edges / edges[-1], color=color, linewidth=1.6, baseline=None, label=name)
    decades(axes, "y")
    # Pieces that stand still are off the page.
    top = float(np.nanmax(one["lr"].values))
    shown = one["lr"].where(one["lr"] > 1e-6 * top)
    axes.set_ylim(float(shown.min()) / 2.0, 2.0 * top)
    axes.set_xlabel("share of the run that is done")
    axes.set_ylabel("learning rate")
    axes.set_title(f"{label}: optimized schedules", fontsize=10)
    _below(axes, 3)


def _rates(axes: Axes, one: xr.Dataset, label: str) -> None:
    batch = one["batch_size"].values
    lr = one["lr"].transpose("batch_size", "piece").values
    counts = np.isfinite(lr).sum(axis=1)
    last = np.where(counts > 0, lr[np.arange(batch.size), counts - 1], np.nan)
    axes.plot(batch, last, "s-", color=COLOURS[1], markersize=5, linewidth=1.2, label="optimized: last piece")
    axes.plot(batch, np.nanmedian(lr, axis=1), "s:", color=COLOURS[1], markersize=5, mfc="white", label="its median")
    if "constant_lr" in one and np.isfinite(one["constant_lr"].values).any():
        axes.plot(batch, one["constant_lr"], "o-", color=COLOURS[0], markersize=5, linewidth=1.2, label="best constant")
    if np.isfinite(one["averaged_lr"].values).any():
        axes.plot(
            batch, one["averaged_lr"], "D-", color=COLOURS[2], markersize=5, linewidth=1.2, label="constant, averaged"
        )
    decades(axes)
    axes.set_xlabel("batch size (examples)")
    axes.set_ylabel("learning rate")
    axes.set_title(f"{label}: rates", fontsize=10)
    _below(axes)
