"""The figure of one claim: the curves that its effects were read off."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from mcnqm.plots.style import COLOURS, DASHES, decades, new_figure

__all__ = ["plot_claim"]

_MARKED = 12
"""Series of at most so many points show them; longer ones are lines."""


def plot_claim(measured: xr.Dataset) -> Figure:
    """Draw the curves of a claim.

    Parameters
    ----------
    measured : Dataset
        From ``mcnqm.claims.get(...).measure()``.

    Returns
    -------
    Figure
        A panel of all series, with intervals where they have errors.
    """
    figure, (axes,) = new_figure(width=6.4, height=4.2)
    markers = "os^Dv<>"
    for k in range(measured.sizes["series"]):
        one = measured.isel(series=k)
        kept = np.isfinite(one["x"].values) & np.isfinite(one["y"].values)
        x, y = one["x"].values[kept], one["y"].values[kept]
        interval = one["y_interval"].values[kept]
        errors = np.abs(interval - y[:, None]).T if np.isfinite(interval).any() else None
        axes.errorbar(
            x,
            y,
            yerr=errors,
            color=COLOURS[k % len(COLOURS)],
            linestyle=DASHES[k % len(DASHES)],
            marker=markers[k % len(markers)] if x.size <= _MARKED else "",
            markersize=4,
            linewidth=1.4,
            capsize=2,
            label=str(one["series"].values),
        )
    logarithmic = "".join(name for name in ("x", "y") if _logarithmic(measured, name))
    if logarithmic:
        decades(axes, "both" if logarithmic == "xy" else logarithmic)
    else:
        axes.grid(True, alpha=0.3, linewidth=0.6)
    axes.set_xlabel(measured.attrs["x_label"])
    axes.set_ylabel(measured.attrs["y_label"])
    if measured.sizes["series"] > 4:
        figure.set_size_inches(6.4, 4.2 + 0.14 * measured.sizes["series"])
        figure.legend(loc="outside lower center", ncols=2, fontsize="x-small", frameon=False)
    elif measured.sizes["series"]:
        axes.legend(fontsize="small")
    return figure


def _logarithmic(measured: xr.Dataset, name: str) -> bool:
    """Whether an axis is to be logarithmic: within a decade it would have no labels."""
    values = measured[name].values[np.isfinite(measured[name].values)]
    return bool(measured.attrs[f"{name}_scale"] == "log" and (values > 0).all() and values.max() > 10.0 * values.min())
