"""Schedules and averages as words: ``cosine(0.5,steps=1000)``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from mcnqm import averaging, schedules
from mcnqm.errors import ParameterError

__all__ = ["parse_average", "parse_numbers", "parse_value", "parse_whole", "words_of"]

_SCHEDULES = {
    name: getattr(schedules, name)
    for name in ("constant", "linear", "cosine", "exponential", "piecewise", "warmup_stable_decay")
}
_AVERAGES = {name: getattr(averaging, name) for name in ("tail", "polynomial", "growing")}

_CALL = re.compile(r"(\w+)\((.*)\)\Z", re.DOTALL)


def words_of(text: str) -> list[str]:
    """The words of a specification; what stands in brackets is one, without its blanks.

    Examples
    --------
    >>> words_of("sgd lr=cosine(0.5, steps=1000) momentum=0.9")
    ['sgd', 'lr=cosine(0.5,steps=1000)', 'momentum=0.9']
    """
    return re.sub(r"\([^()]*\)", lambda part: re.sub(r"\s+", "", part.group()), text).split()


def parse_numbers(name: str, text: str) -> Any:
    """A number, a comma-separated list, or ``low:high:count`` spaced evenly on a logarithmic axis.

    Examples
    --------
    >>> parse_numbers("lr", "0.1"), parse_numbers("lr", "0.1,0.2"), parse_numbers("lr", "1e-3:1e-1:3")
    (0.1, array([0.1, 0.2]), array([0.001, 0.01 , 0.1  ]))
    """
    allowed = "be a number, a list 0.1,0.2 or a log-spaced range 1e-3:1e-1:9"
    try:
        if ":" in text:
            low, high, count = text.split(":")
            if not (float(low) > 0 and float(high) > 0 and int(count) > 0):
                raise ValueError
            return np.geomspace(float(low), float(high), int(count))
        if "," in text:
            return np.array([float(part) for part in text.split(",")])
        return float(text)
    except ValueError:
        raise ParameterError(name, text, allowed) from None


def parse_whole(name: str, text: str) -> list[int]:
    """Whole numbers: a list, or a log-spaced range, rounded.

    Examples
    --------
    >>> parse_whole("record", "1,10,100"), parse_whole("record", "1:1000:4")
    ([1, 10, 100], [1, 10, 100, 1000])
    """
    numbers = np.atleast_1d(parse_numbers(name, text))
    if ":" in text:
        return [int(number) for number in np.unique(np.round(numbers))]
    for number in numbers[~(np.isfinite(numbers) & (numbers == np.floor(numbers)))]:
        raise ParameterError(name, float(number), "be whole numbers")
    return [int(number) for number in numbers]


def parse_value(name: str, text: str) -> Any:
    """As `parse_numbers`, or a schedule: the name of a function of `mcnqm.schedules` and its arguments.

    Its first argument may be swept: a list in square brackets, or a range.

    Examples
    --------
    >>> parse_value("lr", "cosine(0.5,steps=1000)")(500)
    0.25
    >>> parse_value("lr", "linear([0.1,0.2],steps=10)").scale
    array([0.1, 0.2])
    >>> parse_value("lr", "piecewise([0.1,0.01],[500,1])")(500)
    0.01
    >>> parse_value("lr", "cosin(0.5,steps=1000)")
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: lr must be a number, ... or a schedule: constant, ..., got 'cosin(0.5,steps=1000)'
    """
    return _call(name, text, _SCHEDULES) if "(" in text else parse_numbers(name, text)


def parse_average(text: str) -> Any:
    """A weight of the past, a schedule of it, or one of the averages of `mcnqm.averaging`.

    Examples
    --------
    >>> parse_average("0.99"), parse_average("tail(100)") == averaging.tail(100)
    (0.99, True)
    """
    return _call("average", text, {**_AVERAGES, **_SCHEDULES}) if "(" in text else parse_numbers("average", text)


def _call(name: str, text: str, known: dict[str, Any]) -> Any:
    call = _CALL.match(text)
    if call is None or call[1] not in known:
        kind = f"be a number, a list 0.1,0.2, a range 1e-3:1e-1:9 or a schedule: {', '.join(known)}"
        raise ParameterError(name, text, f"{kind}, such as {'cosine(0.5,steps=1000)'}")
    given: list[Any] = []
    named: dict[str, Any] = {}
    for part in filter(None, re.split(r",(?![^\[]*\])", call[2])):
        key, equals, value = part.rpartition("=")
        if not equals and named:
            raise ParameterError(name, text, "give arguments without a name first")
        if equals:
            named[key] = _argument(name, value)
        else:
            given.append(_argument(name, value))
    try:
        return known[call[1]](*given, **named)
    except TypeError as error:  # of the call itself: what it lacks, or does not know
        why = re.sub(r"^\w+\(\)", call[1], str(error))
        raise ParameterError(name, text, f"be a call that mcnqm knows ({why})") from None


def _argument(name: str, text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return [_argument(name, part) for part in text[1:-1].split(",")]
    if re.fullmatch(r"[A-Za-z_]+", text) and text not in ("inf", "nan"):
        return text
    number = parse_numbers(name, text)
    return int(number) if isinstance(number, float) and number.is_integer() else number
