"""Risk by control variates over many seeds: unbiased, never much worse than the plain mean, its intervals cover.

From noise-dominated (the twin explains all but a thousandth of the variance) to curvature-dominated (it explains
nothing in the transient and a little later). Coverage is asked of the last step, where losses are nearly normal.
Earlier they are not, nor is what the twin leaves of them, and with 16 trajectories no interval by Student's t covers
as stated: at B = 1 and a rate of 1e-3, 95 % intervals were seen to cover 88 % to 82 % of the time within 1000 steps
(those of the plain mean, 100 to 4 times as wide, 92 %), at B = 4096 in mid-flight 70 % (plain 73 %).

Every test fails what it should fail by the same rule from the same seeds or fewer.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import mcnqm
from mcnqm.engine import losses

ALPHA = 1e-6
"""Probability that one test rejects true code under a new seed, at most, by the normal approximations used."""

PROBLEM = mcnqm.NoisyQuadratic.power_law(dim=50)
TRAJECTORIES = 16
SIZES = [16, 256, 4096]
B = xr.DataArray(np.array(SIZES, dtype=float), dims="batch_size", coords={"batch_size": SIZES})

# What the noise dominates moves slowly: of its own length. Every place is looked at on the way and at its end.
PLACES = {
    "B = 1": (mcnqm.Adam(lr=1.6e-2), 1, [100, 500, 2000]),
    "B = 16 .. 4096": (mcnqm.Adam(lr=2e-3 * np.sqrt(B)), B, [60, 200, 1000]),
}


def simulated(place, seed, **options):
    optimizer, batch_size, record = PLACES[place]
    return mcnqm.simulate(PROBLEM, optimizer, batch_size, record[-1], record=record, seed=seed, **options)


def over_seeds(place, seeds, first=1000):
    """Risk, its reported error, and the plain mean of the losses, each of shape (seeds, batch sizes * steps)."""
    columns = []
    for seed in range(first, first + seeds):
        runs = simulated(place, seed, trajectories=TRAJECTORIES)
        columns.append([a.values.ravel() for a in (runs.risk, runs.risk_stderr, runs.loss.mean("trajectory"))])
    return np.array(columns).transpose(1, 0, 2)


def p_of_mean(risk, reference):
    """Two-sided, Bonferroni: the mean over seeds is that of an independent run."""
    error = np.hypot(risk.std(axis=0, ddof=1) / np.sqrt(len(risk)), reference.risk_stderr.values.ravel())
    z = (risk.mean(axis=0) - reference.risk.values.ravel()) / error
    return min(1.0, z.size * 2 * float(stats.norm.sf(np.abs(z).max())))


def p_of_variance(risk, plain, allowed=1.15):
    """One-sided, Bonferroni: the variance is at most `allowed` times that of the plain mean on the same seeds.

    Pitman and Morgan: the variances of two correlated variables are equal if their sum and difference are uncorrelated.
    """
    scaled = np.sqrt(allowed) * plain
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip((risk - scaled).T, (risk + scaled).T, strict=True)]
    freedom = len(risk) - 2
    t = np.array(r) * np.sqrt(freedom / (1 - np.square(r)))
    return min(1.0, t.size * float(stats.t.sf(t.max(), freedom)))


def inside(risk, stderr):
    """Whether each 95 % interval by Student's t covers the mean over all seeds."""
    return np.abs(risk - risk.mean(axis=0)) <= stats.t.ppf(0.975, TRAJECTORIES - 1) * stderr


def p_of_coverage(risk, stderr, at_least=0.93, at_most=0.965):
    """Bonferroni: 95 % intervals by Student's t cover with a probability between the two, at the end of the run.

    The true risk is the mean over the seeds. That it is, is what `p_of_mean` tests; its own error widens the spread
    about it by less than a thousandth.
    """
    n, k = len(risk), inside(risk, stderr).sum(axis=0)
    p = np.minimum(stats.binom.cdf(k, n, at_least), stats.binom.sf(k - 1, n, at_most))
    return min(1.0, 2 * k.size * float(p.min()))


def last_step(values, place):
    return values.reshape(len(values), -1, len(PLACES[place][2]))[..., -1]


def check(place, seeds, trajectories, too_small):
    risk, stderr, plain = over_seeds(place, seeds)
    reference = simulated(place, 5, trajectories=trajectories, control_variate=False)
    assert "variance_reduction" not in reference
    assert p_of_mean(risk, reference) > ALPHA
    assert p_of_mean(1.03 * risk, reference) < ALPHA, "3 % off must be seen somewhere"
    assert p_of_variance(risk, plain) > ALPHA
    assert p_of_variance(2.5 * np.roll(plain, 1, axis=0), plain) < ALPHA, "more than allowed must be seen"
    end = last_step(risk, place), last_step(stderr, place)
    assert p_of_coverage(*end) > ALPHA
    assert p_of_coverage(end[0], too_small * end[1]) < ALPHA, "errors reported too small must be seen"
    gain = last_step(plain, place).var(axis=0) / last_step(risk, place).var(axis=0)
    assert (gain > (200 if place == "B = 1" else [10, 5, 2])).all(), gain
    return end


@pytest.mark.parametrize("place", PLACES)
def test_risk_by_control_variates(place):
    """False alarms: 1e-6 for each of three tests."""
    check(place, 100, 3000, too_small=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_risk_by_control_variates_long(place):
    """The same from 15 times the seeds: errors 0.75 times or 1.5 times as large as they are must be seen.

    False alarms: 1e-6 for each of three tests. What was seen is printed: ``pytest -m slow -rP``.
    """
    risk, stderr = check(place, 1500, 30_000, too_small=0.75)
    assert p_of_coverage(risk, 1.5 * stderr) < ALPHA
    print(f"{place}: 95 % intervals cover {100 * inside(risk, stderr).mean(axis=0)} % of the time, at the last step")


def distorted(monkeypatch, name, change):
    """Let `simulate` use something else in place of one of its parts."""
    module = losses if name == "controlled" else sys.modules["mcnqm.ensembles"]
    original = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **options: change(original, *args, **options))


def sees_a_wrong_expected_value(monkeypatch, factor, trajectories):
    reference = simulated("B = 1", 6, trajectories=trajectories, control_variate=False)

    def change(run_loss, *args, **options):
        losses = run_loss(*args, **options)
        return losses._replace(expected=factor * losses.expected)

    distorted(monkeypatch, "run_loss", change)
    risk, _, _ = over_seeds("B = 1", 40)
    monkeypatch.undo()
    return p_of_mean(risk, reference) < ALPHA


def test_an_expected_value_off_by_three_hundredths(monkeypatch):
    """Negative control: rejected where the noise dominates."""
    assert sees_a_wrong_expected_value(monkeypatch, 1.03, 3000)


@pytest.mark.slow
def test_an_expected_value_off_by_a_hundredth(monkeypatch):
    """Negative control, from many times the draws. And what is not off is not rejected, by the same lines."""
    assert sees_a_wrong_expected_value(monkeypatch, 1.01, 30_000)
    assert not sees_a_wrong_expected_value(monkeypatch, 1.0, 30_000)


def test_a_coefficient_of_the_wrong_sign(monkeypatch):
    """Negative control: the variance is far above the plain mean's."""
    distorted(monkeypatch, "controlled", lambda _, x, y, expected, __, axis: x + (y - np.expand_dims(expected, axis)))
    risk, _, plain = over_seeds("B = 1", 40)
    assert p_of_variance(risk, plain) < ALPHA
