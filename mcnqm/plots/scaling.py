"""Steps to target and the tuned rate against batch size."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from mcnqm.flags import Flag
from mcnqm.plots.style import COLOURS, decades, ink, new_figure
from mcnqm.plots.views import check_runs
from mcnqm.plots.wording import three_digits

__all__ = [
    "few_decades", "key_of", "limits_of_steps", "name_of_rate", "octaves", "plot_scaling", "points", "theory_line",
    "theory_of_line",
]  # fmt: skip

Array = NDArray[np.float64]

_MARKERS = (("o", 1.0), ("s", 0.85), ("D", 0.8), ("^", 1.0), ("v", 1.0), ("P", 1.1), ("X", 1.1))
"""Markers, and the factor on their size at which they look alike."""

_LARGEST, _SMALLEST = 9.0, 5.5
"""Marker sizes of the first and the last optimizer, so that coinciding points show as nested."""

_SAME = 1.1
"""Bounds that differ by less than this factor everywhere are drawn as one line."""


def plot_scaling(study: xr.Dataset) -> Figure:
    """Steps to target and the tuned learning rate against batch size.

    Points are simulated, with bars of two standard errors, filled in the perfect-scaling regime and hollow beyond it;
    full lines are exact, dashed ones mean-field theory, whose error in steps the legend below states; the dotted curve
    is the fitted trade-off, drawn for optimizers without a theory. Triangles are critical batch sizes, with bars of
    their 95 % intervals, at the height that defines them, 2 S_min: twice the steps that no batch size gets below. A
    cross marks a rate at the edge of its search. What was not reached (inf or NaN) is not drawn, and counted. The rate
    of SGD with momentum is the effective one, lr / (1 - momentum), and the axis says so.

    Parameters
    ----------
    study : xarray.Dataset
        From `mcnqm.studies.scaling`, with dimensions ``optimizer`` and ``batch_size``.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels.

    Examples
    --------
    >>> batch = 2.0 ** np.arange(6)
    >>> both = lambda values: (("optimizer", "batch_size"), np.array([values]))
    >>> each = lambda value: ("optimizer", [value])
    >>> study = xr.Dataset(
    ...     {
    ...         "steps": both(100 + 6400 / batch), "steps_stderr": both(1 + 0 * batch),
    ...         "effective_lr": both(0.01 * batch), "effective_lr_stderr": both(1e-4 * batch),
    ...         "analytic_steps": both(100 + 6400 / batch), "analytic_effective_lr": both(0.01 * batch),
    ...         "at_edge": both(batch < 0), "flags": both(0 * batch.astype(int)), "in_regime": both(batch < 5),
    ...         "information_bound": ("batch_size", 1000 / batch), "bayes_bound": ("batch_size", 900 / batch),
    ...         "slope": each(1.0), "slope_low": each(0.99), "slope_high": each(1.01),
    ...         "S_min": each(100.0), "E_min": each(6400.0),
    ...         "B_crit": each(64.0), "B_crit_low": each(60.0), "B_crit_high": each(68.0),
    ...     },
    ...     coords={"optimizer": ["SGD"], "batch_size": batch},
    ... )
    >>> [axes.get_ylabel() for axes in plot_scaling(study).axes]
    ['steps to target', 'tuned learning rate  (with momentum: α / (1 − β))']
    """
    check_runs(study, "scaling", "steps", "effective_lr", "analytic_steps", "B_crit", "information_bound")
    study = study.transpose("optimizer", "batch_size", ...).sortby("batch_size")
    figure, (left, right) = new_figure(2, width=5.2, height=5.4)
    figure.suptitle(_title(study), fontsize=10)
    batch = study["batch_size"].values.astype(float)
    labels = [str(label) for label in study["optimizer"].values]
    for rank, label in enumerate(labels):
        one = study.isel(optimizer=rank)
        marker, factor = _MARKERS[rank % len(_MARKERS)]
        size = factor * np.linspace(_LARGEST, _SMALLEST, max(len(labels), 3))[rank]
        look = {"color": COLOURS[rank % len(COLOURS)], "marker": marker, "markersize": size}
        points(left, one, "steps", look, f"{label}: {_critical(one)}")
        points(right, one, "effective_lr", look, f"{label}: {_slope(one)}")
        style = "--" if theory_of_line(one) == "mean field" else "-"
        theory_line(left, batch, one["analytic_steps"].values, color=look["color"], linestyle=style)
        theory_line(right, batch, one["analytic_effective_lr"].values, color=look["color"], linestyle=style)
        limits = float(one["S_min"]), float(one["E_min"])
        if not np.isfinite(one["analytic_steps"].values).any() and np.isfinite(limits).all():
            fine = np.geomspace(batch[0], batch[-1], 200)
            # (S/S_min - 1)(E/E_min - 1) = 1 with E = B S
            left.plot(fine, limits[0] + limits[1] / fine, ":", color=look["color"], linewidth=1.4, zorder=2)

    left.set_ylabel("steps to target")
    right.set_ylabel(name_of_rate(study))
    limits_of_steps(left, study)
    for axes in (left, right):
        decades(axes, "y")
        octaves(axes, batch)
        axes.set_xlabel("batch size (examples)")
        axes.legend(fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, handletextpad=0.3)
        few_decades(axes)
    _bounds(left, study, batch)
    _triangles(left, study, batch)
    figure.legend(handles=key_of(study), loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    return figure


def points(axes: Axes, one: xr.Dataset, name: str, look: dict[str, Any], label: str) -> None:
    """Simulated numbers of one optimizer with bars of two standard errors, and an entry in the legend."""
    batch, value = one["batch_size"].values.astype(float), one[name].values
    error = 2.0 * one[f"{name}_stderr"].values
    regime, edge = one["in_regime"].values.astype(bool), one["at_edge"].values.astype(bool)
    seen = np.isfinite(value) & np.isfinite(one["steps"].values) & (value > 0)
    # A lower end at or below 0 would leave the log axis.
    low = np.where(np.isfinite(error), np.minimum(error, 0.999 * value), 0.0)[seen]
    high = np.where(np.isfinite(error), error, 0.0)[seen]
    axes.errorbar(
        batch[seen], value[seen], yerr=[low, high], fmt="none", ecolor=look["color"], elinewidth=1.1, capsize=2.5
    )
    for chosen, face in ((seen & regime, look["color"]), (seen & ~regime, axes.get_facecolor())):
        axes.plot(
            batch[chosen], value[chosen], linestyle="none", markerfacecolor=face, markeredgewidth=1.2, zorder=3, **look
        )
    axes.plot(batch[seen & edge], value[seen & edge], "x", color="black", markersize=9, zorder=4)
    doubtful = seen & _doubtful(one)
    axes.plot(batch[doubtful], value[doubtful], zorder=4, **_RING)
    lost = int(np.count_nonzero(~seen))
    # The legend has an entry of its own, so that it shows the filled marker even where no point is filled.
    axes.plot([], [], linestyle="none", label=label + (f" ({lost} not reached)" if lost else ""), **look)


_RING: dict[str, Any] = {
    "linestyle": "none", "marker": "o", "markerfacecolor": "none", "color": "black", "markersize": 12
}  # fmt: skip


def _doubtful(study: xr.Dataset) -> NDArray[np.bool_]:
    """Where a self-check failed, other than that the best lies at an edge, which has a mark of its own."""
    return np.asarray((study["flags"].values & ~int(Flag.AT_EDGE)) != 0)


def theory_line(axes: Axes, batch: Array, value: Array, **look: Any) -> None:
    """A theory's numbers, where it has any."""
    seen = np.isfinite(value)
    axes.plot(batch[seen], value[seen], linewidth=1.3, zorder=2, **look)


def octaves(axes: Axes, batch: Array) -> None:
    """An axis of batch sizes."""
    axes.set_xscale("log", base=2)
    # About nine labels whatever the range, at even distances.
    every = max(1, round(float(np.log2(batch[-1] / batch[0])) / 8))
    axes.xaxis.set_major_locator(LogLocator(base=2.0**every, numticks=30))
    axes.xaxis.set_minor_locator(LogLocator(base=2.0, numticks=70) if every > 1 else NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x < 2**10 else f"{x / 1024:g}k"))
    axes.set_xlim(batch[0] / 1.5, batch[-1] * 1.5)


def few_decades(axes: Axes) -> None:
    """Label 2 and 5 as well where a reader would see fewer than two decades."""
    low, high = np.log10(axes.get_ylim())
    if np.floor(high) - np.ceil(low) < 1:
        axes.yaxis.set_minor_locator(LogLocator(base=10, subs=(2, 5), numticks=20))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def limits_of_steps(axes: Axes, study: xr.Dataset) -> None:
    """Limits from the steps, not from where the bounds end."""
    axes.set_yscale("log")
    both = np.concatenate([study[name].values.ravel() for name in ("steps", "analytic_steps")])
    both = both[np.isfinite(both) & (both > 0)]
    if both.size:
        axes.set_ylim(both.min() / 3.0, both.max() * 1.6)


def name_of_rate(study: xr.Dataset) -> str:
    """What the right panel shows: "effective" where some optimizer's rate is not the one that was set."""
    if "lr" in study:
        known = np.isfinite(study["lr"].values)
        if np.allclose(study["lr"].values[known], study["effective_lr"].values[known]):
            return "tuned learning rate"
    return "tuned learning rate  (with momentum: α / (1 − β))"


def _bounds(axes: Axes, study: xr.Dataset, batch: Array) -> None:
    low = axes.get_ylim()[0]
    looks = [
        ("information_bound", "information bound", "0.45", (0, (6, 3)), 0.02),
        ("bayes_bound", "Bayes bound", ink(), (0, (2, 2)), 0.4),
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.abs(np.log(study["information_bound"].values / study["bayes_bound"].values))
    if np.nanmax(apart, initial=0.0) < np.log(_SAME):
        looks = [("bayes_bound", "Bayes and information bound", ink(), (0, (2, 2)), 0.05)]
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    for name, text, colour, dashes, along in looks:
        value = study[name].values
        seen = np.isfinite(value) & (value > 0)
        axes.plot(batch[seen], value[seen], linestyle=dashes, color=colour, linewidth=1.2, zorder=1)
        shown = np.flatnonzero(seen & (value > low))
        if shown.size < 2:
            continue
        # Along the line and below it, each at its own part, so that bounds that coincide are both named.
        ends = axes.transData.transform(np.column_stack([batch, value])[shown[[0, -1]]])
        way = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
        x, y = axes.transData.inverted().transform(ends[0] + along * (ends[1] - ends[0]))
        axes.annotate(
            text,
            (x, y),
            xytext=(3.0 * way[1], -3.0 * way[0]),
            textcoords="offset points",
            color=colour,
            fontsize=8.5,
            va="top",
            ha="left",
            rotation=float(np.degrees(np.arctan2(way[1], way[0]))),
            rotation_mode="anchor",
        )


def _triangles(axes: Axes, study: xr.Dataset, batch: Array) -> None:
    """Critical batch sizes where they are defined: at twice the least steps, with their intervals."""
    for rank in range(study.sizes["optimizer"]):
        value, low, high = (float(study[name][rank]) for name in ("B_crit", "B_crit_low", "B_crit_high"))
        height = 2.0 * float(study["S_min"][rank])
        if not np.isfinite([value, height]).all() or not batch[0] <= value <= batch[-1]:
            continue
        ends = np.clip([low, high], batch[0], batch[-1])
        color = COLOURS[rank % len(COLOURS)]
        axes.plot(ends, [height] * 2, "-", color=color, linewidth=3.0, alpha=0.5, zorder=4, solid_capstyle="butt")
        axes.plot([value], [height], "v", color=color, markersize=9, markeredgecolor=ink(), zorder=5)


def key_of(study: xr.Dataset) -> list[Line2D]:
    """What marks and lines mean, in the color of the text."""
    tone = ink()

    def mark(label: str, **look: Any) -> Line2D:
        return Line2D([], [], **{"color": tone, "linestyle": "none", **look}, label=label)

    found = [
        mark("simulated ± 2 s.e., steps ∝ 1 / B", marker="o", markersize=6),
        mark("simulated, beyond that", marker="o", markersize=6, markerfacecolor="none"),
    ]
    known = np.isfinite(study["analytic_steps"].values).any(axis=1)
    kinds = [theory_of_line(study.isel(optimizer=k)) for k in range(study.sizes["optimizer"])]
    if any(k and kind == "exact" for k, kind in zip(known, kinds, strict=True)):
        found.append(mark("exact", linestyle="-"))
    fields = [k for k in np.flatnonzero(known) if kinds[k] == "mean field"]
    if fields:
        error = max(float(study["theory_error"][k]) for k in fields)
        found.append(mark(f"mean field (steps off by {100 * error:.2g} % r.m.s.)", linestyle="--"))
    if (~known & np.isfinite(study["S_min"].values)).any():
        found.append(mark("fitted trade-off", linestyle=":"))
    if np.isfinite(study["B_crit"].values).any():
        found.append(mark("critical batch size, at $2 S_{min}$", marker="v", markersize=7))
    if study["at_edge"].any():
        found.append(mark("best rate at the edge of the search", marker="x", markersize=7))
    if _doubtful(study).any():
        found.append(Line2D([], [], **{**_RING, "markersize": 9}, label="failed a self-check: see its flags"))
    return found


def theory_of_line(one: xr.Dataset) -> str:
    """Which theory an optimizer has: exact, mean field or none."""
    return str(one["theory"].values) if "theory" in one.coords else "exact"


def _critical(one: xr.Dataset) -> str:
    value, low, high = (float(one[name]) for name in ("B_crit", "B_crit_low", "B_crit_high"))
    if not np.isfinite(value):
        return "$B_{crit}$ not determined"
    return f"$B_{{crit}}$ {three_digits(value)} [{three_digits(low)}, {three_digits(high)}]"


def _slope(one: xr.Dataset) -> str:
    value, low, high = (float(one[name]) for name in ("slope", "slope_low", "slope_high"))
    if not np.isfinite([value, low, high]).all():
        return "slope not determined"
    # Two digits of the half-width, from one decimal to three.
    half = max((high - low) / 2, 1e-6)
    digits = min(max(1 - int(np.floor(np.log10(half))), 1), 3)
    return f"slope {value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _title(study: xr.Dataset) -> str:
    facts = []
    for name, text in (("target", "target risk {:g}"), ("dim", "d = {}")):
        if name in study.attrs:
            facts.append(text.format(study.attrs[name]))
    return ", ".join(facts)
