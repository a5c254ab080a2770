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
    from mcnqm.plots.ensembles import distribution, ensemble
    from mcnqm.plots.risk_curves import risk

__all__ = ["VIEWS", "distribution", "ensemble", "risk"]

_HOMES = {
    "ensemble": "mcnqm.plots.ensembles",
    "distribution": "mcnqm.plots.ensembles",
    "risk": "mcnqm.plots.risk_curves",
}
"""Where each view is found."""


class _Views(Mapping[str, Callable[..., Any]]):
    """Views by name; a view's module, and with it Matplotlib, is imported as it is asked for."""

    def __getitem__(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(importlib.import_module(_HOMES[name]), name)
        return found

    def __contains__(self, name: object) -> bool:
        return name in _HOMES

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


VIEWS: Mapping[str, Callable[..., Any]] = _Views()
"""Every view by its name, for the command line."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return VIEWS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
