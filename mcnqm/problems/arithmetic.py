"""Words for arithmetic that kernels vectorize, for the functions of landscapes and the updates of optimizers.

In plain Python, and on arrays, these are NumPy. Inside a kernel `mcnqm.kernels.jit` gives each its machine code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba.extending import register_jitable

__all__ = ["exp", "fma", "helper", "log", "number"]

F = TypeVar("F", bound=Callable[..., Any])


def helper(function: F) -> F:
    """Make a function known to kernels, for what several functions of a landscape have in common.

    It stays a plain Python function.
    """
    options = {"forceinline": True, "error_model": "numpy", "nogil": True, "fastmath": {"nsz"}, "boundscheck": False}
    return cast("F", register_jitable(**options)(function))


def fma(a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` rounded once, in float32 if all three are, else in float64.

    Called from plain Python, where it is for tests and curiosity, it rounds twice.
    """
    return a * b + c


def number(value: float, like: Any) -> Any:
    """`value` in the type of `like`: for constants in functions that may run in float32 as well as in float64.

    Called from plain Python, it is `value`.
    """
    return value


def exp(x: Any) -> Any:
    """The exponential. In a kernel it becomes a vector, and stops at exp(-700) and exp(700), in float32 at 80."""
    return np.exp(x)


def log(x: Any) -> Any:
    """The natural logarithm. In a kernel it becomes a vector."""
    return np.log(x)
