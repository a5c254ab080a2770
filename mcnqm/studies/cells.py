"""Measurements by name that several questions share: made once, kept in memory and, with a checkpoint, on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mcnqm.checkpoint import Checkpoint

__all__ = ["Cells", "source_fingerprint"]


@dataclass(frozen=True)
class Cells:
    """Finished measurements.

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
