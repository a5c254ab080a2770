"""``scripts/compare_results.py`` sees a bit of a simulated result, and a digit of a closed form."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare_results.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the source distribution has no scripts")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_results", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("simulated", [True, False])
def test_equal_results_are_the_same(script, simulated):
    values = np.array([1.0, np.nan, np.inf])
    assert script.difference(values, values.copy(), simulated) == ""


def test_a_bit_counts_where_results_are_simulated(script):
    old = np.array([1.0, np.nan, np.inf])
    new = np.array([np.nextafter(1.0, 2.0), np.nan, np.inf])
    assert script.difference(old, new, True).startswith("relative difference 2.2e-16")
    assert script.difference(old, new, False) == ""
    assert script.difference(old, old * (1 + 1e-11), False).startswith("relative difference 1.0e-11")


@pytest.mark.parametrize("new", [np.array([1.0, 2.0, np.inf]), np.array([1.0, np.nan, 2.0]), np.array([1.0, np.nan])])
def test_other_kinds_of_values_and_shapes_are_seen(script, new):
    assert script.difference(np.array([1.0, np.nan, np.inf]), new, False)
    assert script.difference(np.array(["a", "b"]), np.array(["a", "c"]), False) == "other values"


def test_the_table_has_calls_of_both_kinds(script):
    table = script.calls()
    assert sum(simulated for simulated, _ in table.values()) > 20
    assert sum(not simulated for simulated, _ in table.values()) > 15
