"""How long the error bars of a panel are."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

__all__ = ["bars_of"]


def bars_of(axes: Axes) -> np.ndarray:
    """Height of each vertical bar's middle or point, and how far it reaches above it; shape (bars, 2)."""
    found = []
    for bars in axes.containers:
        assert isinstance(bars, ErrorbarContainer)
        points, _, (lines,) = bars
        ends = np.array([segment[:, 1] for segment in lines.get_segments()])
        middle = ends.mean(axis=1) if points is None else np.asarray(points.get_ydata(), dtype=float)
        found += list(np.column_stack([middle, ends[:, 1] - middle]))
    return np.array(found)
