"""Adam."""

from __future__ import annotations

from typing import NamedTuple

from mcnqm.domains import nonnegative, positive, unit_interval
from mcnqm.errors import ParameterError
from mcnqm.optimizers.base import Number, hyperparameters

__all__ = ["Adam"]


def _used(optimizer: Adam) -> None:
    for name in ("present_betas", "eps_hat"):
        if getattr(optimizer, name) and not optimizer.bias_correction:
            raise ParameterError(name, True, "be False with bias_correction=False: it says how to correct")


@hyperparameters(
    _used,
    lr=positive,
    beta1=unit_interval,
    beta2=unit_interval,
    eps=nonnegative,
    weight_decay=nonnegative,
    eps_root=nonnegative,
)
class Adam(NamedTuple):
    r"""Adam (Kingma & Ba 2015, Algorithm 1), with optional decoupled weight decay (AdamW).

    .. math::

        m_{t} &= \beta_1 m_{t-1} + (1-\beta_1) g_{t-1}, \qquad
        v_{t} = \beta_2 v_{t-1} + (1-\beta_2) g_{t-1}^2, \qquad m_0 = v_0 = 0 \\
        \theta_{t} &= (1 - \alpha\lambda)\,\theta_{t-1} - \alpha\,
        \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t) + \epsilon_r} + \epsilon},
        \qquad t = 1, 2, \dots

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter units per step.
    beta1, beta2 : Number
        Decay of the first and second moment, in [0, 1).
    eps : Number
        ε >= 0, in gradient units, added *outside* the root and after the bias correction.
    weight_decay : Number
        λ >= 0, decoupled as in ``torch.optim.AdamW``: it multiplies θ and never enters the moments.
    bias_correction : bool
        Divide by ``1 - beta**t``. Off, both denominators are 1.
    eps_root : Number
        ε_r >= 0, in gradient² units, added *inside* the root and after the bias correction, as optax's ``eps_root``.
    present_betas : bool
        Of betas that follow a schedule, correct by ``1 - beta**t`` with the beta of step t, as torch, optax and Keras
        do. Off, the correction is 1 less the product of all betas so far, which is what the weights in m and v add up
        to. The same where the betas are constant.
    eps_hat : bool
        Add ε and ε_r before the bias correction, as TensorFlow and Keras do (the "ε̂" form at the end of section 2 of
        the paper): ``sqrt(v) + eps`` is divided by ``sqrt(1 - beta2**t)``, so early on ε counts for more.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite, or `present_betas` or `eps_hat` is True without bias correction.

    Notes
    -----
    By default this is the form of ``torch.optim.AdamW`` (of ``Adam``, without weight decay), but for **scheduled
    betas**: there torch, optax and Keras are at ``present_betas=True``. Under a one-cycle schedule of β₁ the losses
    differ by several percent while the correction matters. After a fall of β₁ the present one corrects too little, so
    that steps are shorter than an average of gradients would have them; after a rise they are longer.

    ``torch.optim.Adam`` adds its own ``weight_decay`` to the gradient, which is another optimizer.
    ``docs/optimizers.md`` has the arguments of torch, optax and Keras one by one.

    References
    ----------
    D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Examples
    --------
    >>> Adam(lr=1e-3).beta2
    0.999
    >>> keras = Adam(lr=1e-3, eps=1e-7, eps_hat=True, present_betas=True)
    >>> Adam(lr=1e-3, eps=-1e-8)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: eps must be >= 0, got -1e-08
    """

    lr: Number
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    bias_correction: bool = True
    eps_root: Number = 0.0
    present_betas: bool = False
    eps_hat: bool = False
