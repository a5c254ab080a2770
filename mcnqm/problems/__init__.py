"""What is optimized: loss, gradient, its noise, and the law of the starting point."""

from mcnqm.problems.checks import check_problem, is_gaussian, is_quadratic, unknown_to_twins
from mcnqm.problems.landscapes import Landscape, landscape
from mcnqm.problems.noisy_quadratic import NoisyQuadratic
from mcnqm.problems.problem import Problem, check_any_problem
from mcnqm.problems.wells import DoubleWell, QuarticWell

__all__ = [
    "DoubleWell",
    "Landscape",
    "NoisyQuadratic",
    "Problem",
    "QuarticWell",
    "check_any_problem",
    "check_problem",
    "is_gaussian",
    "is_quadratic",
    "landscape",
    "unknown_to_twins",
]
