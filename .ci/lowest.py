"""Print the lowest versions that pyproject.toml declares, for use and for tests, as pip's constraints."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
    found = re.fullmatch(r"([A-Za-z0-9-]+)>=([0-9.]+)", requirement)
    if found is None:
        raise SystemExit(f"{requirement!r} does not look like name>=version")
    print(f"{found[1]}=={found[2]}")
