"""A linear optimizer, where its stable rates end, and schedules of pieces measured by that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, numeric_fields
from mcnqm.problems import NoisyQuadratic
from mcnqm.scheduling.composed import Composed
from mcnqm.scheduling.pieces import Lengths

__all__ = ["Candidate", "Rule"]

Array = NDArray[np.float64]

_BELOW = 1e-9
"""By how much, relatively, the largest rate stays below the stability bound."""


@dataclass(frozen=True)
class Rule:
    """The optimizer, and where its rates end: at the edge of stability, or at a largest rate below that."""

    nesterov: bool
    precondition: float
    weight_decay: float
    dampening: float
    momentum: float
    tuned: bool
    steepest: float
    largest_lr: float = np.inf

    @classmethod
    def of(cls, problem: NoisyQuadratic, optimizer: SGD, tuned: bool, largest_lr: float = np.inf) -> Rule:
        """Of an optimizer, whose momentum may be `tuned`, on a problem."""
        numbers = {name: float(value) for name, value in numeric_fields(optimizer).items()}
        decay, dampening = numbers["weight_decay"], numbers["dampening"]
        if tuned and dampening:
            raise ParameterError("tune_momentum", True, "be False with dampening, which needs momentum > 0 throughout")
        composed = Composed.of(problem, 1.0, precondition=numbers["precondition"], weight_decay=decay)
        steepest = float(composed.scale.max()) * (1.0 - dampening)
        rest = numbers["momentum"], tuned, steepest, largest_lr
        return cls(optimizer.nesterov, numbers["precondition"], decay, dampening, *rest)

    def composed(self, problem: NoisyQuadratic, batch_size: float) -> Composed:
        """The problem under it."""
        return Composed.of(
            *(problem, batch_size),
            precondition=self.precondition,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            dampening=self.dampening,
        )

    def largest(self, momentum: Array) -> tuple[Array, Array]:
        """Largest rate at a momentum, and the derivative of its logarithm by that."""
        lead = 1.0 + momentum
        bound = 2.0 * (1.0 - _BELOW) * lead / self.steepest
        slope = 1.0 / lead
        if self.nesterov:
            ahead = 1.0 + 2.0 * momentum
            bound, slope = bound / ahead, slope - 2.0 / ahead
        capped = bound > self.largest_lr
        return np.where(capped, self.largest_lr, bound), np.where(capped, 0.0, slope)


@dataclass(frozen=True)
class Candidate:
    """A schedule to try: log of the rate over the largest, and -log(1 - momentum), of each piece."""

    lengths: Lengths
    x: Array
    y: Array

    def stretched(self, lengths: Lengths) -> Candidate:
        """The same over pieces of other lengths: values at the middles, by the fraction of the run."""
        ends = np.cumsum(self.lengths) / self.lengths.sum()
        middles = (np.cumsum(lengths) - 0.5 * lengths) / lengths.sum()
        k = np.minimum(np.searchsorted(ends, middles, side="right"), ends.size - 1)
        return Candidate(lengths, self.x[k], self.y[k])

    def values(self, rule: Rule) -> tuple[Array, Array]:
        """Rates and momenta."""
        momentum = -np.expm1(-self.y) if rule.tuned else np.full(self.x.size, rule.momentum)
        return rule.largest(momentum)[0] * np.exp(self.x), momentum
