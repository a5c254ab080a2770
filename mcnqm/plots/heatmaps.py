"""Risk over two swept dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD
from mcnqm.plots.style import one_panel
from mcnqm.plots.views import check_runs, swept
from mcnqm.plots.wording import constants, coordinate, labels, name_of, wrapped
from mcnqm.problems import NoisyQuadratic
from mcnqm.provenance import arguments_of
from mcnqm.schedules import Schedule

__all__ = ["heatmap"]

Array = NDArray[np.float64]

_SPAN = 1e4
"""Largest over smallest risk that shades tell apart; what is on its way to infinity would leave none to the rest."""

_WIDE = 5.0
"""Largest over smallest entry of an axis from which on it is logarithmic."""


def heatmap(
    runs: xr.Dataset, *, x: str | None = None, y: str | None = None, step: int | None = None, ax: Axes | None = None
) -> Figure:
    """Risk at a step over two swept dimensions, with the edge of stability and the best marked.

    Parameters
    ----------
    runs : xarray.Dataset
        From `mcnqm.simulate` or `mcnqm.analytic.risk`, of a sweep over two dimensions.
    x, y : str, optional
        Names of the dimensions, or of hyperparameters along them. By default the two that are swept, the last of them
        across.
    step : int, optional
        A recorded step; by default the last.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.figure.Figure
        A star marks the least risk, dots the least of each column. Settings that diverged are hatched. The dashed line
        is `mcnqm.analytic.largest_stable_lr`, where the rate is one of the dimensions and the optimizer linear.

    Raises
    ------
    ParameterError
        If the Dataset has no risk, a name is not swept, or further dimensions are, or the step was not recorded.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=20)
    >>> sgd = mcnqm.SGD(lr=[0.5, 1.0, 2.0, 4.0], momentum=[0.0, 0.5, 0.9])
    >>> runs = mcnqm.simulate(problem, sgd, batch_size=8, steps=100, trajectories=8)
    >>> axes = mcnqm.plots.heatmap(runs, x="momentum", y="lr").axes[0]
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('momentum', 'learning rate')
    """
    check_runs(runs, "heatmap", "risk")
    dims = swept(runs, "risk")
    across, up = _axes_of(runs, dims, x, y)
    single = {str(dim): 0 for dim in runs["risk"].dims if dim not in (across, up, "step")}
    risk = runs["risk"].isel(single)
    recorded = runs["step"].values if "step" in runs["risk"].dims else np.array([], dtype=np.int64)
    if recorded.size:
        at = int(recorded[-1]) if step is None else step
        if at not in recorded:
            allowed = f"be recorded: {recorded[0]}, {recorded[1:2]}, ... {recorded[-1]}"
            raise ParameterError("step", step, allowed)
        risk = risk.sel(step=at)
    elif step is not None:
        raise ParameterError("step", step, "be left out: there are no steps")
    values = risk.transpose(up, across).values
    figure, axes = one_panel(ax, width=6.4, height=4.8)
    places = [_Scale(coordinate(runs, dim)) for dim in (across, up)]
    _cells(figure, axes, places, values)
    _marks(axes, places, values)
    _edge(axes, places, runs, (across, up))
    for scale, name in zip(places, ("x", "y"), strict=True):
        scale.label(axes, name)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)
    facts = [*constants(runs), *([f"step {at}"] if recorded.size else [])]
    axes.set_title(wrapped(facts, 70), fontsize=10)
    return figure


class _Scale:
    """An axis: where entries lie, between which edges, and what it is called."""

    def __init__(self, label: xr.DataArray) -> None:
        self.name = str(label.name)
        self._label = label
        self.numeric = label.dtype.kind in "iuf"
        at = np.asarray(label.values, dtype=np.float64) if self.numeric else np.arange(label.size, dtype=np.float64)
        self.order = np.argsort(at)
        self.at = at[self.order]
        self.log = self.numeric and self.at[0] > 0 and self.at[-1] >= _WIDE * self.at[0]
        place = np.log(self.at) if self.log else self.at
        middle = 0.5 * (place[1:] + place[:-1])
        gaps = (2 * place[0] - middle[0], 2 * place[-1] - middle[-1])
        ends = [gaps[0], *middle, gaps[1]]
        self.edges = np.exp(ends) if self.log else np.array(ends)

    def label(self, axes: Axes, which: str) -> None:
        """Scale, ticks, limits and name of one axis."""
        if self.log:
            getattr(axes, f"set_{which}scale")("log")
        elif not self.numeric or self.at.size <= 10:
            getattr(axes, f"set_{which}ticks")(self.at, labels=[labels(self._label)[k] for k in self.order])
        getattr(axes, f"set_{which}lim")(self.edges[0], self.edges[-1])
        words = {"lr": "learning rate", "batch_size": "batch size (examples)"}
        getattr(axes, f"set_{which}label")(words.get(self.name, name_of(self._label)))


def _axes_of(runs: xr.Dataset, dims: list[str], x: str | None, y: str | None) -> tuple[str, str]:
    def dim_of(name: str, value: str) -> str:
        found = value if value in dims else None
        if found is None and value in runs.coords and runs.coords[value].dims and runs.coords[value].dims[0] in dims:
            found = str(runs.coords[value].dims[0])
        if found is None:
            raise ParameterError(name, value, f"be one of the swept dimensions: {', '.join(dims) or 'there are none'}")
        return found

    if len(dims) < 2:
        allowed = f"sweep two dimensions for the view 'heatmap', not {', '.join(dims) or 'none'}"
        raise ParameterError("runs", f"{len(dims)} swept dimensions", allowed)
    across = None if x is None else dim_of("x", x)
    up = None if y is None else dim_of("y", y)
    rest = [dim for dim in dims if dim not in (across, up)]
    if across is None:
        across = rest.pop()
    if up is None and rest:
        up = rest.pop(0)
    if up is None or up == across:
        raise ParameterError("y", y, f"be another dimension than x, {across!r}")
    if rest:
        allowed = f"be of one value along {', '.join(rest)} for the view 'heatmap': select with .sel or .isel"
        raise ParameterError("runs", f"{len(dims)} swept dimensions", allowed)
    return across, up


def _cells(figure: Figure, axes: Axes, places: list[_Scale], values: Array) -> None:
    sorted_ = values[np.ix_(places[1].order, places[0].order)]
    finite = np.isfinite(sorted_) & (sorted_ > 0)
    if not finite.any():
        raise ParameterError("runs", "no finite risk", "hold some for the view 'heatmap'")
    low, high = sorted_[finite].min(), sorted_[finite].max()
    beyond, high = high > _SPAN * low, min(high, _SPAN * low)
    norm = LogNorm(low, high if high > low else 2.0 * low)
    shades = colormaps["viridis_r"]
    drawn = axes.pcolormesh(
        places[0].edges, places[1].edges, np.where(finite, sorted_, np.nan), norm=norm, cmap=shades, rasterized=True
    )
    lost = ~finite
    if lost.any():
        _hatched(axes, places, lost)
    figure.colorbar(drawn, ax=axes, pad=0.02, label="risk  E L(θ)", extend="max" if beyond else "neither")


def _hatched(axes: Axes, places: list[_Scale], lost: NDArray[np.bool_]) -> None:
    for row, column in np.argwhere(lost):
        (x0, x1), (y0, y1) = places[0].edges[column : column + 2], places[1].edges[row : row + 2]
        axes.fill([x0, x1, x1, x0], [y0, y0, y1, y1], facecolor="0.85", edgecolor="0.55", hatch="///", linewidth=0)


def _marks(axes: Axes, places: list[_Scale], values: Array) -> None:
    known = np.where(np.isfinite(values), values, np.inf)[np.ix_(places[1].order, places[0].order)]
    columns = np.flatnonzero(np.isfinite(known).any(axis=0))
    rows = known[:, columns].argmin(axis=0)
    look: dict[str, Any] = {"markeredgecolor": "white", "color": "black", "linestyle": "none", "clip_on": False}
    axes.plot(places[0].at[columns], places[1].at[rows], "o", markersize=6, label="least risk of each column", **look)
    row, column = np.unravel_index(int(known.argmin()), known.shape)
    axes.plot(places[0].at[column], places[1].at[row], "*", markersize=16, label="least risk", **look)


def _edge(axes: Axes, places: list[_Scale], runs: xr.Dataset, dims: tuple[str, str]) -> None:
    """The largest stable rate against the other dimension."""
    rates = [k for k in (0, 1) if places[k].name == "lr"]
    if not rates or "config" not in runs.attrs:
        return
    try:
        given = arguments_of(runs)
    except ParameterError:  # of a class that is not known here
        return
    optimizer: Any = given.get("optimizer")
    if not isinstance(optimizer, SGD) or not isinstance(given.get("problem"), NoisyQuadratic):
        return
    if any(isinstance(value, Schedule) for value in optimizer):
        return
    (rate,) = rates
    other = dims[1 - rate]
    stable = analytic.largest_stable_lr(given["problem"], optimizer._replace(lr=1.0))["largest_stable_lr"]
    across = places[1 - rate]
    if other in stable.dims:
        extra = {str(dim): runs[dim].values.item() for dim in stable.dims if dim != other and dim in runs.coords}
        edge = np.asarray(stable.sel(extra).values, dtype=np.float64)[across.order]
    elif stable.ndim == 0:
        edge = np.full(across.at.size, float(stable))
    else:
        return
    # To the outer edges of the first and the last cell.
    along = np.concatenate([across.edges[:1], across.at, across.edges[-1:]])
    edge = np.concatenate([edge[:1], edge, edge[-1:]])
    drawn = (along, edge) if rate == 1 else (edge, along)
    # Seen on any shade, and in the legend of any style.
    around = [patheffects.Stroke(linewidth=3.2, foreground="white"), patheffects.Normal()]
    axes.plot(*drawn, "--", color="black", linewidth=1.6, zorder=3, label="edge of stability", path_effects=around)
