"""Every optimizer and option, over 2000 steps, constant and scheduled, against its published form in plain NumPy."""

from __future__ import annotations

import numpy as np
import published_forms
import pytest
from selection import mostly_slow

import mcnqm
from mcnqm import SGD, Adam, AdEMAMix, Lion, NAdam, RMSProp, ScheduleFreeAdam, ScheduleFreeSGD, Signum
from mcnqm.schedules import Schedule, cosine, linear, piecewise

DIM, STEPS, SEED = 30, 2000, 5
TOLERANCE = 1e-11  # relative to the largest |theta| of the coordinate's path
SOME = np.r_[0:20, 20:STEPS:97, STEPS]

SLOW, FAST = cosine(1e-2, steps=STEPS, final=0.1), cosine(0.2, steps=STEPS, final=0.1)
CYCLE = mcnqm.schedules.join([linear(0.95, steps=20, final=0.9), linear(0.855, steps=40, final=1.1)], [20])
RISE_AND_FALL = mcnqm.schedules.warmup_stable_decay(0.5, warmup=100, stable=500, decay=1400, final=0.1)
DECAY = piecewise([0.1, 0.01], [500, 1])

CASES = {
    "SGD, weight decay": SGD(lr=0.3, weight_decay=0.1),
    "SGD, weight decay, scheduled": SGD(lr=FAST, weight_decay=DECAY),
    "heavy ball, weight decay": SGD(lr=0.1, momentum=0.9, weight_decay=0.05),
    "Nesterov, weight decay": SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05),
    "Nesterov, weight decay, scheduled": SGD(lr=FAST, momentum=CYCLE, nesterov=True, weight_decay=DECAY),
    "dampened": SGD(lr=0.3, momentum=0.9, weight_decay=0.02, dampening=0.5),
    "dampened, scheduled": SGD(lr=FAST, momentum=CYCLE, weight_decay=DECAY, dampening=linear(0.9, STEPS, 0.1)),
    "Adam, betas cycle": Adam(lr=SLOW, beta1=CYCLE, beta2=linear(0.99, 50, 1.005), weight_decay=0.1),
    "Adam, present betas": Adam(lr=SLOW, beta1=CYCLE, beta2=linear(0.99, 50, 1.005), present_betas=True),
    "Adam, eps in the root": Adam(lr=1e-2, eps=1e-3, eps_root=0.01, weight_decay=0.1),
    "Adam, Keras": Adam(lr=1e-2, eps=0.1, eps_root=1e-3, eps_hat=True, present_betas=True),
    "RMSProp, momentum": RMSProp(lr=1e-3, alpha=0.9, eps=1e-3, momentum=0.9),
    "RMSProp, centered": RMSProp(lr=1e-3, alpha=0.9, eps=0.0, momentum=0.5, centered=True, eps_root=1e-3),
    "RMSProp, scheduled": RMSProp(lr=SLOW, alpha=linear(0.9, STEPS, 1.1), momentum=CYCLE, centered=True, eps=0.01),
    "NAdam": NAdam(lr=1e-2, weight_decay=0.1, eps=1e-3),
    "NAdam, scheduled": NAdam(lr=SLOW, beta1=CYCLE, momentum_decay=1.0),
    "AdEMAMix": AdEMAMix(lr=1e-3, weight_decay=0.1, eps=1e-3),
    "AdEMAMix, scheduled": AdEMAMix(lr=SLOW * 0.1, beta3=linear(0.9, STEPS, 1.1), alpha=linear(0.5, STEPS, 10.0)),
    "Lion, scheduled": Lion(lr=SLOW * 0.1, beta1=CYCLE, weight_decay=0.1),
    "Signum": Signum(lr=1e-3, weight_decay=0.1),
    "Signum, scheduled": Signum(lr=SLOW * 0.1, momentum=CYCLE),
    "schedule-free SGD": ScheduleFreeSGD(lr=0.5, weight_decay=0.02),
    "schedule-free SGD, scheduled": ScheduleFreeSGD(lr=RISE_AND_FALL, momentum=CYCLE),
    "schedule-free Adam": ScheduleFreeAdam(lr=1e-2, weight_decay=0.1, eps=1e-3),
    "schedule-free Adam, scheduled": ScheduleFreeAdam(lr=RISE_AND_FALL * 0.02, beta1=CYCLE),
}
QUICK = ("dampened", "Adam, Keras", "RMSProp, centered", "schedule-free Adam")


def a_problem():
    rng = np.random.default_rng(3)
    return mcnqm.NoisyQuadratic(
        curvature=1.0 / np.arange(1, DIM + 1),
        noise=rng.uniform(0.2, 1.0, DIM),
        initial_mean=rng.normal(size=DIM),
        initial_std=rng.uniform(0.5, 1.0, DIM),
    )


PROBLEM = a_problem()


def expected_path(optimizer, trajectory, batch_size=4.0):
    """By the published form, from the start and the noise that `mcnqm.noise` gives."""
    where = np.arange(DIM)
    start = mcnqm.noise(SEED, trajectory, where, 1, purpose="initial")[0, 0]
    z = mcnqm.noise(SEED, trajectory, where, STEPS)[0]
    sigma = np.sqrt(PROBLEM.noise / batch_size)
    given = optimizer._asdict()
    tables = {k: v(np.arange(STEPS)) if isinstance(v, Schedule) else None for k, v in given.items()}

    def now(t):
        return {k: given[k] if table is None else table[t] for k, table in tables.items()}

    return published_forms.path(
        published_forms.FORMS[type(optimizer).__name__],
        PROBLEM.initial_mean + PROBLEM.initial_std * start,
        lambda t, x: PROBLEM.curvature * x + sigma * z[t],
        STEPS,
        now,
    )


def error_of(runs, trajectory, expected):
    found = runs.theta.isel(trajectory=trajectory).values
    scale = np.abs(expected).max(axis=0)
    return float((np.abs(found - expected[runs.step.values]) / scale).max())


@pytest.mark.parametrize("name", mostly_slow(CASES, *QUICK))
def test_paths_are_those_of_the_published_form(name):
    """In vectors over trajectories and, a sweep of rates beside it, over settings; losses are those of the iterate."""
    optimizer = CASES[name]
    options = {"seed": SEED, "coordinates": range(DIM), "record": SOME}
    runs = mcnqm.simulate(PROBLEM, optimizer, 4, STEPS, trajectories=2, **options)
    for trajectory in range(2):
        expected = expected_path(optimizer, trajectory)
        assert error_of(runs, trajectory, expected) < TOLERANCE
        loss = 0.5 * (PROBLEM.curvature * expected[SOME] ** 2).sum(axis=1)
        np.testing.assert_allclose(runs.loss.isel(trajectory=trajectory), loss, rtol=1e-10)
    swept = mcnqm.simulate(
        PROBLEM, optimizer._replace(lr=optimizer.lr * np.array([0.3, 1.0, 0.1])), 4, STEPS, trajectories=1, **options
    )
    np.testing.assert_array_equal(swept.theta[1], runs.theta[:1])


def test_the_oracle_notices():
    """Negative control: a change of an option in the eighth decimal, or the same without it."""
    options = {"trajectories": 1, "seed": SEED, "coordinates": range(DIM), "record": SOME}
    runs = mcnqm.simulate(PROBLEM, CASES["dampened"], 4, STEPS, **options)
    for change in ({"dampening": 0.5 + 1e-8}, {"weight_decay": 0.02 + 1e-8}, {"weight_decay": 0.0}):
        assert error_of(runs, 0, expected_path(CASES["dampened"]._replace(**change), 0)) > 1e-9
    keras = CASES["Adam, Keras"]
    runs = mcnqm.simulate(PROBLEM, keras, 4, STEPS, **options)
    for change in ({"eps_root": 0.0}, {"eps_root": 1e-3 + 1e-8}, {"eps_hat": False}):
        assert error_of(runs, 0, expected_path(keras._replace(**change), 0)) > 1e-9


@pytest.mark.slow
def test_corrections_by_present_betas_and_by_all_differ_by_percents():
    """What ``docs/optimizers.md`` says of a one-cycle schedule of 100 steps: 5 % of the loss."""

    def cycle(low, high):
        return mcnqm.schedules.join([linear(low, 30, high / low), linear(high, 70, low / high)], [30])

    optimizer = Adam(lr=cycle(0.03 / 25, 0.03), beta1=cycle(0.95, 0.85))
    options = {"trajectories": 64, "control_variate": False}
    ours, theirs = (
        mcnqm.simulate(PROBLEM, optimizer._replace(present_betas=present), 4, 100, **options).risk
        for present in (False, True)
    )
    assert 0.03 < abs(theirs / ours - 1).max() < 0.08


@pytest.mark.slow
def test_a_general_kernel_gives_the_bits_of_the_plain_one():
    """Settings that need no option run along with those that do, on the kernel that has it."""
    for plain, option in (
        (SGD(0.1, 0.9), {"weight_decay": [0.0, 0.1]}),
        (SGD(0.1, 0.9), {"dampening": [0.0, 0.1]}),
        (Adam(0.01), {"eps_root": [0.0, 0.1]}),
        (RMSProp(0.01), {"momentum": [0.0, 0.1]}),
    ):
        alone = mcnqm.simulate(PROBLEM, plain, 4, 50, trajectories=2)
        both = mcnqm.simulate(PROBLEM, plain._replace(**option), 4, 50, trajectories=2)
        np.testing.assert_array_equal(both.loss[0], alone.loss)
        assert not np.array_equal(both.loss[1], alone.loss)
