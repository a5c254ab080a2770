"""The law of the loss of one trajectory, for optimizers that are linear in Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import special

from mcnqm.analytic._labels import dataset
from mcnqm.analytic.transient import moments
from mcnqm.domains import Domain
from mcnqm.errors import ParameterError
from mcnqm.problems import NoisyQuadratic, check_problem, is_gaussian
from mcnqm.provenance import recorded
from mcnqm.record import MAX_STEPS, recorded_steps
from mcnqm.settings import settings_of

__all__ = ["loss_law"]

Array = NDArray[np.float64]

_TAIL = 1e-10
"""Probability beyond the range on which the law is inverted, on either side."""

_SMALL = 1e-10
"""Where the characteristic function has become so small, the sum over frequencies ends."""

_MOST = 2**14
"""Most frequencies, where the characteristic function falls slowly."""

_CHUNK = 2**20
"""Complex numbers at a time."""

_BISECTIONS, _CORRECTIONS = 60, 3
"""Halvings of the range, where that is cheap, and Newton steps between two places of a fast Fourier transform."""

_PLACES = 2**16
"""Of the Fourier transform, at least."""

_DIFFERENCE = 5e-3
"""Half-width of the difference that stands for the density, in standard deviations or parts of the loss."""

_probability = Domain("be in (0, 1)", lambda x: (x > 0) & (x < 1))


@recorded("mcnqm.analytic.loss_law")
def loss_law(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Any,
    steps: int,
    *,
    probability: ArrayLike = (0.05, 0.25, 0.5, 0.75, 0.95),
    record: Any = None,
    average: Any = None,
) -> xr.Dataset:
    r"""Quantiles and density of the loss of a single trajectory; exact for linear optimizers.

    Every coordinate is Gaussian, :math:`\theta_i \sim N(\mu_i, \sigma_i^2)`, and independent of the others, so the loss
    is a weighted sum of noncentral chi-squares,

    .. math::

        L = \tfrac12 \sum_i h_i \theta_i^2, \qquad
        \log \mathrm{E}\, e^{\mathrm{i} u L} = \sum_i \Big(-\tfrac12 \log(1 - \mathrm{i} u h_i \sigma_i^2)
        + \frac{\mathrm{i} u h_i \mu_i^2 / 2}{1 - \mathrm{i} u h_i \sigma_i^2}\Big).

    Parameters
    ----------
    problem : NoisyQuadratic
    optimizer : SGD
        A linear optimizer; arrays make a sweep, and hyperparameters may follow schedules.
    batch_size : Number
        Examples per step.
    steps : int
        Steps to run.
    probability : array_like, shape (n,)
        Probabilities in (0, 1) of the quantiles.
    record : array_like of int, optional
        Steps to answer for, as for `mcnqm.analytic.risk`.
    average : Number, optional
        Weight of the past in an average of the iterates, as for `mcnqm.analytic.risk`: the loss is then that of the
        average.

    Returns
    -------
    xarray.Dataset
        Over (\*sweep, step): ``risk``, the mean, and ``loss_std``, the standard deviation, in units of the loss; over
        (\*sweep, step, probability): ``loss``, the quantiles, and ``density`` of the loss there, in 1 / loss (inf
        where the loss is certain). NaN where the risk overflows.

    Raises
    ------
    ParameterError
        If the optimizer is not linear, or a value is out of range.

    Notes
    -----
    The characteristic function is inverted by Gil-Pelaez's formula as a sum over equidistant frequencies (Davies 1973).
    Probabilities are right to about 1e-8 where some ten coordinates make up the loss. Where one makes up nearly all of
    it (others below a hundredth), to 1e-5 from the 25 % quantile on and to 1e-3 below it; a single one is in closed
    form. The density is a difference of probabilities over 0.5 % of a standard deviation (or of the loss, if that is
    less) either way.

    References
    ----------
    J. Gil-Pelaez, "Note on the inversion theorem", Biometrika 38, 1951.
    R. B. Davies, "Numerical inversion of a characteristic function", Biometrika 60, 1973.

    Examples
    --------
    Of one coordinate at its start the loss is half a chi-square of one degree of freedom, whose median is 0.4549:

    >>> from mcnqm import SGD, NoisyQuadratic, analytic
    >>> law = analytic.loss_law(NoisyQuadratic([1.0]), SGD(lr=0.1), 4, steps=0, probability=[0.5])
    >>> law.loss.values.round(4), law.risk.values
    (array([[0.2275]]), array([0.5]))
    """
    check_problem(problem)
    if not is_gaussian(problem):
        allowed = "have Gaussian noise whose variance does not depend on θ: of others only moments are known"
        raise ParameterError("problem", problem, allowed)
    levels = np.atleast_1d(_probability.check("probability", probability))
    if levels.ndim != 1:
        raise ParameterError("probability", f"shape {levels.shape}", "be one-dimensional")
    at = recorded_steps(steps, record, limit=MAX_STEPS)
    # One coordinate for each entry: those that share it have the same law.
    single = NoisyQuadratic(problem.curvature, problem.noise, problem.initial_mean, problem.initial_std)
    found = moments(single, optimizer, batch_size, int(at[-1]), record=at, average=average)
    name = "theta" if average is None else "average"
    half = 0.5 * problem.curvature
    count = problem.multiplicity.astype(np.float64)
    mean, variance = (found[f"{name}_{part}"].values for part in ("mean", "variance"))
    shape = mean.shape[:-1]
    flat_mean, flat_variance = (values.reshape(-1, problem.size) for values in (mean, variance))
    summary = np.full((flat_mean.shape[0], 2), np.nan)
    quantile, density = (np.full((flat_mean.shape[0], levels.size), np.nan) for _ in range(2))
    for k in range(flat_mean.shape[0]):
        with np.errstate(over="ignore", invalid="ignore"):
            sum_ = _ChiSquares(half * flat_variance[k], half * flat_mean[k] ** 2, count)
        summary[k] = sum_.mean, sum_.std
        if np.isfinite(sum_.mean) and np.isfinite(sum_.std):
            quantile[k], density[k] = sum_.quantiles(levels)
    averaged = {} if average is None else {"average": average}
    settings = settings_of(optimizer, batch_size, schedules=True, **averaged)
    dims = (*settings.dims, "step")
    data = {
        "risk": xr.DataArray(
            summary[:, 0].reshape(shape), dims=dims, attrs={"units": "loss", "long_name": "mean loss"}
        ),
        "loss_std": xr.DataArray(summary[:, 1].reshape(shape), dims=dims, attrs={"units": "loss"}),
        "loss": xr.DataArray(
            quantile.reshape(*shape, levels.size),
            dims=(*dims, "probability"),
            attrs={"units": "loss", "long_name": "quantile of the loss"},
        ),
        "density": xr.DataArray(
            density.reshape(*shape, levels.size), dims=(*dims, "probability"), attrs={"units": "1/loss"}
        ),
    }
    return dataset(data, settings, at).assign_coords(probability=levels)


class _ChiSquares:
    """Sum over j of n_j independent (sqrt(w_j) z + sqrt(q_j))²."""

    def __init__(self, weight: Array, shift: Array, count: Array) -> None:
        self._w, self._q, self._n = weight, shift, count
        self.mean = float(np.sum(count * (weight + shift)))
        if self.mean > 0.0:
            a, b = weight / self.mean, shift / self.mean
            self.std = self.mean * float(np.sqrt(np.sum(count * a * (2.0 * a + 4.0 * b))))
        else:
            self.std = self.mean

    def quantiles(self, levels: Array) -> tuple[Array, Array]:
        """Quantiles, and the density at each."""
        if self.std <= 1e-9 * self.mean:
            return np.full(levels.size, self.mean), np.full(levels.size, np.inf)
        if abs(self.mean - 1.0) > 1e-9:  # so that powers neither overflow nor underflow
            quantile, density = _ChiSquares(self._w / self.mean, self._q / self.mean, self._n).quantiles(levels)
            return self.mean * quantile, density / self.mean
        low, high = self._range()
        below: Callable[[Array], Array]
        if np.sum(self._n[self._w > 0]) == 1:
            below = self._one_normal
            begin, end = np.full(levels.size, low), np.full(levels.size, high)
            for _ in range(_BISECTIONS):
                middle = 0.5 * (begin + end)
                less = below(middle) < levels
                begin, end = np.where(less, middle, begin), np.where(less, end, middle)
            found = 0.5 * (begin + end)
        else:
            frequencies, values = self._transform(high - low)
            below = partial(_probability_below, u=frequencies, transform=values)
            begin, end, slope = _brackets(levels, low, high, frequencies, values)
            found = 0.5 * (begin + end)
            for _ in range(_CORRECTIONS):
                found = np.clip(found + (levels - below(found)) / slope, begin, end)
        width = _DIFFERENCE * np.maximum(np.minimum(self.std, found), 1e-3 * self.std)
        ends = [below(found + sign * width) for sign in (1, -1)]
        return found, np.maximum(ends[0] - ends[1], 0.0) / (2.0 * width)

    def _one_normal(self, x: Array) -> Array:
        """Probability below x where only one coordinate is random, whose characteristic function falls too slowly."""
        (which,) = np.flatnonzero(self._w > 0)
        certain = np.sum((self._n * self._q)[self._w == 0])
        root, spread = np.sqrt(np.maximum(x - certain, 0.0)), np.sqrt(self._w[which])
        shift = np.sqrt(self._q[which])
        return np.asarray(special.ndtr((root - shift) / spread) - special.ndtr((-root - shift) / spread))

    def _range(self) -> tuple[float, float]:
        """Where all but `_TAIL` of the probability lies, by Chernoff's bound on either side."""
        largest = float(self._w.max())
        rise = np.geomspace(1e-3, 0.98, 60) * 0.5 / largest
        high = float(np.min((self._log_moment(rise) - np.log(_TAIL)) / rise))
        fall = np.geomspace(1e-3, 1e6, 120) * 0.5 / largest
        low = float(np.max((np.log(_TAIL) - self._log_moment(-fall)) / fall))
        return max(low, 0.0), high

    def _log_moment(self, s: Array) -> Array:
        """Logarithm of E exp(s L) for real s below half of 1 / w."""
        rest = 1.0 - 2.0 * np.multiply.outer(s, self._w)
        return np.asarray((self._n * (-0.5 * np.log(rest) + s[:, np.newaxis] * self._q / rest)).sum(axis=-1))

    def _log_size(self, u: float) -> float:
        """Logarithm of the size of the characteristic function."""
        square = (2.0 * u * self._w) ** 2
        return float((self._n * (-0.25 * np.log1p(square) - 2.0 * u * u * self._w * self._q / (1.0 + square))).sum())

    def _transform(self, period: float) -> tuple[Array, NDArray[np.complex128]]:
        """Frequencies and the characteristic function there, as far as it is not negligible."""
        step = 2.0 * np.pi / period
        count = 64
        while count < _MOST and self._log_size(count * step) > np.log(_SMALL):
            count *= 2
        u = (np.arange(count) + 0.5) * step
        # The smallest weights are Gaussian together, as far as their third cumulants do not matter at any frequency.
        order = np.argsort(self._w)
        w, q, n = self._w[order], self._q[order], self._n[order]
        third = np.cumsum(n * w**2 * (8.0 * w + 24.0 * q)) * u[-1] ** 3 / 6.0
        cut = int(np.searchsorted(third, _SMALL))
        mean = float(np.sum(n[:cut] * (w[:cut] + q[:cut])))
        variance = float(np.sum(n[:cut] * w[:cut] * (2.0 * w[:cut] + 4.0 * q[:cut])))
        log = 1j * u * mean - 0.5 * u**2 * variance
        w, q, n = w[cut:], q[cut:], n[cut:]
        rows = max(1, _CHUNK // max(w.size, 1))
        for begin in range(0, count, rows):
            part = slice(begin, begin + rows)
            rest = 1.0 - 2.0j * np.multiply.outer(u[part], w)
            log[part] += (n * (-0.5 * np.log(rest) + 1j * u[part, np.newaxis] * q / rest)).sum(axis=-1)
        return np.asarray(u, dtype=np.float64), np.asarray(np.exp(log), dtype=np.complex128)


def _brackets(
    levels: Array, low: float, high: float, u: Array, transform: NDArray[np.complex128]
) -> tuple[Array, Array, Array]:
    """Between which two of very many equidistant losses each quantile lies, and the density there."""
    count = max(4 * u.size, _PLACES)
    turned = np.exp(-1j * u * low) * (transform / (np.arange(u.size) + 0.5))
    sums = np.exp(-1j * np.pi * np.arange(count) / count) * np.fft.fft(turned, count)
    below = np.maximum.accumulate(0.5 - sums.imag / np.pi)
    after = np.clip(np.searchsorted(below, levels), 1, count - 1)
    gap = (high - low) / count
    begin = np.asarray(low + gap * (after - 1.0), dtype=np.float64)
    slope = np.maximum(below[after] - below[after - 1], 1e-12) / gap
    return begin, begin + gap, slope


def _probability_below(x: Array, u: Array, transform: NDArray[np.complex128]) -> Array:
    """Gil-Pelaez's formula at equidistant frequencies."""
    rank = np.arange(u.size) + 0.5
    turned = np.exp(-1j * np.multiply.outer(x, u)) * (transform / rank)
    return np.asarray(0.5 - turned.imag.sum(axis=-1) / np.pi)
