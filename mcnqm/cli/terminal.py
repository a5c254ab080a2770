"""Standard output and errors that cannot cost a result: what a stream cannot take is degraded or dropped.

A stream may know fewer characters than a table has (a redirected Windows console has cp1252), its reader may have gone
(``mcnqm ... | head -1``), its disk may be full. None of these is a reason to stop: files are what a command is for.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Forgiving", "forgiving_streams"]

_PLAIN = {
    "≤": "<=", "≥": ">=", "±": "+-", "×": "x", "θ": "theta", "β": "beta", "γ": "gamma", "σ": "sigma", "²": "^2",
    "→": "->", "−": "-", "—": "-", "…": "...", "·": ".", "∞": "inf", "─": "-", "━": "-", "│": "|", "╸": "-", "╺": "-",
}  # fmt: skip
"""What stands for the characters of our tables where they cannot be written; ``?`` for all others."""

_GONE = (errno.EPIPE, errno.ESHUTDOWN, errno.EINVAL if sys.platform == "win32" else errno.EPIPE)


class Forgiving(io.TextIOBase):
    """A text stream that never raises because of what is written to it.

    Parameters
    ----------
    stream : text stream
        Where the text goes. None, as Python has it for a stream that was closed before the start: nowhere.

    Attributes
    ----------
    failure : OSError or None
        Why text was lost, unless its reader just went away.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._lost = stream is None
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write as much as the stream can take."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not self._lost:
            try:
                self._stream.write(self._encodable(text))
            except (OSError, ValueError) as error:  # ValueError: somebody closed it
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush, if anybody still listens."""
        if not self._lost:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return not self._lost and bool(self._stream.isatty())

    def fileno(self) -> int:
        """The stream's."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._stream.fileno())

    def writable(self) -> bool:
        """Always."""
        return True

    def _encodable(self, text: str) -> str:
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return "".join(c if _knows(self.encoding, c) else _PLAIN.get(c, "?") for c in text)
        return text

    def _lose(self, error: OSError | ValueError) -> None:
        self._lost = True
        if isinstance(error, OSError) and error.errno not in _GONE:
            self.failure = error
        # Python flushes its streams once more as it ends, and would complain: from here on they lead nowhere.
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            pass


def _knows(encoding: str, character: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def forgiving_streams() -> Iterator[Forgiving]:
    """`sys.stdout` and `sys.stderr`, made `Forgiving` for a while; yields the first."""
    before = sys.stdout, sys.stderr
    out, err = Forgiving(sys.stdout), Forgiving(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
