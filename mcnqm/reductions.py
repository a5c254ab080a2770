"""Very many losses reduced as they come: moments, quantiles and histograms, without keeping any.

Everything here takes losses of shape (settings, trajectories, records), a portion of the trajectories at a time, and
keeps what does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcnqm.domains import real_array
from mcnqm.errors import ParameterError
from mcnqm.memory import check_memory
from mcnqm.statistics import interval_of_moments

__all__ = ["LEVELS", "RESOLUTION", "Histogram", "Moments", "QuantileSketch", "Reduction", "checked_reduction"]

Array = NDArray[np.float64]

LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Quantiles of ``reduce="quantiles"``."""

RESOLUTION = 2.0**-11
"""Largest relative error of a quantile."""

_BITS = 10
_SHIFT = 52 - _BITS
_INFINITE = 0x7FF << _BITS
_WIDE = 2**18
"""Bins that are counted in one array, occupied or not: a range of 77 decades."""

_USUAL = 2**12
"""Bins that a distribution of losses occupies, by and large."""


class Reduction(NamedTuple):
    """What to reduce losses to.

    Attributes
    ----------
    levels : ndarray or None
        Quantiles.
    edges : ndarray or None
        Of a histogram.
    """

    levels: Array | None
    edges: Array | None

    def to_dict(self) -> dict[str, list[float]]:
        """As it can be given again."""
        parts = {"quantiles": self.levels, "histogram": self.edges}
        return {name: part.tolist() for name, part in parts.items() if part is not None}

    def coords(self) -> dict[str, Any]:
        """Coordinates of a result."""
        found: dict[str, Any] = {}
        if self.levels is not None:
            found["quantile"] = self.levels
        if self.edges is not None:
            found |= {
                "bin_low": ("bin", self.edges[:-1], {"units": "loss"}),
                "bin_high": ("bin", self.edges[1:], {"units": "loss"}),
            }
        return found

    def check_room(self, rows: int, trajectories: int) -> None:
        """Raise `ParameterError` if what is kept of so many settings times records will not fit into memory."""
        bins = 0 if self.levels is None else min(trajectories, _USUAL)
        bins += 0 if self.edges is None else self.edges.size
        check_memory(24.0 * rows * bins, f"distributions of {rows} settings x records", "record", rows)


def checked_reduction(reduce: Any) -> Reduction:
    """Read ``reduce=``: ``"quantiles"``, or a mapping of ``"quantiles"`` to levels, ``"histogram"`` to edges, or both.

    Raises
    ------
    ParameterError
        If it is neither, levels are not increasing numbers in [0, 1], or edges not increasing numbers.

    Examples
    --------
    >>> checked_reduction({"quantiles": [0.1, 0.9]}).levels
    array([0.1, 0.9])
    >>> checked_reduction({"quantiles": [0.1, 1.9]})
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: reduce must have increasing quantiles in [0, 1], got [0.1, 1.9]
    """
    if isinstance(reduce, str) and reduce == "quantiles":
        return Reduction(np.array(LEVELS), None)
    if not isinstance(reduce, Mapping) or not reduce or not set(reduce) <= {"quantiles", "histogram"}:
        allowed = 'be "quantiles", or a dict of "quantiles" to levels, "histogram" to edges, or both'
        raise ParameterError("reduce", reduce, allowed)
    levels = edges = None
    if "quantiles" in reduce:
        allowed = "have increasing quantiles in [0, 1]"
        levels = _increasing(reduce["quantiles"], allowed, 1)
        if levels[0] < 0 or levels[-1] > 1:
            raise ParameterError("reduce", reduce["quantiles"], allowed)
    if "histogram" in reduce:
        edges = _increasing(reduce["histogram"], "have at least two increasing edges of a histogram", 2)
    return Reduction(levels, edges)


def _increasing(value: ArrayLike, allowed: str, least: int) -> Array:
    array = np.atleast_1d(real_array("reduce", value, allowed))
    if array.ndim != 1 or array.size < least or not (np.diff(array) > 0).all() or np.isnan(array).any():
        raise ParameterError("reduce", value, allowed)
    return array


class Moments:
    """Mean and central moments up to the fourth, of portions merged one after another.

    Notes
    -----
    The formulas of Chan, Golub and LeVeque (1979) and, for the third and fourth, of Pébay (2008).

    Examples
    --------
    >>> x = np.random.default_rng(0).gamma(2.0, size=(1, 1000, 1))
    >>> moments = Moments()
    >>> for part in np.array_split(x, 7, axis=1):
    ...     moments.add(part)
    >>> np.allclose(moments.mean, x.mean()), np.allclose(moments.mean_and_stderr()[1], x.std(ddof=1) / 1000**0.5)
    (True, True)
    """

    def __init__(self) -> None:
        self.n = 0
        self.infinite: NDArray[np.int64] = np.zeros((), np.int64)
        """How many are not finite."""
        self.mean: Array = np.zeros(())
        self._second: Array = np.zeros(())
        self._third: Array = np.zeros(())
        self._fourth: Array = np.zeros(())

    def add(self, loss: Array) -> None:
        """Count these too."""
        finite = np.isfinite(loss)
        self.infinite = self.infinite + (~finite).sum(axis=1)
        sound = np.where(finite, loss, 0.0)  # where any is infinite, nothing of this is used
        n, m = self.n, loss.shape[1]
        mean = sound.mean(axis=1)
        off = sound - mean[:, np.newaxis]
        square = off * off
        second, third, fourth = square.sum(axis=1), (square * off).sum(axis=1), (square * square).sum(axis=1)
        total = n + m
        d = mean - self.mean
        both = n * m / total
        self._fourth = (
            (self._fourth + fourth + d**4 * both * (n * n - n * m + m * m) / total**2)
            + 6.0 * (d / total) ** 2 * (n * n * second + m * m * self._second)
            + 4.0 * d / total * (n * third - m * self._third)
        )
        self._third = (
            (self._third + third + d**3 * both * (n - m) / total)
            + 3.0 * d / total * (n * second - m * self._second)
        )  # fmt: skip
        self._second = self._second + second + d * d * both
        self.mean = self.mean + d * (m / total)
        self.n = total

    def mean_and_stderr(self) -> tuple[Array, Array]:
        """As `mcnqm.statistics.mean_and_stderr` of all."""
        lost = self.infinite > 0
        spread = np.sqrt(self._second / max(self.n - 1, 1)) if self.n > 1 else np.full_like(self.mean, np.nan)
        return np.where(lost, np.inf, self.mean), np.where(lost, np.inf, spread / np.sqrt(self.n))

    def interval(self) -> tuple[Array, Array]:
        """As `mcnqm.statistics.mean_interval` of all."""
        lost = self.infinite > 0
        if self.n == 1:
            unknown = np.where(lost, np.inf, np.nan)
            return unknown, unknown
        spread = np.sqrt(self._second / (self.n - 1))
        cubes = np.divide(self._third, spread**3, out=np.zeros_like(spread), where=spread > 1e-14 * self.mean)
        low, high = interval_of_moments(self.n, self.mean, spread, cubes)
        return np.where(lost, np.inf, low), np.where(lost, np.inf, high)

    def effective_number(self) -> Array:
        """As `mcnqm.statistics.effective_number`, with distances from the mean, of all."""
        known = (self._fourth > 0) & (self.infinite == 0)
        return np.divide(self._second**2, self._fourth, out=np.full_like(self.mean, float(self.n)), where=known)


class QuantileSketch:
    """Counts of losses in bins narrow enough for quantiles: the leading bits of a float64, exact on any machine.

    A bin is 2⁻¹⁰ of its own lower edge wide or less, and its middle stands for all in it: `RESOLUTION`.

    Examples
    --------
    >>> x = np.random.default_rng(0).gamma(2.0, size=(1, 10_000, 1))
    >>> sketch = QuantileSketch()
    >>> for part in np.array_split(x, 3, axis=1):
    ...     sketch.add(part)
    >>> found, exact = sketch.quantiles(np.array([0.1, 0.5, 0.9]))[0, :, 0], np.quantile(x, [0.1, 0.5, 0.9])
    >>> bool((abs(found / exact - 1) <= RESOLUTION).all())
    True
    """

    def __init__(self) -> None:
        self._rows: list[list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = []

    def add(self, loss: Array) -> None:
        """Count these too; none NaN."""
        settings, _, records = loss.shape
        if not self._rows:
            nothing = np.empty(0, np.int64)
            self._rows = [[(nothing, nothing)] * records for _ in range(settings)]
        for row, one in zip(self._rows, loss, strict=True):
            keys = _keys(np.ascontiguousarray(one.T))
            for r in range(records):
                row[r] = _merged(row[r], keys[r])

    def quantiles(self, levels: Array) -> Array:
        """Of all, shape (settings, levels, records): as `numpy.quantile`, within `RESOLUTION`."""
        settings, records = len(self._rows), len(self._rows[0])
        out = np.empty((settings, levels.size, records))
        for i, row in enumerate(self._rows):
            for r, (keys, counts) in enumerate(row):
                below = np.cumsum(counts)
                place = levels * float(below[-1] - 1)
                low = np.floor(place)
                part = place - low
                values = _middle(keys)
                here, there = (values[np.searchsorted(below, k, side="right")] for k in (low, np.ceil(place)))
                upper = np.multiply(there, part, out=np.zeros_like(there), where=part > 0)
                out[i, :, r] = here * (1.0 - part) + upper
        return out


def _keys(loss: Array) -> NDArray[np.int64]:
    """Which bin each lies in, in the order of their sizes."""
    size = np.abs(loss).view(np.int64) >> _SHIFT
    return np.where(loss < 0, -size, size)  # about 0 lies one bin, of what is too small for full precision


def _merged(
    row: tuple[NDArray[np.int64], NDArray[np.int64]], keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bins that are occupied, in order, and their counts, with more of them."""
    lost = int(np.count_nonzero(keys >= _INFINITE))
    old, numbers = row
    if old.size and old[-1] == _INFINITE:
        old, numbers, lost = old[:-1], numbers[:-1], lost + int(numbers[-1])
    finite = keys[keys < _INFINITE]
    every = np.concatenate([old, finite])
    if every.size:
        low, high = int(every.min()), int(every.max())
        if high - low < _WIDE:  # as good as always
            total = np.bincount(finite - low, minlength=high - low + 1)
            total[old - low] += numbers
            old = np.flatnonzero(total)
            numbers = total[old]
            old = old + low
        else:
            weights = np.concatenate([numbers, np.ones(finite.size, np.int64)])
            old, place = np.unique(every, return_inverse=True)
            numbers = np.bincount(place.reshape(-1), weights=weights).astype(np.int64)
    if lost:
        old, numbers = np.append(old, _INFINITE), np.append(numbers, lost)
    return old, numbers


def _middle(keys: NDArray[np.int64]) -> Array:
    size = np.abs(keys)
    middle = ((size << _SHIFT) + (1 << (_SHIFT - 1))).view(np.float64)
    return np.sign(keys) * np.where(size >= _INFINITE, np.inf, middle)


class Histogram:
    """Counts of losses between edges; each bin without its upper edge, but for the last, as `numpy.histogram` does.

    Examples
    --------
    >>> counts = Histogram(np.array([0.0, 1.0, 2.0]))
    >>> counts.add(np.array([[[0.5], [1.0], [2.0], [2.5]]]))
    >>> counts.counts[0, :, 0]
    array([1, 2])
    """

    def __init__(self, edges: Array) -> None:
        self._edges = edges
        self.counts: NDArray[np.int64] = np.zeros((), np.int64)

    def add(self, loss: Array) -> None:
        """Count these too."""
        settings, _, records = loss.shape
        bins = self._edges.size - 1
        place = np.searchsorted(self._edges, loss, side="right") - 1
        place[loss == self._edges[-1]] = bins - 1
        row = np.arange(settings)[:, np.newaxis, np.newaxis] * records + np.arange(records)
        inside = (place >= 0) & (place < bins)
        flat = np.bincount((row * bins + place)[inside], minlength=settings * records * bins)
        self.counts = self.counts + flat.reshape(settings, records, bins).swapaxes(1, 2)
