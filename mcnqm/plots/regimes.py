"""Where rates may grow with the batch, and until when."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mcnqm.plots.style import COLOURS, DASHES, decades, new_figure

__all__ = ["plot_regimes"]


def plot_regimes(study: xr.Dataset) -> Figure:
    """Largest stable rate, best rate, steps, n steps as one, noise scale along a run, gain of one step.

    Parameters
    ----------
    study : xarray.Dataset
        From `mcnqm.studies.regimes`.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mcnqm.studies.regimes import RegimesConfig, run
    >>> few = RegimesConfig(dim=5, batch_sizes=(1, 16, 256, 4096), rates=21, estimates=4)
    >>> len(plot_regimes(run(few)).axes)
    6
    """
    figure, panels = new_figure(3, rows=2, width=4.6, height=7.6)
    batch = study["batch_size"].values
    _edge(panels[0], study, batch)
    _best(panels[1], study, batch)
    for k, kind in enumerate(study["noise_kind"].values):
        one = study.sel(noise_kind=kind)
        panels[2].plot(batch, one["steps"], "-o", color=COLOURS[k], markersize=4, label=f"{kind} noise")
        panels[2].axvline(float(one["knee"]), color=COLOURS[k], linewidth=0.9, linestyle=":")
    panels[2].set_ylabel("steps to the target")
    panels[2].set_title("steps; dotted: the knee, E_min / S_min", fontsize=10)
    panels[5].plot(batch, study["gain"], "o", color=COLOURS[0], markersize=5, label="one step, closed form")
    panels[5].plot(batch, study["gain_formula"], "-", color="black", linewidth=1.0, label="1 / (1 + B_noise / B)")
    panels[5].set_ylabel("decrease of the risk, of that without noise")
    panels[5].set_title("gain of one step at the best rate", fontsize=10)
    for axes, which in ((panels[0], "both"), (panels[1], "both"), (panels[2], "both"), (panels[5], "x")):
        decades(axes, which)
        axes.set_xlabel("batch size")
    _as_one(panels[3], study)
    _scale(panels[4], study)
    for axes in panels:
        axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")
    return figure


def _edge(axes: Axes, study: xr.Dataset, batch: np.ndarray) -> None:
    for k, beta in enumerate(study["momentum"].values):
        axes.plot(batch, study["edge"].sel(momentum=beta), "-o", color=COLOURS[k], markersize=4, label=f"β = {beta:g}")
    axes.plot(batch, study["edge_formula"], "k--", linewidth=1.2, label="(2/h) / (1 + B_noise/B)")
    axes.set_ylabel("largest stable rate")
    axes.set_title(f"multiplicative noise, s = {study.attrs['slope']:g} h", fontsize=10)


def _best(axes: Axes, study: xr.Dataset, batch: np.ndarray) -> None:
    for k, kind in enumerate(study["noise_kind"].values):
        one = study.sel(noise_kind=kind)
        axes.plot(batch, one["best_lr"], "-o", color=COLOURS[k], markersize=4, label=f"{kind} noise")
        until = float(one["linear_until"])
        if np.isfinite(until):
            axes.axvline(until, color=COLOURS[k], linewidth=0.9, linestyle=":")
    first = float(study["best_lr"].isel(noise_kind=0, batch_size=0))
    linear = first * batch / batch[0]
    shown = linear <= 2.0 * float(study["best_lr"].max())
    axes.plot(batch[shown], linear[shown], "k--", linewidth=1.0, label="linear rule")
    axes.set_ylabel("best rate")
    axes.set_title("for the target; dotted: slope falls below 1/2", fontsize=10)


def _as_one(axes: Axes, study: xr.Dataset) -> None:
    x = study["rate"].values
    for k, n in enumerate(study["count"].values):
        one = study.sel(count=n)
        color = COLOURS[k % len(COLOURS)]
        axes.plot(x, one["as_one_variance"], "-o", color=color, markersize=4, label=f"n = {n}, noise")
        axes.plot(x, one["as_one_bias"], DASHES[1], color=color, linewidth=1.0, label=f"n = {n}, mean")
    decades(axes)
    axes.set_xlabel("n α h")
    axes.set_ylabel("relative error of one step for n")
    axes.set_title("n steps at (α, B) as one at (nα, nB)", fontsize=10)


def _scale(axes: Axes, study: xr.Dataset) -> None:
    for k, kind in enumerate(study["noise_kind"].values):
        one = study.sel(noise_kind=kind)
        axes.plot(study["progress"][1:], one["scale"][1:], "-", color=COLOURS[k], label=f"{kind} noise")
        start = float(one["scale_start"])
        axes.annotate(
            f"start: {start:.2g}", (0.3, 0.1 + 0.08 * k), xycoords="axes fraction", color=COLOURS[k], fontsize=8
        )
        axes.axhline(float(one["knee"]), color=COLOURS[k], linewidth=0.9, linestyle=":")
    decades(axes)
    axes.set_xlabel("share of the run's steps")
    axes.set_ylabel("noise scale B_noise")
    axes.set_title("along the best run at the knee; dotted: the knee", fontsize=10)
