"""All claims, by id, and the measurement of many in one go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from mcnqm.claims import adam, batch, landscapes, linear, lines, pending, rates, schedules
from mcnqm.claims.claim import FAMILY, Claim
from mcnqm.claims.lab import Lab
from mcnqm.errors import ParameterError
from mcnqm.progress import Meter, NoMeter
from mcnqm.statistics import BOUNDS

__all__ = ["all_claims", "get", "measure_all", "records", "summary"]

_CLAIMS: tuple[Claim, ...] = tuple(
    one for theme in (linear, batch, rates, schedules, lines, adam, landscapes, pending) for one in theme.CLAIMS
)
if len(_CLAIMS) > FAMILY:
    raise AssertionError(f"the error rate is shared by {FAMILY} claims, and there are {len(_CLAIMS)}")


def all_claims() -> tuple[Claim, ...]:
    """Every claim of the ledger, by theme, those still open at the end.

    Examples
    --------
    >>> import mcnqm
    >>> len({claim.id for claim in mcnqm.claims.all()}) == len(mcnqm.claims.all())
    True
    """
    return _CLAIMS


def get(id: str) -> Claim:
    """The claim of an id.

    Parameters
    ----------
    id : str

    Raises
    ------
    ParameterError
        If there is none.

    Examples
    --------
    >>> import mcnqm
    >>> mcnqm.claims.get("lr-sqrt-adam").statement
    'The best rate of true Adam is proportional to sqrt(B) at very small batches.'
    """
    for one in _CLAIMS:
        if one.id == id:
            return one
    raise ParameterError("id", id, f"be one of {', '.join(one.id for one in _CLAIMS)}")


def measure_all(lab: Lab, claims: Sequence[Claim] = _CLAIMS, *, meter: Meter | None = None) -> dict[str, xr.Dataset]:
    """Measure claims one after the other in one lab, with progress over all; by id.

    Parameters
    ----------
    lab : Lab
        With a checkpoint, what is finished survives an interruption, and the next call continues from there.
    claims : sequence of Claim
    meter : Meter, optional
        Told of the expected seconds done.
    """
    meter = NoMeter() if meter is None else meter
    meter.start(sum(one.cost for one in claims), "claims")
    found = {}
    try:
        for one in claims:
            found[one.id] = one.measure(lab=lab)
            meter.advance(one.cost)
    finally:
        meter.close()
    return found


def summary(found: dict[str, xr.Dataset]) -> xr.Dataset:
    """Verdicts and effects of many claims in one table.

    Parameters
    ----------
    found : dict of str to Dataset
        By id, from `measure_all`.

    Returns
    -------
    xarray.Dataset
        Over ``claim``: ``verdict``, ``because``, ``statement``, ``source``, ``theme``. Over ``row``, one for each
        effect: ``of`` (the id), ``effect``, ``regime``, ``estimate``, and ``interval`` and ``allowed`` (row, bound).
    """
    claims = [get(id_) for id_ in found]
    verdicts = [one.verdict(found[one.id]) for one in claims]
    rows = [(one.id, found[one.id].isel(effect=k)) for one in claims for k in range(found[one.id].sizes["effect"])]
    texts = {
        "verdict": [str(verdict) for verdict in verdicts],
        "because": [verdict.because for verdict in verdicts],
        "statement": [one.statement for one in claims],
        "source": [one.source for one in claims],
        "theme": [one.theme for one in claims],
    }
    data: dict[str, tuple[object, ...]] = {name: ("claim", np.array(words)) for name, words in texts.items()}
    data["of"] = ("row", np.array([id_ for id_, _ in rows], dtype=np.str_))
    for name in ("effect", "regime"):
        data[name] = ("row", np.array([str(row[name].values) for _, row in rows], dtype=np.str_))
    data["estimate"] = ("row", np.array([float(row["estimate"]) for _, row in rows]))
    for name in ("interval", "allowed"):
        data[name] = (("row", "bound"), np.array([row[name].values for _, row in rows]).reshape(-1, 2))
    some = next(iter(found.values())).attrs
    kept = {name: some[name] for name in ("mcnqm_version", "seed", "config", "error_rate", "family", "method")}
    return xr.Dataset(data, coords={"claim": list(found), "bound": list(BOUNDS)}, attrs=kept)


def records(found: dict[str, xr.Dataset]) -> list[dict[str, Any]]:
    """All that is known of each claim in plain types, for JSON and for pages; what is not finite is None.

    Parameters
    ----------
    found : dict of str to Dataset
        By id, from `measure_all`.

    Returns
    -------
    list of dict
        ``id``, ``theme``, ``source``, ``statement``, ``measured``, ``rule``, ``verdict``, ``because``;
        ``effects``, each with ``name``, ``regime``, ``estimate``, ``interval``, ``allowed`` and ``outcome`` ("holds",
        "fails", "undecided"); ``curves``, each with ``name``, ``x`` and ``y``, and ``axes``.
    """
    made = []
    for id_, data in found.items():
        claim = get(id_)
        verdict = claim.verdict(data)
        effects = [
            {
                "name": str(row["effect"].values),
                "regime": str(row["regime"].values),
                "estimate": _finite(float(row["estimate"])),
                "interval": [_finite(x) for x in row["interval"].values.tolist()],
                "allowed": [_finite(x) for x in row["allowed"].values.tolist()],
                "outcome": one.outcome(*row["interval"].values.tolist()),
            }
            for one, row in zip(claim.effects, (data.isel(effect=k) for k in range(data.sizes["effect"])), strict=True)
        ]
        curves = [
            {
                "name": str(series["series"].values),
                "x": [_finite(x) for x in series["x"].values.tolist() if not math.isnan(x)],
                "y": [_finite(y) for y in series["y"].values[: int(series["x"].notnull().sum())].tolist()],
            }
            for series in (data.isel(series=k) for k in range(data.sizes["series"]))
        ]
        made.append(
            {
                "id": id_,
                "theme": claim.theme,
                "source": claim.source,
                "statement": claim.statement,
                "measured": claim.measured,
                "rule": claim.rule,
                "control_law": claim.control_law,
                "verdict": str(verdict),
                "because": verdict.because,
                "effects": effects,
                "axes": [data.attrs["x_label"], data.attrs["y_label"]],
                "curves": curves,
            }
        )
    return made


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
