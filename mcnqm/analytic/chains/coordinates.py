"""One coordinate under plain SGD: where a step takes it on average, how far it scatters, where wells end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD
from mcnqm.problems import DoubleWell, Landscape, NoisyQuadratic
from mcnqm.settings import Settings, settings_of

__all__ = ["Coordinate", "chain_settings", "check_chain_problem", "check_wells", "coordinates_of"]

Array = NDArray[np.float64]

_LINEAR = "mcnqm.analytic.risk knows every linear optimizer on a NoisyQuadratic, and mcnqm.simulate all on any problem"


@dataclass(frozen=True)
class Coordinate:
    r"""A coordinate of a problem at one learning rate and batch size.

    A step is :math:`\theta' \sim N(m(\theta), \sigma(\theta)^2)`.

    Attributes
    ----------
    problem : Problem
    entry : int
        Which of its distinct entries.
    lr, batch_size : float
    """

    problem: Any
    entry: int
    lr: float
    batch_size: float

    def loss(self, theta: Array) -> Array:
        """Loss above the least one, shape of `theta`."""
        if isinstance(self.problem, NoisyQuadratic):
            return np.asarray(0.5 * self.problem.curvature[self.entry] * theta**2)
        return np.asarray(self._of("loss", theta) - self.problem.floor[self.entry])

    def gradient(self, theta: Array) -> Array:
        """Derivative of the loss."""
        if isinstance(self.problem, NoisyQuadratic):
            gradient: Array = self.problem.curvature[self.entry] * theta
            return gradient
        return self._of("gradient", theta)

    def variance(self, theta: Array) -> Array:
        """Variance of one example's gradient."""
        if isinstance(self.problem, NoisyQuadratic):
            slope = self.problem.multiplicative_noise[self.entry]
            variance: Array = self.problem.noise[self.entry] + slope * theta**2
            return variance
        return self._of("variance", theta)

    def _of(self, name: str, theta: Array) -> Array:
        values: Array = getattr(self.problem, name)(theta[..., np.newaxis])[..., self.entry]
        return values

    def mean(self, theta: Array) -> Array:
        """Where a step from `theta` goes on average."""
        return theta - self.lr * self.gradient(theta)

    def spread(self, theta: Array) -> Array:
        """Standard deviation of a step from `theta`."""
        return self.lr * np.sqrt(self.variance(theta) / self.batch_size)

    @cached_property
    def start(self) -> tuple[float, float]:
        """Mean and standard deviation of the start."""
        return float(self.problem.initial_mean[self.entry]), float(self.problem.initial_std[self.entry])

    @cached_property
    def barrier(self) -> float | None:
        """Between two wells; None where there is one."""
        if not isinstance(self.problem, DoubleWell):
            return None
        return float(np.ravel(self.problem.barrier)[self.entry])

    @cached_property
    def minima(self) -> tuple[float, ...]:
        """Positions of the sharp and the wide minimum; of none in other problems."""
        if not isinstance(self.problem, DoubleWell):
            return ()
        return tuple(float(np.ravel(self.problem.minima[well])[self.entry]) for well in ("sharp", "wide"))

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Beyond these the coordinate has left every well."""
        if isinstance(self.problem, Landscape):
            low, high = self.problem.region[self.entry]
            return float(low), float(high)
        return -np.inf, np.inf


def check_chain_problem(problem: Any) -> None:
    """Raise `ParameterError` for what is no problem, and for noise under which a step has no normal density."""
    if not isinstance(problem, NoisyQuadratic | Landscape):
        raise ParameterError("problem", problem, "be a mcnqm.NoisyQuadratic or a landscape such as mcnqm.DoubleWell")
    if problem.noise_df is not None:
        raise ParameterError("noise_df", problem.noise_df, "be None in a chain: a step must have a normal law")
    if isinstance(problem, NoisyQuadratic) and not (problem.noise > 0).all():
        raise ParameterError("noise", 0.0, "be > 0 in a chain: a step without noise has no density")


def check_wells(problem: Any) -> None:
    """Raise `ParameterError` if there are no two wells."""
    check_chain_problem(problem)
    if not isinstance(problem, DoubleWell):
        raise ParameterError("problem", problem, "be a mcnqm.DoubleWell: occupancy and escape are of its two wells")


def chain_settings(optimizer: Any, batch_size: Any) -> Settings:
    """The sweep over `lr` and `batch_size`; `ParameterError` for anything but plain SGD."""
    if not isinstance(optimizer, SGD):
        raise ParameterError("optimizer", optimizer, f"be plain mcnqm.SGD in a chain; {_LINEAR}")
    settings = settings_of(optimizer, batch_size)
    for name in ("momentum", "precondition", "weight_decay", "dampening"):
        for entry in settings.values[name][settings.values[name] != 0]:
            raise ParameterError(name, float(entry), f"be 0 in a chain, which is plain SGD; {_LINEAR}")
    return settings


def coordinates_of(problem: Any, settings: Settings) -> Iterator[tuple[int, int, Coordinate, list[int]]]:
    """Distinct coordinates of every setting: the setting, one entry, the coordinate, and all entries like it."""
    if isinstance(problem, NoisyQuadratic):
        numbers = [problem.curvature, problem.noise, problem.multiplicative_noise]
    else:
        numbers = list(problem.numbers)
    table = np.stack([*numbers, problem.initial_mean, problem.initial_std])
    _, first, which = np.unique(table, axis=1, return_index=True, return_inverse=True)
    which = which.ravel()
    for s in range(settings.size):
        lr, batch = float(settings.values["lr"][s]), float(settings.values["batch_size"][s])
        for k, entry in enumerate(first.tolist()):
            yield s, entry, Coordinate(problem, entry, lr, batch), np.flatnonzero(which == k).tolist()
