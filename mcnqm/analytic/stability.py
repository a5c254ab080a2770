"""How fast the mean converges, and the rate at which it no longer does."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mcnqm.analytic._labels import dataset, selection
from mcnqm.analytic.linear.maps import effective_curvature, linear_map, linear_settings, maps_of
from mcnqm.analytic.linear.roots import spectral_decay
from mcnqm.problems import NoisyQuadratic, check_problem
from mcnqm.provenance import recorded
from mcnqm.settings import NO_BATCH_SIZE

__all__ = ["convergence_rate", "largest_stable_lr"]


@recorded("mcnqm.analytic.convergence_rate")
def convergence_rate(
    problem: NoisyQuadratic, optimizer: Any, *, coordinates: Any = None, average: Any = None
) -> xr.Dataset:
    r"""Factor per step by which each coordinate's mean shrinks in the end, and the slowest of them.

    With heavy-ball momentum, the larger root of :math:`x^2 - (1-\alpha h+\beta)x + \beta`:
    :math:`\sqrt\beta` as long as :math:`(1-\sqrt\beta)^2 \le \alpha h \le (1+\sqrt\beta)^2` (Zhang et al.
    2019, section 3.2). The excess of the risk over its steady state shrinks by the square.

    Parameters
    ----------
    problem : NoisyQuadratic
    optimizer : SGD
        Arrays make a sweep.
    coordinates : sequence of int, optional
        Which coordinates of the expanded problem; the default is all. ``slowest`` is always over all.
    average : Number, optional
        Decay of an exponential moving average of the iterates, whose rate is then meant.

    Returns
    -------
    xarray.Dataset
        ``spectral_radius`` (\*sweep, coordinate), dimensionless, above 1 where unstable; ``decay``
        (\*sweep, coordinate), minus its logarithm, per step, which keeps the digits that a radius near 1
        loses; ``slowest`` (\*sweep), the largest radius; ``relaxation`` (\*sweep), 1 / the smallest decay, in
        steps, infinite where unstable.

    Raises
    ------
    ParameterError
        If the optimizer is not linear, or a value is out of range.

    Notes
    -----
    Relative error of ``decay`` below 1e-14, except within 1e-16 of a double root, where it is that of a
    square root's argument rounded to 106 bits. A zero radius has infinite decay.

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic(curvature=[1.0, 0.01])
    >>> rate = analytic.convergence_rate(problem, SGD(lr=1.0, momentum=[0.0, 0.81]))
    >>> rate.spectral_radius.round(6).values
    array([[0.  , 0.99],
           [0.9 , 0.9 ]])
    """
    check_problem(problem)
    settings = linear_settings(optimizer, NO_BATCH_SIZE, average)
    wanted = selection(problem, coordinates)
    entry = np.repeat(np.arange(problem.size), problem.multiplicity)[wanted]
    decay = np.empty((settings.size, problem.size))
    for members, values in maps_of(settings):
        linear = linear_map(problem, optimizer.nesterov, values["momentum"] > 0, values)
        decay[members] = spectral_decay(linear.step.matrix, linear.averaged)
    slowest = decay.min(axis=1)
    with np.errstate(divide="ignore", over="ignore"):
        relaxation = np.where(slowest > 0, 1.0 / slowest, np.inf)
        radius, largest = np.exp(-decay[:, entry]), np.exp(-slowest)
    wide = (*settings.dims, "coordinate")
    data = {
        "spectral_radius": xr.DataArray(settings.unflatten(radius), dims=wide, attrs={"units": "1"}),
        "decay": xr.DataArray(settings.unflatten(decay[:, entry]), dims=wide, attrs={"units": "1/steps"}),
        "slowest": xr.DataArray(settings.unflatten(largest), dims=settings.dims, attrs={"units": "1"}),
        "relaxation": xr.DataArray(settings.unflatten(relaxation), dims=settings.dims, attrs={"units": "steps"}),
    }
    return dataset(data, settings).assign_coords(coordinate=wanted)


@recorded("mcnqm.analytic.largest_stable_lr")
def largest_stable_lr(problem: NoisyQuadratic, optimizer: Any) -> xr.Dataset:
    r"""Learning rate below which every coordinate is stable.

    :math:`\alpha h^{1-p} < 2(1+\beta)` for the heavy ball (2 without momentum) and
    :math:`\alpha h^{1-p} < 2(1+\beta)/(1+2\beta)` for Nesterov's momentum, at the largest
    :math:`h^{1-p}`. Weight decay λ makes :math:`(h+\lambda) h^{-p}` of that, and dampening d divides the limit by
    1 - d. An average of the iterates does not change it, nor does additive noise.

    Parameters
    ----------
    problem : NoisyQuadratic
    optimizer : SGD
        Its own learning rate is not used, but an array there still makes a dimension.

    Returns
    -------
    xarray.Dataset
        ``largest_stable_lr`` (\*sweep), in the units of ``lr``. The rate itself is not stable.

    Raises
    ------
    ParameterError
        If the optimizer is not linear.

    Notes
    -----
    Rounded three times: relative error below 4e-16.

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic.power_law(dim=100)
    >>> analytic.largest_stable_lr(problem, SGD(lr=0.1, momentum=[0.0, 0.9])).largest_stable_lr.values
    array([2. , 3.8])
    """
    check_problem(problem)
    settings = linear_settings(optimizer, NO_BATCH_SIZE)
    flat = np.empty(settings.size)
    for members, values in maps_of(settings):
        beta = values["momentum"]
        reach = 2.0 * (1.0 + beta) / (1.0 + 2.0 * beta) if optimizer.nesterov else 2.0 * (1.0 + beta)
        flat[members] = reach / effective_curvature(problem, values["precondition"], values["weight_decay"]).max()
        if values["dampening"]:
            flat[members] /= 1.0 - values["dampening"]
    data = xr.DataArray(settings.unflatten(flat), dims=settings.dims, attrs={"units": "parameter²/loss"})
    return dataset({"largest_stable_lr": data}, settings)
