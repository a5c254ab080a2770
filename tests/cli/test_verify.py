"""`mcnqm verify`: what its exit code says."""

from __future__ import annotations

import functools

import pytest
from command_line import in_this_process

from mcnqm import analytic, comparison
from mcnqm.cli import verify

QUICK = "mcnqm verify -o 'sgd lr=0.1' -o 'sgd lr=0.05 momentum=0.9' -d 20 -n 50 -r 64 -b 4"


def test_agreement_is_0(monkeypatch, capsys):
    code, out, _ = in_this_process(monkeypatch, capsys, QUICK)
    assert code == 0
    assert "2 of 2 agree" in out


@pytest.mark.parametrize("wrong", ["first", "second"])
def test_one_disagreement_among_several_is_1(monkeypatch, capsys, wrong):
    def off(problem, optimizer, *args, **options):
        found = analytic.moments(problem, optimizer, *args, **options)
        if (float(optimizer.momentum) > 0) == (wrong == "second"):
            found["theta_variance"] = 1.5 * found["theta_variance"]
        return found

    theory = comparison.EXACT._replace(moments=off)
    monkeypatch.setattr(verify, "agreement", functools.partial(comparison.agreement, theory=theory))
    code, out, _ = in_this_process(monkeypatch, capsys, QUICK)
    assert code == 1
    assert "1 of 2 agree" in out
    assert out.count("DISAGREE") == 1
