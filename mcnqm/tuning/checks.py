"""Checks of simulated steps to target: by theory, by a bound, and by how few trajectories decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import special

from mcnqm import analytic
from mcnqm.flags import Flag
from mcnqm.optimizers import SGD
from mcnqm.problems import Problem, is_gaussian, is_quadratic

__all__ = ["check_bound", "check_risk", "check_sample", "check_theory", "has_theory", "theoretical_steps"]

Array = NDArray[np.float64]

_OFF_EXACT, _OFF_MEAN_FIELD = 0.1, 0.25
"""Relative difference from theory that is flagged whatever the error: the mean field's own is up to 0.06 where it was
measured, in runs of some hundred steps and less."""

_CHANCE = 1e-5
"""Two-sided chance of a smaller difference from the exact value that is flagged all the same."""

_EFFECTIVE, _ROUGH = 2.0, 0.08
"""Fewer effective replicates than this are few, where the relative standard error is above the second."""

_NODES = 16
"""Nodes of the mean field."""


def has_theory(problem: Problem, optimizer: Any) -> bool:
    """Whether some theory knows the steps of an optimizer on a problem."""
    if isinstance(optimizer, SGD):
        return is_quadratic(problem)
    return is_gaussian(problem) and analytic.mean_field.covers(optimizer)


def theoretical_steps(problem: Any, optimizer: Any, batch_size: Any, target: Any) -> xr.DataArray:
    """Steps to target of constant settings by the theory that there is: exact, or the mean field's."""
    if isinstance(optimizer, SGD):
        return analytic.steps_to_target(problem, optimizer, batch_size, target)["steps"]
    return analytic.mean_field.steps_to_target(problem, optimizer, batch_size, target, nodes=_NODES)["steps"]


def check_theory(
    steps: Any, stderr: Any, freedom: int, theory: Any, *, exact: bool, slack: float = 0.0
) -> NDArray[np.int32]:
    """Flag steps that theory contradicts; where either is unknown (NaN) nothing is flagged.

    Parameters
    ----------
    steps, stderr : array_like
        Simulated; inf where the target was not reached.
    freedom : int
        Degrees of freedom of the error.
    theory : array_like
    exact : bool
        Whether theory is exact, or the mean field.
    slack : float
        Relative difference that is allowed besides, of the exact value.

    Examples
    --------
    >>> check_theory([100.0, 100.0, np.inf], [1.0, 30.0, np.nan], 15, [103.0, 120.0, 120.0], exact=True).tolist()
    [0, 2, 2]
    """
    steps, stderr, theory = (np.asarray(a, dtype=np.float64) for a in (steps, stderr, theory))
    with np.errstate(invalid="ignore"):
        gap = np.abs(steps - theory)
        off = gap > np.maximum((_OFF_EXACT if exact else _OFF_MEAN_FIELD) * theory, 1.0)
        if exact:
            far = -special.stdtrit(freedom, 0.5 * _CHANCE)
            off |= gap > far * np.where(np.isfinite(stderr), stderr, np.inf) + 1.0 + slack * theory
    off = np.where(np.isfinite(steps) != np.isfinite(theory), ~(np.isnan(steps) | np.isnan(theory)), off)
    return np.where(off, np.int32(Flag.DISAGREES_WITH_THEORY), np.int32(0))


def check_risk(risk: float, stderr: float, freedom: int, theory: float, *, exact: bool, slack: float = 0.0) -> int:
    """Flag a risk that differs from theory's by more than chance, and what is allowed besides, explain.

    That is `slack`, relative, of the exact value, and the mean field's own error of it. Other arguments as for
    `check_theory`; a risk that is infinite for one of the two alone is flagged, too.

    Examples
    --------
    >>> check_risk(1.0, 0.01, 15, 1.1, exact=True), check_risk(1.0, 0.03, 15, 1.1, exact=True)
    (2, 0)
    """
    if np.isnan(risk) or np.isnan(theory):
        return 0
    if not (np.isfinite(risk) and np.isfinite(theory)):
        return 0 if np.isinf(risk) and np.isinf(theory) else int(Flag.DISAGREES_WITH_THEORY)
    far = -float(special.stdtrit(freedom, 0.5 * _CHANCE))
    besides = slack if exact else _OFF_MEAN_FIELD
    off = abs(risk - theory) > far * stderr + besides * theory
    return int(Flag.DISAGREES_WITH_THEORY) if off else 0


def check_bound(problem: Problem, batch_size: Any, target: Any, last: Any) -> NDArray[np.int32]:
    """Flag steps, given by the end of their interval, after which no method is at the target: see `bayes_bound`.

    Only noise that is normal, of one variance, has that bound.
    """
    batch_size, target, last = np.broadcast_arrays(
        *(np.asarray(a, dtype=np.float64) for a in (batch_size, target, last))
    )
    if not is_gaussian(problem):
        return np.zeros(last.shape, np.int32)
    known = np.isfinite(last)
    examples = np.where(known, last * batch_size, 0.0)
    least = analytic.bayes_bound(problem, examples.reshape(-1))["risk"].values.reshape(known.shape)
    return np.where(known & (least > target), np.int32(Flag.BELOW_BOUND), np.int32(0))


def check_sample(steps: Any, stderr: Any, last: Any, effective: Any) -> NDArray[np.int32]:
    """Flag steps whose error rests on a few replicates, or that a part of the sample does not take.

    Parameters
    ----------
    steps, stderr, last : array_like
        Simulated, with the end of their interval.
    effective : array_like
        Effective number of replicates (`mcnqm.statistics.effective_number`).
    """
    steps, stderr, last, effective = (np.asarray(a, dtype=np.float64) for a in (steps, stderr, last, effective))
    reached = np.isfinite(steps) & (steps > 0)
    with np.errstate(invalid="ignore"):
        few = reached & (effective < _EFFECTIVE) & (stderr > _ROUGH * steps)
    doubtful = reached & ~(np.isfinite(stderr) & np.isfinite(last))
    flags = np.where(few, np.int32(Flag.FEW_EFFECTIVE_TRAJECTORIES), np.int32(0))
    return np.asarray(flags | np.where(doubtful, np.int32(Flag.UNCERTAIN_PASSAGE), np.int32(0)), dtype=np.int32)
