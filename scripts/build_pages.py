"""Draw the figures of the pages whose code draws them, and write the tutorial as a notebook.

    python scripts/build_pages.py [--notebook]

Runs the Python of docs/trajectories.md and docs/tutorial.md in docs/figures, so that every ``savefig`` lands there;
with --notebook it writes docs/tutorial.ipynb alone, without running anything. The notebook holds the page's text and
code, in order, without outputs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("trajectories.md", "tutorial.md")


def notebook_of(text: str) -> dict[str, Any]:
    """The page as a notebook: a cell of text for what lies between the code, and a cell for each block of Python."""
    cells = []
    for k, part in enumerate(re.split(r"^```python\n(.*?)^```\n", text, flags=re.MULTILINE | re.DOTALL)):
        # A picture that the code has just drawn is shown from the notebook's own folder, not from figures/.
        source = re.sub(r"^!\[.*?\]\(figures/.*?\)\n", "", part, flags=re.MULTILINE) if k % 2 == 0 else shown(part)
        if not source.strip():
            continue
        lines = source.strip("\n").splitlines(keepends=True)
        cell: dict[str, Any] = {"cell_type": "code" if k % 2 else "markdown", "metadata": {}, "source": lines}
        if k % 2:
            cell.update(execution_count=None, outputs=[])
        cells.append({"id": f"cell-{k}", **cell})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def shown(code: str) -> str:
    """Code that shows its figure instead of saving it."""
    code = re.sub(r"^(mcnqm\.plots\..*)\.savefig\(.*\)$", r"\1", code, flags=re.MULTILINE)
    return re.sub(r"^figure\.savefig\(.*\)\n", "", code, flags=re.MULTILINE)


def written(text: str) -> str:
    """The notebook's file."""
    return json.dumps(notebook_of(text), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebook", action="store_true", help="write the notebook alone")
    options = parser.parse_args()
    (DOCS / "tutorial.ipynb").write_text(written((DOCS / "tutorial.md").read_text()))
    for page in () if options.notebook else PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
        subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=DOCS / "figures", check=True)


if __name__ == "__main__":
    main()
