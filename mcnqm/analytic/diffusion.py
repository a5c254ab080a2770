"""The small-step limit of SGD: an Ornstein-Uhlenbeck process."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mcnqm.analytic._labels import LOSS, check_answer, dataset
from mcnqm.analytic.linear.maps import linear_map, linear_settings, maps_of
from mcnqm.domains import MOST_STEPS
from mcnqm.errors import ParameterError
from mcnqm.problems import NoisyQuadratic, check_problem
from mcnqm.provenance import recorded
from mcnqm.record import recorded_steps

__all__ = ["sde_risk"]


@recorded("mcnqm.analytic.sde_risk")
def sde_risk(problem: NoisyQuadratic, optimizer: Any, batch_size: Any, steps: int, *, record: Any = None) -> xr.Dataset:
    r"""Expected loss of the stochastic differential equation that SGD tends to as αh → 0.

    .. math::

        d\theta = -h\theta\, d\tau + \sqrt{\alpha c / B}\, dW, \quad \tau = \alpha t, \qquad
        E\,\ell(t) = e^{-2\alpha h t} E\,\ell(0) + (1 - e^{-2\alpha h t}) \frac{\alpha c}{4B}

    per coordinate; with a preconditioner :math:`H^p`, read :math:`h^{1-p}` for h and :math:`c h^{-p}` for c.
    At equal time :math:`\alpha t` only the temperature α/B matters. There is no stability limit, which is
    where the approximation fails.

    Parameters
    ----------
    problem, optimizer, batch_size, steps, record
        As in `mcnqm.analytic.risk`; without momentum.

    Returns
    -------
    xarray.Dataset
        ``risk`` (\*sweep, step), in units of the loss.

    Raises
    ------
    ParameterError
        As `mcnqm.analytic.risk`, and if there is momentum.

    Notes
    -----
    Relative error below 1e-13: the exponent's rounding, at most 745 units in the last place before the
    exponential underflows. Against SGD itself the relative error is O(αh).

    References
    ----------
    S. Jastrzębski et al., "Three factors influencing minima in SGD", 2018. S. L. Smith et al., "On the
    generalization benefit of noise in stochastic gradient descent", ICML 2020.

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic.power_law(dim=10)
    >>> limit = analytic.sde_risk(problem, SGD(lr=0.01), batch_size=4, steps=1000, record=[0, 1000])
    >>> exact = analytic.risk(problem, SGD(lr=0.01), batch_size=4, steps=1000, record=[0, 1000])
    >>> limit.risk.round(5).values, exact.risk.round(5).values
    (array([1.46448, 0.02969]), array([1.46448, 0.02964]))
    """
    check_problem(problem)
    at = recorded_steps(steps, record, limit=MOST_STEPS)
    settings = linear_settings(optimizer, batch_size)
    check_answer(settings, records=at.size)
    for beta in settings.values["momentum"][settings.values["momentum"] > 0]:
        raise ParameterError("momentum", float(beta), "be 0: the limit taken is that of plain SGD")
    half = 0.5 * problem.multiplicity * problem.curvature
    initial = half * problem.initial_second_moment
    flat = np.empty((settings.size, at.size))
    for members, values in maps_of(settings):
        linear = linear_map(problem, False, False, values)
        with np.errstate(over="ignore", under="ignore"):
            # In SGD's own variance term 1/(u(2-u)), the limit is 1/(2u).
            steady = linear.weights(problem).noise / (2.0 * linear.rate)
            for r, step in enumerate(at):
                exponent = -2.0 * linear.rate * float(step)
                bias = float(np.sum(initial * np.exp(exponent)))
                grown = -np.expm1(exponent)
                variance = float(np.sum(steady * grown, where=grown > 0))  # at step 0 none, however large the limit
                flat[members, r] = bias + variance / settings.values["batch_size"][members]
    data = xr.DataArray(settings.unflatten(flat), dims=(*settings.dims, "step"), attrs=LOSS)
    return dataset({"risk": data}, settings, at)
