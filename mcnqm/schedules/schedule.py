"""A schedule: a scale times a curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from mcnqm.domains import MOST_STEPS, Domain, finite, integer, nonnegative, positive
from mcnqm.errors import ParameterError
from mcnqm.schedules.curves import FOREVER, Array, Curve, Joined, Later, Scaled, Segments

__all__ = ["Schedule"]


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
        size = np.shape(self.scale)
        if len(self.curves) == 1 and not size:
            return f"Schedule({_worded(self.curves[0], float(self.scale))})"
        kind = f"{len(self.curves)} curves" if len(self.curves) > 1 else _worded(self.curves[0])
        return f"Schedule({' x '.join(map(str, size))} values x {kind})"

    def later(self, start: int) -> Schedule:
        """The same schedule, seen from step `start` on.

        Examples
        --------
        >>> from mcnqm.schedules import sampled
        >>> sampled([0.3, 0.2, 0.1]).later(1)([0, 1])
        array([0.2, 0.1])
        """
        begin = integer("start", start, 0, MOST_STEPS)
        return Schedule(self.scale, tuple(Later(curve, begin) for curve in self.curves), self.which)

    def check(self, name: str, domain: Domain) -> Schedule:
        """Return it with its scale checked, or raise if a value of it that is known beforehand lies outside `domain`.

        A rate may fall to 0: domains of positive numbers include 0 here.
        """
        scale = finite.check(name, getattr(self.scale, "values", self.scale))
        if scale.ndim > 1 and not isinstance(self.scale, xr.DataArray):
            raise ParameterError(name, f"shape {scale.shape}", "be a scalar, a 1-D array or an xarray.DataArray")
        domain = nonnegative if domain is positive else domain
        for curve in self.curves:
            known = _extremes(curve)
            if known.size:
                domain.check(name, np.multiply.outer(scale, known))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words, for the configuration that results carry."""
        return {
            "scale": np.asarray(self.scale).tolist(),
            "curves": [curve.describe() for curve in self.curves],
            "which": np.asarray(self.which).tolist(),
        }


def _worded(curve: Curve, scale: float = 1.0) -> str:
    """What a curve does, in a few words.

    Examples
    --------
    >>> from mcnqm.schedules import constant, cosine, linear, piecewise
    >>> cosine(0.1, steps=1000), constant(0.1), piecewise([0.3, 0.2, 0.1], 20)
    (Schedule(cosine from 0.1 to 0 in 1000 steps), Schedule(0.1 at every step),
     Schedule(3 pieces from 0.3 to 0.1 in 60 steps))
    >>> linear([0.1, 0.2], steps=10)
    Schedule(2 values x linear from 1 to 0 in 10 steps)
    """
    if isinstance(curve, Segments):
        first, last, steps = scale * curve.first[0], scale * curve.last[-1], sum(curve.lengths)
        if len(curve.shapes) == 1:
            shape = curve.shapes[0]
            return (
                f"{last:g} at every step" if first == last else f"{shape} from {first:g} to {last:g} in {steps} steps"
            )
        return f"{len(curve.shapes)} pieces from {first:g} to {last:g} in {steps} steps"
    if isinstance(curve, Scaled):
        return _worded(curve.curve, scale * curve.scale)
    if isinstance(curve, Later):
        return f"{_worded(curve.curve, scale)}, from step {curve.start} on"
    if isinstance(curve, Joined):
        return ", then ".join(_worded(part, scale) for part in curve.curves)
    said = curve.describe()
    words = str(said.get("function", type(curve).__name__.lower()))
    return words if scale == 1.0 else f"{scale:g} x {words}"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, xr.DataArray) and isinstance(b, xr.DataArray):
        return bool(a.identical(b))
    return not isinstance(a, xr.DataArray) and not isinstance(b, xr.DataArray) and np.array_equal(a, b)


def _extremes(curve: Curve) -> Array:
    """Values between which all others of a curve lie, as far as they are known without a look at every step."""
    if isinstance(curve, Segments):
        return np.array([*curve.first, *curve.last])
    if isinstance(curve, Scaled):
        return curve.scale * _extremes(curve.curve)
    if isinstance(curve, Joined):
        ends = (*curve.begins[1:], FOREVER)
        parts = [
            _extremes(part) if end == FOREVER else _extremes_until(part, end - begin)
            for part, begin, end in zip(curve.curves, curve.begins, ends, strict=True)
        ]
        return np.concatenate(parts)
    return np.empty(0)


def _extremes_until(curve: Curve, stop: int) -> Array:
    """The same of its steps before `stop`: the curve may be cut short before it gets to what it would reach."""
    inner = curve.curve if isinstance(curve, Scaled) else curve
    if not isinstance(inner, Segments):
        return _extremes(curve)
    # Each piece is monotone.
    begins = np.cumsum([0, *inner.lengths])
    steps = np.concatenate([begins, begins - 1, [stop - 1]]).astype(np.int64)
    return curve.at(np.unique(steps[(steps >= 0) & (steps < stop)]))
