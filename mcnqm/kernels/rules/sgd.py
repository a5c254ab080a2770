"""SGD: plain, with heavy-ball or Nesterov momentum, each without and with weight decay; dampened."""

from __future__ import annotations

from typing import NamedTuple

from mcnqm.kernels.forms import kernel_forms
from mcnqm.kernels.jit import fma, scalar
from mcnqm.kernels.updates import update_rule
from mcnqm.optimizers import SGD

__all__ = ["Dampened", "DecayedHeavyBall", "DecayedNesterov", "DecayedSGD", "HeavyBall", "Nesterov", "PlainSGD"]


class PlainSGD(NamedTuple):
    """Hyperparameters of SGD without momentum, as a kernel wants them."""

    lr: float
    precondition: float


class HeavyBall(NamedTuple):
    """Hyperparameters of SGD with heavy-ball momentum, as a kernel wants them."""

    lr: float
    momentum: float
    precondition: float


class Nesterov(NamedTuple):
    """Hyperparameters of SGD with torch's form of Nesterov's momentum, as a kernel wants them."""

    lr: float
    momentum: float
    precondition: float


class DecayedSGD(NamedTuple):
    """`PlainSGD` with weight decay."""

    lr: float
    weight_decay: float
    precondition: float


class DecayedHeavyBall(NamedTuple):
    """`HeavyBall` with weight decay."""

    lr: float
    momentum: float
    weight_decay: float
    precondition: float


class DecayedNesterov(NamedTuple):
    """`Nesterov` with weight decay."""

    lr: float
    momentum: float
    weight_decay: float
    precondition: float


class Dampened(NamedTuple):
    """`HeavyBall` with dampening, and weight decay or none."""

    lr: float
    momentum: float
    weight_decay: float
    dampening: float
    precondition: float


@kernel_forms(SGD, PlainSGD, HeavyBall, Nesterov, DecayedSGD, DecayedHeavyBall, DecayedNesterov, Dampened)
def _form(optimizer, values):
    decayed = values["weight_decay"].any()
    if not values["momentum"].any():
        return DecayedSGD if decayed else PlainSGD
    if optimizer.nesterov:
        return DecayedNesterov if decayed else Nesterov
    if values["dampening"].any():
        return Dampened
    return DecayedHeavyBall if decayed else HeavyBall


@scalar
def _preconditioned_rate(lr, precondition, h):
    # P = H^p: θ moves by -lr h^-p. With p = 0 the power is exactly 1.
    return lr * h**-precondition


def _local_plain(p, h):
    return PlainSGD(_preconditioned_rate(p.lr, p.precondition, h), p.precondition)


def _local_heavy_ball(p, h):
    return HeavyBall(_preconditioned_rate(p.lr, p.precondition, h), p.momentum, p.precondition)


def _local_nesterov(p, h):
    return Nesterov(_preconditioned_rate(p.lr, p.precondition, h), p.momentum, p.precondition)


def _local_decayed(p, h):
    return DecayedSGD(_preconditioned_rate(p.lr, p.precondition, h), p.weight_decay, p.precondition)


def _local_decayed_heavy_ball(p, h):
    rate = _preconditioned_rate(p.lr, p.precondition, h)
    return DecayedHeavyBall(rate, p.momentum, p.weight_decay, p.precondition)


def _local_decayed_nesterov(p, h):
    rate = _preconditioned_rate(p.lr, p.precondition, h)
    return DecayedNesterov(rate, p.momentum, p.weight_decay, p.precondition)


def _local_dampened(p, h):
    rate = _preconditioned_rate(p.lr, p.precondition, h)
    return Dampened(rate, p.momentum, p.weight_decay, p.dampening, p.precondition)


@update_rule(PlainSGD, local=_local_plain)
def _plain_sgd(p, c, g, theta, s):
    return fma(-p.lr, g, theta), s


@update_rule(HeavyBall, state=("momentum",), local=_local_heavy_ball)
def _heavy_ball(p, c, g, theta, s):
    m = fma(p.momentum, s[0], g)
    return fma(-p.lr, m, theta), (m,)


@update_rule(Nesterov, state=("momentum",), local=_local_nesterov)
def _nesterov(p, c, g, theta, s):
    m = fma(p.momentum, s[0], g)
    return fma(-p.lr, fma(p.momentum, m, g), theta), (m,)


@update_rule(DecayedSGD, local=_local_decayed)
def _decayed_sgd(p, c, g, theta, s):
    return fma(-p.lr, fma(p.weight_decay, theta, g), theta), s


@update_rule(DecayedHeavyBall, state=("momentum",), local=_local_decayed_heavy_ball)
def _decayed_heavy_ball(p, c, g, theta, s):
    m = fma(p.momentum, s[0], fma(p.weight_decay, theta, g))
    return fma(-p.lr, m, theta), (m,)


@update_rule(DecayedNesterov, state=("momentum",), local=_local_decayed_nesterov)
def _decayed_nesterov(p, c, g, theta, s):
    g = fma(p.weight_decay, theta, g)
    m = fma(p.momentum, s[0], g)
    return fma(-p.lr, fma(p.momentum, m, g), theta), (m,)


def _dampened_clock(p, k):
    # k = 0 before the first step, whose gradient torch takes whole, and 1 from then on.
    return (1.0,), (1.0 - p.dampening * k[0],)


@update_rule(Dampened, state=("momentum",), clock=_dampened_clock, clock_start=(0.0,), local=_local_dampened)
def _dampened(p, c, g, theta, s):
    m = fma(p.momentum, s[0], c[0] * fma(p.weight_decay, theta, g))
    return fma(-p.lr, m, theta), (m,)
