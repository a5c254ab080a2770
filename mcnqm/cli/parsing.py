"""Words of the command line to objects: optimizers, numbers, lists and ranges."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import numpy as np

from mcnqm.domains import positive
from mcnqm.errors import ParameterError
from mcnqm.optimizers import named_optimizers
from mcnqm.problems import NoisyQuadratic
from mcnqm.studies.contenders import CONTENDERS, Contender

__all__ = ["check_target", "parse_contender", "parse_numbers", "parse_optimizer"]

_SPEC = 'look like "adam lr=1e-3 beta2=0.99"'


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


def check_target(target: float, problem: NoisyQuadratic) -> None:
    """Raise `ParameterError` for a target that needs no optimizer: at or above the risk at the start."""
    positive.check("target", target)
    if target >= problem.initial_risk:
        raise ParameterError("target", target, f"be below the risk at the start, {problem.initial_risk:.4g}")


def parse_contender(text: str) -> tuple[str, Contender]:
    """A contender of a scaling study by name, or an optimizer whose rate is to be tuned; its label first.

    Examples
    --------
    >>> parse_contender("adam")[0], parse_contender("adam beta2=0.99")[1].optimizer.beta2
    ('adam', 0.99)
    """
    if text in CONTENDERS:
        return text, CONTENDERS[text]
    words = text.split()
    if not words:
        raise ParameterError("optimizer", text, _SPEC)
    if any(word.startswith("lr=") for word in words[1:]):
        raise ParameterError("optimizer", text, "leave out lr, which is tuned")
    optimizer = parse_optimizer(f"{text} lr=1")
    for name, value in optimizer._asdict().items():
        if np.ndim(value):
            raise ParameterError(name, value, "be a scalar in a scaling study")
    return text, Contender(optimizer)


def parse_optimizer(text: str) -> Any:
    """Make an optimizer from its name and ``field=value`` pairs; ``module:Class`` imports one of your own.

    Examples
    --------
    >>> parse_optimizer("sgd lr=0.1 momentum=0.9 nesterov=true")
    SGD(lr=0.1, momentum=0.9, nesterov=True, precondition=0.0, weight_decay=0.0, dampening=0.0)
    >>> parse_optimizer("sdg lr=0.1")
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: optimizer must be one of adam, ..., got 'sdg'
    """
    words = text.split()
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
            values[name] = parse_numbers(name, value)
    missing = [f for f in fields if f not in values and f not in cls._field_defaults]  # type: ignore[attr-defined]
    if missing:
        raise ParameterError("optimizer", text, f"give {', '.join(missing)}")
    return cls(**values)


def _class_of(name: str) -> type:
    if ":" in name:
        module, _, attribute = name.partition(":")
        if "" not in sys.path and os.getcwd() not in sys.path:  # `python -m` has it, an installed script does not
            sys.path.insert(0, os.getcwd())
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # a module may raise anything as it is imported
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise ParameterError("optimizer", name, f"be importable ({why})") from None
        if not (isinstance(found, type) and hasattr(found, "_switches")):
            raise ParameterError("optimizer", name, "be made with mcnqm.hyperparameters")
        return found
    known = named_optimizers()
    if name.lower() not in known:
        raise ParameterError("optimizer", name, f"be one of {', '.join(sorted(known))} or module:Class")
    return known[name.lower()]
