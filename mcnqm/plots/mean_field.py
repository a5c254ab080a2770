"""The error of the mean-field theory, and the worth of its twin as a control variate, against batch size."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcnqm.plots.style import COLOURS, DASHES, decades, ink, new_figure
from mcnqm.plots.views import check_runs
from mcnqm.plots.wording import numbers

__all__ = ["plot_mean_field"]

Array = NDArray[np.float64]

_LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    # Drawn in this order, so that the small black crosses of the fine rule stay on top.
    "one twin": ("one twin for all starting points", {"color": COLOURS[2], "marker": "^", "linestyle": "-."}),
    "no fluctuations": ("without fluctuations of v", {"color": COLOURS[1], "marker": "s", "linestyle": "--"}),
    "full": ("full theory, {nodes} nodes", {"color": COLOURS[0], "marker": "o", "linestyle": "-"}),
    "fine rule": ("full theory, {nodes_fine} nodes", {"color": None, "marker": "x", "linestyle": ":"}),
}
_SIZES = {"full": 6.5, "no fluctuations": 4.5, "one twin": 6.0, "fine rule": 5.0}

_ASIDE = {"full": 0.84, "no fluctuations": 1.0, "one twin": 1.0, "fine rule": 1.19}
"""Factors on the batch size at which points are drawn."""

_FOOT = 0.4
"""Longest lower half of a bar, relative: panels begin at half of the least point."""

_MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def plot_mean_field(study: xr.Dataset) -> Figure:
    """Relative error of the predicted risk, and variance reduction late in the run, against batch size.

    Errors are root mean squares over the steps of a run, with bars of two standard errors, in one panel per β₂. The
    grey area is where Monte Carlo error alone would put a perfect theory. Cells without a prediction are not drawn.

    Parameters
    ----------
    study : xarray.Dataset
        From `mcnqm.studies.mean_field`.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per β₂, on one scale, and the panel of variance reductions.

    Examples
    --------
    >>> cell, by = ("beta2", "batch_size"), ("variant", "beta2", "batch_size")
    >>> study = xr.Dataset(
    ...     {
    ...         "rms_error": (by, [[[0.01, 0.02]]]), "rms_error_stderr": (by, [[[0.001, 0.001]]]),
    ...         "rms_noise": (cell, [[0.001, 0.001]]),
    ...         "late_reduction": (cell, [[100.0, 1.0]]), "late_reduction_stderr": (cell, [[9.0, 0.1]]),
    ...     },
    ...     coords={"variant": ["full"], "beta2": [0.99], "batch_size": [1.0, 4.0]},
    ...     attrs={"nodes": 16},
    ... )
    >>> [axes.get_title() for axes in plot_mean_field(study).axes]
    ['β₂ = 0.99', 'control variate, last step']
    """
    check_runs(study, "mean-field", "rms_error", "rms_error_stderr", "rms_noise", "late_reduction")
    study = study.transpose("variant", "beta2", "batch_size", ...).sortby("batch_size")
    betas = study["beta2"].values
    figure, panels = new_figure(len(betas) + 1, width=2.9, height=4.2)
    figure.suptitle(_title(study), fontsize=10)
    batch = study["batch_size"].values.astype(float)
    for k, (axes, name) in enumerate(zip(panels, numbers(betas), strict=False)):
        _errors(axes, study.isel(beta2=k), batch)
        axes.set_title(f"β₂ = {name}", fontsize=10)
    _scale(panels[:-1], study, batch)
    panels[0].set_ylabel("relative error of the predicted risk (r.m.s.)")
    _reductions(panels[-1], study, batch)
    handles, names = panels[0].get_legend_handles_labels()
    # An entry is narrower than a panel; all five fit in one row under four panels.
    columns = len(names) if len(panels) > 3 else len(panels)
    figure.legend(handles, names, loc="outside lower left", ncols=columns, fontsize=8.5, frameon=False)
    return figure


def _errors(axes: Axes, one: xr.Dataset, batch: Array) -> None:
    noise = one["rms_noise"].values
    known = np.isfinite(noise)
    if known.any():
        # Down to far below any limit: a log axis has no 0.
        axes.fill_between(
            batch[known], 1e-12, noise[known], color="0.5", alpha=0.3, linewidth=0, label="Monte Carlo error alone"
        )
    for variant, (text, look) in _LOOKS.items():
        if variant not in one["variant"].values:
            continue
        mine = one.sel(variant=variant)
        label = text.format_map(one.attrs)
        # Side by side: where theories agree, all of their points are to be seen.
        _curve(
            axes,
            batch * _ASIDE[variant],
            mine["rms_error"].values,
            mine["rms_error_stderr"].values,
            label,
            look,
            _SIZES[variant],
        )


def _reductions(axes: Axes, study: xr.Dataset, batch: Array) -> None:
    for k, name in enumerate(numbers(study["beta2"].values)):
        # The other panels' colours mean theories.
        look = {
            "color": ("#CC79A7", "#E69F00", "#56B4E9", "0.4")[k % 4],
            "marker": _MARKERS[k % len(_MARKERS)],
            "linestyle": DASHES[k % len(DASHES)],
        }
        one = study.isel(beta2=k)
        value, error = one["late_reduction"].values, one["late_reduction_stderr"].values
        _curve(axes, batch, value, error, f"β₂ = {name}", look, 5.5)
    axes.axhline(1.0, color="0.5", linewidth=0.8, zorder=1)
    decades(axes)
    values = study["late_reduction"].values
    values = values[np.isfinite(values) & (values > 0)]
    axes.set_ylim(min(0.6, 0.7 * values.min(initial=1.0)), 3.0 * values.max(initial=10.0))
    _across(axes, batch)
    axes.set_ylabel("variance reduction")
    axes.set_title("control variate, last step", fontsize=10)
    axes.legend(loc="upper right", fontsize=8.5, framealpha=0.85, edgecolor="none")


def _curve(axes: Axes, batch: Array, value: Array, error: Array, label: str, look: dict[str, Any], size: float) -> None:
    seen = np.isfinite(value) & (value > 0)
    look = {**look, "color": look["color"] or ink()}
    # A bar that would leave the axes at their foot ends a little below its point, and the grey area says the rest.
    low = np.where(np.isfinite(error), np.minimum(2.0 * error, _FOOT * value), 0.0)
    high = np.where(np.isfinite(error), 2.0 * error, 0.0)
    axes.errorbar(
        *(batch[seen], value[seen]),
        yerr=np.stack([low, high])[:, seen],
        label=label,
        markersize=size,
        linewidth=1.2,
        elinewidth=1.0,
        **look,
    )


def _scale(panels: list[Axes], study: xr.Dataset, batch: Array) -> None:
    """One scale for all β₂, from the points rather than from bars."""
    both = np.concatenate([study["rms_error"].values.ravel(), study["rms_noise"].values.ravel()])
    both = both[np.isfinite(both) & (both > 0)]
    for k, axes in enumerate(panels):
        decades(axes)
        _across(axes, batch)
        axes.set_ylim(*((both.min() / 2, both.max() * 1.6) if both.size else (1e-3, 1.0)))
        if k:
            axes.tick_params(labelleft=False)


def _across(axes: Axes, batch: Array) -> None:
    axes.set_xlim(batch[0] / 1.7, batch[-1] * 1.7)
    axes.set_xlabel("batch size (examples)")


def _title(study: xr.Dataset) -> str:
    facts = ["Adam at the rate that theory finds best"]
    for name, text in (("target", "target risk {:g}"), ("dim", "d = {}")):
        if name in study.attrs:
            facts.append(text.format(study.attrs[name]))
    return ", ".join(facts) + "; bars: ± 2 standard errors"
