"""Theorem 1, the information bound of unbiased estimates, and the Bayes bound, which no method beats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.analytic._labels import check_answer, dataset
from mcnqm.analytic.linear.maps import linear_map, linear_settings, maps_of
from mcnqm.analytic.transient import curves
from mcnqm.domains import MOST_STEPS, Domain, nonnegative, positive
from mcnqm.errors import ParameterError
from mcnqm.problems import NoisyQuadratic, check_problem
from mcnqm.provenance import recorded
from mcnqm.record import recorded_steps

__all__ = ["bayes_bound", "information_bound", "theorem1"]


@recorded("mcnqm.analytic.theorem1")
def theorem1(problem: NoisyQuadratic, optimizer: Any, batch_size: Any, steps: int, *, record: Any = None) -> xr.Dataset:
    r"""The bound of Theorem 1 of Zhang et al. (2019), and the value it bounds.

    .. math::

        E\,\ell(\theta_t) \le D_t^2\, E\,\ell(\theta_0)
        + \frac{(1+\beta)\, \alpha c}{2B (2\beta + 2 - \alpha h)(1-\beta)}

    per coordinate, where the paper writes an equality with :math:`D_t` in the roots of the characteristic
    polynomial. The variance term is the limit of a growing sum, so it is an upper bound at every finite step.
    With a preconditioner :math:`H^p`, read :math:`h^{1-p}` for h and :math:`c h^{-p}` for c. With weight decay λ, h is
    h + λ in D and in the second term, which is multiplied by h / (h + λ).

    Parameters
    ----------
    problem, optimizer, batch_size, steps, record
        As in `mcnqm.analytic.risk`; without Nesterov's form and without dampening.

    Returns
    -------
    xarray.Dataset
        ``bound`` and ``exact`` (\*sweep, step), in units of the loss. At an unstable rate the bound is
        infinite.

    Raises
    ------
    ParameterError
        As `mcnqm.analytic.risk`, and for Nesterov's momentum, which the theorem does not treat, and for dampening, with
        which the variance is no growing sum: the first gradient, taken whole, counts for more than those after it.

    Notes
    -----
    Relative error below 1e-14, as that of `mcnqm.analytic.risk`.

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic.power_law(dim=10)
    >>> momentum = SGD(lr=0.1, momentum=0.5)
    >>> both = analytic.theorem1(problem, momentum, batch_size=4, steps=30, record=[0, 3, 30])
    >>> both.bound.round(4).values, both.exact.round(4).values
    (array([1.5018, 0.9809, 0.121 ]), array([1.4645, 0.954 , 0.1188]))
    """
    check_problem(problem)
    at = recorded_steps(steps, record, limit=MOST_STEPS)
    settings = linear_settings(optimizer, batch_size)
    check_answer(settings, records=at.size)
    if optimizer.nesterov:
        raise ParameterError("nesterov", True, "be False: Theorem 1 is about heavy-ball momentum")
    for entry in settings.values["dampening"][settings.values["dampening"] > 0]:
        raise ParameterError("dampening", float(entry), "be 0: with dampening the limit is no bound")
    bound = np.empty((settings.size, at.size))
    exact = np.empty((settings.size, at.size))
    for members, values in maps_of(settings):
        linear = linear_map(problem, False, values["momentum"] > 0, values)
        bias, variance = curves(problem, linear, at)
        beta = values["momentum"]
        # 2 + 2β - αh with the rounding errors of 1 + β and αh put back: near the limit they are all that is left.
        whole = 1.0 + beta
        reach = (2.0 * whole - linear.rate) + (2.0 * (beta - (whole - 1.0)) - linear.rate_low)
        weight = linear.weights(problem).noise
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            terms = weight * (1.0 + beta) / (linear.rate * reach * (1.0 - beta))
        terms = np.where(weight == 0, 0.0, np.where(reach > 0, terms, np.inf))
        size = settings.values["batch_size"][members, None]
        bound[members] = bias + math.fsum(terms) / size
        exact[members] = bias + variance / size
    dims = (*settings.dims, "step")
    data = {
        "bound": xr.DataArray(
            settings.unflatten(bound), dims=dims, attrs={"units": "loss", "long_name": "bound of Theorem 1"}
        ),
        "exact": xr.DataArray(
            settings.unflatten(exact), dims=dims, attrs={"units": "loss", "long_name": "expected loss"}
        ),
    }
    return dataset(data, settings, at)


@recorded("mcnqm.analytic.information_bound")
def information_bound(problem: NoisyQuadratic, examples: Any) -> xr.Dataset:
    r"""Risk of the maximum-likelihood estimate from N examples (Zhang et al. 2019, section 3.5).

    .. math:: R \ge \frac{\operatorname{tr}(C H^{-1})}{2N}

    A lower bound for unbiased estimates, d / (2N) where C = H. What knows the law of θ(0) can do better at
    small N, see `bayes_bound`.

    Parameters
    ----------
    problem : NoisyQuadratic
    examples : Number
        N = batch size × steps, > 0. An array makes a dimension ``examples``.

    Returns
    -------
    xarray.Dataset
        ``risk`` (examples), in units of the loss.

    Raises
    ------
    ParameterError
        If `examples` is not > 0.

    Examples
    --------
    >>> from mcnqm import NoisyQuadratic, analytic
    >>> analytic.information_bound(NoisyQuadratic.power_law(dim=100), examples=[1e3, 1e4]).risk.values
    array([0.05 , 0.005])
    """
    check_problem(problem)
    label, N = _examples(examples, positive)
    sum_ = math.fsum(problem.multiplicity * (problem.noise / problem.curvature))
    return _bound(label, 0.5 * sum_ / N, "risk of the maximum-likelihood estimate")


@recorded("mcnqm.analytic.bayes_bound")
def bayes_bound(problem: NoisyQuadratic, examples: Any) -> xr.Dataset:
    r"""Least risk of any method that knows the problem and the law of θ(0), after N examples.

    .. math:: R \ge \tfrac12 \sum_i \frac{h_i s_i^2}{1 + N s_i^2 h_i^2 / c_i}

    the posterior variance of a Gaussian location. It is reachable: on one coordinate, SGD with the Kalman
    gain as its learning rate meets it at every step.

    Parameters
    ----------
    problem : NoisyQuadratic
    examples : Number
        N = batch size × steps, >= 0. An array makes a dimension ``examples``.

    Returns
    -------
    xarray.Dataset
        ``risk`` (examples), in units of the loss. A coordinate without noise is known after one example.

    Raises
    ------
    ParameterError
        If `examples` is negative or not finite.

    Notes
    -----
    The mean of θ(0) is known too, so only its variance is left to learn: the bound at N = 0 is the risk after
    the jump by the mean, not `problem.initial_risk`, unless the mean is zero.

    Examples
    --------
    >>> from mcnqm import NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic.power_law(dim=100)
    >>> analytic.bayes_bound(problem, examples=[0, 100, 10_000]).risk.round(5).values
    array([2.59369, 0.34533, 0.00497])
    """
    check_problem(problem)
    label, N = _examples(examples, nonnegative)
    h, c, s2 = problem.curvature, problem.noise, problem.initial_std**2
    flat = np.empty(N.size)
    for k, count in enumerate(N.ravel()):
        precision = count * s2 * h  # times h / c, the prior's variance over the examples'
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(precision > 0, c / (c + precision * h), 1.0)
        flat[k] = 0.5 * math.fsum(problem.multiplicity * h * s2 * share)
    return _bound(label, flat.reshape(N.shape), "least risk of any method")


def _examples(examples: Any, domain: Domain) -> tuple[xr.DataArray, NDArray[np.float64]]:
    array = domain.check("examples", getattr(examples, "values", examples))
    if isinstance(examples, xr.DataArray):
        return examples, array
    if array.ndim > 1:
        raise ParameterError("examples", f"shape {array.shape}", "be a scalar, a 1-D array or an xarray.DataArray")
    label = xr.DataArray(array, dims=("examples",)[: array.ndim])
    return label.assign_coords(examples=label), array


def _bound(label: xr.DataArray, value: NDArray[np.float64], long_name: str) -> xr.Dataset:
    data = xr.DataArray(value, dims=label.dims, attrs={"units": "loss", "long_name": long_name})
    coords = {**{str(k): v for k, v in label.coords.items()}, "examples": label.reset_coords(drop=True)}
    return xr.Dataset({"risk": data}, coords=coords, attrs={"method": "analytic"})
