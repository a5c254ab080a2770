"""NAdam."""

from __future__ import annotations

from typing import NamedTuple

from mcnqm.domains import nonnegative, positive, unit_interval
from mcnqm.optimizers.base import Number, hyperparameters

__all__ = ["NAdam"]


@hyperparameters(
    lr=positive,
    beta1=unit_interval,
    beta2=unit_interval,
    eps=nonnegative,
    weight_decay=nonnegative,
    momentum_decay=nonnegative,
)
class NAdam(NamedTuple):
    r"""Adam with Nesterov's momentum (Dozat 2016), as ``torch.optim.NAdam`` does it.

    .. math::

        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_{t-1}, \qquad
        v_t = \beta_2 v_{t-1} + (1-\beta_2) g_{t-1}^2, \qquad m_0 = v_0 = 0 \\
        \mu_t &= \beta_1 \big(1 - \tfrac12\, 0.96^{\psi t}\big) \\
        \theta_t &= (1 - \alpha\lambda)\,\theta_{t-1} - \frac{\alpha}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}
        \left( \frac{\mu_{t+1}\, m_t}{1 - \prod_{i \le t+1} \mu_i} +
        \frac{(1-\mu_t)\, g_{t-1}}{1 - \prod_{i \le t} \mu_i} \right), \qquad t = 1, 2, \dots

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter units per step.
    beta1, beta2 : Number
        Decay of the first and second moment, in [0, 1). Under a schedule μ and the correction of v are of the present
        values, as in torch.
    eps : Number
        ε >= 0, in gradient units, outside the root and after the bias correction.
    weight_decay : Number
        λ >= 0, decoupled: torch's with ``decoupled_weight_decay=True``, which is off there.
    momentum_decay : Number
        ψ >= 0, how fast μ grows from half of β₁ to all of it. Keras has 1. A value from 1e6 on makes μ = β₁ throughout:
        optax's ``nadam``.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite.

    References
    ----------
    T. Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016. ``torch.optim.NAdam``.

    Examples
    --------
    >>> NAdam(lr=1e-3).momentum_decay
    0.004
    """

    lr: Number
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    momentum_decay: Number = 4e-3
