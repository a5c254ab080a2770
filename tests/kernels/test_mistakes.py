"""A mistake in a user's function is named in one line, with its optimizer or landscape, and without Numba's page."""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest

import mcnqm
from mcnqm import ParameterError
from mcnqm.extending import hyperparameters, landscape, positive, update_rule

PROBLEM = mcnqm.NoisyQuadratic.power_law(dim=2)
SETTINGS = {"scale": 1.0}
LISTED = [1.0]


class Thing:
    lr = 0.1


THING = Thing()


def recursive(x):
    return x if abs(x) < 1e-3 else recursive(0.5 * x)


def unbound(p, c, g, theta, s):
    if g > 100:
        step = g
    return theta - p.lr * step, s


def unbound_elsewhere(p, c, g, theta, s):
    if g < 100:
        return theta - p.lr * g, s
    return theta - p.lr * unknown, s  # noqa: F821


def no_return(p, c, g, theta, s):
    theta - p.lr * g


def none_in_a_branch(p, c, g, theta, s):
    if g > 100:
        return None
    return theta - p.lr * g, s


def state_in_a_branch(p, c, g, theta, s):
    return (theta - p.lr * g, s) if g < 100 else (theta, (g, g))


def raises(p, c, g, theta, s):
    raise ValueError("no")


def tries(p, c, g, theta, s):
    try:
        return theta - p.lr / g, s
    except ZeroDivisionError:
        return theta, s


def remembers(p, c, g, theta, s):
    global LAST  # noqa: PLW0603
    LAST = g
    return theta - p.lr * g, s


def formats(p, c, g, theta, s):
    word = f"{g:.3f}"
    return theta - p.lr * g * len(word), s


UPDATES = {
    "unknown name": (lambda p, c, g, theta, s: (theta - p.lr * gradient, s), "name 'gradient' is not defined"),  # noqa: F821
    "unknown function": (lambda p, c, g, theta, s: (theta - sgn(g), s), "name 'sgn' is not defined"),  # noqa: F821
    "not in NumPy": (lambda p, c, g, theta, s: (theta - np.sgn(g), s), "has no attribute 'sgn'"),
    "not in a compiled NumPy": (lambda p, c, g, theta, s: (theta - np.linalg.norm(g), s), r"no norm\(float64\)"),
    "not in a compiled math": (lambda p, c, g, theta, s: (theta - math.fsum((g,)), s), "'fsum' of type module math"),
    "a string": (lambda p, c, g, theta, s: ("theta", s), "a state s of 1 .*'theta'"),
    "an object": (lambda p, c, g, theta, s: (THING, s), "'THING': Cannot determine Numba type"),
    "an object's attribute": (lambda p, c, g, theta, s: (theta - THING.lr * g, s), "'THING': Cannot determine"),
    "a list": (lambda p, c, g, theta, s: (theta, [g]), "a state s of 1"),
    "an array": (lambda p, c, g, theta, s: (np.array([theta]), s), "a state s of 1"),
    "a complex number": (lambda p, c, g, theta, s: (theta + 1j * g, s), "a state s of 1"),
    "a tuple in the state": (lambda p, c, g, theta, s: (theta, ((g,),)), "a state s of 1"),
    "a field of the state": (lambda p, c, g, theta, s: (theta - s.m, s), "only what there is, .*has no attribute 'm'"),
    "a power of text": (lambda p, c, g, theta, s: (theta - g ** "2", s), "no pow"),
    "a float index": (lambda p, c, g, theta, s: (theta - s[0.0], s), "no getitem"),
    "a dict": (lambda p, c, g, theta, s: (theta - SETTINGS["scale"] * g, s), "'SETTINGS': Cannot determine"),
    "a list outside": (lambda p, c, g, theta, s: (theta - LISTED[0] * g, s), "'LISTED'"),
    "recursion": (lambda p, c, g, theta, s: (theta - recursive(g), s), "'recursive'"),
    "a random number": (lambda p, c, g, theta, s: (theta - np.random.default_rng(0).normal(), s), "'default_rng'"),
    "unbound": (unbound, "give every variable a value .*'step'"),
    "unknown in a branch": (unbound_elsewhere, "'unknown' is not defined"),
    "no return": (no_return, "a state s of 1 .*got None"),
    "None in a branch": (none_in_a_branch, "at the end of every branch.*None in one branch"),
    "another state in a branch": (state_in_a_branch, "compile with Numba"),
    "raises": (raises, "at the end of every branch.*nothing"),
    "catches": (tries, "exception_match"),
    "assigns a global": (remembers, "STORE_GLOBAL"),
    "formats": (formats, "format spec"),
}


def one_line(caught, name):
    said = str(caught.value)
    assert name in said
    assert "\n" not in said
    assert " at 0x" not in said
    assert len(said) < 400


@pytest.mark.parametrize("mistake", UPDATES)
def test_a_mistake_in_an_update(mistake):
    function, said = UPDATES[mistake]

    @hyperparameters(lr=positive)
    class Mine(NamedTuple):
        lr: float

    with pytest.raises(ParameterError, match=said) as caught:  # noqa: PT012 - at either of the two
        update_rule(Mine, state=("m",))(function)
        mcnqm.simulate(PROBLEM, Mine(lr=0.1), 1, 3, trajectories=2)
    one_line(caught, "Mine")
    assert caught.value.name == function.__name__


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"start": lambda p, theta: (unknown,)}, "'unknown' is not defined"),  # noqa: F821
        ({"start": lambda p, theta: ("m",)}, "return 1 numbers, the state before the first step"),
        ({"clock": lambda p, k: ((np.sgn(k[0]),), ()), "clock_start": (0.0,)}, "'sgn'"),
        ({"clock": lambda p, k: None, "clock_start": (0.0,)}, r"return \(k, c\)"),
        ({"local": lambda p, h: p.lr * h}, "return hyperparameters"),
        ({"local": lambda p, h: p._replace(lr=LISTED[0] * h)}, "compile with Numba"),
    ],
)
def test_a_mistake_beside_the_update(parts, said):
    @hyperparameters(lr=positive)
    class Mine(NamedTuple):
        lr: float

    with pytest.raises(ParameterError, match=said) as caught:  # noqa: PT012 - at either of the two
        update_rule(Mine, state=("m",), **parts)(lambda p, c, g, theta, s: (theta - p.lr * g, s))
        mcnqm.simulate(PROBLEM, Mine(lr=0.1), 1, 3, trajectories=2)
    one_line(caught, "Mine")


# Outside of tests, so that their kernels are kept on disk.
@hyperparameters(lr=positive)
class Raising(NamedTuple):
    lr: float


@update_rule(Raising)
def _raising(p, c, g, theta, s):
    if theta > 100.0:
        raise ValueError("too far")
    return theta - p.lr * g, s


def test_what_is_raised_in_a_run_is_named():
    """It compiles, and plain Python does not come by it."""
    far = mcnqm.NoisyQuadratic([1.0], initial_mean=200.0)
    with pytest.raises(ParameterError, match="raise nothing in a run of Raising, got 'ValueError: too far'") as caught:
        mcnqm.simulate(far, Raising(lr=0.1), 1, 3, trajectories=2)
    one_line(caught, "Raising")


TABLE = np.array([0.5, 1.0])


@hyperparameters(lr=positive)
class Odd(NamedTuple):
    lr: float


@update_rule(Odd, state=("m",))
def _odd(p, c, g, theta, s):
    step = p.lr * TABLE[1] * np.where(g > 0, math.fabs(g), g)
    return (theta - step, (0,)) if abs(g) < 1e300 else (theta, s)


def test_arithmetic_that_looks_odd_is_no_mistake():
    """Arrays of constants, `math`, a branch, an integer and NumPy's scalar functions: held against plain Python."""
    run = {"batch_size": 4, "steps": 20, "trajectories": 2}
    own, sgd = (mcnqm.simulate(PROBLEM, one, **run).loss for one in (Odd(lr=0.1), mcnqm.SGD(lr=0.1)))
    np.testing.assert_allclose(own, sgd, rtol=1e-12)


def none_of_a_loss(theta, p):
    if theta > 100:
        return None
    return p.curvature * theta


def step_of_a_loss(theta, p):
    if theta > 100:
        step = theta
    return step


GRADIENTS = {
    "missing field": (lambda theta, p: p.curv * theta, "no attribute 'curv'"),
    "unknown name": (lambda theta, p: p.curvature * thet, "'thet' is not defined"),  # noqa: F821
    "not in NumPy": (lambda theta, p: np.sgn(theta), "'sgn'"),
    "a string": (lambda theta, p: "theta", "could not convert"),
    "an object": (lambda theta, p: THING, "not 'Thing'"),
    "uses an object": (lambda theta, p: p.curvature * theta * (THING is not None), "'THING': Cannot determine"),
    "a list": (lambda theta, p: [p.curvature * theta], "sequence"),
    "one argument": (lambda theta: theta, "takes 1 positional argument"),
    "three arguments": (lambda theta, p, q: theta, "missing 1 required positional argument"),
    "a complex number": (lambda theta, p: p.curvature * theta + 0j, "complex"),
    "a power of text": (lambda theta, p: theta ** "1", "pow"),
    "not in a compiled math": (lambda theta, p: p.curvature * math.fsum((theta,)), "'fsum' of type module math"),
    "recursion": (lambda theta, p: p.curvature * theta + 0.0 * recursive(theta), "'recursive'"),
    "a dict": (lambda theta, p: SETTINGS["scale"] * p.curvature * theta, "'SETTINGS': Cannot determine"),
    "a list outside": (lambda theta, p: LISTED[0] * p.curvature * theta, "'LISTED'"),
    "unbound": (step_of_a_loss, "'step'"),
    "None in a branch": (none_of_a_loss, "None in one branch, a number in another"),
}


@pytest.mark.parametrize("mistake", GRADIENTS)
def test_a_mistake_in_a_landscape(mistake):
    gradient, said = GRADIENTS[mistake]
    with pytest.raises(ParameterError, match=said) as caught:  # noqa: PT012 - at either of the two

        @landscape(lambda theta, p: 0.5 * p.curvature * theta * theta, gradient, lambda theta, p: 1.0)
        class Mine(NamedTuple):
            curvature: float = 1.0

        mcnqm.simulate(Mine(), mcnqm.SGD(lr=0.1), 1, 3, trajectories=2)
    one_line(caught, "Mine")
    assert caught.value.name == "gradient"


@pytest.mark.slow
def test_a_landscape_may_be_defined_again():
    """As where a cell of a notebook is edited and run again."""

    def made(scale):
        @landscape(
            lambda theta, p: 0.5 * scale * p.curvature * theta * theta,
            lambda theta, p: scale * p.curvature * theta,
            lambda theta, p: 1.0,
        )
        class Bowl(NamedTuple):
            curvature: float = 1.0

        return Bowl(initial_mean=1.0, initial_std=0.0)

    for scale in (1.0, 2.0):
        found = mcnqm.simulate(made(scale), mcnqm.SGD(lr=0.1), 1, 5, trajectories=8).risk
        bowl = mcnqm.NoisyQuadratic([scale], noise=1.0, initial_mean=1.0, initial_std=0.0)
        expected = mcnqm.simulate(bowl, mcnqm.SGD(lr=0.1), 1, 5, trajectories=8).risk
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_processes_that_cannot_import_the_class():
    @hyperparameters(lr=positive)
    class Mine(NamedTuple):
        lr: float

    @update_rule(Mine)
    def update(p, c, g, theta, s):
        return theta - p.lr * g, s

    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(ParameterError, match=r"executor must have workers that can import .*Mine"),
    ):
        mcnqm.simulate(PROBLEM, Mine(lr=0.1), 1, 3, trajectories=2, executor=executor)
