"""What `tune` seeks: the fewest steps to a target, or the least risk after a number of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mcnqm.arguments import given, value_of
from mcnqm.domains import integer, positive
from mcnqm.engine import Pool
from mcnqm.errors import ParameterError
from mcnqm.problems import Problem
from mcnqm.tuning.horizon import SimulatedRisk, risk_by_theory
from mcnqm.tuning.routes import Route, SimulatedRoute
from mcnqm.tuning.searches import Simulation

__all__ = ["Goal", "goal_of"]


@dataclass(frozen=True)
class Goal:
    """What is sought, at every batch size.

    Attributes
    ----------
    target : float or None
        Risk to reach in the fewest steps; or
    steps, examples : int or None
        after which the risk is to be least.
    """

    target: float | None = None
    steps: int | None = None
    examples: int | None = None

    def horizon(self, batch_size: float) -> int | None:
        """The number of steps after which the risk is to be least; None for a target."""
        if self.examples is None:
            return self.steps
        return math.ceil(Fraction(self.examples) / Fraction(batch_size))  # exact, where floats would round

    def theory(self, kind: Any, problem: Any, batch_size: float, max_steps: int | None = None) -> Route:
        """The route of a theory, of the `kind` that `mcnqm.tuning.routes.theory_of` gives.

        To a target it gives up at `max_steps`.
        """
        if (horizon := self.horizon(batch_size)) is not None:
            return risk_by_theory(kind, problem, batch_size, horizon)
        route: Route = kind(problem, batch_size, self.target, max_steps)
        return route

    def simulation(self, problem: Problem, batch_size: float, options: Mapping[str, Any], pool: Pool) -> Simulation:
        """The route by simulation."""
        if (horizon := self.horizon(batch_size)) is not None:
            return SimulatedRisk(problem, batch_size, horizon, options, pool)
        assert self.target is not None
        return SimulatedRoute(problem, batch_size, self.target, options, pool)


def goal_of(target: Any, steps: Any, examples: Any, max_steps: Any, longest: int) -> Goal:
    """Exactly one of a target, steps and examples; the target by default. Runs end at `longest`."""
    wanted = {name: v for name, v in {"target": target, "steps": steps, "examples": examples}.items() if given(v)}
    if len(wanted) > 1:
        first, second = list(wanted)[:2]
        allowed = f"be left out where {first} is given: exactly one of target, steps and examples is sought"
        raise ParameterError(second, wanted[second], allowed)
    if "steps" in wanted or "examples" in wanted:
        ((name, value),) = wanted.items()
        if given(max_steps):
            raise ParameterError("max_steps", max_steps, f"be left out with {name}, which says how long runs are")
        return Goal(**{name: integer(name, value, 1, longest)})
    if (shape := positive.check("target", value_of(target)).shape) != ():
        raise ParameterError("target", f"shape {shape}", "be a scalar: each target has a best of its own")
    return Goal(target=value_of(target))
