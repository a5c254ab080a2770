"""What simulation adds to the twin's schedule: three directions to improve it in, and its risk on fresh runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from mcnqm.problems import NoisyQuadratic
from mcnqm.schedules import Schedule, piecewise
from mcnqm.scheduling.pieces import Lengths
from mcnqm.simulation import simulate

__all__ = ["Confirmed", "confirm", "refine"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Confirmed:
    """A simulated risk at the end of a run, with its standard error."""

    risk: float
    stderr: float


def confirm(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: float,
    schedule: Schedule,
    steps: int,
    *,
    trajectories: int,
    seed: int,
    executor: Executor | None = None,
    threads: int | None = None,
) -> Confirmed:
    """Risk under a schedule, by simulation."""
    runs = simulate(
        problem,
        optimizer._replace(lr=schedule),
        batch_size,
        steps,
        trajectories=trajectories,
        seed=seed,
        record=[steps],
        executor=executor,
        threads=threads,
    )
    return Confirmed(float(runs["risk"][0]), float(runs["risk_stderr"][0]))


def refine(
    objective: Callable[[Schedule], float],
    log_rates: Array,
    lengths: Lengths,
    *,
    evaluations: int = 40,
    cap: float = np.inf,
) -> tuple[Array, float]:
    """Level, tilt and bend of the log rates that minimize a (simulated) risk, and that risk.

    Nelder and Mead's search, started at the schedule itself, which is what it returns if nothing is better. No log rate
    gets above `cap`.
    """
    middle = (np.cumsum(lengths) - 0.5 * lengths) / lengths.sum()
    shapes = np.stack([np.ones_like(middle), 2.0 * middle - 1.0, 6.0 * middle * (middle - 1.0) + 1.0])

    def moved(x: Array) -> Array:
        return np.asarray(np.minimum(log_rates + x @ shapes, cap))

    def at(x: Array) -> float:
        return objective(piecewise(np.exp(moved(x)), lengths))

    simplex = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]])
    found = optimize.minimize(
        at,
        np.zeros(3),
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": evaluations, "xatol": 0.005, "fatol": 0.0},
    )
    return moved(found.x), float(found.fun)
