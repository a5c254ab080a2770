"""RMSProp, and its mean-field twin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mcnqm.kernels.forms import kernel_forms
from mcnqm.kernels.jit import fma, number
from mcnqm.kernels.rules.effective import quotient
from mcnqm.kernels.updates import Twin, update_rule
from mcnqm.optimizers import RMSProp

__all__ = ["GeneralRMSProp", "PlainRMSProp"]


class PlainRMSProp(NamedTuple):
    """Hyperparameters of RMSProp without momentum, not centered, ε outside the root, as a kernel wants them."""

    lr: float
    alpha: float
    eps: float


class GeneralRMSProp(NamedTuple):
    """Hyperparameters of RMSProp with all its options, as a kernel wants them."""

    lr: float
    alpha: float
    eps: float
    momentum: float
    centered: float
    eps_root: float


@kernel_forms(RMSProp, PlainRMSProp, GeneralRMSProp)
def _form(optimizer, values):
    plain = not (optimizer.centered or values["momentum"].any() or values["eps_root"].any())
    return PlainRMSProp if plain else GeneralRMSProp


def _plain_rates(p, c, h, var, f):
    square = fma(h * h, f[0], var)
    v = fma(p.alpha, f[1], (1.0 - p.alpha) * square)
    denominator = np.sqrt(v) + p.eps
    a = p.lr / denominator if denominator > 0.0 else 0.0
    return (fma(a, fma(a, square, -2.0 * h * f[0]), f[0]), v), (a,)


def _plain_twin(p, a, g, y, s):
    return fma(-a[0], g, y), s


def _plain_effective(p, k, g, s):
    v = p.alpha * s[0] + (1.0 - p.alpha) * g * g
    return quotient(p.lr, np.sqrt(v) + p.eps)


@update_rule(
    PlainRMSProp,
    state=("second_moment",),
    steps_at_once=1,
    twin=Twin(_plain_twin, (), _plain_rates, ("yy", "v")),
    effective_lr=_plain_effective,
)
def _plain(p, c, g, theta, s):
    zero, one = number(0.0, g), number(1.0, g)
    v = fma(p.alpha, s[0], (one - p.alpha) * g * g)
    denominator = np.sqrt(v) + p.eps
    direction = g / denominator if denominator > zero else zero
    return fma(-p.lr, direction, theta), (v,)


def _general_rates(p, c, h, var, f):
    # Second moments of (y, m, n): m the buffer of steps, n the mean of gradients, which no step of y needs.
    yy, ym, yn, mm, mn, nn, v = f
    left = 1.0 - p.alpha
    square = fma(h * h, yy, var)
    v = fma(p.alpha, v, left * square)
    nn = fma(p.alpha * p.alpha, nn, left * fma(2.0 * p.alpha * h, yn, left * square))
    denominator = np.sqrt(max(v - p.centered * nn, 0.0) + p.eps_root) + p.eps
    a = 1.0 / denominator if denominator > 0.0 else 0.0
    # With the new m and n, and the y before the step.
    mn = fma(p.momentum, fma(p.alpha, mn, left * h * ym), a * fma(p.alpha * h, yn, left * square))
    mm = fma(p.momentum * p.momentum, mm, a * fma(2.0 * p.momentum * h, ym, a * square))
    ym = fma(p.momentum, ym, a * h * yy)
    yn = fma(p.alpha, yn, left * h * yy)
    after = fma(p.lr, fma(p.lr, mm, -2.0 * ym), yy)
    return (after, fma(-p.lr, mm, ym), fma(-p.lr, mn, yn), mm, mn, nn, v), (a,)


def _general_twin(p, a, g, y, s):
    m = fma(p.momentum, s[0], a[0] * g)
    return fma(-p.lr, m, y), (m,)


def _general_effective(p, k, g, s):
    # What the gradient is multiplied by on its way through the buffer of steps.
    v = p.alpha * s[0] + (1.0 - p.alpha) * g * g
    n = p.alpha * s[1] + (1.0 - p.alpha) * g
    spread = np.maximum(v - p.centered * n * n, 0.0)
    return quotient(p.lr, np.sqrt(spread + p.eps_root) + p.eps)


@update_rule(
    GeneralRMSProp,
    state=("second_moment", "mean_gradient", "momentum"),
    steps_at_once=1,
    twin=Twin(_general_twin, ("momentum",), _general_rates, ("yy", "ym", "yn", "mm", "mn", "nn", "v")),
    effective_lr=_general_effective,
)
def _general(p, c, g, theta, s):
    zero, one = number(0.0, g), number(1.0, g)
    v = fma(p.alpha, s[0], (one - p.alpha) * g * g)
    n = fma(p.alpha, s[1], (one - p.alpha) * g)
    # v - n² is a variance, below 0 by rounding alone.
    spread = fma(-p.centered * n, n, v)
    denominator = np.sqrt((spread if spread > zero else zero) + p.eps_root) + p.eps
    direction = g / denominator if denominator > zero else zero
    m = fma(p.momentum, s[2], direction)
    return fma(-p.lr, m, theta), (v, n, m)
