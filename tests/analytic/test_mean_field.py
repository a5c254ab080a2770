"""Mean-field theory of adaptive optimizers: exact where it should be, near the simulation where it claims to be."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

import mcnqm
from mcnqm import SGD, Adam, Lion, NoisyQuadratic, ParameterError, RMSProp
from mcnqm.analytic import mean_field
from mcnqm.analytic.linear import chunks
from mcnqm.analytic.twins.quadrature import size_of_normal
from mcnqm.analytic.twins.recursion import _rate

PROBLEM = NoisyQuadratic.power_law(dim=30)
GIVEN = NoisyQuadratic(PROBLEM.curvature, noise=0.0, initial_mean=np.linspace(-2.0, 2.0, 30), initial_std=0.0)
EXACT = 256  # steps taken one by one
FINE = special.roots_legendre(400)


# --------------------------------------------------------------------------------------- no noise, a certain start


DETERMINISTIC = [
    Adam(lr=0.01),
    Adam(lr=0.01, beta1=0.5, beta2=0.99, weight_decay=0.1),
    Adam(lr=0.01, eps=1e-3, bias_correction=False),
    RMSProp(lr=0.003),
]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("optimizer", DETERMINISTIC, ids=str)
def test_without_noise_it_is_the_optimizer(optimizer, order):
    """v is what the theory says it is, so its risk is the loss of the one trajectory there is."""
    steps = EXACT
    runs = mcnqm.simulate(GIVEN, optimizer, 1, steps, trajectories=1)
    theory = mean_field.risk(GIVEN, optimizer, 1, steps, order=order)
    np.testing.assert_allclose(theory.risk, runs.risk, rtol=1e-9)
    wrong = mean_field.risk(GIVEN, optimizer._replace(lr=optimizer.lr * (1 + 1e-6)), 1, steps)
    assert abs(wrong.risk / runs.risk - 1).max() > 1e-7


@pytest.mark.parametrize("optimizer", [DETERMINISTIC[0], DETERMINISTIC[2]], ids=str)
def test_without_noise_many_steps_at_once(optimizer):
    """Past single steps: within 1 % of the loss at step 256 while that falls by many orders."""
    runs = mcnqm.simulate(GIVEN, optimizer, 1, 2000, trajectories=1)
    theory = mean_field.risk(GIVEN, optimizer, 1, 2000)
    late = runs.step >= EXACT
    scale = float(runs.risk.where(late, drop=True)[0])
    assert abs(theory.risk - runs.risk).where(late, drop=True).max() < 0.01 * scale


# -------------------------------------------------------------------------------------------------- a large epsilon


def with_large_eps(order, beta2=0.999, eps=1e10, steps=20_000):
    """Largest relative error against momentum SGD in its averaged form: in single steps, and later."""
    adam = Adam(lr=[0.1 * eps, 0.5 * eps], beta1=0.9, beta2=beta2, eps=eps, bias_correction=False)
    exact = mcnqm.analytic.risk(PROBLEM, SGD(lr=[0.1 * 0.1, 0.1 * 0.5], momentum=0.9), [4, 64], steps)
    theory = mean_field.risk(PROBLEM, adam, [4, 64], steps, order=order)
    error = abs(theory.risk.values / exact.risk.values - 1)
    early = exact.step.values <= EXACT
    return error[..., early].max(), error.max()


@pytest.mark.parametrize("beta2", [0.9, 0.999])
def test_a_large_eps_is_momentum_sgd(beta2):
    early, late = with_large_eps(1, beta2)
    assert early < 1e-6
    assert late < 1e-3
    assert with_large_eps(1, beta2, eps=10.0)[0] > 1e-3, "an ε that is not large must not pass"


@pytest.mark.parametrize("beta2", [0.9, 0.999])
def test_a_large_eps_is_momentum_sgd_at_second_order(beta2):
    """Where ε is all of the denominator, fluctuations of v change nothing."""
    early, late = with_large_eps(2, beta2)
    assert early < 1e-6
    assert late < 1e-3


# --------------------------------------------------------------------------------------------- the fluctuations of v


def factors(r, under=1.0, *, share=1.0, spread=0.0, overlap=0.0):
    """What order 2 makes of drift and variance: the root is a share r of the denominator."""
    eps, eps_root = 1.0 / r - 1.0, 1.0 - under
    a, push = _rate(under, 1.0, share, 0.1, eps, eps_root, 1.0, 1.0, spread, overlap, 2)
    plain, _ = _rate(under, 1.0, share, 0.1, eps, eps_root, 1.0, 1.0, spread, overlap, 1)
    return np.array([a / plain - 1.0, push * (a / plain) ** 2 - 1.0])


@pytest.mark.parametrize("r", [1.0, 0.7, 0.2])
@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("under", [1.0, 0.4])
def test_fluctuations_of_the_denominator(r, share, under):
    """Means of 1/D and 1/D², D = sqrt(v + ε_r) + ε, against those over a v that takes two values."""
    spread = 1e-4
    size = np.sqrt(spread * share * (2.0 - share))
    of_one = 1.0 / (r * np.sqrt(1.0 + under * size * np.array([-1.0, 1.0])) + 1.0 - r)
    expected = [of_one.mean() - 1.0, (of_one**2).mean() - 1.0]
    np.testing.assert_allclose(factors(r, under, share=share, spread=spread), expected, rtol=2e-3)
    if r < 1.0:
        assert not np.allclose(factors(1.0, under, share=share, spread=spread), expected, rtol=0.1), "ε must count"


@pytest.mark.parametrize("r", [1.0, 0.7, 0.2])
@pytest.mark.parametrize("mean", [0.01, 1.0])
@pytest.mark.parametrize("under", [1.0, 0.4])
def test_a_gradient_in_its_own_v(r, mean, under):
    """Mean of g/D by quadrature, with a weight w of g² in v: to first order in w."""
    w = 1e-5
    x, chance = np.polynomial.hermite_e.hermegauss(60)
    g = mean + x
    relative = g**2 / (mean**2 + 1.0) - 1.0
    of_one = 1.0 / (r * np.sqrt(1.0 + under * w * relative) + 1.0 - r)
    drift = (chance * g * of_one).sum() / chance.sum() / mean - 1.0
    drift -= (chance * of_one).sum() / chance.sum() - 1.0  # Jensen's part, of second order in w
    found = factors(r, under, share=1.0 / (mean**2 + 1.0), overlap=w)
    assert found[0] == pytest.approx(drift, rel=1e-3)
    if mean < 0.1:  # all noise: the variance of what moves y
        assert found[1] == pytest.approx((chance * (x * of_one) ** 2).sum() / chance.sum() - 1.0, rel=1e-3)


# --------------------------------------------------------------------------------------------------- the first step

starts = st.floats(-3.0, 3.0)
spreads = st.floats(0.05, 3.0)


def after_one_step(problem, optimizer, batch_size, **options):
    found = mean_field.moments(problem, optimizer, batch_size, 1, record=[1], **options)
    return found.theta_square.isel(step=0).values


@settings(deadline=None, max_examples=40)
@given(starts, spreads, st.floats(0.001, 1.0), st.floats(0.0, 0.99), st.floats(0.0, 0.999), st.sampled_from([1, 2]))
def test_first_step_without_noise(m, s, lr, beta1, beta2, order):
    """θ₀ - α sign(θ₀): a polynomial in |θ₀|, which its Gauss rule integrates exactly."""
    problem = NoisyQuadratic([0.7], noise=0.0, initial_mean=m, initial_std=s)
    size = stats.foldnorm(abs(m) / s, scale=s).mean()
    expected = m**2 + s**2 - 2 * lr * size + lr**2
    optimizer = Adam(lr=lr, beta1=beta1, beta2=beta2, eps=0.0)
    np.testing.assert_allclose(after_one_step(problem, optimizer, 1, order=order), expected, rtol=1e-8)


def test_first_step_of_a_large_batch():
    problem = NoisyQuadratic([0.7], noise=1.0, initial_mean=2.0, initial_std=0.3)
    size = stats.foldnorm(2.0 / 0.3, scale=0.3).mean()
    expected = 4.0 + 0.09 - 2 * 0.05 * size + 0.05**2
    np.testing.assert_allclose(after_one_step(problem, Adam(lr=0.05), 1e8), expected, rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_first_step_from_the_minimum(order):
    """Nothing but noise: ± α, whatever the order."""
    still = NoisyQuadratic([1.0], initial_std=0.0)
    np.testing.assert_allclose(after_one_step(still, Adam(lr=0.05, eps=0.0), 4, order=order), 0.05**2, rtol=1e-12)
    rmsprop = after_one_step(still, RMSProp(lr=0.05, alpha=0.75, eps=0.0), 4, order=order)
    np.testing.assert_allclose(rmsprop, 0.05**2 / 0.25, rtol=1e-12)


# --------------------------------------------------------------------------------------------- many steps at a time

SIZES = [1, 16]
SOME = xr.DataArray(np.array(SIZES, float), dims="batch_size", coords={"batch_size": SIZES})


@pytest.mark.parametrize("beta2", [0.9, 0.999])
def test_many_steps_at_once(monkeypatch, beta2):
    """Within 3e-3 of single steps (1.7e-3 was seen), and with longer chunks from earlier on not."""
    optimizers = [
        Adam(lr=5e-4 * SOME**0.5, beta2=beta2),
        Adam(lr=5e-4 * SOME**0.5, beta2=beta2, weight_decay=0.1),
        RMSProp(lr=5e-4 * SOME**0.5, alpha=beta2),
    ]
    at = [300, 1000, 3000, 10_000, 20_000]

    def run(until, per_octave):
        monkeypatch.setattr(chunks, "_EXACT_UNTIL", until)
        monkeypatch.setattr(chunks, "_PER_OCTAVE", per_octave)
        return np.array([mean_field.risk(PROBLEM, one, SOME, 20_000, record=at).risk.values for one in optimizers])

    single = run(10**9, 16)
    assert abs(run(256, 16) / single - 1).max() < 3e-3
    assert not abs(run(8, 1) / single - 1).max() < 5e-3


@pytest.mark.parametrize("lr", [0.05, 0.2])
@pytest.mark.parametrize("batch_size", [65536, 1e6, 1e12])
def test_many_steps_at_a_balance_near_the_edge(monkeypatch, lr, batch_size):
    """RMSProp settles where steps are all but unstable; so do chunks, within 1 %."""
    at = [2000, 5000]
    found = mean_field.risk(PROBLEM, RMSProp(lr=lr), batch_size, 5000, record=at).risk.values
    monkeypatch.setattr(chunks, "_EXACT_UNTIL", 10**9)
    single = mean_field.risk(PROBLEM, RMSProp(lr=lr), batch_size, 5000, record=at).risk.values
    np.testing.assert_allclose(found, single, rtol=0.01)


@pytest.mark.parametrize(
    ("optimizer", "batch_size"),
    [(Adam(lr=8e-3, beta2=0.9), 256), (RMSProp(lr=8e-3, alpha=0.9), 256), (Adam(lr=0.05), 1e12)],
    ids=["Adam", "RMSProp", "almost no noise"],
)
def test_many_steps_at_the_edge_of_stability(optimizer, batch_size):
    """v shrinks until a step is unstable, and then grows again: the risk is finite, whatever is looked at."""
    theory = mean_field.risk(PROBLEM, optimizer, batch_size, 20_000, record=[0, 10_000, 20_000])
    assert np.isfinite(theory.risk).all()
    assert theory.risk[-1] < theory.risk[0]


# ------------------------------------------------------------------------------------------------------- quadrature


@settings(deadline=None, max_examples=60)
@given(st.floats(-20.0, 20.0), st.floats(0.01, 20.0), st.integers(2, 16), st.data())
def test_the_rule_integrates_polynomials(ratio, s, nodes, data):
    """Moments of |x| up to degree 2 nodes - 1."""
    power = data.draw(st.integers(0, 2 * nodes - 1))
    place, weight = (row[0] for row in size_of_normal(np.array([ratio * s]), np.array([s]), nodes))
    x, w = FINE
    low, high = max(0.0, abs(ratio) - 16.0), abs(ratio) + 16.0
    x, w = low + 0.5 * (high - low) * (x + 1.0), 0.5 * (high - low) * w
    expected = (w * stats.foldnorm.pdf(x, abs(ratio)) * x**power).sum()
    np.testing.assert_allclose((weight * (place / s) ** power).sum(), expected, rtol=1e-8)
    assert (weight > 0).all()
    assert (place >= 0).all()
    assert weight.sum() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_the_rule_is_no_better_than_it_can_be(nodes):
    place, weight = size_of_normal(np.array([0.5]), np.array([1.0]), nodes)
    beyond = stats.foldnorm(0.5).expect(lambda x: x ** (2 * nodes))
    assert abs((weight * place ** (2 * nodes)).sum() / beyond - 1) > 1e-4


def test_the_rule_of_a_certain_start():
    place, weight = size_of_normal(np.array([-2.0, 0.0]), np.zeros(2), 3)
    assert np.array_equal(weight, [[1, 0, 0]] * 2)
    assert np.array_equal(place[:, 0], [2.0, 0.0])


# ----------------------------------------------------------------------------------------------- against simulation

BATCHES = [1, 16, 256, 4096, 65536]
ALL = xr.DataArray(np.array(BATCHES, float), dims="batch_size", coords={"batch_size": BATCHES})
RATES = xr.DataArray([1e-3, 4e-3, 1.6e-2, 1.6e-2, 1.6e-2], dims="batch_size", coords={"batch_size": BATCHES})
DECAYS = [0.9, 0.99, 0.999]
MEASURED = {
    "Adam": Adam(lr=RATES, beta2=DECAYS),
    "AdamW": Adam(lr=RATES, beta2=DECAYS, weight_decay=0.1),
    "RMSProp": RMSProp(lr=0.5 * RATES, alpha=DECAYS),
}


def excess(name, trajectories, bound, **options):
    """Relative error of the theory beyond 5 standard errors of the simulation, over `bound`: (batch size, decay)."""
    problem, record = NoisyQuadratic.power_law(dim=100), [1, 4, 16, 64, 256, 1000]
    optimizer = MEASURED[name]
    runs = mcnqm.simulate(
        problem, optimizer, ALL, 1000, record=record, trajectories=trajectories, seed=1, control_variate=False
    )
    theory = mean_field.risk(problem, optimizer, ALL, 1000, record=record, **options)
    error = abs(theory.risk / runs.risk - 1) - 5 * runs.risk_stderr / runs.risk
    return (error / bound).max("step").transpose("batch_size", ...).values


BOUND = 0.02
"""Relative error of the risk that is allowed to the theory with 16 nodes, besides 5 standard errors."""


@pytest.mark.parametrize("name", MEASURED)
def test_against_simulation(name):
    """False alarms: less than 6e-5 (90 looks at 5 standard errors). The plain mean field must not pass."""
    assert (excess(name, 400, BOUND, nodes=16) < 1).all()
    plain = excess(name, 400, BOUND, order=1, nodes=2)
    assert (plain[3:, 1:] > 1).all(), "large batches"
    if name == "RMSProp":
        assert plain[1, 0] > 1, "a small batch, and little memory in v"


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_against_a_longer_simulation(name):
    """The same, and that fluctuations count at a small batch too, if less where weights decay."""
    assert (excess(name, 2500, BOUND, nodes=16) < 1).all()
    plain = excess(name, 2500, BOUND, order=1, nodes=2)
    assert (plain[3:, 1:] > 1).all()
    assert plain[1, 0] > (0.5 if name == "AdamW" else 1)


# ---------------------------------------------------------------------------------------------------- steps to target

TARGETS = [1.5, 0.7, 0.3]


def test_steps_to_target_agrees_with_the_risk():
    """Exactly, in single steps; later within a look, and past it the risk is below."""
    optimizer = Adam(lr=[5e-3, 2e-2])
    found = mean_field.steps_to_target(PROBLEM, optimizer, [16, 256], TARGETS)
    assert found.steps.dims == ("lr", "batch_size", "target")
    curve = mean_field.risk(PROBLEM, optimizer, [16, 256], EXACT).risk
    below = curve <= found.target
    first = xr.where(below.any("step"), below.argmax("step"), np.inf)
    early = np.isfinite(first)
    assert early.sum() >= 6
    assert (found.steps == first).where(early, other=True).all()
    assert (np.ceil(found.crossing - 1e-9) == found.steps).all()
    slow = Adam(lr=1e-4)
    late = int(mean_field.steps_to_target(PROBLEM, slow, 16, 0.3).steps)
    assert late > 10 * EXACT
    around = mean_field.risk(PROBLEM, slow, 16, 2 * late, record=[int(0.99 * late), int(1.01 * late)]).risk.values
    assert around[0] > 0.3 > around[1]


def test_a_target_reached_at_the_start():
    found = mean_field.steps_to_target(PROBLEM, Adam(lr=1e-2), 16, [PROBLEM.initial_risk, 100.0])
    assert (found.steps == 0).all()


def test_unreachable_and_given_up():
    optimizer = Adam(lr=[2e-3, 5e-2])
    steady = mean_field.risk(PROBLEM, optimizer, 16, 10**6, record=[10**6]).risk.isel(step=0)
    assert steady[0] < steady[1]
    found = mean_field.steps_to_target(PROBLEM, optimizer, 16, float(np.sqrt(steady[0] * steady[1])))
    assert np.isfinite(found.steps[0])
    assert np.isinf(found.steps[1])
    needed = int(found.steps[0])
    assert np.isinf(mean_field.steps_to_target(PROBLEM, optimizer, 16, 1e-9).steps).all()
    target = float(np.sqrt(steady[0] * steady[1]))
    assert np.isinf(mean_field.steps_to_target(PROBLEM, optimizer, 16, target, max_steps=needed // 2).steps).all()
    kept = mean_field.steps_to_target(PROBLEM, optimizer, 16, target, max_steps=2 * needed).steps
    assert np.array_equal(kept, found.steps)


def test_a_plateau_is_not_the_end():
    """One coordinate done within 100 steps, another that needs millions at the pace that Adam has."""
    problem = NoisyQuadratic([1.0, 4e-11], noise=[1e-6, 4e-17], initial_mean=[1.0, 1e5], initial_std=0.0)
    assert mean_field.steps_to_target(problem, Adam(lr=0.01), 1, 0.05).steps < 1e7


def test_overtaken_settings_are_given_up():
    """Who is not there by then is given up, and who hits first is none the worse."""
    optimizer = Adam(lr=[1e-4, 1e-2])
    whole = mean_field.steps_to_target(PROBLEM, optimizer, 16, 0.3)
    assert np.isfinite(whole.steps).all()
    assert whole.steps[0] > 20 * whole.steps[1]
    hasty = mean_field.steps_to_target(PROBLEM, optimizer, 16, 0.3, overtaken_factor=2.0)
    assert np.isinf(hasty.steps[0])
    assert hasty.steps[1] == whole.steps[1]
    patient = mean_field.steps_to_target(PROBLEM, optimizer, 16, 0.3, overtaken_factor=1000.0)
    assert patient.steps.identical(whole.steps)


# ------------------------------------------------------------------------------------------------- shapes and errors


def test_multiplicity_is_coordinates_of_their_own():
    packed = NoisyQuadratic([1.0, 0.25], multiplicity=[2, 3], initial_mean=[0.5, 0.0])
    spread = NoisyQuadratic([1.0, 1.0, 0.25, 0.25, 0.25], initial_mean=[0.5, 0.5, 0.0, 0.0, 0.0])
    options = {"batch_size": [1, 64], "steps": 1000}
    optimizer = Adam(lr=[1e-3, 1e-2])
    a, b = (mean_field.risk(p, optimizer, **options).risk for p in (packed, spread))
    np.testing.assert_allclose(a, b, rtol=1e-12)
    assert float(a[0, 0, 0]) == pytest.approx(packed.initial_risk, rel=1e-12)
    a, b = (mean_field.moments(p, optimizer, **options, coordinates=[1, 3]) for p in (packed, spread))
    assert a.identical(b.assign_attrs(a.attrs))


def test_shapes_and_labels_are_those_of_a_simulation():
    optimizer = Adam(lr=[1e-3, 1e-2, 1e-1], beta2=[0.9, 0.999])
    runs = mcnqm.simulate(PROBLEM, optimizer, [1, 8], 300, trajectories=2)
    theory = mean_field.risk(PROBLEM, optimizer, [1, 8], 300)
    assert theory.risk.dims == runs.risk.dims == ("lr", "beta2", "batch_size", "step")
    assert set(theory.coords) == set(runs.coords) - {"trajectory", "bound"}
    for name in theory.coords:
        assert np.array_equal(theory[name], runs[name]), name
    assert theory.risk.attrs["units"] == "loss"
    one = mean_field.risk(PROBLEM, Adam(lr=1e-2, beta2=0.9), 8, 300).risk
    np.testing.assert_array_equal(one, theory.risk.sel(lr=1e-2, beta2=0.9, batch_size=8))
    zipped = mean_field.risk(PROBLEM, Adam(lr=1e-3 * SOME), SOME, 50).risk
    assert zipped.dims == ("batch_size", "step")


def test_moments_add_up_to_the_risk():
    optimizer = Adam(lr=[1e-3, 1e-2])
    found = mean_field.moments(PROBLEM, optimizer, 4, 200, record=[0, 1, 50, 200])
    risk = mean_field.risk(PROBLEM, optimizer, 4, 200, record=[0, 1, 50, 200]).risk
    np.testing.assert_allclose(0.5 * (found.theta_square * PROBLEM.curvature).sum("coordinate"), risk, rtol=1e-12)
    assert found.theta_square.dims == ("lr", "step", "coordinate")


@pytest.mark.parametrize("call", [mean_field.risk, mean_field.moments, mean_field.steps_to_target])
@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"optimizer": SGD(lr=0.1)}, "optimizer"),
        ({"optimizer": Lion(lr=0.1)}, "optimizer"),
        ({"problem": "x"}, "problem"),
        ({"batch_size": 0}, "batch_size"),
        ({"nodes": 1}, "nodes"),
        ({"nodes": 65}, "nodes"),
        ({"nodes": 4.0}, "nodes"),
        ({"order": 0}, "order"),
        ({"order": 3}, "order"),
    ],
)
def test_bad_input(call, changes, name):
    arguments = {"problem": PROBLEM, "optimizer": Adam(lr=0.1), "batch_size": 4, **changes}
    last = {"target": 0.1} if call is mean_field.steps_to_target else {"steps": 10}
    with pytest.raises(ParameterError) as caught:
        call(**arguments, **last)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"target": 0.0}, "target"),
        ({"target": [0.1, -1.0]}, "target"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": 2**53 + 1}, "max_steps"),
        ({"overtaken_factor": 0.5}, "overtaken_factor"),
        ({"overtaken_factor": "long"}, "overtaken_factor"),
        ({"overtaken_factor": np.nan}, "overtaken_factor"),
    ],
)
def test_bad_input_of_steps_to_target(changes, name):
    with pytest.raises(ParameterError) as caught:
        mean_field.steps_to_target(PROBLEM, Adam(lr=0.1), 4, **{"target": 0.1, **changes})
    assert caught.value.name == name


@pytest.mark.parametrize("ratio", [13.0, 100.0, 1000.0, 1e5])
def test_the_rule_of_a_start_far_from_zero(ratio):
    """Central moments of a normal, however narrow beside its mean; a grid from 0 on would miss it."""
    for sign in (-1.0, 1.0):
        place, weight = size_of_normal(np.array([sign * ratio]), np.array([1.0]), 6)
        moments = [(weight * (place - ratio) ** power).sum() for power in range(7)]
        np.testing.assert_allclose(moments, [1, 0, 1, 0, 3, 0, 15], atol=1e-8 * max(1.0, ratio / 100))
