"""What is optimized: loss, gradient, its noise, and the law of the starting point."""

from mcnqm.problems.noisy_quadratic import NoisyQuadratic, check_problem

__all__ = ["NoisyQuadratic", "check_problem"]
