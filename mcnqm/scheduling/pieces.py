"""How a run is cut into pieces, and schedules of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcnqm.schedules import Schedule, piecewise

__all__ = ["Layout", "Lengths", "Solution", "equal_pieces", "log_cap", "piece_lengths"]

Array = NDArray[np.float64]
Lengths = NDArray[np.int64]

_BEND = 3.0
"""Of geometric spacing: pieces grow by a factor exp(3) from each end to the middle. See docs/schedules.md."""


def piece_lengths(steps: int, pieces: int, spacing: str = "geometric") -> Lengths:
    """Whole lengths of at most `pieces` pieces that sum to `steps`.

    Geometric lengths grow from both ends to the middle: rates change fastest at the start, where they fall from the
    largest, and at the end, where noise is averaged out.

    Examples
    --------
    >>> piece_lengths(100, 4, "equal"), piece_lengths(100, 6), piece_lengths(3, 50)
    (array([25, 25, 25, 25]), array([ 5, 13, 32, 32, 13,  5]), array([1, 1, 1]))
    """
    count = min(pieces, steps)
    place = np.arange(count + 1) / count
    if spacing == "geometric":
        near = np.expm1(_BEND * np.minimum(2.0 * place, 2.0 - 2.0 * place)) / np.expm1(_BEND)
        place = np.where(place <= 0.5, 0.5 * near, 1.0 - 0.5 * near)
    # Every piece has one step; the others are shared out.
    return np.diff(np.arange(count + 1) + np.round((steps - count) * place).astype(np.int64))


def equal_pieces(steps: int, pieces: int) -> Lengths:
    """Lengths of at most `pieces` nearly equal pieces."""
    ends = np.unique(np.round(np.linspace(0, steps, min(pieces, steps) + 1)).astype(np.int64))
    return np.diff(ends)


def log_cap(largest_lr: float) -> float:
    """The largest log rate whose rate is not above a limit, whichever way both are rounded; inf without one."""
    logarithm = float(np.log(largest_lr))
    return logarithm - 1e-15 * (1.0 + abs(logarithm)) if np.isfinite(logarithm) else logarithm


@dataclass(frozen=True)
class Layout:
    """A number of pieces and their spacing, whatever the length of the run; or given lengths."""

    pieces: int
    spacing: str
    lengths: Lengths | None

    def of(self, steps: int) -> Lengths:
        """Lengths of the pieces of a run of that many steps."""
        return self.lengths if self.lengths is not None else piece_lengths(steps, self.pieces, self.spacing)


class Solution(NamedTuple):
    """A schedule of pieces.

    Attributes
    ----------
    log_rates : ndarray, shape (pieces,)
    lengths : ndarray of int, shape (pieces,)
    """

    log_rates: Array
    lengths: Lengths

    @property
    def steps(self) -> int:
        """Of all pieces."""
        return int(self.lengths.sum())

    @property
    def schedule(self) -> Schedule:
        """As the learning rate of an optimizer."""
        return piecewise(np.exp(self.log_rates), self.lengths)

    def onto(self, lengths: Lengths) -> Array:
        """Log rates of other pieces, which follow the same course."""
        middles = [(np.cumsum(n) - 0.5 * n) / n.sum() for n in (lengths, self.lengths)]
        return np.asarray(np.interp(middles[0], middles[1], self.log_rates))
