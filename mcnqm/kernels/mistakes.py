"""What is wrong with a user's function, in one line: each is compiled on its own before a kernel is.

A kernel that cannot be compiled fills a page, in which the function is named somewhere. So the functions of an
optimizer or a landscape that is not the package's own are compiled by themselves once, which takes a tenth of a second.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from numba import typeof
from numba.core import types as numba_types
from numba.core.errors import NumbaError

from mcnqm.errors import ParameterError
from mcnqm.kernels.gradients import kind_of
from mcnqm.kernels.updates import rule_of
from mcnqm.problems.landscapes import Functions

__all__ = ["check_kind", "check_rule", "named"]

types: Any = numba_types


@functools.cache
def check_kind(numbers: type, name: str) -> None:
    """Raise `ParameterError` if the functions of a kind, so named, do not compile, or return no number."""
    entry = typeof(numbers._make([1.0] * len(numbers._fields)))  # type: ignore[attr-defined]
    for part, function in zip(Functions._fields, kind_of(numbers), strict=False):
        result = _result(function, (types.float64, entry), part, name)
        if not _is_number(result):
            raise ParameterError(part, _said(result), f"return a number in {name}")


@functools.cache
def check_rule(hyper_type: type, name: str) -> None:
    """Raise `ParameterError` if a function of an optimizer's rule does not compile, or returns something else.

    Parameters
    ----------
    hyper_type : type
        NamedTuple of hyperparameters, as kernels know it.
    name : str
        Of the optimizer, for the error.
    """
    if hyper_type.__module__.split(".")[0] == __name__.split(".", maxsplit=1)[0]:
        return
    rule = rule_of(hyper_type)
    p = typeof(hyper_type._make([1.0] * len(hyper_type._fields)))  # type: ignore[attr-defined]
    number, n = types.float64, len(rule.state)
    state, clock, coefficients = _numbers(n), _numbers(len(rule.clock_start)), _numbers(0)

    def result_of(function: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
        title = function.py_func.__name__  # type: ignore[attr-defined]
        return title, _result(function, arguments, title, name)

    if rule.local is not None:
        title, result = result_of(rule.local, p, number)
        if result != p:
            raise ParameterError(title, _said(result), f"return hyperparameters, all of them float, in {name}")
    if rule.start is not None:
        title, result = result_of(rule.start, p, number)
        if not _are_numbers(result, n):
            raise ParameterError(title, _said(result), f"return a state of {n} numbers in {name}")
    if rule.clock is not None:
        title, result = result_of(rule.clock, p, clock)
        both = tuple(result) if isinstance(result, types.BaseTuple) and len(result) == 2 else (None, None)
        if not (_are_numbers(both[0], len(clock)) and _are_numbers(both[1])):
            allowed = f"return (k, c), the clock's {len(clock)} numbers and this step's coefficients, in {name}"
            raise ParameterError(title, _said(result), allowed)
        coefficients = _numbers(len(both[1]))
    title, result = result_of(rule.update, p, coefficients, number, number, state)
    both = tuple(result) if isinstance(result, types.BaseTuple) and len(result) == 2 else (None, None)
    if not (_is_number(both[0]) and _are_numbers(both[1], n)):
        allowed = f"return (theta, s) at the end of every branch, with a state s of {n} numbers, in {name}"
        raise ParameterError(title, _said(result), allowed)


def named(error: Exception, hyper_type: type, kind: type | None) -> Exception:
    """What to raise for an error in a kernel: in one line, where it may be the fault of a user's function.

    Functions that compile by themselves may not together, in float32 for instance; and they may raise.
    """
    ours = __name__.split(".", maxsplit=1)[0]
    owners = [owner for owner in (hyper_type, kind) if owner is not None and owner.__module__.split(".")[0] != ours]
    if not owners or isinstance(error, (ParameterError, MemoryError)):
        return error
    names = " and ".join(owner.__qualname__.removesuffix(".Numbers").split(".")[-1] for owner in owners)
    if isinstance(error, NumbaError):
        return ParameterError("functions", _mistake(error), f"compile with Numba in {names}")
    return ParameterError("functions", f"{type(error).__name__}: {error}", f"raise nothing in a run of {names}")


def _result(function: Any, signature: tuple[Any, ...], title: str, name: str) -> Any:
    """The type that a function returns."""
    try:
        function.compile(signature)
    except Exception as error:  # nearly anything: what Numba meets in the function it may raise as it is
        raise ParameterError(title, _mistake(error), f"compile with Numba in {name}") from None
    return function.overloads[signature].signature.return_type


_NOISE = ("Failed in", "During:", "File", "[", "<", "-", "There are", "Overload")
_MISSING = "No implementation of function"


def _mistake(error: Exception) -> str:
    """The line of a compiler's message that says what is wrong."""
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line).strip() for line in str(error).split("\n")]
    telling = [line for line in lines if line and not line.startswith((*_NOISE, ">>>"))]
    line = (telling or [type(error).__name__])[0].split(" Raised from ")[0]
    calls = [line.removeprefix(">>> ") for line in lines if line.startswith(">>> ")]
    if line.startswith(_MISSING) and calls:
        line = f"no {calls[0]} in compiled code"
    line = re.sub("Module\\(<module '([^']*)'[^>]*>\\)", "module \\1", line)
    return line if isinstance(error, NumbaError) else f"{type(error).__name__}: {line}"


def _numbers(count: int) -> Any:
    return types.UniTuple(types.float64, count) if count else types.Tuple(())


def _is_number(kind: Any) -> bool:
    return isinstance(kind, (types.Float, types.Integer))


def _are_numbers(kind: Any, count: int | None = None) -> bool:
    if not isinstance(kind, types.BaseTuple) or (count is not None and len(kind) != count):
        return False
    return all(map(_is_number, kind))


def _said(kind: Any) -> str:
    """A type of Numba's in plain words."""
    if isinstance(kind, types.Optional):
        return f"None in one branch, {_said(kind.type)} in another"
    if isinstance(kind, types.BaseTuple):
        return f"({', '.join(map(_said, kind))}{',' * (len(kind) == 1)})"
    return "nothing" if isinstance(kind, types.NoneType) else "a number" if _is_number(kind) else f"a {kind}"
