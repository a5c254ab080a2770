"""One trial step of a new update in plain Python, so that a slip is named in one line rather than on Numba's page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mcnqm.errors import ParameterError

__all__ = ["try_update"]

_VALUE, _GRADIENT, _THETA = 0.5, 0.25, 0.75
"""Numbers that are in every usual range; a step from them may have any result."""

_FAILED = object()


def try_update(
    optimizer: Any,
    state: tuple[str, ...],
    update: Callable[..., Any],
    start: Callable[..., Any] | None,
    clock: Callable[..., Any] | None,
    clock_start: tuple[float, ...],
    local: Callable[..., Any] | None,
) -> None:
    """Take one step and look at the shape of what comes back.

    Raises
    ------
    ParameterError
        If a function uses a hyperparameter that the optimizer does not have, or an entry of the state or the clock that
        there is not, takes other arguments, or returns a state or clock of another length.
    """
    p = optimizer._make((_VALUE,) * len(optimizer._fields))
    s: Any = (_VALUE,) * len(state)
    names = ", ".join(state) or "none"
    if local is not None:
        seen = _call(local, optimizer, (p, _VALUE), f"no state and {len(clock_start)} numbers in the clock")
        p = p if seen is _FAILED else seen
        if not _is_tuple(p, len(optimizer._fields)):
            raise _refused(local, optimizer, "return hyperparameters", p)
    if start is not None:
        begun = _call(start, optimizer, (p, _THETA), f"no state (it makes that of {names})")
        if begun is not _FAILED and not _are_numbers(begun, len(state)):
            allowed = f"return {len(state)} numbers, the state before the first step ({names})"
            raise _refused(start, optimizer, allowed, begun)
    coefficients: Any = ()
    if clock is not None:
        ticked = _call(clock, optimizer, (p, clock_start), f"{len(clock_start)} numbers in the clock")
        if ticked is _FAILED:
            return
        if not (_is_tuple(ticked, 2) and _are_numbers(ticked[0], len(clock_start)) and isinstance(ticked[1], tuple)):
            allowed = f"return (k, c), k of {len(clock_start)} numbers as in clock_start"
            raise _refused(clock, optimizer, allowed, ticked)
        coefficients = ticked[1]
    held = f"a state of {len(state)} ({names}) and {len(coefficients)} coefficients of the clock"
    # Gradients of either sign: what branches on it may slip in one branch alone.
    for gradient in (_GRADIENT, -_GRADIENT):
        _check_step(update, optimizer, state, (p, coefficients, gradient, _THETA, s), held)


def _check_step(
    update: Callable[..., Any], optimizer: Any, state: tuple[str, ...], arguments: tuple[Any, ...], held: str
) -> None:
    found, names = _call(update, optimizer, arguments, held), ", ".join(state) or "none"
    if found is _FAILED:
        return
    if not (_is_tuple(found, 2) and _may_be_number(found[0]) and _are_numbers(found[1], len(state))):
        raise _refused(update, optimizer, f"return (theta, s) with a state s of {len(state)} ({names})", found)


def _call(function: Callable[..., Any], optimizer: Any, arguments: tuple[Any, ...], held: str) -> Any:
    """What the function returns; _FAILED if it fails in a way that compiled code may not: a division by zero, say."""
    plain = getattr(function, "py_func", function)
    try:
        return plain(*arguments)
    except AttributeError as error:
        if error.obj is arguments[0]:
            fields = ", ".join(optimizer._fields)
            allowed = f"use fields of {optimizer.__name__} ({fields})"
            raise ParameterError(_name(function), error.name, allowed) from None
        if isinstance(error.obj, tuple):
            raise _refused(function, optimizer, f"use only what there is, {held}", str(error)) from None
    except UnboundLocalError as error:
        raise _refused(function, optimizer, "give every variable a value before it is used", str(error)) from None
    except IndexError as error:
        raise _refused(function, optimizer, f"use only what there is, {held}", str(error)) from None
    except TypeError as error:
        if "positional argument" in str(error) and error.__traceback__ is not None and not error.__traceback__.tb_next:
            raise _refused(function, optimizer, f"take {len(arguments)} arguments", str(error)) from None
    except ValueError as error:
        if "values to unpack" in str(error):
            raise _refused(function, optimizer, f"use only what there is, {held}", str(error)) from None
    except Exception:
        pass
    return _FAILED


def _is_tuple(value: Any, length: int) -> bool:
    return isinstance(value, tuple) and len(value) == length


def _are_numbers(value: Any, length: int) -> bool:
    return _is_tuple(value, length) and all(map(_may_be_number, value))


def _may_be_number(value: Any) -> bool:
    """Whether compiled code may see a number: what a stand-in for it gives in plain Python is not known."""
    return not isinstance(value, (str, bytes, complex, list, tuple, dict, set)) and np.ndim(value) == 0


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", "update")


def _refused(function: Callable[..., Any], optimizer: Any, allowed: str, value: Any) -> ParameterError:
    return ParameterError(_name(function), value, f"{allowed}, in {optimizer.__name__}")
