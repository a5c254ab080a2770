"""The one place that says how the analytic kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

from mcnqm.compiling import compiled

__all__ = ["inlined", "njit"]

F = TypeVar("F", bound=Callable[..., object])


def njit(function: F) -> F:
    """Compile with the cache on disk, IEEE division, the lock released and no licence to reorder.

    Double-double arithmetic lives on the rounding errors that ``fastmath`` would optimise away. The wrapper
    gives Numba's untyped decorator a type.
    """
    return cast("F", compiled(function, error_model="numpy", nogil=True))


def inlined(function: F) -> F:
    """As `njit`, for small functions in loops that are to become vectors: to the compiler, a call might fail."""
    return cast("F", numba.njit(error_model="numpy", inline="always")(function))
