"""Which cases of a long list run by default; all of them run with ``-m "slow or not slow"``, as CI does."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def mostly_slow(cases: Iterable, *quick) -> list:
    """All cases, those that are not among the `quick` marked as slow."""
    marked = [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
    assert set(quick) <= set(cases)
    return marked
