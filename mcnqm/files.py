"""Files are written whole or not at all, and whether they can be is found out before the work, not after it.

A file is filled under a temporary name in its own folder, flushed to the disk and only then moved into place, so that
neither a kill nor a power cut leaves half of one. Temporary names tell which process made them: the next write to the
same file removes what a killed one left, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mcnqm.errors import ParameterError

__all__ = ["abandon", "check_writable", "remove_orphans", "write_dataset", "write_text", "write_whole"]

_INT32_MAX = 2**31 - 1

_under_way: set[Path] = set()
"""Temporary files of this process."""


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
    try:
        if target.is_dir():
            raise ParameterError(name, str(path), "be a file, not a directory")
        if not target.parent.is_dir():
            raise ParameterError(name, str(path), "be in an existing directory")
        if target.exists() and not os.access(target, os.W_OK):
            raise ParameterError(name, str(path), "be writable (the file there is not)")
        temporary, handle = _open_temporary(_resolved(target))
        os.close(handle)
        _discard(temporary)
    except OSError as error:
        raise ParameterError(name, str(path), f"be writable ({error.strerror or error})") from error
    except ValueError as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(name, str(path), f"be a path ({error})") from None  # a null character within
    return target


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there in one go.

    A file that is there keeps its permissions and, where the system lets us, its owner; a link stays a link.
    """
    path = _resolved(path)
    remove_orphans(path.parent, path.name)
    temporary, handle = _open_temporary(path)
    os.close(handle)
    try:
        write(temporary)
        _adopt(path, temporary)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        _discard(temporary)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_whole(path, write)


def write_dataset(dataset: xr.Dataset, path: Path) -> None:
    """Write netCDF-3, which SciPy reads and writes without further packages; `xarray.open_dataset` reads it back.

    It has no 64-bit integers: where numbers do not fit 32 bits, variables become floats, and attributes floats as far
    as these are exact, else text.
    """
    found = dataset.assign({name: _storable(one) for name, one in dataset.data_vars.items()})
    found = found.assign_coords({name: _storable(one) for name, one in dataset.coords.items()})
    found.attrs = _storable_attrs(dataset.attrs)

    def write(temporary: Path) -> None:
        found.to_netcdf(temporary, engine="scipy")

    write_whole(path, write)


def _storable(array: xr.DataArray) -> xr.DataArray:
    wide = array.dtype.kind in "iu" and array.size and max(abs(int(array.min())), abs(int(array.max()))) > _INT32_MAX
    found = array.astype(np.float64) if wide else array.copy(deep=False)
    found.attrs = _storable_attrs(array.attrs)
    return found


def _storable_attrs(attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: _storable_number(value) for name, value in attrs.items()}


def _storable_number(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    if isinstance(value, (int, np.integer)) and abs(int(value)) > _INT32_MAX:
        return float(value) if int(float(value)) == int(value) else str(int(value))
    return value


def _sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:  # some file systems refuse
        pass
    finally:
        os.close(handle)


def abandon() -> None:
    """Remove the temporary files of writes that this process will not finish: it is about to end at once."""
    for temporary in list(_under_way):
        _discard(temporary)


def remove_orphans(folder: Path, name: str | None = None) -> None:
    """Remove temporary files that processes of this machine left in a folder, and that no longer run.

    Parameters
    ----------
    folder : Path
    name : str, optional
        Only those for a file of this name.
    """
    for candidate in folder.glob(".*"):
        ours = _TEMPORARY.fullmatch(candidate.name)
        if ours is None or ours["host"] != _host() or _runs(int(ours["process"])):
            continue
        if name is None or (candidate.name.startswith(_prefix(Path(name))) and candidate.suffix == Path(name).suffix):
            candidate.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ temporary files

_TEMPORARY = re.compile(r"\..*\.mcnqm-(?P<host>[A-Za-z0-9]*)-(?P<process>\d+)-[0-9a-f]{8}(\.[^.]*)?")


def _resolved(path: Path) -> Path:
    """Where a link leads: it is to stay, and what it names to be replaced."""
    return Path(os.path.realpath(path))


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32]


def _prefix(path: Path) -> str:
    """The start of every temporary name for `path`; cut, since the name may be as long as names can be."""
    return f".{path.stem[:40]}.mcnqm-"


def _open_temporary(path: Path) -> tuple[Path, int]:
    """A new file beside `path`, with the permissions of any new file, and its handle."""
    while True:
        name = f"{_prefix(path)}{_host()}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
        temporary = path.with_name(name)
        _under_way.add(temporary)
        try:
            return temporary, os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            _under_way.discard(temporary)
        except BaseException:
            _discard(temporary)
            raise


def _discard(temporary: Path) -> None:
    temporary.unlink(missing_ok=True)
    _under_way.discard(temporary)


def _adopt(path: Path, temporary: Path) -> None:
    """Give the new file the permissions and owner of the one that it replaces, if there is one."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):  # only root gives files away
            os.chown(temporary, there.st_uid, there.st_gid)
    temporary.chmod(stat.S_IMODE(there.st_mode))


def _runs(process: int) -> bool:
    if process == os.getpid():
        return True
    if sys.platform == "win32":  # there signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
