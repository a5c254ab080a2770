"""What varies in a result and what does not, in words: for legends, titles and tables."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from mcnqm.provenance import optimizer_of
from mcnqm.schedules import Schedule

__all__ = [
    "constants",
    "coordinate",
    "labels",
    "name_of",
    "numbers",
    "shared_words",
    "three_digits",
    "varying",
    "wrapped",
]


def varying(runs: xr.Dataset) -> list[str]:
    """Dimensions along which the risk of a result differs by more than the step, in its order.

    Examples
    --------
    >>> runs = xr.Dataset({"risk": (("lr", "batch_size", "step"), np.ones((2, 1, 5)))})
    >>> varying(runs)
    ['lr']
    """
    return [str(dim) for dim, size in runs["risk"].sizes.items() if dim != "step" and size > 1]


def coordinate(runs: xr.Dataset, dim: str) -> xr.DataArray:
    """What tells the entries of a dimension apart: its labels, a hyperparameter along it, or a number.

    Examples
    --------
    >>> runs = xr.Dataset(coords={"lr": ("k", [0.1, 0.2])})
    >>> coordinate(runs, "k").name
    'lr'
    """
    if dim in runs.coords:
        return runs.coords[dim]
    for name, array in runs.coords.items():
        if array.dims == (dim,):
            return runs.coords[name]
    return xr.DataArray(np.arange(runs.sizes[dim]), dims=dim, name=dim)


def name_of(coordinate: xr.DataArray) -> str:
    """The name of a coordinate as a reader would write it."""
    return "batch size" if coordinate.name == "batch_size" else str(coordinate.name)


def labels(coordinate: xr.DataArray) -> list[str]:
    """A label for every entry: numbers as short as they can be told apart, names without what they share.

    Examples
    --------
    >>> labels(xr.DataArray(["sgd lr=0.1 momentum=0.9", "sgd lr=0.2 momentum=0.9"], dims="optimizer"))
    ['lr=0.1', 'lr=0.2']
    """
    if coordinate.dtype.kind in "iuf":
        return numbers(coordinate.values)
    return shared_words([str(value) for value in coordinate.values])[1]


def numbers(values: Any) -> list[str]:
    """Numbers with as few digits, from three, as tell them apart; whole ones in full.

    Examples
    --------
    >>> numbers([1e-4, 0.00017782794, 65536, 1e9])
    ['0.0001', '0.000178', '65536', '1e+09']
    >>> numbers([0.10001, 0.10002])
    ['0.10001', '0.10002']
    """
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    written: list[str] = []
    for digits in range(3, 18):
        written = [f"{v:.0f}" if v == np.floor(v) and abs(v) < 1e6 else f"{v:.{digits}g}" for v in array]
        if len(set(written)) == np.unique(array).size:
            break
    return written


def three_digits(value: float) -> str:
    """Three significant digits, never with an exponent below a million.

    Examples
    --------
    >>> three_digits(117234.0), three_digits(8.9831), three_digits(np.inf)
    ('117000', '8.98', '∞')
    """
    if not np.isfinite(value) or value >= 1e6:
        return f"{value:.2e}" if np.isfinite(value) else "∞"
    if value <= 0:
        return "0.00"
    places = 2 - int(np.floor(np.log10(value)))
    return f"{round(value, places):.{max(0, places)}f}"


def shared_words(names: Sequence[str]) -> tuple[str, list[str]]:
    """Words that all of several names have, and each name without them; nothing is shared if that leaves one empty.

    Examples
    --------
    >>> shared_words(["sgd lr=0.1", "adam lr=0.1"])
    ('lr=0.1', ['sgd', 'adam'])
    >>> shared_words(["sgd lr=0.1", "sgd lr=0.1 momentum=0.9"])
    ('', ['sgd lr=0.1', 'sgd lr=0.1 momentum=0.9'])
    """
    words = [name.split() for name in names]
    common = [word for word in words[0] if all(word in other for other in words[1:])] if len(names) > 1 else []
    rest = [" ".join(word for word in one if word not in common) for one in words]
    return (" ".join(common), rest) if all(rest) else ("", list(names))


def wrapped(facts: Sequence[str], width: int = 84) -> str:
    """Facts as a title, in lines that fit a panel.

    Examples
    --------
    >>> wrapped(["SGD lr=0.1", "batch size 8"])
    'SGD lr=0.1, batch size 8'
    """
    return textwrap.fill(", ".join(facts), width)


def constants(runs: xr.Dataset) -> list[str]:
    """What all settings of a result share: the optimizer, as far as it is one, and the batch size.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=10)
    >>> constants(mcnqm.simulate(problem, mcnqm.Lion(lr=[0.1, 0.2]), batch_size=8, steps=3))
    ['Lion beta1=0.9 beta2=0.99', 'batch size 8']
    """
    facts = [text for text in (_optimizer(runs),) if text]
    if "batch_size" in runs.coords and runs.coords["batch_size"].size == 1:
        facts.append(f"batch size {numbers(runs.coords['batch_size'].values)[0]}")
    return facts


def _optimizer(runs: xr.Dataset) -> str:
    if "optimizer" in runs.coords:
        names = [str(name) for name in np.atleast_1d(runs.coords["optimizer"].values)]
        if len(names) > 1:
            return shared_words(names)[0]
        # As the user wrote it, but for what is swept.
        moving = [name for name, array in runs.coords.items() if array.size > 1]
        return " ".join(word for word in names[0].split() if word.partition("=")[0] not in moving)
    if "optimizer" not in json.loads(runs.attrs.get("config", "{}")):
        return ""
    optimizer = optimizer_of(runs)
    words, usual = [type(optimizer).__name__], type(optimizer)._field_defaults
    for name, value in optimizer._asdict().items():
        if isinstance(value, Schedule):
            words.append(f"{name}: {repr(value).removeprefix('Schedule(').removesuffix(')')},")
        elif np.ndim(value) == 0 and not (usual.get(name) == value and (value in (0, True) or name == "eps")):
            # What is off by default, or on, goes without saying.
            words.append(f"{name}={value}" if isinstance(value, bool) else f"{name}={numbers(value)[0]}")
    return " ".join(words).strip(",")
