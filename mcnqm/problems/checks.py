"""Which kinds of problem a question can be asked of."""

from __future__ import annotations

from typing import Any

from mcnqm.errors import ParameterError
from mcnqm.problems.landscape import Landscape
from mcnqm.problems.noisy_quadratic import NoisyQuadratic

__all__ = ["check_problem"]


def check_problem(problem: Any) -> None:
    """Raise `ParameterError` if closed forms cannot be had for this problem: it is none, or its gradient not linear."""
    if isinstance(problem, Landscape):
        raise ParameterError(
            "problem",
            problem,
            "be a mcnqm.NoisyQuadratic, since a landscape's gradient is not linear; mcnqm.simulate, "
            "mcnqm.steps_to_target and mcnqm.tune with method='simulate' take landscapes",
        )
    if not isinstance(problem, NoisyQuadratic):
        raise ParameterError("problem", problem, "be a mcnqm.NoisyQuadratic")
