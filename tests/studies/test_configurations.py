"""What decides a study's numbers is compared before its finished parts are used again: every field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from command_line import in_this_process

from mcnqm import NoisyQuadratic, ParameterError
from mcnqm._version import __version__
from mcnqm.checkpoint import Checkpoint
from mcnqm.claims.lab import FULL as LEDGER
from mcnqm.claims.lab import Lab
from mcnqm.problems import Problem
from mcnqm.studies.contenders import CONTENDERS, Contender
from mcnqm.studies.line_search import LineSearchConfig
from mcnqm.studies.mean_field import MeanFieldConfig
from mcnqm.studies.minima import MinimaConfig
from mcnqm.studies.paper import FULL as PAPER
from mcnqm.studies.paper import Work
from mcnqm.studies.regimes import RegimesConfig
from mcnqm.studies.scaling import ScalingConfig

STUDIES = [ScalingConfig, MeanFieldConfig, MinimaConfig, RegimesConfig, LineSearchConfig]


def other(value: Any) -> Any:
    """Another value of the same kind, near enough to be allowed wherever the first one is."""
    if isinstance(value, Problem):
        return NoisyQuadratic.power_law(value.dim + 1)
    if isinstance(value, Contender):
        return CONTENDERS["lion"]
    if isinstance(value, Mapping):
        return {label: other(one) for label, one in value.items()}
    if isinstance(value, tuple):
        return (*value[:-1], other(value[-1]))
    assert isinstance(value, (int, float)), value
    return value + 1 if isinstance(value, int) else value * 1.001


def changed(config: Any) -> list[tuple[str, Any]]:
    """The same configuration with one field changed, for every field."""
    assert is_dataclass(config)
    return [
        (field.name, replace(config, **{field.name: other(getattr(config, field.name))})) for field in fields(config)
    ]


@pytest.mark.parametrize("kind", STUDIES)
def test_no_field_of_a_study_is_forgotten(kind, tmp_path):
    config = kind()
    described = json.dumps(config.to_dict())
    cases = changed(config)
    assert len(cases) > 5
    for name, one in cases:
        assert json.dumps(one.to_dict()) != described, name
    with Checkpoint(tmp_path / "parts", config.to_dict()):
        pass
    for _, one in cases:
        with pytest.raises(ParameterError, match="parts"), Checkpoint(tmp_path / "parts", one.to_dict()):
            pass


@pytest.mark.parametrize(("place", "field", "budget"), [(Lab(), "budget", LEDGER), (Work(), "scale", PAPER)])
def test_no_field_of_a_budget_is_forgotten(place, field, budget):
    for start in (getattr(place, field), budget):
        described = json.dumps(replace(place, **{field: start}).config())
        for name, one in changed(start):
            assert json.dumps(replace(place, **{field: one}).config()) != described, name
    assert json.dumps(replace(place, seed=1).config()) != json.dumps(place.config())


def test_parts_of_another_version_are_not_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with Checkpoint("minima.nc.parts", {"study": "minima", **MinimaConfig().to_dict(), "mcnqm_version": "0.0.1"}):
        pass
    code, _, err = in_this_process(monkeypatch, capsys, "mcnqm study minima --output minima.nc")
    assert code == 2
    assert "mcnqm_version" in err
    assert __version__ in err
