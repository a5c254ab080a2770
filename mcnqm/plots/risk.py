"""Risk against steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from mcnqm.plots.style import COLOURS, DASHES, decades, new_figure

__all__ = ["plot_risk"]

_MOST_CURVES = 8


def plot_risk(runs: xr.Dataset) -> Figure:
    """Risk against steps on log axes, one curve per setting, with bands of two standard errors.

    Parameters
    ----------
    runs : xarray.Dataset
        From `mcnqm.simulate` or `mcnqm.studies.comparison.compare`. Of more than eight settings, eight evenly
        spaced ones are drawn, and the title says so.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=10)
    >>> runs = mcnqm.simulate(problem, mcnqm.SGD(lr=[0.1, 0.2]), batch_size=8, steps=100)
    >>> plot_risk(runs).axes[0].get_xlabel()
    'steps'
    """
    dims = [dim for dim in runs["risk"].dims if dim != "step"]
    flat = runs[["risk", "risk_stderr"]].stack(setting=dims) if dims else runs.expand_dims("setting")
    total = flat.sizes["setting"]
    shown = np.unique(np.linspace(0, total - 1, min(total, _MOST_CURVES)).round().astype(int))
    figure, (axes,) = new_figure()
    later = runs["step"].values > 0  # a log axis has no 0
    steps = runs["step"].values[later]
    for rank, index in enumerate(shown):
        one = flat.isel(setting=int(index))
        colour = COLOURS[rank % len(COLOURS)]
        risk = one["risk"].transpose("step").values[later]
        error = one["risk_stderr"].transpose("step").values[later]
        seen = np.isfinite(risk)
        if not seen.any():
            axes.plot([], [], color=colour, linestyle=":", label=f"{_label(one, dims)} (diverged)")
            continue
        axes.plot(
            steps[seen],
            risk[seen],
            DASHES[rank % len(DASHES)],
            color=colour,
            label=_label(one, dims),
            linewidth=1.6,
        )
        band = seen & np.isfinite(error)
        # A lower edge at or below 0 would leave the log axis; the floor keeps it drawable, below the curve.
        low = np.maximum(risk[band] - 2 * error[band], 1e-3 * risk[band])
        axes.fill_between(steps[band], low, risk[band] + 2 * error[band], color=colour, alpha=0.25, linewidth=0)
    decades(axes)
    axes.set_xlabel("steps")
    axes.set_ylabel("risk  E L(θ)")
    axes.set_title(_title(runs, total, len(shown)), fontsize=10)
    if total > 1:
        axes.legend(frameon=False)
    return figure


def _label(one: xr.Dataset, dims: list[Any]) -> str:
    parts = []
    for dim in dims:
        value = one.coords[dim].item() if dim in one.coords else "?"
        parts.append(str(value) if dim == "optimizer" else f"{dim} = {value:g}")
    return ", ".join(parts)


def _title(runs: xr.Dataset, total: int, shown: int) -> str:
    parts = []
    if "batch_size" in runs.coords and runs.coords["batch_size"].ndim == 0:
        parts.append(f"batch size {runs.coords['batch_size'].item():g}")
    if "trajectories" in runs.attrs:
        parts.append(f"{runs.attrs['trajectories']} trajectories, band ± 2 standard errors")
    if shown < total:
        parts.append(f"{shown} of {total} settings")
    return ", ".join(parts)
