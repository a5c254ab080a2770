"""Adam, and its mean-field twin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mcnqm.kernels.forms import kernel_forms
from mcnqm.kernels.jit import fma, number, scalar
from mcnqm.kernels.rules.effective import quotient
from mcnqm.kernels.updates import Twin, update_rule
from mcnqm.optimizers import Adam

__all__ = ["GeneralAdam", "PlainAdam"]


class PlainAdam(NamedTuple):
    """Hyperparameters of Adam with ε outside the root and after the bias correction, as a kernel wants them."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    bias_correction: float


class GeneralAdam(NamedTuple):
    """Hyperparameters of Adam with all its options, as a kernel wants them."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    bias_correction: float
    eps_root: float
    present_betas: float
    eps_hat: float


@kernel_forms(Adam, PlainAdam, GeneralAdam)
def _form(optimizer, values):
    plain = not (optimizer.present_betas or optimizer.eps_hat or values["eps_root"].any())
    return PlainAdam if plain else GeneralAdam


def _plain_clock(p, k):
    # k = (β₁^t, β₂^t). The update divides by sqrt(v / correction2) + ε; multiplying both sides by
    # sqrt(correction2) leaves one root and one division per coordinate.
    power1 = k[0] * p.beta1
    power2 = k[1] * p.beta2
    correction1 = 1.0 - power1 * p.bias_correction
    root2 = np.sqrt(1.0 - power2 * p.bias_correction)
    return (power1, power2), (p.lr * root2 / correction1, p.eps * root2)


def _general_clock(p, k):
    # As `_plain_clock`, with t counted for powers of the present betas, which cost as much as all the rest of a step.
    power1, power2, t = k[0] * p.beta1, k[1] * p.beta2, k[2] + 1.0
    used1 = p.beta1**t if p.present_betas > 0.0 else power1
    used2 = p.beta2**t if p.present_betas > 0.0 else power2
    correction1, correction2 = 1.0 - used1 * p.bias_correction, 1.0 - used2 * p.bias_correction
    root2 = np.sqrt(correction2)
    hat = p.eps_hat > 0.0
    outside, inside = (p.eps, p.eps_root) if hat else (p.eps * root2, p.eps_root * correction2)
    return (power1, power2, t), (p.lr * root2 / correction1, outside, inside)


@scalar
def _next_moments(p, a, square, h, v, f):
    """Moments P = E y², C = E y m, Q = E m² and v after a step at rate a, by the linear recursion of the twin."""
    left, keep = 1.0 - p.beta1, fma(-p.lr, p.weight_decay, 1.0)
    cross = fma(p.beta1, f[1], left * h * f[0])  # E y m'
    q = fma(p.beta1 * p.beta1, f[2], left * fma(2.0 * p.beta1 * h, f[1], left * square))
    return fma(keep * keep, f[0], a * fma(a, q, -2.0 * keep * cross)), fma(keep, cross, -a * q), q, v


def _plain_rates(p, c, h, var, f):
    square = fma(h * h, f[0], var)
    v = fma(p.beta2, f[3], (1.0 - p.beta2) * square)
    denominator = np.sqrt(v) + c[1]
    a = c[0] / denominator if denominator > 0.0 else 0.0
    return _next_moments(p, a, square, h, v, f), (a,)


def _general_rates(p, c, h, var, f):
    square = fma(h * h, f[0], var)
    v = fma(p.beta2, f[3], (1.0 - p.beta2) * square)
    denominator = np.sqrt(v + c[2]) + c[1]
    a = c[0] / denominator if denominator > 0.0 else 0.0
    return _next_moments(p, a, square, h, v, f), (a,)


def _twin(p, a, g, y, s):
    m = fma(p.beta1, s[0], (1.0 - p.beta1) * g)
    return fma(-a[0], m, fma(-p.lr * p.weight_decay, y, y)), (m,)


def _plain_effective(p, k, g, s):
    # lr / (sqrt(v') + ε) with v' after bias correction: what multiplies m after its own.
    root2 = np.sqrt(1.0 - k[1] * p.bias_correction)
    v = p.beta2 * s[1] + (1.0 - p.beta2) * g * g
    return quotient(p.lr * root2, np.sqrt(v) + p.eps * root2)


def _general_effective(p, k, g, s):
    used = np.where(p.present_betas > 0.0, p.beta2 ** k[2], k[1])
    correction2 = 1.0 - used * p.bias_correction
    root2 = np.sqrt(correction2)
    hat = p.eps_hat > 0.0
    outside, inside = np.where(hat, p.eps, p.eps * root2), np.where(hat, p.eps_root, p.eps_root * correction2)
    v = p.beta2 * s[1] + (1.0 - p.beta2) * g * g
    return quotient(p.lr * root2, np.sqrt(v + inside) + outside)


_MOMENTS = ("yy", "ym", "mm", "v")


@update_rule(
    PlainAdam,
    state=("first_moment", "second_moment"),
    clock=_plain_clock,
    clock_start=(1.0, 1.0),
    steps_at_once=1,
    twin=Twin(_twin, ("first_moment",), _plain_rates, _MOMENTS),
    effective_lr=_plain_effective,
)
def _plain(p, c, g, theta, s):
    zero, one = number(0.0, g), number(1.0, g)
    m = fma(p.beta1, s[0], (one - p.beta1) * g)
    v = fma(p.beta2, s[1], (one - p.beta2) * g * g)
    decayed = fma(-p.lr * p.weight_decay, theta, theta)
    # Without any gradient so far m and v are 0, and 0 / 0 would poison the lane: it stays where it is.
    denominator = np.sqrt(v) + c[1]
    direction = m / denominator if denominator > zero else zero
    return fma(-c[0], direction, decayed), (m, v)


@update_rule(
    GeneralAdam,
    state=("first_moment", "second_moment"),
    clock=_general_clock,
    clock_start=(1.0, 1.0, 0.0),
    steps_at_once=1,
    twin=Twin(_twin, ("first_moment",), _general_rates, _MOMENTS),
    effective_lr=_general_effective,
)
def _general(p, c, g, theta, s):
    zero, one = number(0.0, g), number(1.0, g)
    m = fma(p.beta1, s[0], (one - p.beta1) * g)
    v = fma(p.beta2, s[1], (one - p.beta2) * g * g)
    decayed = fma(-p.lr * p.weight_decay, theta, theta)
    denominator = np.sqrt(v + c[2]) + c[1]
    direction = m / denominator if denominator > zero else zero
    return fma(-c[0], direction, decayed), (m, v)
