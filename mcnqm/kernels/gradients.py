"""One coordinate's loss, gradient and noise, chosen by the type of what describes it.

For the plain quadratic that is a number, the curvature, and its compiled code is a multiplication. For any other kind
it is the NamedTuple of its numbers, and the functions are those of `mcnqm.problems.landscapes`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.extending import overload

import mcnqm.kernels.exponential  # noqa: F401 - what `exp` is in a kernel
from mcnqm.kernels.jit import fma, load_row, number, scalar
from mcnqm.kernels.sources import source
from mcnqm.problems.landscapes import functions_of, give_functions

__all__ = [
    "Kind",
    "Rising",
    "add_loss",
    "described",
    "judged_by",
    "kind_of",
    "like_of",
    "pull",
    "steps_together",
]


class Rising(NamedTuple):
    """Numbers of a quadratic whose noise rises with the parameter: variance ``noise + slope * theta**2``."""

    curvature: float
    noise: float
    slope: float


def _rising_loss(theta: Any, p: Any) -> Any:
    return number(0.5, theta) * p.curvature * theta * theta


def _rising_gradient(theta: Any, p: Any) -> Any:
    return p.curvature * theta


def _rising_variance(theta: Any, p: Any) -> Any:
    return fma(p.slope * theta, theta, p.noise)


give_functions(Rising, _rising_loss, _rising_gradient, _rising_variance)


class Kind(NamedTuple):
    """A kind of coordinate, compiled.

    Attributes
    ----------
    loss, gradient, variance : jitted function
    fingerprint : str
        Hash of their sources. Compiled kernels are cached on disk under it.
    """

    loss: Callable[..., Any]
    gradient: Callable[..., Any]
    variance: Callable[..., Any]
    fingerprint: str


@functools.cache
def kind_of(numbers: type) -> Kind:
    """The compiled functions of a NamedTuple of numbers."""
    functions = functions_of(numbers)
    shape = (numbers._fields, *map(source, functions))  # type: ignore[attr-defined]
    loss, gradient, variance = map(scalar, functions)
    return Kind(loss, gradient, variance, hashlib.sha256(repr(shape).encode()).hexdigest()[:16])


# ----------------------------------------------------------------------------- dispatch by type, inside a kernel


def described(kind: Any, curvature: Any, numbers: Any, i: Any, zero: Any) -> Any:
    """What describes coordinate `i`: its curvature or, if there is a `kind`, the numbers of that."""
    raise NotImplementedError


def like_of(what: Any) -> Any:
    """A number of the type that a coordinate's are of."""
    raise NotImplementedError


def pull(what: Any, x: Any, push: Any) -> Any:
    """The noisy gradient at x; `push` is the noise, in standard deviations of a gradient unless they are in it."""
    raise NotImplementedError


def judged_by(kind: Any, weight: Any, numbers: Any, bounds: Any, i: Any) -> Any:
    """What the loss of coordinate `i` needs: the weight of theta² or, if there is a `kind`, its numbers and bounds."""
    raise NotImplementedError


def add_loss(judge: Any, x: Any, total: Any) -> Any:
    """`total` and a coordinate's loss at x."""
    raise NotImplementedError


def steps_together(kind: Any, at_once: Any) -> Any:
    """A tuple as long as the steps to take at once: `at_once`, or one where a gradient is long in itself."""
    raise NotImplementedError


@overload(described, jit_options={"forceinline": True})
def _described(kind, curvature, numbers, i, zero):
    if not len(kind):
        return lambda kind, curvature, numbers, i, zero: number(curvature[i], zero)
    return lambda kind, curvature, numbers, i, zero: load_row(kind, numbers, i * len(kind), 1)


@overload(like_of, jit_options={"forceinline": True})
def _like_of(what):
    if isinstance(what, types.Float):
        return lambda what: what
    return lambda what: what[0]


@overload(pull, jit_options={"forceinline": True})
def _pull(what, x, push):
    if isinstance(what, types.Float):
        return lambda what, x, push: fma(what, x, push)  # noqa: PLW0108 - an overload must return a function
    kind = kind_of(what.instance_class)
    gradient, variance = kind.gradient, kind.variance

    def noisy(what, x, push):
        return fma(np.sqrt(variance(x, what)), push, gradient(x, what))

    return noisy


@overload(judged_by, jit_options={"forceinline": True})
def _judged_by(kind, weight, numbers, bounds, i):
    if not len(kind):
        return lambda kind, weight, numbers, bounds, i: weight[i]
    return lambda kind, weight, numbers, bounds, i: (
        load_row(kind, numbers, i * len(kind), 1), bounds[i, 0], bounds[i, 1], bounds[i, 2],
    )  # fmt: skip


@overload(add_loss, jit_options={"forceinline": True})
def _add_loss(judge, x, total):
    if isinstance(judge, types.Float):
        return lambda judge, x, total: fma(judge * x, x, total)
    loss = kind_of(judge[0].instance_class).loss

    def add(judge, x, total):
        what, floor, low, high = judge
        above = loss(x, what) - floor  # computed whether or not it counts, so that the loop becomes vectors
        return total + (above if (x >= low) & (x <= high) else np.inf)

    return add


@overload(steps_together, jit_options={"forceinline": True})
def _steps_together(kind, at_once):
    if not len(kind):
        return lambda kind, at_once: at_once
    one = (0,)
    return lambda kind, at_once: one
