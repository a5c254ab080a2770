"""Several optimizers on one problem, side by side on the same noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, Adam, Number, numeric_fields
from mcnqm.problems import Problem
from mcnqm.provenance import records_itself
from mcnqm.settings import settings_of
from mcnqm.simulation import simulate

__all__ = ["DEFAULT_OPTIMIZERS", "compare"]

DEFAULT_OPTIMIZERS: dict[str, Any] = {
    "SGD": SGD(lr=0.07),
    "momentum 0.9": SGD(lr=0.007, momentum=0.9),
    "Adam": Adam(lr=2e-3),
}
"""SGD, momentum at the same effective rate, and Adam: near the best for risk 0.01 at batch size 16, d = 1000."""


@records_itself("mcnqm.studies.comparison.compare")
def compare(
    problem: Problem,
    optimizers: Mapping[str, Any],
    batch_size: Number,
    steps: int,
    **options: Any,
) -> xr.Dataset:
    """Simulate several optimizers on the same noise.

    Parameters
    ----------
    problem : NoisyQuadratic or landscape
    optimizers : mapping of str to optimizer
        Label to optimizer. With more than one, hyperparameters must be scalar or follow the batch size.
    batch_size : Number
        Examples per step.
    steps : int
        Steps to run.
    **options
        As for `mcnqm.simulate`.

    Returns
    -------
    xarray.Dataset
        What `mcnqm.simulate` returns, along a first dimension ``optimizer`` with the labels. The hyperparameters of
        several optimizers are in ``attrs["config"]``, not coordinates: they differ by label, or are not there at all.

    Raises
    ------
    ParameterError
        If an argument is not allowed, or several optimizers sweep a hyperparameter.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=10)
    >>> pair = {"slow": mcnqm.SGD(lr=0.01), "fast": mcnqm.SGD(lr=0.1)}
    >>> compare(problem, pair, batch_size=8, steps=100, trajectories=2).risk.dims
    ('optimizer', 'step')
    """
    if not optimizers:
        raise ParameterError("optimizers", dict(optimizers), "not be empty")
    if len(optimizers) > 1:
        along = getattr(batch_size, "dims", ("batch_size",))
        for label, optimizer in optimizers.items():
            swept = [dim for dim in settings_of(optimizer, batch_size).dims if dim not in along]
            if swept:
                allowed = "have scalar hyperparameters when several optimizers are compared"
                raise ParameterError(f"optimizer {label!r}", f"a sweep over {', '.join(swept)}", allowed)
    parts = []
    for optimizer in optimizers.values():
        runs = simulate(problem, optimizer, batch_size, steps, **options)
        own = [name for name in numeric_fields(optimizer) if name in runs.coords]
        parts.append(runs.drop_vars(own) if len(optimizers) > 1 else runs)
    labels = np.array(list(optimizers), dtype=str)
    result = xr.concat(parts, dim=xr.Variable("optimizer", labels), combine_attrs="drop_conflicts", join="exact")
    # What differs between the parts is kept by label, so that the file says how each was run.
    configs = [json.loads(part.attrs["config"]) for part in parts]
    by_label = {label: config.pop("optimizer") for label, config in zip(optimizers, configs, strict=True)}
    shared = {**configs[0], "function": "mcnqm.studies.comparison.compare", "optimizers": by_label}
    # What it comes to by default is up to each.
    shared["control_variate"] = options.get("control_variate")
    return result.assign_attrs(config=json.dumps(shared))
