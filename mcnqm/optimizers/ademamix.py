"""AdEMAMix."""

from __future__ import annotations

from typing import NamedTuple

from mcnqm.domains import nonnegative, positive, unit_interval
from mcnqm.optimizers.base import Number, hyperparameters

__all__ = ["AdEMAMix"]


@hyperparameters(
    lr=positive,
    beta1=unit_interval,
    beta2=unit_interval,
    beta3=unit_interval,
    alpha=nonnegative,
    eps=nonnegative,
    weight_decay=nonnegative,
)
class AdEMAMix(NamedTuple):
    r"""Adam with a second, slow average of the gradients (Pagliardini et al. 2024, Algorithm 1).

    .. math::

        m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_{t-1}, \qquad n_t = \beta_3 n_{t-1} + (1-\beta_3) g_{t-1}, \qquad
        v_t = \beta_2 v_{t-1} + (1-\beta_2) g_{t-1}^2 \\
        \theta_t &= (1 - \eta\lambda)\,\theta_{t-1} - \eta\,
        \frac{m_t / (1-\beta_1^t) + \alpha\, n_t}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon},
        \qquad m_0 = n_0 = v_0 = 0, \quad t = 1, 2, \dots

    Parameters
    ----------
    lr : Number
        Learning rate η > 0, in parameter units per step.
    beta1, beta2, beta3 : Number
        Decay of the fast average, of the second moment and of the slow average, in [0, 1). Under a schedule corrections
        are of the present values, as in the authors' code and in optax.
    alpha : Number
        Weight α >= 0 of the slow average, which is not corrected for its start at 0.
    eps : Number
        ε >= 0, in gradient units, outside the root and after the bias correction.
    weight_decay : Number
        λ >= 0, decoupled.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite.

    Notes
    -----
    The authors warm `alpha` and `beta3` up; that is a schedule of each, such as
    ``alpha=schedules.warmup_stable_decay(5.0, warmup=T, stable=1, decay=0, initial=0.0)``.

    References
    ----------
    M. Pagliardini, P. Ablin and D. Grangier, "The AdEMAMix optimizer: better, faster, older", 2024.
    ``optax.contrib.ademamix``.

    Examples
    --------
    >>> AdEMAMix(lr=1e-3).beta3
    0.9999
    """

    lr: Number
    beta1: Number = 0.9
    beta2: Number = 0.999
    beta3: Number = 0.9999
    alpha: Number = 5.0
    eps: Number = 1e-8
    weight_decay: Number = 0.0
