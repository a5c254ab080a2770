"""The gradient of the twin's risk by every step's rate, against finite differences in extended precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcnqm import Adam, NoisyQuadratic
from mcnqm.analytic import mean_field
from mcnqm.analytic.twins.quadrature import size_of_normal
from mcnqm.scheduling.adjoint import _SEGMENT, final_risk_and_gradient

wide = np.longdouble


def arguments(problem, optimizer, batch_size, steps, nodes=3):
    place, share = size_of_normal(problem.initial_mean, problem.initial_std, nodes)
    weight = (0.5 * problem.multiplicity * problem.curvature)[:, np.newaxis] * share
    t = np.arange(1, steps + 1)
    clock = np.stack([1.0 - optimizer.beta1**t, 1.0 - optimizer.beta2**t])
    rule = np.array([optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay], dtype=float)
    spread = np.linspace(1.0, 0.25, steps)  # a batch that grows
    return problem.curvature, problem.noise / batch_size, spread, weight, place, clock, rule


def extended(h, variance, spread, weight, place, clock, rule, rates):
    """The same recursion in 80-bit arithmetic, written from its formulas."""
    h, variance, weight = h.astype(wide)[:, None], variance.astype(wide)[:, None], weight.astype(wide)
    beta1, beta2, eps, decay = rule.astype(wide)
    P, C, Q, V = place.astype(wide) ** 2, 0 * place.astype(wide), 0 * place.astype(wide), 0 * place.astype(wide)
    for t, lr in enumerate(rates):
        square = h * h * P + variance * spread[t]
        V = beta2 * V + (1 - beta2) * square
        a = lr / (wide(clock[0, t]) * (np.sqrt(V / wide(clock[1, t])) + eps))
        keep = 1 - lr * decay
        R = beta1 * C + (1 - beta1) * h * P
        Q = beta1**2 * Q + 2 * beta1 * (1 - beta1) * h * C + (1 - beta1) ** 2 * square
        P, C = keep**2 * P - 2 * keep * a * R + a**2 * Q, keep * R - a * Q
    return (weight * P).sum()


def both(problem, optimizer, batch_size, rates):
    """Value and gradient of the code, value in extended precision, and the relative error of each derivative."""
    setup = arguments(problem, optimizer, batch_size, rates.size)
    gradient = np.zeros(rates.size)
    *parts, clock, rule = setup
    value = final_risk_and_gradient(*parts, rates, clock, rule, gradient)
    exact = extended(*setup, rates.astype(wide))
    errors = []
    for t in np.unique(np.linspace(0, rates.size - 1, 7).astype(int)):
        # Richardson: with eps = 0 a third derivative of 1e4 times the first leaves 1e-8 in a plain central difference.
        central = []
        for step in (wide(1e-6), wide(2e-6)):
            ends = []
            for sign in (1, -1):
                moved = rates.astype(wide)
                moved[t] *= 1 + sign * step
                ends.append(extended(*setup, moved))
            central.append((ends[0] - ends[1]) / (2 * step) / wide(rates[t]))
        slope = (4 * central[0] - central[1]) / 3
        errors.append(float(abs(gradient[t] - slope) / np.abs(gradient).max()))
    return value, float(exact), max(errors)


PROBLEM = NoisyQuadratic([1.0, 0.3, 0.02], noise=[1.0, 0.0, 0.05], initial_mean=[0.5, -1.0, 0.0], initial_std=1.0)

positive = st.floats(1e-3, 0.5)


@settings(deadline=None, max_examples=15)
@given(
    st.floats(0.0, 0.95), st.floats(0.5, 0.999), st.sampled_from([0.0, 1e-8, 0.1]), st.sampled_from([0.0, 0.2]),
    st.lists(positive, min_size=1, max_size=40),
)  # fmt: skip
def test_gradient(beta1, beta2, eps, decay, rates):
    optimizer = Adam(lr=1.0, beta1=beta1, beta2=beta2, eps=eps, weight_decay=decay)
    value, exact, error = both(PROBLEM, optimizer, 4.0, np.array(rates))
    assert value == pytest.approx(exact, rel=1e-10)
    assert error < 1e-8


def test_gradient_across_segments():
    """States are recomputed between those that are kept."""
    rates = np.geomspace(0.05, 1e-3, _SEGMENT + 300)
    value, exact, error = both(PROBLEM, Adam(lr=1.0), 16.0, rates)
    assert value == pytest.approx(exact, rel=1e-11)
    assert error < 1e-8


def test_another_gradient_is_not_it():
    """Negative control: the check sees rates whose v remembers a thousandth longer."""
    rates = np.full(30, 0.05)
    setup = arguments(PROBLEM, Adam(lr=1.0, beta2=0.99), 4.0, 30)
    other = arguments(PROBLEM, Adam(lr=1.0, beta2=0.9901), 4.0, 30)
    found = []
    for *parts, clock, rule in (setup, other):
        found.append(np.zeros(30))
        final_risk_and_gradient(*parts, rates, clock, rule, found[-1])
    assert abs(found[0] - found[1]).max() / abs(found[0]).max() > 1e-6


def test_the_risk_is_that_of_the_mean_field():
    problem = NoisyQuadratic.power_law(40)
    optimizer = Adam(lr=0.02, weight_decay=0.1)
    *parts, clock, rule = arguments(problem, optimizer, 8.0, 200, nodes=5)
    parts[2] = np.ones(200)
    risk = final_risk_and_gradient(*parts, np.full(200, 0.02), clock, rule, np.empty(0))
    theory = mean_field.risk(problem, optimizer, 8.0, 200, record=[200], order=1, nodes=5)
    assert risk == pytest.approx(float(theory.risk[0]), rel=1e-11)
