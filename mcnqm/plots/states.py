"""Along trajectories: parameters, parameters against momentum, and effective rates, one panel for each coordinate."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.errors import ParameterError
from mcnqm.plots.style import COLOURS, DASHES, decades, ink, new_figure, one_panel
from mcnqm.plots.views import Known, check_runs, known_of, later, settings, spread
from mcnqm.plots.wording import constants, wrapped
from mcnqm.problems import is_gaussian

__all__ = ["paths", "phase", "state"]

Array = NDArray[np.float64]

_MOST_COORDINATES = 6
_MOST_PATHS = 8
_MOST_STEPS = 200
_STROKES: tuple[Any, ...] = ("-", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 2, 2, 2)))
"""Of coordinates; dashes are for theory."""

_INSIDE = (0.5, 0.95)
"""Probabilities that the ellipses hold."""


def paths(runs: xr.Dataset, *, ax: Axes | None = None, theory: bool = True) -> Figure:
    """Parameters of chosen coordinates along single trajectories, a panel for each coordinate.

    Parameters
    ----------
    runs : xarray.Dataset
        From `mcnqm.simulate` with `coordinates`, of one setting. Of more than six coordinates, six are drawn.
    ax : matplotlib.axes.Axes, optional
        Where to draw a single coordinate.
    theory : bool
        Whether to draw where the exact theory of a linear optimizer puts 95 % of all trajectories.

    Returns
    -------
    matplotlib.figure.Figure
        Lines are single trajectories (up to 8); the grey band is the exact mean ± 1.96 standard deviations.

    Raises
    ------
    ParameterError
        If the Dataset has no ``theta``, or several settings.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=20)
    >>> runs = mcnqm.simulate(problem, mcnqm.SGD(lr=0.1), batch_size=8, steps=200, coordinates=[0, 19])
    >>> [axes.get_title() for axes in mcnqm.plots.paths(runs).axes]
    ['coordinate 0', 'coordinate 19']
    """
    check_runs(runs, "paths", "theta")
    one, chosen, figure, made = _by_coordinate(runs, "paths", "theta", ax)
    one = later(one)
    steps = one["step"].values
    known = known_of(one) if theory else None
    for axes, coordinate in zip(made, chosen, strict=True):
        theta = one["theta"].sel(coordinate=coordinate).transpose("trajectory", "step").values
        for rank, k in enumerate(spread(theta.shape[0], _MOST_PATHS)):
            axes.plot(steps, theta[k], color=COLOURS[rank % 6], linewidth=0.9, alpha=0.85)
        if known is not None and known.linear and known.average is None:
            at = steps[spread(steps.size, _MOST_STEPS)]
            exact = analytic.moments(
                known.problem, known.optimizer, known.batch_size, int(at[-1]), record=at, coordinates=[int(coordinate)]
            ).isel(coordinate=0)
            mean, std = exact["theta_mean"].values, np.sqrt(exact["theta_variance"].values)
            label = "95 %, exact" if is_gaussian(known.problem) else "± 1.96 standard deviations, exact"
            axes.fill_between(
                at, mean - 1.96 * std, mean + 1.96 * std, color="0.6", alpha=0.3, linewidth=0, label=label
            )
        axes.axhline(0.0, color=ink(), linewidth=0.6, alpha=0.6, label="minimum")
        decades(axes, "x")
        axes.set_xlabel("step")
    made[0].set_ylabel("parameter  θ")
    made[0].legend(fontsize=8.5, framealpha=0.8, edgecolor="none")
    _head(figure, made, runs, ax, f"{min(one.sizes['trajectory'], _MOST_PATHS)} trajectories")
    return figure


def phase(runs: xr.Dataset, *, ax: Axes | None = None, theory: bool = True) -> Figure:
    """Parameter against momentum along single trajectories, with the stationary law, a panel for each coordinate.

    Parameters
    ----------
    runs : xarray.Dataset
        From `mcnqm.simulate` with `coordinates` and `record_state`, of one setting of an optimizer with momentum.
    ax : matplotlib.axes.Axes, optional
        Where to draw a single coordinate.
    theory : bool
        Whether to draw the ellipses of the stationary law, `mcnqm.analytic.steady_state`, of a stable linear
        optimizer.

    Returns
    -------
    matplotlib.figure.Figure
        Lines are single trajectories (up to 8) from the start, a circle, to the end, a square. The ellipses hold 50 %
        and 95 % of the stationary law, which is Gaussian.

    Raises
    ------
    ParameterError
        If the Dataset has no ``theta`` or no momentum (``state_momentum`` or ``state_first_moment``), or several
        settings.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=20)
    >>> momentum = mcnqm.SGD(lr=0.05, momentum=0.9)
    >>> record = range(0, 201)
    >>> runs = mcnqm.simulate(problem, momentum, 8, 200, coordinates=[0, 9], record=record, record_state=True)
    >>> [axes.get_title() for axes in mcnqm.plots.phase(runs).axes]
    ['coordinate 0', 'coordinate 9']
    """
    momentum = "state_first_moment" if "state_first_moment" in runs else "state_momentum"
    check_runs(runs, "phase", "theta", momentum)
    one, chosen, figure, made = _by_coordinate(runs, "phase", "theta", ax)
    known = known_of(one) if theory else None
    for axes, coordinate in zip(made, chosen, strict=True):
        here = one.sel(coordinate=coordinate).transpose("trajectory", "step", ...)
        theta, m = here["theta"].values, here[momentum].values
        for rank, k in enumerate(spread(theta.shape[0], _MOST_PATHS)):
            look = {"color": COLOURS[rank % 6], "linewidth": 0.8, "alpha": 0.85}
            axes.plot(theta[k], m[k], "-", **look)  # type: ignore[arg-type]
            axes.plot(theta[k, :1], m[k, :1], "o", color=look["color"], markersize=5)
            axes.plot(theta[k, -1:], m[k, -1:], "s", color=look["color"], markersize=4)
        if known is not None and known.linear and known.average is None:
            _ellipses(axes, known, int(coordinate))
        axes.axhline(0.0, color=ink(), linewidth=0.5, alpha=0.5)
        axes.axvline(0.0, color=ink(), linewidth=0.5, alpha=0.5)
        axes.set_xlabel("parameter  θ")
    made[0].set_ylabel("momentum  m" if momentum == "state_momentum" else "first moment  m")
    handles, names = made[0].get_legend_handles_labels()
    if names and ax is None:  # trajectories go everywhere
        figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    elif names:
        axes.legend(fontsize=8.5, framealpha=0.8, edgecolor="none")
    _head(figure, made, runs, ax, "○ start, □ end")
    return figure


def _ellipses(axes: Axes, known: Known, coordinate: int) -> None:
    if any(hasattr(value, "curves") for value in (*known.optimizer, known.batch_size)):
        return  # a schedule has no stationary law
    law = analytic.steady_state(known.problem, known.optimizer, known.batch_size, coordinates=[coordinate])
    if "momentum_variance" not in law or not np.isfinite(law["momentum_variance"].values).all():
        return
    a, b, c = (float(law[name][0]) for name in ("theta_variance", "theta_momentum_covariance", "momentum_variance"))
    if a <= 0:
        return
    turn = np.linspace(0.0, 2.0 * np.pi, 200)
    # A root of the covariance; of two Gaussian numbers, exp(-r² / 2) lie outside radius r.
    rest = np.sqrt(max(c - b * b / a, 0.0))
    for rank, inside in enumerate(_INSIDE):
        r = np.sqrt(-2.0 * np.log1p(-inside))
        x = r * np.sqrt(a) * np.cos(turn)
        y = r * (b / np.sqrt(a) * np.cos(turn) + rest * np.sin(turn))
        name = f"{100 * inside:.0f} % of the stationary law"
        axes.plot(x, y, DASHES[rank], color=ink(), linewidth=1.6, label=name, zorder=4)


def state(runs: xr.Dataset, *, ax: Axes | None = None, theory: bool = True) -> Figure:
    r"""Effective rates of an adaptive optimizer along single trajectories, a color for each coordinate.

    Parameters
    ----------
    runs : xarray.Dataset
        From `mcnqm.simulate` with `coordinates` and `record_state`, of one setting of an adaptive optimizer. Of more
        than six coordinates, six are drawn.
    ax : matplotlib.axes.Axes, optional
        Where to draw.
    theory : bool
        Whether to draw the mean field's, `mcnqm.analytic.effective_lr`, of Adam and RMSProp.

    Returns
    -------
    matplotlib.figure.Figure
        Thin lines are single trajectories (up to 8 of each coordinate), dashed ones the mean field's rates.

    Raises
    ------
    ParameterError
        If the Dataset has no ``effective_lr``, or several settings.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=20)
    >>> adam = mcnqm.Adam(lr=1e-3)
    >>> runs = mcnqm.simulate(problem, adam, 8, 200, trajectories=4, coordinates=[0, 19], record_state=True)
    >>> [text.get_text() for text in mcnqm.plots.state(runs).axes[0].get_legend().get_texts()]
    ['coordinate 0', 'coordinate 19', 'mean field']
    """
    check_runs(runs, "state", "effective_lr")
    one = later(_single(runs, "state", "effective_lr"))
    every = one["coordinate"].values
    chosen = every[spread(every.size, _MOST_COORDINATES)]
    figure, axes = one_panel(ax)
    steps = one["step"].values
    known = known_of(one) if theory else None
    look: dict[str, Any]
    for rank, coordinate in enumerate(chosen):
        rate = one["effective_lr"].sel(coordinate=coordinate).transpose("trajectory", "step").values
        color = COLOURS[rank % 6]
        for k, path in enumerate(spread(rate.shape[0], _MOST_PATHS)):
            if k == 0:  # named, and told apart without colors
                look = {"linewidth": 1.6, "linestyle": _STROKES[rank], "label": f"coordinate {coordinate}"}
            else:
                look = {"linewidth": 0.7, "alpha": 0.7}
            axes.plot(steps, rate[path], color=color, **look)
    field = None if known is None else _field(known, steps[spread(steps.size, _MOST_STEPS)], chosen)
    if field is not None:
        for rank, coordinate in enumerate(chosen):
            label = "mean field" if rank == chosen.size - 1 else None
            values = field.sel(coordinate=coordinate).values
            axes.plot(field["step"].values, values, "--", color=ink(), linewidth=1.4, label=label, zorder=4)
    decades(axes)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 1e-4 * high), high)  # a schedule may end at 0
    axes.set_xlabel("step")
    axes.set_ylabel("effective rate  (parameter² / loss)")
    axes.legend(fontsize=8.5, framealpha=0.8, edgecolor="none")
    _head(figure, [axes], runs, ax, f"{min(one.sizes['trajectory'], _MOST_PATHS)} trajectories")
    return figure


def _field(known: Known, at: NDArray[np.int64], coordinates: NDArray[np.int64]) -> xr.DataArray | None:
    try:
        return analytic.effective_lr(
            known.problem, known.optimizer, known.batch_size, int(at[-1]), record=at, coordinates=coordinates
        )["effective_lr"]
    except ParameterError:  # an optimizer, or an option of one, that this theory does not cover
        return None


def _single(runs: xr.Dataset, view: str, name: str) -> xr.Dataset:
    every = list(settings(runs, name))
    if len(every) > 1:
        allowed = f"be of one setting for the view {view!r}: select with .sel or .isel"
        raise ParameterError("runs", f"{len(every)} settings", allowed)
    return every[0][0]


def _by_coordinate(
    runs: xr.Dataset, view: str, name: str, ax: Axes | None
) -> tuple[xr.Dataset, NDArray[np.int64], Figure, list[Axes]]:
    """The single setting, up to six coordinates of it, and a panel for each."""
    one = _single(runs, view, name)
    every = np.atleast_1d(one["coordinate"].values)
    if one["coordinate"].ndim == 0:
        one = one.expand_dims("coordinate")
    if ax is not None:
        if every.size > 1:
            allowed = f"be of one coordinate for the view {view!r} with ax: select with .sel(coordinate=[...])"
            raise ParameterError("runs", f"{every.size} coordinates", allowed)
        figure, axes = one_panel(ax)
        return one, every, figure, [axes]
    chosen = every[spread(every.size, _MOST_COORDINATES)]
    columns = min(chosen.size, 3)
    rows = -(-chosen.size // columns)
    width = 6.4 if columns == 1 else 4.2
    figure, made = new_figure(columns, rows=rows, width=width, height=4.2 * rows)
    for spare in made[chosen.size :]:
        spare.remove()
    made = made[: chosen.size]
    for axes, coordinate in zip(made, chosen, strict=True):
        axes.set_title(f"coordinate {coordinate}", fontsize=10)
    return one, chosen, figure, made


def _head(figure: Figure, made: list[Axes], runs: xr.Dataset, ax: Axes | None, *more: str) -> None:
    facts = [*constants(runs), *more]
    if ax is None and len(made) > 1:
        figure.suptitle(wrapped(facts, 84 * min(len(made), 2)), fontsize=10)
    elif ax is None:
        already = made[0].get_title()
        made[0].set_title(wrapped([*([already] if already else []), *facts], 76), fontsize=10)
