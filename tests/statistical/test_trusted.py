"""Estimates that were once wrong by factors, with small errors: each case, and its kind over random parameters.

Right values are exact, or from thousands of plain trajectories. Every test fails on the code before the estimators
that it is about, or with the line that it names put back (see the controls).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import mcnqm
from mcnqm import SGD, Adam, NoisyQuadratic, RMSProp, statistics
from mcnqm.engine import losses
from mcnqm.flags import Flag
from mcnqm.studies.contenders import CONTENDERS
from mcnqm.studies.scaling import ScalingConfig, run
from mcnqm.tuning import routes, smoothing, surface

PROBLEM = NoisyQuadratic.power_law(100)


def inside(interval, truth, slack=0.0):
    low, high = (float(x) for x in interval)
    return low * (1 - slack) <= truth <= high * (1 + slack)


# ------------------------------------------------------------------------------- 1: the control variate's coefficient


def test_adam_in_a_scaling_study():
    """B = 4 was 9579 ± 3312. The mean field says 3309, plain trajectories 3312 ± 5. Warnings are errors here."""
    config = ScalingConfig(PROBLEM, {"adam": CONTENDERS["adam"]}, batch_sizes=(4, 16, 64), target=0.01)
    study = run(config).sel(optimizer="adam")
    for b in (4, 16):
        one = study.sel(batch_size=b)
        assert abs(float(one.steps) / float(one.analytic_steps) - 1) < 0.05, (b, float(one.steps))
        assert not int(one.flags)


def worst_of_runs(seeds, trajectories=4):
    """Largest relative errors of the risk along short-handed runs of Adam, and the least estimate of all."""
    record = np.unique(np.geomspace(100, 4000, 30).astype(int))
    adam, exact = Adam(lr=1.1e-3), None
    exact = mcnqm.simulate(PROBLEM, adam, 4, 4000, trajectories=1024, seed=99, record=record).risk
    found = [
        mcnqm.simulate(PROBLEM, adam, 4, 4000, trajectories=trajectories, seed=s, record=record, control_variate=True)
        for s in range(seeds)
    ]
    ratios = np.array([(one.risk / exact).values for one in found])
    return ratios.max(), ratios.min()


def test_four_trajectories_of_adam(monkeypatch):
    """40 seeds. Below the truth by a fifth at most; above by what a rare start adds. With a regression over three
    pairs in place of the blocks' coefficient, estimates reach below 0."""
    high, low = worst_of_runs(40)
    assert low > 0.75
    assert high < 2.5

    def three_pairs(sample, control, expected, products, axis=1):
        x, y = sample, control
        n = x.shape[axis]
        corrected = np.empty_like(x)
        for r in range(n):
            others = [k for k in range(n) if k != r]
            dx, dy = (np.take(a, others, axis) - np.take(a, others, axis).mean(axis, keepdims=True) for a in (x, y))
            b = (dx * dy).sum(axis) / np.maximum((dy * dy).sum(axis), 1e-300)
            corrected[:, r] = x[:, r] - b * (y[:, r] - expected)
        return corrected

    monkeypatch.setattr(losses, "controlled", three_pairs)
    assert worst_of_runs(40)[1] < 0.5


# ------------------------------------------------------------------------------------------ 2: windows and oscillations


def test_a_dip_of_the_risk_counts(monkeypatch):
    """Exactly 297 steps, where the risk is at or below the target for three steps; it was 333 ± 0.2."""
    arguments = {"trajectories": 500, "replicates": 8}
    found = mcnqm.steps_to_target(PROBLEM, SGD(0.02, 0.99), 1024, 0.05, **arguments)
    assert abs(float(found.steps) - 297) <= 2
    assert inside(found.steps_interval, 297)
    assert not int(found.flags)
    # Without the rules that narrow the window: a quadratic over more than one swing.
    monkeypatch.setattr(smoothing, "_TOLERANCE", np.inf)
    monkeypatch.setattr(smoothing, "TELLING", np.inf)
    wide = mcnqm.steps_to_target(PROBLEM, SGD(0.02, 0.99), 1024, 0.05, **arguments)
    assert abs(float(wide.steps) - 297) > 10
    assert int(wide.flags) & Flag.DISAGREES_WITH_THEORY


@pytest.mark.parametrize("seed", range(3))
def test_the_best_rate_of_heavy_momentum(seed):
    """It was 0.0606 and 328 ± 2.9; the best is 0.073 and 270."""
    arguments = {"batch_size": 1e4, "target": 0.05}
    exact = mcnqm.tune(PROBLEM, SGD(1.0, 0.99), {"lr": (1e-3, 1.0)}, method="analytic", **arguments)
    found = mcnqm.tune(PROBLEM, SGD(1.0, 0.99), {"lr": (1e-3, 1.0)}, seed=seed, **arguments)
    assert abs(float(found.steps) / float(exact.steps) - 1) < 0.05
    assert abs(float(found.lr) / float(exact.lr) - 1) < 0.07
    assert inside(found.steps_interval, float(exact.steps))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(10, 120),
    st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.98, 0.99]),
    st.booleans(),
    st.floats(0.02, 0.6),
    st.sampled_from([1, 16, 256, 4096, 65536]),
    st.sampled_from([0.02, 0.05, 0.2]),
    st.integers(0, 1000),
)
def test_steps_of_sgd_over_random_parameters(dim, momentum, nesterov, share, batch_size, target, seed):
    """Never off by both a tenth and four standard errors; 40 fixed examples.

    The rate is a share of the largest that is stable or, at small batch, of the one whose steady state meets the
    target.
    """
    problem = NoisyQuadratic.power_law(dim)
    bare = SGD(1.0, momentum, nesterov=nesterov and momentum > 0)
    largest = float(mcnqm.analytic.largest_stable_lr(problem, bare).largest_stable_lr)
    noisy = 4 * target * batch_size / dim * (1 - momentum)
    optimizer = bare._replace(lr=share * min(largest, noisy))
    exact = float(mcnqm.steps_to_target(problem, optimizer, batch_size, target, method="analytic").steps)
    if not exact < 20_000:
        return
    found = mcnqm.steps_to_target(problem, optimizer, batch_size, target, seed=seed, max_steps=60_000)
    steps, error = float(found.steps), float(found.steps_stderr)
    off = abs(steps - exact)
    assert off <= max(0.1 * exact, 1) or off <= 4 * np.hypot(error, 0.3), (steps, error, exact, optimizer)
    if off > max(0.1 * exact, 1):
        assert int(found.flags), "an answer that is off says so"


# ----------------------------------------------------------------------------------------------- 3: several at once


def plain_steps(problem, optimizer, batch_size, target, last):
    runs = mcnqm.simulate(problem, optimizer, batch_size, last, trajectories=1024, seed=987, record=range(last + 1))
    mean = runs.loss.mean("trajectory").values
    return float(np.argmax(mean <= target)) if (mean <= target).any() else np.inf


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 4, 5])
def test_joint_tuning_does_not_keep_the_luckiest(seed):
    """It said 180, 120 and 36 steps; at those points plain trajectories needed 232, infinitely many and 387."""
    problem, search = NoisyQuadratic.power_law(200), {"lr": (1e-3, 0.1), "beta2": (0.9, 0.9999)}
    best = mcnqm.tune(problem, Adam(lr=1.0), search, batch_size=16, target=0.05, seed=seed)
    plain = plain_steps(problem, Adam(lr=float(best.lr), beta2=float(best.beta2)), 16, 0.05, 600)
    assert abs(float(best.steps) / plain - 1) < 0.05, (float(best.steps), plain)
    assert inside(best.steps_interval, plain, 0.02)
    assert plain < 240


@pytest.mark.slow
@pytest.mark.parametrize("confirms", [True, False])
def test_a_winner_runs_again_on_fresh_noise(monkeypatch, confirms):
    """Linear, so that the truth is exact. Control: with the search's own figure for the confirmed one."""
    if not confirms:
        monkeypatch.setattr(surface, "confirmed", lambda *args, **_: args[3])
        monkeypatch.setattr(surface, "_pessimistic", lambda steps, *_: np.log(np.maximum(steps[:, 0], 1e-9)))
    monkeypatch.setattr(routes, "_EFFORT_SHORT", 0.0)  # eight trajectories: luck counts
    problem, search = NoisyQuadratic.power_law(30), {"lr": (1e-2, 1.0), "momentum": (0.5, 0.99)}
    off = []
    for seed in range(4):
        best = mcnqm.tune(
            problem, SGD(1.0), search, batch_size=256, target=0.05, seed=seed, reference_trajectories=1, replicates=4
        )
        at = SGD(float(best.lr), float(best.momentum))
        truth = float(mcnqm.steps_to_target(problem, at, 256, 0.05, method="analytic").steps)
        off.append(float(best.steps) / truth - 1)
    assert (np.abs(off).max() < 0.2) == confirms, off


# -------------------------------------------------------------------------------------------- 4: intervals of the risk

TRANSIENTS = [
    (Adam(lr=0.005657, beta1=0.9062, beta2=0.9685), 1024, 500),
    (Adam(lr=0.0022), 16, 600),
    (Adam(lr=0.05), 4096, 50),
    (RMSProp(lr=0.005), 256, 100),
]


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "batch_size", "step"), TRANSIENTS)
def test_intervals_cover_in_transients(optimizer, batch_size, step):
    """200 seeds of the default: at least 88 % of 95 % intervals cover (measured: 92 % and more; that fewer than 88 %
    do by chance when 92 % should has probability 0.03, which the fixed seeds settle). Student's t covers less."""
    big = mcnqm.simulate(PROBLEM, optimizer, batch_size, step, trajectories=16384, seed=1, record=[step])
    truth = float(big.risk[0])
    hit, plain = [], []
    for seed in range(200):
        runs = mcnqm.simulate(PROBLEM, optimizer, batch_size, step, seed=1000 + seed, record=[step])
        hit.append(inside(runs.risk_interval[0], truth))
        half = float(special.stdtrit(runs.sizes["trajectory"] - 1, 0.975) * runs.risk_stderr[0])
        plain.append(abs(float(runs.risk[0]) - truth) <= half)
    assert np.mean(hit) > 0.88, np.mean(hit)
    assert np.mean(hit) > np.mean(plain)


def test_skewed_means_are_covered():
    """Means of 16 lognormals of σ = 1.5: 4000 samples. 95 % intervals cover 90 % at least, Student's t 80 % at most."""
    x = np.random.default_rng(0).lognormal(sigma=1.5, size=(4000, 16))
    truth = np.exp(1.125)
    low, high = statistics.mean_interval(x)
    mean, stderr = statistics.mean_and_stderr(x)
    t = float(special.stdtrit(15, 0.975))
    assert ((low <= truth) & (truth <= high)).mean() > 0.9
    assert (np.abs(mean - truth) <= t * stderr).mean() < 0.8
    normal = np.random.default_rng(1).normal(50.0, 1.0, size=(4000, 16))
    low, high = statistics.mean_interval(normal)
    assert 0.94 < ((low <= 50) & (high >= 50)).mean() < 0.98


# ------------------------------------------------------------------------------------- 5: short runs and flat optima


def test_short_tuned_runs_are_not_low():
    """SGD between 45 and 95 steps was 0.6 of a step low. Mean of 12 seeds, standard error about 0.3."""
    problem = NoisyQuadratic.power_law(100)
    arguments = {"batch_size": 64, "target": 0.05}
    exact = mcnqm.tune(problem, SGD(1.0), {"lr": (1e-2, 1.0)}, method="analytic", **arguments)
    found = [mcnqm.tune(problem, SGD(1.0), {"lr": (1e-2, 1.0)}, seed=s, **arguments) for s in range(12)]
    off = np.array([float(one.steps) - float(exact.steps) for one in found])
    assert abs(off.mean()) < 1.0, off
    assert np.mean([inside(one.steps_interval, float(exact.steps)) for one in found]) >= 0.8
    assert np.mean([inside(one.lr_interval, float(exact.lr)) for one in found]) >= 0.8


# ------------------------------------------------------------------------------------------------- 6: odd answers


def test_a_target_above_the_start():
    for method in ("simulate", "analytic"):
        found = mcnqm.steps_to_target(PROBLEM, SGD(0.1), 4, 100.0, method=method)
        assert str(float(found.steps)) == "0.0"
    found = mcnqm.steps_to_target(PROBLEM, SGD(0.1), 4, 100.0)
    assert found.steps_interval.values.tolist() == [0.0, 0.0]
    assert not int(found.flags)


def test_tuned_momentum_arrives():
    """It was inf ± nan between good neighbors."""
    search = CONTENDERS["momentum-tuned"].search
    best = mcnqm.tune(PROBLEM, SGD(1.0, 0.9), search, batch_size=32, target=0.05)
    assert np.isfinite(best.steps)
    assert np.isfinite(best.steps_stderr)
    at = SGD(float(best.lr), float(best.momentum))
    truth = float(mcnqm.steps_to_target(PROBLEM, at, 32, 0.05, method="analytic").steps)
    assert abs(float(best.steps) / truth - 1) < 0.1, (float(best.steps), truth)


# --------------------------------------------------------------------------------------------------------- flags


def test_every_flag_is_raised_by_what_it_is_for():
    """Each by a case that deserves it, and none by a plain one."""
    plain = mcnqm.steps_to_target(PROBLEM, SGD(0.3), 64, 0.05)
    assert not int(plain.flags)
    assert plain.flags.attrs["flag_meanings"].split()[1] == "disagrees_with_theory"
    # A risk that stays within a hair of the target: part of the sample does not arrive.
    level = float(mcnqm.analytic.steady_state(PROBLEM, SGD(0.3), 64)["risk"])
    touching = mcnqm.steps_to_target(PROBLEM, SGD(0.3), 64, 1.001 * level, trajectories=1, max_steps=3000)
    assert int(touching.flags) & (Flag.UNCERTAIN_PASSAGE | Flag.DISAGREES_WITH_THEORY)
    # One trajectory far out.
    runs = mcnqm.simulate(
        PROBLEM, Adam(lr=0.005657, beta1=0.9062, beta2=0.9685), 1024, 500, trajectories=16, record=[500]
    )
    flagged = [
        int(
            mcnqm.simulate(
                PROBLEM, Adam(0.005657, 0.9062, 0.9685), 1024, 500, trajectories=16, seed=s, record=[500]
            ).flags[0]
        )
        for s in range(20)
    ]
    assert np.mean(np.array(flagged) & Flag.FEW_EFFECTIVE_TRAJECTORIES > 0) > 0.1
    assert runs.flags.dims == ("step",)
    assert not mcnqm.simulate(PROBLEM, SGD(0.1), 4, 500).flags.any()
