"""Batch sizes at which noise and signal balance, and the rate that one step would choose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.analytic._labels import batch_settings, dataset
from mcnqm.domains import nonnegative
from mcnqm.errors import ParameterError
from mcnqm.problems import NoisyQuadratic, check_problem
from mcnqm.provenance import recorded

__all__ = ["greedy_lr", "noise_scale"]


@recorded("mcnqm.analytic.noise_scale")
def noise_scale(problem: NoisyQuadratic, second_moment: Any = None) -> xr.Dataset:
    r"""Gradient noise scales of McCandlish et al. (2018).

    .. math::

        B_\text{simple} = \frac{\operatorname{tr}\Sigma}{E|G|^2}, \qquad
        B_\text{noise} = \frac{\operatorname{tr}(H\Sigma)}{E\,G^T H G}, \qquad
        \epsilon_\text{max} = \frac{E|G|^2}{E\,G^T H G},

    with :math:`G = H\theta`, :math:`\Sigma = C`, and expectations over a law of θ of the given second moment.

    Parameters
    ----------
    problem : NoisyQuadratic
    second_moment : array_like, shape (size,) or scalar, optional
        E θ² of each entry of the problem, in parameter², not all zero. The default is that of the start.

    Returns
    -------
    xarray.Dataset
        ``B_simple`` and ``B_noise``, in examples; ``largest_lr``, :math:`\epsilon_\text{max}`, the greedy
        rate without noise, in parameter² / loss.

    Raises
    ------
    ParameterError
        If a second moment is negative, all are zero, or the shape is wrong.

    References
    ----------
    S. McCandlish et al., "An empirical model of large-batch training", 2018, eqs. (2.6)-(2.9).

    Examples
    --------
    >>> from mcnqm import NoisyQuadratic, analytic
    >>> scale = analytic.noise_scale(NoisyQuadratic(curvature=[1.0, 1.0], noise=3.0))
    >>> scale.B_simple.item(), scale.B_noise.item(), scale.largest_lr.item()
    (3.0, 3.0, 1.0)
    """
    check_problem(problem)
    n, h, c = problem.multiplicity, problem.curvature, problem.noise
    P = _second_moment(problem, second_moment)
    gradient = math.fsum(n * h**2 * P)
    bend = math.fsum(n * h**3 * P)
    data = {
        "B_simple": _number(math.fsum(n * c) / gradient, "examples"),
        "B_noise": _number(math.fsum(n * h * c) / bend, "examples"),
        "largest_lr": _number(gradient / bend, "parameter²/loss"),
    }
    return xr.Dataset(data, attrs={"method": "analytic"})


@recorded("mcnqm.analytic.greedy_lr")
def greedy_lr(problem: NoisyQuadratic, batch_size: Any, second_moment: Any = None) -> xr.Dataset:
    r"""Learning rate that minimises the expected loss after one step of SGD.

    .. math::

        \alpha = \frac{\sum h^2 P}{\sum h (h^2 P + c/B)} = \frac{\epsilon_\text{max}}{1 + B_\text{noise}/B},
        \qquad P = E\,\theta^2

    Parameters
    ----------
    problem : NoisyQuadratic
    batch_size : Number
        Examples per step, at least 1; an array makes a dimension.
    second_moment : array_like, shape (size,) or scalar, optional
        E θ² of each entry, not all zero. The default is that of the start.

    Returns
    -------
    xarray.Dataset
        ``lr`` (\*sweep), in parameter² / loss.

    Raises
    ------
    ParameterError
        As `noise_scale`, and if the batch size is below 1.

    References
    ----------
    S. McCandlish et al., "An empirical model of large-batch training", 2018, eq. (2.7).

    Examples
    --------
    >>> from mcnqm import NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic(curvature=[1.0, 1.0], noise=3.0)
    >>> analytic.greedy_lr(problem, batch_size=[1, 3, 1000]).lr.round(3).values
    array([0.25 , 0.5  , 0.997])
    """
    check_problem(problem)
    scale = noise_scale(problem, second_moment)
    settings = batch_settings(batch_size)
    lr = scale.largest_lr.item() / (1.0 + scale.B_noise.item() / settings.values["batch_size"])
    data = xr.DataArray(settings.unflatten(lr), dims=settings.dims, attrs={"units": "parameter²/loss"})
    return dataset({"lr": data}, settings)


def _second_moment(problem: NoisyQuadratic, value: Any) -> NDArray[np.float64]:
    if value is None:
        P = problem.initial_second_moment
    else:
        P = nonnegative.check("second_moment", getattr(value, "values", value))
        if P.ndim and P.shape != problem.curvature.shape:
            raise ParameterError(
                "second_moment",
                f"shape {P.shape}",
                f"be a scalar or have curvature's shape {problem.curvature.shape}",
            )
        P = np.broadcast_to(P, problem.curvature.shape)
    if not np.any(P > 0):
        raise ParameterError("second_moment", 0.0, "be > 0 in some coordinate: without a gradient there is no scale")
    return P


def _number(value: float, units: str) -> xr.DataArray:
    return xr.DataArray(value, attrs={"units": units})
