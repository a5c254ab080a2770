"""Schedules by their shapes: constants, pieces, decays, warm-ups, functions, and how to put them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from mcnqm.domains import MOST_STEPS, Domain, choice, finite, integer, nonnegative, positive, real_array
from mcnqm.errors import ParameterError
from mcnqm.schedules.curves import SHAPES, Function, Joined, Scaled, Segments, Steps
from mcnqm.schedules.schedule import Schedule

__all__ = [
    "constant",
    "cosine",
    "exponential",
    "from_function",
    "join",
    "linear",
    "piecewise",
    "sampled",
    "stack",
    "warmup_stable_decay",
]


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
    return integer(name, value, low, MOST_STEPS)


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
        Steps of each piece, at least 1; one number if all are alike. Milestones of torch's ``MultiStepLR`` and
        boundaries of optax's ``piecewise_constant_schedule`` are first steps of pieces, of which lengths are the
        differences.

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

    .. math:: x_t = x_0 f^{\min(t / n, 1)}

    Parameters
    ----------
    value : Number
        Where it starts; swept if an array.
    steps : int
        How long it takes.
    final : float
        Fraction > 0 of `value` that is reached, at step `steps`. More than 1 is growth, as for a batch size.

    Returns
    -------
    Schedule

    Notes
    -----
    torch's ``ExponentialLR(gamma)`` and optax's ``exponential_decay(value, transition_steps, decay_rate)`` have no end:
    up to `steps` they are this with ``final=gamma**steps``, or ``decay_rate**(steps / transition_steps)``.

    Examples
    --------
    >>> exponential(0.1, steps=100, final=0.01)([0, 50, 100, 200]).round(6)
    array([0.1  , 0.01 , 0.001, 0.001])
    """
    return _one_piece(value, steps, final, "exponential")


def linear(value: Any, steps: int, final: float = 0.0) -> Schedule:
    r"""A straight line from `value` to `final` times that, where it stays.

    .. math:: x_t = x_0 \big(1 + (f - 1) \min(t / n, 1)\big)

    Parameters
    ----------
    value : Number
        Where it starts; swept if an array.
    steps : int
        How long it takes.
    final : float
        Fraction of `value` that is reached, at step `steps`. From a value of 0 there is
        `warmup_stable_decay` with ``initial=0``.

    Returns
    -------
    Schedule

    Notes
    -----
    optax's ``linear_schedule(value, final * value, transition_steps=steps)``. torch's ``LinearLR(start_factor,
    end_factor, total_iters)`` of a rate is this from ``rate * start_factor`` with ``steps=total_iters`` and
    ``final=end_factor / start_factor``; its default start is a third of the rate.

    Examples
    --------
    >>> linear(0.1, steps=100)([0, 50, 100])
    array([0.1 , 0.05, 0.  ])
    """
    return _one_piece(value, steps, final, "linear")


def cosine(value: Any, steps: int, final: float = 0.0) -> Schedule:
    r"""Half a cosine from `value` to `final` times that (Loshchilov & Hutter 2017, without restarts).

    .. math:: x_t = x_0 \big(f + (1 - f) (1 + \cos(\pi \min(t / n, 1))) / 2\big)

    Parameters
    ----------
    value : Number
        Where it starts; swept if an array.
    steps : int
        How long it takes.
    final : float
        Fraction of `value` that is reached at step `steps`, and holds from then on.

    Returns
    -------
    Schedule

    Notes
    -----
    optax's ``cosine_decay_schedule(value, decay_steps=steps, alpha=final)``. torch's ``CosineAnnealingLR(T_max=steps,
    eta_min=final * value)`` is the same up to `steps`, and rises again after that.

    Examples
    --------
    >>> cosine(0.1, steps=100)([0, 50, 100]).round(6)
    array([0.1 , 0.05, 0.  ])
    """
    return _one_piece(value, steps, final, "cosine")


def warmup_stable_decay(
    value: Any,
    *,
    warmup: int,
    stable: int,
    decay: int,
    final: float = 0.0,
    shape: str = "linear",
    initial: float | None = None,
) -> Schedule:
    """Linear warm-up, a plateau, and a decay.

    Parameters
    ----------
    value : Number
        Of the plateau; swept if an array.
    warmup, stable, decay : int
        Steps of each part; a part of 0 steps is left out.
    final : float
        Fraction of `value` that is reached, at step ``warmup + stable + decay``.
    shape : {"linear", "exponential", "cosine"}
        Of the decay.
    initial : float, optional
        Fraction of `value` at step 0, from where warm-up goes in a straight line, to `value` at step `warmup`. The
        default is ``1 / (warmup + 1)``, so that warm-up goes through ``value * (t + 1) / (warmup + 1)`` and its first
        step moves too. It needs a warm-up.

    Returns
    -------
    Schedule

    Notes
    -----
    optax's ``warmup_cosine_decay_schedule(init_value, peak_value, warmup_steps, decay_steps, end_value)`` counts
    warm-up among its ``decay_steps``: it is this with ``initial=init_value / peak_value``, ``warmup=warmup_steps``,
    ``stable=0``, ``decay=decay_steps - warmup_steps``, ``final=end_value / peak_value`` and ``shape="cosine"``. torch's
    ``SequentialLR`` of ``LinearLR`` and another is `join`.

    Examples
    --------
    >>> warmup_stable_decay(1.0, warmup=3, stable=2, decay=4)(range(10))
    array([0.25, 0.5 , 0.75, 1.  , 1.  , 1.  , 0.75, 0.5 , 0.25, 0.  ])
    >>> warmup_stable_decay(1.0, warmup=2, stable=1, decay=2, initial=0.0)(range(6))
    array([0. , 0.5, 1. , 1. , 0.5, 0. ])
    """
    choice("shape", shape, SHAPES[1:])
    end = _fraction("final", final, positive if shape == "exponential" else nonnegative)
    up, level, down = _steps("warmup", warmup, 0), _steps("stable", stable, 0), _steps("decay", decay, 0)
    begin = 1.0 / (up + 1.0) if initial is None else _fraction("initial", initial, nonnegative)
    if initial is not None and up == 0:
        raise ParameterError("initial", initial, "be None without warm-up")
    parts = [
        (up, begin, 1.0, "linear"),
        (level, 1.0, 1.0, "constant"),
        (down, 1.0, end, shape),
    ]
    kept = [part for part in parts if part[0] > 0]
    if not kept:
        raise ParameterError("warmup + stable + decay", 0, "be at least one step")
    lengths, first, last, shapes = zip(*kept, strict=True)
    return Schedule(_scale("value", value), (Segments(lengths, first, last, shapes),))


def join(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """Schedules one after another; each counts its steps from where it begins.

    Parameters
    ----------
    schedules : sequence of Schedule
        Each with a scalar scale.
    boundaries : sequence of int
        First step of each schedule but the first, increasing, >= 1.

    Returns
    -------
    Schedule
        Its scale is 1: multiply it to sweep.

    Raises
    ------
    ParameterError
        If there is no schedule, one is a sweep, or boundaries do not increase or are not one fewer than schedules.

    Notes
    -----
    optax's ``join_schedules`` and, for closed forms, torch's ``SequentialLR(schedulers, milestones)``.

    Examples
    --------
    Three steps of warm-up from a tenth, and a cosine:

    >>> both = join([linear(0.1, steps=3, final=10.0), cosine(1.0, steps=4)], [3])
    >>> both(range(8)).round(3)
    array([0.1  , 0.4  , 0.7  , 1.   , 0.854, 0.5  , 0.146, 0.   ])
    """
    given = list(schedules) if isinstance(schedules, Sequence) else []
    if not given or not all(isinstance(one, Schedule) for one in given):
        raise ParameterError("schedules", schedules, "be at least one schedule, in a list")
    for one in given:
        if np.ndim(one.scale) or np.ndim(one.which):
            raise ParameterError("schedules", one, "not be sweeps themselves")
    cuts = np.asarray(boundaries)
    if cuts.size == 0:
        cuts = cuts.astype(np.int64)
    steps = np.concatenate([[0], cuts]) if cuts.ndim == 1 else cuts
    if cuts.ndim != 1 or cuts.dtype.kind not in "iu" or cuts.size != len(given) - 1 or (np.diff(steps) < 1).any():
        allowed = f"be whole numbers >= 1 that increase, {len(given) - 1} for {len(given)} schedules"
        raise ParameterError("boundaries", boundaries, allowed)
    curves = tuple(Scaled(one.curves[int(one.which)], float(one.scale)) for one in given)
    return Schedule(1.0, (Joined(curves, tuple(steps.tolist())),))


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
    """Any function of the step, such as that of torch's ``LambdaLR``.

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
    return Schedule(_scale("scale", scale), (Function(function),))


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
