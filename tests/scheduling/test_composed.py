"""Risk of composed pieces, and its gradient, against the optimizers' printed equations, step by step."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection import mostly_slow

import mcnqm
from mcnqm.scheduling import composed as composed_module
from mcnqm.scheduling import composed_maps as maps
from mcnqm.scheduling.composed import Composed

EPS = 1e-8


@dataclass(frozen=True)
class Case:
    problem: mcnqm.NoisyQuadratic
    lr: np.ndarray
    momentum: np.ndarray
    lengths: np.ndarray
    batch_size: float = 3.0
    nesterov: bool = False
    precondition: float = 0.0
    weight_decay: float = 0.0
    dampening: float = 0.0

    @property
    def composed(self) -> Composed:
        return Composed.of(
            *(self.problem, self.batch_size),
            precondition=self.precondition,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            dampening=self.dampening,
        )

    def gradient(self) -> tuple[float, np.ndarray, np.ndarray]:
        return self.composed.gradient(self.lr, self.momentum, self.lengths, by_momentum=True)


def step_by_step(case: Case, lr: Any, momentum: Any, number: Any = np.clongdouble) -> Any:
    """Risk after each piece. `lr` and `momentum` have the shape (pieces, ...): variants go along further axes."""
    problem, total = case.problem, None
    for i in range(problem.size):
        h, c = number(float(problem.curvature[i])), number(float(problem.noise[i]))
        scale = h ** number(-case.precondition)
        variance = c / number(case.batch_size)
        P, C, Q = number(float(problem.initial_mean[i])) ** 2 + number(float(problem.initial_std[i])) ** 2, 0, 0
        ends, first = [], True
        pull, keep = h + number(case.weight_decay), number(1) - number(case.dampening)
        for a, b, n in zip(lr, momentum, case.lengths, strict=True):

            def update(theta, m, noise, k, a=a, b=b, pull=pull, scale=scale):
                g = pull * theta + noise
                m = b * m + k * g
                return theta - a * scale * (g + b * m if case.nesterov else m), m

            for _ in range(int(n)):
                k = number(1) if first else keep
                first = False
                (x, u), (y, v), (z, w) = update(1, 0, 0, k), update(0, 1, 0, k), update(0, 0, 1, k)
                P, C, Q = (
                    x * x * P + 2 * x * y * C + y * y * Q + z * z * variance,
                    x * u * P + (x * v + y * u) * C + y * v * Q + z * w * variance,
                    u * u * P + 2 * u * v * C + v * v * Q + w * w * variance,
                )
            ends.append(P * h * int(problem.multiplicity[i]) / 2)
        total = ends if total is None else [s + e for s, e in zip(total, ends, strict=True)]
    return total


def complex_steps(case: Case, which: str) -> np.ndarray:
    """All derivatives by one kind of parameter: the imaginary parts at a tiny imaginary step, to 19 digits."""
    tiny, pieces = np.longdouble(1e-40), case.lr.size
    values = {name: np.repeat(getattr(case, name)[:, None].astype(np.clongdouble), pieces, 1) for name in
              ("lr", "momentum")}  # fmt: skip
    values[which] = values[which] + 1j * tiny * np.eye(pieces)
    return np.imag(step_by_step(case, **values)[-1]) / tiny


def random_case(rng: np.random.Generator, pieces: int, most: int = 40) -> Case:
    """With degenerate coordinates, rates and momenta among the others."""
    size = int(rng.integers(1, 4))
    h = 10.0 ** rng.uniform(-6, 0, size)
    problem = mcnqm.NoisyQuadratic(
        h,
        h * 10.0 ** rng.uniform(-2, 2, size) * rng.choice([0.0, 1.0, 1.0], size),
        initial_mean=rng.normal(size=size),
        initial_std=rng.uniform(0.1, 2.0, size),
        multiplicity=rng.integers(1, 4, size),
    )
    kind = rng.choice(["sgd", "heavy ball", "nesterov"])
    momentum = np.zeros(pieces)
    if kind != "sgd":
        momentum = rng.choice([0.0, 0.5, 0.9, 0.99, 0.9999, rng.uniform()], pieces)
    edge = 2 * (1 + momentum) / (1 + 2 * momentum if kind == "nesterov" else 1)
    choices = [
        rng.uniform(0, 1, pieces) * edge,
        10.0 ** rng.uniform(-12, 0, pieces),  # hardly moves
        edge * (1 - 10.0 ** rng.uniform(-9, -1, pieces)),  # hardly stable
        edge,
        edge * (1 + 10.0 ** rng.uniform(-9, -2, pieces)),  # hardly unstable
        np.where(momentum > 0, (1 - np.sqrt(momentum)) ** 2, 1.0),  # double root, or Newton's step
        np.ones(pieces),
    ]
    u = np.array(choices)[rng.integers(len(choices), size=pieces), np.arange(pieces)]
    precondition = float(rng.choice([0.0, 0.0, 0.5, 1.0]))
    decay = float(rng.choice([0.0, 0.0, 1e-3, 1.0]))
    lr = u / ((pivot := rng.choice(h)) + decay) * pivot**precondition
    return Case(
        problem,
        np.minimum(lr, edge * 1.01 / ((h + decay) * h**-precondition).max()),
        momentum,
        rng.integers(1, most, pieces),
        float(rng.integers(1, 100)),
        kind == "nesterov",
        precondition,
        weight_decay=decay,
        dampening=float(rng.choice([0.0, 0.3, 0.9])) if kind == "heavy ball" and momentum.all() else 0.0,
    )


def assert_gradient(case: Case, found: tuple[float, np.ndarray, np.ndarray], floor: float = 0.0) -> None:
    """To 1e-8, except where a derivative is a difference of terms that are 1e12 times as large."""
    for name, slopes in (("lr", found[1]), ("momentum", found[2])):
        exact = complex_steps(case, name).astype(np.float64)
        largest = max(np.abs(exact).max(), found[0], floor)
        np.testing.assert_allclose(slopes, exact, rtol=EPS, atol=1e-12 * largest + 1e-250)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_value_and_gradient_are_those_of_the_walk(seed: int, pieces: int) -> None:
    case = random_case(np.random.default_rng(seed), pieces)
    risk, by_lr, by_momentum = case.gradient()
    exact = np.real(step_by_step(case, case.lr, case.momentum)).astype(np.float64)
    # An oscillation that passes through zero leaves a rounding error of its amplitude. Of 3000 cases the worst, at
    # momentum 0.9999 and the upper edge of stability, was off by 8e-11; most by 1e-14.
    floor = 1e-14 * case.problem.initial_risk
    np.testing.assert_allclose(risk, exact[-1], rtol=1e-9, atol=floor)
    np.testing.assert_allclose(case.composed.risks(case.lr, case.momentum, case.lengths), exact, rtol=1e-9, atol=floor)
    assert_gradient(case, (risk, by_lr, by_momentum), 10 * case.problem.initial_risk)
    if not case.momentum.any():
        plain = case.composed.gradient(case.lr, case.momentum, case.lengths)
        np.testing.assert_allclose(plain[0], risk, rtol=1e-10, atol=floor)
        np.testing.assert_allclose(plain[1], by_lr, rtol=1e-9, atol=10 * floor + 1e-13 * np.abs(by_lr).max())


@pytest.mark.parametrize("pieces", mostly_slow([1, 2, 50, 500], 1, 2, 50))
@pytest.mark.parametrize("nesterov", [False, True])
def test_gradient_of_many_pieces(pieces: int, nesterov: bool) -> None:
    rng = np.random.default_rng(pieces)
    problem = mcnqm.NoisyQuadratic.power_law(dim=40).binned(5)
    lr = np.exp(rng.uniform(-4, 0, pieces))
    lengths = rng.integers(1, 3 if pieces == 500 else 30, pieces)
    for momentum in (np.zeros(pieces), rng.uniform(0, 0.9, pieces)):
        case = Case(problem, lr * (1 - momentum), momentum, lengths, nesterov=nesterov)
        found = case.gradient()
        assert_gradient(case, found)
        plain = case.composed.gradient(case.lr, momentum, lengths)
        np.testing.assert_allclose(plain[1], found[1], rtol=1e-10, atol=1e-14 * np.abs(found[1]).max())


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_gradient_is_the_central_difference_in_forty_digits(pieces: int, nesterov: bool) -> None:
    rng = np.random.default_rng(3)
    momentum = rng.choice([0.0, 0.3, 0.9], pieces)
    lr = rng.uniform(0.1, 1.0, pieces) / pieces  # no piece is forgotten by the end
    lengths = rng.integers(1, 9, pieces)
    case = Case(mcnqm.NoisyQuadratic([1.0, 0.07]), lr, momentum, lengths, 2.0, nesterov, 0.5)
    _, by_lr, by_momentum = case.gradient()
    with mpmath.workdps(60):
        step = mpmath.mpf(10) ** -20
        for k in {0, pieces // 2, pieces - 1}:
            for name, slopes in (("lr", by_lr), ("momentum", by_momentum)):
                ends = []
                for sign in (-1, 1):
                    moved = {n: [mpmath.mpf(float(x)) for x in getattr(case, n)] for n in ("lr", "momentum")}
                    moved[name][k] += sign * step
                    ends.append(step_by_step(case, **moved, number=mpmath.mpf)[-1])
                exact = (ends[1] - ends[0]) / (2 * step)
                assert abs(slopes[k] - exact) <= EPS * abs(exact)


@pytest.mark.parametrize("steps", [10**6, 10**9, 10**12])
@pytest.mark.parametrize("lr", [1e-9, 3.3e-8, 1e-3, 0.5, 1.0, 1.5, 2.0 - 1e-8])
def test_long_pieces_against_the_closed_form(steps: int, lr: float) -> None:
    problem = mcnqm.NoisyQuadratic([1.0], [0.3])
    composed = Composed.of(problem, 2.0)
    with mpmath.workdps(40):
        u = mpmath.mpf(lr)

        def risk(u: Any) -> Any:
            decay = (1 - u) ** (2 * steps)
            return decay / 2 + (1 - decay) * u * mpmath.mpf(0.3) / (4 * (2 - u))

        exact, slope = risk(u), mpmath.diff(risk, u, h=mpmath.mpf(10) ** -25)
    for by_momentum in (False, True):
        value, by_lr, _ = composed.gradient(np.array([lr]), np.zeros(1), np.array([steps]), by_momentum=by_momentum)
        # With the matrix, rounding 1 - u costs some 1e-16 / (2 - u) near the upper edge.
        rtol = 1e-7 if by_momentum and lr > 1.9 else 1e-14
        np.testing.assert_allclose(value, float(exact), rtol=rtol)
        np.testing.assert_allclose(by_lr[0], float(slope), rtol=rtol)


def test_cost_is_that_of_the_logarithm() -> None:
    problem = mcnqm.NoisyQuadratic.power_law(dim=30)
    for momentum in (0.0, 0.9):
        optimizer = mcnqm.SGD(lr=0.01, momentum=momentum)
        exact = mcnqm.analytic.risk(problem, optimizer, 5, 2**40, record=[2**40]).risk.item()
        lengths = np.array([2**39, 2**39 - 1, 1])
        found = Composed.of(problem, 5.0).risk(np.full(3, 0.01), np.full(3, momentum), lengths)
        assert found == pytest.approx(exact, rel=1e-9)


def test_the_buffer_keeps_its_units_where_the_rate_changes() -> None:
    """Torch's buffer: a rate of nearly 0 after a large one moves by its own size, not by the last one's."""
    problem = mcnqm.NoisyQuadratic([1.0], [0.0])
    composed = Composed.of(problem, 1.0)
    lr, momentum, lengths = np.array([0.5, 1e-9]), np.full(2, 0.9), np.array([1, 1])
    one, two = composed.risks(lr, momentum, lengths)
    assert two == pytest.approx(one, rel=1e-8)


def test_overflow_is_infinite_and_silent() -> None:
    composed = Composed.of(mcnqm.NoisyQuadratic.power_law(dim=3), 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for momentum in (0.0, 0.9):
            lr, beta, lengths = np.array([5.0, 0.1]), np.full(2, momentum), np.array([10**6, 3])
            assert composed.risk(lr, beta, lengths) == np.inf
            value, by_lr, by_momentum = composed.gradient(lr, beta, lengths, by_momentum=True)
            assert value == np.inf
            assert not by_lr.any()
            assert not by_momentum.any()
            assert np.isfinite(composed.risks(lr, beta, np.array([1, 1]))).all()


def test_without_noise_nothing_is_left_over() -> None:
    """Where the answer is far below rounding of 1, it still has its digits."""
    problem = mcnqm.NoisyQuadratic([1.0], [0.0])
    for momentum in (0.0, 0.25):
        case = Case(problem, np.array([0.7]), np.array([momentum]), np.array([200]))
        found = case.composed.gradient(case.lr, case.momentum, case.lengths, by_momentum=True)
        exact = np.real(step_by_step(case, case.lr, case.momentum)[-1])
        assert 0 < exact < 1e-60
        assert found[0] == pytest.approx(float(exact), rel=1e-10)
        assert_gradient(case, found)


@pytest.mark.parametrize("wrong", ["adjoint", "value"])
def test_a_wrong_derivative_is_caught(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    problem = mcnqm.NoisyQuadratic.power_law(dim=6)
    case = Case(problem, rng.uniform(0.1, 1, 4), rng.uniform(0, 0.9, 4), rng.integers(1, 9, 4))
    if wrong == "value":
        found = replace(case, lr=case.lr * (1 + 1e-7)).gradient()
    else:  # Λ' = A Λ Aᵀ in place of Aᵀ Λ A
        right = maps._sandwich.py_func
        monkeypatch.setattr(maps, "_sandwich", right)
        for name in ("_mixed", "_double", "_double_slope", "_append", "_append_slope"):
            monkeypatch.setattr(maps, name, getattr(maps, name).py_func)
        monkeypatch.setattr(maps, "_one_step", maps._one_step.py_func)
        monkeypatch.setattr(composed_module, "with_momentum", maps.with_momentum.py_func)
        assert_gradient(case, case.gradient())  # uncompiled it is right
        on_the_way_back = {"pieces": 0}

        def sandwich(a00, a01, a10, a11, n00, n01, n11):
            on_the_way_back["pieces"] += 1
            return right(a00, a10, a01, a11, n00, n01, n11) if n11 == 0.0 else right(a00, a01, a10, a11, n00, n01, n11)

        monkeypatch.setattr(maps, "_sandwich", sandwich)
        found = case.gradient()
    with pytest.raises(AssertionError):
        assert_gradient(case, found)
