"""How many steps the mean field takes at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcnqm.domains import unit_interval
from mcnqm.schedules import FOREVER, Curve, Segments, stretches
from mcnqm.settings import Settings, Timetable

__all__ = ["Chunks"]

_EXACT_UNTIL = 256
"""So far steps are taken one by one; beyond, many at a time."""

_EXACT_AFTER = 64
"""The same after a jump of a schedule."""

_PER_OCTAVE = 16
"""At least so many chunks while the number of steps, from the start or the last jump, doubles."""

_CHANGE = 2e-3
"""Most that a number may change within a chunk, relative to itself; one in [0, 1), to its distance from 1."""


class Chunks:
    """Chunks of steps: powers of 2, aligned to their own size.

    Parameters
    ----------
    settings : Settings
        Whose schedules they respect.
    """

    def __init__(self, settings: Settings) -> None:
        tables = settings.schedules.values()
        none = np.empty(0, dtype=np.int64)
        self.settled = max((table.settles for table in tables), default=0.0)
        """Step from which on no schedule changes any more."""
        self._jumps = np.unique(np.concatenate([none, *(table.jumps() for table in tables)]))
        ends = [stretches(curve)[0] for table in tables for curve in table.curves]
        self._stops = np.append(np.unique(np.concatenate([none, *ends])), FOREVER)
        self._moving = [
            _Moving(table, k, curve) for table in tables for k, curve in enumerate(table.curves) if _moves(curve)
        ]

    def chunk(self, t: int, stop: int) -> int:
        """Steps to take at once from t on, up to `stop`."""
        n = 1
        if t >= _EXACT_UNTIL:
            age = self._age(t)
            while 2 * n * _PER_OCTAVE <= age and t % (2 * n) == 0:
                n *= 2
        most = min(stop, int(self._stops[np.searchsorted(self._stops, t, side="right")])) - t
        while n > most:
            n //= 2
        while n > 1 and any(curve.changes(t, n) for curve in self._moving):
            n //= 2
        return n

    def _age(self, t: int) -> int:
        """Steps since the last jump, or since the start; 0 while they are taken one by one."""
        k = int(np.searchsorted(self._jumps, t, side="right"))
        if k == 0:
            return t
        age = t - int(self._jumps[k - 1])
        return age if age >= _EXACT_AFTER else 0

    def looks(self, t: int, last: int) -> NDArray[np.int64]:
        """Chunk ends from t on, through about an octave of steps."""
        stop, ends = min(max(2 * t, 64), last), []
        while t < stop:
            t += self.chunk(t, stop)
            ends.append(t)
        return np.array(ends, dtype=np.int64)


def _moves(curve: Curve) -> bool:
    return not bool(stretches(curve)[1].all())


class _Moving:
    """A curve that is not made of constant pieces alone."""

    def __init__(self, table: Timetable, index: int, curve: Curve) -> None:
        self._curve = curve
        self._stops, self._flat = stretches(curve)
        scales = table.scale[table.which == index]
        self._scale = float(np.abs(scales).max()) if scales.size else 0.0
        self._below_one = table.domain is unit_interval
        # Within a piece of known shape a curve is monotone; a function is asked more often.
        self._points = 2 if isinstance(curve, Segments) else 5

    def changes(self, t: int, n: int) -> bool:
        """Whether it changes too much from step t to step t + n - 1."""
        if self._flat[np.searchsorted(self._stops, t, side="right")]:
            return False
        step = t + np.round(np.linspace(0, n - 1, self._points)).astype(np.int64)
        value = self._scale * self._curve.at(step)
        size = 1.0 - value if self._below_one else np.abs(value)
        return bool(np.ptp(value) > _CHANGE * size.max())
