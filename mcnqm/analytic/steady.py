"""What the iterates settle into."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.analytic._labels import LOSS, check_answer, dataset, moment_attrs, selection
from mcnqm.analytic.linear.ladder import limit
from mcnqm.analytic.linear.lifted import Strength, cells_of, lift, rises, settled, strength_of
from mcnqm.analytic.linear.maps import LinearMap, linear_map, linear_settings, maps_of
from mcnqm.analytic.linear.roots import spectral_decay
from mcnqm.problems import NoisyQuadratic, check_problem
from mcnqm.provenance import recorded

__all__ = ["steady_state"]


@recorded("mcnqm.analytic.steady_state")
def steady_state(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Any,
    *,
    coordinates: Any = None,
    average: Any = None,
) -> xr.Dataset:
    r"""Risk and covariance in the limit of infinitely many steps.

    The covariance solves the discrete Lyapunov equation :math:`P = A P A^T + b b^T \alpha'^2 c / B`. For
    plain SGD, the risk of a coordinate is :math:`\alpha c / (2B(2-\alpha h))`; with heavy-ball momentum,
    :math:`(1+\beta)\alpha c / (2B(2+2\beta-\alpha h)(1-\beta))` (Zhang et al. 2019, section 3.2). With weight decay
    λ, h becomes h + λ in the denominator, and the result is multiplied by h / (h + λ); with dampening d, α becomes
    (1-d) α. With multiplicative noise, c is :math:`c + s P_{\theta\theta}`, and beyond `largest_stable_lr` there is no
    limit.

    Parameters
    ----------
    problem : NoisyQuadratic
    optimizer : SGD
        Arrays make a sweep.
    batch_size : Number
        Examples per step, at least 1.
    coordinates : sequence of int, optional
        Also return the covariance of these coordinates of the expanded problem.
    average : Number, optional
        Decay of an exponential moving average of the iterates, as in `mcnqm.analytic.risk`.

    Returns
    -------
    xarray.Dataset
        ``risk`` (\*sweep), in units of the loss. With `coordinates`, the variables of
        `mcnqm.analytic.moments` (\*sweep, coordinate), all means being zero. An unstable coordinate
        with noise is infinite; without noise, the limit from zero is returned, which is zero.

    Raises
    ------
    ParameterError
        If the optimizer is not linear, or a value is out of range.

    Notes
    -----
    Smith's doubling method in double-double: a sum of positive terms, so that tiny rates cancel nothing.
    Relative error below 1e-14 (measured 3e-16) for αh from 1e-16 to 1e-15 below the limit of stability.

    References
    ----------
    R. A. Smith, "Matrix equation XA + BX = C", SIAM J. Appl. Math. 16, 1968.

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic(curvature=[1.0, 0.5])
    >>> analytic.steady_state(problem, SGD(lr=[0.1, 1.0, 3.0]), batch_size=4).risk.round(6).values
    array([0.009784, 0.166667,      inf])
    """
    check_problem(problem)
    settings = linear_settings(optimizer, batch_size, average)
    buffer = bool(np.any(settings.values["momentum"] > 0))
    wanted = selection(problem, coordinates)
    names = {} if coordinates is None else moment_attrs(buffer, average is not None, means=False)
    check_answer(settings, coordinates=wanted.size, variables=len(names))
    flat = np.empty(settings.size)
    apart = rises(problem)
    found = {name: np.empty((settings.size, wanted.size)) for name in names}
    entry = np.repeat(np.arange(problem.size), problem.multiplicity)[wanted]
    for members, values in maps_of(settings):
        linear = linear_map(problem, optimizer.nesterov, buffer, values)
        if apart:
            for s in members:
                P = _rising(linear, strength_of(problem, values, settings.values["batch_size"][s]))
                P = np.where(problem.noise > 0, P, 0.0)
                terms = 0.5 * problem.multiplicity * problem.curvature * P[linear.readout, linear.readout]
                flat[s] = math.fsum(terms)
                for name, part in _named(linear, P, buffer).items() if names else ():
                    if name in names:
                        found[name][s] = part[entry]
            continue
        S = stationary(linear)
        weights = linear.weights(problem)
        # What no noise drives stays at zero, even where its map is unstable.
        driven = problem.noise > 0
        variance = np.where(driven, S[linear.readout, linear.readout], 0.0)
        terms = np.zeros_like(variance)
        np.multiply(weights.noise, variance, out=terms, where=driven)
        flat[members] = math.fsum(terms) / settings.values["batch_size"][members]
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            parts = _named(linear, S, buffer)
            for s in members:
                noise = linear.unit**2 * problem.noise / settings.values["batch_size"][s]
                for name in names:
                    found[name][s] = np.where(driven, noise * parts[name], 0.0)[entry]
    data = {"risk": xr.DataArray(settings.unflatten(flat), dims=settings.dims, attrs=LOSS)}
    for name, attrs in names.items():
        data[name] = xr.DataArray(settings.unflatten(found[name]), dims=(*settings.dims, "coordinate"), attrs=attrs)
    result = dataset(data, settings)
    return result if coordinates is None else result.assign_coords(coordinate=wanted)


def _named(linear: LinearMap, S: NDArray[np.float64], buffer: bool) -> dict[str, NDArray[np.float64]]:
    """Second moments by name, from those of the map's states, shape (n, n, size)."""
    last = linear.readout
    parts = {"theta_variance": S[0, 0], "average_variance": S[last, last], "theta_average_covariance": S[0, last]}
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        if buffer:
            _, square, cross = linear.buffer(np.zeros_like(S[0]), S)
            square = np.where(np.isfinite(S[0, 0]), square, np.inf)
            parts["momentum_variance"] = square / linear.scale**2
            parts["theta_momentum_covariance"] = cross / linear.scale
            parts["momentum_average_covariance"] = linear.beside_buffer(S) / linear.scale
    return parts


def _rising(linear: LinearMap, strength: Strength) -> NDArray[np.float64]:
    """Limit of P under noise that rises with the parameter, shape (n, n, size); infinite where unstable."""
    n, size = linear.step.initial.shape
    rows = settled(lift(linear.step, strength))
    P = np.empty((n, n, size))
    for row, (i, j) in enumerate(cells_of(n)):
        P[i, j] = P[j, i] = rows[row]
    return P


def stationary(linear: LinearMap) -> NDArray[np.float64]:
    """Limit of S, shape (n, n, size); infinite where unstable."""
    decay = spectral_decay(linear.step.matrix, linear.averaged)
    stable = decay > 0
    S = np.full((*linear.step.matrix.shape[:2], decay.size), np.inf)
    if stable.any():
        slowest = max(float(decay[stable].min()), 2.0**-60)
        # exp(-2 * 60) is below 106 bits; three more doublings outlive the polynomial of a double root.
        doublings = max(0, math.ceil(math.log2(max(60.0 / slowest, 1.0)))) + 3
        part = linear.step._replace(
            matrix=np.ascontiguousarray(linear.step.matrix[..., stable]),
            impulse=np.ascontiguousarray(linear.step.impulse[..., stable]),
            initial=np.ascontiguousarray(linear.step.initial[..., stable]),
        )
        S[:, :, stable] = limit(part, doublings)[:, :, 0]
    return S
