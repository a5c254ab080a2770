"""NAdam, and its mean-field twin."""

from __future__ import annotations

import numpy as np

from mcnqm.kernels.jit import fma, number
from mcnqm.kernels.rules.effective import quotient
from mcnqm.kernels.updates import Twin, update_rule
from mcnqm.optimizers import NAdam

__all__: list[str] = []


def _clock(p, k):
    # k = (product of the μ so far, t). As for Adam, both sides of the quotient are multiplied by sqrt(1 - β₂^t).
    t = k[1] + 1.0
    mu = p.beta1 * (1.0 - 0.5 * 0.96 ** (t * p.momentum_decay))
    ahead = p.beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1.0) * p.momentum_decay))
    product = k[0] * mu
    root2 = np.sqrt(1.0 - p.beta2**t)
    of_g = p.lr * root2 * (1.0 - mu) / (1.0 - product)
    of_m = p.lr * root2 * ahead / (1.0 - product * ahead)
    return (product, t), (of_g, of_m, p.eps * root2)


def _rates(p, c, h, var, f):
    # The moments P = E y², C = E y m, Q = E m² of y' = k y - b g - a m'.
    left, keep = 1.0 - p.beta1, fma(-p.lr, p.weight_decay, 1.0)
    square = fma(h * h, f[0], var)
    v = fma(p.beta2, f[3], (1.0 - p.beta2) * square)
    denominator = np.sqrt(v) + c[2]
    b = c[0] / denominator if denominator > 0.0 else 0.0
    a = c[1] / denominator if denominator > 0.0 else 0.0
    cross = fma(p.beta1, f[1], left * h * f[0])  # E y m'
    both = fma(p.beta1 * h, f[1], left * square)  # E g m'
    q = fma(p.beta1 * p.beta1, f[2], left * fma(2.0 * p.beta1 * h, f[1], left * square))
    push = fma(b, h * f[0], a * cross)
    yy = fma(keep * keep, f[0], -2.0 * keep * push) + fma(b, fma(b, square, 2.0 * a * both), a * a * q)
    return (yy, fma(keep, cross, -fma(b, both, a * q)), q, v), (b, a)


def _twin(p, a, g, y, s):
    m = fma(p.beta1, s[0], (1.0 - p.beta1) * g)
    return fma(-a[1], m, fma(-a[0], g, fma(-p.lr * p.weight_decay, y, y))), (m,)


def _effective(p, k, g, s):
    # lr / (sqrt(v') + ε) with v' after bias correction: what multiplies the average of g and m that a step takes.
    root2 = np.sqrt(1.0 - p.beta2 ** k[1])
    v = p.beta2 * s[1] + (1.0 - p.beta2) * g * g
    return quotient(p.lr * root2, np.sqrt(v) + p.eps * root2)


@update_rule(
    NAdam,
    state=("first_moment", "second_moment"),
    clock=_clock,
    clock_start=(1.0, 0.0),
    steps_at_once=1,
    twin=Twin(_twin, ("first_moment",), _rates, ("yy", "ym", "mm", "v")),
    effective_lr=_effective,
)
def _nadam(p, c, g, theta, s):
    zero, one = number(0.0, g), number(1.0, g)
    m = fma(p.beta1, s[0], (one - p.beta1) * g)
    v = fma(p.beta2, s[1], (one - p.beta2) * g * g)
    decayed = fma(-p.lr * p.weight_decay, theta, theta)
    denominator = np.sqrt(v) + c[2]
    step = fma(c[0], g, c[1] * m)
    direction = step / denominator if denominator > zero else zero
    return decayed - direction, (m, v)
