"""Schedule-free SGD and Adam: gradients at y, losses at x; of Adam, a mean-field twin."""

from __future__ import annotations

import numpy as np

from mcnqm.kernels.jit import fma, number, scalar
from mcnqm.kernels.rules.effective import quotient
from mcnqm.kernels.updates import Twin, update_rule
from mcnqm.optimizers import ScheduleFreeAdam, ScheduleFreeSGD

__all__: list[str] = []


@scalar
def _share(lr, largest, total):
    """Largest rate so far, sum of the weights, and the weight of this step in the average."""
    largest = max(largest, lr)
    total += largest * largest
    return largest, total, (largest * largest / total if total > 0.0 else 0.0)


@scalar
def _averaged(base, x, share, beta):
    """The next y and x: both lie between the base sequence z and x."""
    x = fma(share, base - x, x)
    return fma(beta, x - base, base), x


def _sgd_clock(p, k):
    largest, total, share = _share(p.lr, k[0], k[1])
    return (largest, total), (share,)


def _sgd_start(p, theta):
    return theta, theta


@update_rule(
    ScheduleFreeSGD,
    state=("base", "average"),
    start=_sgd_start,
    iterate="average",
    clock=_sgd_clock,
    clock_start=(0.0, 0.0),
)
def _sgd(p, c, g, theta, s):
    base = fma(-p.lr, fma(p.weight_decay, theta, g), s[0])
    y, x = _averaged(base, s[1], c[0], p.momentum)
    return y, (base, x)


def _adam_clock(p, k):
    largest, total, share = _share(p.lr, k[0], k[1])
    t = k[2] + 1.0
    root2 = np.sqrt(1.0 - p.beta2**t)
    return (largest, total, t), (share, p.lr * root2, p.eps * root2)


def _adam_start(p, theta):
    return theta, theta, number(0.0, theta)


def _adam_begin(second):
    return second, second, second, second, second, second, 0.0


def _adam_rates(p, c, h, var, f):
    # Second moments of (x, y, z), the iterate first.
    xx, xy, xz, yy, yz, zz, v = f
    square = fma(h * h, yy, var)
    v = fma(p.beta2, v, (1.0 - p.beta2) * square)
    denominator = np.sqrt(v) + c[2]
    a = c[1] / denominator if denominator > 0.0 else 0.0
    pull = fma(a, h, p.lr * p.weight_decay)  # z' = z - pull y - a noise
    xz = fma(-pull, xy, xz)
    zz = fma(pull, fma(pull, yy, -2.0 * yz), fma(a * a, var, zz))
    rest = 1.0 - c[0]
    xx = fma(rest, fma(rest, xx, 2.0 * c[0] * xz), c[0] * c[0] * zz)
    xz = fma(rest, xz, c[0] * zz)
    left = 1.0 - p.beta1
    xy, yz = fma(p.beta1, xx, left * xz), fma(p.beta1, xz, left * zz)
    return (xx, xy, xz, fma(p.beta1, xy, left * yz), yz, zz, v), (a, c[0])


def _adam_twin(p, a, g, y, s):
    base = fma(-a[0], g, fma(-p.lr * p.weight_decay, y, s[0]))
    y, x = _averaged(base, s[1], a[1], p.beta1)
    return y, (base, x)


def _adam_effective(p, k, g, s):
    # lr / (sqrt(v') + ε) with v' after bias correction: what multiplies the gradient in a step of the base sequence.
    root2 = np.sqrt(1.0 - p.beta2 ** k[2])
    v = p.beta2 * s[2] + (1.0 - p.beta2) * g * g
    return quotient(p.lr * root2, np.sqrt(v) + p.eps * root2)


def _adam_twin_start(p, y):
    return y, y


@update_rule(
    ScheduleFreeAdam,
    state=("base", "average", "second_moment"),
    start=_adam_start,
    iterate="average",
    clock=_adam_clock,
    clock_start=(0.0, 0.0, 0.0),
    steps_at_once=1,
    twin=Twin(
        _adam_twin,
        ("base", "average"),
        _adam_rates,
        ("xx", "xy", "xz", "yy", "yz", "zz", "v"),
        iterate="average",
        start=_adam_twin_start,
        begin=_adam_begin,
    ),
    effective_lr=_adam_effective,
)
def _adam(p, c, g, theta, s):
    zero, one = number(0.0, g), number(1.0, g)
    v = fma(p.beta2, s[2], (one - p.beta2) * g * g)
    denominator = np.sqrt(v) + c[2]
    direction = g / denominator if denominator > zero else zero
    base = fma(-c[1], direction, fma(-p.lr * p.weight_decay, theta, s[0]))
    y, x = _averaged(base, s[1], c[0], p.beta1)
    return y, (base, x, v)
