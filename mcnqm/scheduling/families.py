"""Families of schedules with parameters, and the best member of one: L-BFGS on the log of the exact risk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mcnqm.scheduling.composed import Composed
from mcnqm.scheduling.descent import descend
from mcnqm.scheduling.pieces import Lengths
from mcnqm.scheduling.rule import Candidate, Rule

__all__ = [
    "FAMILIES",
    "LOWEST",
    "TIGHT",
    "Cosine",
    "Exponential",
    "Family",
    "Free",
    "log_risk",
    "log_risk_and_gradient",
    "minimize",
]

Array = NDArray[np.float64]

LOWEST = -40.0
"""Least logarithm of a rate over the largest stable one: such a piece does nothing."""

_LONGEST_MEMORY = 18.0
"""Largest -log(1 - momentum): 1 - momentum = 1.5e-8."""

TIGHT, _LOOSE = 1e-11, 1e-5
"""Gain in the log risk at which a descent ends: the last one, and that from each of several starts."""


class Family(Protocol):
    """Schedules with parameters; the last of them, where momentum is tuned, is its place, or one for each piece."""

    @property
    def lengths(self) -> Lengths:
        """Steps of each piece."""

    def at(self, p: Array) -> Candidate:
        """The schedule."""

    def pull(self, p: Array, by_x: Array, by_y: Array) -> Array:
        """Derivatives by the parameters from those by the pieces."""

    def bounds(self) -> list[tuple[float, float]]:
        """Of the parameters."""

    def lowered(self, p: Array, by: float) -> Array:
        """Parameters of the schedule whose rates are all lower by a factor exp(`by`)."""


@dataclass(frozen=True)
class Free:
    """Every piece by itself; one piece is the constant."""

    lengths: Lengths
    tuned: bool

    def at(self, p: Array) -> Candidate:
        """The schedule."""
        k = self.lengths.size
        return Candidate(self.lengths, p[:k], p[k:] if self.tuned else np.zeros(k))

    def pull(self, p: Array, by_x: Array, by_y: Array) -> Array:
        """Derivatives by the parameters."""
        return np.concatenate([by_x, by_y]) if self.tuned else by_x

    def bounds(self) -> list[tuple[float, float]]:
        """Of the parameters."""
        k = self.lengths.size
        return [(LOWEST, 0.0)] * k + [(0.0, _LONGEST_MEMORY)] * (k if self.tuned else 0)

    def lowered(self, p: Array, by: float) -> Array:
        """Parameters with all rates lower."""
        k = self.lengths.size
        return np.concatenate([np.maximum(p[:k] - by, LOWEST), p[k:]])

    def start(self, found: Candidate) -> Array:
        """Parameters of the member next to a schedule."""
        near = found.stretched(self.lengths)
        return np.concatenate([near.x, near.y]) if self.tuned else near.x


@dataclass(frozen=True)
class Exponential:
    """Parameters: log of the first rate over the largest, log of the final fraction."""

    lengths: Lengths
    tuned: bool

    def _place(self) -> Array:
        n = self.lengths
        return np.asarray((np.cumsum(n) - n + 0.5 * (n - 1)) / n.sum())

    def at(self, p: Array) -> Candidate:
        """The schedule."""
        place = self._place()
        return Candidate(self.lengths, p[0] + p[1] * place, np.full(place.size, p[2] if self.tuned else 0.0))

    def pull(self, p: Array, by_x: Array, by_y: Array) -> Array:
        """Derivatives by the parameters."""
        return np.array([by_x.sum(), by_x @ self._place(), by_y.sum()])[: 3 if self.tuned else 2]

    def bounds(self) -> list[tuple[float, float]]:
        """Of the parameters."""
        return [(LOWEST, 0.0), (LOWEST, 0.0), (0.0, _LONGEST_MEMORY)][: 3 if self.tuned else 2]

    def lowered(self, p: Array, by: float) -> Array:
        """Parameters with all rates lower."""
        return np.concatenate([np.maximum(p[:1] - by, LOWEST), p[1:]])


class Cosine(Exponential):
    """Parameters: log of the first rate over the largest, the final fraction."""

    def _shape(self, final: float) -> tuple[Array, Array]:
        wave = 0.5 * (1.0 + np.cos(np.pi * self._place()))
        return wave, np.maximum(final + (1.0 - final) * wave, 1e-300)

    def at(self, p: Array) -> Candidate:
        """The schedule."""
        _, level = self._shape(p[1])
        return Candidate(
            self.lengths, np.maximum(p[0] + np.log(level), -600.0), np.full(level.size, p[2] if self.tuned else 0.0)
        )

    def pull(self, p: Array, by_x: Array, by_y: Array) -> Array:
        """Derivatives by the parameters."""
        wave, level = self._shape(p[1])
        return np.array([by_x.sum(), by_x @ ((1.0 - wave) / level), by_y.sum()])[: 3 if self.tuned else 2]

    def bounds(self) -> list[tuple[float, float]]:
        """Of the parameters."""
        return [(LOWEST, 0.0), (0.0, 1.0), (0.0, _LONGEST_MEMORY)][: 3 if self.tuned else 2]


FAMILIES: dict[str, tuple[type[Exponential], tuple[float, ...]]] = {
    "exponential": (Exponential, (-0.5, -2.0, -5.0)),
    "cosine": (Cosine, (0.5, 0.1, 0.01)),
}
"""Each with second parameters to start from."""


def log_risk(composed: Composed, rule: Rule, found: Candidate) -> float:
    """Log of the risk."""
    risk = composed.risk(*found.values(rule), found.lengths)
    return float(np.log(max(risk, 1e-300)))


def log_risk_and_gradient(composed: Composed, rule: Rule, family: Family) -> Callable[[Array], tuple[float, Array]]:
    """Log of the risk and its gradient, as a function of a family's parameters."""

    def objective(p: Array) -> tuple[float, Array]:
        found = family.at(p)
        lr, momentum = found.values(rule)
        risk, by_lr, by_momentum = composed.gradient(lr, momentum, family.lengths, by_momentum=rule.tuned)
        if not 1e-300 < risk < np.inf:
            return (-700.0 if risk <= 1e-300 else 700.0), np.zeros(p.size)
        by_x = by_lr * lr
        by_y = (by_momentum + by_x * rule.largest(momentum)[1]) * (1.0 - momentum) if rule.tuned else by_x
        return float(np.log(risk)), family.pull(p, by_x, by_y) / risk

    return objective


def minimize(
    composed: Composed, rule: Rule, family: Family, starts: list[Array], tolerance: float = TIGHT
) -> tuple[Array, float]:
    """Parameters of least risk and its logarithm: loosely from every start, then from the best to a tolerance."""
    objective = log_risk_and_gradient(composed, rule, family)
    low, high = np.array(family.bounds()).T

    if len(starts) > 1:
        loose = max(_LOOSE, tolerance)
        tried = [descend(objective, start, low, high, tolerance=loose) for start in starts]
        starts = [min(tried, key=lambda one: one[1])[0]]
    return descend(objective, starts[0], low, high, tolerance=tolerance)
