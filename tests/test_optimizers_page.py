"""The recipes of ``docs/optimizers.md`` run, and its tables name every argument there is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import mcnqm

PAGE = Path(__file__).parents[1] / "docs" / "optimizers.md"
CLASSES = (
    *("SGD", "Adam", "RMSProp", "NAdam", "AdEMAMix", "Lion", "Signum"),
    *("ScheduleFreeSGD", "ScheduleFreeAdam"),
)


def rows_of(name: str) -> str:
    """First cells of the table of a class."""
    table = PAGE.read_text().split(f"| `mcnqm.{name}` |", 1)[1].split("\n\n", 1)[0]
    return " ".join(line.split("|")[1] for line in table.splitlines()[2:])


@pytest.mark.parametrize("name", CLASSES)
def test_tables_name_every_argument(name):
    fields = getattr(mcnqm, name)._fields
    assert set(fields) <= set(re.findall(r"`(\w+)`", rows_of(name)))


def test_the_recipe_of_l2_decay_is_that_of_torch():
    """Its update, called in plain Python, against ``torch.optim.Adam`` with weight_decay, line by line."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    page: dict = {"__name__": "optimizers_page"}
    exec(compile(code, str(PAGE), "exec"), page)
    p = page["AdamL2"](lr=0.01, weight_decay=0.1, eps=1e-3)
    rng = np.random.default_rng(0)
    h, theta = 1.0 / np.arange(1, 31), rng.normal(size=30)
    found, k, s = theta.copy(), (0.0,), (np.zeros(30), np.zeros(30))
    m, v = np.zeros(30), np.zeros(30)
    for step in range(1, 2001):
        noise = rng.normal(size=30)
        k, c = page["clock"](p, k)
        found, s = page["adam_l2"](p, c, h * found + noise, found, s)
        grad = h * theta + noise
        grad = grad + 0.1 * theta
        m = 0.9 * m + (1 - 0.9) * grad
        v = 0.999 * v + (1 - 0.999) * grad * grad
        denom = np.sqrt(v) / np.sqrt(1 - 0.999**step) + 1e-3
        theta = theta - 0.01 / (1 - 0.9**step) * (m / denom)
        np.testing.assert_allclose(found, theta, rtol=0, atol=1e-11)
