"""Estimates with intervals: of exact numbers, of means, of quotients, of slopes and of knees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import interpolate, special

from mcnqm.claims.claim import Estimate
from mcnqm.fits import log_slope

__all__ = ["KNEE_ERROR", "critical_batch", "exact", "mean", "quotient", "scatter", "slope"]

Array = NDArray[np.float64]

KNEE_ERROR = 0.03
"""Relative error of a critical batch size read off exact steps at every octave: that of the interpolation."""


def _half_width(level: float, freedom: float) -> float:
    upper = 0.5 + 0.5 * level
    return float(special.ndtri(upper) if np.isinf(freedom) else special.stdtrit(max(freedom, 1.0), upper))


def exact(value: float, relative: float = 1e-9) -> Estimate:
    """A number in closed form, known up to a relative error of the method."""
    return Estimate(float(value), float(value - abs(value) * relative), float(value + abs(value) * relative))


def mean(value: float, stderr: float, level: float, freedom: float = np.inf) -> Estimate:
    """A mean with a standard error, by Student's t."""
    half = _half_width(level, freedom) * stderr
    return Estimate(float(value), float(value - half), float(value + half))


def scatter(samples: Any, level: float) -> Estimate:
    """The mean of independent samples."""
    samples = np.asarray(samples, dtype=np.float64)
    return mean(samples.mean(), samples.std(ddof=1) / np.sqrt(samples.size), level, samples.size - 1)


def quotient(above: float, below: float, level: float, *errors: float, freedom: float = np.inf) -> Estimate:
    """A quotient of positive numbers whose relative standard errors are given: an interval on the logarithm."""
    half = _half_width(level, freedom) * float(np.sqrt(np.sum(np.square(errors))))
    value = float(above / below)
    return Estimate(value, float(value * np.exp(-half)), float(value * np.exp(half)))


def slope(batch_size: Any, value: Any, stderr: Any, level: float, *, first_order: bool = True) -> Estimate:
    """Slope of log value on log batch size; with `first_order`, in the limit of small batches (`mcnqm.fits`)."""
    return Estimate(*log_slope(batch_size, value, stderr, first_order=first_order, level=level))


def critical_batch(batch_size: Any, steps: Any) -> float:
    """Batch size at which twice the fewest examples are needed: where the examples have doubled, by interpolation.

    The fewest are those at the smallest batch sizes or of a dip after them: steps that fall faster than 1/B count as
    perfect scaling. Infinite if the examples do not double within these batch sizes.
    """
    x = np.log(np.asarray(batch_size, dtype=np.float64))
    examples = x + np.log(np.asarray(steps, dtype=np.float64))
    lowest = int(np.argmin(examples))
    if lowest == x.size - 1:
        return float("inf")
    curve = interpolate.PchipInterpolator(x[lowest:], examples[lowest:] - examples[lowest] - np.log(2.0))
    roots = curve.roots(extrapolate=False)
    return float(np.exp(roots[0])) if roots.size else float("inf")
