"""Labels and units that the answers share."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.domains import integer
from mcnqm.errors import ParameterError
from mcnqm.memory import check_memory
from mcnqm.optimizers import SGD
from mcnqm.problems import NoisyQuadratic
from mcnqm.settings import Settings, settings_of

__all__ = ["LOSS", "batch_settings", "check_answer", "dataset", "moment_attrs", "selection"]

LOSS = {"units": "loss", "long_name": "expected loss"}

_MOMENTS = {
    "theta_mean": ("parameter", "mean of the parameter"),
    "theta_variance": ("parameter²", "variance of the parameter"),
    "momentum_mean": ("gradient", "mean of the momentum buffer"),
    "momentum_variance": ("gradient²", "variance of the momentum buffer"),
    "theta_momentum_covariance": ("parameter × gradient", "covariance of parameter and momentum buffer"),
    "average_mean": ("parameter", "mean of the averaged parameter"),
    "average_variance": ("parameter²", "variance of the averaged parameter"),
    "theta_average_covariance": ("parameter²", "covariance of the parameter and its average"),
    "momentum_average_covariance": ("parameter × gradient", "covariance of momentum buffer and averaged parameter"),
}


def moment_attrs(buffer: bool, averaged: bool, means: bool = True) -> dict[str, dict[str, str]]:
    """Names of the moments that an optimizer has, with units."""
    return {
        name: {"units": units, "long_name": long_name}
        for name, (units, long_name) in _MOMENTS.items()
        if (buffer or "momentum" not in name) and (averaged or "average" not in name) and (means or "mean" not in name)
    }


def selection(problem: NoisyQuadratic, coordinates: Any) -> NDArray[np.int64]:
    """Coordinates of the expanded problem; all of them for None."""
    if coordinates is None:
        return np.arange(problem.dim, dtype=np.int64)
    wanted = np.asarray(coordinates)
    if wanted.ndim != 1 or wanted.size == 0:
        raise ParameterError("coordinates", coordinates, "be a sequence of integers")
    return np.array([integer("coordinates", value, 0, problem.dim - 1) for value in wanted], dtype=np.int64)


def check_answer(settings: Settings, *, records: int = 1, coordinates: int = 1, variables: int = 1) -> None:
    """Raise `ParameterError`, by the argument to lower, if an answer will not fit into memory.

    Parameters
    ----------
    settings : Settings
    records, coordinates : int
        How many steps and coordinates are answered for.
    variables : int
        Numbers of each setting, step and coordinate.
    """
    extents = {"hyperparameters": settings.size, "record": records, "coordinates": coordinates}
    name = max(extents, key=lambda each: extents[each])
    size = f"{settings.size} settings x {records} steps x {coordinates} coordinates"
    # Twice: what is computed, and its copy in the order of the sweep.
    needed = 16.0 * variables * settings.size * records * coordinates
    check_memory(needed, f"answers for {size}", name, extents[name])


def dataset(
    data: dict[str, xr.DataArray],
    settings: Settings,
    at: NDArray[np.int64] | None = None,
) -> xr.Dataset:
    """A result with its hyperparameters as coordinates."""
    coords = dict(settings.coords)
    if at is not None:
        coords |= settings.steps(at, {"units": "steps", "long_name": "completed steps"})
    return xr.Dataset(data, coords=coords, attrs={"method": "analytic"})


def batch_settings(batch_size: Any) -> Settings:
    """A sweep over the batch size alone."""
    settings = settings_of(SGD(lr=1.0), batch_size)
    kept = {name: value for name, value in settings.coords.items() if name not in SGD._fields}
    return Settings(settings.dims, settings.shape, {"batch_size": settings.values["batch_size"]}, kept)
