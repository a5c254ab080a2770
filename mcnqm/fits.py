"""Fits of steps and rates against batch size: small-batch regime, slope, trade-off. Knows nothing of optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from mcnqm.domains import nonnegative, positive, real_array
from mcnqm.errors import ParameterError

__all__ = ["Slope", "Tradeoff", "log_slope", "small_batch_regime", "tradeoff"]

Array = NDArray[np.float64]

_FEWEST = 3
"""Points without which there is no regime, no slope and no trade-off."""

_FLOOR = 1e-8
"""Relative error that every value has at least: that of the solver."""

_UNKNOWN = 7.0
"""A limit is not known if its interval reaches further than a factor exp(7), about a thousand, either way."""


class Slope(NamedTuple):
    """Logarithmic slope with its 95 % interval; all NaN where there are too few points."""

    slope: float
    slope_low: float
    slope_high: float


class Tradeoff(NamedTuple):
    """Limits of the trade-off between steps and examples, each with its 95 % interval.

    `S_min` in steps, `E_min` in examples, `B_crit` in examples per step. `misfit` is the relative scatter about
    the curve that the stated errors leave unexplained, per point: 0.05 says that steps lie 5 % off it.
    """

    S_min: float
    S_min_low: float
    S_min_high: float
    E_min: float
    E_min_low: float
    E_min_high: float
    B_crit: float
    B_crit_low: float
    B_crit_high: float
    misfit: float


def small_batch_regime(
    batch_size: Any, steps: Any, steps_stderr: Any = None, tolerance: float = 0.05
) -> NDArray[np.bool_]:
    r"""Batch sizes at which twice the batch takes half the steps.

    With :math:`E = B S` the examples used, :math:`\sigma` their relative standard error, and :math:`E_0` the
    geometric mean over the three smallest batch sizes, the regime is the leading run of batch sizes with

    .. math:: |\ln (E / E_0)| \le \ln(1 + \text{tolerance}) + 2 \sqrt{\sigma^2 + \sigma_0^2}

    Parameters
    ----------
    batch_size : array_like, shape (n,)
        Examples per step, > 0, in any order.
    steps : array_like, shape (n,)
        Steps to target, > 0. Points at which they or their error are not finite count as not measured.
    steps_stderr : array_like, shape (n,), optional
        Their standard errors, >= 0. Without them steps count as exact.
    tolerance : float
        Relative departure from perfect scaling that is allowed, > 0.

    Returns
    -------
    ndarray of bool, shape (n,)
        All False if fewer than three batch sizes belong.

    Raises
    ------
    ParameterError
        If shapes differ, a batch size is repeated or a value is out of range.

    Notes
    -----
    Both sides count: momentum first uses fewer examples as the batch grows, and that is not perfect scaling
    either. On the trade-off of `tradeoff`, a tolerance of 0.05 stops near B = B_crit / 20. The run ends at the
    first batch size outside, whatever follows, so that a crossing at large batches does not count; and as a
    point is outside only if its error cannot explain it, noise rarely ends the run early, while too much of it
    admits one octave more (the departure doubles with every octave).

    Examples
    --------
    >>> batch = 2.0 ** np.arange(8)
    >>> small_batch_regime(batch, 10 + 1000 / batch, 0 * batch).astype(int)
    array([1, 1, 1, 0, 0, 0, 0, 0])
    """
    positive.check("tolerance", tolerance)
    batch, value, stderr, usable = _points(batch_size, steps, steps_stderr, "steps")
    regime = np.zeros(batch.size, dtype=np.bool_)
    order = np.flatnonzero(usable)[np.argsort(batch[usable])]
    if order.size < _FEWEST:
        return regime
    log_examples = np.log(batch[order]) + np.log(value[order])
    error = stderr[order] / value[order]
    reference = log_examples[:_FEWEST].mean()
    reference_error = np.sqrt(np.sum(error[:_FEWEST] ** 2)) / _FEWEST
    allowed = np.log1p(tolerance) + 2.0 * np.hypot(error, reference_error)
    inside = np.abs(log_examples - reference) <= allowed
    run = order[np.logical_and.accumulate(inside)]
    if run.size >= _FEWEST:
        regime[run] = True
    return regime


def log_slope(
    batch_size: Any,
    value: Any,
    value_stderr: Any = None,
    mask: Any = None,
    *,
    first_order: bool = True,
    level: float = 0.95,
) -> Slope:
    r"""Slope of log value against log batch size in the limit of small batches, with an interval.

    Weighted least squares of

    .. math:: \ln y = a + s \ln B + k \, B

    where :math:`k B` is the leading departure from a power law. The best rate of McCandlish et al. (2018),
    :math:`\epsilon = \epsilon_\text{max} / (1 + B_\text{noise} / B)`, has just this form at small B, with
    s = 1 and k = -1/B_noise.

    Parameters
    ----------
    batch_size : array_like, shape (n,)
        Examples per step, > 0.
    value : array_like, shape (n,)
        Such as tuned learning rates, > 0. Points at which they or their error are not finite are left out.
    value_stderr : array_like, shape (n,), optional
        Their standard errors, >= 0. Without them, relative errors are taken to be alike and the residuals say how
        large: the interval is that of ordinary least squares.
    mask : array_like of bool, shape (n,), optional
        The points to use, such as from `small_batch_regime`.
    first_order : bool
        False fits a straight line, k = 0: about half as wide an interval, about a slope averaged over the regime.
    level : float
        Probability that the interval holds the slope, in (0, 1).

    Returns
    -------
    Slope
        ``slope``, ``slope_low``, ``slope_high``; NaN with fewer than three points. Without errors and with as many
        points as parameters nothing is known of the slope's error, and the interval is infinite.

    Raises
    ------
    ParameterError
        If shapes differ, a batch size is repeated or a value is out of range.

    Notes
    -----
    Relative errors stand for errors of the logarithm. Where the residuals scatter more than they say, a
    relative error common to all points is added in quadrature until chi-square equals its degrees of freedom
    (Paule and Mandel 1982), and the interval uses Student's t with these. For equal errors this is the usual
    inflation by sqrt(chi-square / freedom); for unequal ones it does not let a point with an error by chance
    too small dominate. Where they scatter less, the errors are believed and the interval is the normal one.
    True errors give a coverage of 0.95 to 0.98. Errors stated three times too small still give 0.94 to 0.96 with
    two or more degrees of freedom, but about 0.85 with one, which cannot tell; errors that were themselves
    estimated from 8 replicates give 0.92 to 0.97, from 4 replicates 0.90 to 0.95 (measured, 1000 data sets each).

    Why k: the tuned rate of SGD bends below its power law already inside the regime. On the power law with
    d = 1000 and a tolerance of 5 %, where theory says 1, a straight line through exact rates has slope 0.992 for
    SGD and 0.991 for momentum 0.9; with k they are 1.0005 and 1.0009.

    References
    ----------
    McCandlish, Kaplan, Amodei et al. (2018), arXiv:1812.06162, section 2.2.
    Paule and Mandel (1982), J. Res. Natl. Bur. Stand. 87, 377.

    Examples
    --------
    >>> batch = 2.0 ** np.arange(7)
    >>> rate = 3e-3 * batch / (1 + batch / 1000)
    >>> found = log_slope(batch, rate, 0.01 * rate)
    >>> [round(bound, 3) for bound in found]
    [1.0, 0.989, 1.011]
    """
    if not 0.0 < level < 1.0:
        raise ParameterError("level", level, "be between 0 and 1")
    batch, y, stderr, usable = _points(batch_size, value, value_stderr, "value")
    if mask is not None:
        usable = usable & _boolean("mask", mask, batch.shape)
    if np.count_nonzero(usable) < _FEWEST:
        return Slope(np.nan, np.nan, np.nan)
    batch, y, stderr = batch[usable], y[usable], stderr[usable]
    x = np.log(batch) - np.log(batch).mean()
    columns = [np.ones_like(x), x, batch / batch.max()][: 3 if first_order else 2]
    design = np.stack(columns, axis=1)
    fit = _least_squares(lambda p: (design @ p, design), np.zeros(len(columns)), np.log(y), stderr / y, level=level)
    if value_stderr is None and y.size == len(columns):
        return Slope(float(fit.parameters[1]), -np.inf, np.inf)
    half = fit.quantile * np.sqrt(fit.covariance[1, 1])
    slope = float(fit.parameters[1])
    return Slope(slope, float(slope - half), float(slope + half))


def tradeoff(batch_size: Any, steps: Any, steps_stderr: Any = None) -> Tradeoff:
    r"""Fit the trade-off between steps and examples of McCandlish et al. (2018).

    .. math:: \left(\frac{S}{S_\text{min}} - 1\right) \left(\frac{E}{E_\text{min}} - 1\right) = 1,
        \qquad E = B S, \qquad B_\text{crit} = \frac{E_\text{min}}{S_\text{min}}

    Multiplied out, :math:`S E = S E_\text{min} + E S_\text{min}`; with E = B S and divided by E,

    .. math:: S(B) = S_\text{min} + E_\text{min} / B

    exactly. This is fitted in ln S by weighted least squares over ln S_min and ln E_min, so both are > 0, every
    batch size counts by its relative error, and intervals are symmetric in the logarithm.

    Parameters
    ----------
    batch_size : array_like, shape (n,)
        Examples per step, > 0.
    steps : array_like, shape (n,)
        Steps to target, > 0. Points at which they or their error are not finite are left out.
    steps_stderr : array_like, shape (n,), optional
        Their standard errors, >= 0. Without them, relative errors are taken to be alike and the residuals say how
        large.

    Returns
    -------
    Tradeoff
        ``S_min``, ``E_min``, ``B_crit``, each with ``_low`` and ``_high``, and ``misfit``; NaN with fewer than
        three points. A limit that the batch sizes do not approach, so that its interval reaches beyond a factor
        of a thousand, is NaN with an interval from 0 to inf, and so is B_crit.

    Raises
    ------
    ParameterError
        If shapes differ, a batch size is repeated or a value is out of range.

    Notes
    -----
    The curve is a model: it holds for a learning rate that is optimal at each step, not for a fixed rate tuned
    for one target. Steps that lie off it by more than their errors show in ``misfit``, and widen the intervals
    as in `log_slope`. As the departures of neighbouring batch sizes are alike, which no interval from scatter
    can know, read intervals with a large misfit as rough.

    References
    ----------
    McCandlish, Kaplan, Amodei et al. (2018), arXiv:1812.06162, section 2.3 and appendix D.

    Examples
    --------
    >>> batch = 2.0 ** np.arange(12)
    >>> found = tradeoff(batch, 50 + 6400 / batch, 0.01 * (50 + 6400 / batch))
    >>> round(found.S_min, 6), round(found.E_min, 6), round(found.B_crit, 6)
    (50.0, 6400.0, 128.0)
    >>> round(found.B_crit_low, 1), round(found.B_crit_high, 1)
    (125.9, 130.1)
    """
    batch, value, stderr, usable = _points(batch_size, steps, steps_stderr, "steps")
    if np.count_nonzero(usable) < _FEWEST:
        return Tradeoff(*[np.nan] * len(Tradeoff._fields))
    batch, value, stderr = batch[usable], value[usable], stderr[usable]

    def curve(parameters: Array) -> tuple[Array, Array]:
        parts = np.stack([np.full(batch.size, parameters[0]), parameters[1] - np.log(batch)], axis=1)
        log_steps = np.logaddexp(parts[:, 0], parts[:, 1])
        return log_steps, np.exp(parts - log_steps[:, None])

    # No best curve has a limit above all points, and one below exp(-35) of the least is 0 in float64.
    examples = batch * value
    start = np.log([value.min(), examples.min()]) - np.log(2.0)
    bounds = start - 35.0, np.log([value.max(), examples.max()]) + 1.0
    fit = _least_squares(curve, start, np.log(value), stderr / value, bounds)

    def limits(*direction: float) -> tuple[float, float, float]:
        weights = np.array(direction)
        half = fit.quantile * np.sqrt(weights @ fit.covariance @ weights)
        if half > _UNKNOWN:
            return np.nan, 0.0, np.inf
        with np.errstate(over="ignore", under="ignore"):
            value, low, high = np.exp(weights @ fit.parameters + np.array([0.0, -half, half]))
        return float(value), float(low), float(high)

    return Tradeoff(*limits(1.0, 0.0), *limits(0.0, 1.0), *limits(-1.0, 1.0), misfit=fit.scatter)


class _Fit(NamedTuple):
    parameters: Array
    covariance: Array
    scatter: float
    """Error common to all points that was added in quadrature to the stated ones."""
    quantile: float
    """Half-width of the interval in standard errors."""


def _least_squares(
    model: Callable[[Array], tuple[Array, Array]],
    start: Array,
    y: Array,
    stderr: Array,
    bounds: tuple[Any, Any] = (-np.inf, np.inf),
    level: float = 0.95,
) -> _Fit:
    """Weighted least squares of a model that returns its values and its Jacobian, with scatter added as needed."""
    freedom = y.size - start.size

    def solve(scatter: float, begin: Array) -> tuple[Array, float]:
        error = np.sqrt(stderr**2 + scatter**2 + _FLOOR**2)

        def residuals(parameters: Array) -> Array:
            return (model(parameters)[0] - y) / error

        def jacobian(parameters: Array) -> Array:
            return model(parameters)[1] / error[:, None]

        found = optimize.least_squares(
            residuals, begin, jac=jacobian, bounds=bounds, xtol=1e-13, ftol=1e-13, gtol=1e-13, x_scale="jac"
        )
        return found.x, 2.0 * float(found.cost)

    def answer(parameters: Array, scatter: float, quantile: float) -> _Fit:
        error = np.sqrt(stderr**2 + scatter**2 + _FLOOR**2)
        return _Fit(parameters, _covariance(model(parameters)[1] / error[:, None]), scatter, quantile)

    parameters, chi_square = solve(0.0, start)
    if freedom < 1 or chi_square <= freedom:
        return answer(parameters, 0.0, float(special.ndtri(0.5 + 0.5 * level)))
    # Chi-square falls as the scatter grows; at this one it is at most `freedom`, even without fitting again.
    most = 1.001 * float(np.sqrt(np.sum((model(parameters)[0] - y) ** 2) / freedom))
    scatter = float(optimize.brentq(lambda t: solve(t, parameters)[1] - freedom, 0.0, most, xtol=1e-12, rtol=1e-9))
    return answer(solve(scatter, parameters)[0], scatter, float(special.stdtrit(freedom, 0.5 + 0.5 * level)))


def _covariance(jacobian: Array) -> Array:
    """Covariance (JᵀJ)⁻¹ of the parameters, finite but huge for one that the data do not determine."""
    scale = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-60)
    _, r = np.linalg.qr(jacobian / scale)
    r[np.diag_indices_from(r)] = np.where(np.abs(np.diag(r)) > 1e-12, np.diag(r), 1e-12)
    half = np.linalg.inv(r) / scale[:, None]
    covariance: Array = half @ half.T
    return covariance


def _points(batch_size: Any, value: Any, stderr: Any, name: str) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """Checked arrays, and which of the points can be used."""
    batch = positive.check("batch_size", batch_size)
    if batch.ndim != 1:
        raise ParameterError("batch_size", f"shape {batch.shape}", "be one-dimensional")
    if np.unique(batch).size < batch.size:
        raise ParameterError("batch_size", batch.tolist(), "hold each value once")
    errors = np.zeros(batch.shape) if stderr is None else real_array(f"{name}_stderr", stderr)
    arrays = [real_array(name, value), errors]
    for label, array in zip((name, f"{name}_stderr"), arrays, strict=True):
        if array.shape != batch.shape:
            raise ParameterError(label, f"shape {array.shape}", f"have the shape of batch_size, {batch.shape}")
    usable: NDArray[np.bool_] = np.isfinite(arrays[0]) & np.isfinite(arrays[1])
    if usable.any():
        positive.check(name, arrays[0][usable])
        nonnegative.check(f"{name}_stderr", arrays[1][usable])
    return batch, arrays[0], arrays[1], usable


def _boolean(name: str, mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.shape != shape:
        raise ParameterError(name, mask, f"be boolean, of the shape of batch_size, {shape}")
    return array
