"""Finished parts of a long study on disk: locked against a second process, checked when they are read back.

A folder holds ``config.json``, which says what study it belongs to, one file per finished cell with a checksum of its
content, and ``lock`` while a process works there. Nothing else is ever written to it or removed from it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mcnqm.errors import ParameterError
from mcnqm.files import remove_orphans, write_text

__all__ = ["Checkpoint"]

_HEAD, _LOCK = "config.json", "lock"

_OTHERS = "be a new folder, or one that an interrupted study left"


class Checkpoint:
    """Finished cells of one study; a context manager, within which the folder is this process's alone.

    Parameters
    ----------
    folder : path
        Made if it does not exist. One that holds anything, but not the configuration of a study, is refused.
    config : mapping
        What decides the study's numbers, in plain JSON types.

    Raises
    ------
    ParameterError
        On entering, if the folder is not ours, belongs to another configuration, cannot be written, or another
        process works there.
    """

    def __init__(self, folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._config = json.loads(json.dumps(config))
        self._lock: int | None = None
        self._writing = threading.Lock()
        self._closed = False
        self._broken: set[str] = set()

    def __enter__(self) -> Checkpoint:
        try:
            self._begin()
        except OSError as error:
            raise self._refused(f"be a folder that can be written ({error.strerror or error})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take no more cells, and leave the folder to others."""
        with self._writing:  # a cell that is being written is finished first
            self._closed = True
        if self._lock is not None:
            (self.folder / _LOCK).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def find(self, name: str) -> dict[str, Any] | None:
        """A finished cell; None if there is none, or a broken one.

        Warns
        -----
        RuntimeWarning
            If the cell's file is broken. It will be computed again.
        """
        path = self._path(name)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            kept = json.loads(text)
            content = kept["content"]
            if kept["sha256"] == _checksum(content) and isinstance(content, dict):
                return content
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        if name not in self._broken:
            self._broken.add(name)
            warnings.warn(f"{path} is broken; this cell is computed again", RuntimeWarning, stacklevel=2)
        return None

    def keep(self, name: str, content: Mapping[str, Any]) -> None:
        """Keep a cell that is finished, in plain JSON types; floats read back to the same bits."""
        content = dict(content)
        with self._writing:
            if not self._closed:
                write_text(self._path(name), json.dumps({"content": content, "sha256": _checksum(content)}))

    def remove(self, names: list[str]) -> None:
        """Remove the configuration and the cells of these names, and the folder if that was all it held."""
        for name in names:
            self._path(name).unlink(missing_ok=True)
        (self.folder / _HEAD).unlink(missing_ok=True)
        remove_orphans(self.folder)
        self.close()
        try:
            self.folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _refused(self, allowed: str, path: Path | None = None) -> ParameterError:
        return ParameterError("checkpoint", str(path or self.folder), allowed)

    def _begin(self) -> None:
        folder, head = self.folder, self.folder / _HEAD
        if os.path.lexists(folder) and not folder.is_dir():
            raise self._refused(_OTHERS + "; this is a file")
        ours = {_LOCK, _HEAD}
        if folder.is_dir() and not head.exists():
            foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours)
            if foreign and not all(name.startswith(".config.mcnqm-") for name in foreign):
                raise self._refused(f"{_OTHERS}; it holds {foreign[0]!r} and no {_HEAD}")
        folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            remove_orphans(folder)
            if head.exists():
                self._compare(head)
            else:
                write_text(head, json.dumps(self._config, indent=1))
        except BaseException:
            self.close()
            raise

    def _compare(self, head: Path) -> None:
        """Refuse a configuration other than ours, by the first option that differs."""
        again = "be continued with the configuration it was begun with, or be removed first"
        try:
            there = json.loads(head.read_bytes())
        except ValueError:
            there = None
        if not isinstance(there, dict) or "mcnqm_version" not in there:
            raise self._refused(f"hold the configuration of a study, but it is broken; {again}", head)
        if there != self._config:
            name, old, new = _first_difference(there, self._config)
            raise self._refused(f"{again} ({name} is {_short(old)} there and {_short(new)} here)", head)

    def _take_lock(self) -> None:
        """Lock the folder. The system itself gives up the lock of a process that died, however it did."""
        path = self.folder / _LOCK
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _locked(handle):
                    holder = os.read(handle, 1000).decode(errors="replace").strip() or "another process"
                    raise self._refused(f"be used by one process at a time; {holder} works there")
                if _is_still(handle, path):  # and not a file that its holder has just removed
                    os.ftruncate(handle, 0)
                    since = time.strftime("%Y-%m-%d %H:%M:%S")
                    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}, since {since}".encode())
                    self._lock = handle
                    return
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)


def _locked(handle: int) -> bool:
    """Lock an open file for this process, unless another holds it."""
    try:
        import fcntl  # noqa: PLC0415 - Windows has none, and msvcrt instead
    except ImportError:
        import msvcrt  # noqa: PLC0415

        try:
            # Far beyond the text, which others want to read.
            os.lseek(handle, 2**20, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # A network file system without locks: the only protection left is to say so.
        warnings.warn(f"the checkpoint cannot be locked ({error.strerror})", RuntimeWarning, stacklevel=2)
    return True


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _first_difference(old: Any, new: Any, name: str = "") -> tuple[str, Any, Any]:
    """The name of the first entry in which two configurations differ, and what either has there."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*new, *old]):
            if old.get(key) != new.get(key) or (key in old) != (key in new):
                return _first_difference(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    return name or "the whole", old, new


def _short(value: Any) -> str:
    text = "missing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
