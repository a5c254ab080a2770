"""How a result came about: every Dataset says which call made it, exactly enough to make that call again.

One attribute, ``config``, holds it as JSON: the function and all its arguments, defaults included. Arrays are lists of
floats that read back to the same bits. Problems, optimizers and schedules are told by class and constructor arguments,
so that a class of one's own takes part once it is defined in the process that reads. What does not change numbers
(executors, threads, progress) is left out. The other attributes, such as ``seed`` and ``problem``, are for reading.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

import numpy as np
import xarray as xr

from mcnqm._version import __version__
from mcnqm.arguments import default, is_default, value_of
from mcnqm.averaging import Harmonic
from mcnqm.errors import ParameterError
from mcnqm.optimizers import is_optimizer, named_optimizers
from mcnqm.problems import NoisyQuadratic
from mcnqm.schedules import Curve, Function, Joined, Later, Scaled, Schedule, Segments

__all__ = [
    "arguments_of",
    "encoded",
    "optimizer_of",
    "problem_of",
    "recorded",
    "records_itself",
    "register",
    "rerun",
    "settled",
]

F = TypeVar("F", bound=Callable[..., xr.Dataset])

_NEUTRAL = ("executor", "threads", "progress", "meter", "checkpoint")
"""Arguments that change no number."""

_HOMES = ("mcnqm", "mcnqm.problems", "mcnqm.studies.contenders")
"""Modules whose classes are known by their name alone."""

_INT32_MAX = 2**31 - 1

_PLAIN = (type(None), bool, int, float, str)

_own: dict[str, type] = {}
"""Classes that users registered."""

_nested: ContextVar[bool] = ContextVar("nested", default=False)
"""Whether a call that is recorded is under way: theory that it asks in turn is not."""


# ------------------------------------------------------------------------------------------------------- recording


def recorded(name: str, config: type | None = None) -> Callable[[F], F]:
    """Make a function that returns a Dataset write down how it was called.

    Parameters
    ----------
    name : str
        Where the function is found again: module and name, such as ``"mcnqm.simulate"``.
    config : type, optional
        The dataclass whose instance the function takes as `config`, if it takes one: its fields are written down as if
        they were arguments, and None stands for its defaults.

    Returns
    -------
    callable
        A decorator. Theory that a recorded function asks is not written down, so that searches stay fast.
    """
    inner = name.startswith("mcnqm.analytic.")

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> xr.Dataset:
            if inner and _nested.get():
                return function(*args, **kwargs)
            token = _nested.set(True)
            try:
                result = function(*args, **kwargs)
            finally:
                _nested.reset(token)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = {
                key: value
                for key, value in bound.arguments.items()
                # Of defaults that are objects there is nothing to say.
                if key not in _NEUTRAL
                and (value is not signature.parameters[key].default or is_default(value) or isinstance(value, _PLAIN))
            }
            if config is not None:
                study = given.pop("config", None)
                study = config() if study is None else study
                given = {**{field.name: getattr(study, field.name) for field in fields(study)}, **given}
            return result.assign_attrs(_attributes(name, given, dict(result.attrs)))

        return _marked(cast("F", wrapper), name, config)

    return decorate


def records_itself(name: str) -> Callable[[F], F]:
    """Mark a function that writes its configuration, ``config`` with ``function``, on its own, for `rerun`."""
    return lambda function: _marked(function, name, None)


def _marked(function: F, name: str, config: type | None) -> F:
    marks: Any = function
    marks.__recorded__, marks.__config__ = name, config
    return function


def settled(**values: Any) -> dict[str, Any]:
    """Attributes by which a recorded function says what an argument that it was left to choose came to."""
    return {"config": json.dumps({key: encoded(value) for key, value in values.items()})}


def _attributes(name: str, given: dict[str, Any], present: dict[str, Any]) -> dict[str, Any]:
    """All attributes of a result, in types that every netCDF version stores; those that are there stay."""
    chosen = json.loads(present.pop("config", "{}"))
    chosen = {} if "function" in chosen else chosen  # of a call within
    found: dict[str, Any] = {"mcnqm_version": __version__}
    for key, value in {**given, **chosen}.items():
        if key == "problem":
            found[key] = repr(value)
        elif key == "optimizer":
            found[key] = _readable(value)
        elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            found[key] = int(value) if abs(int(value)) <= _INT32_MAX else str(int(value))
        elif isinstance(value, (float, str)):
            found[key] = value
    found.update(present)
    if "method" in given:
        found["method"] = given["method"]
    arguments = {key: encoded(value) for key, value in given.items()}
    found["config"] = json.dumps({"function": name, **arguments, **chosen, "mcnqm_version": __version__})
    return found


def _readable(optimizer: Any) -> str:
    if not is_optimizer(optimizer):
        return repr(optimizer)
    parts = []
    for name, value in optimizer._asdict().items():
        sizes = np.shape(value) if not isinstance(value, Schedule) else ()
        parts.append(f"{name}=<{' x '.join(map(str, sizes))} values>" if sizes else f"{name}={value!r}")
    return f"{type(optimizer).__name__}({', '.join(parts)})"


# --------------------------------------------------------------------------------------------------------- reading


def problem_of(result: xr.Dataset) -> Any:
    """The problem that a result is of.

    Parameters
    ----------
    result : xarray.Dataset
        From any function of the package, also after it was saved and read back.

    Returns
    -------
    problem
        Equal to the one that was passed, to the last bit.

    Raises
    ------
    ParameterError
        If the Dataset does not carry a configuration with a problem, or its class is not known here.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=10)
    >>> runs = mcnqm.simulate(problem, mcnqm.SGD(lr=0.1), batch_size=8, steps=5, trajectories=2)
    >>> mcnqm.provenance.problem_of(runs) == problem
    True
    """
    return _part(result, "problem")


def optimizer_of(result: xr.Dataset) -> Any:
    """The optimizer of a result, with all hyperparameters, sweeps and schedules; of several, a dict by label.

    Parameters
    ----------
    result : xarray.Dataset
        From any function of the package that takes an optimizer, also after it was saved and read back.

    Returns
    -------
    optimizer or dict of str to optimizer

    Raises
    ------
    ParameterError
        If the Dataset does not carry a configuration with an optimizer, or its class is not known here: define or
        import it first.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=10)
    >>> adam = mcnqm.Adam(lr=mcnqm.schedules.cosine(0.1, steps=100))
    >>> runs = mcnqm.simulate(problem, adam, batch_size=8, steps=100, trajectories=2)
    >>> mcnqm.provenance.optimizer_of(runs) == adam
    True
    """
    config = _config(result)
    if "contenders" in config:
        return {label: one.optimizer for label, one in decoded(config["contenders"]).items()}
    return _part(result, "optimizers" if "optimizers" in config else "optimizer")


def arguments_of(result: xr.Dataset) -> dict[str, Any]:
    """The arguments of the call that made a result, by name; those that change no number are left out.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=10)
    >>> risk = mcnqm.analytic.risk(problem, mcnqm.SGD(lr=0.1), batch_size=8, steps=3)
    >>> arguments_of(risk)["steps"], arguments_of(risk)["average"]
    (3, None)
    """
    return {key: value_of(value) for key, value in _given(result).items()}


def rerun(result: xr.Dataset, **changes: Any) -> xr.Dataset:
    """Make the call again that a result came from.

    Parameters
    ----------
    result : xarray.Dataset
        From any function of the package, also after it was saved and read back.
    **changes
        Arguments to take instead of those recorded, such as ``seed=1``, or ``threads=2``, which is not recorded.

    Returns
    -------
    xarray.Dataset
        The same numbers, if nothing is changed and the package's version is that in ``mcnqm_version``.

    Raises
    ------
    ParameterError
        If the Dataset carries no configuration, or what it names is not known here (a function of the step or a class
        of one's own that has not been defined or imported), or a change is not an argument of that function.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=10)
    >>> runs = mcnqm.simulate(problem, mcnqm.SGD(lr=[0.1, 0.2]), batch_size=8, steps=50, trajectories=4, seed=3)
    >>> mcnqm.provenance.rerun(runs).identical(runs)
    True
    """
    name = _config(result).get("function")
    function = _function(name)
    given = _given(result)
    parameters = inspect.signature(function).parameters
    open_ended = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    config_class = function.__config__
    known = set(parameters) | ({field.name for field in fields(config_class)} if config_class is not None else set())
    for key in changes:
        if key not in known and not open_ended:
            raise ParameterError("changes", key, f"be arguments of {name}: {', '.join(sorted(known))}")
    given = {**given, **changes}
    if config_class is not None:
        own = {field.name: given.pop(field.name) for field in fields(config_class) if field.name in given}
        given["config"] = config_class(**{key: _tuple(value) for key, value in own.items()})
    rest = given.pop("options", None) if open_ended else None
    return cast("xr.Dataset", function(**given, **(rest or {})))


def register(cls: type) -> type:
    """Make a class of problems known by its name, so that results of it can be read in this process.

    Its instances are told by the constructor's arguments, each an attribute of the same name, or by ``to_dict`` and
    ``from_dict``. Classes of the package are known already, and so are optimizers.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @register
    ... @dataclass(frozen=True)
    ... class Slope:
    ...     steepness: float
    >>> encoded(Slope(2.0))
    {'kind': 'Slope', 'steepness': 2.0}
    """
    _own[cls.__name__] = cls
    return cls


def _config(result: Any) -> dict[str, Any]:
    if not isinstance(result, xr.Dataset) or "config" not in result.attrs:
        raise ParameterError("result", type(result).__name__, "be a Dataset of this package, with its configuration")
    return dict(json.loads(result.attrs["config"]))


def _given(result: Any) -> dict[str, Any]:
    config = _config(result)
    return {key: decoded(value) for key, value in config.items() if key not in ("function", "mcnqm_version")}


def _part(result: Any, name: str) -> Any:
    config = _config(result)
    if name not in config:
        raise ParameterError("result", config.get("function", "a result"), f"carry its {name}")
    return decoded(config[name])


def _function(name: Any) -> Any:
    """A function of the package by the name under which it was recorded: no other is ever called."""
    module, _, attribute = str(name).rpartition(".")
    found = None
    if module == "mcnqm" or module.startswith("mcnqm."):
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ImportError:
            found = None
    if found is None or getattr(found, "__recorded__", None) != name:
        raise ParameterError("result", name, "be of a function that this version of the package has")
    return found


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# ------------------------------------------------------------------------------------------- objects as plain data


def encoded(value: Any) -> Any:
    """An argument as plain data for JSON.

    Examples
    --------
    >>> import mcnqm
    >>> encoded(mcnqm.Signum(lr=0.1))["name"], encoded([0.1, np.float64(0.2)])
    ('Signum', [0.1, 0.2])
    """
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if is_default(value):  # where only some answers use it, what was left out is to be left out again
        return {"default": encoded(value_of(value))}
    if isinstance(value, Schedule):
        parts = {"scale": value.scale, "which": value.which}
        labels = {key: _labels(one) for key, one in parts.items() if isinstance(one, xr.DataArray)}
        return {**value.to_dict(), **({"labels": labels} if labels else {})}
    if isinstance(value, xr.DataArray):
        return _encoded_array(value)
    if is_optimizer(value):
        return {"name": type(value).__name__, **{key: encoded(one) for key, one in value._asdict().items()}}
    if type(value) is NoisyQuadratic:
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): encoded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, range)) and not hasattr(value, "_fields"):
        return [encoded(one) for one in value]
    kind = type(value).__name__
    if _known(kind) is type(value):
        return {"kind": kind, **_constructor_arguments(value)}
    return {"opaque": repr(value)}


def decoded(value: Any) -> Any:
    """What `encoded` described."""
    if isinstance(value, list):
        return [decoded(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"default"}:
        return default(decoded(value["default"]))
    if "opaque" in value:
        raise ParameterError("result", value["opaque"], "be of arguments that can be written down")
    if isinstance(kind := value.get("kind"), str):
        return _made(kind, {key: one for key, one in value.items() if key != "kind"})
    if isinstance(name := value.get("name"), str):
        cls = named_optimizers().get(name.lower())
        if cls is None:
            raise ParameterError("result", name, "be of an optimizer that is known here: define or import its class")
        return cls(**{key: decoded(one) for key, one in value.items() if key != "name"})
    if {"scale", "curves", "which"} <= value.keys():
        return _schedule(value)
    if {"dims", "values"} <= value.keys():
        return _decoded_array(value)
    if {"curvature", "noise", "initial_mean", "initial_std"} <= value.keys():
        return NoisyQuadratic.from_dict(value)
    return {key: decoded(one) for key, one in value.items()}


def _known(kind: str) -> type | None:
    if kind in _own:
        return _own[kind]
    for home in _HOMES:
        found = getattr(importlib.import_module(home), kind, None)
        if isinstance(found, type):
            return found
    return None


def _constructor_arguments(value: Any) -> dict[str, Any]:
    if hasattr(type(value), "from_dict"):
        return dict(value.to_dict())
    names = [field.name for field in fields(value) if field.init] if is_dataclass(value) else None
    names = list(inspect.signature(type(value)).parameters) if names is None else names
    return {name: encoded(getattr(value, name)) for name in names}


def _made(kind: str, given: dict[str, Any]) -> Any:
    cls: Any = _known(kind)
    if cls is None:
        raise ParameterError("result", kind, "be of a class that is known here: see mcnqm.provenance.register")
    if hasattr(cls, "from_dict"):
        return cls.from_dict(given)
    return cls(**{key: decoded(one) for key, one in given.items()})


def _encoded_array(array: xr.DataArray) -> dict[str, Any]:
    return {**_labels(array), "values": array.values.tolist()}


def _labels(array: xr.DataArray) -> dict[str, Any]:
    """Everything of an array but its values."""
    levels = {dim: list(index.names) for dim, index in array.indexes.items() if dim in array.dims and index.nlevels > 1}
    flat = array.reset_index(list(levels)) if levels else array
    found: dict[str, Any] = {
        "dims": list(array.dims),
        "coords": {
            str(name): {"dims": list(one.dims), "values": one.values.tolist(), "attrs": encoded(one.attrs)}
            for name, one in flat.coords.items()
        },
    }
    extras = {"levels": levels, "name": array.name, "attrs": encoded(array.attrs)}
    return {**found, **{key: value for key, value in extras.items() if value}}


def _decoded_array(plain: dict[str, Any]) -> xr.DataArray:
    coords = {name: (one["dims"], one["values"], one["attrs"]) for name, one in plain["coords"].items()}
    array = xr.DataArray(
        np.array(plain["values"]), dims=plain["dims"], coords=coords, name=plain.get("name"), attrs=plain.get("attrs")
    )
    return array.set_index(plain["levels"]) if "levels" in plain else array


def _schedule(plain: dict[str, Any]) -> Schedule:
    labels = plain.get("labels", {})
    parts = {
        key: _decoded_array({**labels[key], "values": plain[key]}) if key in labels else plain[key]
        for key in ("scale", "which")
    }
    scale = np.array(parts["scale"]) if isinstance(parts["scale"], list) else parts["scale"]
    return Schedule(scale, tuple(map(_curve, plain["curves"])), parts["which"])


def _curve(plain: dict[str, Any]) -> Curve:
    """A curve by what it says of itself."""
    if "lengths" in plain:
        return Segments(*(tuple(plain[name]) for name in ("lengths", "first", "last", "shapes")))
    if "begins" in plain:
        return Joined(tuple(map(_curve, plain["curves"])), tuple(plain["begins"]))
    if "eta" in plain:
        return Harmonic(plain["start"], plain["eta"], plain["limit"])
    if "curve" in plain:
        inner = _curve(plain["curve"])
        return Scaled(inner, plain["scale"]) if "scale" in plain else Later(inner, plain["start"])
    return Function(_callable(str(plain.get("function", plain))))


def _callable(name: str) -> Callable[..., Any]:
    """A function by module and name, of the modules that this process has imported."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:cut]))
        for part in parts[cut:] if found is not None else ():
            found = getattr(found, part, None)
        if callable(found):
            return cast("Callable[..., Any]", found)
    raise ParameterError("result", name, "be of functions of the step that are known here: import their module first")
