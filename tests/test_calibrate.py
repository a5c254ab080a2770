"""The calibration harness judges right: what is well calibrated passes, what is not is named.

Estimators here are synthetic, with errors known by construction.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import mcnqm

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
pytest.importorskip("calibration", reason="scripts are not part of a source distribution")

from calibration import truth as truths
from calibration.cells import CELLS, seed_of
from calibration.reading import default_of, read, read_fit
from calibration.report import lines_of, markdown
from calibration.scores import Estimate, Truth, faults, score, summarize, z_of_t
from calibration.store import Answer, Store, _key
from calibration.work import chosen, seeds_of

FREEDOM = 3
T_95 = float(stats.t.ppf(0.975, FREEDOM))


def sample(rng, *, right=100.0, relative=0.02, stated=1.0, bias=0.0, quantity="steps", **others):
    """The mean of four normal replicates and its error, times `stated`; `bias` in true errors."""
    replicates = rng.normal(right * (1 + bias * relative), 2 * right * relative, FREEDOM + 1)
    value, stderr = float(replicates.mean()), stated * float(replicates.std(ddof=1)) / 2
    low, high = value - T_95 * stderr, value + T_95 * stderr
    return Estimate(quantity, "steps", quantity, value, stderr, low, high, FREEDOM, **others)


def summary_of(count=1000, seed=0, right=100.0, **how):
    rng = np.random.default_rng(seed)
    return summarize([score(sample(rng, right=right, **how), Truth(right), cluster=k) for k in range(count)])


# ---------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("freedom", [1, 3, 7, 15])
@pytest.mark.parametrize("t", [-40.0, -3.0, 0.5, 8.0])
def test_z_has_the_tail_probability_of_t(t, freedom):
    assert stats.norm.logsf(abs(z_of_t(t, freedom))) == pytest.approx(stats.t.logsf(abs(t), freedom), rel=1e-9)
    assert np.sign(z_of_t(t, freedom)) == np.sign(t)


def test_z_far_out():
    assert 30 < z_of_t(1e300, 15) <= math.inf
    assert z_of_t(-7.0, math.inf) == -7.0


def test_the_truths_own_error_enters_in_quadrature():
    known = replace(sample(np.random.default_rng(0)), value=110.0, stderr=3.0, freedom=math.inf)
    assert score(known, Truth(100.0)).z == pytest.approx(10 / 3)
    assert score(known, Truth(100.0, stderr=4.0)).z == pytest.approx(2.0)
    narrow = replace(known, low=103.0, high=117.0)
    assert not score(narrow, Truth(100.0)).covered_95
    assert score(narrow, Truth(100.0, stderr=4.0)).covered_95  # 5 / 3 times as wide


def test_any_of_several_right_answers_will_do():
    flat = Truth(1.0, 0.0, ((0.9, 1.1), (2.0, 2.1)))
    one = replace(sample(np.random.default_rng(0)), value=1.05, stderr=0.01, low=1.03, high=1.07)
    assert score(one, flat).z == 0.0
    assert score(one, flat).covered_95
    assert score(one, flat).coarse, "0.2 wide, with an error of 0.01"
    assert not score(replace(one, stderr=0.3), flat).coarse
    between = replace(one, value=1.5, low=1.2, high=1.8)
    assert not score(between, flat).covered_95
    assert score(between, flat).relative == pytest.approx(0.4 / 1.1)
    assert score(replace(between, high=2.0), flat).covered_95


def test_whole_numbers_have_the_error_of_rounding():
    one = replace(sample(np.random.default_rng(0)), value=31.0, stderr=0.0, freedom=math.inf, whole=True)
    assert score(one, Truth(30.0)).z == pytest.approx(math.sqrt(12))
    assert score(one, Truth(30.0)).coarse
    assert score(replace(one, whole=False), Truth(30.0)).z == math.inf


@pytest.mark.parametrize(
    ("value", "right", "relative"),
    [(math.nan, 10.0, math.inf), (math.inf, 10.0, math.inf), (10.0, math.inf, -1.0), (math.inf, math.inf, 0.0)],
)
def test_answers_that_are_not_finite(value, right, relative):
    one = replace(sample(np.random.default_rng(0)), value=value, stderr=math.nan, low=math.nan, high=math.nan)
    found = score(one, Truth(right))
    assert found.relative == relative
    assert found.off == (relative != 0.0)
    assert found.wrong == (found.off and not math.isnan(value)), "no answer is not a wrong one"
    assert found.covered_95 == (relative == 0.0)


def test_dependent_scores_do_not_count_as_many():
    rng = np.random.default_rng(1)
    scores = [score(sample(rng), Truth(100.0), cluster=k) for k in range(200)]
    once, tenfold = summarize(scores), summarize(scores * 10)
    assert tenfold.bias_stderr == pytest.approx(once.bias_stderr)
    assert tenfold.cover_95_stderr == pytest.approx(once.cover_95_stderr)
    assert (once.clusters, tenfold.clusters, tenfold.count) == (200, 200, 2000)


# --------------------------------------------------------------------------------------------------------- judgment


def test_a_calibrated_estimator_passes():
    """Within four standard errors, of seeds that stay; and meets all criteria."""
    found = summary_of(4000)
    assert abs(found.rms_z - 1) < 4 * found.rms_z_stderr
    assert abs(found.cover_95 - 0.95) < 4 * found.cover_95_stderr
    assert abs(found.cover_68 - 0.6827) < 4 * found.cover_68_stderr
    assert abs(found.bias_mean) < 4 * found.bias_stderr
    assert faults(found) == []


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"stated": 0.5}, {"errors too small", "coverage"}),
        ({"stated": 2.0}, {"errors too large"}),
        ({"bias": 2.0}, {"errors too small", "coverage"}),
        ({"stated": 0.02, "relative": 0.1}, {"errors too small", "coverage", "wrong answers", "wrong but not flagged"}),
        ({"flags": 1}, {"flagged though sound"}),
    ],
)
def test_what_is_not_calibrated_is_named(how, named):
    """Negative controls; also by more than three standard errors."""
    found = summary_of(**how)
    assert set(faults(found)) == named
    assert set(faults(found, allowance=3.0)) == named


def test_flags_excuse_an_answer_and_do_not_make_it_right():
    found = summary_of(stated=0.02, relative=0.1, flags=4)
    assert found.flagged_wrong == 1.0
    assert found.unflagged == 0.0
    assert "wrong answers" in faults(found)
    assert "wrong but not flagged" not in faults(found)


def test_one_wrong_answer_in_a_thousand_is_borne():
    rng = np.random.default_rng(3)
    sound = [score(sample(rng), Truth(100.0), cluster=k) for k in range(999)]
    wrong = [score(sample(rng, stated=0.01), Truth(300.0), cluster=1000 + k) for k in range(2)]
    assert faults(summarize(sound + wrong[:1])) == []
    assert faults(summarize(sound + wrong)) == ["wrong answers", "wrong but not flagged"]
    assert faults(summarize(sound + wrong), allowance=2.0) == []


def test_few_seeds_do_not_condemn():
    rng = np.random.default_rng(5)
    scores = [score(replace(sample(rng), value=100.1), Truth(100.0), cluster=k) for k in range(3)]
    assert faults(summarize(scores)) == ["errors too large"]
    assert faults(summarize(scores), allowance=2.0) == []


def test_whole_answers_that_all_agree_are_not_errors_too_large():
    one = Estimate("steps", "steps", "steps", 41.0, 0.3, 40.0, 42.0, FREEDOM, whole=True)
    found = summarize([score(one, Truth(41.0), cluster=k) for k in range(50)])
    assert found.rms_z == 0.0
    assert faults(found) == []


# ---------------------------------------------------------------------------------------------------------- reading


def test_an_answer_without_intervals_is_read_by_students_t():
    answer = xr.Dataset({"steps": 50.0, "steps_stderr": 2.0, "at_edge": True})
    found = read(answer, "steps", quantity="steps", kind="steps", freedom=3, whole=True)
    assert (found.low, found.high) == pytest.approx((50 - 2 * T_95, 50 + 2 * T_95))
    assert (found.flags, found.freedom) == (1, 3)


def test_an_answer_says_its_interval_freedom_and_flags():
    answer = xr.Dataset(
        {
            "lr": 0.5,
            "lr_stderr": 0.01,
            "lr_interval": ("bound", [0.4, 0.7]),
            "flags": 0,
            "at_edge": True,
            "lr_freedom": 11,
        },
        coords={"bound": ["low", "high"]},
    )
    found = read(answer, "lr", quantity="lr", kind="rate", freedom=3)
    assert (found.low, found.high, found.freedom, found.flags) == (0.4, 0.7, 11, 0)
    by_attribute = answer.drop_vars("lr_freedom").assign_attrs(freedom=5)
    assert read(by_attribute, "lr", quantity="lr", kind="rate", freedom=3).freedom == 5


def test_a_fit_is_read_from_the_ends_of_its_interval():
    answer = xr.Dataset({"B_crit": 100.0, "B_crit_low": 50.0, "B_crit_high": 200.0})
    found = read_fit(answer, "B_crit", kind="trade-off", logarithmic=True, flags=0)
    assert score(found, Truth(50.0)).z == pytest.approx(1.959964, rel=1e-6)
    assert score(found, Truth(50.0)).covered_95
    unknown = read_fit(answer.assign(B_crit_low=0.0), "B_crit", kind="trade-off", logarithmic=True, flags=0)
    assert math.isnan(unknown.stderr)


def test_defaults_are_those_of_users():
    assert default_of(mcnqm.steps_to_target, "replicates") == 16


# ----------------------------------------------------------------------------------------------------------- truths


def test_crossings_are_interpolated_in_the_logarithm():
    record = np.array([0, 10, 20])
    mean = np.array([[8.0, 2.0, 0.5], [8.0, 4.0, 2.0], [0.5, 8.0, 8.0]])
    assert truths._crossing(record, mean, 1.0) == pytest.approx([15.0, math.inf, 0.0])


def test_plain_trajectories_find_the_exact_steps():
    """Within four of their standard errors; half the learning rate must be seen."""
    problem, sgd = mcnqm.NoisyQuadratic.power_law(20), mcnqm.SGD(lr=0.3, momentum=0.5)
    found = truths.plain_steps(problem, sgd, 32, 0.2, 100, 4096, stream=0)
    exact = float(mcnqm.analytic.steps_to_target(problem, sgd, 32, 0.2).steps)
    assert abs(found.nearest(exact) - exact) < 4 * found.stderr + 1
    slower = truths.plain_steps(problem, sgd._replace(lr=0.15), 32, 0.2, 100, 4096, stream=0)
    assert abs(slower.value - exact) > 4 * slower.stderr + 1


def test_right_rates_are_those_of_the_fewest_whole_steps():
    problem, sgd = mcnqm.NoisyQuadratic.power_law(20), mcnqm.SGD(lr=1.0)
    steps, rate = truths.best_rate(problem, sgd, 256, 0.1, (0.1, 2.0))
    rates = np.geomspace(0.1, 2.0, 800)
    needed = mcnqm.analytic.steps_to_target(problem, sgd._replace(lr=rates), 256, 0.1).steps.values
    assert steps.value == needed.min()
    inside = np.array([rate.nearest(r) == r for r in rates])
    assert (inside == (needed == needed.min())).mean() > 0.998  # but for rates at the very ends of a run
    assert rate.meets(rate.value, rate.value)


# ------------------------------------------------------------------------------------------------- cells and storage


def test_cells_are_told_apart():
    names = [(cell.group, cell.label) for cell in CELLS]
    assert len(set(names)) == len(names) >= 60
    seeds = [seed_of(cell, 0) for cell in CELLS]
    assert np.diff(np.sort(seeds)).min() >= 2**20, "cells must not share seeds"
    assert max(seeds) + 2**20 < truths._STREAM, "nor with truths"
    assert [CELLS[k].dim for k in chosen("tune,*d=1000")] == [1000] * len(chosen("tune,*d=1000")) != []
    large = next(cell for cell in CELLS if cell.dim == 1000)
    assert len(seeds_of(large, 200, 0)) == 40


@dataclass(frozen=True)
class Synthetic:
    """A cell whose estimator is known."""

    stated: float = 1.0
    group: str = "synthetic"
    dim: int = 1

    @property
    def label(self):
        return f"stated={self.stated:g}"

    def measure(self, seed):
        return [sample(np.random.default_rng(seed), stated=self.stated)]


def filled(folder, cells, count=200):
    store = Store(folder, key="k")
    for cell in cells:
        store.keep_truths(cell, {"steps": Truth(100.0)}, 0.0)
        for part in store.missing(cell, range(count)):
            store.keep(cell, [Answer(k, cell.measure(seed_of(cell, k)), 0.25, False) for k in part])
    return store


def test_the_report_tells_good_from_bad(tmp_path):
    good, bad = Synthetic(), Synthetic(stated=0.5)
    store = filled(tmp_path, [good, bad])
    _, cells = lines_of([good, bad], store)
    assert [line.faults for line in cells] == [[], ["errors too small", "coverage"]]
    groups, _ = lines_of([good], store)
    assert [line.faults for line in groups] == [[]]
    page = markdown(groups, cells, store.key, "commit abc", 200)
    assert "| stated=0.5 | steps | 200 |" in page
    assert "sources `k` (commit abc)" in " ".join(page.split())


def test_what_is_stored_is_read_back_and_continued(tmp_path):
    cell = Synthetic()
    store = Store(tmp_path, key="k")
    one = replace(
        sample(np.random.default_rng(0)), low=-math.inf, stderr=math.nan, truth=Truth(3.0, 0.1, ((2.0, 3.0),))
    )
    store.keep(cell, [Answer(12, [one], 0.5, True)])
    (back,) = store.answers(cell)
    assert repr(back) == repr(Answer(12, [one], 0.5, True))  # NaN equals NaN
    assert store.missing(cell, range(5, 15)) == [[5, 6, 7, 8, 9], [10, 11, 13, 14]]
    store.keep(cell, [Answer(11, [one], 0.5, False)])
    assert [a.seed for a in store.answers(cell)] == [11, 12]
    assert Store(tmp_path, key="other").answers(cell) == []
    assert Store(tmp_path, key="other").others() == ["k"]
    assert store.answers(Synthetic(stated=2.0)) == []


def test_the_key_is_of_what_code_does(tmp_path, monkeypatch):
    monkeypatch.setattr("calibration.store._PACKAGE", tmp_path)
    path = tmp_path / "a.py"

    def key(text):
        path.write_text(text)
        return _key([path])

    plain = key("def f(x):\n    return x + 1\n")
    assert key('"""Says."""\n\ndef f(x):\n    """Add."""\n    return x + 1  # one\n') == plain
    assert key("def f(x):\n    return x + 2\n") != plain


def test_stored_files_are_plain_json(tmp_path):
    filled(tmp_path, [Synthetic()], count=3)
    (path,) = (tmp_path / "answers-k").rglob("*.json")
    assert [plain["seed"] for plain in json.loads(path.read_text())] == [0, 1, 2]
