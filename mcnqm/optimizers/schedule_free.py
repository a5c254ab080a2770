"""Schedule-free SGD and Adam: an average of the iterates in place of a schedule of the rate."""

from __future__ import annotations

from typing import NamedTuple

from mcnqm.domains import nonnegative, positive, unit_interval
from mcnqm.optimizers.base import Number, hyperparameters

__all__ = ["ScheduleFreeAdam", "ScheduleFreeSGD"]


@hyperparameters(lr=positive, momentum=unit_interval, weight_decay=nonnegative)
class ScheduleFreeSGD(NamedTuple):
    r"""Schedule-free SGD (Defazio et al. 2024), whose loss is that of the average x.

    .. math::

        z_{t+1} &= z_t - \alpha_t (g_t + \lambda y_t), \qquad g_t \text{ at } y_t, \qquad z_0 = x_0 = y_0 = \theta_0 \\
        x_{t+1} &= (1 - c_t)\, x_t + c_t z_{t+1}, \qquad c_t = w_t \Big/ \sum_{s \le t} w_s,
        \quad w_t = \max_{s \le t} \alpha_s^2 \\
        y_{t+1} &= (1-\beta)\, z_{t+1} + \beta x_{t+1}

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter² / loss. A warm-up is a schedule of it; the weights c count the steps of a
        warm-up for less, and are 1 / (t + 1) at a constant rate.
    momentum : Number
        β in [0, 1): how far from the base sequence z, towards the average x, gradients are taken. 0 is plain SGD with
        the average of its iterates.
    weight_decay : Number
        λ >= 0, in loss / parameter², at the point y of the gradient.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite.

    Notes
    -----
    ``loss``, ``risk`` and ``theta`` of a simulation are those of x; gradients are taken at y. Of the authors'
    arguments, ``weight_lr_power`` is 2, their default, and ``r`` 0. Their code and optax's keep y and z only and
    rebuild x, which is the same while β is constant.

    References
    ----------
    A. Defazio et al., "The road less scheduled", NeurIPS 2024. ``optax.contrib.schedule_free_sgd``.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=20)
    >>> runs = mcnqm.simulate(problem, ScheduleFreeSGD(lr=1.0), batch_size=4, steps=500, record=[500])
    >>> plain = mcnqm.simulate(problem, mcnqm.SGD(lr=1.0), batch_size=4, steps=500, record=[500])
    >>> bool(runs.risk[0] < plain.risk[0])
    True
    """

    lr: Number
    momentum: Number = 0.9
    weight_decay: Number = 0.0


@hyperparameters(lr=positive, beta1=unit_interval, beta2=unit_interval, eps=nonnegative, weight_decay=nonnegative)
class ScheduleFreeAdam(NamedTuple):
    r"""Schedule-free AdamW (Defazio et al. 2024), whose loss is that of the average x.

    .. math::

        v_{t+1} &= \beta_2 v_t + (1-\beta_2) g_t^2, \qquad g_t \text{ at } y_t, \qquad v_0 = 0 \\
        z_{t+1} &= z_t - \alpha_t \Big( \frac{g_t}{\sqrt{v_{t+1} / (1-\beta_2^{t+1})} + \epsilon} + \lambda y_t \Big) \\
        x_{t+1} &= (1 - c_t)\, x_t + c_t z_{t+1}, \qquad y_{t+1} = (1-\beta_1)\, z_{t+1} + \beta_1 x_{t+1}

    from :math:`z_0 = x_0 = y_0 = \theta_0`, with c as for `ScheduleFreeSGD`.

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter units per step. A warm-up is a schedule of it.
    beta1 : Number
        β₁ in [0, 1): how far from z, towards x, gradients are taken.
    beta2 : Number
        Decay of the second moment, in [0, 1). Under a schedule the correction is of the present value.
    eps : Number
        ε >= 0, in gradient units, outside the root and after the bias correction.
    weight_decay : Number
        λ >= 0, decoupled from the moments, at the point y of the gradient.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite.

    References
    ----------
    A. Defazio et al., "The road less scheduled", NeurIPS 2024. ``optax.contrib.schedule_free_adamw``.

    Examples
    --------
    >>> ScheduleFreeAdam(lr=2.5e-3)
    ScheduleFreeAdam(lr=0.0025, beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0.0)
    """

    lr: Number
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0
