"""What studies have in common: parts by name, made once and kept, and checks of the numbers that decide them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from mcnqm.checkpoint import Checkpoint
from mcnqm.domains import Domain, integer
from mcnqm.errors import ParameterError
from mcnqm.progress import Meter, NoMeter

__all__ = ["Cells", "Numbers", "check_counts", "finished", "increasing", "source_fingerprint", "whole_sizes"]

K = TypeVar("K", bound=Hashable)

whole_sizes = Domain("be whole numbers >= 1", lambda x: (x >= 1) & (x == np.floor(x)))


class Numbers:
    """A configuration of numbers, and of tuples of them: base of a dataclass."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, fit for JSON."""
        return dict(vars(self))


def increasing(name: str, values: Any, domain: Domain = whole_sizes) -> None:
    """Raise `ParameterError` unless there are values, all of them in the domain, each above the one before."""
    array = domain.check(name, values)
    if array.ndim != 1 or array.size == 0 or (np.diff(array) <= 0).any():
        raise ParameterError(name, values, "increase")


def check_counts(config: Any, last_seed: int = 2**64 - 1, /, **least: int) -> None:
    """Raise `ParameterError` unless these attributes are whole and no less than that, and the seed is one."""
    for name, low in least.items():
        integer(name, getattr(config, name), low)
    integer("seed", config.seed, 0, last_seed)


def finished(
    parts: Mapping[K, Callable[[], Any]], title: str, checkpoint: Checkpoint | None = None, meter: Meter | None = None
) -> dict[K, Any]:
    """What every part gives, first to last: found in the checkpoint, else made now and kept there.

    Examples
    --------
    >>> finished({"one": lambda: {"made": 1}, "two": lambda: {"made": 2}}, "an example")
    {'one': {'made': 1}, 'two': {'made': 2}}
    """
    meter = NoMeter() if meter is None else meter
    meter.start(float(len(parts)), title)
    found = {}
    try:
        for name, work in parts.items():
            kept = None if checkpoint is None else checkpoint.find(str(name))
            if kept is None:
                kept = work()
                if checkpoint is not None:
                    checkpoint.keep(str(name), kept)
            found[name] = kept
            meter.advance(1.0)
    finally:
        meter.close()
    return found


@dataclass(frozen=True)
class Cells:
    """Finished measurements that several questions share.

    Attributes
    ----------
    checkpoint : Checkpoint, optional
        Where they are kept; in memory only without one.
    """

    checkpoint: Checkpoint | None = None
    _kept: dict[str, xr.Dataset] = field(default_factory=dict, repr=False, compare=False)

    def known(self, name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """A measurement by name: from memory, else from the checkpoint, else made now and kept.

        Examples
        --------
        >>> cells = Cells()
        >>> cells.known("one", lambda: xr.Dataset(attrs={"made": 1})).attrs
        {'made': 1}
        >>> cells.known("one", lambda: xr.Dataset(attrs={"made": 2})).attrs
        {'made': 1}
        """
        if name not in self._kept:
            found = None if self.checkpoint is None else self.checkpoint.find(name)
            if found is None:
                made = compute()
                if self.checkpoint is not None:
                    self.checkpoint.keep(name, made.to_dict())
            else:
                made = _read_back(found)
            self._kept[name] = made
        return self._kept[name]


def source_fingerprint() -> str:
    """A fingerprint of the package's sources: a folder of finished measurements must not outlive what made them."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _read_back(kept: dict[str, Any]) -> xr.Dataset:
    """A Dataset from plain types; lists know the shape of an array unless it is empty."""
    for variable in (*kept["data_vars"].values(), *kept["coords"].values()):
        shape = [kept["dims"][name] for name in variable["dims"]]
        if 0 in shape:
            variable["data"] = np.empty(shape)
    return xr.Dataset.from_dict(kept)
