"""Losses of single trajectories: all paths together, and how they are distributed at chosen steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from mcnqm import analytic
from mcnqm.errors import ParameterError
from mcnqm.plots.style import COLOURS, decades, ink, new_figure, one_panel
from mcnqm.plots.views import Known, check_runs, head, known_of, later, panels, settings, spread
from mcnqm.plots.wording import constants, wrapped

__all__ = ["distribution", "ensemble"]

Array = NDArray[np.float64]

_MOST_PATHS = 20
"""Paths that are drawn one by one; more would be a solid area."""

_MOST_STEPS = 60
"""Steps at which the law is asked: a curve through so many is smooth."""

_BAND = (0.05, 0.25, 0.5, 0.75, 0.95)

_LEVELS = np.concatenate([np.geomspace(2e-3, 0.05, 25), np.linspace(0.06, 0.95, 80), 1 - np.geomspace(0.045, 3e-3, 25)])
"""Probabilities at which a density is drawn."""

_ENOUGH = 20
"""Trajectories from which on a 5 % quantile means something."""

_PANELS = 3
"""Steps of a distribution, where none are chosen."""


def ensemble(runs: xr.Dataset, *, ax: Axes | None = None, theory: bool = True) -> Figure:
    """Losses of single trajectories, their quantiles and mean, with the exact law where there is one.

    Parameters
    ----------
    runs : xarray.Dataset
        From `mcnqm.simulate`, of up to six settings; each has a panel. With ``reduce="quantiles"`` there are no single
        losses to draw, and the bands are those of all trajectories.
    ax : matplotlib.axes.Axes, optional
        Where to draw a single setting.
    theory : bool
        Whether to draw the exact law, `mcnqm.analytic.loss_law`, through the simulation of a linear optimizer.

    Returns
    -------
    matplotlib.figure.Figure
        Thin lines are single losses (up to 20), bands hold half and 90 % of them (from 20 trajectories on), the thick
        line is the estimated risk. Dotted lines are the law's quantiles at the edges of the bands, the dashed one is
        the exact risk.

    Raises
    ------
    ParameterError
        If the Dataset has no single losses, or too many settings.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=20)
    >>> runs = mcnqm.simulate(problem, mcnqm.SGD(lr=0.1), batch_size=8, steps=200, trajectories=32)
    >>> figure = mcnqm.plots.ensemble(runs)
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['single losses (32)', 'middle 90 %', 'middle 50 %', 'risk, simulated', 'risk, exact', 'quantiles, exact']
    """
    check_runs(
        runs, "ensemble", "loss_quantile" if isinstance(runs, xr.Dataset) and "loss_quantile" in runs else "loss"
    )
    check_runs(runs, "ensemble", "risk")
    figure, made = panels(runs, "ensemble", "risk", ax)
    for axes, one, title in made:
        _ensemble(axes, later(one), title, theory)
    made[0][0].legend(fontsize=8.5, framealpha=0.8, edgecolor="none")
    head(figure, made, constants(runs))
    return figure


def _ensemble(axes: Axes, one: xr.Dataset, title: str, theory: bool) -> None:
    steps, color = one["step"].values, COLOURS[0]
    edges = None
    if "loss" in one:
        loss = one["loss"].transpose("trajectory", "step").values
        for rank, k in enumerate(spread(loss.shape[0], _MOST_PATHS)):
            label = f"single losses ({loss.shape[0]})" if rank == 0 else None
            axes.plot(steps, loss[k], color="0.55", linewidth=0.6, alpha=0.4, label=label, zorder=1)
        if loss.shape[0] >= _ENOUGH:
            edges = np.quantile(loss, _BAND, axis=0, method="closest_observation")  # diverged ones are inf
    else:
        known_levels = one["quantile"].values
        nearest = [int(np.abs(known_levels - level).argmin()) for level in _BAND]
        if np.allclose(known_levels[nearest], _BAND):
            edges = one["loss_quantile"].transpose("quantile", "step").values[nearest]
        loss = one["loss_quantile"].transpose("quantile", "step").values
    if edges is not None:
        for low, high, name, strength in ((0, 4, "middle 90 %", 0.18), (1, 3, "middle 50 %", 0.32)):
            axes.fill_between(steps, edges[low], edges[high], color=color, alpha=strength, linewidth=0, label=name)
    axes.plot(steps, one["risk"].values, color=color, linewidth=2.0, label="risk, simulated", zorder=3)
    known = known_of(one) if theory else None
    top = _tops(loss)
    if known is not None and known.linear:
        at = steps[spread(steps.size, _MOST_STEPS)]
        mean, law = _exact(known, at, _BAND)
        if mean is not None:
            axes.plot(at, mean, "--", color=ink(), linewidth=1.3, label="risk, exact", zorder=4)
        if law is not None:
            for k in (0, 1, 3, 4):
                label = "quantiles, exact" if k == 0 else None
                axes.plot(at, law["loss"].values[:, k], ":", color=ink(), linewidth=1.1, label=label, zorder=4)
    decades(axes)
    axes.set_ylim(*top)
    axes.set_xlabel("step")
    axes.set_ylabel("loss  L(θ)")
    if title:
        axes.set_title(title, fontsize=10)


def _tops(loss: Array) -> tuple[float, float]:
    """Limits from finite losses, and not from those on their way to infinity."""
    finite = loss[np.isfinite(loss) & (loss > 0)]
    settled = np.isfinite(loss).all(axis=1)
    shown = loss[settled] if settled.any() else finite
    shown = shown[shown > 0]
    return (float(shown.min()) / 1.5, float(shown.max()) * 1.5) if shown.size else (0.1, 1.0)


def _exact(known: Known, at: NDArray[np.int64], probability: Any) -> tuple[Array | None, xr.Dataset | None]:
    """The exact risk of a linear optimizer at recorded steps, and the law of the loss where the noise is Gaussian."""
    setting = (known.problem, known.optimizer, known.batch_size, int(at[-1]))
    try:
        law = analytic.loss_law(*setting, record=at, probability=probability, average=known.average)
        return law["risk"].values, law
    except ParameterError:  # noise of another kind: the mean may be known all the same
        pass
    try:
        return analytic.risk(*setting, record=at, average=known.average)["risk"].values, None
    except ParameterError:
        return None, None


def distribution(
    runs: xr.Dataset, *, steps: ArrayLike | None = None, ax: Axes | None = None, theory: bool = True
) -> Figure:
    """Histograms of the loss over trajectories at chosen steps, with the exact law where there is one.

    Parameters
    ----------
    runs : xarray.Dataset
        From `mcnqm.simulate`, of one setting.
    steps : array_like of int, optional
        Recorded steps to show, a panel each. By default three: about a hundredth and a tenth of the run, and its end.
    ax : matplotlib.axes.Axes, optional
        Where to draw a single step, by default the last.
    theory : bool
        Whether to draw the density of the exact law, `mcnqm.analytic.loss_law`, of a linear optimizer.

    Returns
    -------
    matplotlib.figure.Figure
        Bars are simulated, in probability per unit of loss; the line is the exact density, of a linear optimizer under
        Gaussian noise. The upright lines are the mean: full simulated, dashed exact.

    Raises
    ------
    ParameterError
        If the Dataset has no single losses, several settings, fewer than 20 trajectories, or a step was not recorded.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=20)
    >>> runs = mcnqm.simulate(problem, mcnqm.SGD(lr=0.1), batch_size=8, steps=200, trajectories=200)
    >>> [axes.get_title() for axes in mcnqm.plots.distribution(runs, steps=[10, 200]).axes]
    ['step 10', 'step 200']
    """
    check_runs(runs, "distribution", "loss", "risk")
    every = list(settings(runs, "loss"))
    if len(every) > 1:
        allowed = "be of one setting for the view 'distribution': select with .sel or .isel"
        raise ParameterError("runs", f"{len(every)} settings", allowed)
    ((one, _),) = every
    count = one.sizes["trajectory"]
    if count < _ENOUGH:
        allowed = f"hold at least {_ENOUGH} trajectories for the view 'distribution'"
        raise ParameterError("runs", f"{count} trajectories", allowed)
    at = _chosen(one["step"].values, steps, ax)
    if ax is None:
        figure, made = new_figure(at.size, width=7.0 if at.size == 1 else 3.9, height=4.2)
    else:
        figure, axes = one_panel(ax)
        made = [axes]
    known = known_of(one) if theory else None
    for axes, step in zip(made, at, strict=True):
        loss = one["loss"].sel(step=step).values
        _histogram(axes, loss[np.isfinite(loss)], count)
        axes.axvline(float(one["risk"].sel(step=step)), color=COLOURS[0], linewidth=1.6, label="risk, simulated")
        if known is not None and known.linear:
            mean, law = _exact(known, np.array([step]), _LEVELS)
            if law is not None and np.isfinite(law["density"].values).all():
                axes.plot(law["loss"][0], law["density"][0], color=COLOURS[1], linewidth=1.8, label="law, exact")
            if mean is not None:
                axes.axvline(float(mean[0]), color=ink(), linestyle="--", linewidth=1.2, label="risk, exact")
        axes.set_title(f"step {step}", fontsize=10)
        axes.set_xlabel("loss  L(θ)")
        axes.set_ylim(bottom=0)
    made[0].set_ylabel("probability per unit of loss")
    made[0].legend(fontsize=8.5, framealpha=0.8, edgecolor="none")
    if ax is None:
        figure.suptitle(wrapped([*constants(runs), f"{count} trajectories"]), fontsize=10)
    return figure


def _chosen(recorded: NDArray[np.int64], steps: ArrayLike | None, ax: Axes | None) -> NDArray[np.int64]:
    last = int(recorded[-1])
    if steps is None:
        wanted = [last] if ax is not None else [last // 100, last // 10, last]
        return np.unique([recorded[np.abs(recorded - one).argmin()] for one in wanted if one > 0 or last == 0])
    at = np.atleast_1d(np.asarray(steps))
    for one in at[~np.isin(at, recorded)]:
        raise ParameterError("steps", one.item(), f"be recorded: {recorded[0]}, {recorded[1:2]}, ... {last}")
    if ax is not None and at.size != 1:
        raise ParameterError("steps", at, "be a single step with ax")
    return at.astype(np.int64)


def _histogram(axes: Axes, loss: Array, count: int) -> None:
    if loss.size < 2 or loss.min() == loss.max():
        return
    # The last hundredth of a heavy tail would leave the rest a line.
    low, high = float(loss.min()), float(np.quantile(loss, 0.995))
    bins = int(np.clip(round(2.0 * loss.size ** (1 / 3)), 8, 80))
    heights, edges = np.histogram(loss, bins=bins, range=(low, high))
    axes.stairs(
        heights / (count * np.diff(edges)), edges, fill=True, color=COLOURS[0], alpha=0.35, label="trajectories"
    )
