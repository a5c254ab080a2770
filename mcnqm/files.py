"""Files are written whole or not at all, and whether they can be is found out before the work, not after it."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from mcnqm.errors import ParameterError

__all__ = ["check_writable", "write_dataset", "write_text", "write_whole"]

_INT32_MAX = 2**31 - 1
_UMASK = threading.Lock()
"""A process has one umask, and reading it means setting it for a moment."""


def check_writable(name: str, path: str | os.PathLike[str], suffixes: tuple[str, ...]) -> Path:
    """Return `path`, or raise `ParameterError` if a file cannot be put there. Nothing stays behind.

    Parameters
    ----------
    name : str
        The parameter, for the error.
    path : path-like
        The file to be.
    suffixes : tuple of str
        Endings allowed, such as ``(".nc",)``.
    """
    target = Path(path)
    if target.suffix.lower() not in suffixes:
        raise ParameterError(name, str(path), "end in " + " or ".join(suffixes))
    if target.is_dir():
        raise ParameterError(name, str(path), "be a file, not a directory")
    if not target.parent.is_dir():
        raise ParameterError(name, str(path), "be in an existing directory")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise ParameterError(name, str(path), f"be writable ({error.strerror})") from error
    if target.exists() and not os.access(target, os.W_OK):
        raise ParameterError(name, str(path), "be writable (the file there is not)")
    return target


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there in one go."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with _UMASK:
            umask = os.umask(0)
            os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are private; an ordinary file is not
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text)

    write_whole(path, write)


def write_dataset(dataset: xr.Dataset, path: Path) -> None:
    """Write netCDF-3, which SciPy reads and writes without further packages; `xarray.open_dataset` reads it back."""
    if "step" in dataset.coords and dataset["step"].max() > _INT32_MAX:  # netCDF-3 has no 64-bit integers
        dataset = dataset.assign_coords(step=dataset["step"].astype(np.float64))
    write_whole(path, lambda temporary: dataset.to_netcdf(temporary, engine="scipy"))
