"""Ctrl-C and SIGTERM on the command line: an orderly end, and within a second an end in any case.

The first signal raises `KeyboardInterrupt` in the main thread, which cleans up as it unwinds; further ones
change nothing. That takes no time, unless the thread is inside a compiled function or waits for one. So a second
thread, woken by the signal itself, ends the process if the orderly way takes too long. Files are whole at any moment
(`mcnqm.files`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from mcnqm.files import abandon

__all__ = ["EXIT_CODES", "Signals", "said_on_interruption"]

EXIT_CODES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Of a process ended by a signal, by convention 128 + its number."""

_PATIENCE = 0.7
"""Seconds for the orderly way."""

said_on_interruption: list[str] = []
"""What to tell somebody who interrupts the command now, beside the fact itself."""


class Signals:
    """Signals are handled as above within this context; only in the main thread, where Python handles signals.

    Parameters
    ----------
    explain : callable
        Says that the command was interrupted; called by the thread that ends a process that does not end by itself.

    Attributes
    ----------
    code : int or None
        The exit code that belongs to the signal that came, if one did.
    """

    def __init__(self, explain: Callable[[], None]) -> None:
        self._explain = explain
        self._over = threading.Event()
        self._mine = threading.current_thread() is threading.main_thread()
        self.code: int | None = None

    def __enter__(self) -> Signals:
        if not self._mine:
            return self
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._hook, sys.unraisablehook = sys.unraisablehook, _without_interruptions(sys.unraisablehook)
        self._before = {number: signal.getsignal(number) for number in EXIT_CODES}
        self._wakeup = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="mcnqm-signals", daemon=True).start()
        for number, handler in self._before.items():
            if handler is not signal.SIG_IGN:  # as in a shell's background job, and after nohup
                signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if not self._mine or self.code is not None:
            return  # the process ends: further signals are to change nothing
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook
        self._writing.close()  # ends the thread

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.code is None:
            self.code = EXIT_CODES[number]
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while (byte := self._reading.recv(1)) and byte[0] not in EXIT_CODES:
            pass
        if not byte:
            self._reading.close()
            return
        if not self._over.wait(_PATIENCE):
            self._explain()
            abandon()
            os._exit(EXIT_CODES[byte[0]])


def _without_interruptions(report: Callable[[Any], None]) -> Callable[[Any], None]:
    """An interruption in the middle of a destructor cannot go anywhere; that is no news for the user."""

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            report(unraisable)

    return hook
