"""Standard errors, intervals and tests. Knows nothing of optimizers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = [
    "Strata",
    "chi_square_z",
    "combined_p_value",
    "controlled",
    "jackknife",
    "mean_and_stderr",
    "normal_strata",
    "regression_z",
    "weighted_chi_square_z",
]

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
    >>> from scipy import stats
    >>> round(float(chi_square_z(stats.chi2.ppf(0.975, 7), 7)), 6)
    1.959964
    """
    # Each tail from its own side, so that a far one does not round to certainty.
    upper = -special.ndtri(special.chdtrc(freedom, value))
    lower = special.ndtri(special.chdtr(freedom, value))
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
    return float(special.chdtrc(z.size, float(z @ z))) if z.size else 1.0


class Strata(NamedTuple):
    """Cells of a distribution by the size of x.

    Attributes
    ----------
    edges : ndarray, shape (n, cells - 1)
        Increasing bounds of x²; a value equal to one lies above it.
    second : ndarray, shape (n, cells)
        Mean of x² in each cell.
    share : ndarray, shape (n, cells)
        Probability of each cell.
    """

    edges: Array
    second: Array
    share: Array


def normal_strata(mean: Array, std: Array, cells: int) -> Strata:
    """Cells of equal probability of normal distributions, by the size of x.

    Parameters
    ----------
    mean, std : ndarray, shape (n,)
        With std = 0 all probability lies in the first cell.
    cells : int
        How many, at least 1.

    Examples
    --------
    >>> halves = normal_strata(np.zeros(1), np.ones(1), 2)
    >>> halves.share, halves.edges.round(3), halves.second.round(3)  # a chi-square of 1: median 0.455
    (array([[0.5, 0.5]]), array([[0.455]]), array([[0.143, 1.857]]))
    """
    kinds, which = np.unique(np.stack([mean, std]), axis=1, return_inverse=True)
    rows = [_strata(float(m), float(s), cells) for m, s in kinds.T]
    return Strata(*(np.array(column)[which.reshape(-1)] for column in zip(*rows, strict=True)))


def _strata(m: float, s: float, cells: int) -> tuple[Array, Array, Array]:
    if s <= 1e-8 * abs(m):  # certain, up to rounding; and where s = 0
        share = np.zeros(cells)
        share[0] = 1.0
        return np.full(cells - 1, np.inf), np.full(cells, m * m), share
    if cells == 1:
        edges = np.empty(0)
    else:
        from scipy import stats  # noqa: PLC0415 - it takes as long to import as all else of SciPy

        edges = stats.foldnorm.ppf(np.arange(1, cells) / cells, abs(m) / s, scale=s)
    bounds = np.concatenate([[0.0], edges, [np.inf]])

    def below(x: Array) -> tuple[Array, Array]:
        """Probability, and the integral of x² over it, of values below x."""
        u = (x - m) / s
        finite = np.where(np.isfinite(x), x, 0.0)
        density = np.exp(-0.5 * u * u) / np.sqrt(2.0 * np.pi)
        return special.ndtr(u), (m * m + s * s) * special.ndtr(u) - s * (finite + m) * density

    (p_high, q_high), (p_low, q_low) = below(bounds), below(-bounds)
    share, second = np.diff(p_high - p_low), np.diff(q_high - q_low)
    return edges**2, second / share, share


def controlled(sample: Array, control: Array, expected: Array, axis: int = -1) -> Array:
    r"""Samples less what a control variate explains of them, with the same mean.

    Each sample is corrected by a coefficient estimated from the others alone, so that the mean is unbiased whatever
    the number of samples. The coefficient is shrunk towards 0 by as much as chance would produce of it, so that an
    uncorrelated control costs next to nothing.

    Parameters
    ----------
    sample, control : ndarray
        Independent pairs along `axis`. Where any is not finite, all samples are returned as they are.
    expected : ndarray
        Mean of the control's distribution, without `axis`.
    axis : int
        Where they lie.

    Returns
    -------
    ndarray
        Of the shape of `sample`.

    Notes
    -----
    With :math:`b_{-r}` from all pairs but the r-th, :math:`\ell_r - b_{-r} (y_r - E y)` has mean
    :math:`E \ell`, since :math:`b_{-r}` is independent of :math:`y_r`. Of fewer than 4 pairs, too few to tell, the
    coefficient is 0. It is shrunk by max(0, 1 - 1 / F), F the F statistic of the regression. On control variates see
    Asmussen and Glynn (2007), Stochastic Simulation, section V.2.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=100)
    >>> x = 2 + 3 * y + 0.01 * rng.normal(size=100)
    >>> mean, stderr = mean_and_stderr(controlled(x, y, np.zeros(())))
    >>> bool(abs(mean - 2) < 0.004), bool(stderr < 0.0015)
    (True, True)
    """
    x, y = np.moveaxis(sample, axis, -1), np.moveaxis(control, axis, -1)
    n = x.shape[-1]
    if n < _FEWEST_PAIRS:
        return sample
    sound = np.isfinite(x).all(-1) & np.isfinite(y).all(-1) & np.isfinite(expected)
    x_safe = np.where(sound[..., np.newaxis], x, 0.0)
    y_safe = np.where(sound[..., np.newaxis], y, 0.0)
    dx, dy = (a - a.mean(-1, keepdims=True) for a in (x_safe, y_safe))
    # Sums of products over all but one: leaving out r takes away n / (n - 1) of its own product.
    without = n / (n - 1)
    whole = [(a * b).sum(-1, keepdims=True) for a, b in ((dx, dx), (dy, dy), (dx, dy))]
    xx, yy, xy = (total - without * a * b for total, (a, b) in zip(whole, ((dx, dx), (dy, dy), (dx, dy)), strict=True))
    # Where r is all but the whole of a sum, what is left of it is rounding: there the others are summed by themselves.
    lost = (xx < _CANCELLED * whole[0]) | (yy < _CANCELLED * whole[1])
    if lost.any():
        xx[lost], yy[lost], xy[lost] = _sums_of_others(x_safe, y_safe, lost)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = xy / yy
        rest = np.maximum(xx - slope * xy, 0.0)
        keep = 1.0 - rest / ((n - 3) * slope * xy)  # 1 - 1 / F, of n - 1 pairs with a slope and a mean
    b = np.where(np.isfinite(slope * keep), np.maximum(keep, 0.0) * slope, 0.0)
    target = np.where(sound, expected, 0.0)[..., np.newaxis]
    return np.moveaxis(np.where(sound[..., np.newaxis], x_safe - b * (y_safe - target), x), -1, axis)


def _sums_of_others(x: Array, y: Array, which: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
    """Sums of products about their means over all but r, along the last axis, at every r in `which`."""
    n = x.shape[-1]
    row, r = np.nonzero(which.reshape(-1, n))
    others = np.arange(n) != r[:, np.newaxis]
    dx, dy = (a.reshape(-1, n)[row][others].reshape(-1, n - 1) for a in (x, y))
    dx, dy = (a - a.mean(-1, keepdims=True) for a in (dx, dy))
    return (dx * dx).sum(-1), (dy * dy).sum(-1), (dx * dy).sum(-1)


_FEWEST_PAIRS = 4

_CANCELLED = 1e-8
"""A difference of sums that is smaller than this share of them has lost half of its digits."""
