"""A slice of the calibration harness: what is estimated from samples knows its own errors.

``scripts/calibrate.py`` measures all cells with 200 seeds; here are those whose right answers are cheap, with 100, in
some three minutes on two cores. Seeds are others than the harness takes by default.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
pytest.importorskip("calibration", reason="scripts are not part of a source distribution")

from calibration.cells import CELLS
from calibration.report import judged, lines_of, scores_of
from calibration.scores import faults, summarize
from calibration.store import Store
from calibration.work import chosen, run

ALLOWED = 5.0
"""Standard errors by which a group may miss a criterion. A group that just meets one fails its test with a probability
of 3e-7, by the normal approximation; one test makes five such comparisons for each of some twelve groups: 2e-5."""

SEEDS, FIRST = 100, 100_000

SLICE = (
    "simulate, linear*d=100 ",
    "simulate, adaptive*beta1=0.9062*",
    "simulate, adaptive*rmsprop*d=100 ",
    "simulate, adaptive*d=20 ",
    "steps, linear*d=100 ",
    "steps, linear*d=20 ",
    "steps, adaptive*d=20 ",
    "steps, adaptive*d=100 b=65536",
    "steps, adaptive*rmsprop",
    "tune, linear*d=100 ",
    "tune, linear*d=20 ",
    "tune, adaptive*d=100 b=256",
    "tune two, linear",
    "scaling, linear*nesterov",
)


CAREFUL = {"errors too large", "flagged though sound"}
"""Misses on the safe side that docs/calibration.md reports: confirmed winners and flat optima have errors that are too
large, and fits inherit the flags of their points."""

KNOWN = {
    "simulate, adaptive": {"wrong answers", "wrong but not flagged", "errors too small", "flagged though sound"},
    "steps, adaptive": {"flagged though sound"},
    "tune, linear": CAREFUL,
    "tune, adaptive": CAREFUL,
    "tune two, linear": CAREFUL,
    "scaling, linear": CAREFUL,
}
"""What is known not to be met, by group. The first: the standard error of Adam's risk where a few far starts carry it;
its intervals cover, and that they do is asked of it as of all."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    assert run(folder, cells(), SEEDS, FIRST, workers=2, console=Console(stderr=True))
    return Store(folder)


def cells():
    return sorted({k for pattern in SLICE for k in chosen(pattern)})


@pytest.mark.slow
def test_groups_meet_the_criteria(store):
    """False alarms: 2e-5."""
    groups, _ = lines_of([CELLS[k] for k in cells()], store)
    assert len(groups) >= 8
    failed = {
        f"{x.group}, {x.line}": (found, x.summary)
        for x in groups
        if (found := set(judged(x.line, x.summary, ALLOWED)) - KNOWN.get(x.group, set()))
    }
    assert not failed, "\n".join(f"{name}: {why}" for name, why in failed.items())


@pytest.mark.slow
def test_no_warning_reaches_a_user(store):
    assert [CELLS[k].label for k in cells() if any(a.warned for a in store.answers(CELLS[k]))] == []


@pytest.mark.slow
def test_errors_half_as_large_would_be_seen(store):
    """Negative control: the same answers with half their errors, in every group of steps and risks."""
    for group in ("simulate, linear", "steps, linear"):
        scores = []
        for cell in (CELLS[k] for k in cells() if CELLS[k].group == group):
            halved = [replace(a, estimates=[_narrow(e) for e in a.estimates]) for a in store.answers(cell)]
            scores += [one for _, _, one in scores_of(cell, store, halved)]
        assert "errors too small" in faults(summarize(scores), ALLOWED)


def _narrow(estimate):
    half = {"low": (estimate.value + estimate.low) / 2, "high": (estimate.value + estimate.high) / 2}
    return replace(estimate, stderr=estimate.stderr / 2, **half)
