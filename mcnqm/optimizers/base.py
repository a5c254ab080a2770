"""What makes a `NamedTuple` of hyperparameters an optimizer: checks of its values, and a name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, get_type_hints

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from mcnqm.domains import Domain, finite
from mcnqm.errors import ParameterError
from mcnqm.schedules import Schedule

__all__ = ["Number", "combined", "domain_of", "hyperparameters", "is_optimizer", "named_optimizers", "numeric_fields"]

Number: TypeAlias = float | ArrayLike | xr.DataArray | Schedule
"""A numeric hyperparameter: a scalar, a 1-D array (its dimension is its own name), a DataArray, or a `Schedule`."""

T = TypeVar("T", bound=type)

_REGISTRY: dict[str, type] = {}


def hyperparameters(check: Callable[[Any], None] | None = None, /, **domains: Domain) -> Callable[[T], T]:
    """Make a `NamedTuple` of hyperparameters an optimizer that checks its values.

    Every field is numeric (scalar, 1-D array, `xarray.DataArray` or `mcnqm.schedules.Schedule`) unless it is
    annotated ``bool``; a ``bool`` field is a switch and takes a single value. Numeric fields without a domain must
    be finite.

    Parameters
    ----------
    check : callable, optional
        Called with every new instance after its fields have been checked one by one, to refuse combinations of them:
        it raises `mcnqm.errors.ParameterError` or returns nothing. See `combined`.
    **domains : Domain
        The allowed set of each field: `mcnqm.domains.positive`, ``nonnegative``, ``unit_interval``, ``finite``
        or your own `mcnqm.domains.Domain`.

    Returns
    -------
    callable
        A class decorator. It returns the same class, with checks on construction, comparison that understands
        arrays, and its lower-case name known to the command line.

    Examples
    --------
    >>> from typing import NamedTuple
    >>> from mcnqm.domains import positive
    >>> @hyperparameters(lr=positive)
    ... class SignSGD(NamedTuple):
    ...     lr: Number
    >>> SignSGD(lr=0.0)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: lr must be > 0, got 0.0
    """
    if check is not None and not callable(check):
        raise ParameterError("check", check, "be a function of an instance, or left out")

    def decorate(cls: T) -> T:
        if not (isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")):
            raise ParameterError("optimizer", getattr(cls, "__name__", cls), "be a class of typing.NamedTuple")
        fields: tuple[str, ...] = cls._fields
        if unknown := sorted(set(domains) - set(fields)):
            raise ParameterError("domains", unknown, f"name fields of {cls.__name__}: {', '.join(fields)}")
        hints = get_type_hints(cls, localns={"Number": Any})
        switches = frozenset(name for name in fields if hints[name] is bool)
        plain_new = cls.__new__

        @functools.wraps(plain_new)
        def __new__(klass: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            self = plain_new(klass, *args, **kwargs)
            made = klass._make(
                _switch(name, value) if name in switches else _number(name, value, domains.get(name, finite))
                for name, value in zip(fields, self, strict=True)
            )
            if check is not None:
                check(made)
            return made

        def _replace(self: Any, **changes: Any) -> Any:
            return type(self)(**{**self._asdict(), **changes})

        def __eq__(self: Any, other: object) -> bool:  # noqa: N807
            if type(self) is not type(other):
                return False
            return all(_same(a, b) for a, b in zip(self, other, strict=True))  # type: ignore[call-overload]

        def __hash__(self: Any) -> int:  # noqa: N807
            return hash((type(self), *map(_hash, self)))

        def __ne__(self: Any, other: object) -> bool:  # noqa: N807 - a tuple has one of its own
            return not __eq__(self, other)

        methods = {"__new__": __new__, "__eq__": __eq__, "__ne__": __ne__, "__hash__": __hash__}
        for name, value in {**methods, "_replace": _replace, "_switches": switches, "_domains": domains}.items():
            setattr(cls, name, value)
        _REGISTRY[cls.__name__.lower()] = cls
        return cls

    return decorate


def is_optimizer(value: object) -> bool:
    """Whether `value` is an instance of a class made with `hyperparameters`."""
    return hasattr(type(value), "_switches")


def numeric_fields(optimizer: Any) -> dict[str, Any]:
    """The hyperparameters that may vary over a sweep, in the order of the class, without the switches.

    Examples
    --------
    >>> from mcnqm import RMSProp
    >>> numeric_fields(RMSProp(lr=0.1, centered=True))
    {'lr': 0.1, 'alpha': 0.99, 'eps': 1e-08, 'momentum': 0.0, 'eps_root': 0.0}
    """
    if not is_optimizer(optimizer):
        raise ParameterError("optimizer", optimizer, "be an optimizer such as mcnqm.SGD(lr=0.1)")
    return {name: value for name, value in optimizer._asdict().items() if name not in optimizer._switches}


def domain_of(optimizer: Any, name: str) -> Domain:
    """The allowed set of a numeric hyperparameter."""
    domain: Domain = optimizer._domains.get(name, finite)
    return domain


def combined(optimizer: Any, *names: str) -> tuple[NDArray[np.float64], ...]:
    """Hyperparameters as the settings of a sweep combine them: arrays of one shape.

    A schedule stands for its scale. Where labels of a shared dimension differ there is no setting, and the value is
    NaN; `mcnqm.settings.settings_of` refuses those.
    """
    given = {name: getattr(optimizer, name) for name in names}
    values = {name: value.scale if isinstance(value, Schedule) else value for name, value in given.items()}
    arrays = [
        value if isinstance(value, xr.DataArray) else xr.DataArray(value, dims=[name] * np.ndim(value))
        for name, value in values.items()
    ]
    return tuple(np.asarray(array.values, dtype=np.float64) for array in xr.broadcast(*arrays))


def named_optimizers() -> dict[str, type]:
    """Every optimizer class by its lower-case name, those that users added included."""
    return dict(_REGISTRY)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ParameterError(name, value, "be True or False")
    return bool(value)


def _hash(value: Any) -> int:
    return hash(value) if isinstance(value, Schedule) else hash((np.asarray(value) + 0).tobytes())


def _number(name: str, value: Any, domain: Domain) -> Any:
    if isinstance(value, Schedule):
        return value.check(name, domain)
    if isinstance(value, xr.DataArray):
        data = domain.check(name, value.values)
        data.flags.writeable = False
        return value.copy(data=data)
    array = domain.check(name, value)
    if array.ndim == 0:
        return float(array)
    if array.ndim != 1:
        raise ParameterError(name, f"shape {array.shape}", "be a scalar, a 1-D array or an xarray.DataArray")
    array.flags.writeable = False
    return array


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Schedule) or isinstance(b, Schedule):
        return isinstance(a, Schedule) and a == b
    if isinstance(a, xr.DataArray) or isinstance(b, xr.DataArray):
        return isinstance(a, xr.DataArray) and isinstance(b, xr.DataArray) and a.identical(b)
    return np.array_equal(a, b)
