"""Progress of long work, as an object that is told what is done: a bar on a terminal, or nothing at all."""

from __future__ import annotations

import math
import sys
import threading
import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mcnqm.errors import ParameterError

__all__ = ["Meter", "NoMeter", "PartMeter", "RichMeter", "meter_of"]


class Meter(Protocol):
    """What the engine tells its progress to."""

    def start(self, total: float, label: str) -> None:
        """Announce the amount of work, in any unit; NaN if it is not known."""

    def advance(self, amount: float) -> None:
        """Report work done."""

    def close(self) -> None:
        """Report the end, complete or not."""


class NoMeter:
    """Progress that nobody sees."""

    def start(self, total: float, label: str) -> None:
        """Do nothing."""

    def advance(self, amount: float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class PartMeter:
    """Progress of one part of a longer work, told to the meter of the whole, where it counts 1.

    Parameters
    ----------
    whole : Meter
        Started and closed by who has all parts.
    """

    def __init__(self, whole: Meter) -> None:
        self._whole = whole
        self._total = math.nan

    def start(self, total: float, label: str) -> None:
        """Note how much work the part is."""
        self._total = total

    def advance(self, amount: float) -> None:
        """Tell the whole."""
        if self._total > 0:
            self._whole.advance(amount / self._total)

    def close(self) -> None:
        """Do nothing: the whole goes on."""


class RichMeter:
    """A bar with the time left, on standard error.

    Where that is no terminal, a line once a minute; in a notebook, one line that is written again and again.
    """

    def __init__(self) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._shown: Meter = _Bar() if terminal else _Notebook() if "ipykernel" in sys.modules else _Lines()

    def start(self, total: float, label: str) -> None:
        """Show that work begins."""
        self._shown.start(total, label)

    def advance(self, amount: float) -> None:
        """Show that it goes on."""
        self._shown.advance(amount)

    def close(self) -> None:
        """Take a bar away."""
        self._shown.close()


class _Bar:
    """A bar on a terminal."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )

    def start(self, total: float, label: str) -> None:
        """Show a bar."""
        self._bar.start()
        self._task = self._bar.add_task(label, total=None if math.isnan(total) else total)

    def advance(self, amount: float) -> None:
        """Move the bar."""
        self._bar.advance(self._task, amount)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


class _Lines:
    """A line on standard error once a minute, for logs; also when nothing is reported for longer than that."""

    every = 60.0

    def __init__(self) -> None:
        self._done, self._over = 0.0, threading.Event()

    def start(self, total: float, label: str) -> None:
        """Begin to count the time; a meter may be used again after its end."""
        self._done, self._over = 0.0, threading.Event()
        told = (total, label, self._over)
        self._teller = threading.Thread(target=self._tell, args=told, name="mcnqm-progress", daemon=True)
        self._teller.start()

    def advance(self, amount: float) -> None:
        """Report work done."""
        self._done += amount

    def close(self) -> None:
        """Say no more."""
        self._over.set()

    def _tell(self, total: float, label: str, over: threading.Event) -> None:
        begun = time.monotonic()
        while not over.wait(self.every):
            share = "" if math.isnan(total) or not total else f"{self._done / total:.0%} done "
            self._say(f"{label}: {share}after {time.monotonic() - begun:.0f} s")

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Notebook(_Lines):
    """One line below a notebook's cell, taken away at the end."""

    every = 0.5
    _width = 0

    def close(self) -> None:
        """Take the line away."""
        super().close()
        self._teller.join(1.0)  # a line that is being written is taken away too
        if self._width:
            self._say("")
            self._width = 0

    def _say(self, text: str) -> None:
        print("\r" + text.ljust(self._width), end="" if text else "\r", flush=True)
        self._width = max(self._width, len(text))


def meter_of(progress: Any) -> Meter:
    """The meter for a `progress` argument: False or None for none, True for a bar, or a `Meter` of one's own."""
    if progress is None or progress is False:
        return NoMeter()
    if progress is True:
        return RichMeter()
    if all(callable(getattr(progress, name, None)) for name in ("start", "advance", "close")):
        return progress  # type: ignore[no-any-return]
    raise ParameterError("progress", progress, "be True, False or an object with start, advance and close")
