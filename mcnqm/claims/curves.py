"""The curves behind a claim, all of one shape, so that one figure and one file format serve every claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.statistics import BOUNDS

__all__ = ["Curve", "Curves", "curve"]

Array = NDArray[np.float64]


class Curve(NamedTuple):
    """Points of one series; `low` and `high` are NaN where there is no error."""

    x: Array
    y: Array
    low: Array
    high: Array


def curve(x: Any, y: Any, stderr: Any = None) -> Curve:
    """A curve, with a 95 % normal interval where there is a standard error."""
    x, y = (np.asarray(values, dtype=np.float64) for values in (x, y))
    half = np.full(y.shape, np.nan) if stderr is None else 1.96 * np.asarray(stderr, dtype=np.float64)
    return Curve(x, y, y - half, y + half)


@dataclass(frozen=True)
class Curves:
    """Several series over one axis.

    Attributes
    ----------
    series : mapping of str to Curve
    x, y : str
        What is on the axes, with units.
    log_x, log_y : bool
        Whether an axis is logarithmic.
    """

    series: Mapping[str, Curve] = field(default_factory=dict)
    x: str = ""
    y: str = ""
    log_x: bool = True
    log_y: bool = True

    def dataset(self) -> xr.Dataset:
        """``x``, ``y`` (series, point) and ``y_interval`` (series, point, bound), padded with NaN."""
        longest = max((one.x.size for one in self.series.values()), default=0)
        table = np.full((len(self.series), 4, longest), np.nan)
        for k, one in enumerate(self.series.values()):
            table[k, :, : one.x.size] = one
        return xr.Dataset(
            {
                "x": (("series", "point"), table[:, 0]),
                "y": (("series", "point"), table[:, 1]),
                "y_interval": (("series", "point", "bound"), np.moveaxis(table[:, 2:], 1, 2)),
            },
            coords={"series": np.array(list(self.series), dtype=np.str_), "bound": list(BOUNDS)},
        )
