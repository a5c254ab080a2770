"""Risk against steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcnqm.errors import ParameterError
from mcnqm.plots.style import COLOURS, DASHES, decades, one_panel
from mcnqm.plots.views import check_runs
from mcnqm.plots.wording import constants, coordinate, labels, name_of, varying, wrapped

__all__ = ["risk"]

Array = NDArray[np.float64]

_MOST_CURVES = 8
"""More than a legend can name and an eye tell apart by colour."""

_MOST_SHADES = 32
"""Curves that a colour bar tells apart."""

_MOST_TICKS = 12
"""Entries of a sweep that the colour bar names one by one."""


def risk(runs: xr.Dataset, *, ax: Axes | None = None) -> Figure:
    """Risk against steps on log axes, one curve per setting, with bands of two standard errors.

    Parameters
    ----------
    runs : xarray.Dataset
        From `mcnqm.simulate` or `mcnqm.studies.comparison.compare`.
    ax : matplotlib.axes.Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib.figure.Figure
        Up to eight settings are named in a legend, by what varies. Of more, those of the longest numeric sweep are told
        apart by a colour bar and the others by dashes. Where only some are drawn, evenly spaced, the title says so. A
        cross marks where a setting that diverges goes out of sight.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=10)
    >>> runs = mcnqm.simulate(problem, mcnqm.SGD(lr=[0.1, 0.2]), batch_size=8, steps=100)
    >>> figure = risk(runs)
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['lr = 0.1', 'lr = 0.2']
    """
    check_runs(runs, "risk", "risk", "step")
    if not (runs["step"] > 0).any():
        raise ParameterError("runs", "no step after the start", "have some: a logarithmic axis has no 0")
    dims = varying(runs)
    sizes = [runs.sizes[dim] for dim in dims]
    total = int(np.prod(sizes, dtype=np.int64))
    figure, axes = one_panel(ax)
    numeric = [dim for dim in dims if coordinate(runs, dim).dtype.kind in "iuf"]
    curves = _Curves(runs, dims)
    if total > _MOST_CURVES and numeric:
        drawn = _shaded(figure, axes, curves, max(numeric, key=lambda dim: runs.sizes[dim]))
    else:
        drawn = _named(axes, curves, _spaced(total, _MOST_CURVES))
    decades(axes)
    curves.limit(axes)
    axes.set_xlabel("steps")
    axes.set_ylabel("risk  E L(θ)")
    facts = constants(runs)
    if "trajectories" in runs.attrs:
        count = runs.attrs["trajectories"]
        facts.append("1 trajectory" if count == 1 else f"{count} trajectories, band ± 2 standard errors")
    if drawn < total:
        facts.append(f"{drawn} of {total} settings")
    if curves.diverged:
        facts.append(f"× diverged ({curves.diverged})")
    axes.set_title(wrapped(facts), fontsize=10)
    return figure


class _Curves:
    """The risk of every setting, and what has been drawn of it."""

    def __init__(self, runs: xr.Dataset, dims: list[str]) -> None:
        self.dims = dims
        self.coordinates = [coordinate(runs, dim) for dim in dims]
        self.names = [labels(array) for array in self.coordinates]
        self.shape = tuple(runs.sizes[dim] for dim in dims)
        later = runs["step"].values > 0  # a log axis has no 0
        self._steps = runs["step"].values[later]
        single = {dim: 0 for dim in runs["risk"].dims if dim != "step" and dim not in dims}
        flat = runs[["risk", "risk_stderr"]].isel(single).transpose(*dims, "step")
        self._risk = flat["risk"].values.reshape(-1, later.size)[:, later]
        self._error = flat["risk_stderr"].values.reshape(-1, later.size)[:, later]
        self._drawn: dict[int, Any] = {}

    @property
    def diverged(self) -> int:
        """How many of those drawn diverge."""
        return sum(map(self.diverges, self._drawn))

    def label(self, place: tuple[Any, ...], dims: list[str]) -> str:
        """The setting at a place in the sweep, by its entries along `dims`."""
        parts = []
        for dim, k, array, names in zip(self.dims, place, self.coordinates, self.names, strict=True):
            if dim in dims:
                parts.append(f"{name_of(array)} = {names[k]}" if array.dtype.kind in "iuf" else names[k])
        return ", ".join(parts)

    def diverges(self, index: int) -> bool:
        """Whether a setting leaves the range of numbers."""
        return not np.isfinite(self._risk[index]).all()

    def draw(self, axes: Axes, index: int, **look: Any) -> None:
        """One curve with its band."""
        self._drawn[index] = look["color"]
        risk, error = self._risk[index], self._error[index]
        seen = np.isfinite(risk)
        axes.plot(self._steps[seen], risk[seen], **look)
        if not (seen & np.isfinite(error)).all():
            return  # a single trajectory has no errors; those of one that diverges would cover the others
        # A lower edge at or below 0 would leave the log axis; the floor keeps it drawable, below the curve.
        low = np.maximum(risk - 2 * error, 1e-3 * risk)
        strong = 0.25 if "label" in look else 0.12  # where there are many, bands add up
        axes.fill_between(self._steps, low, risk + 2 * error, color=look["color"], alpha=strong, linewidth=0)

    def limit(self, axes: Axes) -> None:
        """Limits from the curves, not from wide bands or from those on their way to infinity; these get a cross."""
        risk = self._risk[list(self._drawn)]
        settled = np.isfinite(risk).all(axis=1)
        shown = risk[settled] if settled.any() else risk
        shown = shown[np.isfinite(shown) & (shown > 0)]
        if shown.size:
            axes.set_ylim(shown.min() / 2, shown.max() * (2 if settled.all() else 10))
        for index in np.array(list(self._drawn))[~settled]:
            x, y = self._exit(self._risk[index], axes.get_ylim()[1])
            axes.plot([x], [y], "x", color=self._drawn[index], clip_on=False, zorder=5)

    def _exit(self, risk: Array, top: float) -> tuple[float, float]:
        """Where a curve passes the top of the axes, or the last that is seen of it below."""
        k = int((~(risk <= top)).argmax())
        if k == 0:
            return float(self._steps[0]), top
        if not np.isfinite(risk[k]):
            return float(self._steps[k - 1]), float(risk[k - 1])
        (x0, x1), (y0, y1) = np.log(self._steps[[k - 1, k]]), np.log(risk[[k - 1, k]])
        return float(np.exp(x0 + (x1 - x0) * (np.log(top) - y0) / (y1 - y0))), top


def _named(axes: Axes, curves: _Curves, shown: NDArray[np.int64]) -> int:
    for rank, index in enumerate(shown):
        place = np.unravel_index(index, curves.shape) if curves.shape else ()
        look = {"color": COLOURS[rank % len(COLOURS)], "linestyle": DASHES[rank % len(DASHES)]}
        name = curves.label(place, curves.dims) + (" (diverged)" if curves.diverges(int(index)) else "")
        curves.draw(axes, int(index), linewidth=1.6, label=name, **look)
    if curves.dims:
        axes.legend(frameon=False)
    return shown.size


def _shaded(figure: Figure, axes: Axes, curves: _Curves, along: str) -> int:
    """Curves coloured by the number they have along one dimension, dashed by what they are otherwise."""
    at = curves.dims.index(along)
    values = np.asarray(curves.coordinates[at].values, dtype=np.float64)
    log = values.min() > 0 and values.max() >= 5 * values.min()
    norm = (LogNorm if log else Normalize)(values.min(), values.max())
    shades = _shades()
    others = [dim for dim in curves.dims if dim != along]
    rest = curves.shape[:at] + curves.shape[at + 1 :]
    kinds = _spaced(int(np.prod(rest, dtype=np.int64)), len(DASHES))
    chosen = _spaced(values.size, _MOST_SHADES // kinds.size)
    for rank, kind in enumerate(kinds):
        place = [int(k) for k in np.unravel_index(kind, rest)] if rest else []
        for k in chosen:
            index = int(np.ravel_multi_index((*place[:at], int(k), *place[at:]), curves.shape))
            curves.draw(axes, index, linewidth=1.3, color=shades(norm(values[k])), linestyle=DASHES[rank])
        name = curves.label((*place[:at], 0, *place[at:]), others)
        axes.plot([], [], DASHES[rank], color="black", linewidth=1.3, label=name)
    if others:
        axes.legend(frameon=False)
    bar = figure.colorbar(ScalarMappable(norm, shades), ax=axes, label=name_of(curves.coordinates[at]), pad=0.02)
    if values.size <= _MOST_TICKS:  # so that every curve can be read off
        bar.set_ticks(values.tolist(), labels=curves.names[at])
        bar.minorticks_off()
    return int(chosen.size * kinds.size)


def _shades() -> Colormap:
    """Viridis without its yellow end, which is lost on white."""
    return ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.9, 256)))


def _spaced(total: int, most: int) -> NDArray[np.int64]:
    """Up to so many of so many, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))
