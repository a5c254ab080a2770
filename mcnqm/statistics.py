"""Standard errors, intervals and tests. Knows nothing of optimizers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["chi_square_z", "combined_p_value", "jackknife", "mean_and_stderr", "regression_z", "weighted_chi_square_z"]

Array = NDArray[np.float64]


def mean_and_stderr(samples: Array, axis: int = -1) -> tuple[Array, Array]:
    """Mean of independent samples and its standard error along `axis`.

    Parameters
    ----------
    samples : ndarray
        Independent along `axis`. Entries may be inf.
    axis : int
        Where they lie.

    Returns
    -------
    mean, stderr : ndarray
        Without `axis`. The error is NaN for a single sample, and inf where the mean is.

    Examples
    --------
    >>> mean, stderr = mean_and_stderr(np.array([1.0, 2.0, 3.0, 4.0]))
    >>> float(mean), round(float(stderr), 6)
    (2.5, 0.645497)
    """
    n = samples.shape[axis]
    mean = samples.mean(axis=axis)
    finite = np.isfinite(mean)
    if n == 1:
        return mean, np.where(finite, np.nan, np.inf)
    safe = np.where(np.expand_dims(finite, axis), samples, 0.0)
    stderr = safe.std(axis=axis, ddof=1) / np.sqrt(n)
    return mean, np.where(finite, stderr, np.inf)


def jackknife(estimates: Array, axis: int = -1) -> tuple[Array, Array]:
    """Bias-corrected estimate and standard error, from the whole sample and with each part left out.

    Parameters
    ----------
    estimates : ndarray
        Along `axis`: the estimate from the whole sample, then those with each of K equal parts left out.
    axis : int
        Where they lie.

    Returns
    -------
    estimate, stderr : ndarray
        K times the whole minus K - 1 times the mean of the others, which removes a bias inversely proportional to the
        sample size (Quenouille 1956), and Tukey's standard error. Where any is infinite, inf and NaN. A single
        estimate is returned as it is, with error 0.

    Examples
    --------
    >>> estimate, stderr = jackknife(np.array([2.5, 3.0, 8 / 3, 7 / 3, 2.0]))  # the mean of 1, 2, 3, 4
    >>> float(estimate), round(float(stderr), 6)
    (2.5, 0.645497)
    """
    values = np.moveaxis(np.asarray(estimates, dtype=np.float64), axis, -1)
    whole, others = values[..., 0], values[..., 1:]
    k = others.shape[-1]
    if k == 0:
        return whole, np.zeros_like(whole)
    finite = np.asarray(np.isfinite(values).all(axis=-1))
    safe = np.where(finite[..., np.newaxis], others, 0.0)
    centre = safe.mean(axis=-1)
    corrected = k * np.where(finite, whole, 0.0) - (k - 1) * centre
    stderr = np.sqrt((k - 1) / k * ((safe - centre[..., np.newaxis]) ** 2).sum(axis=-1))
    return np.where(finite, corrected, np.inf), np.where(finite, stderr, np.nan)


def chi_square_z(value: Any, freedom: Any) -> Any:
    """The standard normal with the same quantile as a chi-square `value`: exact for any number of degrees.

    Examples
    --------
    >>> round(float(chi_square_z(stats.chi2.ppf(0.975, 7), 7)), 6)
    1.959964
    """
    # Each tail from its own side, so that a far one does not round to certainty.
    upper = stats.norm.isf(stats.chi2.sf(value, freedom))
    lower = stats.norm.ppf(stats.chi2.cdf(value, freedom))
    return np.where(np.asarray(value) > freedom, upper, lower)


def weighted_chi_square_z(value: float, cumulants: tuple[float, float, float]) -> float:
    """Standard normal quantile of a sum of scaled, possibly non-central chi-squares, from three cumulants.

    The sum is matched by a shifted, scaled chi-square of equal mean, variance and skewness (Pearson 1959).

    Parameters
    ----------
    value : float
        The sum.
    cumulants : tuple of float
        Its mean, variance and third central moment, the last > 0.
    """
    mean, variance, third = cumulants
    freedom = 8.0 * variance**3 / third**2
    scaled = freedom + (value - mean) * np.sqrt(2.0 * freedom / variance)
    return float(chi_square_z(max(scaled, 0.0), freedom))


def regression_z(response: Array, regressors: Array) -> Array:
    """Independent standard normals from a response that should be pure noise.

    If the entries of `response` are independent standard normals given the regressors, the coefficients on an
    orthonormal basis of the regressors are independent standard normals and the rest of the sum of squares is
    chi-square: all exactly, for any number of samples.

    Parameters
    ----------
    response : ndarray, shape (n,)
    regressors : ndarray, shape (n, q)
        Columns that are linearly dependent on earlier ones are left out.

    Returns
    -------
    ndarray, shape (q' + 1,)
        One per regressor kept, then that of the remaining variance.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> z = regression_z(rng.normal(size=1000), rng.normal(size=(1000, 2)))
    >>> z.shape, bool(np.abs(z).max() < 4)
    ((3,), True)
    """
    q, r = np.linalg.qr(regressors)
    kept = np.abs(np.diag(r)) > 1e-9 * np.abs(np.diag(r)).max(initial=1e-300)
    coefficients = (q * np.sign(np.diag(r))).T[kept] @ response
    rest = float(response @ response - coefficients @ coefficients)
    return np.append(coefficients, chi_square_z(rest, response.size - coefficients.size))


def combined_p_value(z: Array) -> float:
    """Chance of a sum of squares as large from independent standard normals; 0 if any is not finite, 1 if none.

    Examples
    --------
    >>> combined_p_value(np.array([0.0, 0.0])), round(combined_p_value(np.array([1.0, -2.0])), 4)
    (1.0, 0.0821)
    """
    if not np.isfinite(z).all():
        return 0.0
    return float(stats.chi2.sf(float(z @ z), z.size)) if z.size else 1.0
