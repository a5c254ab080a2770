"""Compiled code on disk: kept where a folder can be written, discarded where it is broken, never in the way.

Numba keeps compiled functions beside their source, else in the user's cache folder, or in ``NUMBA_CACHE_DIR``. Where
none of these can be written its decorator raises, and so would ``import mcnqm``; a truncated file it fails to read
until somebody deletes it. Both are mended here.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache

__all__ = ["compiled"]

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


class _Cache(FunctionCache):  # type: ignore[misc] # Numba has no types
    """Numba's cache of one function, which takes a broken file for none."""

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
