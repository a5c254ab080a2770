"""Sweeps: hyperparameters and batch sizes of any shape, broadcast by name to one flat list of settings.

Both routes, simulation and theory, label their answers with this, so that to compare them is to subtract.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.averaging import weight_domain
from mcnqm.domains import Domain, nonnegative, positive
from mcnqm.errors import ParameterError
from mcnqm.memory import check_memory
from mcnqm.optimizers import SGD, domain_of, numeric_fields
from mcnqm.schedules import FOREVER, Curve, Schedule, stretches

__all__ = [
    "NO_BATCH_SIZE",
    "RESULT_NAMES",
    "THEORY_NAMES",
    "Settings",
    "Timetable",
    "batch_size_domain",
    "check_distinct",
    "settings_of",
]

RESULT_NAMES = (
    *("trajectory", "step", "examples", "coordinate", "estimate", "optimizer"),
    *("bound", "flags", "loss", "risk", "risk_stderr", "risk_interval", "diverged", "theta"),
    *("gradient", "effective_lr", "first_passage", "diverged_count"),
    *("loss_quantile", "loss_histogram", "bin_low", "bin_high"),
    *("steps", "steps_stderr", "steps_interval", "steps_jackknife", "reason", "freedom", "at_edge", "crossing"),
    *("theta_square", "theta_momentum", "momentum_square", "gradient_square"),
)
"""Dimensions and variables of results, which neither a hyperparameter nor a dimension of one may be called."""

THEORY_NAMES = (
    *("moment", "statistic", "to", "of"),
    *("theta_mean", "theta_variance", "momentum_mean", "momentum_variance", "theta_momentum_covariance"),
    *("average_mean", "average_variance", "theta_average_covariance", "momentum_average_covariance"),
    *("transition", "exact"),
    *("spectral_radius", "decay", "slowest", "relaxation", "largest_stable_lr"),
    *("z", "z_independent", "consistent", "p_value", "agrees"),
)
"""The same of results that only linear optimizers have."""

NO_BATCH_SIZE: Any = object()
"""In place of the batch size where an answer does not depend on it: a dimension ``batch_size`` is free to use then."""

batch_size_domain = Domain("be >= 1", lambda x: x >= 1)


_JUMP = 0.05


@dataclass(frozen=True)
class Timetable:
    """The curves that a scheduled number follows.

    Attributes
    ----------
    name : str
    curves : tuple of Curve
    which : ndarray of int64, shape (settings,)
        Whose curve each setting follows; its value is the setting's own number times the curve.
    scale : ndarray of float64, shape (settings,)
        Those numbers.
    domain : Domain or None
        The allowed set of values.
    """

    name: str
    curves: tuple[Curve, ...]
    which: NDArray[np.int64]
    scale: NDArray[np.float64]
    domain: Domain | None = None

    def at(self, step: NDArray[np.int64]) -> NDArray[np.float64]:
        """Curves at steps, shape (curves, steps), or `ParameterError` if a value is not allowed."""
        if step.size == 0:
            return np.empty((len(self.curves), 0))
        table = np.stack([curve.at(step) for curve in self.curves])
        for k in np.unique(self.which):
            scales = self.scale[self.which == k]
            for extreme in (scales.min(), scales.max()):
                if self.domain is not None:
                    self.domain.check(self.name, extreme * table[k])
        return table

    @property
    def settles(self) -> float:
        """The step from which on nothing changes any more; inf if that is not known."""
        return float(max(_settles(curve) for curve in self.curves))

    def total(self, at: NDArray[np.int64]) -> NDArray[np.float64]:
        """Sums over all steps before each of `at` (which increase), shape (settings, steps)."""
        sums = np.array([_sums(curve, at) for curve in self.curves])
        total: NDArray[np.float64] = self.scale[:, np.newaxis] * sums[self.which]
        return total

    def jumps(self) -> NDArray[np.int64]:
        """Steps at which some curve jumps, by more than a twentieth."""
        found = []
        for curve in self.curves:
            stops, _ = stretches(curve)
            inside = stops[stops < FOREVER]
            before, after = curve.at(inside - 1), curve.at(inside)
            found.append(inside[np.abs(after - before) > _JUMP * np.maximum(np.abs(before), np.abs(after))])
        return np.unique(np.concatenate(found))


_AT_ONCE = 2**20


def _sums(curve: Curve, at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of a curve over the steps before each of `at`: at once where it is flat, else step by step."""
    stops, flat = stretches(curve)
    last = int(at[-1]) if at.size else 0
    begins = np.concatenate([[0], stops[:-1]])
    cuts = np.unique(np.concatenate([[0], begins[begins < last], at]))
    total, found = 0.0, {0: 0.0}
    for low, high in pairwise(cuts.tolist()):
        if flat[np.searchsorted(stops, low, side="right")]:
            total += float(curve.at(np.array([low]))[0]) * (high - low)
        else:
            for k in range(low, high, _AT_ONCE):
                total += float(curve.at(np.arange(k, min(k + _AT_ONCE, high))).sum())
        found[high] = total
    return np.array([found[int(step)] for step in at])


def _settles(curve: Curve) -> float:
    stops, flat = stretches(curve)
    if not flat[-1]:
        return np.inf
    return float(stops[-2]) if stops.size > 1 else 0.0


@dataclass(frozen=True)
class Settings:
    """The outer product (or zip) of all hyperparameters, flattened.

    Attributes
    ----------
    dims : tuple of str
        One name per swept dimension, in the order of the optimizer's fields, batch size last.
    shape : tuple of int
        Length of each.
    values : dict of str to ndarray, shape (size,)
        Every hyperparameter and ``batch_size``, as one float64 per setting in C order.
    coords : dict of str to DataArray
        Hyperparameters as coordinates of a result: along their own dimension, a shared one, or scalar.
    schedules : dict of str to Timetable
        Of those among the values that change with the step; there the value is the scale of a schedule.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    values: dict[str, NDArray[np.float64]]
    coords: dict[str, xr.DataArray]
    schedules: dict[str, Timetable] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of settings; 1 where everything is scalar."""
        return int(np.prod(self.shape, dtype=np.int64))

    def steps(self, at: NDArray[np.int64], units: Mapping[str, str]) -> dict[str, xr.DataArray]:
        """Coordinates of results at steps: ``step``, with `units`; and ``examples`` where the batch size changes.

        The latter are the examples that all steps so far have taken, along the dimensions in which they differ.
        """
        found = {"step": xr.DataArray(at, dims="step", attrs=dict(units))}
        if "batch_size" in self.schedules:
            taken = self.unflatten(self.schedules["batch_size"].total(at))
            dims = list(self.dims)
            for k in range(len(dims) - 1, -1, -1):
                one = taken.take([0], axis=k)
                if (taken == one).all():
                    taken = one.squeeze(axis=k)
                    del dims[k]
            attrs = {"units": "examples", "long_name": "examples so far"}
            found["examples"] = xr.DataArray(taken, dims=(*dims, "step"), attrs=attrs)
        return found

    def unflatten(self, flat: NDArray[Any]) -> NDArray[Any]:
        """Give the leading axis of `flat`, one entry per setting, the shape of the sweep."""
        return flat.reshape(self.shape + flat.shape[1:])


def settings_of(optimizer: Any, batch_size: Any, *, schedules: bool = False, **extra: Any) -> Settings:
    """Broadcast an optimizer's hyperparameters against the batch size, by name.

    Parameters
    ----------
    optimizer : optimizer
        Such as ``SGD(lr=[0.1, 0.2])``. A 1-D array makes a dimension of its own name; a DataArray keeps its
        dimensions; two DataArrays on one dimension are zipped.
    batch_size : Number
        Examples per step, at least 1; or `NO_BATCH_SIZE`.
    schedules : bool
        Whether values may change with the step.
    **extra : Number
        Further parameters to broadcast along, already checked by the caller.

    Returns
    -------
    Settings

    Raises
    ------
    ParameterError
        If a value is out of range, a dimension has the name of something in a result or of a hyperparameter that does
        not vary along it, or two hyperparameters disagree about the length or the labels of a shared dimension.

    Examples
    --------
    >>> from mcnqm import SGD
    >>> sweep = settings_of(SGD(lr=[0.1, 0.2, 0.4]), batch_size=[1, 8])
    >>> sweep.dims, sweep.shape
    (('lr', 'batch_size'), (3, 2))
    >>> sweep.values["lr"], sweep.values["batch_size"]
    (array([0.1, 0.1, 0.2, 0.2, 0.4, 0.4]), array([1., 8., 1., 8., 1., 8.]))

    A shared dimension is zipped:

    >>> B = xr.DataArray([1.0, 4.0], dims="batch_size", coords={"batch_size": [1, 4]})
    >>> settings_of(SGD(lr=0.1 * B), batch_size=B).values["lr"]
    array([0.1, 0.4])
    >>> settings_of(SGD(lr=0.1 * B), batch_size=4)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: lr must use a hyperparameter's name for a dimension only where that one varies along
    it, and along nothing else, got "dimension 'batch_size'"
    """
    if batch_size is not NO_BATCH_SIZE:
        if isinstance(batch_size, Schedule):
            batch_size.check("batch_size", batch_size_domain)
        else:
            batch_size_domain.check("batch_size", getattr(batch_size, "values", batch_size))
        extra = {"batch_size": batch_size, **extra}
    fields = numeric_fields(optimizer)
    for name in fields:
        if name in RESULT_NAMES or name in extra:
            allowed = f"not have fields named like parts of a result ({', '.join([*RESULT_NAMES, *extra])})"
            raise ParameterError("optimizer", f"field {name!r}", allowed)
    given = {**fields, **extra}
    changing = {name: value for name, value in given.items() if isinstance(value, Schedule)}
    for name, one in changing.items():
        if not schedules or (name == "precondition" and isinstance(optimizer, SGD)):
            raise ParameterError(name, one, "be the same at every step here")
        given[name] = one.scale
    choices = {f"curve of {name}": one.which for name, one in changing.items() if np.ndim(one.which)}
    arrays = {name: _labelled(name, value) for name, value in {**given, **choices}.items()}
    _check_dims(arrays, optimizer)
    swept = {name: array for name, array in arrays.items() if array.ndim}
    extent = {str(dim): size for array in swept.values() for dim, size in array.sizes.items()}
    outer = math.prod(float(size) for size in extent.values())
    check_memory(16.0 * outer * len(arrays), f"{outer:.0f} settings", "hyperparameters", extent)
    try:
        spread = dict(zip(swept, xr.broadcast(*_aligned(swept)), strict=True)) if swept else {}
    except ValueError as error:
        lengths = {name: dict(array.sizes) for name, array in arrays.items() if array.ndim}
        allowed = "agree on the length and the labels of every shared dimension"
        raise ParameterError("hyperparameters", lengths, allowed) from error
    first = next(iter(spread.values())) if spread else xr.DataArray(0.0)
    dims = tuple(str(dim) for dim in first.dims)
    values = {}
    for name, array in arrays.items():
        if name in spread:
            flat = spread[name].transpose(*dims).values.reshape(-1)
            values[name] = np.ascontiguousarray(flat, dtype=np.float64)
        else:
            values[name] = np.full(first.size, float(array))
    tables = {}
    for name, one in changing.items():
        chosen = values.pop(f"curve of {name}") if np.ndim(one.which) else np.full(first.size, int(one.which))
        own = {"batch_size": batch_size_domain, "average": weight_domain}
        domain = domain_of(optimizer, name) if name in fields else own.get(name)
        domain = nonnegative if domain is positive else domain
        tables[name] = Timetable(name, one.curves, chosen.astype(np.int64), values[name], domain)
    shape = tuple(first.sizes[dim] for dim in first.dims)
    return Settings(dims, shape, values, _coords({k: v for k, v in arrays.items() if k not in choices}), tables)


def _aligned(arrays: Mapping[str, xr.DataArray]) -> tuple[xr.DataArray, ...]:
    return xr.align(*arrays.values(), join="exact", copy=False)


def _labelled(name: str, value: Any) -> xr.DataArray:
    if isinstance(value, xr.DataArray):
        if value.dims == (name,):
            if name not in value.coords:
                # Without labels of its own it would take those of another array on that dimension.
                value = value.assign_coords({name: (name, value.values, value.attrs)})
            elif not np.array_equal(value[name], value):
                # A result would carry the labels as if they were the values.
                allowed = "have its values as labels on its own dimension"
                raise ParameterError(name, f"labels {value[name].values}", allowed)
            check_distinct(name, value.values)
        return xr.DataArray(value.astype(np.float64))
    array = np.asarray(value, dtype=np.float64)
    if array.ndim == 0:
        return xr.DataArray(array)
    if array.ndim != 1:
        raise ParameterError(name, f"shape {array.shape}", "be a scalar, a 1-D array or an xarray.DataArray")
    check_distinct(name, array)
    return xr.DataArray(array, dims=name, coords={name: array})


def check_distinct(name: str, values: NDArray[np.float64]) -> None:
    """Refuse a value that a sweep has twice: its label would not tell which of the two is meant."""
    found, counts = np.unique(values, return_counts=True)
    for value in found[counts > 1]:
        raise ParameterError(name, f"{value:g} twice", "have distinct values, which label a sweep")


def _check_dims(arrays: Mapping[str, xr.DataArray], optimizer: Any) -> None:
    """Refuse dimensions (and levels of their labels) whose names a result needs for something else."""
    taken = RESULT_NAMES + (THEORY_NAMES if isinstance(optimizer, SGD) else ())
    for name, array in arrays.items():
        for dim in dict.fromkeys([*array.dims, *array.xindexes]):
            if not isinstance(dim, str):
                raise ParameterError(name, f"dimension {dim!r}", "have dimensions named by strings")
            if dim in taken and dim != name:
                allowed = f"not use the names in a result for a dimension ({', '.join(taken)})"
                raise ParameterError(name, f"dimension {dim!r}", allowed)
            if (dim in arrays and arrays[dim].dims != (dim,)) or dim in optimizer._switches:
                allowed = (
                    "use a hyperparameter's name for a dimension only where that one varies along it, "
                    "and along nothing else"
                )
                raise ParameterError(name, f"dimension {dim!r}", allowed)


def _coords(arrays: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    coords: dict[str, xr.DataArray] = {}
    for array in arrays.values():  # labels of dimensions, shared or a hyperparameter's own
        for dim in array.dims:
            if dim in array.coords:
                coords.setdefault(str(dim), array.coords[dim].reset_coords(drop=True))
    for name, array in arrays.items():
        if name not in coords:
            coords[name] = array.reset_coords(drop=True)
    return coords
