"""How a user reads an answer: value, standard error, 95 % interval, degrees of freedom and flags of a Dataset.

Answers that carry no interval get that of Student's t from their standard error.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import xarray as xr
from scipy import special

from calibration.scores import ROUNDING, Estimate
from mcnqm.arguments import value_of

__all__ = ["default_of", "flags_of", "freedom_of", "read", "read_fit"]


def default_of(function: Callable[..., Any], parameter: str) -> Any:
    """Default of a parameter: what users get who do not say."""
    return value_of(inspect.signature(function).parameters[parameter].default)


def freedom_of(dataset: xr.Dataset, name: str, otherwise: float) -> float:
    """Degrees of freedom of the standard error of a scalar variable, as the answer states them."""
    stated = f"{name}_freedom"
    if stated in dataset:
        return float(dataset[stated])
    for attrs in (dataset.attrs, dataset[f"{name}_stderr"].attrs if f"{name}_stderr" in dataset else {}):
        for key in (stated, "freedom"):
            if key in attrs:
                return float(attrs[key])
    return otherwise


def flags_of(dataset: xr.Dataset) -> int:
    """Bits of `flags`; without that variable, whether the answer says of itself that it lies at an edge."""
    if "flags" in dataset:
        return int(dataset["flags"])
    return int(bool(dataset["at_edge"])) if "at_edge" in dataset else 0


def read(
    dataset: xr.Dataset,
    name: str,
    *,
    quantity: str,
    kind: str,
    freedom: float,
    line: str | None = None,
    whole: bool = False,
    **others: Any,
) -> Estimate:
    """Read a variable of a Dataset that has been reduced to scalars, with all that it says of its error."""
    value, stderr = float(dataset[name]), float(dataset[f"{name}_stderr"])
    freedom = freedom_of(dataset, name, freedom)
    if f"{name}_interval" in dataset:
        interval = dataset[f"{name}_interval"]
        low, high = float(interval.sel(bound="low")), float(interval.sel(bound="high"))
    else:
        quantile = 1.959964 if math.isinf(freedom) else float(special.stdtrit(freedom, 0.975))
        half = quantile * (max(stderr, ROUNDING) if whole else stderr)
        low, high = value - half, value + half
    return Estimate(
        quantity, kind, line or quantity, value, stderr, low, high, freedom, flags_of(dataset), whole, **others
    )  # fmt: skip


def read_fit(dataset: xr.Dataset, name: str, *, kind: str, logarithmic: bool, flags: int, **others: Any) -> Estimate:
    """Read a fitted quantity, of which the Dataset holds the value and the ends of its 95 % interval."""
    if f"{name}_interval" in dataset:
        interval = dataset[f"{name}_interval"]
        value, low, high = float(dataset[name]), float(interval.sel(bound="low")), float(interval.sel(bound="high"))
    else:
        value, low, high = (float(dataset[name + end]) for end in ("", "_low", "_high"))
    ends = _logarithms(low, high) if logarithmic else (low, high)
    stderr = (ends[1] - ends[0]) / (2 * 1.959964)
    return Estimate(name, kind, name, value, stderr, low, high, math.inf, flags, False, logarithmic, **others)


def _logarithms(low: float, high: float) -> tuple[float, float]:
    known = low > 0 and math.isfinite(high)
    return (math.log(low), math.log(high)) if known else (math.nan, math.nan)
