"""Compiled code on disk: kept where a folder can be written, discarded where it is broken, never in the way.

Numba keeps compiled functions beside their source, else in the user's cache folder, or in ``NUMBA_CACHE_DIR``. Where
none of these can be written its decorator raises, and so would ``import mcnqm``; a truncated file it fails to read
until somebody deletes it. And it looks at a function's own file alone: code that was compiled from another version of a
function that it calls would be taken for its own. All three are mended here.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import numba
from numba.core.caching import FunctionCache

__all__ = ["compiled", "fingerprint"]

_NO_COMPILER = (
    "mcnqm needs Numba's compiler, which NUMBA_DISABLE_JIT=1 turns off: its loops exist only compiled. Unset it."
)


def compiled(function: Callable[..., Any], *, cached: bool = True, **options: Any) -> Any:
    """`numba.njit`, with a cache on disk where that is possible.

    Parameters
    ----------
    function : callable
        What to compile.
    cached : bool
        Whether to keep the compiled code.
    **options
        As for `numba.njit`.

    Warns
    -----
    RuntimeWarning
        Once, if there is no folder to keep compiled code in.

    Raises
    ------
    ImportError
        If Numba's compiler is turned off.
    """
    if numba.config.DISABLE_JIT:
        raise ImportError(_NO_COMPILER)
    dispatcher = numba.njit(**options)(function)
    if cached:
        try:
            dispatcher._cache = _Cache(function)
        except (RuntimeError, OSError) as error:  # no folder can be written
            _warn_uncached(str(error))
    return dispatcher


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)


def _warn_uncached(reason: str) -> None:
    _warn_once(
        "compiled code cannot be kept, so every process compiles anew, some seconds for each optimizer; set "
        "NUMBA_CACHE_DIR to a folder that can be written" + ("" if "no locator" in reason else f" ({reason})")
    )


def fingerprint(function: Callable[..., Any]) -> str:
    """Hash of what compiled code depends on.

    That is the files that define the function and the compiled functions it calls, directly or not, and the numbers
    that these take from other modules.
    """
    files, constants = set[str](), set[str]()
    seen, waiting = set[int](), [function]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        files.add(getattr(sys.modules.get(one.__module__), "__file__", None) or "")
        for name in _names(one.__code__):
            value = one.__globals__.get(name)
            called = getattr(value, "py_func", None)
            if called is not None:
                waiting.append(called)
            elif isinstance(value, (bool, int, float, str, tuple)):
                constants.add(f"{name}={value!r}")
    digest = hashlib.sha256("\0".join(sorted(constants)).encode())
    for path in sorted(files - {""}):
        digest.update(_hash_of(path))
    return digest.hexdigest()


def _names(code: CodeType) -> set[str]:
    """Global names in a function's code, and in that of functions within it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


@functools.cache
def _hash_of(path: str) -> bytes:
    try:
        return hashlib.sha256(Path(path).read_bytes()).digest()
    except OSError:  # a package in an archive: its version decides
        return b""


class _Cache(FunctionCache):  # type: ignore[misc] # Numba has no types
    """Numba's cache of one function, which takes a broken file for none, and knows what the function calls."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), self._called)

    @functools.cached_property
    def _called(self) -> str:
        # Asked for when the function is first called: only then all that it calls is defined.
        return fingerprint(self._py_func)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code for a signature, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            # A pickle that is cut short or garbled raises nearly anything. The code is compiled again in seconds.
            self._discard()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code, if the disk takes it."""
        try:
            super().save_overload(sig, data)
        except OSError as error:  # full, or no longer ours
            _warn_uncached(error.strerror or str(error))

    def _discard(self) -> None:
        """Forget what is kept of this function."""
        try:
            self.flush()
        except OSError:
            self.disable()
