"""Optimizers that step by the sign of a momentum."""

from __future__ import annotations

from mcnqm.kernels.jit import fma, number
from mcnqm.kernels.updates import update_rule
from mcnqm.optimizers import Lion, Signum

__all__: list[str] = []


@update_rule(Lion, state=("momentum",))
def _lion(p, c, g, theta, s):
    zero, one = number(0.0, g), number(1.0, g)
    direction = fma(p.beta1, s[0], (one - p.beta1) * g)
    sign = (one if direction > zero else zero) - (one if direction < zero else zero)
    decayed = fma(-p.lr * p.weight_decay, theta, theta)
    return fma(-p.lr, sign, decayed), (fma(p.beta2, s[0], (one - p.beta2) * g),)


@update_rule(Signum, state=("momentum",))
def _signum(p, c, g, theta, s):
    zero, one = number(0.0, g), number(1.0, g)
    m = fma(p.momentum, s[0], (one - p.momentum) * g)
    sign = (one if m > zero else zero) - (one if m < zero else zero)
    return fma(-p.lr, sign, fma(-p.lr * p.weight_decay, theta, theta)), (m,)
