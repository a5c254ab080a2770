"""The same work as an expert of each tool would write it: what `scripts/bench_peers.py` times beside mcnqm.

Every module has ``make(name, task, threads)``, which returns ``run(seed) -> losses`` of shape (settings, trajectories):
the loss of every lane after ``task.steps`` steps. All start from N(0, I), draw the averaged gradient's noise afresh in
every step, and may share it between settings.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Task:
    """What to run.

    Attributes
    ----------
    kind : str
        "heavy ball" (momentum 0.9) or "Adam" (0.9, 0.999, 1e-8).
    rates : tuple of float
        Learning rates, the settings.
    trajectories, steps, dim, batch : int
    """

    kind: str
    rates: tuple[float, ...]
    trajectories: int
    steps: int
    dim: int = 1000
    batch: int = 16

    @property
    def updates(self) -> float:
        """Coordinate updates in all."""
        return float(len(self.rates)) * self.trajectories * self.steps * self.dim

    @property
    def h(self) -> np.ndarray:
        """Curvature, and gradient variance of one example."""
        return 1.0 / np.arange(1, self.dim + 1)


def over_threads(part, trajectories: int, threads: int, seed: int) -> np.ndarray:
    """``part(trajectories, seed)`` for equal shares of the trajectories, each in a thread; losses put together."""
    shares = [len(x) for x in np.array_split(np.arange(trajectories), threads) if len(x)]
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(part, share, 1000 * seed + k) for k, share in enumerate(shares)]
        return np.concatenate([future.result() for future in futures], axis=1)
