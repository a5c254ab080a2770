r"""A limit to the risk on the way: how high it gets, and the best schedule of which it does not get higher.

With a limit :math:`R_*` the log risk at the end is minimized under :math:`g_j = \log(R_j / R_*) \le 0` at places
j inside of all pieces, by an augmented Lagrangian (Nocedal & Wright, "Numerical optimization", eq. (17.55)),

.. math:: \log R_T + \frac{1}{2\mu} \sum_j \big( \max(0, \lambda_j + \mu g_j)^2 - \lambda_j^2 \big),

whose gradient is that of a weighted sum of risks: one pass forwards and one backwards, as for the last risk alone. What
comes out may be above the limit by a trifle, there or between those places. So the risk is looked at again, step by
step, and the rates are lowered together until it is below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcnqm.scheduling.composed import Composed
from mcnqm.scheduling.descent import descend
from mcnqm.scheduling.families import TIGHT, Family, log_risk, minimize
from mcnqm.scheduling.pieces import Lengths
from mcnqm.scheduling.rule import Candidate, Rule

__all__ = ["highest_risk", "minimize_within"]

Array = NDArray[np.float64]

_EVERY = 2**25
"""Coordinates times steps up to which the risk is looked at after every step."""

_FINE, _COARSE = np.sqrt(2.0), 2.0
"""In longer runs, and in the Lagrangian: at steps of each piece, counted from its start, that grow by these factors."""

_ZOOMS, _ZOOM = 3, 16
"""How often, and into how many parts, the surroundings of the highest place are divided."""

_STIFFNESS, _STIFFER = 10.0, 4.0
_ROUNDS, _MET = 25, 1e-6
"""Of the Lagrangian: its first stiffness μ and growth, and the log of the risk over the limit that counts as met."""

_GAIN, _EVALUATIONS = 1e-7, 500
"""Of each descent: the gain that ends it, and most gradients. Kinks where a place comes to the limit make it slow."""

_STARTS = 2
"""From so many of the starts."""


def _cuts(n: int, growth: float) -> Lengths:
    """Lengths of the parts of a piece of n steps, which end at steps that grow by a factor."""
    count = int(np.ceil(np.log(n) / np.log(growth))) if n > 1 else 0
    ends = np.unique(np.append(np.floor(growth ** np.arange(count)), n).astype(np.int64))
    return np.diff(ends, prepend=0)


def _divided(lengths: Lengths, growth: float) -> tuple[Lengths, NDArray[np.int64]]:
    """Lengths of the parts of all pieces, and the piece that each belongs to."""
    parts = [_cuts(int(n), growth) for n in lengths]
    return np.concatenate(parts), np.repeat(np.arange(lengths.size), [part.size for part in parts])


def highest_risk(composed: Composed, rule: Rule, found: Candidate) -> float:
    """Largest expected loss after any step; in very long runs, of some places of each piece, and around the highest.

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic
    >>> problem = NoisyQuadratic.power_law(dim=100)
    >>> rule = Rule.of(problem, SGD(lr=1.0), False)
    >>> found = Candidate(np.array([50, 50]), np.log([0.9, 0.1]), np.zeros(2))
    >>> round(highest_risk(rule.composed(problem, 1.0), rule, found), 3)
    6.778
    """
    lr, momentum = found.values(rule)
    steps = int(found.lengths.sum())
    if steps * composed.scale.size <= _EVERY:
        k = np.repeat(np.arange(lr.size), found.lengths)
        return float(composed.risks(lr[k], momentum[k], np.ones(steps, dtype=np.int64)).max())
    parts, k = _divided(found.lengths, _FINE)
    for _ in range(_ZOOMS):
        risks = composed.risks(lr[k], momentum[k], parts)
        top = int(np.argmax(risks))
        near = np.arange(max(top - 1, 0), min(top + 2, parts.size))
        pieces = [np.diff(np.unique(np.linspace(0, parts[j], _ZOOM + 1).astype(np.int64))) for j in near]
        parts = np.concatenate([parts[: near[0]], *pieces, parts[near[-1] + 1 :]])
        k = np.concatenate(
            [k[: near[0]], np.repeat(k[near], [piece.size for piece in pieces]), k[near[-1] + 1 :]],
        )
    return float(composed.risks(lr[k], momentum[k], parts).max())


@dataclass
class _Lagrangian:
    """Log of the last risk and what exceeding the limit costs, as a function of a family's parameters."""

    composed: Composed
    rule: Rule
    family: Family
    limit: float

    def __post_init__(self) -> None:
        self.parts, self.piece = _divided(self.family.lengths, _COARSE)
        self.first = np.searchsorted(self.piece, np.arange(self.family.lengths.size))
        self.multipliers, self.stiffness = np.zeros(self.parts.size), _STIFFNESS

    def excess(self, p: Array) -> Array:
        """Log of the risk over the limit, at the end of each part; where it overflows, a large number."""
        lr, momentum = self.family.at(p).values(self.rule)
        risks = self.composed.risks(lr[self.piece], momentum[self.piece], self.parts)
        return np.asarray(np.log(np.clip(risks, 1e-300, 1e300)) - np.log(self.limit))

    def __call__(self, p: Array) -> tuple[float, Array]:
        """Value and gradient."""
        lr, momentum = self.family.at(p).values(self.rule)
        g = self.excess(p)
        if g.max() > 600.0:
            return 1e6, np.zeros(p.size)
        force = np.maximum(0.0, self.multipliers + self.stiffness * g)
        value = g[-1] + ((force**2 - self.multipliers**2) / (2.0 * self.stiffness)).sum()
        force[-1] += 1.0
        k, tuned = self.piece, self.rule.tuned
        _, by_lr, by_momentum = self.composed.gradient(
            *(lr[k], momentum[k], self.parts), by_momentum=tuned, mix=force * np.exp(-g) / self.limit
        )
        by_x = np.add.reduceat(by_lr, self.first) * lr
        by_y = by_x
        if tuned:
            by_y = (np.add.reduceat(by_momentum, self.first) + by_x * self.rule.largest(momentum)[1]) * (1.0 - momentum)
        return float(value), self.family.pull(p, by_x, by_y)

    def solved(self, p: Array, tolerance: float) -> Array:
        """Parameters of least risk within the limit, nearly, from a start."""
        low, high = np.array(self.family.bounds()).T
        before = np.inf
        for _ in range(_ROUNDS):
            p, _ = descend(self, p, low, high, tolerance=max(tolerance, _GAIN), most=_EVALUATIONS)
            g = self.excess(p)
            over = float(np.abs(np.maximum(g, -self.multipliers / self.stiffness)).max())
            self.multipliers = np.maximum(0.0, self.multipliers + self.stiffness * g)
            if over < _MET:
                break
            if over > 0.25 * before:
                self.stiffness *= _STIFFER
            before = over
        return p


def minimize_within(
    composed: Composed, rule: Rule, family: Family, starts: list[Array], limit: float, tolerance: float = TIGHT
) -> tuple[Array, float]:
    """Parameters of least risk and its logarithm, as `minimize` finds them, of a risk that is never above a limit."""
    p, value = minimize(composed, rule, family, starts, tolerance)
    if limit == np.inf or highest_risk(composed, rule, family.at(p)) <= limit:
        return p, value

    def within(p: Array) -> Array:
        return _lowered(composed, rule, family, p, limit)

    low, high = np.array(family.bounds()).T
    allowed = [within(np.clip(start, low, high)) for start in [*starts, p]]
    allowed.sort(key=lambda one: log_risk(composed, rule, family.at(one)))
    found = allowed[:1]
    for start in allowed[:_STARTS]:
        lagrangian = _Lagrangian(composed, rule, family, limit)
        p = lagrangian.solved(start, tolerance)
        # Between the places that the Lagrangian looks at it may be higher.
        above = highest_risk(composed, rule, family.at(p)) / limit
        if above > 1.0 + _MET:
            lagrangian.limit = limit / above
            p = lagrangian.solved(p, tolerance)
        found.append(within(p))
    values = [log_risk(composed, rule, family.at(one)) for one in found]
    best = int(np.argmin(values))
    return found[best], values[best]


def _lowered(composed: Composed, rule: Rule, family: Family, p: Array, limit: float) -> Array:
    """The parameters with all rates lowered together, by as little as keeps the risk within the limit."""

    def fine(by: float) -> bool:
        return highest_risk(composed, rule, family.at(family.lowered(p, by))) <= limit

    if fine(0.0):
        return p
    low, high = 0.0, 1e-9
    while not fine(high) and high < 80.0:
        low, high = high, 4.0 * high
    for _ in range(20):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if fine(middle) else (middle, high)
        if high - low < 1e-3 * high:
            break
    return family.lowered(p, high)
