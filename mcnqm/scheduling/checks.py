"""What `optimize_schedule` is asked, checked: which search answers it, how long the run is, and how it is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from mcnqm.arguments import refuse_unused
from mcnqm.domains import MOST_STEPS, integer, positive, real_array
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, Adam, RMSProp, numeric_fields
from mcnqm.problems import NoisyQuadratic, Problem, check_any_problem, is_gaussian
from mcnqm.problems.problem import not_tiny
from mcnqm.record import MAX_STEPS
from mcnqm.schedules import Schedule
from mcnqm.scheduling.pieces import Lengths
from mcnqm.settings import batch_size_domain, check_distinct

__all__ = ["EXACT", "SIMULATION", "TWIN", "Horizon", "batch_of", "horizon_of", "lengths_of", "limit_of", "route_of"]

EXACT, TWIN, SIMULATION = "analytic", "mean field and simulation", "simulation"
"""The three searches, as answers call them in ``method``."""

_LONGEST = {EXACT: MOST_STEPS, TWIN: 2**22, SIMULATION: 2**16}
"""Runs up to which a target is sought: the twin goes step by step, and of simulations there are a thousand for each."""

_UNKNOWN_TO_TWINS = ("eps_root", "eps_hat", "momentum", "centered")
"""Options of Adam and RMSProp that their twin's gradient lacks."""


def route_of(problem: Any, optimizer: Any) -> str:
    """Which search is for an optimizer on a problem."""
    check_any_problem(problem)
    fields = numeric_fields(optimizer)
    if "lr" not in fields:
        raise ParameterError("optimizer", optimizer, "have a hyperparameter lr, whose schedule is sought")
    for name, value in fields.items():
        if isinstance(value, Schedule) or np.ndim(value):
            raise ParameterError(name, value, "be a scalar: schedules are what is sought")
    if isinstance(optimizer, SGD):
        constant = isinstance(problem, NoisyQuadratic) and not problem.multiplicative_noise.any()
        return EXACT if constant else SIMULATION
    known = isinstance(optimizer, (Adam, RMSProp)) and not any(
        getattr(optimizer, name, False) for name in _UNKNOWN_TO_TWINS
    )
    return TWIN if known and is_gaussian(problem) else SIMULATION


@dataclass(frozen=True)
class Horizon:
    """How long a run is: so many steps, or as many as a target takes, up to the most allowed."""

    steps: int | None
    target: float | None
    most: int


def horizon_of(problem: Problem, steps: int | None, target: float | None, max_steps: int | None, route: str) -> Horizon:
    """The horizon that was asked for."""
    if (steps is None) == (target is None):
        raise ParameterError("steps, target", (steps, target), "be given one without the other")
    longest = _LONGEST[route]
    if steps is not None:
        refuse_unused("be left out where the steps are given", max_steps=max_steps)
        return Horizon(integer("steps", steps, 1, MAX_STEPS if route == SIMULATION else MOST_STEPS), None, longest)
    assert target is not None
    if np.ndim(target):
        raise ParameterError("target", f"shape {np.shape(target)}", "be a scalar: each has a schedule of its own")
    positive.check("target", target)
    if target >= problem.initial_risk:
        raise ParameterError("target", target, f"be below the initial risk, {problem.initial_risk:g}")
    most = MAX_STEPS if route == SIMULATION else longest
    return Horizon(None, target, longest if max_steps is None else integer("max_steps", max_steps, 1, most))


def limit_of(name: str, value: Any, least: float = 0.0) -> float:
    """A limit that was given, or inf."""
    if value is None:
        return np.inf
    # As small as a curvature may be: quotients of less overflow.
    limit = float(not_tiny.check(name, positive.check(name, value))) if np.ndim(value) == 0 else np.nan
    if np.isnan(limit):
        raise ParameterError(name, f"shape {np.shape(value)}", "be a scalar")
    if limit < least:
        raise ParameterError(name, value, f"be at least the initial risk, {least:g}")
    return limit


def lengths_of(lengths: ArrayLike, steps: int | None) -> Lengths:
    """Lengths of the pieces that were given."""
    if steps is None:
        raise ParameterError("lengths", lengths, "go with steps, not with a target")
    given = np.asarray(lengths)
    allowed = f"be whole numbers >= 1 that sum to steps, {steps}"
    if given.dtype.kind not in "iu" or given.ndim != 1 or given.size == 0 or (given < 1).any() or given.sum() != steps:
        raise ParameterError("lengths", lengths, allowed)
    return given.astype(np.int64)


def batch_of(batch_size: Any) -> xr.DataArray:
    """The batch sizes, labeled."""
    if isinstance(batch_size, Schedule):
        raise ParameterError("batch_size", batch_size, "be the same at every step here")
    real_array("batch_size", getattr(batch_size, "values", batch_size))
    batch_size_domain.check("batch_size", getattr(batch_size, "values", batch_size))
    if np.ndim(batch_size) > 1:
        raise ParameterError("batch_size", f"shape {np.shape(batch_size)}", "be a scalar or one-dimensional")
    if isinstance(batch_size, xr.DataArray):
        if batch_size.dims in (("piece",), ("baseline",)):
            raise ParameterError("batch_size", batch_size.dims, "have a dimension with another name")
        return batch_size
    plain = np.asarray(batch_size)
    check_distinct("batch_size", plain)
    along = ["batch_size"] if plain.ndim else []
    return xr.DataArray(plain, dims=along, coords=dict.fromkeys(along, plain))
