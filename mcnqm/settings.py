"""Sweeps: hyperparameters and batch sizes of any shape, broadcast by name to one flat list of settings.

Both routes, simulation and theory, label their answers with this, so that to compare them is to subtract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.domains import Domain
from mcnqm.errors import ParameterError
from mcnqm.optimizers import numeric_fields

__all__ = ["RESERVED_DIMS", "Settings", "batch_size_domain", "settings_of"]

RESERVED_DIMS = ("trajectory", "step", "coordinate", "estimate", "moment", "statistic")
"""Dimensions of a result that no hyperparameter may use."""

batch_size_domain = Domain("be >= 1", lambda x: x >= 1)


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
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    values: dict[str, NDArray[np.float64]]
    coords: dict[str, xr.DataArray]

    @property
    def size(self) -> int:
        """Number of settings; 1 where everything is scalar."""
        return int(np.prod(self.shape, dtype=np.int64))

    def unflatten(self, flat: NDArray[Any]) -> NDArray[Any]:
        """Give the leading axis of `flat`, one entry per setting, the shape of the sweep."""
        return flat.reshape(self.shape + flat.shape[1:])


def settings_of(optimizer: Any, batch_size: Any, **extra: Any) -> Settings:
    """Broadcast an optimizer's hyperparameters against the batch size, by name.

    Parameters
    ----------
    optimizer : optimizer
        Such as ``SGD(lr=[0.1, 0.2])``. A 1-D array makes a dimension of its own name; a DataArray keeps its
        dimensions; two DataArrays on one dimension are zipped.
    batch_size : Number
        Examples per step, at least 1.
    **extra : Number
        Further parameters to broadcast along, already checked by the caller.

    Returns
    -------
    Settings

    Raises
    ------
    ParameterError
        If a value is out of range, a dimension's name is reserved, or two hyperparameters disagree about the
        length or the labels of a shared dimension.

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
    """
    numbers = {**numeric_fields(optimizer), "batch_size": batch_size, **extra}
    batch_size_domain.check("batch_size", getattr(batch_size, "values", batch_size))
    arrays = {name: _labelled(name, value) for name, value in numbers.items()}
    swept = {name: array for name, array in arrays.items() if array.ndim}
    try:
        spread = dict(zip(swept, xr.broadcast(*_aligned(swept)), strict=True)) if swept else {}
    except ValueError as error:
        lengths = {name: dict(array.sizes) for name, array in arrays.items() if array.ndim}
        raise ParameterError("hyperparameters", lengths, "agree on every shared dimension") from error
    first = next(iter(spread.values())) if spread else xr.DataArray(0.0)
    dims = tuple(str(dim) for dim in first.dims)
    values = {}
    for name, array in arrays.items():
        if name in spread:
            flat = spread[name].transpose(*dims).values.reshape(-1)
            values[name] = np.ascontiguousarray(flat, dtype=np.float64)
        else:
            values[name] = np.full(first.size, float(array))
    return Settings(dims, tuple(first.sizes[dim] for dim in first.dims), values, _coords(arrays))


def _aligned(arrays: Mapping[str, xr.DataArray]) -> tuple[xr.DataArray, ...]:
    return xr.align(*arrays.values(), join="exact", copy=False)


def _labelled(name: str, value: Any) -> xr.DataArray:
    if isinstance(value, xr.DataArray):
        for dim in value.dims:
            if dim in RESERVED_DIMS:
                raise ParameterError(name, f"dimension {dim!r}", f"not use the dimensions {RESERVED_DIMS} of a result")
        if name in value.coords and name in value.dims and (value.ndim > 1 or not np.array_equal(value[name], value)):
            # A result would carry the labels as if they were the values.
            raise ParameterError(name, f"labels {value[name].values}", "have its values as labels on its own dimension")
        return value.astype(np.float64)
    if name in RESERVED_DIMS:
        raise ParameterError("optimizer", name, f"not have fields of a result's dimensions {RESERVED_DIMS}")
    array = np.asarray(value, dtype=np.float64)
    if array.ndim == 0:
        return xr.DataArray(array)
    if array.ndim != 1:
        raise ParameterError(name, f"shape {array.shape}", "be a scalar, a 1-D array or an xarray.DataArray")
    return xr.DataArray(array, dims=name, coords={name: array})


def _coords(arrays: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    coords: dict[str, xr.DataArray] = {}
    for array in arrays.values():  # labels that the user gave to shared dimensions
        for dim in array.dims:
            if dim in array.coords:
                coords.setdefault(str(dim), array.coords[dim].reset_coords(drop=True))
    for name, array in arrays.items():
        if name in array.dims and name in array.coords:
            continue  # its own dimension's labels already say it
        if name in coords or (name in array.dims and array.ndim > 1):
            continue
        coords[name] = array.reset_coords(drop=True)
    return coords
