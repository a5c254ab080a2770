"""The forms that kernels know an optimizer by: which of its options a compiled loop carries.

An optimizer with options comes in several forms, each a `NamedTuple` with an update of its own, so that nobody pays
for a momentum that is zero or a switch that is off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.kernels.updates import newest, rule_of

__all__ = ["has_twin", "iterate_row", "kernel_form", "kernel_forms"]

Values = dict[str, NDArray[np.float64]]
Choice = Callable[[Any, Values], type]

_CHOICES: dict[type, tuple[Choice, tuple[type, ...]]] = {}


def kernel_forms(optimizer: type, *forms: type) -> Callable[[Choice], Choice]:
    """Give an optimizer several forms; the decorated function chooses one.

    ``choice(optimizer, values) -> type``, from the description, whose switches count, and every numeric hyperparameter
    as one float per setting (of a schedule, its scale). Each form has an update of its own (`mcnqm.update_rule`), and
    its fields are hyperparameters of the optimizer. Those it lacks make no difference where it is chosen.
    """

    def decorate(choice: Choice) -> Choice:
        _CHOICES[optimizer] = choice, forms
        return choice

    return decorate


def kernel_form(optimizer: Any, values: Values) -> tuple[type, NDArray[np.float64]]:
    """The type that kernels know an optimizer by, and its fields, shape (fields, settings)."""
    kind: type = type(optimizer)
    if kind in _CHOICES:
        kind = _CHOICES[kind][0](optimizer, values)
    size = next(iter(values.values())).size
    switches = {name: np.full(size, float(getattr(optimizer, name))) for name in optimizer._switches}
    columns = {**values, **switches}
    names: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    return newest(kind), np.stack([columns[name] for name in names])


def iterate_row(optimizer: Any) -> int:
    """Which variable is the iterate, in the order of theta and the state: the same in all forms of an optimizer."""
    kinds = _CHOICES[type(optimizer)][1] if type(optimizer) in _CHOICES else (type(optimizer),)
    return rule_of(kinds[0]).row


def has_twin(optimizer: Any) -> bool:
    """Whether every form of the optimizer has a mean-field twin, for use as a control variate."""
    kinds = _CHOICES[type(optimizer)][1] if type(optimizer) in _CHOICES else (type(optimizer),)
    return all(rule_of(kind).twin is not None for kind in kinds)
