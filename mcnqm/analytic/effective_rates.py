"""By what an adaptive optimizer multiplies an averaged gradient, in the mean field."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mcnqm.analytic import mean_field
from mcnqm.analytic._labels import dataset
from mcnqm.errors import ParameterError
from mcnqm.optimizers import Adam, RMSProp
from mcnqm.problems import NoisyQuadratic
from mcnqm.provenance import recorded
from mcnqm.record import MAX_STEPS, recorded_steps
from mcnqm.schedules import Schedule
from mcnqm.settings import settings_of

__all__ = ["effective_lr"]


@recorded("mcnqm.analytic.effective_lr")
def effective_lr(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Any,
    steps: int,
    *,
    record: Any = None,
    coordinates: Any = None,
    order: int = 2,
    nodes: int = 8,
) -> xr.Dataset:
    r"""Effective rate of every coordinate under Adam or RMSProp, at the mean of its second moment.

    .. math:: a_t = \frac{\alpha_t}{\sqrt{\mathrm{E} v_{t+1} / (1-\beta_2^{t+1})} + \epsilon}

    by which the step from t to t + 1 multiplies the averaged gradient, with :math:`\mathrm{E} v` from the mean field
    (`mcnqm.analytic.mean_field.moments`). Where noise dominates it is :math:`\alpha \sqrt{B / c}`.

    Parameters
    ----------
    problem, optimizer, batch_size, steps, order, nodes
        As for `mcnqm.analytic.mean_field.risk`. The rate may follow a schedule, the decay of the second moment not.
    record : array_like of int, optional
        Steps t to answer for, as for `mcnqm.analytic.risk`.
    coordinates : sequence of int, optional
        Coordinates to answer for; all by default.

    Returns
    -------
    xarray.Dataset
        ``effective_lr`` (\*sweep, step, coordinate), in parameter² / loss.

    Raises
    ------
    ParameterError
        If the optimizer has no mean-field theory, the decay of its second moment follows a schedule, or ε stands before
        the bias correction (``eps_hat``).

    Notes
    -----
    v itself scatters about its mean, and the mean of :math:`1/\sqrt{v}` over trajectories is larger than this, by a
    part :math:`\tfrac38 \mathrm{Var}(v) / (\mathrm{E}v)^2`; for Gaussian gradients at β₂ = 0.999 that is 0.04 %.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic(curvature=[1e-3], noise=[4.0])
    >>> adam = mcnqm.Adam(lr=1e-3)
    >>> rate = mcnqm.analytic.effective_lr(problem, adam, batch_size=16, steps=1000, record=[1000]).effective_lr
    >>> round(rate.item(), 6), 1e-3 * (16 / 4.0) ** 0.5
    (0.002, 0.002)
    """
    if not isinstance(optimizer, (Adam, RMSProp)):
        raise ParameterError("optimizer", optimizer, "be Adam or RMSProp, which have a mean-field theory")
    decay = "beta2" if isinstance(optimizer, Adam) else "alpha"
    if isinstance(getattr(optimizer, decay), Schedule):
        raise ParameterError(decay, getattr(optimizer, decay), "be the same at every step here")
    if getattr(optimizer, "eps_hat", False):
        raise ParameterError("eps_hat", True, "be False here")
    at = recorded_steps(steps, record, limit=MAX_STEPS - 1)
    second = mean_field.moments(
        *(problem, optimizer, batch_size, int(at[-1]) + 1),
        record=at + 1,
        coordinates=coordinates,
        order=order,
        nodes=nodes,
    )["gradient_square"]
    settings = settings_of(optimizer, batch_size, schedules=True)
    values = {name: value[:, np.newaxis, np.newaxis] for name, value in settings.values.items()}
    square = second.values.reshape(settings.size, *second.shape[len(settings.dims) :])
    if isinstance(optimizer, Adam) and optimizer.bias_correction:
        square = square / (1.0 - values[decay] ** (at[:, np.newaxis] + 1.0))
    rate = values["lr"]
    if "lr" in settings.schedules:
        table = settings.schedules["lr"]
        rate = rate * table.at(at)[table.which][:, :, np.newaxis]
    found = rate / (np.sqrt(square + values["eps_root"]) + values["eps"])
    dims = (*settings.dims, "step", "coordinate")
    data = xr.DataArray(settings.unflatten(found), dims=dims, attrs={"units": "parameter²/loss"})
    result = dataset({"effective_lr": data}, settings, at).assign_coords(coordinate=second["coordinate"])
    return result.assign_attrs(method="mean-field", order=order)
