"""Risk of an adaptive optimizer's mean-field twin as a function of the rates, and the best rates for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from mcnqm.analytic.twins.quadrature import size_of_normal
from mcnqm.engine import Pool
from mcnqm.optimizers import Adam
from mcnqm.problems import NoisyQuadratic
from mcnqm.schedules import Schedule, cosine, exponential
from mcnqm.scheduling.adjoint import final_risk_and_gradient
from mcnqm.scheduling.descent import descend
from mcnqm.scheduling.pieces import Lengths

__all__ = ["FAMILIES", "TwinObjective", "optimize_constant", "optimize_family", "optimize_pieces"]

Array = NDArray[np.float64]

_RANGE = 32.0
"""How far below the highest the lowest log rate lies."""

_WIDER = 8
"""How often the search for a constant rate may move on, each time by a factor exp(3)."""

_EVALUATIONS = 120
"""Most gradients of one optimization."""

_NODES = {1000: 4, 100: 16, 0: 64}
"""Nodes of the starting point's law in runs of at least so many steps: in short ones noise has had little time to
smooth the risk, and a schedule would be fitted to the nodes."""

_BLOCKS, _SMALL = 4, 50_000
"""Blocks of coordinates that are worked on side by side, and how many coordinates times steps make it worth while."""

FAMILIES: dict[str, Callable[[float, int, float], Schedule]] = {"exponential": exponential, "cosine": cosine}
"""Two-parameter families: start rate and final fraction."""


@dataclass(frozen=True)
class TwinObjective:
    """Risk of the twin after some steps, as a function of the rates.

    Attributes
    ----------
    problem : NoisyQuadratic
        Bins instead of a full spectrum save time.
    optimizer : Adam or RMSProp
        Its rate is not used.
    batch_size : float
    threads : int, optional
        Default: one per core.
    cap : float
        Log of the largest rate that is allowed.
    """

    problem: NoisyQuadratic
    optimizer: Any
    batch_size: float
    threads: int | None = None
    cap: float = np.inf
    _starts: dict[int, tuple[Array, Array]] = field(default_factory=dict, repr=False)

    def at(self, rates: Array, gradient: Array | None = None) -> float:
        """Risk under the rates of every step; derivatives by them are added to `gradient`."""
        steps, problem = rates.size, self.problem
        rule, clock = self._rule, self._clock(steps)
        place, weight = self._start(next(nodes for least, nodes in _NODES.items() if steps >= least))
        variance, spread = problem.noise / self.batch_size, np.ones(steps)
        # Always the same blocks, added up in the same order: the threads do not decide the bits.
        blocks = [slice(k, problem.size, _BLOCKS) for k in range(min(_BLOCKS, problem.size))]
        parts = [np.zeros(0 if gradient is None else steps) for _ in blocks]
        tasks = (
            (problem.curvature[b], variance[b], spread, weight[b], place[b], rates, clock, rule, part)
            for b, part in zip(blocks, parts, strict=True)
        )
        if steps * problem.size < _SMALL:
            risk = sum(final_risk_and_gradient(*task) for task in tasks)
        else:
            risk = sum(Pool(None, self.threads).map(final_risk_and_gradient, tasks))
        if gradient is not None:
            for part in parts:
                gradient += part
        return float(risk)

    @cached_property
    def highest(self) -> float:
        """Upper bound of the log rate: steps of twice the size of the start.

        There is no bound of stability, since v grows with the gradient and holds the step back. A step is at most about
        α, or α h |θ| / ε where ε is large.
        """
        problem = self.problem
        reach = np.abs(problem.initial_mean) + 4.0 * problem.initial_std
        return min(float(np.log(2.0 * max((reach + self.optimizer.eps / problem.curvature).max(), 1e-300))), self.cap)

    @property
    def lowest(self) -> float:
        """Lower bound of the log rate: such a piece does nothing."""
        return self.highest - _RANGE

    @cached_property
    def _rule(self) -> Array:
        one = self.optimizer
        if isinstance(one, Adam):
            return np.array([one.beta1, one.beta2, one.eps, one.weight_decay], dtype=np.float64)
        return np.array([0.0, one.alpha, one.eps, 0.0], dtype=np.float64)

    def _clock(self, steps: int) -> Array:
        if not (isinstance(self.optimizer, Adam) and self.optimizer.bias_correction):
            return np.ones((2, steps))
        return 1.0 - self._rule[:2, np.newaxis] ** np.arange(1, steps + 1)

    def _start(self, nodes: int) -> tuple[Array, Array]:
        if nodes not in self._starts:
            problem = self.problem
            place, share = size_of_normal(problem.initial_mean, problem.initial_std, nodes)
            weight = (0.5 * problem.multiplicity * problem.curvature)[:, np.newaxis] * share
            self._starts[nodes] = place, weight
        return self._starts[nodes]

    def of_pieces(self, log_rates: Array, lengths: Lengths) -> tuple[float, Array]:
        """Log of the risk, and its gradient with respect to the log rate of every piece."""
        rates = np.repeat(np.exp(log_rates), lengths)
        gradient = np.zeros(rates.size)
        risk = self.at(rates, gradient)
        if not np.isfinite(risk) or risk <= 0.0:
            return 1e3, np.zeros(log_rates.size)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return float(np.log(risk)), np.add.reduceat(gradient * rates, starts) / risk


def optimize_pieces(objective: TwinObjective, lengths: Lengths, start: Array) -> tuple[Array, float]:
    """Best log rates of given pieces from a start, and the risk."""
    low, high = np.full(lengths.size, objective.lowest), np.full(lengths.size, objective.highest)
    log_rates, value = descend(
        lambda x: objective.of_pieces(x, lengths),
        np.clip(start, low, high),
        low,
        high,
        tolerance=1e-7,
        most=_EVALUATIONS,
    )
    return log_rates, float(np.exp(value))


def optimize_constant(objective: TwinObjective, steps: int, guess: float) -> tuple[float, float]:
    """Best constant log rate, and the risk."""
    center = float(np.clip(np.log(guess), objective.lowest + 3.0, objective.highest - 3.0))
    for _ in range(_WIDER):
        grid = np.minimum(center + np.arange(-3.0, 3.01, 0.5), objective.cap)
        risks = [objective.at(np.full(steps, np.exp(x))) for x in grid]
        best = int(np.nanargmin(np.where(np.isfinite(risks), risks, np.inf)))
        at_top = best == grid.size - 1 and grid[-1] < objective.highest
        if not at_top and not (best == 0 and grid[0] > objective.lowest):
            break
        center = float(grid[best])
    found = optimize.minimize_scalar(
        lambda x: objective.at(np.full(steps, np.exp(x))),
        bounds=(grid[best] - 0.5, min(grid[best] + 0.5, max(objective.highest, grid[best]), objective.cap)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(found.x), float(found.fun)


def optimize_family(objective: TwinObjective, name: str, steps: int, log_rate: float) -> tuple[Schedule, float]:
    """Best member of a family, and the risk."""
    make, t = FAMILIES[name], np.arange(steps)

    def member(x: Array) -> Schedule:
        return make(
            float(np.exp(np.clip(x[0], objective.lowest, objective.highest))), steps, float(np.exp(min(x[1], 0.0)))
        )

    found = optimize.minimize(  # type: ignore[call-overload]  # SciPy's stubs want an option's own type
        lambda x: objective.at(member(x)(t)),
        np.array([log_rate + 0.7, -2.0]),
        method="Nelder-Mead",
        options={
            "initial_simplex": np.array([[log_rate + 0.3, -1.0], [log_rate + 1.3, -1.0], [log_rate + 0.7, -3.0]]),
            "xatol": 0.01,
            "fatol": 1e-12,
            "maxfev": 120,
        },
    )
    return member(found.x), float(found.fun)
