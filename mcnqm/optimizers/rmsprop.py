"""RMSProp."""

from __future__ import annotations

from typing import NamedTuple

from mcnqm.domains import nonnegative, positive, unit_interval
from mcnqm.optimizers.base import Number, hyperparameters

__all__ = ["RMSProp"]


@hyperparameters(lr=positive, alpha=unit_interval, eps=nonnegative, momentum=unit_interval, eps_root=nonnegative)
class RMSProp(NamedTuple):
    r"""RMSProp as ``torch.optim.RMSprop`` does it, with ε outside or inside the root.

    .. math::

        v_{t+1} &= a v_t + (1-a) g_t^2, \qquad n_{t+1} = a n_t + (1-a) g_t, \qquad v_0 = n_0 = 0 \\
        m_{t+1} &= \mu m_t + g_t / (\sqrt{v_{t+1} - n_{t+1}^2 + \epsilon_r} + \epsilon), \qquad m_0 = 0 \\
        \theta_{t+1} &= \theta_t - \alpha\, m_{t+1}

    where :math:`n^2` counts only if `centered`.

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter units per step.
    alpha : Number
        Decay a of the second moment, in [0, 1), under torch's name.
    eps : Number
        ε >= 0, in gradient units, outside the root.
    momentum : Number
        μ in [0, 1), of a buffer of steps; 0 is none.
    centered : bool
        Divide by the root of the variance of the gradient, v - n², rather than of its mean square.
    eps_root : Number
        ε_r >= 0, in gradient² units, inside the root: optax's ``eps`` with ``eps_in_sqrt=True``, and Keras's
        ``epsilon``; with ``eps=0``.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite.

    Notes
    -----
    The buffer holds preconditioned gradients, and the rate multiplies it on the way out, as in torch; in optax and
    Keras the rate is inside the buffer, which is the same for a constant rate and differs under a schedule.
    ``docs/optimizers.md`` has the arguments of torch, optax and Keras one by one. The mean-field theory
    (`mcnqm.analytic.mean_field`) knows neither momentum nor the centered form.

    References
    ----------
    T. Tieleman and G. Hinton, Lecture 6.5, COURSERA: Neural Networks for Machine Learning, 2012.

    Examples
    --------
    >>> RMSProp(lr=1e-3)
    RMSProp(lr=0.001, alpha=0.99, eps=1e-08, momentum=0.0, centered=False, eps_root=0.0)
    """

    lr: Number
    alpha: Number = 0.99
    eps: Number = 1e-8
    momentum: Number = 0.0
    centered: bool = False
    eps_root: Number = 0.0
