"""Curves: functions of the step alone, which schedules scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mcnqm.errors import ParameterError

__all__ = ["FOREVER", "SHAPES", "Curve", "Function", "Joined", "Later", "Scaled", "Segments", "stretches"]

Array = NDArray[np.float64]
Steps = NDArray[np.int64]

SHAPES = ("constant", "linear", "exponential", "cosine")

FOREVER = 2**62
"""A step beyond any run."""


@runtime_checkable
class Curve(Protocol):
    """A function of the step."""

    def at(self, step: Steps) -> Array:
        """Values at steps, an int64 array of one dimension."""

    def describe(self) -> dict[str, Any]:
        """Plain numbers and words, for the configuration that results carry."""


def stretches(curve: Curve) -> tuple[Steps, NDArray[np.bool_]]:
    """Where a curve changes its ways: the end of each stretch, the last being `FOREVER`, and whether it is flat.

    A curve may know by a method of this name. One that does not may change at every step.

    Examples
    --------
    >>> from mcnqm.schedules import linear
    >>> stops, flat = stretches(linear(1.0, steps=10).curves[0])
    >>> stops[:1], flat
    (array([10]), array([False,  True]))
    """
    known: Callable[[], tuple[Steps, NDArray[np.bool_]]] | None = getattr(curve, "stretches", None)
    if known is None:
        return np.array([FOREVER], dtype=np.int64), np.array([False])
    return known()


@dataclass(frozen=True)
class Segments:
    """A curve of pieces laid end to end; the last value holds for ever.

    Attributes
    ----------
    lengths : tuple of int
        Steps of each piece, at least 1.
    first, last : tuple of float
        Value at the start of each piece, and the one that is reached as it ends.
    shapes : tuple of str
        How it goes from one to the other: ``"constant"``, ``"linear"``, ``"exponential"`` or ``"cosine"``.
    """

    lengths: tuple[int, ...]
    first: tuple[float, ...]
    last: tuple[float, ...]
    shapes: tuple[str, ...]

    @cached_property
    def _pieces(self) -> tuple[Steps, Array, Array, Array, Steps]:
        """Ends, lengths, first and last values, and shapes as numbers."""
        lengths = np.array(self.lengths, dtype=np.int64)
        kind = np.array([SHAPES.index(shape) for shape in self.shapes])
        return np.cumsum(lengths), lengths.astype(np.float64), np.array(self.first), np.array(self.last), kind

    def at(self, step: Steps) -> Array:
        """Values at steps."""
        ends, all_lengths, first, last, kinds = self._pieces
        inside = np.minimum(np.searchsorted(ends, step, side="right"), ends.size - 1)
        lengths, a, b, kind = all_lengths[inside], first[inside], last[inside], kinds[inside]
        x = np.minimum((step - (ends[inside] - lengths)) / lengths, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.select(
                [kind == 0, kind == 1, kind == 2],
                [a, a + (b - a) * x, a * (b / a) ** x],
                b + (a - b) * 0.5 * (1.0 + np.cos(np.pi * x)),
            )
        return np.where(x >= 1.0, b, values)

    def stretches(self) -> tuple[Steps, NDArray[np.bool_]]:
        """See `stretches`."""
        ends, _, first, last, kind = self._pieces
        return np.append(ends, FOREVER), np.append((first == last) | (kind == 0), True)

    def describe(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return {
            "lengths": list(self.lengths),
            "first": list(self.first),
            "last": list(self.last),
            "shapes": list(self.shapes),
        }


@dataclass(frozen=True)
class Later:
    """A curve, seen from a later step on."""

    curve: Curve
    start: int

    def at(self, step: Steps) -> Array:
        """Values at steps."""
        return self.curve.at(step + self.start)

    def stretches(self) -> tuple[Steps, NDArray[np.bool_]]:
        """See `stretches`."""
        stops, flat = stretches(self.curve)
        ahead = stops > self.start
        return np.where(stops[ahead] == FOREVER, FOREVER, stops[ahead] - self.start), flat[ahead]

    def describe(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return {"start": self.start, "curve": self.curve.describe()}


@dataclass(frozen=True)
class Scaled:
    """A curve times a number."""

    curve: Curve
    scale: float

    def at(self, step: Steps) -> Array:
        """Values at steps."""
        return self.scale * self.curve.at(step)

    def stretches(self) -> tuple[Steps, NDArray[np.bool_]]:
        """See `stretches`."""
        return stretches(self.curve)

    def describe(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return {"scale": self.scale, "curve": self.curve.describe()}


@dataclass(frozen=True)
class Function:
    """A function of the step, of which nothing else is known."""

    function: Callable[[Steps], Any]

    def at(self, step: Steps) -> Array:
        """Values at steps."""
        values = np.asarray(self.function(step), dtype=np.float64)
        if values.shape not in ((), step.shape):
            allowed = f"return one value for each of the steps it is given, shape {step.shape}"
            raise ParameterError("function", f"shape {values.shape}", allowed)
        return np.broadcast_to(values, step.shape).astype(np.float64)

    def describe(self) -> dict[str, Any]:
        """Its name."""
        function = self.function  # a ufunc has neither a qualified name nor a module in NumPy before 2.2
        name = getattr(function, "__qualname__", None) or getattr(function, "__name__", repr(function))
        module = getattr(function, "__module__", None) or type(function).__module__
        return {"function": f"{module}.{name}"}


@dataclass(frozen=True)
class Joined:
    """Curves one after another, each counting its steps from where it begins.

    Attributes
    ----------
    curves : tuple of Curve
    begins : tuple of int
        First step of each, increasing from 0.
    """

    curves: tuple[Curve, ...]
    begins: tuple[int, ...]

    def at(self, step: Steps) -> Array:
        """Values at steps."""
        which = np.searchsorted(np.array(self.begins), step, side="right") - 1
        values = np.empty(step.shape)
        for k in np.unique(which):
            values[which == k] = self.curves[k].at(step[which == k] - self.begins[k])
        return values

    def stretches(self) -> tuple[Steps, NDArray[np.bool_]]:
        """See `stretches`."""
        stops, flats = [], []
        for curve, begin, end in zip(self.curves, self.begins, (*self.begins[1:], FOREVER), strict=True):
            inner, flat = stretches(curve)
            # Those that end before the next curve begins, and the one that it cuts short.
            kept = int(np.searchsorted(inner, end - begin))
            stops += [*(inner[:kept] + begin).tolist(), end]
            flats += flat[: kept + 1].tolist()
        return np.array(stops, dtype=np.int64), np.array(flats)

    def describe(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return {"begins": list(self.begins), "curves": [curve.describe() for curve in self.curves]}
