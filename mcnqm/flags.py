"""Self-checks of estimates: what may be wrong with an answer, as bits beside it."""

from __future__ import annotations

from enum import IntFlag
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["Flag", "explanations", "flag_attrs"]


class Flag(IntFlag):
    """What a check found. A value without flags passed all checks that its method has."""

    FEW_EFFECTIVE_TRAJECTORIES = 1
    """A few trajectories carry the spread of all, so that neither the estimate nor its error is reliable."""
    DISAGREES_WITH_THEORY = 2
    """The exact value, or the mean field's within its validity, is another."""
    BELOW_BOUND = 4
    """The target is reached with fewer examples than any method needs (the Bayes bound)."""
    UNCONFIRMED = 8
    """The winner of a search, simulated again on fresh noise, is worse than the search said."""
    AT_EDGE = 16
    """The best lies at an edge of the search, even after widening."""
    UNCERTAIN_PASSAGE = 32
    """Part of the sample says that the target is not reached, or much later: the risk barely touches it."""


_MEANINGS = {
    Flag.FEW_EFFECTIVE_TRAJECTORIES: "a few carry the spread of all: take more",
    Flag.DISAGREES_WITH_THEORY: "theory says otherwise, beyond its stated validity",
    Flag.BELOW_BOUND: "fewer examples than any method needs",
    Flag.UNCONFIRMED: "fresh noise does not confirm what the search found",
    Flag.AT_EDGE: "the best lies at an edge of the search",
    Flag.UNCERTAIN_PASSAGE: "part of the sample does not reach the target",
}


def flag_attrs() -> dict[str, Any]:
    """Attributes of a variable of flags, by the CF conventions: ``flag_masks`` and ``flag_meanings``.

    Examples
    --------
    >>> flag_attrs()["flag_meanings"].split()[:2]
    ['few_effective_trajectories', 'disagrees_with_theory']
    """
    return {
        "long_name": "self-checks that failed",
        "flag_masks": np.array([flag.value for flag in Flag], dtype=np.int32),
        "flag_meanings": " ".join(str(flag.name).lower() for flag in Flag),
    }


def explanations(flags: xr.DataArray | Any) -> list[str]:
    """One line for each flag that is set anywhere, for tables.

    Examples
    --------
    >>> explanations([0, 16])
    ['at_edge: the best lies at an edge of the search']
    """
    seen = int(np.bitwise_or.reduce(np.asarray(flags, dtype=np.int64), axis=None))
    return [f"{str(flag.name).lower()}: {text}" for flag, text in _MEANINGS.items() if seen & flag]
