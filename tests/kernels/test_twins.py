"""Mean-field twins in the kernels: they disturb nothing, do not depend on the cut, and do what their formulas say."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats
from selection import mostly_slow

import mcnqm
from mcnqm.analytic.mean_field import _Field
from mcnqm.engine import Job, Losses, March, Pool, run_loss
from mcnqm.kernels.rules.adam import GeneralAdam, PlainAdam
from mcnqm.kernels.rules.rmsprop import GeneralRMSProp, PlainRMSProp
from mcnqm.kernels.updates import rule_of
from mcnqm.progress import NoMeter
from mcnqm.settings import settings_of
from mcnqm.statistics import normal_strata

ALPHA = 1e-6
"""Probability that the statistical test rejects true code under a new seed."""

STEPS = 271  # crosses a block of steps, and is a multiple of nothing

OPTIMIZERS = {
    "Adam": mcnqm.Adam(lr=np.geomspace(1e-3, 0.1, 21)),
    "AdamW": mcnqm.Adam(lr=np.geomspace(1e-3, 0.1, 21), beta1=0.8, beta2=0.95, eps=0.01, weight_decay=0.3),
    "Adam without bias correction": mcnqm.Adam(lr=np.geomspace(1e-3, 0.1, 21), bias_correction=False),
    "RMSProp": mcnqm.RMSProp(lr=np.geomspace(1e-3, 0.1, 21), alpha=0.95),
    "Adam with every epsilon": mcnqm.Adam(lr=np.geomspace(1e-3, 0.1, 21), eps=0.02, eps_root=0.1, eps_hat=True),
    "RMSProp with momentum, centered": mcnqm.RMSProp(
        lr=np.geomspace(1e-3, 0.1, 21), alpha=0.9, eps=0.02, momentum=0.6, centered=True, eps_root=0.05
    ),
}
OWN_REFERENCE = ("Adam with every epsilon", "RMSProp with momentum, centered")
"""Their twins are held against other references than `reference_rates`."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)
by_name = pytest.mark.parametrize("name", OPTIMIZERS)


def a_problem(size: int = 20) -> mcnqm.NoisyQuadratic:
    """Means of both signs and sizes, none and some spread, a coordinate without noise, and multiplicities."""
    rng = np.random.default_rng(5)
    std = rng.uniform(0.3, 1.5, size)
    std[2] = 0.0
    noise = rng.uniform(0.2, 2.0, size)
    noise[3] = 0.0
    return mcnqm.NoisyQuadratic(
        curvature=1.0 / np.arange(1, size + 1),
        noise=noise,
        initial_mean=rng.normal(size=size),
        initial_std=std,
        multiplicity=1 + np.arange(size) % 2,
    )


PROBLEM = a_problem()


def a_job(optimizer, trajectories, *, batch_size=4.0, cells=3, seed=5, problem=PROBLEM) -> Job:
    return Job(
        problem,
        optimizer,
        settings_of(optimizer, batch_size),
        np.arange(trajectories, dtype=np.uint32),
        seed,
        cells=cells,
    )


def run(job: Job, record=None, threads=None, **options) -> Losses:
    at = np.arange(STEPS + 1) if record is None else np.asarray(record)
    return run_loss(job, at, Pool(threads=threads), NoMeter(), **options)


def same(found: Losses, expected: Losses) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


# ------------------------------------------------------------------------------------------------------ bit-identity


@by_name
def test_a_twin_changes_no_loss(name):
    """In vectors over settings (21 of them, 3 trajectories), and over trajectories (a setting, 21 trajectories)."""
    many = OPTIMIZERS[name]
    for optimizer, trajectories in ((many, 3), (many._replace(lr=0.02), 21)):
        alone = run(a_job(optimizer, trajectories, cells=0))
        beside = run(a_job(optimizer, trajectories))
        assert alone.twin is None
        assert alone.expected is None
        assert np.array_equal(alone.loss, beside.loss)
        assert not np.array_equal(beside.twin, beside.loss)


@by_name
def test_twins_do_not_depend_on_the_cut(name):
    """Threads, groups of lanes, records, and which settings and trajectories run along."""
    optimizer = OPTIMIZERS[name]
    whole = run(a_job(optimizer, 19), threads=1)
    for options in ({"threads": 3}, {"most_lanes": 1}, {"most_lanes": 8}, {"most_lanes": 13}, {"most_lanes": 20}):
        assert same(run(a_job(optimizer, 19), **options), whole), options

    few = np.array([0, 1, 6, 64, 101, STEPS])
    assert same(run(a_job(optimizer, 19), few), whole.pick(slice(None), few))

    some = run(a_job(optimizer._replace(lr=optimizer.lr[4:17]), 19))
    assert same(some, whole.pick(slice(4, 17), slice(None)))
    for k in (0, 12):  # one setting: the other layout
        one = run(a_job(optimizer._replace(lr=float(optimizer.lr[k])), 7))
        mine = whole.pick(slice(k, k + 1), slice(None))
        assert same(one, Losses(*(part[:, :7] if part.ndim == 3 else part for part in mine)))


@by_name
@pytest.mark.parametrize("trajectories", [5, 30])
def test_a_march_of_twins_in_stretches(name, trajectories):
    """Stopping anywhere, dropping settings, which changes the layout on the way, and going on."""
    job = a_job(OPTIMIZERS[name], trajectories)
    whole = run(job)
    march = March(job, Pool(), NoMeter())
    rng = np.random.default_rng(1)
    for start, stop in ((0, 50), (51, 128), (129, 131), (132, 260), (261, STEPS)):
        part = march.advance(np.arange(start, stop + 1))
        kept = whole.pick(march.alive, np.arange(start, stop + 1))
        assert same(part, kept), (start, stop)
        march.drop(rng.uniform(size=march.alive.size) < 0.4)
    assert 0 < march.alive.size < 6


# ------------------------------------------------------------------------- against the formulas, in plain NumPy


@functools.cache
def strata(m, s, cells):
    """Edges of |x|, and mean of x² and probability of each cell, by numerical quadrature."""
    if s == 0.0:
        return np.full(cells - 1, np.inf), np.full(cells, m * m), np.eye(cells)[0]
    edges = stats.foldnorm.ppf(np.arange(1, cells) / cells, abs(m) / s, scale=s)
    bounds = np.array([0.0, *edges, abs(m) + 12.0 * s])
    half = 0.5 * np.diff(bounds)[:, np.newaxis]
    x = bounds[:-1, np.newaxis] + half * (NODES + 1.0)
    mass = half * WEIGHTS * (stats.norm.pdf(x, m, s) + stats.norm.pdf(-x, m, s))
    return edges, (x**2 * mass).sum(axis=1) / mass.sum(axis=1), mass.sum(axis=1)


def reference_rates(h, variance, P, steps, hyper):
    """Rates of each step, shape (steps, ..), and E y², shape (steps + 1, ..): the recursion of the second moments."""
    lr, beta1, beta2, eps, decay, corrected = hyper
    C, Q, v = np.zeros_like(P), np.zeros_like(P), np.zeros_like(P)
    keep, rates, second = 1 - lr * decay, [], [P]
    for t in range(1, steps + 1):
        square = h**2 * P + variance
        v = beta2 * v + (1 - beta2) * square
        bias1, bias2 = (1 - beta1**t, 1 - beta2**t) if corrected else (1.0, 1.0)
        below = bias1 * (np.sqrt(v / bias2) + eps)
        a = np.divide(lr, below, out=np.zeros_like(below), where=below > 0)
        Q = beta1**2 * Q + 2 * beta1 * (1 - beta1) * h * C + (1 - beta1) ** 2 * square
        R = beta1 * C + (1 - beta1) * h * P
        P = keep**2 * P - 2 * keep * a * R + a**2 * Q
        C = keep * R - a * Q
        rates.append(a)
        second.append(P)
    return np.array(rates), np.array(second)


def reference(problem, batch_size, hyper, cells, trajectories, seed, steps, *, same_start=False):
    """Twin losses (trajectories, steps + 1) and their expectation (steps + 1), driven by `mcnqm.noise`."""
    entry = np.repeat(np.arange(problem.size), problem.multiplicity)
    h, variance = problem.curvature[entry], problem.noise[entry] / batch_size
    mean, std = problem.initial_mean[entry], problem.initial_std[entry]
    edges, second, share = (
        np.array(column)
        for column in zip(*(strata(m, s, cells) for m, s in zip(mean.tolist(), std.tolist(), strict=True)), strict=True)
    )
    if same_start:
        second = np.repeat((mean**2 + std**2)[:, np.newaxis], cells, axis=1)
    rates, squares = reference_rates(h[:, np.newaxis], variance[:, np.newaxis], second, steps, hyper)
    expected = 0.5 * (h[:, np.newaxis] * share * squares).sum(axis=(1, 2))

    lr, beta1, _, _, decay, _ = hyper
    which, where = np.arange(trajectories), np.arange(problem.dim)
    y = mean + std * mcnqm.noise(seed, which, where, 1, purpose="initial")[:, 0]
    z = mcnqm.noise(seed, which, where, steps)
    cell = (np.abs(y)[..., np.newaxis] >= edges).sum(axis=-1)
    m, losses = np.zeros_like(y), [0.5 * (h * y**2).sum(axis=1)]
    for t in range(steps):
        m = beta1 * m + (1 - beta1) * (h * y + np.sqrt(variance) * z[:, t])
        y = y - lr * decay * y - rates[t][where, cell] * m
        losses.append(0.5 * (h * y**2).sum(axis=1))
    return np.stack(losses, axis=1), expected


def hyper_of(optimizer, lr):
    if isinstance(optimizer, mcnqm.RMSProp):
        return lr, 0.0, optimizer.alpha, optimizer.eps, 0.0, False
    return lr, optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay, optimizer.bias_correction


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in OWN_REFERENCE])
@pytest.mark.parametrize("cells", [1, 4])
def test_twins_are_those_of_the_formulas(name, cells):
    """Within rounding of 300 steps, in vectors over trajectories and over settings."""
    rates, batches = np.array([3e-3, 1e-2, 3e-2]), [2, 64]
    scalar = run(a_job(OPTIMIZERS[name]._replace(lr=1e-2), 6, batch_size=2, cells=cells), np.arange(301))
    many = run(a_job(OPTIMIZERS[name]._replace(lr=rates), 4, batch_size=batches, cells=cells), np.arange(301))
    for i, lr in enumerate(rates):
        for j, batch in enumerate(batches):
            loss, expected = reference(PROBLEM, batch, hyper_of(OPTIMIZERS[name], lr), cells, 4, 5, 300)
            np.testing.assert_allclose(many.twin[2 * i + j], loss, rtol=1e-10)
            np.testing.assert_allclose(many.expected[2 * i + j], expected, rtol=1e-10)
    loss, expected = reference(PROBLEM, 2, hyper_of(OPTIMIZERS[name], 1e-2), cells, 6, 5, 300)
    np.testing.assert_allclose(scalar.twin[0], loss, rtol=1e-10)
    np.testing.assert_allclose(scalar.expected[0], expected, rtol=1e-10)


# Variables of each twin: y, then its state, then what its moments need besides.
VARIABLES = {
    PlainAdam: "ym",
    GeneralAdam: "ym",
    PlainRMSProp: "y",
    GeneralRMSProp: "ymn",
    mcnqm.NAdam: "ym",
    mcnqm.AdEMAMix: "ymn",
    mcnqm.ScheduleFreeAdam: "yzx",
}


@pytest.mark.parametrize("kind", VARIABLES)
def test_moments_of_a_twin_follow_from_its_update(kind):
    """The update is linear: its matrix, found by basis vectors, carries any covariance to what the rates say."""
    rng, rule, letters = np.random.default_rng(2), rule_of(kind), VARIABLES[kind]
    twin, size = rule.twin, len(letters)
    for _ in range(20):
        p = kind._make(rng.uniform(0.05, 0.95, len(kind._fields)))
        clock, c = rule.clock_start, ()
        for _ in range(int(rng.integers(1, 9)) if rule.clock is not None else 0):
            clock, c = rule.clock.py_func(p, clock)
        h, variance, root = rng.uniform(0.1, 2.0), rng.uniform(0.1, 2.0), rng.normal(size=(size, size))
        M, v = root @ root.T, rng.uniform(5.0, 9.0)  # beyond the square of any mean
        at = {name: (letters.index(name[0]), letters.index(name[1])) for name in twin.moments if name != "v"}
        before = tuple(v if name == "v" else M[at[name]] for name in twin.moments)
        after, rates = twin.rates.py_func(p, c, h, variance, before)

        def step(state, noise, p=p, h=h, rates=rates):
            g = h * state[0] + noise
            y, s = twin.update.py_func(p, rates, g, state[0], tuple(state[1 : 1 + len(twin.state)]))
            rest = [p.alpha * state[-1] + (1 - p.alpha) * g] if kind is GeneralRMSProp else []
            return np.array([y, *s, *rest])

        A = np.stack([step(e, 0.0) for e in np.eye(size)], axis=1)
        b = step(np.zeros(size), 1.0)
        expected = A @ M @ A.T + variance * np.outer(b, b)
        for name, found in zip(twin.moments, after, strict=True):
            if name != "v":
                assert found == pytest.approx(expected[at[name]], rel=1e-11, abs=1e-12), name


def test_the_reference_notices_a_rate_that_ignores_the_cell():
    """Negative control: moments that start from the mean over all cells give other rates."""
    found = run(a_job(mcnqm.Adam(lr=1e-2), 4, batch_size=64), np.arange(301))
    hyper = hyper_of(mcnqm.Adam(lr=1e-2), 1e-2)
    loss, _ = reference(PROBLEM, 64, hyper, 3, 4, 5, 300)
    np.testing.assert_allclose(found.twin[0], loss, rtol=1e-10)
    wrong, _ = reference(PROBLEM, 64, hyper, 3, 4, 5, 300, same_start=True)
    assert (np.abs(found.twin[0] / wrong - 1)[:, 5:] > 1e-4).all()


# ------------------------------------------------------------------------------------------------- against the theory


def gap_to_theory(optimizer, batch_size, cells, shift=0.0):
    """Largest relative difference of the kernel's expected loss and the theory's, over 256 single steps."""
    at = np.arange(257)
    found = run(a_job(optimizer, 1, batch_size=batch_size, cells=cells), at).expected
    law = normal_strata(PROBLEM.initial_mean, PROBLEM.initial_std, cells)
    settings = settings_of(optimizer, np.asarray(batch_size) * (1 + shift))
    theory = _Field(PROBLEM, optimizer, settings, 1, 8, law=(np.sqrt(law.second), law.share)).run(at)
    return float(np.abs(found / theory - 1).max())


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "centered" not in name])
@pytest.mark.parametrize("cells", [1, 5])
def test_expected_is_the_theory_of_first_order_over_the_cells(name, cells):
    """Two implementations that never see each other."""
    batches = np.array([1.0, 16.0, 4096.0])
    optimizer = OPTIMIZERS[name]._replace(lr=np.array([1e-3, 5e-3, 2e-2]))
    assert gap_to_theory(optimizer, batches, cells) < 1e-11
    assert gap_to_theory(optimizer, batches, cells, shift=1e-8) > 1e-10, "another noise must not pass"


# ------------------------------------------------------------------------------------------------------- statistical


def p_value(found: Losses, expected):
    """Bonferroni over settings and records: twin losses have the mean that the kernel expects."""
    error = found.twin.std(axis=1, ddof=1) / np.sqrt(found.twin.shape[1])
    z = (found.twin.mean(axis=1) - expected) / error
    return min(1.0, z.size * 2 * float(stats.norm.sf(np.abs(z).max())))


MORE = {
    "NAdam": mcnqm.NAdam(lr=1e-2, weight_decay=0.3),
    "AdEMAMix": mcnqm.AdEMAMix(lr=1e-2, beta3=0.99, weight_decay=0.3),
    "schedule-free Adam": mcnqm.ScheduleFreeAdam(lr=1e-2, weight_decay=0.3),
}


@pytest.mark.parametrize(
    "name",
    mostly_slow(
        ["AdamW", "RMSProp", "RMSProp with momentum, centered", *MORE], "AdamW", "RMSProp", "schedule-free Adam"
    ),
)
def test_the_mean_of_twin_losses_is_the_expected(name):
    """False alarms: 1e-6 a case, under another seed. Must notice what other cells, or 10 % more noise, would give."""
    optimizer = {**OPTIMIZERS, **MORE}[name]._replace(lr=np.array([2e-3, 2e-2]))
    batch, record = np.array([2.0, 64.0]), [1, 10, 60, 150]
    found = run(a_job(optimizer, 8000, batch_size=batch), record)
    assert p_value(found, found.expected) > ALPHA
    cells = run(a_job(optimizer, 1, batch_size=batch, cells=1), record).expected
    noise = run(a_job(optimizer, 1, batch_size=batch / 1.1), record).expected
    for wrong in (cells, noise):
        assert p_value(found, wrong) < ALPHA


@pytest.mark.slow
@pytest.mark.parametrize("present", [False, True])
def test_theory_and_kernel_correct_scheduled_betas_alike(present):
    """And not as the other form does."""
    optimizer = mcnqm.Adam(
        lr=0.01,
        beta1=mcnqm.schedules.linear(0.95, steps=100, final=0.5),
        beta2=mcnqm.schedules.linear(0.99, steps=100, final=0.9),
        present_betas=present,
    )
    settings, at, law = (
        settings_of(optimizer, 16.0, schedules=True),
        np.arange(201),
        normal_strata(PROBLEM.initial_mean, PROBLEM.initial_std, 2),
    )
    job = Job(PROBLEM, optimizer, settings, np.arange(1, dtype=np.uint32), 5, cells=2)
    found = run(job, at).expected
    for other in (False, True):
        changed = optimizer._replace(present_betas=other)
        theory = _Field(PROBLEM, changed, settings, 1, 8, law=(np.sqrt(law.second), law.share)).run(at)
        gap = np.abs(found / theory - 1).max()
        assert gap < 1e-10 if other == present else gap > 1e-3
