"""Which of two minima is held, and how long it takes to leave one."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mcnqm.plots.style import COLOURS, decades, new_figure

__all__ = ["plot_minima"]

_MARKS = ("o", "s", "^")


def plot_minima(study: xr.Dataset) -> Figure:
    """Occupancy against α/B, against α and against the noise; escape times; annealing.

    Parameters
    ----------
    study : xarray.Dataset
        From `mcnqm.studies.minima`.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mcnqm.studies.minima import MinimaConfig, run
    >>> few = MinimaConfig(ratios=(0.025,), rates=(0.05, 0.1), steps=100, dim=4, trajectories=2)
    >>> len(plot_minima(run(few)).axes)
    6
    """
    figure, panels = new_figure(3, rows=2, width=4.6, height=7.6)
    wide = "occupancy of the wide well"
    _families(panels[0], study, "ratio", ("chain", "sde"), wide)
    panels[0].set_xlabel("α/B")
    panels[0].set_title("against α/B: chain (lines), SDE (dashed)", fontsize=10)
    _rates(panels[1], study)
    _families(panels[2], study, "noise", ("noise_chain", "noise_sde"), wide)
    panels[2].set_xlabel("per-example variance / 12")
    panels[2].set_title(f"against the noise, α/B = {study.attrs['fixed_ratio']:g}", fontsize=10)
    _families(panels[3], study, "ratio", ("chain_width", "sde_width"), "mean curvature of the minimum held")
    panels[3].set_xlabel("α/B")
    panels[3].set_title("how sharp what is held is", fontsize=10)
    _escapes(panels[4], study)
    _annealing(panels[5], study)
    return figure


def _families(axes: Axes, study: xr.Dataset, along: str, names: tuple[str, str], label: str) -> None:
    """A line for each rate, of the chain, and one of the SDE, which knows no rate."""
    x = study[along].values
    for k, lr in enumerate(study["rate"].values):
        axes.plot(x, study[names[0]].sel(rate=lr), "-", marker=".", color=COLOURS[k % 7], label=f"α = {lr:g}")
    axes.plot(x, study[names[1]].isel(rate=0), "k--", linewidth=1.6, label="SDE, any α")
    _labeled(axes, x)
    axes.set_ylabel(label)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")


def _rates(axes: Axes, study: xr.Dataset) -> None:
    """Occupancy at the fixed ratio: the chain, the SDE, and simulations of each optimizer."""
    rates, fixed = study["rate"].values, study.attrs["fixed_ratio"]
    if fixed in study["ratio"].values:
        axes.plot(rates, study["chain"].sel(ratio=fixed), "k-", linewidth=1.2, label="chain of SGD")
        axes.plot(rates, study["sde"].sel(ratio=fixed), "k--", linewidth=1.2, label="SDE")
    for k, name in enumerate(study["optimizer"].values):
        one = study.sel(optimizer=name)
        axes.errorbar(
            rates,
            one["simulated"],
            yerr=2.0 * one["simulated_stderr"],
            fmt=_MARKS[k],
            color=COLOURS[k],
            markersize=5,
            label=f"{name}, simulated ± 2 s.e.",
        )
    axes.set_xlabel("α (momentum: α (1 - β); Adam: α sqrt(c/B))")
    axes.set_ylabel("occupancy of the wide well")
    axes.set_title(f"against α at α/B = {fixed:g}", fontsize=10)
    _labeled(axes, rates)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")


def _labeled(axes: Axes, x: np.ndarray) -> None:
    """A logarithmic axis with the values that were looked at."""
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{value:g}" for value in x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(True, alpha=0.3, linewidth=0.6)


def _escapes(axes: Axes, study: xr.Dataset) -> None:
    x = study["ratio"].values
    for k, lr in enumerate(study["rate"].values):
        one = study.sel(rate=lr)
        axes.plot(x, lr * one["escape_steps"], "-", marker=".", color=COLOURS[k % 7], label=f"chain, α = {lr:g}")
    first = study.isel(rate=0)
    axes.plot(x, float(first["rate"]) * first["escape_sde"], "k--", linewidth=1.6, label="SDE")
    axes.plot(x, float(first["rate"]) * first["escape_kramers"], "k:", linewidth=1.6, label="Kramers, half")
    decades(axes, "y")
    _labeled(axes, x)
    axes.set_xlabel("α/B")
    axes.set_ylabel("α × mean steps past the barrier")
    axes.set_title("leaving the sharp minimum", fontsize=10)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")


def _annealing(axes: Axes, study: xr.Dataset) -> None:
    stage = study["stage"].values
    for k, way in enumerate(study["annealing"].values):
        one = study.sel(annealing=way)
        axes.errorbar(
            stage + 0.05 * k,
            one["annealed"],
            yerr=2.0 * one["annealed_stderr"],
            fmt="-" + _MARKS[k],
            color=COLOURS[k],
            markersize=5,
            label=str(way),
        )
    axes.set_xlabel("stage of equally many examples, α/B halved each time")
    axes.set_ylabel("occupancy of the wide well")
    axes.set_title("SGD: the rate decays, or the batch grows", fontsize=10)
    axes.set_xticks(stage)
    axes.grid(True, alpha=0.3, linewidth=0.6)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")
