"""Optimizers that step by the sign of a momentum."""

from __future__ import annotations

from typing import NamedTuple

from mcnqm.domains import nonnegative, positive, unit_interval
from mcnqm.optimizers.base import Number, hyperparameters

__all__ = ["Lion", "Signum"]


@hyperparameters(lr=positive, beta1=unit_interval, beta2=unit_interval, weight_decay=nonnegative)
class Lion(NamedTuple):
    r"""Lion, the sign of an interpolated momentum (Chen et al. 2023, Algorithm 2).

    .. math::

        \theta_{t+1} &= (1 - \alpha\lambda)\,\theta_t - \alpha \operatorname{sign}(\beta_1 m_t + (1-\beta_1) g_t) \\
        m_{t+1} &= \beta_2 m_t + (1-\beta_2) g_t, \qquad m_0 = 0

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter units per step.
    beta1, beta2 : Number
        Interpolation of the direction and decay of the buffer, in [0, 1).
    weight_decay : Number
        λ >= 0, decoupled.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite.

    References
    ----------
    X. Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023.

    Examples
    --------
    >>> Lion(lr=1e-4)
    Lion(lr=0.0001, beta1=0.9, beta2=0.99, weight_decay=0.0)
    """

    lr: Number
    beta1: Number = 0.9
    beta2: Number = 0.99
    weight_decay: Number = 0.0


@hyperparameters(lr=positive, momentum=unit_interval, weight_decay=nonnegative)
class Signum(NamedTuple):
    r"""Signum, the sign of an averaged gradient (Bernstein et al. 2018, Algorithm 2).

    .. math::

        m_{t+1} &= \beta m_t + (1-\beta) g_t, \qquad m_0 = 0 \\
        \theta_{t+1} &= (1 - \alpha\lambda)\,\theta_t - \alpha \operatorname{sign}(m_{t+1})

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter units per step.
    momentum : Number
        β in [0, 1); 0 is signSGD.
    weight_decay : Number
        λ >= 0, decoupled.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite.

    References
    ----------
    J. Bernstein et al., "signSGD: compressed optimisation for non-convex problems", ICML 2018. ``optax.signum``.

    Examples
    --------
    >>> Signum(lr=1e-4)
    Signum(lr=0.0001, momentum=0.9, weight_decay=0.0)
    """

    lr: Number
    momentum: Number = 0.9
    weight_decay: Number = 0.0
