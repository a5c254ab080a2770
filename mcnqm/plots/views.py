"""What the views of trajectories share: one setting of a sweep at a time, and what theory knows of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, is_optimizer, numeric_fields
from mcnqm.plots.style import new_figure, one_panel
from mcnqm.plots.wording import coordinate, labels, name_of, wrapped
from mcnqm.problems import NoisyQuadratic
from mcnqm.provenance import arguments_of
from mcnqm.schedules import Schedule

__all__ = ["Known", "check_runs", "head", "known_of", "later", "panels", "settings", "spread", "swept"]

_RESULTS = ("trajectory", "step", "coordinate", "bound", "probability", "target", "bin", "quantile")
"""Dimensions of results that are no sweep."""

_MOST_PANELS = 6


class Known(NamedTuple):
    """What a Dataset of a single setting says of itself, so that theory can be asked."""

    problem: Any
    optimizer: Any
    batch_size: Any
    average: Any

    @property
    def linear(self) -> bool:
        """Whether the exact theory of linear optimizers covers it."""
        return isinstance(self.problem, NoisyQuadratic) and isinstance(self.optimizer, SGD)


def check_runs(runs: Any, view: str, *needed: str) -> None:
    """Raise `ParameterError` if a Dataset lacks what a view draws.

    Examples
    --------
    >>> check_runs(xr.Dataset({"risk": ("step", [1.0])}), "paths", "theta")
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: runs must hold theta for the view 'paths' (simulate with coordinates=), got 'risk'
    """
    if not isinstance(runs, xr.Dataset):
        raise ParameterError("runs", type(runs).__name__, "be a Dataset")
    ways = {
        "theta": "coordinates=",
        "loss": "no reduce=",
        "risk": "mcnqm.simulate",
        "effective_lr": "an adaptive optimizer, coordinates= and record_state=True",
    }
    for name in needed:
        if name not in runs:
            way = ways.get(name, "coordinates= and record_state=True" if name.startswith("state_") else "")
            allowed = f"hold {name} for the view {view!r}" + (f" (simulate with {way})" if way else "")
            made = json.loads(runs.attrs.get("config", "{}")).get("function")
            holds = ", ".join(map(str, runs.data_vars))
            raise ParameterError("runs", holds if made is None else f"a result of {made} with {holds}", allowed)


def swept(runs: xr.Dataset, name: str) -> list[str]:
    """Dimensions of a variable along which hyperparameters, and nothing else, vary."""
    return [str(dim) for dim, size in runs[name].sizes.items() if dim not in _RESULTS and size > 1]


def settings(runs: xr.Dataset, name: str) -> Iterator[tuple[xr.Dataset, str]]:
    """Every setting of a sweep as a Dataset of its own, with a title that says what tells it apart."""
    dims = swept(runs, name)
    single = {str(dim): 0 for dim in runs[name].dims if dim not in _RESULTS and dim not in dims}
    runs = runs.isel(single)
    shape = tuple(runs.sizes[dim] for dim in dims)
    names = [labels(coordinate(runs, dim)) for dim in dims]
    for place in np.ndindex(*shape):
        parts = []
        for dim, k, own in zip(dims, place, names, strict=True):
            label = coordinate(runs, dim)
            parts.append(f"{name_of(label)} = {own[k]}" if label.dtype.kind in "iuf" else own[k])
        yield runs.isel(dict(zip(dims, place, strict=True))), ", ".join(parts)


def panels(
    runs: xr.Dataset, view: str, name: str, ax: Axes | None, **size: float
) -> tuple[Figure, list[tuple[Axes, xr.Dataset, str]]]:
    """A panel for each setting of a sweep, side by side; the one that was passed if there is a single setting."""
    every = list(settings(runs, name))
    if len(every) > (1 if ax is not None else _MOST_PANELS):
        most = "one setting, with ax" if ax is not None else f"up to {_MOST_PANELS} settings"
        allowed = f"be of {most}, for the view {view!r}: select with .sel or .isel along {', '.join(swept(runs, name))}"
        raise ParameterError("runs", f"{len(every)} settings", allowed)
    if len(every) == 1:
        figure, axes = one_panel(ax, **size)
        return figure, [(axes, *every[0])]
    columns = min(len(every), 3)
    rows = -(-len(every) // columns)
    figure, made = new_figure(columns, rows=rows, width=0.72 * size.get("width", 7.0), height=rows * 4.0)
    for spare in made[len(every) :]:
        spare.remove()
    return figure, [(axes, *one) for axes, one in zip(made, every, strict=False)]


def head(figure: Figure, made: list[tuple[Axes, xr.Dataset, str]], facts: list[str]) -> None:
    """What all panels share, above them: the title of a single panel."""
    if len(made) == 1:
        made[0][0].set_title(wrapped(facts), fontsize=10)
    else:
        figure.suptitle(wrapped(facts, 84 * min(len(made), 2)), fontsize=10)


def known_of(one: xr.Dataset) -> Known | None:
    """What a Dataset of a single setting is of; None where it does not say, or is of something without a theory here.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=5)
    >>> runs = mcnqm.simulate(problem, mcnqm.SGD(lr=[0.1, 0.2]), batch_size=8, steps=5, trajectories=2)
    >>> known_of(runs.isel(lr=1)).optimizer.lr
    0.2
    """
    config = json.loads(one.attrs.get("config", "{}"))
    several = config.pop("optimizers", None)
    if several is not None:  # along a dimension of labels, at one of which we are
        config["optimizer"] = several.get(str(one["optimizer"].values)) if "optimizer" in one.coords else None
    try:
        given = arguments_of(one.assign_attrs(config=json.dumps(config)))
    except ParameterError:  # of a class that is not known here
        return None
    optimizer: Any = given.get("optimizer")
    if "problem" not in given or "batch_size" not in given or not is_optimizer(optimizer):
        return None
    changed = {name: _here(value, name, one) for name, value in numeric_fields(optimizer).items()}
    batch = _here(given["batch_size"], "batch_size", one)
    return Known(given["problem"], optimizer._replace(**changed), batch, _here(given.get("average"), "average", one))


def _here(value: Any, name: str, one: xr.Dataset) -> Any:
    """A hyperparameter as it is in a single setting: a number, or a schedule without a sweep."""
    if isinstance(value, Schedule):
        which = value.which
        if isinstance(which, xr.DataArray):
            which = _picked(which, one)
        scale = value.scale
        if np.ndim(scale):
            scale = float(one[name]) if name in one.coords else scale
        return Schedule(float(scale), (value.curves[int(which)],))
    if value is None or np.ndim(value) == 0:
        return value
    return float(one[name])


def _picked(array: xr.DataArray, one: xr.Dataset) -> Any:
    """The entry of an array at the labels that a Dataset of a single setting has."""
    at = {dim: one[dim].values.item() for dim in array.dims if dim in one.coords}
    return array.sel(at).item()


def later(runs: xr.Dataset) -> xr.Dataset:
    """Steps after the start, which a logarithmic axis can show."""
    after = runs.isel(step=np.flatnonzero(runs["step"].values > 0))
    if after.sizes["step"] == 0:
        raise ParameterError("runs", "no step after the start", "have some: a logarithmic axis has no 0")
    return after


def spread(total: int, most: int) -> NDArray[np.int64]:
    """Up to so many of so many, evenly spaced, the first and the last among them.

    Examples
    --------
    >>> spread(10, 4), spread(2, 4)
    (array([0, 3, 6, 9]), array([0, 1]))
    """
    return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))
