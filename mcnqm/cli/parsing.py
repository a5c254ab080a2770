"""Words of the command line to objects: optimizers, numbers, lists and ranges."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np

from mcnqm.cli.curves import parse_value, words_of
from mcnqm.cli.imports import imported
from mcnqm.domains import positive
from mcnqm.errors import ParameterError
from mcnqm.optimizers import named_optimizers
from mcnqm.problems import Problem
from mcnqm.schedules import Schedule
from mcnqm.studies.contenders import CONTENDERS, Contender

__all__ = ["check_target", "expanded", "parse_contenders", "parse_optimizer"]

_SPEC = 'look like "adam lr=1e-3 beta2=0.99"'


def check_target(target: float, problem: Problem) -> None:
    """Raise `ParameterError` for a target that needs no optimizer: at or above the risk at the start."""
    positive.check("target", target)
    if target >= problem.initial_risk:
        raise ParameterError("target", target, f"be below the risk at the start, {problem.initial_risk:.4g}")


def parse_contenders(text: str) -> dict[str, Contender]:
    """A contender of a scaling study by name, or optimizers whose rate is to be tuned, one for each point of a sweep.

    Examples
    --------
    >>> list(parse_contenders("adam")), list(parse_contenders("sgd precondition=0,0.5"))
    (['adam'], ['sgd precondition=0', 'sgd precondition=0.5'])
    """
    if text in CONTENDERS:
        return {text: CONTENDERS[text]}
    words = words_of(text)
    if not words:
        raise ParameterError("optimizer", text, _SPEC)
    if any(word.startswith("lr=") for word in words[1:]):
        raise ParameterError("optimizer", text, "leave out lr, which is tuned")
    found = {}
    for label, optimizer in expanded(f"{text} lr=1").items():
        for name, value in optimizer._asdict().items():
            if isinstance(value, Schedule):
                raise ParameterError(name, value, "be the same at every step in a scaling study")
        found[label.removesuffix(" lr=1")] = Contender(optimizer)
    return found


def parse_optimizer(text: str) -> Any:
    """Make an optimizer from its name and ``field=value`` pairs; ``module:Class`` imports one of your own.

    Values are those of `mcnqm.cli.curves.parse_value`.

    Examples
    --------
    >>> parse_optimizer("sgd lr=0.1 momentum=0.9 nesterov=true")
    SGD(lr=0.1, momentum=0.9, nesterov=True, precondition=0.0, weight_decay=0.0, dampening=0.0)
    >>> parse_optimizer("sdg lr=0.1")
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: optimizer must be one of adam, ..., got 'sdg'
    """
    words = words_of(text)
    if not words:
        raise ParameterError("optimizer", text, _SPEC)
    cls = _class_of(words[0])
    fields: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]
    values: dict[str, Any] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals:
            raise ParameterError("optimizer", text, _SPEC)
        if name not in fields:
            raise ParameterError("optimizer", text, f"have fields among {', '.join(fields)}")
        if name in values:
            raise ParameterError("optimizer", text, f"give {name} once")
        if name in cls._switches:  # type: ignore[attr-defined]
            if value.lower() not in ("true", "false"):
                raise ParameterError(name, value, "be true or false")
            values[name] = value.lower() == "true"
        else:
            values[name] = parse_value(name, value)
    missing = [f for f in fields if f not in values and f not in cls._field_defaults]  # type: ignore[attr-defined]
    if missing:
        raise ParameterError("optimizer", text, f"give {', '.join(missing)}")
    return cls(**values)


def expanded(text: str) -> dict[str, Any]:
    """An optimizer as it is, or, if it sweeps anything, one for every combination, each with a text of its own.

    Examples
    --------
    >>> list(expanded("sgd lr=0.1,0.2 momentum=0.9"))
    ['sgd lr=0.1 momentum=0.9', 'sgd lr=0.2 momentum=0.9']
    """
    optimizer = parse_optimizer(text)
    scales = {
        name: value.scale if isinstance(value, Schedule) else value
        for name, value in optimizer._asdict().items()
        if np.ndim(value.scale if isinstance(value, Schedule) else value)
    }
    found = {}
    for chosen in itertools.product(*map(np.ndarray.tolist, map(np.asarray, scales.values()))):
        one = dict(zip(scales, chosen, strict=True))
        words = [_with_scale(word, one) for word in words_of(text)]
        found[" ".join(words)] = parse_optimizer(" ".join(words))
    return found


def _with_scale(word: str, chosen: dict[str, float]) -> str:
    """A word with the number of its own in place of all that are swept."""
    name, equals, value = word.partition("=")
    if not equals or name not in chosen:
        return word
    number = f"{chosen[name]:.12g}"
    kind, bracket, rest = value.partition("(")
    if not bracket:
        return f"{name}={number}"
    swept = re.match(r"\[[^\]]*\]|[^,)]*", rest)
    return f"{name}={kind}({number}{rest[swept.end() if swept else 0 :]}"


def _class_of(name: str) -> type:
    if ":" in name:
        found = imported("optimizer", name)
        if not (isinstance(found, type) and hasattr(found, "_switches")):
            raise ParameterError("optimizer", name, "be made with mcnqm.hyperparameters")
        return found
    known = named_optimizers()
    if name.lower() not in known:
        raise ParameterError("optimizer", name, f"be one of {', '.join(sorted(known))} or module:Class")
    return known[name.lower()]
