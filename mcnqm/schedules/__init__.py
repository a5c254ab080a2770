r"""Schedules: values that change with the step, for learning rates, momentum, batch sizes and averages.

A schedule is a *scale*, which may be swept like any number, times a *curve*, a function of the step alone. The value at
step t is what the update from t to t + 1 uses. So a sweep over many settings shares a few curves, and nowhere is there
an array of steps times settings.
"""

from mcnqm.schedules.curves import FOREVER, Curve, Function, Joined, Later, Scaled, Segments, stretches
from mcnqm.schedules.schedule import Schedule
from mcnqm.schedules.shapes import (
    constant,
    cosine,
    exponential,
    from_function,
    join,
    linear,
    piecewise,
    sampled,
    stack,
    warmup_stable_decay,
)

__all__ = [
    "FOREVER",
    "Curve",
    "Function",
    "Joined",
    "Later",
    "Scaled",
    "Schedule",
    "Segments",
    "constant",
    "cosine",
    "exponential",
    "from_function",
    "join",
    "linear",
    "piecewise",
    "sampled",
    "stack",
    "stretches",
    "warmup_stable_decay",
]
