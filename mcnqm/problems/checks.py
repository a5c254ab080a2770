"""Which kinds of problem a question can be asked of."""

from __future__ import annotations

from typing import Any, TypeGuard

from mcnqm.errors import ParameterError
from mcnqm.problems.landscapes import Landscape
from mcnqm.problems.noisy_quadratic import NoisyQuadratic

__all__ = ["check_problem", "is_gaussian", "is_quadratic", "unknown_to_twins"]


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


def is_quadratic(problem: Any) -> TypeGuard[NoisyQuadratic]:
    """Whether gradients are linear, so that there are closed forms of second moments."""
    return isinstance(problem, NoisyQuadratic)


def is_gaussian(problem: Any) -> TypeGuard[NoisyQuadratic]:
    """Whether gradients are linear and their noise normal, of one variance, so that all of a law is known."""
    return isinstance(problem, NoisyQuadratic) and problem.noise_df is None and unknown_to_twins(problem) is None


def unknown_to_twins(problem: Any) -> str | None:
    """What of a problem a mean-field twin knows nothing of, by name; None where twins can run."""
    if not isinstance(problem, NoisyQuadratic):
        return "a landscape"
    return "multiplicative noise" if problem.multiplicative_noise.any() else None
