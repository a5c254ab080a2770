"""Landscapes that ship: two wells of different width, and an anharmonic one."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from mcnqm.domains import choice, finite, integer, nonnegative, positive
from mcnqm.errors import ParameterError
from mcnqm.problems.arithmetic import exp, fma, helper, log, number
from mcnqm.problems.landscapes import Landscape, give_functions, landscape
from mcnqm.problems.problem import frozen, shaped

__all__ = ["DoubleWell", "QuarticWell"]

Array = NDArray[np.float64]


# ---------------------------------------------------------------------------------------------------- one quartic


def _quartic_loss(theta: Any, p: Any) -> Any:
    square = theta * theta
    return square * (number(0.5, theta) * p.curvature + number(0.25, theta) * p.quartic * square)


def _quartic_gradient(theta: Any, p: Any) -> Any:
    return theta * (p.curvature + p.quartic * theta * theta)


def _constant_variance(theta: Any, p: Any) -> Any:
    return p.noise


@landscape(
    *(_quartic_loss, _quartic_gradient, _constant_variance),
    curvature=nonnegative,
    quartic=positive,
    noise=nonnegative,
)
class QuarticWell(NamedTuple):
    r"""An anharmonic well: a parabola that steepens with distance.

    .. math:: L(\theta) = \sum_i \tfrac12 h_i \theta_i^2 + \tfrac14 q_i \theta_i^4

    with per-example gradient variance :math:`c_i`. A `mcnqm.Landscape` of the numbers below, all scalars or arrays of
    shape (n,).

    Parameters
    ----------
    curvature : array_like
        :math:`h_i \ge 0`, in loss / parameter². Default 1.
    quartic : array_like
        :math:`q_i > 0`, in loss / parameter⁴. Default 1.
    noise : array_like
        Per-example gradient variance :math:`c_i \ge 0`, in gradient². Default 1.
    initial_mean, initial_std, multiplicity
        As for `mcnqm.NoisyQuadratic`.

    Examples
    --------
    >>> QuarticWell(curvature=1.0, quartic=2.0).initial_risk
    2.0
    """

    curvature: Any = 1.0
    quartic: Any = 1.0
    noise: Any = 1.0


# ------------------------------------------------------------------------------------------------------- two wells


class _Wells(NamedTuple):
    """Numbers of one coordinate of `DoubleWell`; the parabolas' centers instead of their distance."""

    sharp: Any
    wide: Any
    sharp_center: Any
    wide_center: Any
    offset: Any
    noise: Any
    sharpness: Any


# What does not depend on theta a kernel computes once, so the difference of the parabolas is two multiply-adds.


@helper
def _higher(theta: Any, p: Any) -> Any:
    """How much higher the sharp parabola is than the wide one."""
    half = number(0.5, theta)
    curve, slope = half * (p.sharp - p.wide), p.wide * p.wide_center - p.sharp * p.sharp_center
    level = half * (p.sharp * p.sharp_center * p.sharp_center - p.wide * p.wide_center * p.wide_center) - p.offset
    return fma(fma(curve, theta, slope), theta, level)


def _wells_loss(theta: Any, p: Any) -> Any:
    left, right, half = theta - p.sharp_center, theta - p.wide_center, number(0.5, theta)
    lower = np.minimum(half * p.sharp * left * left, p.offset + half * p.wide * right * right)
    return lower - log(number(1.0, theta) + exp(-p.sharpness * np.abs(_higher(theta, p)))) / p.sharpness


def _wells_gradient(theta: Any, p: Any) -> Any:
    one = number(1.0, theta)
    share = one / (one + exp(p.sharpness * _higher(theta, p)))  # of the sharp well
    more = fma(p.sharp - p.wide, theta, p.wide * p.wide_center - p.sharp * p.sharp_center)
    return fma(share, more, fma(p.wide, theta, -p.wide * p.wide_center))


give_functions(_Wells, _wells_loss, _wells_gradient, _constant_variance)


class DoubleWell(Landscape):
    r"""Two minima of different width and depth in every coordinate, with a smooth barrier between them.

    The soft minimum of two parabolas,

    .. math::

        L = -\tfrac1\kappa \log(e^{-\kappa L_s} + e^{-\kappa L_w}), \quad
        L_s = \tfrac12 h_s (\theta + \tfrac13 d)^2, \quad
        L_w = \Delta + \tfrac12 h_w (\theta - \tfrac23 d)^2,

    summed over coordinates, with a constant per-example gradient variance. Losses in results are above the lower
    minimum.

    Parameters
    ----------
    sharp, wide : array_like, shape (n,) or scalar
        Curvatures of the two parabolas, :math:`h_s \ge h_w > 0`, in loss / parameter².
    separation : array_like
        Distance of their centers, d > 0, in parameter units: the sharp one at -d/3, the wide one at 2d/3.
    offset : array_like
        How much higher the wide one lies, :math:`\Delta`, in loss; of either sign.
    noise : array_like
        Per-example gradient variance :math:`c \ge 0`, in gradient².
    start : {"sharp", "wide"} or array_like
        The minimum to start at, or where else.
    dim : int, optional
        Number of coordinates. All alike by default; with arrays, their length.
    sharpness : array_like
        :math:`\kappa > 0`, in 1 / loss: the barrier is round over losses of 1/κ.
    initial_std : array_like
        Standard deviation of the start, in parameter units. Default 0.

    Attributes
    ----------
    minima : mapping of str to float or ndarray
        Positions of the minima, ``"sharp"`` and ``"wide"``; arrays of shape (n,) where numbers are.
    barrier : float or ndarray
        Position of the maximum between them.
    barrier_height : mapping of str to float or ndarray
        Loss there above that of each minimum.

    Raises
    ------
    ParameterError
        If a number is not allowed, or there are not two minima with a barrier between them.

    Examples
    --------
    >>> wells = DoubleWell()
    >>> round(wells.barrier, 3), round(wells.minima["wide"], 3), round(wells.barrier_height["sharp"], 3)
    (-0.088, 1.0, 0.632)
    >>> DoubleWell(separation=0.1)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: separation must leave two wells with a barrier between them, got 0.1
    """

    Numbers: ClassVar[Any] = _Wells
    _described = ("sharp", "wide", "separation", "offset", "noise", "sharpness")

    minima: Any
    barrier: Any
    barrier_height: Any
    separation: Array
    _minima: Array

    def __init__(
        self,
        sharp: ArrayLike = 8.0,
        wide: ArrayLike = 1.0,
        separation: ArrayLike = 1.5,
        offset: ArrayLike = 0.05,
        noise: ArrayLike = 12.0,
        start: Any = "sharp",
        dim: int | None = None,
        sharpness: ArrayLike = 30.0,
        *,
        initial_std: ArrayLike = 0.0,
    ) -> None:
        numbers = {
            "sharp": positive.check("sharp", sharp),
            "wide": positive.check("wide", wide),
            "separation": positive.check("separation", separation),
            "offset": finite.check("offset", offset),
            "noise": nonnegative.check("noise", noise),
            "sharpness": positive.check("sharpness", sharpness),
        }
        shape = next((a.shape for a in numbers.values() if a.ndim), ())
        numbers = {name: shaped(shape or (1,), "the other numbers'", name, finite, a) for name, a in numbers.items()}
        count = integer("dim", (shape or (1,))[0] if dim is None else dim, 1, 2**32)
        if shape and count != shape[0]:
            raise ParameterError("dim", dim, f"be {shape[0]}, as long as the arrays")
        for one, other in zip(numbers["sharp"], numbers["wide"], strict=True):
            if one < other:
                raise ParameterError("sharp", float(one), f"be at least as curved as wide, {other:g}")
        gap = numbers.pop("separation")
        columns = _Wells(sharp_center=-gap / 3.0, wide_center=2.0 * gap / 3.0, **numbers)
        roots = np.array(
            [_roots(_Wells(*map(float, entry)), entry_gap) for *entry, entry_gap in zip(*columns, gap, strict=True)]
        )
        self._set("separation", gap)
        at = {"sharp": roots[:, 0], "wide": roots[:, 2]}
        height = {well: _wells_loss(roots[:, 1], columns) - _wells_loss(x, columns) for well, x in at.items()}
        self._set("_minima", np.stack(list(at.values())))
        self._set("minima", {well: _plain(x, shape) for well, x in at.items()})
        self._set("barrier", _plain(roots[:, 1], shape))
        self._set("barrier_height", {well: _plain(x, shape) for well, x in height.items()})
        if isinstance(start, str):
            start = at[choice("start", start, ("sharp", "wide"))]
        else:
            start = shaped(gap.shape, "the other numbers'", "start", finite, start)
        super().__init__(
            *columns,
            initial_mean=start,
            initial_std=initial_std,
            multiplicity=1 if shape else count,
        )

    @classmethod
    def from_dict(cls, numbers: dict[str, Any]) -> DoubleWell:
        """The problem that `to_dict` described."""
        given = {name: value for name, value in numbers.items() if name not in ("landscape", "multiplicity")}
        alike = not any(isinstance(given[name], list) for name in cls._described)
        return cls(start=given.pop("initial_mean"), dim=numbers["multiplicity"] if alike else None, **given)

    def _least(self) -> Array:
        return np.min(self.loss(self._minima), axis=0)  # type: ignore[no-any-return]


def _plain(value: Array, shape: tuple[int, ...]) -> Any:
    return frozen(value) if shape else float(value[0])


_NODES = 4001


def _roots(p: _Wells, gap: float) -> list[float]:
    """Where the gradient is 0: the sharp minimum, the barrier and the wide minimum."""

    def slope(theta: Any) -> Any:
        with np.errstate(over="ignore"):
            return _wells_gradient(theta, p)

    # Each parabola pulls towards its center, so there is nothing beyond the two.
    at = np.linspace(p.sharp_center - 1e-3 * gap, p.wide_center + 1e-3 * gap, _NODES)
    up = slope(at) >= 0
    change = np.flatnonzero(up[1:] != up[:-1])
    if change.size != 3:
        raise ParameterError("separation", float(gap), "leave two wells with a barrier between them")
    return [float(brentq(slope, at[k], at[k + 1], xtol=1e-15)) for k in change]
