"""Arguments that not every answer uses: which were given, and a refusal by name of those that would be ignored.

A parameter whose default is `default(value)` reads like any other (``seed: int = 0`` in a signature), but the function
can tell whether it was passed. So ``method="analytic", seed=3`` is refused, and a seed that is left out is not.
"""

from __future__ import annotations

import warnings
from typing import Any, Generic, TypeVar, cast

from mcnqm.errors import ParameterError

__all__ = ["default", "given", "is_default", "refuse_unused", "renamed", "value_of"]

T = TypeVar("T")


class _Default(Generic[T]):
    """A default value that knows that it is one."""

    def __init__(self, value: T) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def default(value: T) -> T:
    """A default for a signature, to be told from the same value given by the caller.

    Examples
    --------
    >>> def f(seed=default(0)):
    ...     return given(seed), value_of(seed)
    >>> f(), f(0)
    ((False, 0), (True, 0))
    """
    return cast("T", _Default(value))


def given(value: Any) -> bool:
    """Whether the caller passed it. None stands for the default everywhere, and so counts as left out."""
    return value is not None and not isinstance(value, _Default)


def is_default(value: Any) -> bool:
    """Whether it is a default of this kind, rather than a value."""
    return isinstance(value, _Default)


def value_of(value: T) -> T:
    """What was passed, or the default."""
    return cast("T", value.value) if isinstance(value, _Default) else value


def refuse_unused(allowed: str, **arguments: Any) -> None:
    """Raise `ParameterError` for the first argument that was given.

    Parameters
    ----------
    allowed : str
        What is allowed instead, as it reads after "must".
    **arguments
        Values under the names the caller knows.

    Examples
    --------
    >>> refuse_unused("be left out for a closed form", seed=3, threads=None)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: seed must be left out for a closed form, got 3
    """
    for name, value in arguments.items():
        if given(value):
            raise ParameterError(name, value, allowed)


def renamed(old: str, old_value: Any, new: str, new_value: T) -> T:
    """The value of a parameter that has a new name; its old one still works for one version, with a warning."""
    if not given(old_value):
        return new_value
    if given(new_value):
        raise ParameterError(old, old_value, f"be left out where {new}, its new name, is given")
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)
    return cast("T", old_value)
