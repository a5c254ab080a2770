"""SGD with its options."""

from __future__ import annotations

from typing import NamedTuple

from mcnqm.domains import nonnegative, positive, unit_interval
from mcnqm.errors import ParameterError
from mcnqm.optimizers.base import Number, combined, hyperparameters

__all__ = ["SGD"]


def _accepted_by_torch(optimizer: SGD) -> None:
    momentum, dampening = optimizer.momentum, optimizer.dampening
    if not optimizer.nesterov and isinstance(dampening, float) and dampening == 0.0:
        return
    momentum, dampening = combined(optimizer, "momentum", "dampening")
    if optimizer.nesterov:
        for entry in dampening[dampening != 0.0]:
            raise ParameterError("dampening", float(entry), "be 0 with nesterov=True")
        for entry in momentum[momentum == 0.0]:
            raise ParameterError("momentum", float(entry), "be > 0 with nesterov=True")
    for entry in dampening[(dampening != 0.0) & (momentum == 0.0)]:
        raise ParameterError("dampening", float(entry), "be 0 where momentum is 0: there is no buffer to dampen")


@hyperparameters(
    _accepted_by_torch, lr=positive, momentum=unit_interval, weight_decay=nonnegative, dampening=unit_interval
)
class SGD(NamedTuple):
    r"""Stochastic gradient descent with heavy-ball or Nesterov momentum, as ``torch.optim.SGD`` does it.

    .. math::

        \tilde g_t &= g_t + \lambda \theta_t \\
        m_1 &= \tilde g_0, \qquad m_{t+1} = \beta m_t + (1-d)\, \tilde g_t \quad (t \ge 1) \\
        \theta_{t+1} &= \theta_t - \alpha P^{-1} m_{t+1} && \text{(heavy ball)} \\
        \theta_{t+1} &= \theta_t - \alpha P^{-1} (\tilde g_t + \beta m_{t+1}) && \text{(Nesterov)}

    with :math:`\alpha` = `lr`, :math:`\beta` = `momentum`, :math:`\lambda` = `weight_decay`, :math:`d` = `dampening`,
    :math:`P = H^p`, :math:`p` = `precondition`.

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter² / loss (times curvature to the power p).
    momentum : Number
        β in [0, 1). 0 is plain SGD. The effective learning rate is ``lr / (1 - momentum)``, and ``1 - dampening`` times
        that with dampening.
    nesterov : bool
        Look ahead with the torch form of Nesterov's momentum. It takes momentum > 0 and no dampening, as in torch.
    precondition : Number
        Power p of the preconditioner ``P = H**p``: 0 is none, 1 is Newton's (Zhang et al. 2019, section 3.3).
    weight_decay : Number
        λ >= 0, in loss / parameter²: the gradient of :math:`\tfrac\lambda2|\theta|^2` joins the loss's, and goes
        through the buffer and the preconditioner with it. The loss that is reported does not count it.
    dampening : Number
        d in [0, 1): from the second step on the buffer takes ``1 - d`` of the gradient. It needs momentum.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite, or two of them do not go together: Nesterov's form without
        momentum or with dampening, dampening without momentum. A rate beyond stability is allowed: it diverges.

    Notes
    -----
    Variants differ in where the learning rate stands. Here (and in torch) the buffer holds gradients and the rate
    multiplies it on the way out; in Sutskever et al. (2013) and in Keras the rate is inside the buffer, which is the
    same for a constant rate and differs under a schedule. Without dampening ``m`` is a sum, not an average, so a rate
    with momentum is ``1 / (1 - momentum)`` times as strong as without; with ``dampening=momentum`` it is an average,
    but for the first gradient, which torch takes whole. ``docs/optimizers.md`` has the arguments of torch, optax and
    Keras one by one.

    In the noisy quadratic model weight decay makes curvature h act as h + λ, with the loss still weighted by h; the
    closed forms of `mcnqm.analytic` are exact with it.

    References
    ----------
    B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    ``torch.optim.SGD``.

    Examples
    --------
    >>> SGD(lr=0.1, momentum=0.9)
    SGD(lr=0.1, momentum=0.9, nesterov=False, precondition=0.0, weight_decay=0.0, dampening=0.0)
    >>> SGD(lr=0.1, momentum=1.0)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: momentum must be in [0, 1), got 1.0
    >>> SGD(lr=0.1, nesterov=True)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: momentum must be > 0 with nesterov=True, got 0.0
    """

    lr: Number
    momentum: Number = 0.0
    nesterov: bool = False
    precondition: Number = 0.0
    weight_decay: Number = 0.0
    dampening: Number = 0.0
