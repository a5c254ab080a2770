"""Oracles from outside: the optimizers' equations, as printed, in exact or many-digit arithmetic.

Nothing in the recursion knows roots or doubling. `update` is the torch form of one step; its linearity gives
the moments by superposition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np

import mcnqm


@dataclass(frozen=True)
class Case:
    """A problem, an SGD, a batch size and perhaps an average, all scalar."""

    problem: mcnqm.NoisyQuadratic
    optimizer: Any
    batch_size: float
    average: float | None = None


def update(case: Case, h: Any, state: list[Any], noise: Any, number: Any, first: bool = False) -> list[Any]:
    """One step of (θ, m, θ̄), all entries of the type `number`; the `first` makes the buffer of the whole gradient."""
    theta, m, average = state
    lr, beta = number(case.optimizer.lr), number(case.optimizer.momentum)
    p = case.optimizer.precondition
    scale = number(1) if p == 0 else (1 / h if p == 1 else h ** -number(p))
    g = h * theta + noise + number(case.optimizer.weight_decay) * theta
    m = g if first else beta * m + (1 - number(case.optimizer.dampening)) * g
    theta = theta - lr * scale * (g + beta * m if case.optimizer.nesterov else m)
    gamma = number(0 if case.average is None else case.average)
    return [theta, m, gamma * average + (1 - gamma) * theta]


def second_moments(case: Case, entry: int, steps: int, number: Any) -> tuple[list[Any], list[list[Any]]]:
    """Mean and raw second moment of (θ, m, θ̄) of one entry after `steps`."""
    h = number(float(case.problem.curvature[entry]))
    zero, one = number(0), number(1)
    basis = [[one if i == j else zero for i in range(3)] for j in range(3)]
    maps = [
        ([update(case, h, e, zero, number, first) for e in basis], update(case, h, [zero] * 3, one, number, first))
        for first in (True, False)
    ]
    strength = number(float(case.problem.noise[entry])) / number(float(case.batch_size))
    mu, s = number(float(case.problem.initial_mean[entry])), number(float(case.problem.initial_std[entry]))
    start = [one, zero, one]
    mean = [mu * v for v in start]
    P = [[(mu * mu + s * s) * v * w for w in start] for v in start]
    for step in range(steps):
        columns, b = maps[min(step, 1)]
        mean = [sum(columns[k][i] * mean[k] for k in range(3)) for i in range(3)]
        AP = [[sum(columns[k][i] * P[k][j] for k in range(3)) for j in range(3)] for i in range(3)]
        P = [
            [sum(AP[i][k] * columns[k][j] for k in range(3)) + strength * b[i] * b[j] for j in range(3)]
            for i in range(3)
        ]
    return mean, P


def risk(case: Case, steps: int, number: Any = mpmath.mpf) -> Any:
    """Expected loss after `steps`, of the average where there is one."""
    which = 0 if case.average is None else 2
    total = number(0)
    for entry in range(case.problem.size):
        _, P = second_moments(case, entry, steps, number)
        weight = number(int(case.problem.multiplicity[entry])) * number(float(case.problem.curvature[entry]))
        total += weight * P[which][which] / 2
    return total


def heavy_ball_closed_form(h: float, c: float, lr: float, beta: float, *, steps: int) -> Any:
    """Risk of one coordinate from E θ² = 1 at batch size 1, by the roots and geometric sums.

    To as many digits as mpmath is set to.
    """
    h, c, lr, beta = map(mpmath.mpf, (h, c, lr, beta))
    if beta == 0:
        decay = (1 - lr * h) ** (2 * steps)
        return h * decay / 2 + (1 - decay) * lr * c / (2 * (2 - lr * h))
    middle = (1 - lr * h + beta) / 2
    root = mpmath.sqrt(mpmath.mpc(middle**2 - beta))
    r1, r2 = middle + root, middle - root
    D = (r1 ** (steps + 1) - r2 ** (steps + 1) - beta * (r1**steps - r2**steps)) / (r1 - r2)

    def geometric(x: Any) -> Any:
        return (1 - x**steps) / (1 - x)

    G = (r1**2 * geometric(r1**2) - 2 * beta * geometric(beta) + r2**2 * geometric(r2**2)) / (r1 - r2) ** 2
    return mpmath.re(h * D**2 / 2 + h * lr**2 * c * G / 2)


def random_case(rng: np.random.Generator, kind: str) -> Case:
    """A case of the given kind, the degenerate ones among them: see the branches."""
    size = int(rng.integers(1, 4))
    h = 10.0 ** rng.uniform(-8, 0, size)
    c = h * 10.0 ** rng.uniform(-3, 3, size) * rng.choice([0.0, 1.0, 1.0, 1.0])
    problem = mcnqm.NoisyQuadratic(
        h,
        c,
        initial_mean=rng.normal(size=size) * rng.choice([0.0, 1.0]),
        initial_std=rng.uniform(0.1, 2.0, size) * rng.choice([0.0, 1.0, 1.0]),
        multiplicity=rng.integers(1, 4, size),
    )
    power = float(rng.choice([0.25, 0.5, 0.3, 1.0])) if kind in ("preconditioned", "preconditioned decayed") else 0.0
    momentum = 0.0
    if kind not in ("sgd", "averaged", "decayed"):
        momentum = float(rng.choice([0.5, 0.9, 0.99, 1 - 1e-6, rng.uniform()]))
    nesterov = kind in ("nesterov", "nesterov decayed")
    edge = 2 * (1 + momentum) / (1 + 2 * momentum if nesterov else 1)
    u = [
        rng.uniform(0, edge),
        10.0 ** rng.uniform(-16, 0),  # hardly moves
        edge * (1 - 10.0 ** rng.uniform(-15, -1)),  # hardly stable
        edge * (1 + 10.0 ** rng.uniform(-15, -1)),  # hardly unstable
        (1 - np.sqrt(momentum)) ** 2 or 1.0,  # double root, or Newton's step
        (1 + np.sqrt(momentum)) ** 2,  # the other double root
        1.0,
    ][int(rng.integers(7))]
    pivot = h.max() ** (1 - power)
    lr = max(float(u / pivot), 1e-20)
    average = None
    if kind.startswith("averaged"):
        near = 1.0 - lr * float(h[0])
        average = float(rng.choice([0.0, 0.5, 0.9, 0.999, near * (1 + rng.choice([0, 1e-15, 1e-9]))]))
        if not 0 <= average < 1:
            average = 0.75
    dampening, decay = 0.0, 0.0
    if kind in ("dampened", "averaged dampened"):
        dampening = float(rng.choice([0.1, momentum, 1 - 1e-9]))
        lr /= 1 - dampening
    if kind.endswith("decayed") or (kind.endswith("dampened") and rng.uniform() < 0.5):
        # From nothing beside every curvature to what drowns them, at the same u.
        decay = float(pivot * 10.0 ** rng.uniform(-12, 3))
        lr *= float(h.max() ** (1 - power) / (h.max() ** -power * (h.max() + decay)))
    optimizer = mcnqm.SGD(lr, momentum, nesterov, power, decay, dampening)
    return Case(problem, optimizer, float(rng.integers(1, 1000)), average)
