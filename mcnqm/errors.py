"""Exceptions that carry the offending parameter's name and value."""

from __future__ import annotations

from typing import Any

__all__ = ["ExecutorError", "ParameterError"]


class ParameterError(ValueError):
    """A parameter has a value that is not allowed.

    Parameters
    ----------
    name : str
        The parameter as the user wrote it, such as ``"lr"``.
    value : object
        What was received. For an array, the first offending entry.
    allowed : str
        What is allowed, as it reads after "must": ``"be > 0"``.

    Examples
    --------
    >>> raise ParameterError("lr", -0.1, "be > 0")
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: lr must be > 0, got -0.1
    """

    def __init__(self, name: str, value: Any, allowed: str) -> None:
        self.name = name
        self.value = value
        self.allowed = allowed
        super().__init__(f"{name} must {allowed}, got {value!r}")

    def __reduce__(self) -> tuple[type[ParameterError], tuple[str, Any, str]]:
        # The default would replay __init__ with the message alone, so a worker process could not raise it.
        return type(self), (self.name, self.value, self.allowed)


class ExecutorError(RuntimeError):
    """An executor that was passed in gave up a task without saying why."""
