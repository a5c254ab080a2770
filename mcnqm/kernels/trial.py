"""One trial step of a new update in plain Python, so that a slip is named in one line rather than on Numba's page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcnqm.errors import ParameterError

__all__ = ["try_update"]

_VALUE, _GRADIENT, _THETA = 0.5, 0.25, 0.75
"""Numbers that are in every usual range; a step from them may have any result."""


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
        p = _call(local, optimizer, (p, _VALUE), f"no state and {len(clock_start)} numbers in the clock") or p
    if start is not None:
        begun = _call(start, optimizer, (p, _THETA), f"no state (it makes that of {names})")
        if begun is not None and not _is_tuple(begun, len(state)):
            raise _refused(start, f"return {len(state)} numbers, the state before the first step ({names})", begun)
    coefficients: Any = ()
    if clock is not None:
        ticked = _call(clock, optimizer, (p, clock_start), f"{len(clock_start)} numbers in the clock")
        if ticked is None:
            return
        if not (_is_tuple(ticked, 2) and _is_tuple(ticked[0], len(clock_start)) and isinstance(ticked[1], tuple)):
            raise _refused(clock, f"return (k, c), k of {len(clock_start)} numbers as in clock_start", ticked)
        coefficients = ticked[1]
    held = f"a state of {len(state)} ({names}) and {len(coefficients)} coefficients of the clock"
    found = _call(update, optimizer, (p, coefficients, _GRADIENT, _THETA, s), held)
    if found is None:
        return
    if not (_is_tuple(found, 2) and not isinstance(found[0], tuple) and _is_tuple(found[1], len(state))):
        raise _refused(update, f"return (theta, s) with a state s of {len(state)} ({names})", found)


def _call(function: Callable[..., Any], optimizer: Any, arguments: tuple[Any, ...], held: str) -> Any:
    """What the function returns; None if it fails in a way that compiled code may not, such as a division by zero."""
    plain = getattr(function, "py_func", function)
    try:
        return plain(*arguments)
    except AttributeError as error:
        if error.obj is arguments[0]:
            fields = ", ".join(optimizer._fields)
            raise _refused(function, f"use fields of {optimizer.__name__} ({fields})", error.name) from None
    except IndexError as error:
        raise _refused(function, f"use only what there is, {held}", str(error)) from None
    except TypeError as error:
        if "positional argument" in str(error) and error.__traceback__ is not None and not error.__traceback__.tb_next:
            raise _refused(function, f"take {len(arguments)} arguments", str(error)) from None
    except ValueError as error:
        if "values to unpack" in str(error):
            raise _refused(function, f"use only what there is, {held}", str(error)) from None
    except Exception:
        pass
    return None


def _is_tuple(value: Any, length: int) -> bool:
    return isinstance(value, tuple) and len(value) == length


def _refused(function: Callable[..., Any], allowed: str, value: Any) -> ParameterError:
    return ParameterError(getattr(function, "__name__", "update"), value, allowed)
