"""What a number may be: one check per kind of parameter, all with the same error.

A `Domain` knows the allowed set and how to say it. Nothing is clipped or coerced: a value outside raises
`ParameterError` with the parameter's name, the first offending value and the allowed set.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.errors import ParameterError

__all__ = [
    "MOST_STEPS",
    "Domain",
    "choice",
    "finite",
    "integer",
    "nonnegative",
    "positive",
    "real_array",
    "unit_interval",
]

MOST_STEPS = 2**53
"""Beyond this many steps, floating-point numbers cannot count them one by one. Simulations end sooner, at
`mcnqm.record.MAX_STEPS`."""


@dataclass(frozen=True)
class Domain:
    """A set of real numbers.

    Parameters
    ----------
    allowed : str
        The set as it reads after "must": ``"be > 0"``.
    contains : callable
        Maps a float array to a boolean array of the same shape. Values that are not finite never get there.

    Examples
    --------
    >>> fraction = Domain("be in (0, 1]", lambda x: (x > 0) & (x <= 1))
    >>> fraction.check("share", 2.0)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: share must be in (0, 1], got 2.0
    """

    allowed: str
    contains: Callable[[NDArray[np.float64]], NDArray[np.bool_]]

    def check(self, name: str, value: Any) -> NDArray[np.float64]:
        """Return `value` as a float64 array, or raise `ParameterError` if any entry lies outside."""
        array = real_array(name, value, self.allowed)
        for entry in array[~np.isfinite(array)].flat:
            both = self.allowed if "finite" in self.allowed else f"{self.allowed} and finite"
            raise ParameterError(name, float(entry), both)
        for entry in array[~self.contains(array)].flat:
            raise ParameterError(name, float(entry), self.allowed)
        return array


def real_array(name: str, value: Any, allowed: str = "be a real number or an array of them") -> NDArray[np.float64]:
    """Convert to float64 what is a real number or an array of them, and refuse the rest.

    Booleans, strings, complex numbers and objects are refused rather than converted.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # a Dataset; ragged
        raise ParameterError(name, value, allowed) from None
    if array.dtype.kind not in "iuf":
        raise ParameterError(name, value, allowed)
    if array.size == 0:
        raise ParameterError(name, value, "not be empty")
    return array.astype(np.float64)


finite = Domain("be finite", lambda x: np.ones(x.shape, dtype=np.bool_))
positive = Domain("be > 0", lambda x: x > 0)
nonnegative = Domain("be >= 0", lambda x: x >= 0)
unit_interval = Domain("be in [0, 1)", lambda x: (x >= 0) & (x < 1))


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` as an int if it is an integer in [low, high], or raise `ParameterError`."""
    allowed = f"be an integer >= {low}" if high is None else f"be an integer in [{low}, {high}]"
    if isinstance(value, (bool, np.bool_)):
        raise ParameterError(name, value, allowed)
    try:
        number = operator.index(value)
    except TypeError:
        raise ParameterError(name, value, allowed) from None
    if number < low or (high is not None and number > high):
        raise ParameterError(name, value, allowed)
    return number


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Return `value` if it is one of the `allowed` words, or raise `ParameterError`."""
    if not isinstance(value, str) or value not in allowed:
        raise ParameterError(name, value, "be one of " + ", ".join(repr(word) for word in allowed))
    return value
