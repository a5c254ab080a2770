"""AdEMAMix, and its mean-field twin."""

from __future__ import annotations

import numpy as np

from mcnqm.kernels.jit import fma, number
from mcnqm.kernels.rules.effective import quotient
from mcnqm.kernels.updates import Twin, update_rule
from mcnqm.optimizers import AdEMAMix

__all__: list[str] = []


def _clock(p, k):
    # k = (t,). As for Adam, both sides of the quotient are multiplied by sqrt(1 - β₂^t).
    t = k[0] + 1.0
    root2 = np.sqrt(1.0 - p.beta2**t)
    return (t,), (p.lr * root2 / (1.0 - p.beta1**t), p.lr * root2 * p.alpha, p.eps * root2)


def _rates(p, c, h, var, f):
    # Second moments of (y, m, n) with y' = k y - a m' - b n'.
    yy, ym, yn, mm, mn, nn, v = f
    left, slow, keep = 1.0 - p.beta1, 1.0 - p.beta3, fma(-p.lr, p.weight_decay, 1.0)
    square = fma(h * h, yy, var)
    v = fma(p.beta2, v, (1.0 - p.beta2) * square)
    denominator = np.sqrt(v) + c[2]
    a = c[0] / denominator if denominator > 0.0 else 0.0
    b = c[1] / denominator if denominator > 0.0 else 0.0
    # With the new m and n, and the y before the step.
    mn = fma(p.beta1, fma(p.beta3, mn, slow * h * ym), left * fma(p.beta3 * h, yn, slow * square))
    mm = fma(p.beta1 * p.beta1, mm, left * fma(2.0 * p.beta1 * h, ym, left * square))
    nn = fma(p.beta3 * p.beta3, nn, slow * fma(2.0 * p.beta3 * h, yn, slow * square))
    ym = fma(p.beta1, ym, left * h * yy)
    yn = fma(p.beta3, yn, slow * h * yy)
    push = fma(a, ym, b * yn)
    after = fma(keep * keep, yy, -2.0 * keep * push) + fma(a, fma(a, mm, 2.0 * b * mn), b * b * nn)
    return (after, keep * ym - fma(a, mm, b * mn), keep * yn - fma(a, mn, b * nn), mm, mn, nn, v), (a, b)


def _twin(p, a, g, y, s):
    m = fma(p.beta1, s[0], (1.0 - p.beta1) * g)
    n = fma(p.beta3, s[1], (1.0 - p.beta3) * g)
    return fma(-a[1], n, fma(-a[0], m, fma(-p.lr * p.weight_decay, y, y))), (m, n)


def _effective(p, k, g, s):
    # lr / (sqrt(v') + ε) with v' after bias correction: what multiplies m after its own, and α times that n.
    root2 = np.sqrt(1.0 - p.beta2 ** k[0])
    v = p.beta2 * s[2] + (1.0 - p.beta2) * g * g
    return quotient(p.lr * root2, np.sqrt(v) + p.eps * root2)


@update_rule(
    AdEMAMix,
    state=("first_moment", "slow_moment", "second_moment"),
    clock=_clock,
    clock_start=(0.0,),
    steps_at_once=1,
    twin=Twin(_twin, ("first_moment", "slow_moment"), _rates, ("yy", "ym", "yn", "mm", "mn", "nn", "v")),
    effective_lr=_effective,
)
def _ademamix(p, c, g, theta, s):
    zero, one = number(0.0, g), number(1.0, g)
    m = fma(p.beta1, s[0], (one - p.beta1) * g)
    n = fma(p.beta3, s[1], (one - p.beta3) * g)
    v = fma(p.beta2, s[2], (one - p.beta2) * g * g)
    decayed = fma(-p.lr * p.weight_decay, theta, theta)
    denominator = np.sqrt(v) + c[2]
    step = fma(c[0], m, c[1] * n)
    direction = step / denominator if denominator > zero else zero
    return decayed - direction, (m, n, v)
