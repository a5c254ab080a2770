"""The ledger: every claim's rule, and for every claim a control whose verdict must differ."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm.checkpoint import Checkpoint
from mcnqm.claims import Budget, Lab, measure_all, summary
from mcnqm.claims.claim import FAMILY
from mcnqm.claims.ledger import records
from mcnqm.studies.cells import Cells

MEASURED = [claim for claim in mcnqm.claims.all() if not claim.open]
CHEAP = (
    "momentum-steady",
    "momentum-transient",
    "precondition-steady",
    "averaging",
    "ratio-governs",
    "n-steps-one",
    "batch-equals-lr",
    "line-parabolic",
    "line-exact-search",
    "decay-equals-growth",
)
TINY = Budget(
    dim=60,
    bins=60,
    simulated_dim=60,
    small_dim=30,
    octaves=12,
    adam_batch_sizes=(1, 4, 16, 64, 256),
    pieces=10,
    replicates=8,
    trajectories=2**12,
    target=0.03,
)


def made(claim, intervals):
    """A measurement of these intervals."""
    estimates = {
        one.name: mcnqm.claims.Estimate(float(np.mean(pair)), *pair)
        for one, pair in zip(claim.effects, intervals, strict=True)
    }
    return claim._labelled(estimates, mcnqm.claims.Curves(), Lab(TINY), False)


def inside(effect):
    high = effect.high if np.isfinite(effect.high) else effect.low + 1.0
    middle = 0.5 * (effect.low + high)
    return middle, middle


def outside(effect):
    return effect.low - 2.0, effect.low - 1.0


def test_ids_are_unique_and_share_the_error_rate():
    ids = [claim.id for claim in mcnqm.claims.all()]
    assert len(set(ids)) == len(ids) <= FAMILY
    assert all(claim.statement.endswith(".") and claim.source for claim in mcnqm.claims.all())
    # Bonferroni: what all intervals together may miss.
    missed = sum((1.0 - claim.level) * len(claim.effects) for claim in MEASURED)
    assert missed <= 0.05 + 1e-12


def test_an_unknown_id_is_refused():
    with pytest.raises(mcnqm.ParameterError, match="lr-sqrt-adam"):
        mcnqm.claims.get("lr-cubic-adam")


@pytest.mark.parametrize("claim", MEASURED, ids=lambda claim: claim.id)
def test_rule_of_each_claim(claim):
    good = [inside(effect) for effect in claim.effects]
    bad = [outside(effect) for effect in claim.effects]
    wide = [(effect.low - 1.0, effect.low + 1e-9) for effect in claim.effects]
    assert claim.verdict(made(claim, good)) == "supported"
    assert claim.verdict(made(claim, bad)) == "refuted"
    assert claim.verdict(made(claim, wide)) == "undecided"
    assert claim.verdict(made(claim, [(np.nan, np.nan)] * len(good))) == "undecided"
    bounded = [k for k, effect in enumerate(claim.effects) if np.isfinite(effect.high)]
    above = [(inside(effect)[0], effect.high + 1.0) for effect in claim.effects]
    for k in bounded:  # across the upper end; beyond it
        assert claim.verdict(made(claim, [*good[:k], above[k], *good[k + 1 :]])) == "undecided"
        high = claim.effects[k].high
        beyond = claim.verdict(made(claim, [*good[:k], (high + 1.0, high + 2.0), *good[k + 1 :]]))
        assert beyond == ("qualified" if len(good) > 1 else "refuted")
    if len(good) > 1:
        verdict = claim.verdict(made(claim, [*bad[:1], *good[1:]]))
        assert verdict == "qualified"
        assert verdict.because.startswith("Holds: ")
        assert f"Fails: {claim.effects[0].name}" in verdict.because
        assert claim.verdict(made(claim, [*wide[:1], *good[1:]])) == "undecided"


def test_a_measurement_of_another_claim_or_version_is_refused():
    claim = mcnqm.claims.get("surge")
    data = made(claim, [inside(effect) for effect in claim.effects])
    with pytest.raises(mcnqm.ParameterError, match="surge"):
        mcnqm.claims.get("threshold").verdict(data)
    with pytest.raises(mcnqm.ParameterError, match="version"):
        claim.verdict(data.isel(effect=[0]))


def test_open_claims_are_listed_and_not_judged():
    claim = mcnqm.claims.get("rotation")
    data = claim.measure()
    assert data.sizes["effect"] == 0
    assert claim.verdict(data) == "open"
    assert "no problem of that kind" in claim.verdict(data).because


@pytest.mark.parametrize("name", CHEAP)
def test_control_changes_the_verdict(name):
    claim = mcnqm.claims.get(name)
    lab = Lab.of(True)
    measured = claim.measure(lab=lab)
    assert claim.verdict(measured) in ("supported", "qualified", "refuted")
    assert claim.verdict(claim.control(lab=lab)) != claim.verdict(measured)
    assert (measured.interval.sel(bound="low") <= measured.estimate).all()
    assert (measured.interval.sel(bound="high") >= measured.estimate).all()


def test_true_adam_is_measured_and_its_control_differs():
    claim, lab = mcnqm.claims.get("lr-sqrt-adam"), Lab(TINY)
    measured = claim.measure(lab=lab)
    slope, other = measured.estimate.item(), claim.control(lab=lab).estimate.item()
    assert abs(slope - 0.5) < 0.1  # six times its standard error here
    assert abs(other - 1.0) < 0.1
    assert claim.verdict(claim.control(lab=lab)) == "refuted"


@pytest.mark.slow
def test_all_controls_change_all_verdicts():
    lab = Lab.of(True)
    for claim in MEASURED:
        verdict = claim.verdict(claim.measure(lab=lab))
        assert verdict in ("supported", "qualified", "refuted"), claim.id
        assert claim.verdict(claim.control(lab=lab)) != verdict, claim.id


@pytest.mark.slow
def test_other_noise_gives_the_same_verdicts():
    """False-alarm rate 0.05 for the whole family, and twice that for two seeds."""
    simulated = ("sgd-risk", "momentum-bound", "information-bound", "ratio-governs", "lr-sqrt-adam")
    for name in (*simulated, "adam-critical-batch", "adam-is-preconditioned"):
        claim = mcnqm.claims.get(name)
        verdicts = {claim.verdict(claim.measure(lab=Lab.of(True, seed=seed))) for seed in (0, 1)}
        assert len(verdicts) == 1, name


def test_what_is_finished_survives_an_interruption(tmp_path):
    done = [0]

    def law(ask):
        done[0] += 1
        return mcnqm.claims.Found({"x": mcnqm.claims.Estimate(1.0 / 3.0, 0.3, 0.4)}, mcnqm.claims.Curves())

    def interrupted(ask):
        raise KeyboardInterrupt

    effects = (mcnqm.claims.Effect("x", "everywhere", 0.0, 1.0),)
    first = dataclasses.replace(mcnqm.claims.get("surge"), law=law, effects=effects)
    second = dataclasses.replace(first, id="other", law=interrupted)
    lab = Lab(TINY)
    with (
        pytest.raises(KeyboardInterrupt),
        Checkpoint(tmp_path / "kept", lab.config()) as kept,
    ):
        measure_all(Lab(TINY, cells=Cells(kept)), [first, second])
    with Checkpoint(tmp_path / "kept", lab.config()) as kept:
        again = measure_all(Lab(TINY, cells=Cells(kept)), [first])["surge"]
    assert done == [1]
    assert again.estimate.item() == 1.0 / 3.0
    xr.testing.assert_identical(again, first.measure(lab=Lab(TINY)))


def test_another_configuration_has_another_folder():
    assert Lab(TINY).described != Lab(TINY, seed=1).described
    assert Lab(TINY).described != Lab(dataclasses.replace(TINY, dim=61)).described


def test_summary_and_records_hold_every_effect():
    names = ("momentum-steady", "rotation")
    found = {name: mcnqm.claims.get(name).measure() for name in names}
    table = summary(found)
    assert table.claim.values.tolist() == list(names)
    assert table.verdict.values.tolist() == ["supported", "open"]
    assert table.sizes["row"] == 6
    assert set(table.of.values) == {"momentum-steady"}
    rows = records(found)
    assert [row["verdict"] for row in rows] == ["supported", "open"]
    assert all(effect["outcome"] == "holds" for effect in rows[0]["effects"])
    assert len(rows[0]["curves"][0]["x"]) == len(rows[0]["curves"][0]["y"]) == 60
