r"""Every linear optimizer as one map per coordinate: :math:`s' = A s + b\, \alpha' \sqrt{c/B}\, z`.

The state is made dimensionless by measuring the buffer in steps: with :math:`\alpha' = \alpha h^{-p}`,
:math:`u = \alpha' (h + \lambda)` for weight decay λ, and :math:`m̃ = \alpha' m`, `A` depends on u and β alone:

=================  ==============  ============================================  ===================
optimizer          state           A                                             b
=================  ==============  ============================================  ===================
SGD                θ               ``1-u``                                       ``-1``
heavy ball         (θ, m̃)          ``[[1-u, -β], [u, β]]``                       ``(-1, 1)``
... if u > 1+β     (θ, m̃ + 2θ)     ``[[g-1, -β], [g, -β]]``, ``g = 2+2β-u``      ``(-1, -1)``
Nesterov           (θ, m̃)          ``[[1-(1+β)u, -β²], [u, β]]``                 ``(-(1+β), 1)``
averaged           (..., θ̄)        ``[[A, 0], [(1-γ) A₀, γ]]``, A₀ the row of θ  ``(b, (1-γ) b₀)``
=================  ==============  ============================================  ===================

Dampening d makes the buffer take 1 - d of each gradient, which is the heavy ball at the rate (1-d) α, with α' m for m̃
as before. The first gradient is an exception, since torch takes it whole: what it leaves is the map's `opening`.

Averaging wraps any of the others. Where β → 1, the heavy ball has nearly a Jordan block, of eigenvalue 1 as
u → 0 and of -1 as u → 2(1+β). Its powers lose no digits where the block is triangular, hence the two forms:
at the upper edge the second is, up to signs, the first with g, the distance to the edge, for u.

Entries are double-doubles: u is the product of the doubles α and h, not its rounding to a double.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic.linear.doubledouble import DoubleDouble, add, divide, double, multiply, power, subtract
from mcnqm.analytic.linear.ladder import State, StepMap, Weights
from mcnqm.averaging import checked_average
from mcnqm.domains import unit_interval
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD
from mcnqm.problems import NoisyQuadratic
from mcnqm.schedules import Schedule
from mcnqm.settings import Settings, settings_of

__all__ = ["LinearMap", "effective_curvature", "linear_map", "linear_settings", "maps_of"]

Array = NDArray[np.float64]

_SMALLEST_RATE = 1e-100
"""A rate that moves nothing in any run there is, and whose square is still a number."""


@dataclass(frozen=True)
class LinearMap:
    """One setting's map on every entry of a problem.

    Attributes
    ----------
    step : StepMap
        A, b and the start.
    readout : int
        Which state the risk is of: θ, or the average where there is one.
    rate, rate_low : ndarray, shape (size,)
        u = α h^(1-p), as high and low words.
    unit : ndarray, shape (size,)
        (1-d) α' with α' = α h^(-p): the noise is ``unit * sqrt(c/B)``.
    scale : ndarray, shape (size,)
        α': the buffer m is m̃ over ``scale``.
    flipped : ndarray of bool, shape (size,)
        Where the second state is m̃ + 2θ.
    opening : State or None
        With dampening, the state after the first step, in terms of ``unit``; without, that step is like the others.
    """

    step: StepMap
    readout: int
    rate: Array
    rate_low: Array
    unit: Array
    scale: Array
    flipped: NDArray[np.bool_]
    opening: State | None

    @property
    def averaged(self) -> bool:
        """Whether the last state is an average of the iterates."""
        return self.readout > 0

    def buffer(self, vector: Array, noise: Array) -> tuple[Array, Array, Array]:
        """Of m̃: its mean response, its variance and its covariance with θ, from v and S.

        `vector` has the shape (..., n, size) and `noise` (..., n, n, size).
        """
        back = np.where(self.flipped, 2.0, 0.0)
        cross = noise[..., 0, 1, :] - back * noise[..., 0, 0, :]
        variance = noise[..., 1, 1, :] - back * (noise[..., 0, 1, :] + cross)
        return vector[..., 1, :] - back * vector[..., 0, :], variance, cross

    def beside_buffer(self, noise: Array) -> Array:
        """Covariance of m̃ with the average, from S, shape (..., n, n, size)."""
        back = np.where(self.flipped, 2.0, 0.0)
        return noise[..., 1, self.readout, :] - back * noise[..., 0, self.readout, :]

    def weights(self, problem: NoisyQuadratic) -> Weights:
        """Shares of the entries in the risk at batch size 1."""
        half = 0.5 * problem.multiplicity * problem.curvature
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            # The unit enters twice, not squared, so that neither half overflows where the product does not.
            noise = (half * self.unit) * (self.unit * problem.noise)
        return Weights(half * problem.initial_second_moment, noise, self.readout)


def linear_settings(
    optimizer: Any, batch_size: Any, average: Any = None, *, schedules: bool = False, **extra: Any
) -> Settings:
    """`settings_of` for linear optimizers: refuse the others, and broadcast the decay of an average.

    With `schedules`, rates, momentum, batch sizes and averages may change with the step, but no preconditioner.
    """
    if not isinstance(optimizer, SGD):
        raise ParameterError("optimizer", optimizer, "be linear in the gradient (mcnqm.SGD) for a closed form")
    if average is not None:
        if schedules and isinstance(average, Schedule):
            checked_average(average)
        elif not isinstance(average, Schedule):
            unit_interval.check("average", getattr(average, "values", average))
        extra = {"average": average, **extra}
    if schedules and isinstance(optimizer.precondition, Schedule):
        raise ParameterError("precondition", optimizer.precondition, "be the same at every step here")
    settings = settings_of(optimizer, batch_size, schedules=schedules, **extra)
    for rate in settings.values["lr"]:
        if 0.0 < rate < _SMALLEST_RATE:
            allowed = f"be at least {_SMALLEST_RATE:g} in a closed form: powers of it vanish"
            raise ParameterError("lr", float(rate), allowed)
    return settings


def linear_map(problem: NoisyQuadratic, nesterov: bool, buffer: bool, values: dict[str, float]) -> LinearMap:
    """The map of one setting; `buffer` says whether the momentum buffer is part of the state."""
    # A rate so large that it overflows diverges; that is a result, not a reason to warn.
    with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
        return _linear_map(problem, nesterov, buffer, values)


def _linear_map(problem: NoisyQuadratic, nesterov: bool, buffer: bool, values: dict[str, float]) -> LinearMap:
    size = problem.size
    curvature, preconditioner = _preconditioned(problem, values["precondition"], values["weight_decay"])
    whole = multiply(_spread(double(values["lr"]), size), curvature)
    gain = subtract(_spread(double(1.0), size), _spread(double(values["dampening"]), size))
    u = multiply(gain, whole) if values["dampening"] else whole
    beta = _spread(double(values["momentum"]), size)
    zero, one = _spread(double(0.0), size), _spread(double(1.0), size)
    stay = subtract(one, u)
    lead = add(one, beta)
    flipped = np.zeros(size, dtype=np.bool_)
    if not buffer:
        rows, impulse, initial = [[stay]], [_negative(one)], [one]
    elif nesterov:
        rows = [[subtract(one, multiply(lead, u)), _negative(multiply(beta, beta))], [u, beta]]
        impulse, initial = [_negative(lead), one], [one, zero]
    else:
        flipped = u[0] > lead[0]
        gap = subtract(add(lead, lead), u)
        rows = [
            [_where(flipped, subtract(gap, one), stay), _negative(beta)],
            [_where(flipped, gap, u), _where(flipped, _negative(beta), beta)],
        ]
        impulse = [_negative(one), _where(flipped, _negative(one), one)]
        initial = [one, _where(flipped, add(one, one), zero)]
    readout = 0
    if "average" in values:
        gamma = _spread(double(values["average"]), size)
        weight = subtract(one, gamma)
        readout = len(rows)
        rows = [[*row, zero] for row in rows] + [[*(multiply(weight, entry) for entry in rows[0]), gamma]]
        impulse = [*impulse, multiply(weight, impulse[0])]
        initial = [*initial, one]
    scale = values["lr"] / preconditioner[0]
    opening = None
    if buffer and values["dampening"]:
        opening = _opening(whole, gain, flipped, rows[-1][-1] if readout else None)
    return LinearMap(
        StepMap(
            np.array([[np.stack(entry) for entry in row] for row in rows]),
            np.array([np.stack(entry) for entry in impulse]),
            np.array([entry[0] for entry in initial]),
        ),
        readout,
        u[0],
        u[1],
        scale * gain[0] if values["dampening"] else scale,
        scale,
        flipped,
        opening,
    )


def _opening(whole: DoubleDouble, gain: DoubleDouble, flipped: NDArray[np.bool_], gamma: DoubleDouble | None) -> State:
    """State after a first step that takes the gradient whole: θ = 1 - u, m̃ = u, and noise (-1, 1) / (1 - d).

    `whole` is u without the factor 1 - d, which the unit of the noise has.
    """
    size = flipped.size
    one = _spread(double(1.0), size)
    kick = divide(one, gain)
    # In the flipped basis the second entry is m̃ + 2θ: of the start u + 2 (1 - u), of the noise -1.
    vector = [subtract(one, whole), _where(flipped, subtract(add(one, one), whole), whole)]
    push = [_negative(kick), _where(flipped, _negative(kick), kick)]
    if gamma is not None:
        fresh = subtract(one, gamma)
        vector.append(add(gamma, multiply(fresh, vector[0])))
        push.append(multiply(fresh, push[0]))
    noise = [[multiply(a, b) for b in push] for a in push]
    return State(
        np.array([np.stack(entry) for entry in vector]),
        np.array([[np.stack(entry) for entry in row] for row in noise]),
    )


@lru_cache(maxsize=16)
def _preconditioned(problem: NoisyQuadratic, exponent: float, decay: float = 0.0) -> tuple[DoubleDouble, DoubleDouble]:
    """(h + λ) h^(-p) and h^p, remembered because a sweep over rates asks again and again."""
    preconditioner = power(problem.curvature, exponent)
    curvature = double(problem.curvature)
    if decay:
        curvature = add(curvature, _spread(double(decay), problem.size))
    return divide(curvature, preconditioner), preconditioner


def effective_curvature(problem: NoisyQuadratic, exponent: float, decay: float = 0.0) -> Array:
    """(h + λ) h^(-p): a step of plain SGD multiplies θ by 1 less α times that."""
    if decay == 0.0:
        return power(problem.curvature, 1.0 - exponent)[0]
    return _preconditioned(problem, exponent, decay)[0][0]


def maps_of(settings: Settings) -> list[tuple[NDArray[np.int64], dict[str, float]]]:
    """The distinct maps of a sweep: which settings share each, and its hyperparameters."""
    names = [name for name in settings.values if name not in ("batch_size", "target")]
    table = np.stack([settings.values[name] for name in names])
    distinct, which = np.unique(table, axis=1, return_inverse=True)
    return [
        (np.flatnonzero(which.ravel() == k), dict(zip(names, map(float, distinct[:, k]), strict=True)))
        for k in range(distinct.shape[1])
    ]


def _spread(value: DoubleDouble, size: int) -> DoubleDouble:
    return np.full(size, value[0]), np.full(size, value[1])


def _where(condition: NDArray[np.bool_], a: DoubleDouble, b: DoubleDouble) -> DoubleDouble:
    return np.where(condition, a[0], b[0]), np.where(condition, a[1], b[1])


def _negative(value: DoubleDouble) -> DoubleDouble:
    return -value[0], -value[1]
