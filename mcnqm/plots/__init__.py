"""Figures of Datasets.

Every view takes a Dataset, as returned or read from a file, and returns a `matplotlib.figure.Figure`. What theory a
view shows is asked of `mcnqm.analytic`, for the problem and optimizer that the Dataset says it is of. Matplotlib is
imported with the first figure, not with the package.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcnqm.plots.batch_growth import plot_batch_growth
    from mcnqm.plots.ensembles import distribution, ensemble
    from mcnqm.plots.heatmaps import heatmap
    from mcnqm.plots.mean_field import plot_mean_field
    from mcnqm.plots.risk_curves import risk
    from mcnqm.plots.scaling import plot_scaling
    from mcnqm.plots.schedules import plot_schedules
    from mcnqm.plots.states import paths, phase, state

__all__ = [
    "VIEWS",
    "distribution",
    "ensemble",
    "heatmap",
    "paths",
    "phase",
    "plot_batch_growth",
    "plot_mean_field",
    "plot_scaling",
    "plot_schedules",
    "risk",
    "state",
]

_HOMES = {
    "ensemble": ("mcnqm.plots.ensembles", "ensemble"),
    "paths": ("mcnqm.plots.states", "paths"),
    "phase": ("mcnqm.plots.states", "phase"),
    "distribution": ("mcnqm.plots.ensembles", "distribution"),
    "heatmap": ("mcnqm.plots.heatmaps", "heatmap"),
    "state": ("mcnqm.plots.states", "state"),
    "risk": ("mcnqm.plots.risk_curves", "risk"),
    "scaling": ("mcnqm.plots.scaling", "plot_scaling"),
    "schedules": ("mcnqm.plots.schedules", "plot_schedules"),
    "batch-growth": ("mcnqm.plots.batch_growth", "plot_batch_growth"),
    "mean-field": ("mcnqm.plots.mean_field", "plot_mean_field"),
}
"""Module and function of every view."""

_MODULES = {function: module for module, function in _HOMES.values()}


class _Views(Mapping[str, Callable[..., Any]]):
    """Views by name; a view's module, and with it Matplotlib, is imported as it is asked for."""

    def __getitem__(self, name: str) -> Callable[..., Any]:
        module, function = _HOMES[name]
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return found

    def __contains__(self, name: object) -> bool:
        return name in _HOMES

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


VIEWS: Mapping[str, Callable[..., Any]] = _Views()
"""Every view by its name on the command line; the last four are of studies."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
