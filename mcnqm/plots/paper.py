"""The figures of Zhang et al. 2019, on the paper's axes: theory as lines, simulation as points with 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mcnqm.plots.style import COLOURS, decades, new_figure

__all__ = ["plot_paper_figure"]

_BATCH = "batch size (examples)"


def plot_paper_figure(data: xr.Dataset) -> Figure:
    """Draw a figure of the paper from its data.

    Parameters
    ----------
    data : Dataset
        From `mcnqm.studies.paper`.
    """
    number = data.attrs["figure"]
    figure, (axes,) = new_figure(width=6.4, height=4.8)
    _DRAWERS[number](axes, data)
    dim = "" if number in ("1", "2", "9") else f", d = {data.attrs['dim']}"
    axes.set_title(f"Zhang et al. 2019, figure {number}, by mcnqm{dim}", fontsize="medium")
    return figure


def _figure_1(axes: Axes, data: xr.Dataset) -> None:
    for k, h in enumerate(data["curvature"].values):
        for decay, style in ((False, "--"), (True, "-")):
            one = data.sel(curvature=h, decay=decay)
            label = f"h = {h:g}{', rate decays' if decay else ''}"
            axes.plot(data["step"], one["risk"], style, color=COLOURS[k], label=label)
            _points(axes, data["point"], one["simulated_risk"], 1.96 * one["simulated_risk_stderr"], COLOURS[k])
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.set(xlabel="step", ylabel="risk of the coordinate (points: simulated)", ylim=(5e-4, 3.0))
    axes.legend(fontsize="small", ncols=3, loc="upper center")


def _figure_2(axes: Axes, data: xr.Dataset) -> None:
    beta = data["momentum"]
    axes.plot(beta, data["convergence_rate"], color=COLOURS[0], label="convergence rate")
    axes.plot(beta, data["effective_convergence_rate"], "--", color=COLOURS[0], label="1 - αh/(1-β)")
    axes.set(xlabel="momentum β", ylabel="convergence rate (factor per step)", ylim=(0.9, 1.002), xlim=(0.0, 1.0))
    axes.yaxis.label.set_color(COLOURS[0])
    other = axes.twinx()
    other.plot(beta, data["steady_state_risk"], color=COLOURS[1], label="steady-state risk")
    other.plot(beta, data["effective_steady_state_risk"], ":", linewidth=2.5, color=COLOURS[1], label="SGD at α/(1-β)")
    _points(other, data["point"], data["simulated_risk"], 1.96 * data["simulated_risk_stderr"], COLOURS[1])
    other.set(ylabel="steady-state risk (points: simulated)", yscale="log")
    other.yaxis.label.set_color(COLOURS[1])
    lines = [*axes.get_lines(), *other.get_lines()[:2]]
    axes.legend(lines, [str(line.get_label()) for line in lines], fontsize="small", loc="center left")
    axes.grid(alpha=0.3)


def _figure_9(axes: Axes, data: xr.Dataset) -> None:
    for k, t in enumerate(data["step"].values):
        width = 1.0 + 0.5 * k
        one = data.sel(step=t)
        axes.plot(
            data["scaling"], one["momentum"], color=COLOURS[1], linewidth=width, label="momentum" if k == 0 else ""
        )
        axes.plot(
            data["scaling"],
            one["effective"],
            "--",
            color=COLOURS[0],
            linewidth=width,
            label="SGD at α/(1-β)" if k == 0 else "",
        )
        at = int(np.argmin(np.abs(one["momentum"].values - 0.7 + 0.1 * k)))
        axes.annotate(f" {t} steps", (data["scaling"][at], one["momentum"][at]), fontsize="small", ha="left")
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.set(xlabel="effective over true learning rate, 1/(1-β)", ylabel="first term, over its start")
    axes.legend(fontsize="small")


def _figure_3a(axes: Axes, data: xr.Dataset) -> None:
    for k, p in enumerate(data["power"].values):
        one = data["steps"].sel(power=p)
        axes.plot(data["batch_size"], one.sel(momentum=1), color=COLOURS[k], label=f"p = {p:g}")
        axes.plot(data["batch_size"], one.sel(momentum=0), "--", color=COLOURS[k])
    _bound(axes, data)
    axes.plot([], [], color="0.4", label="tuned momentum")
    axes.plot([], [], "--", color="0.4", label="plain SGD")
    _between(axes, data["adam_batch_size"], data, "adam_steps", COLOURS[5], "s", "true Adam, simulated")
    for power in data["simulated_power"].values:
        at = int(np.argmin(np.abs(data["power"].values - power)))
        for momentum, marker in zip(data["simulated_momentum"].values, "o^", strict=True):
            points = data.sel(simulated_power=power, simulated_momentum=momentum)
            name = f"simulated, {'momentum 0.9' if momentum else 'plain SGD'}" if power == 0 else ""
            _between(axes, data["simulated_batch_size"], points, "simulated_steps", COLOURS[at], marker, name)
    _log(axes, _BATCH, "steps to risk 0.01")
    axes.set_ylim(0.8)
    axes.legend(fontsize="x-small", ncols=2)


def _figure_3b(axes: Axes, data: xr.Dataset) -> None:
    for k, p in enumerate(data["power"].values):
        axes.plot(
            data["schedule_batch_size"], data["steps"].sel(power=p), color=COLOURS[k], label=f"schedule, p = {p:g}"
        )
        axes.plot(
            data["batch_size"], data["constant_steps"].sel(power=p), "--", color=COLOURS[k], label=f"plain, p = {p:g}"
        )
    _bound(axes, data)
    for k, p in enumerate(data["simulated_power"].values):
        one = data.sel(simulated_power=p)
        name = "schedule, simulated" if k == 0 else ""
        _between(axes, data["simulated_batch_size"], one, "simulated_steps", COLOURS[k], "o", name)
    _log(axes, _BATCH, "steps to risk 0.01")
    axes.set_ylim(0.8)
    axes.legend(fontsize="small", ncols=2)


def _figure_3c(axes: Axes, data: xr.Dataset) -> None:
    shown = data["batch_size"].values[:: -(-data.sizes["batch_size"] // 6)]
    for k, b in enumerate(shown):
        one = data.sel(batch_size=b)
        kept = one["length"].values > 0
        start = one["start"].values[kept] / float(one["steps"])
        axes.stairs(one["lr"].values[kept], [*start, 1.0], color=COLOURS[k], baseline=None, label=f"B = {b:g}", lw=1.5)
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.set(xlabel="part of the run", ylabel="learning rate")
    axes.legend(fontsize="small")


def _figure_11(axes: Axes, data: xr.Dataset) -> None:
    for k, target in enumerate(data["threshold"].values):
        axes.plot(data["batch_size"], data["steps"].sel(threshold=target), color=COLOURS[k], label=f"risk {target:g}")
    _log(axes, _BATCH, "steps to the target")
    axes.legend(fontsize="small")


def _figure_12(axes: Axes, data: xr.Dataset) -> None:
    with_momentum = data.attrs["figure"] != "12a"
    for k, p in enumerate(data["power"].values):
        axes.plot(data["batch_size"], data["effective_lr"].sel(power=p), color=COLOURS[k], label=f"p = {p:g}")
        if with_momentum:
            axes.plot(data["batch_size"], data["plain_lr"].sel(power=p), "--", color=COLOURS[k])
    if with_momentum:
        axes.plot([], [], "--", color="0.4", label="without momentum")
    else:
        _between(axes, data["adam_batch_size"], data, "adam_lr", COLOURS[5], "s", "true Adam, simulated")
    _log(axes, _BATCH, "optimal effective learning rate α/(1-β)" if with_momentum else "optimal learning rate")
    axes.legend(fontsize="small")


def _figure_13(axes: Axes, data: xr.Dataset) -> None:
    for k, p in enumerate(data["power"].values):
        x = data["schedule_batch_size"]
        axes.plot(x, data["final_lr"].sel(power=p), "o-", color=COLOURS[k], markersize=4, label=f"final, p = {p:g}")
        axes.plot(x, data["first_lr"].sel(power=p), ":", color=COLOURS[k], label=f"first, p = {p:g}")
    _log(axes, _BATCH, "learning rate")
    axes.legend(fontsize="small")


def _points(axes: Axes, x: Any, y: Any, half: Any, colour: str) -> None:
    axes.errorbar(x, y, yerr=half, fmt="o", color=colour, markersize=4, capsize=2, linewidth=1.0)


def _between(axes: Axes, x: Any, data: xr.Dataset, name: str, colour: str, marker: str, label: str) -> None:
    """Points with an interval under their own name and ``_interval``."""
    y, ends = data[name].values, data[f"{name}_interval"].values
    errors = np.maximum([y - ends[:, 0], ends[:, 1] - y], 0.0)
    axes.errorbar(
        x,
        y,
        yerr=errors,
        fmt=marker,
        color=colour,
        markeredgecolor="black",
        markeredgewidth=0.5,
        markersize=5,
        capsize=2,
        linewidth=1.0,
        label=label,
        zorder=3,
    )


def _bound(axes: Axes, data: xr.Dataset) -> None:
    axes.plot(data["batch_size"], data["information_bound"], "--", color="black", label="information bound")


def _log(axes: Axes, x: str, y: str) -> None:
    decades(axes)
    axes.set(xlabel=x, ylabel=y)


_DRAWERS: dict[str, Callable[[Axes, xr.Dataset], None]] = {
    "1": _figure_1,
    "2": _figure_2,
    "3a": _figure_3a,
    "3b": _figure_3b,
    "3c": _figure_3c,
    "9": _figure_9,
    "11": _figure_11,
    "12a": _figure_12,
    "12b": _figure_12,
    "12c": _figure_12,
    "13": _figure_13,
}
