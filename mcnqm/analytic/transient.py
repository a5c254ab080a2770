"""Risk and moments at any step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.analytic._labels import LOSS, check_answer, dataset, moment_attrs, selection
from mcnqm.analytic.linear.doubledouble import subtract
from mcnqm.analytic.linear.ladder import StepMap, origin, walk, walk_sums
from mcnqm.analytic.linear.lifted import Strength, begin, cells_of, lift, rises, strength_of, walk_lifted
from mcnqm.analytic.linear.maps import LinearMap, linear_map, linear_settings, maps_of
from mcnqm.analytic.linear.scheduled import S0A, S00, S01, S1A, S11, SAA, V0, V1, VA, Walk, scheduled_settings, unshared
from mcnqm.domains import MOST_STEPS
from mcnqm.problems import NoisyQuadratic, check_problem
from mcnqm.provenance import recorded
from mcnqm.record import recorded_steps

__all__ = ["moments", "risk"]

_BLOCK = 128  # coordinates whose ladder of 35 rungs (0.6 MB with momentum) stays in the second-level cache

_PAIRS = {
    "theta_momentum_covariance": (V0, V1, S01),
    "theta_average_covariance": (V0, VA, S0A),
    "momentum_average_covariance": (V1, VA, S1A),
}
"""Rows of a scheduled state that a covariance is made of."""


@recorded("mcnqm.analytic.risk")
def risk(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Any,
    steps: int,
    *,
    record: Any = None,
    average: Any = None,
) -> xr.Dataset:
    r"""Exact expected loss of a linear optimizer at the recorded steps.

    .. math::

        E\,L(\theta_t) = \tfrac12 \sum_i n_i h_i \Big[ D_{i,t}^2\, E\,\theta_i(0)^2
        + \alpha_i'^2 \frac{c_i}{B} \sum_{k<t} G_{i,k}^2 \Big]

    with :math:`D_t = (A^t s_0)_\theta` and :math:`G_k = (A^k b)_\theta` (Zhang et al. 2019, eq. (4) and the
    equality behind Theorem 1), multiplicity n and :math:`\alpha' = \alpha h^{-p}`. Weight decay λ makes h act as h + λ
    in A, while the weight of a coordinate stays h; dampening makes the first step another map than the rest.
    With multiplicative noise, c is :math:`c + s\,E\,\theta^2` at each step, and second moments follow a linear map of
    their own (``docs/analytic.md``); Student's t changes no second moment.

    Parameters
    ----------
    problem : NoisyQuadratic
    optimizer : SGD
        With any momentum, Nesterov, preconditioner, weight decay, dampening; arrays make a sweep. All but the
        preconditioner may be schedules (`mcnqm.schedules`).
    batch_size : Number
        Examples per step, at least 1; an array makes a sweep. Or a schedule.
    steps : int
        Length of the run, up to 2**53.
    record : sequence of int, optional
        Steps at which to answer; the default is that of `mcnqm.record.recorded_steps`.
    average : Number, optional
        Decay γ in [0, 1) of an exponential moving average of the iterates,
        :math:`\bar\theta_{t+1} = \gamma \bar\theta_t + (1-\gamma)\theta_{t+1}` from
        :math:`\bar\theta_0 = \theta_0`; or a schedule of it (`mcnqm.averaging`). The risk is then that of the average,
        with or without momentum.

    Returns
    -------
    xarray.Dataset
        ``risk`` (\*sweep, step), in units of the loss. An unstable rate grows to infinity, without a warning.

    Raises
    ------
    ParameterError
        If the optimizer is not linear in the gradient, or a value is out of range.

    Notes
    -----
    Relative error below 1e-14 (measured 4e-16) against exact rational arithmetic for t up to 1000 and against
    60-digit arithmetic for t up to 10¹², double roots and the edge of stability included. Only for a
    preconditioner power other than 0 and 1 is ``h**(1-p)`` itself rounded, to a long double.
    Time grows like d · (records · log₂ of their distance); batch sizes that share a map share the work.

    With a schedule, the same recursion goes step by step in doubles, with a relative error of about 1e-16 a step, but
    for stretches of 64 steps or more in which nothing changes, or a plain mean grows. That is an error of the
    state: where momentum swings a coordinate without noise through zero, or an unstable piece blew a run up, the risk
    has fewer digits (3e-12 was seen): ``docs/averaging.md``.

    References
    ----------
    G. Zhang et al., "Which algorithmic choices matter at which batch sizes?", NeurIPS 2019.

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic.power_law(dim=100)
    >>> exact = analytic.risk(problem, SGD(lr=[0.1, 1.0]), batch_size=8, steps=1000, record=[0, 10, 1000])
    >>> exact.risk.round(4).values
    array([[2.5937, 1.6782, 0.0411],
           [2.5937, 0.7683, 0.2053]])

    A rate that falls, and the mean of the last 500 iterates:

    >>> from mcnqm import averaging, schedules
    >>> falling = SGD(lr=schedules.cosine(1.0, steps=1000))
    >>> analytic.risk(problem, falling, 8, 1000, record=[1000]).risk.round(4).values
    array([0.0149])
    >>> analytic.risk(problem, SGD(lr=1.0), 8, 1000, record=[1000], average=averaging.tail(500)).risk.round(4).values
    array([0.0112])
    """
    check_problem(problem)
    at = recorded_steps(steps, record, limit=MOST_STEPS)
    settings = linear_settings(optimizer, batch_size, average, schedules=True)
    check_answer(settings, records=at.size)
    flat = np.empty((settings.size, at.size))
    apart = rises(problem)
    for members, setting in scheduled_settings(settings, optimizer.nesterov, apart=apart) if settings.schedules else []:
        bias, variance = Walk(problem, setting).along(at)
        flat[members] = bias + variance / unshared(settings, apart)[members, None]
    for members, values in [] if settings.schedules else maps_of(settings):
        linear = linear_map(problem, optimizer.nesterov, values["momentum"] > 0, values)
        if rises(problem):
            for s in members:
                flat[s] = _rising_risk(problem, linear, values, settings.values["batch_size"][s], at)
            continue
        bias, variance = curves(problem, linear, at)
        flat[members] = bias + variance / settings.values["batch_size"][members, None]
    data = xr.DataArray(settings.unflatten(flat), dims=(*settings.dims, "step"), attrs=LOSS)
    return dataset({"risk": data}, settings, at)


@recorded("mcnqm.analytic.moments")
def moments(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Any,
    steps: int,
    *,
    record: Any = None,
    coordinates: Any = None,
    average: Any = None,
) -> xr.Dataset:
    r"""Exact mean and covariance of every coordinate's parameter and momentum buffer.

    Parameters
    ----------
    problem, optimizer, batch_size, steps, record, average
        As in `risk`.
    coordinates : sequence of int, optional
        Which coordinates, counted in the expanded problem where multiplicity n makes n in a row. The default
        is all of them.

    Returns
    -------
    xarray.Dataset
        ``theta_mean``, ``theta_variance`` (\*sweep, step, coordinate), in units of the parameter and its
        square. With momentum also ``momentum_mean``, ``momentum_variance`` and ``theta_momentum_covariance``,
        in units of the gradient, its square, and parameter × gradient. The buffer m is torch's, a sum:
        :math:`m' = \beta m + g`, of which dampening takes a part. With `average` also ``average_mean``,
        ``average_variance``, ``theta_average_covariance`` and, with momentum, ``momentum_average_covariance``. The
        variance counts the starting point's: it is that over fresh runs. What overflows under an unstable rate is
        infinite, or NaN where its sign is lost.

    Raises
    ------
    ParameterError
        As `risk`, and if a coordinate does not exist.

    Notes
    -----
    The accuracy is that of `risk`; of a mean or covariance that passes through zero, it is relative to the
    size it oscillates with.

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic(curvature=[1.0, 0.1], initial_mean=2.0, initial_std=0.0)
    >>> exact = analytic.moments(problem, SGD(lr=0.5, momentum=0.5), 4, steps=2, coordinates=[0])
    >>> exact.theta_mean.squeeze().values
    array([2., 1., 0.])
    >>> exact.momentum_mean.squeeze().values
    array([0., 2., 2.])
    """
    check_problem(problem)
    at = recorded_steps(steps, record, limit=MOST_STEPS)
    settings = linear_settings(optimizer, batch_size, average, schedules=True)
    entry = np.repeat(np.arange(problem.size), problem.multiplicity)
    wanted = selection(problem, coordinates)
    distinct, position = np.unique(entry[wanted], return_inverse=True)
    part = NoisyQuadratic(
        problem.curvature[distinct],
        problem.noise[distinct],
        problem.initial_mean[distinct],
        problem.initial_std[distinct],
        multiplicative_noise=problem.multiplicative_noise[distinct],
    )
    apart = rises(part)
    buffer = bool(np.any(settings.values["momentum"] != 0))
    shape = (settings.size, at.size, distinct.size)
    names = moment_attrs(buffer, average is not None)
    check_answer(settings, records=at.size, coordinates=max(wanted.size, distinct.size), variables=len(names))
    found = {name: np.empty(shape) for name in names}
    scheduled = scheduled_settings(settings, optimizer.nesterov, buffer, apart=apart) if settings.schedules else []
    for members, setting in scheduled:
        states = Walk(part, setting).states(at)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for s in members:
                noise = np.ones(part.size) if apart else part.noise / unshared(settings)[s]
                for name, row, square in (("theta", V0, S00), ("momentum", V1, S11), ("average", VA, SAA)):
                    if f"{name}_mean" in names:
                        found[f"{name}_mean"][s] = _times(part.initial_mean, states[:, row])
                        found[f"{name}_variance"][s] = _variance(part, noise, states[:, row], states[:, square])
                for name, (one, other, square) in _PAIRS.items():
                    if name in names:
                        start = _times(part.initial_std, states[:, one]) * _times(part.initial_std, states[:, other])
                        found[name][s] = start + _times(noise, states[:, square])
    for members, values in [] if settings.schedules else maps_of(settings):
        linear = linear_map(part, optimizer.nesterov, buffer, values)
        v, S = _walked(linear, at)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for s in members:
                noise = linear.unit**2 * part.noise / settings.values["batch_size"][s]
                if apart:
                    noise, S = np.ones(part.size), _rising(part, linear, values, settings.values["batch_size"][s], at)
                for name, value in _moments_of(part, linear, noise, v, S, buffer).items():
                    found[name][s] = value
    data = {
        name: xr.DataArray(
            settings.unflatten(found[name][:, :, position]),
            dims=(*settings.dims, "step", "coordinate"),
            attrs=attrs,
        )
        for name, attrs in names.items()
    }
    return dataset(data, settings, at).assign_coords(
        coordinate=("coordinate", wanted, {"long_name": "coordinate of the expanded problem"})
    )


def _moments_of(
    part: NoisyQuadratic,
    linear: LinearMap,
    noise: NDArray[np.float64],
    v: NDArray[np.float64],
    S: NDArray[np.float64],
    buffer: bool,
) -> dict[str, NDArray[np.float64]]:
    """Moments by name, shape (records, size), from the map's states (records, n, size) and covariances."""
    mean, std, theta = part.initial_mean, part.initial_std, v[:, 0]
    found = {"theta_mean": _times(mean, theta), "theta_variance": _variance(part, noise, theta, S[:, 0, 0])}
    if buffer:
        m, m_noise, cross_noise = linear.buffer(v, S)
        found["momentum_mean"] = _times(mean, m) / linear.scale
        found["momentum_variance"] = _variance(part, noise, m, m_noise) / linear.scale**2
        both = _times(std, theta) * _times(std, m) + _times(noise, cross_noise)
        found["theta_momentum_covariance"] = both / linear.scale
    if linear.averaged:
        last = linear.readout
        average = v[:, last]
        found["average_mean"] = _times(mean, average)
        found["average_variance"] = _variance(part, noise, average, S[:, last, last])
        found["theta_average_covariance"] = _times(std, theta) * _times(std, average) + _times(noise, S[:, 0, last])
        if buffer:
            both = _times(std, m) * _times(std, average) + _times(noise, linear.beside_buffer(S))
            found["momentum_average_covariance"] = both / linear.scale
    return found


def curves(problem: NoisyQuadratic, linear: LinearMap, at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bias and variance parts of the risk at batch size 1, shape (2, records)."""
    weights = linear.weights(problem)
    if linear.opening is None:
        return walk_sums(linear.step, origin(linear.step), at, weights, _BLOCK)
    # The first step is apart from the others, and so is what comes before it.
    later = at[at > 0]
    before = walk_sums(linear.step, origin(linear.step), at[at == 0], weights, _BLOCK)
    return np.concatenate([before, walk_sums(linear.step, linear.opening, later - 1, weights, _BLOCK)], axis=1)


def _rising_risk(
    problem: NoisyQuadratic, linear: LinearMap, values: dict[str, float], batch_size: float, at: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The risk under noise that rises with the parameter, shape (records,)."""
    n = linear.step.matrix.shape[0]
    row = np.array([n * (n + 1) // 2 - 1 if linear.averaged else 0])
    second = _lifted(problem, linear, values, batch_size, at, row)[:, 0, 0]
    alive = (problem.initial_second_moment > 0) | (problem.noise > 0)
    half = 0.5 * problem.multiplicity * problem.curvature
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # What nothing drives stays at zero, even where its map overflows.
        terms = np.where(alive, half * second, 0.0)
        terms = np.where(np.isfinite(terms), terms, np.inf)
    return np.array([math.fsum(each) for each in terms])


def _rising(
    problem: NoisyQuadratic, linear: LinearMap, values: dict[str, float], batch_size: float, at: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Covariance beyond that of the start, of unit noise, shape (records, n, n, size)."""
    n = linear.step.matrix.shape[0]
    states = _lifted(problem, linear, values, batch_size, at, np.arange(n * (n + 1) // 2))
    one = StepMap(linear.step.matrix, np.zeros_like(linear.step.impulse), linear.step.initial)
    plain = lift(one, Strength(np.zeros((2, problem.size)), np.zeros((2, problem.size))))
    start, first = begin(problem, linear, Strength(np.zeros((2, problem.size)), np.zeros((2, problem.size))))
    kept = _powers(plain, start, first, at, np.arange(n * (n + 1) // 2))
    S = np.empty((at.size, n, n, problem.size))
    with np.errstate(all="ignore"):
        for row, (i, j) in enumerate(cells_of(n)):
            a, b = states[:, row], kept[:, row]
            high, _ = subtract((a[:, 0], a[:, 1]), (b[:, 0], b[:, 1]))
            S[:, i, j] = S[:, j, i] = high
    return S


def _lifted(
    problem: NoisyQuadratic,
    linear: LinearMap,
    values: dict[str, float],
    batch_size: float,
    at: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    strength = strength_of(problem, values, batch_size)
    return _powers(lift(linear.step, strength), *begin(problem, linear, strength), at, rows)


def _powers(
    matrix: NDArray[np.float64],
    start: NDArray[np.float64],
    first: NDArray[np.float64] | None,
    at: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    if first is None:
        return walk_lifted(matrix, start, at, rows)
    before = walk_lifted(matrix, start, at[at == 0], rows)
    return np.concatenate([before, walk_lifted(matrix, first, at[at > 0] - 1, rows)])


def _walked(linear: LinearMap, at: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States v and S at recorded steps, of any map."""
    if linear.opening is None:
        return walk(linear.step, origin(linear.step), at)
    before = walk(linear.step, origin(linear.step), at[at == 0])
    after = walk(linear.step, linear.opening, at[at > 0] - 1)
    return np.concatenate([before[0], after[0]]), np.concatenate([before[1], after[1]])


def _times(weight: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    # What nothing drives stays at zero, even where its map overflows.
    return np.where(weight == 0, 0.0, weight * value)


def _variance(
    problem: NoisyQuadratic,
    noise: NDArray[np.float64],
    response: NDArray[np.float64],
    collected: NDArray[np.float64],
) -> NDArray[np.float64]:
    variance = _times(problem.initial_std, response) ** 2 + _times(noise, collected)
    return np.where(np.isfinite(variance), variance, np.inf)
