"""One page with every claim that was measured: figures, numbers and verdicts, with nothing to load from elsewhere."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from importlib.util import find_spec
from typing import Any

import xarray as xr

from mcnqm.claims.claim import RULE
from mcnqm.claims.ledger import records
from mcnqm.errors import ParameterError

__all__ = ["allowed_range", "check_templates", "claims_page", "digits"]


def check_templates(path: str) -> None:
    """Raise `ParameterError` if the template library is missing."""
    if find_spec("jinja2") is None:
        raise ParameterError("html", path, "be written with the template library: pip install 'mcnqm[report]'")


def digits(value: float | None) -> str:
    """Four significant digits; what is not finite is infinite.

    Examples
    --------
    >>> digits(0.123456), digits(12345.6), digits(None)
    ('0.1235', '12350', '∞')
    """
    if value is None:
        return "∞"
    return f"{float(f'{value:.4g}'):.15g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else f"{value:.4g}"


def allowed_range(effect: dict[str, Any]) -> str:
    """The range that a claim allows.

    Examples
    --------
    >>> allowed_range({"allowed": [0.95, 1.05]}), allowed_range({"allowed": [1.05, None]})
    ('0.95 to 1.05', '≥ 1.05')
    """
    low, high = effect["allowed"]
    return f"≥ {digits(low)}" if high is None else f"{digits(low)} to {digits(high)}"


def claims_page(found: dict[str, xr.Dataset], command: str) -> str:
    """The page, as HTML.

    Parameters
    ----------
    found : dict of str to Dataset
        By id, from `mcnqm.claims.measure_all`.
    command : str
        What was typed to get it.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - an extra

    environment = Environment(
        loader=PackageLoader("mcnqm.cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(digits=digits, allowed=allowed_range)
    claims = records(found)
    order = {theme: k for k, theme in enumerate(dict.fromkeys(one["theme"] for one in claims))}
    for one in claims:
        one["order"] = order[one["theme"]]
        if one["effects"]:
            one["picture"] = _picture(found[one["id"]])
            names = ", ".join(each["name"] for each in one["curves"])
            one["alt"] = f"{one['axes'][1]} against {one['axes'][0]}: {names}. {one['because']}"
    some = next(iter(found.values())).attrs
    budget = json.loads(some["config"])["budget"]
    counts = Counter(one["verdict"] for one in claims)
    return environment.get_template("claims.html").render(
        claims=claims,
        counts=", ".join(f"{count} {word}" for word, count in counts.items()),
        version=some["mcnqm_version"],
        seed=some["seed"],
        dim=budget["dim"],
        quick=budget["bins"] < budget["dim"],
        command=command,
        rule=RULE,
    )


def _picture(measured: xr.Dataset) -> str:
    """The claim's figure as SVG in base 64: an image of its own, so that names inside cannot collide."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second to import

    from mcnqm.plots.claims import plot_claim  # noqa: PLC0415

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mcnqm", "font.family": "sans-serif"}):
        plot_claim(measured).savefig(buffer, format="svg", metadata={"Date": None})
    return base64.b64encode(buffer.getvalue()).decode()
