"""The batch sizes of a search, each on its own: their labels, the optimizer at each, and answers along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mcnqm.errors import ParameterError
from mcnqm.optimizers import Number, numeric_fields
from mcnqm.schedules import Schedule
from mcnqm.settings import batch_size_domain, settings_of
from mcnqm.statistics import BOUNDS

__all__ = ["BatchSizes"]


class BatchSizes:
    """Batch sizes, and an optimizer whose hyperparameters may have a value of their own at each.

    Parameters
    ----------
    batch_size : Number
        A scalar or one-dimensional.
    optimizer : optimizer
        Hyperparameters that are not in `search` are scalars, or a DataArray along the batch size's dimension.
    search : mapping of str to (float, float)
        Bounds of the hyperparameters that are tuned.

    Attributes
    ----------
    sizes : list of float
    optimizers : list of optimizer
        That at each, with scalar hyperparameters.

    Raises
    ------
    ParameterError
        If a batch size or a hyperparameter is none of these.

    Examples
    --------
    >>> from mcnqm import Adam
    >>> memory = xr.DataArray([0.9, 0.99], dims="batch_size", coords={"batch_size": [64, 8]})
    >>> both = BatchSizes([64, 8], Adam(lr=1.0, beta2=memory), {"lr": (1e-3, 1.0)})
    >>> [(size, one.beta2) for size, one in zip(both.sizes, both.optimizers)]
    [(64, 0.9), (8, 0.99)]
    """

    def __init__(self, batch_size: Number, optimizer: Any, search: Mapping[str, tuple[float, float]]) -> None:
        if isinstance(batch_size, Schedule):
            raise ParameterError("batch_size", batch_size, "be the same at every step here")
        batch_size_domain.check("batch_size", getattr(batch_size, "values", batch_size))
        if np.ndim(batch_size) > 1:
            raise ParameterError("batch_size", f"shape {np.shape(batch_size)}", "be a scalar or one-dimensional")
        if isinstance(batch_size, xr.DataArray):
            self._batch = batch_size
        else:
            plain = np.asarray(batch_size)
            along = ["batch_size"] if plain.ndim else []
            self._batch = xr.DataArray(plain, dims=along, coords=dict.fromkeys(along, plain))
        self._following = {
            name: self._checked(name, value)
            for name, value in numeric_fields(optimizer).items()
            if np.ndim(value) and name not in search
        }
        settings_of(optimizer._replace(**{name: ends[0] for name, ends in search.items()}), batch_size)  # its labels
        self.sizes = self._batch.values.reshape(-1).tolist()
        self.optimizers = [
            optimizer._replace(**{name: float(value[k]) for name, value in self._following.items()})
            for k in range(len(self.sizes))
        ]

    def _checked(self, name: str, value: Any) -> xr.DataArray:
        dims = self._batch.dims
        allowed = "be a scalar when other hyperparameters are tuned"
        if dims:
            allowed += (
                f", or an xarray.DataArray along {dims[0]!r}, one value for each of {self._batch.size} batch sizes"
            )
        if not isinstance(value, xr.DataArray) or not dims:
            raise ParameterError(name, f"shape {np.shape(value)}", allowed)
        if value.dims != dims or value.sizes != self._batch.sizes:
            lengths = " x ".join(f"{dim!r} of {size}" for dim, size in value.sizes.items())
            raise ParameterError(name, f"dimensions {lengths}", allowed)
        dim = dims[0]
        if dim in value.coords and dim in self._batch.coords and not value[dim].equals(self._batch[dim]):
            raise ParameterError(name, f"labels {value[dim].values}", f"have the labels {self._batch[dim].values}")
        return value

    def labeled(self, values: Sequence[Any], attrs: Mapping[str, Any]) -> xr.DataArray:
        """One value for each batch size, along their dimension."""
        return self._batch.copy(data=np.array(values).reshape(self._batch.shape)).assign_attrs(attrs)

    def interval(self, ends: Sequence[tuple[float, float]], attrs: Mapping[str, Any]) -> xr.DataArray:
        """The same of intervals."""
        parts = [self.labeled([pair[k] for pair in ends], attrs) for k in range(2)]
        return xr.concat(parts, dim="bound", join="exact").transpose(..., "bound").assign_coords(bound=list(BOUNDS))

    def coords(self) -> dict[str, xr.DataArray]:
        """The hyperparameters that follow the batch size."""
        return {name: self.labeled(value.values.tolist(), {}) for name, value in self._following.items()}
