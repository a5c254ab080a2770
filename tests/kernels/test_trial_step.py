"""A slip in a user's update is named in one line when it is registered, and what is right is let through."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import mcnqm
from mcnqm import ParameterError
from mcnqm.extending import fma, hyperparameters, number, positive, update_rule


@hyperparameters(lr=positive, width=positive)
class Soft(NamedTuple):
    """Never given an update that lasts."""

    lr: float
    width: float = 1.0


def missing_field(p, c, g, theta, s):
    return theta - p.lr * g / p.widht, s


def long_state(p, c, g, theta, s):
    return theta - p.lr * g, (g, g)


def no_state(p, c, g, theta, s):
    return theta - p.lr * g


def bare_state(p, c, g, theta, s):
    return theta - p.lr * g, s[0]


def beyond(p, c, g, theta, s):
    return theta - p.lr * s[1], (g,)


def no_coefficients(p, c, g, theta, s):
    return theta - c[0] * g, (g,)


def unpacked(p, c, g, theta, s):
    m, _ = s
    return theta - p.lr * m, (m,)


def four_arguments(p, g, theta, s):
    return theta - p.lr * g, s


def fine(p, c, g, theta, s):
    return fma(-p.lr, g, theta), (number(1.0, g) * g,)


@pytest.mark.parametrize(
    ("update", "said"),
    [
        (missing_field, r"missing_field must use fields of Soft \(lr, width\), got 'widht'"),
        (long_state, r"long_state must return \(theta, s\) with a state s of 1 \(m\), in Soft, got .*"),
        (no_state, r"no_state must return \(theta, s\) with a state s of 1 \(m\), in Soft, got 0\.\d*"),
        (bare_state, r"bare_state must return \(theta, s\) with a state s of 1 \(m\), in Soft, got .*"),
        (
            beyond,
            r"beyond must use only what there is, a state of 1 \(m\) and 0 coefficients of the clock, in Soft, got .*",
        ),
        (
            no_coefficients,
            r"no_coefficients must use only .* 0 coefficients of the clock, in Soft, got .*",
        ),
        (unpacked, r"unpacked must use only what there is, a state of 1 \(m\) .*got 'not enough values.*"),
        (four_arguments, r"four_arguments must take 5 arguments, in Soft, got .*"),
    ],
)
def test_a_slip_is_named(update, said):
    with pytest.raises(ParameterError) as caught:
        update_rule(Soft, state=("m",))(update)
    assert caught.match(f"^{said}$")
    assert "\n" not in str(caught.value)


def test_slips_beside_the_update():
    def start(p, theta):
        return theta, theta

    def clock(p, k):
        return (k[0] + 1.0, 0.0), (k[0],)

    def late(p, k):
        return (k[1],), ()

    with pytest.raises(ParameterError, match="start must return 1 numbers, the state before the first step"):
        update_rule(Soft, state=("m",), start=start)(fine)
    with pytest.raises(ParameterError, match=r"clock must return \(k, c\), k of 1 numbers"):
        update_rule(Soft, state=("m",), clock=clock, clock_start=(0.0,))(fine)
    with pytest.raises(ParameterError, match="late must use only what there is, 1 numbers in the clock"):
        update_rule(Soft, state=("m",), clock=late, clock_start=(0.0,))(fine)


def test_what_only_plain_python_minds_is_let_through():
    """A division by zero at the trial's numbers, and a helper that is defined later."""

    @hyperparameters(lr=positive)
    class Late(NamedTuple):
        lr: float

    @update_rule(Late)
    def later(p, c, g, theta, s):
        return theta - p.lr * g / (p.lr - 0.5) * _defined_below(g), s

    assert mcnqm.kernels.updates.rule_of(Late).state == ()


def _defined_below(g):
    return g


def test_public_names_are_those_of_the_package():
    """An optimizer from `mcnqm.extending` alone is one like any other."""

    @hyperparameters(lr=positive)
    class Plain(NamedTuple):
        lr: float

    @update_rule(Plain)
    def plain(p, c, g, theta, s):
        return fma(-p.lr, g, theta), s

    problem = mcnqm.NoisyQuadratic.power_law(dim=5)
    own = mcnqm.simulate(problem, Plain(lr=0.1), 4, 20, trajectories=2)
    sgd = mcnqm.simulate(problem, mcnqm.SGD(lr=0.1), 4, 20, trajectories=2)
    np.testing.assert_array_equal(own.loss, sgd.loss)


def test_a_branch_that_only_negative_gradients_take_is_tried_too():
    @hyperparameters(lr=positive)
    class Signed(NamedTuple):
        lr: float

    with pytest.raises(ParameterError, match="give every variable a value before it is used, in Signed"):

        @update_rule(Signed, state=())
        def update(p, c, g, theta, s):
            if g > 0.0:
                x = p.lr
            return theta - x * g, s
