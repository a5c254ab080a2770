"""The search for the best schedule of a linear optimizer at one batch size, with its baselines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.scheduling.composed import Composed
from mcnqm.scheduling.families import FAMILIES, LOWEST, TIGHT, Family, Free, log_risk
from mcnqm.scheduling.greedy import GreedyWalk
from mcnqm.scheduling.horizon import fewest_steps
from mcnqm.scheduling.labels import Best
from mcnqm.scheduling.limits import highest_risk, minimize_within
from mcnqm.scheduling.pieces import Layout, piece_lengths
from mcnqm.scheduling.rule import Candidate, Rule
from mcnqm.scheduling.small_rate import SmallRateLimit

__all__ = ["BASELINES", "LinearSearch"]

Array = NDArray[np.float64]

BASELINES = ("constant", "greedy", "exponential", "cosine")

_SMOOTH = 256
"""Pieces in place of the single steps of an exponential or cosine, in longer runs."""

_LOOSE = 1e-5
"""Gain in the log risk at which the descent from a family's schedule ends."""

_SHARP = 1e-5
"""The same in a search for the steps, times the steps: one step more lowers the log risk by about one over them."""

_ROUNDS = 4
"""How often a search for a horizon starts over, where another start turns out to be better at its end."""


@dataclass(frozen=True)
class LinearSearch:
    """The search at one batch size."""

    coarse: Composed
    fine: Composed
    rule: Rule
    layout: Layout
    small_rate: SmallRateLimit | None
    batch_size: float
    lr: float
    largest_risk: float = np.inf
    initial_risk: float = 0.0
    memory: dict[Any, Any] = field(default_factory=dict)
    """Answers that are asked for again: baselines by steps, and each family's last parameters."""

    def run(
        self, steps: int | None, target: float | None, limit: int, neighbor: Candidate | None, baselines: bool
    ) -> tuple[Candidate, Best] | None:
        """The best schedule, and its row of the answer; None if the target is not reached within the limit."""
        if steps is not None:
            found = self.polished(self.best(steps, [neighbor] if neighbor is not None else []))
        else:
            assert target is not None
            reached = self.horizon(float(np.log(target)), limit, neighbor)
            if reached is None:
                return None
            found = reached
        total = int(found.lengths.sum())
        risks, passages = {}, {}
        if baselines:
            projected = self.baselines(total)
            risks = {name: self.value(name, total, projected) for name in BASELINES}
            if target is not None:
                passages = {name: self.passage(name, target, limit, total) for name in BASELINES}
        lr, momentum = found.values(self.rule)
        risk = float(np.exp(log_risk(self.fine, self.rule, found)))
        highest = max(self.initial_risk, highest_risk(self.fine, self.rule, found))
        values = {"risk": risk, "largest_risk": highest}
        return found, Best(found.lengths, {"lr": lr, "momentum": momentum}, values, risks, passages)

    # ------------------------------------------------------------------------------------------------- optimization

    def minimize(
        self, composed: Composed, family: Family, starts: list[Array], tolerance: float = TIGHT
    ) -> tuple[Array, float]:
        """Parameters of a family of least risk, within the limit on the way, and that risk's logarithm."""
        # Bins may start at another risk.
        limit = self.largest_risk if composed is self.fine else self.largest_risk * _start(composed) / _start(self.fine)
        return minimize_within(composed, self.rule, family, starts, limit, tolerance)

    def constant(self, steps: int, composed: Composed | None = None) -> Candidate:
        """The best constant, from a grid: with momentum and few steps there are several basins."""
        composed, rule, lengths = composed or self.coarse, self.rule, np.array([steps], dtype=np.int64)
        family = Free(lengths, rule.tuned)
        x = -np.concatenate([np.geomspace(1e-7, 0.1, 12), np.linspace(0.2, 18.0, 60)])
        if not rule.tuned:
            risks = [log_risk(self.coarse, rule, family.at(np.array([place]))) for place in x]
            starts = [np.array([x[k]]) for k in _valleys(np.array(risks), 3)]
            starts.append(np.log(np.array([self.lr]) / rule.largest(np.array([rule.momentum]))[0]))
        else:
            starts, lows = [], []
            for y in np.concatenate([[0.0], -np.log(np.geomspace(0.7, 1e-6, 20))]):
                risks = [log_risk(self.coarse, rule, family.at(np.array([place, y]))) for place in x]
                k = int(np.argmin(risks))
                starts.append(np.array([x[k], y]))
                lows.append(risks[k])
            starts = [starts[k] for k in _valleys(np.array(lows), 3)]
        return family.at(self.minimize(composed, family, starts)[0])

    def smooth(self, name: str, steps: int, start: Array | None = None) -> tuple[Candidate, Array]:
        """The best of a family, and its parameters."""
        kind, seconds = FAMILIES[name]
        family = kind(piece_lengths(steps, _SMOOTH, "equal"), self.rule.tuned)
        if start is not None:
            starts = [start]
        else:
            # The constant is a member, its mean rate a guess of the others'.
            level = self.constant(steps)
            none = 0.0 if name == "exponential" else 1.0
            starts = [np.array([level.x[0], none, level.y[0]])]
            starts += [np.array([min(level.x[0] + 1.0, -0.1), second, level.y[0]]) for second in seconds]
            starts = [p[: 3 if self.rule.tuned else 2] for p in starts]
        p, _ = self.minimize(self.coarse, family, starts)
        return family.at(p), p

    def greedy(self, steps: int) -> Candidate | None:
        """The greedy schedule's mean rate on each of our pieces."""
        if self.rule.momentum or self.rule.tuned:
            return None
        largest = self.rule.largest(np.zeros(1))[0]
        walk, lengths, rates = GreedyWalk(self.coarse, float(largest[0])), self.layout.of(steps), []
        for n, end in zip(lengths, np.cumsum(lengths), strict=True):
            area = walk.area
            walk.advance(int(end))
            rates.append((walk.area - area) / n)
        x = np.log(np.maximum(np.array(rates) / largest, np.exp(LOWEST)))
        return Candidate(lengths, x, np.zeros(x.size))

    def baselines(self, steps: int) -> dict[str, Candidate | None]:
        """Every baseline, optimized at that many steps on the bins."""
        if steps not in self.memory:
            self.memory[steps] = {
                "constant": self.constant(steps),
                "greedy": self.greedy(steps),
                **{name: self.smooth(name, steps)[0] for name in FAMILIES},
            }
        found: dict[str, Candidate | None] = self.memory[steps]
        return found

    def small_rates(self, steps: int, memory: float) -> list[Candidate]:
        """The closed form for small rates, at a memory (-log(1 - momentum))."""
        if self.small_rate is None:
            return []
        lengths = self.layout.of(steps)
        momentum = np.full(lengths.size, -np.expm1(-memory))
        rates = self.small_rate.rates(steps * self.batch_size, lengths) * (1.0 - momentum) / (1.0 - self.rule.dampening)
        x = np.log(np.maximum(rates / self.rule.largest(momentum)[0], np.exp(LOWEST)))
        return [Candidate(lengths, np.minimum(x, 0.0), np.full(x.size, memory))]

    def improved(self, steps: int, starts: list[Candidate], tolerance: float = TIGHT) -> tuple[Candidate, float]:
        """The best on the bins, from some starts."""
        family = Free(self.layout.of(steps), self.rule.tuned)
        p, value = self.minimize(self.coarse, family, [family.start(found) for found in starts], tolerance)
        return family.at(p), value

    def best(self, steps: int, more: list[Candidate], tolerance: float = TIGHT) -> Candidate:
        """The best on the bins, from all starts."""
        projected = [found for found in self.baselines(steps).values() if found is not None]
        memory = projected[0].y[0] if self.rule.tuned else -np.log1p(-self.rule.momentum)
        starts = projected + self.small_rates(steps, float(memory)) + more
        if self.rule.tuned:
            starts += self.small_rates(steps, 0.0)
        return self.improved(steps, starts, tolerance)[0]

    def polished(self, found: Candidate, tolerance: float = TIGHT) -> Candidate:
        """The best of the full problem nearby."""
        if self.fine is self.coarse:
            return found
        family = Free(found.lengths, self.rule.tuned)
        return family.at(self.minimize(self.fine, family, [family.start(found)], tolerance)[0])

    def horizon(self, goal: float, limit: int, neighbor: Candidate | None) -> Candidate | None:
        """Fewest steps to a log risk: on the bins, with other starts at the end, then on the full problem."""
        guess = self.small_rate.examples(float(np.exp(goal))) / self.batch_size if self.small_rate is not None else 1.0
        families: list[tuple[int, float, Candidate]] = []
        for name in ("constant", *FAMILIES):
            near = min([guess * 2.0] + [float(one[0]) for one in families]) if families else guess
            one = self.fewest(name, self.coarse, goal, limit, near)
            if one is not None:
                families.append(one)
        # If the family's schedule, projected onto the pieces, reaches the target, its number of steps bounds ours from
        # above. The constant is its own projection.
        most, start = limit, None
        for steps, _, found in sorted(families, key=lambda one: one[0]):
            own, value = self.improved(steps, [found, self.constant(steps)], _LOOSE)
            if value <= goal:
                most, start = steps, own
                break

        def bins(steps: int, state: Candidate | None) -> tuple[float, Candidate]:
            starts = [] if state is None else [state]
            if state is start:
                starts += self.small_rates(steps, float(-np.log1p(-self.rule.momentum)))
            if self.rule.tuned or self.rule.momentum or not starts:
                starts.append(self.constant(steps))
            found, value = self.improved(steps, starts, max(_SHARP / steps, TIGHT))
            return value - goal, found

        def full(steps: int, state: Candidate | None) -> tuple[float, Candidate]:
            assert state is not None
            found = self.polished(state.stretched(self.layout.of(steps)), max(_SHARP / steps, TIGHT))
            return log_risk(self.fine, self.rule, found) - goal, found

        if start is not None:
            guess = min(max(guess, 0.3 * most), most)
        reached = fewest_steps(bins, guess, start, most)
        if reached is None and most < limit:
            # A smooth family may need fewer steps than a few pieces do.
            reached = fewest_steps(bins, float(most), start, limit)
        if reached is None:
            return None
        if self.fine is not self.coarse:
            reached = fewest_steps(full, reached[0], reached[2], limit)
            if reached is None:
                return None
        others = [] if neighbor is None else [neighbor]
        for _ in range(_ROUNDS):
            steps, _, found = reached
            if steps == 1:
                break
            # Whether another start does with a step less.
            sharp = max(_SHARP / steps, TIGHT)
            other = self.polished(self.best(steps - 1, [found, *others], sharp), sharp)
            gap = log_risk(self.fine, self.rule, other) - goal
            if gap > 0.0:
                break
            again = fewest_steps(full if self.fine is not self.coarse else bins, steps - 1, other, steps - 1)
            reached = (steps - 1, gap, other) if again is None else again
        steps, gap, found = reached
        other = self.polished(self.best(steps, [found, *others]))
        return other if log_risk(self.fine, self.rule, other) - goal < gap else found

    # ---------------------------------------------------------------------------------------------------- baselines

    def value(self, name: str, steps: int, projected: dict[str, Candidate | None]) -> float:
        """A baseline's risk of the full problem."""
        if name == "greedy":
            if projected["greedy"] is None:
                return np.nan
            walk = GreedyWalk(self.fine, float(self.rule.largest(np.zeros(1))[0][0]))
            walk.advance(steps)
            return walk.risk
        found = self.constant(steps, self.fine) if name == "constant" else projected[name]
        assert found is not None
        return float(np.exp(log_risk(self.fine, self.rule, found)))

    def passage(self, name: str, target: float, limit: int, guess: int) -> float:
        """A baseline's fewest steps."""
        if name == "greedy":
            if self.rule.momentum or self.rule.tuned:
                return np.nan
            walk = GreedyWalk(self.fine, float(self.rule.largest(np.zeros(1))[0][0]))
            walk.advance(limit, target)
            return float(walk.step) if walk.risk <= target else np.inf
        reached = self.fewest(name, self.fine, float(np.log(target)), limit, guess)
        return np.inf if reached is None else float(reached[0])

    def fewest(
        self, name: str, composed: Composed, goal: float, limit: int, guess: float
    ) -> tuple[int, float, Candidate] | None:
        """Fewest steps of the constant or a smooth family."""

        def evaluate(steps: int, state: Candidate | None) -> tuple[float, Candidate]:
            if name == "constant":
                found = self.constant(steps, composed)
            else:
                found, self.memory[name] = self.smooth(name, steps, self.memory.get(name))
            return log_risk(composed, self.rule, found) - goal, found

        reached = fewest_steps(evaluate, self.memory.get((name, goal), guess), None, limit)
        if reached is not None:
            self.memory[name, goal] = reached[0]
        return reached


def _start(composed: Composed) -> float:
    """Risk before the first step."""
    return float(composed.weight @ composed.start)


def _valleys(values: Array, most: int) -> list[int]:
    """Places of the lowest local minima."""
    padded = np.concatenate([[np.inf], values, [np.inf]])
    low = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]))
    return [int(k) for k in low[np.argsort(values[low])][:most]]
