"""Rate decay against batch growth, at equal examples."""

from __future__ import annotations

import xarray as xr
from matplotlib.figure import Figure

from mcnqm.plots.style import COLOURS, decades, new_figure
from mcnqm.plots.views import check_runs

__all__ = ["plot_batch_growth"]

_LOOKS: tuple[tuple[str, str, float, float], ...] = (("-", "o", 3.2, 7.5), ("--", "s", 1.3, 3.2), (":", "^", 1.3, 3.5))
"""Dashes, marker, width and size of each way: the first, wide and hollow, is seen around a twin that lies on it."""


def plot_batch_growth(study: xr.Dataset) -> Figure:
    """Risk against examples, a panel for each optimizer: points are simulated (± 2 s.e.), lines are theory.

    Parameters
    ----------
    study : xarray.Dataset
        From `mcnqm.studies.batch_growth`.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic
    >>> from mcnqm.studies.batch_growth import BatchGrowthConfig, run
    >>> config = BatchGrowthConfig(NoisyQuadratic.power_law(10), {"sgd": SGD(lr=0.2)}, trajectories=4, examples=1024)
    >>> [axes.get_ylabel() for axes in plot_batch_growth(run(config)).axes]
    ['risk  E L(θ)']
    """
    check_runs(study, "batch-growth", "risk", "risk_stderr", "theory", "step")
    labels = [str(label) for label in study["optimizer"].values]
    figure, panels = new_figure(len(labels), width=4.4, height=4.2)
    figure.suptitle(
        f"d = {study.attrs['dim']}, first batch {study.attrs['batch_size']}; from stage to stage the rate falls by "
        f"{study.attrs['factor']}, or the batch grows instead\npoints: simulated ± 2 s.e.; lines: theory",
        fontsize=10,
    )
    x = study["examples"].values / 1000.0
    for axes, label in zip(panels, labels, strict=True):
        for k, way in enumerate(study["way"].values):
            one = study.sel(optimizer=label, way=way)
            dash, marker, width, size = _LOOKS[k % len(_LOOKS)]
            steps = int(one["step"][-1])
            axes.plot(x, one["theory"], dash, color=COLOURS[k], linewidth=width, alpha=0.45 if k == 0 else 1.0)
            axes.errorbar(
                x[1:],
                one["risk"].values[1:],
                yerr=2.0 * one["risk_stderr"].values[1:],
                fmt=marker,
                color=COLOURS[k],
                markersize=size,
                markerfacecolor="none" if k == 0 else COLOURS[k],
                elinewidth=0.9,
                label=f"{way} ({steps} steps)",
            )
        decades(axes, "y")
        axes.set_xlabel("examples (thousands)")
        axes.set_title(label, fontsize=10)
        axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")
    panels[0].set_ylabel("risk  E L(θ)")
    return figure
