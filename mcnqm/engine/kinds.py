"""What kernels know a problem by: a kind of coordinate, and its numbers in columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcnqm.errors import ParameterError
from mcnqm.kernels.gradients import Rising
from mcnqm.kernels.mistakes import check_kind, check_rule
from mcnqm.kernels.updates import rule_of
from mcnqm.problems import Landscape, NoisyQuadratic, Problem, check_any_problem

__all__ = ["KindOfProblem", "check_optimizer", "kind_of_problem"]


class KindOfProblem(NamedTuple):
    """A problem's kind of coordinate.

    Attributes
    ----------
    numbers : type or None
        NamedTuple of its numbers; None for the plain quadratic, whose one number is the curvature.
    curvature : ndarray of float64, shape (size,)
        As preconditioners see it; 1 where there is none.
    columns : ndarray of float64, shape (size, fields)
    bounds : ndarray of float64, shape (size, 3)
        Least loss, and the least and largest parameter at which there is one.
    """

    numbers: type | None
    curvature: NDArray[np.float64]
    columns: NDArray[np.float64]
    bounds: NDArray[np.float64]


def kind_of_problem(problem: Problem) -> KindOfProblem:
    """The kind of a problem's coordinates; `ParameterError` if Numba cannot compile what it is made of."""
    check_any_problem(problem)
    everywhere = np.tile([0.0, -np.inf, np.inf], (problem.size, 1))
    if isinstance(problem, NoisyQuadratic):
        if not problem.multiplicative_noise.any():
            return KindOfProblem(None, problem.curvature, np.empty((problem.size, 0)), everywhere)
        columns = np.stack([problem.curvature, problem.noise, problem.multiplicative_noise], axis=1)
        return KindOfProblem(Rising, problem.curvature, columns, everywhere)
    if isinstance(problem, Landscape):
        kind: Any = problem.Numbers
        check_kind(kind, type(problem).__name__)
        bounds = np.column_stack([problem.floor, problem.region])
        return KindOfProblem(kind, np.ones(problem.size), np.stack(problem.numbers, axis=1), bounds)
    raise ParameterError("problem", problem, "be of a kind that simulations know")


def check_optimizer(problem: Problem, optimizer: Any, form: type, rows: NDArray[np.float64]) -> None:
    """Raise `ParameterError` if an update does not compile, or asks for the curvature of a problem that has none."""
    check_rule(form, type(optimizer).__name__)
    local = rule_of(form).local
    if local is None or isinstance(problem, NoisyQuadratic):
        return
    make, see = form._make, local.py_func  # type: ignore[attr-defined]
    for column in np.unique(rows[:-1], axis=1).T.tolist():
        if tuple(see(make(column), 2.0)) != tuple(see(make(column), 3.0)):
            name = "precondition" if "precondition" in form._fields else "optimizer"  # type: ignore[attr-defined]
            value = getattr(optimizer, name, type(optimizer).__name__)
            raise ParameterError(name, value, "not depend on the curvature: a landscape has none of its own")
