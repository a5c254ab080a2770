"""Self-checks: each flag is raised by what it is for, by nothing else, and shown wherever answers are."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

import mcnqm
from mcnqm import SGD, NoisyQuadratic
from mcnqm.cli.scaling import _show_cells
from mcnqm.cli.simulate import _show
from mcnqm.files import write_dataset
from mcnqm.flags import Flag, explanations, flag_attrs
from mcnqm.studies.comparison import compare
from mcnqm.tuning.checks import check_bound, check_sample, check_theory
from mcnqm.tuning.line import search_line
from mcnqm.tuning.routes import Found
from mcnqm.tuning.search import Tuned, confirmed
from mcnqm.tuning.searches import checked
from mcnqm.tuning.surface import search_surface

PROBLEM = NoisyQuadratic.power_law(50)
SOUND = Tuned({"lr": 0.1}, {"lr": 0.01}, 100.0, 2.0, False, {"lr": (0.08, 0.12)}, (96.0, 104.0), 15)


@pytest.mark.parametrize(
    ("steps", "stderr", "theory", "exact", "flagged"),
    [
        (100, 1.0, 100, True, False),
        (100, 30.0, 112, True, True),  # by more than a tenth, however large the error
        (1000, 1.0, 1030, True, True),  # within it, but not by chance
        (1000, 10.0, 1030, True, False),
        (12, 0.3, 13, True, False),  # a step is no difference
        (100, 1.0, 120, False, False),  # the mean field's own error
        (100, 1.0, 140, False, True),
        (np.inf, np.nan, 100, True, True),
        (100, 1.0, np.inf, False, True),
        (np.inf, np.nan, np.inf, True, False),
        (100, 1.0, np.nan, True, False),
    ],
)
def test_theory(steps, stderr, theory, exact, flagged):
    found = int(check_theory(steps, stderr, 15, theory, exact=exact))
    assert found == (Flag.DISAGREES_WITH_THEORY if flagged else 0)


def test_slack_is_for_what_a_search_leaves():
    assert int(check_theory(1000, 1.0, 15, 1030, exact=True, slack=0.03)) == 0
    assert int(check_theory(1000, 1.0, 15, 1130, exact=True, slack=0.03)) == Flag.DISAGREES_WITH_THEORY


def test_bound():
    """No method is at the target with fewer examples than the Bayes bound asks for."""
    target = 0.05
    examples = np.arange(1, 5000.0)
    least = examples[(mcnqm.analytic.bayes_bound(PROBLEM, examples).risk.values <= target).argmax()]
    assert check_bound(PROBLEM, 1.0, target, least - 1) == Flag.BELOW_BOUND
    assert check_bound(PROBLEM, 1.0, target, least) == 0
    assert check_bound(PROBLEM, 10.0, target, least / 10) == 0
    assert check_bound(PROBLEM, 1.0, target, np.inf) == 0


@pytest.mark.parametrize(
    ("steps", "stderr", "last", "effective", "flags"),
    [
        (100, 10, 120, 5.0, 0),
        (100, 10, 120, 1.5, Flag.FEW_EFFECTIVE_TRAJECTORIES),
        (100, 1, 102, 1.5, 0),  # of a small error nothing is asked
        (100, np.nan, 120, 5.0, Flag.UNCERTAIN_PASSAGE),
        (100, 10, np.inf, 5.0, Flag.UNCERTAIN_PASSAGE),
        (np.inf, np.nan, np.nan, np.nan, 0),
        (0, 0, 0, 16, 0),
    ],
)
def test_sample(steps, stderr, last, effective, flags):
    assert int(check_sample(steps, stderr, last, effective)) == flags


def fresh(steps, last):
    """What 16 replicates found on fresh noise."""
    return Found(np.full((1, 17), float(steps)), np.array([[steps - 2.0, last]]), np.array([5.0]))


def test_a_winner_that_fresh_noise_does_not_confirm():
    kept = confirmed(PROBLEM, 64.0, 0.5, SOUND, fresh(104, 108.0))
    assert (kept.steps, kept.flags) == (104.0, 0)
    assert kept.steps_interval == (101.0, 108.0)
    lost = confirmed(PROBLEM, 64.0, 0.5, SOUND, fresh(150, 155.0))
    assert lost.steps == 150.0, "what fresh noise says is what is reported"
    assert lost.flags == Flag.UNCONFIRMED
    never = Found(np.full((1, 17), np.inf), np.full((1, 2), np.nan), np.array([np.nan]))
    for slack in (0.0, 0.05):
        lost = confirmed(PROBLEM, 64.0, 0.5, SOUND, never, slack=slack)
        assert lost.flags & Flag.UNCONFIRMED
        assert np.isinf(lost.steps)
        assert np.isnan(lost.steps_error)


def test_where_the_interval_of_a_tuned_answer_begins():
    plain = confirmed(PROBLEM, 64.0, 0.5, SOUND, fresh(100, 104.0))
    slack = confirmed(PROBLEM, 64.0, 0.5, SOUND, fresh(100, 104.0), slack=0.05)
    lowest = confirmed(PROBLEM, 64.0, 0.5, SOUND, fresh(100, 104.0), lowest=80.0)
    assert plain.steps_interval[0] > slack.steps_interval[0] > lowest.steps_interval[0] == 80.0
    assert plain.steps_error < min(slack.steps_error, lowest.steps_error)


def test_edges_and_theory_of_a_search():
    assert checked(SOUND, None, exact=True).flags == 0
    assert checked(replace(SOUND, at_edge=True), None, exact=True).flags == Flag.AT_EDGE
    assert checked(SOUND, replace(SOUND, steps=150.0), exact=True).flags == Flag.DISAGREES_WITH_THEORY


def test_a_limit_on_steps_is_no_disagreement():
    late = replace(SOUND, steps=np.inf, steps_error=np.nan)
    assert checked(late, replace(SOUND, steps=150.0), exact=True, max_steps=120).flags == 0
    assert checked(late, replace(SOUND, steps=150.0), exact=True, max_steps=200).flags == Flag.DISAGREES_WITH_THEORY
    best = mcnqm.tune(
        NoisyQuadratic.power_law(20), SGD(0.1), {"lr": (0.01, 1.0)}, batch_size=4, target=0.05, max_steps=30
    )
    assert np.isinf(best.steps)
    assert not int(best.flags)


def test_a_target_that_theory_says_is_never_reached():
    """Its steady state is 3 % above the target: what seems to reach it is a fluctuation, and is said to be."""
    problem = NoisyQuadratic.power_law(20)
    target = 0.97 * float(mcnqm.analytic.steady_state(problem, SGD(0.3), 16).risk)
    for seed in range(6):
        found = mcnqm.steps_to_target(
            problem, SGD(0.3), 16, target, trajectories=1, replicates=4, max_steps=5000, seed=seed
        )
        assert np.isinf(found.steps) or int(found.flags) & Flag.DISAGREES_WITH_THEORY


def test_a_setting_given_up_beside_one_that_goes_on():
    """Intervals are taken from where it ran, without a warning; as it would be alone."""
    problem, lr = NoisyQuadratic.power_law(20), [0.3, 0.002]
    target = 0.85 * float(mcnqm.analytic.steady_state(problem, SGD(0.3), 16).risk)
    for seed in range(12):
        options = {"trajectories": 1, "replicates": 6, "max_steps": 20_000, "seed": seed}
        both = mcnqm.steps_to_target(problem, SGD(lr), 16, target, **options)
        alone = mcnqm.steps_to_target(problem, SGD(lr[0]), 16, target, **options)
        assert np.array_equal(both.steps_interval[0], alone.steps_interval, equal_nan=True)


@pytest.mark.parametrize("method", ["simulate", "analytic"])
def test_no_edge_where_every_value_will_do(method):
    """The target is above the start."""
    best = mcnqm.tune(
        NoisyQuadratic.power_law(20), SGD(0.1), {"lr": (0.01, 1.0)}, batch_size=64, target=50.0, method=method
    )
    assert float(best.steps) == 0
    assert not int(best.flags)
    assert 0.005 < float(best.lr) < 2


def asked(search, answers):
    """Run a search on made-up answers, and return what it says in the end."""
    query = next(search)
    try:
        while True:
            query = search.send(answers(query))
    except StopIteration as end:
        return end.value


def test_a_neighbor_that_does_not_arrive_is_no_reason_to_leave_the_winner():
    """The winner is as safe as any; of its neighbors one is lucky and one does not arrive on fresh noise."""

    class Scripted:
        problem, batch_size, target, exact, sampled = PROBLEM, 64.0, 0.5, False, True

    def answers(query):
        place = np.log(query.candidates["lr"])
        steps = 300.0 * (1 + (place - np.log(0.1)) ** 2)
        if query.fresh:
            steps[1], steps[-1] = 0.95 * steps[1], np.inf
        found = np.repeat(steps[:, np.newaxis], 17, axis=1)
        interval = np.where(np.isfinite(steps), [steps - 5, steps + 5], np.nan).T
        return Found(found, interval, np.full(steps.size, 8.0))

    best = asked(search_line(Scripted(), SGD(1.0), "lr", (0.08, 0.125), 300.0, guided=True), answers)
    assert best.steps == pytest.approx(300, abs=2)
    assert best.values["lr"] == pytest.approx(0.1, rel=0.02)


def test_a_search_whose_finalists_fail_on_fresh_noise():
    """A part of the sample does not arrive, on any of them: nothing is claimed, and nothing overflows."""

    class Scripted:
        problem, batch_size, target, exact, sampled = PROBLEM, 64.0, 0.5, False, True

    def answers(query):
        place = np.stack([np.log(query.candidates["lr"]), query.candidates["momentum"]])
        found = np.repeat((300.0 * (1 + (place**2).sum(axis=0)))[:, np.newaxis], 9, axis=1)
        found[:, -1] = np.inf if query.fresh else found[:, -1]
        return Found(found, np.full((found.shape[0], 2), np.nan), np.full(found.shape[0], np.nan))

    search = {"lr": (0.1, 10.0), "momentum": (0.0, 0.9)}
    best = asked(search_surface(Scripted(), SGD(1.0), search, 0, 300.0), answers)
    assert np.isinf(best.steps)


def test_flags_are_told_by_the_cf_conventions(tmp_path):
    found = mcnqm.steps_to_target(PROBLEM, SGD([0.2, 0.3]), 64, 0.1)
    write_dataset(found, tmp_path / "found.nc")
    with xr.open_dataset(tmp_path / "found.nc") as back:
        xr.testing.assert_equal(back.load(), found)
        assert back.flags.attrs["flag_meanings"] == flag_attrs()["flag_meanings"]
        assert back.flags.attrs["flag_masks"].tolist() == [flag.value for flag in Flag]
    assert len(flag_attrs()["flag_meanings"].split()) == len(Flag)


def test_every_flag_has_a_line():
    assert len(explanations([int(sum(Flag))])) == len(Flag)
    assert all(len(line) < 78 for line in explanations([int(sum(Flag))]))


def text_of(show, data):
    console = Console(file=io.StringIO(), width=100, highlight=False)
    show(data, console)
    return console.file.getvalue()


def test_tables_mark_what_is_flagged():
    runs = compare(PROBLEM, {"sgd": SGD(0.1)}, 16, 100, trajectories=8)
    assert "!" not in text_of(_show, runs)
    runs["flags"][..., -1] = int(Flag.FEW_EFFECTIVE_TRAJECTORIES)
    shown = text_of(_show, runs)
    assert shown.count("!") == 2
    assert "! few_effective_trajectories:" in shown
    both = ("optimizer", "batch_size")
    study = xr.Dataset(
        {name: (both, np.array([[100.0, 50.0]])) for name in ("steps", "steps_stderr", "effective_lr")}
        | {"at_edge": (both, [[False, False]]), "flags": (both, [[0, int(Flag.UNCONFIRMED)]])},
        coords={"optimizer": ["sgd"], "batch_size": [1.0, 2.0]},
        attrs={"target": 0.1},
    )
    shown = text_of(_show_cells, study)
    assert "50 ± 50!" in shown
    assert "100 ± 100!" not in shown
    assert "! unconfirmed:" in shown
