r"""Schedules: values that change with the step, for learning rates, momentum, batch sizes and averages.

A schedule is a *scale*, which may be swept like any number, times a *curve*, a function of the step alone. The value at
step t is what the update from t to t + 1 uses. So a sweep over many settings shares a few curves, and nowhere is there
an array of steps times settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from mcnqm.domains import Domain, choice, finite, integer, nonnegative, positive, real_array
from mcnqm.errors import ParameterError

__all__ = [
    "FOREVER",
    "Curve",
    "Scaled",
    "Schedule",
    "Segments",
    "constant",
    "cosine",
    "exponential",
    "from_function",
    "linear",
    "piecewise",
    "sampled",
    "stack",
    "stretches",
    "warmup_stable_decay",
]

Array = NDArray[np.float64]
Steps = NDArray[np.int64]

_SHAPES = ("constant", "linear", "exponential", "cosine")
_MAX_STEPS = 2**53

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
        kind = np.array([_SHAPES.index(shape) for shape in self.shapes])
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
class _Later:
    """A curve, seen from a later step on."""

    curve: Curve
    start: int

    def at(self, step: Steps) -> Array:
        return self.curve.at(step + self.start)

    def stretches(self) -> tuple[Steps, NDArray[np.bool_]]:
        stops, flat = stretches(self.curve)
        ahead = stops > self.start
        return np.where(stops[ahead] == FOREVER, FOREVER, stops[ahead] - self.start), flat[ahead]

    def describe(self) -> dict[str, Any]:
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
class _Function:
    function: Callable[[Steps], Any]

    def at(self, step: Steps) -> Array:
        values = np.asarray(self.function(step), dtype=np.float64)
        if values.shape not in ((), step.shape):
            allowed = f"return one value for each of the steps it is given, shape {step.shape}"
            raise ParameterError("function", f"shape {values.shape}", allowed)
        return np.broadcast_to(values, step.shape).astype(np.float64)

    def describe(self) -> dict[str, Any]:
        name = getattr(self.function, "__qualname__", repr(self.function))
        return {"function": f"{getattr(self.function, '__module__', '')}.{name}"}


@dataclass(frozen=True, eq=False)
class Schedule:
    """A scale times a curve: made by the functions of `mcnqm.schedules`, and used in place of a number.

    Multiply it by a number or an array to scale it; an array makes a sweep. As the value of a hyperparameter or a batch
    size, its scale is what results show as that coordinate.

    Attributes
    ----------
    scale : Number
        A scalar, a 1-D array or a DataArray.
    curves : tuple of Curve
        One, or several to choose from.
    which : int or DataArray of int
        Which curve each point of a sweep follows.

    Examples
    --------
    >>> import mcnqm
    >>> decay = mcnqm.schedules.cosine(0.1, steps=1000)
    >>> decay(0), round(decay(500), 6), decay(1000)
    (0.1, 0.05, 0.0)
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=10)
    >>> runs = mcnqm.simulate(problem, mcnqm.SGD(lr=decay * [1.0, 2.0]), batch_size=4, steps=1000, trajectories=2)
    >>> runs.lr.values
    array([0.1, 0.2])
    """

    scale: Any
    curves: tuple[Curve, ...]
    which: Any = 0

    def __call__(self, step: ArrayLike) -> Any:
        """Value at a step, or values at an array of steps; of a sweep, a DataArray with the dimension ``step`` last."""
        given = np.asarray(step)
        if given.dtype.kind not in "iu" or given.ndim > 1 or (given < 0).any():
            raise ParameterError("step", step, "be whole numbers >= 0")
        steps = np.atleast_1d(given).astype(np.int64)
        if np.ndim(self.scale) == 0 and np.ndim(self.which) == 0 and not isinstance(self.scale, xr.DataArray):
            values = float(self.scale) * self.curves[int(self.which)].at(steps)
            return float(values[0]) if given.ndim == 0 else values
        table = xr.DataArray(
            np.stack([curve.at(steps) for curve in self.curves]), dims=("curve", "step"), coords={"step": steps}
        )
        scale = self.scale if isinstance(self.scale, xr.DataArray) else xr.DataArray(self.scale)
        return scale * table.isel(curve=self.which)

    def __mul__(self, factor: Any) -> Schedule:
        if isinstance(factor, Schedule) or np.asarray(getattr(factor, "values", factor)).dtype.kind not in "iuf":
            raise ParameterError("factor", factor, "be a number, an array or a DataArray")
        array = factor if isinstance(factor, xr.DataArray) else np.asarray(factor, dtype=np.float64)
        scale = self.scale * array
        return Schedule(float(scale) if isinstance(scale, (float, np.generic)) else scale, self.curves, self.which)

    __rmul__ = __mul__
    __array_ufunc__ = None  # an array on the left leaves the product to us
    __array_priority__ = 1000

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return self.curves == other.curves and _same(self.scale, other.scale) and _same(self.which, other.which)

    def __hash__(self) -> int:
        return hash((np.asarray(self.scale).tobytes(), np.asarray(self.which).tobytes(), len(self.curves)))

    def __repr__(self) -> str:
        curve = self.curves[0].describe() if len(self.curves) == 1 else {}
        parts = "function" if "function" in curve else f"{len(curve.get('lengths', []))} pieces"
        kind = f"{len(self.curves)} curves" if len(self.curves) > 1 else parts
        size = np.shape(self.scale)
        scale = f"<{' x '.join(map(str, size))} values>" if size else f"{float(self.scale):g}"
        return f"Schedule({scale} x {kind})"

    def later(self, start: int) -> Schedule:
        """The same schedule, seen from step `start` on.

        Examples
        --------
        >>> sampled([0.3, 0.2, 0.1]).later(1)([0, 1])
        array([0.2, 0.1])
        """
        begin = _steps("start", start, 0)
        return Schedule(self.scale, tuple(_Later(curve, begin) for curve in self.curves), self.which)

    def check(self, name: str, domain: Domain) -> Schedule:
        """Return it with its scale checked, or raise if a value of it that is known beforehand lies outside `domain`.

        A rate may fall to 0: domains of positive numbers include 0 here.
        """
        scale = finite.check(name, getattr(self.scale, "values", self.scale))
        if scale.ndim > 1 and not isinstance(self.scale, xr.DataArray):
            raise ParameterError(name, f"shape {scale.shape}", "be a scalar, a 1-D array or an xarray.DataArray")
        domain = nonnegative if domain is positive else domain
        for curve in self.curves:
            if isinstance(curve, Segments):
                domain.check(name, np.multiply.outer(scale, np.array([*curve.first, *curve.last])))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, for the configuration that results carry."""
        return {
            "scale": np.asarray(self.scale).tolist(),
            "curves": [curve.describe() for curve in self.curves],
            "which": np.asarray(self.which).tolist(),
        }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, xr.DataArray) and isinstance(b, xr.DataArray):
        return bool(a.identical(b))
    return not isinstance(a, xr.DataArray) and not isinstance(b, xr.DataArray) and np.array_equal(a, b)


# ------------------------------------------------------------------------------------------------------ constructors


def _scale(name: str, value: Any) -> Any:
    """A number, an array or a DataArray, checked to be finite."""
    array = finite.check(name, getattr(value, "values", value))
    if isinstance(value, xr.DataArray):
        return value
    return float(array) if array.ndim == 0 else array


def _fraction(name: str, value: Any, domain: Domain) -> float:
    array = domain.check(name, value)
    if array.ndim:
        raise ParameterError(name, f"shape {array.shape}", "be a scalar")
    return float(array)


def _steps(name: str, value: Any, low: int = 1) -> int:
    return integer(name, value, low, _MAX_STEPS)


def _one_piece(value: Any, steps: int, final: float, shape: str) -> Schedule:
    end = _fraction("final", final, positive if shape == "exponential" else nonnegative)
    return Schedule(_scale("value", value), (Segments((_steps("steps", steps),), (1.0,), (end,), (shape,)),))


def constant(value: Any) -> Schedule:
    """The same value at every step.

    Parameters
    ----------
    value : Number
        Swept if it is an array.

    Returns
    -------
    Schedule

    Examples
    --------
    >>> constant(0.1)([0, 10])
    array([0.1, 0.1])
    """
    return Schedule(_scale("value", value), (Segments((1,), (1.0,), (1.0,), ("constant",)),))


def piecewise(values: ArrayLike, lengths: ArrayLike) -> Schedule:
    """Constant on pieces; the last value holds for ever.

    Parameters
    ----------
    values : array_like, shape (pieces,)
        Value of each piece.
    lengths : int or array_like of int, shape (pieces,)
        Steps of each piece, at least 1; one number if all are alike.

    Returns
    -------
    Schedule
        Its scale is 1: multiply it to sweep.

    Raises
    ------
    ParameterError
        If a value is not finite, a length not a whole number >= 1, or there are more of one than of the other.

    Examples
    --------
    >>> piecewise([0.1, 0.01], [100, 50])([0, 99, 100, 1000])
    array([0.1 , 0.1 , 0.01, 0.01])
    """
    v = np.atleast_1d(finite.check("values", values))
    if v.ndim != 1:
        raise ParameterError("values", f"shape {v.shape}", "have one dimension")
    given = np.asarray(lengths)
    wrong = given.dtype.kind not in "iu" or given.ndim > 1
    if wrong or (given < 1).any() or (given.ndim == 1 and given.size != v.size):
        raise ParameterError("lengths", lengths, f"be whole numbers >= 1, one for each of the {v.size} values")
    n = np.broadcast_to(given, v.shape)
    first = tuple(v.tolist())
    return Schedule(1.0, (Segments(tuple(n.tolist()), first, first, ("constant",) * v.size),))


def exponential(value: Any, steps: int, final: float = 0.01) -> Schedule:
    r"""Exponential decay (or growth) from `value` to `final` times that, where it stays.

    Parameters
    ----------
    value : Number
        Where it starts; swept if an array.
    steps : int
        How long it takes.
    final : float
        Fraction > 0 of `value` that is reached. More than 1 is growth, as for a batch size.

    Returns
    -------
    Schedule

    Examples
    --------
    >>> exponential(0.1, steps=100, final=0.01)([0, 50, 100, 200]).round(6)
    array([0.1  , 0.01 , 0.001, 0.001])
    """
    return _one_piece(value, steps, final, "exponential")


def linear(value: Any, steps: int, final: float = 0.0) -> Schedule:
    """A straight line from `value` to `final` times that, where it stays.

    Parameters
    ----------
    value : Number
        Where it starts; swept if an array.
    steps : int
        How long it takes.
    final : float
        Fraction of `value` that is reached.

    Returns
    -------
    Schedule

    Examples
    --------
    >>> linear(0.1, steps=100)([0, 50, 100])
    array([0.1 , 0.05, 0.  ])
    """
    return _one_piece(value, steps, final, "linear")


def cosine(value: Any, steps: int, final: float = 0.0) -> Schedule:
    r"""Half a cosine from `value` to `final` times that (Loshchilov & Hutter 2017, without restarts).

    Parameters
    ----------
    value : Number
        Where it starts; swept if an array.
    steps : int
        How long it takes.
    final : float
        Fraction of `value` that is reached, and holds from then on.

    Returns
    -------
    Schedule

    Examples
    --------
    >>> cosine(0.1, steps=100)([0, 50, 100]).round(6)
    array([0.1 , 0.05, 0.  ])
    """
    return _one_piece(value, steps, final, "cosine")


def warmup_stable_decay(
    value: Any, *, warmup: int, stable: int, decay: int, final: float = 0.0, shape: str = "linear"
) -> Schedule:
    """Linear warm-up, a plateau, and a decay.

    Parameters
    ----------
    value : Number
        Of the plateau; swept if an array.
    warmup, stable, decay : int
        Steps of each part; a part of 0 steps is left out. Warm-up goes through ``value * (t + 1) / (warmup + 1)``, so
        that its first step moves too.
    final : float
        Fraction of `value` that is reached.
    shape : {"linear", "exponential", "cosine"}
        Of the decay.

    Returns
    -------
    Schedule

    Examples
    --------
    >>> warmup_stable_decay(1.0, warmup=3, stable=2, decay=4)(range(10))
    array([0.25, 0.5 , 0.75, 1.  , 1.  , 1.  , 0.75, 0.5 , 0.25, 0.  ])
    """
    choice("shape", shape, _SHAPES[1:])
    end = _fraction("final", final, positive if shape == "exponential" else nonnegative)
    up, level, down = _steps("warmup", warmup, 0), _steps("stable", stable, 0), _steps("decay", decay, 0)
    parts = [
        (up, 1.0 / (up + 1.0), 1.0, "linear"),
        (level, 1.0, 1.0, "constant"),
        (down, 1.0, end, shape),
    ]
    kept = [part for part in parts if part[0] > 0]
    if not kept:
        raise ParameterError("warmup + stable + decay", 0, "be at least one step")
    lengths, first, last, shapes = zip(*kept, strict=True)
    return Schedule(_scale("value", value), (Segments(lengths, first, last, shapes),))


def sampled(values: ArrayLike) -> Schedule:
    """One value per step, from step 0 on; the last holds for ever.

    Parameters
    ----------
    values : array_like, shape (steps,)

    Returns
    -------
    Schedule
        Its scale is 1.

    Examples
    --------
    >>> sampled([0.3, 0.2, 0.1])([0, 1, 2, 9])
    array([0.3, 0.2, 0.1, 0.1])
    """
    return piecewise(real_array("values", values), 1)


def from_function(function: Callable[[Steps], Any], scale: Any = 1.0) -> Schedule:
    """Any function of the step.

    Parameters
    ----------
    function : callable
        Takes an int64 array of steps, returns as many values. With a process pool it must be picklable: a function of
        a module, no lambda.
    scale : Number
        Multiplies it; swept if an array.

    Returns
    -------
    Schedule

    Raises
    ------
    ParameterError
        If `function` is not callable. A value that is not allowed is found when it is used.

    Examples
    --------
    >>> from_function(lambda t: 0.1 / (1 + t / 100))(100)
    0.05
    """
    if not callable(function):
        raise ParameterError("function", function, "be callable")
    return Schedule(_scale("scale", scale), (_Function(function),))


def stack(schedules: Mapping[Any, Schedule], dim: str = "schedule") -> Schedule:
    """Several schedules side by side, as a sweep.

    Parameters
    ----------
    schedules : dict
        Label to schedule; each with a scalar scale.
    dim : str
        Name of the dimension. ``batch_size`` goes with a batch size swept over the same labels.

    Returns
    -------
    Schedule

    Examples
    --------
    >>> both = stack({"flat": constant(0.1), "falling": linear(0.2, steps=100)})
    >>> both([0, 50]).sel(schedule="falling").values
    array([0.2, 0.1])
    """
    if not schedules or not all(isinstance(s, Schedule) for s in schedules.values()):
        raise ParameterError("schedules", schedules, "map at least one label to a schedule")
    for one in schedules.values():
        if np.ndim(one.scale) or np.ndim(one.which):
            raise ParameterError("schedules", one, "not be sweeps themselves")
    curves = tuple(one.curves[int(one.which)] for one in schedules.values())
    coords = {dim: list(schedules)}
    return Schedule(
        xr.DataArray([float(one.scale) for one in schedules.values()], dims=dim, coords=coords),
        curves,
        xr.DataArray(np.arange(len(curves)), dims=dim, coords=coords),
    )
