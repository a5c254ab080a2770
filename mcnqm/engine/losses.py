"""Losses of lanes at recorded steps, with those of their mean-field twins."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcnqm.statistics import controlled

__all__ = ["Losses"]


class Losses(NamedTuple):
    """Losses of lanes at recorded steps.

    Attributes
    ----------
    loss : ndarray, shape (settings, trajectories, records)
    twin : ndarray, shape (settings, trajectories, records), or None
        Loss of the mean-field twin on the same noise.
    expected : ndarray, shape (settings, records), or None
        Its expectation, exact.
    cross, square : ndarray, shape (settings, trajectories, records), or None
        Over blocks of coordinates, which are independent, the sums of (x - e)(y - e) and of (y - e)², with x the
        block's part of the loss, y of the twin's and e the latter's expectation: what `mcnqm.statistics.controlled`
        wants to know, from many pairs in each trajectory.
    """

    loss: NDArray[np.float64]
    twin: NDArray[np.float64] | None = None
    expected: NDArray[np.float64] | None = None
    cross: NDArray[np.float64] | None = None
    square: NDArray[np.float64] | None = None

    @property
    def sample(self) -> NDArray[np.float64]:
        """Losses less what their twins explain, if there are twins."""
        if self.twin is None or self.expected is None or self.cross is None or self.square is None:
            return self.loss
        return controlled(self.loss, self.twin, self.expected, (self.cross, self.square), axis=1)

    def pick(self, settings: Any, records: Any) -> Losses:
        """Those of some settings, at some of the records."""
        if np.size(records) == self.loss.shape[-1] and not isinstance(records, slice):
            records = slice(None)  # a view will do
        parts: list[Any] = [None if part is None else part[settings][..., records] for part in self]
        return Losses(*parts)

    def beside(self, others: list[Losses]) -> Losses:
        """These trajectories, then those of the others."""
        columns = zip(self, *others, strict=True)
        parts: list[Any] = [None if each[0] is None else np.concatenate(each, axis=1) for each in columns]
        return Losses(*parts)._replace(expected=self.expected)

    def join(self, others: list[Losses]) -> Losses:
        """These records, then those of the others."""
        if not others:
            return self
        columns = zip(self, *others, strict=True)
        parts: list[Any] = [None if each[0] is None else np.concatenate(each, axis=-1) for each in columns]
        return Losses(*parts)
