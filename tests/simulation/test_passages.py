"""First passages of single trajectories: exact to the step, and in law."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import mcnqm
from mcnqm import SGD, Adam, ParameterError
from mcnqm.engine import march, passages
from mcnqm.statistics import chi_square_z

FEW = [3, 100, 417]
TARGETS = [0.9, 0.45, 0.3]


def first_below(runs, target):
    """From a run of which every step was recorded."""
    there = runs.loss <= target
    return there.argmax("step").where(there.any("step"), np.inf)


CASES = {
    "momentum, a sweep": {"optimizer": SGD(lr=[0.02, 0.3], momentum=0.9)},
    "Adam, with twins": {"optimizer": Adam(lr=0.02)},
    "an average": {"optimizer": SGD(lr=0.5), "average": mcnqm.averaging.growing(0.99)},
    "a schedule": {"optimizer": SGD(lr=mcnqm.schedules.cosine(0.4, steps=417))},
    "float32": {"optimizer": SGD(lr=0.1, momentum=0.9), "dtype": "float32"},
    "draws of examples": {"optimizer": SGD(lr=0.3), "minibatch": "per_example"},
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_step_is_found_though_few_are_recorded(small_problem, monkeypatch, name):
    options = {"trajectories": 40, "seed": 4, **CASES[name]}
    optimizer = options.pop("optimizer")
    every = mcnqm.simulate(small_problem, optimizer, 3, 417, record=range(418), **options)
    plain = mcnqm.simulate(small_problem, optimizer, 3, 417, record=FEW, **options)
    for portion, stretch in ((2**24, 2**22), (1, 1)):  # in one piece, and in groups of 16 and stretches of 16
        monkeypatch.setattr(passages, "_PORTION", portion)
        monkeypatch.setattr(passages, "_STRETCH", stretch)
        runs = mcnqm.simulate(small_problem, optimizer, 3, 417, record=FEW, target=TARGETS, **options)
        xr.testing.assert_identical(
            runs.drop_vars(["first_passage", "target"]).drop_attrs(), plain.drop_vars([]).drop_attrs()
        )
        for target in TARGETS:
            expected = first_below(every, target).values
            np.testing.assert_array_equal(runs.first_passage.sel(target=target).transpose(..., "trajectory"), expected)
    assert np.isfinite(runs.first_passage).mean() > 0.2
    with ThreadPoolExecutor(2) as executor:
        again = mcnqm.simulate(
            small_problem, optimizer, 3, 417, record=FEW, target=TARGETS, executor=executor, **options
        )
    assert again.drop_attrs().identical(runs.drop_attrs())


def test_a_target_alone_has_no_dimension_and_the_run_goes_on_beyond_the_record(small_problem):
    runs = mcnqm.simulate(small_problem, SGD(lr=0.05), 64, 200, trajectories=9, record=[1], target=0.2)
    assert runs.first_passage.dims == ("trajectory",)
    assert float(runs.target) == 0.2
    assert ((runs.first_passage > 1) & (runs.first_passage <= 200)).all()
    start = mcnqm.simulate(small_problem, SGD(lr=0.05), 64, 200, trajectories=9, record=[1], target=1e6)
    assert (start.first_passage == 0).all()


def test_who_has_diverged_does_not_arrive(small_problem):
    runs = mcnqm.simulate(small_problem, SGD(lr=[0.1, 50.0]), 4, 300, trajectories=20, target=0.3)
    assert runs.diverged.sel(lr=50.0).all()
    assert np.isfinite(runs.first_passage.sel(lr=0.1)).all()
    late = runs.first_passage.sel(lr=50.0)
    assert (np.isinf(late) | (late < 20)).all()


def test_nobody_looks_once_all_have_passed(small_problem, monkeypatch):
    """The rest of the run records what was asked for alone."""
    stretches = []
    advance = march.March.advance

    def watched(self, record, *, last=False):
        stretches.append(len(record))
        return advance(self, record, last=last)

    monkeypatch.setattr(march.March, "advance", watched)
    monkeypatch.setattr(passages, "_STRETCH", 1)
    mcnqm.simulate(small_problem, SGD(lr=0.3), 64, 4000, trajectories=4, record=[2, 3999], target=0.5)
    assert sum(stretches) < 200
    assert stretches[-1] == 1


@pytest.mark.parametrize("target", [0.0, -1.0, [0.1, 0.0], np.nan, np.inf, "low", [], [[0.1]], [0.1, 0.1], True])
def test_targets_that_are_none(small_problem, target):
    with pytest.raises(ParameterError, match="target must"):
        mcnqm.simulate(small_problem, SGD(lr=0.1), 4, 5, target=target)


# ------------------------------------------------------------------------------------------------------------ the law

LR, BATCH, TARGET, LAST, COUNT = 0.1, 4.0, 0.02, 90, 20_000
LINE = mcnqm.NoisyQuadratic(curvature=[1.0], noise=[3.0], initial_mean=[2.0], initial_std=[0.5])


def law_of_passages(target):
    """P(T = 0), ..., P(T = LAST), P(T > LAST) of SGD on one coordinate, by quadrature of its chain.

    The density of those that have not been at or below the target lives outside (-r, r), r = sqrt(2 target), where
    Gauss-Legendre nodes carry it from step to step.
    """
    r, far = np.sqrt(2.0 * target), 5.0
    x, w = np.polynomial.legendre.leggauss(200)
    nodes = r + 0.5 * (far - r) * (x + 1.0)
    nodes, weights = np.concatenate([-nodes, nodes]), np.tile(0.5 * (far - r) * w, 2)
    keep, spread = 1.0 - LR, LR * np.sqrt(3.0 / BATCH)
    density = stats.norm.pdf(nodes, 2.0, 0.5)
    onward = stats.norm.pdf(nodes[:, np.newaxis], keep * nodes, spread) * weights
    left = []
    for _ in range(LAST + 1):
        left.append(weights @ density)
        density = onward @ density
    return np.append(-np.diff(left, prepend=1.0), left[-1])


def z_of(first_passage, law):
    """Of a chi-square over bins with at least 20 expected."""
    seen = np.bincount(np.where(np.isinf(first_passage), LAST + 1, first_passage).astype(int), minlength=LAST + 2)
    expected = COUNT * law
    bins = np.searchsorted(20.0 * np.arange(1, COUNT // 20), np.cumsum(expected))
    seen, expected = (np.bincount(np.unique(bins, return_inverse=True)[1], weights=v) for v in (seen, expected))
    chosen = expected >= 20
    seen, expected = (np.append(v[chosen], v[~chosen].sum()) for v in (seen, expected))
    statistic = float(((seen - expected) ** 2 / np.maximum(expected, 1e-12)).sum())
    return float(chi_square_z(statistic, seen.size - 1))


def test_passages_have_the_law_of_the_chain():
    """False alarms: 1 in 31 000 seeds (4 standard deviations). Controls: a target 20 % off, and a step too late."""
    runs = mcnqm.simulate(LINE, SGD(lr=LR), BATCH, LAST, trajectories=COUNT, seed=2, record=[LAST], target=TARGET)
    law = law_of_passages(TARGET)
    assert law.sum() == pytest.approx(1.0, abs=1e-12)
    assert law.min() > -1e-12
    assert law[-1] < 0.2
    z = z_of(runs.first_passage.values, law)
    assert abs(z) < 4.0
    assert z_of(runs.first_passage.values, law_of_passages(1.2 * TARGET)) > 4.0
    assert z_of(runs.first_passage.values + 1, law) > 4.0
