"""What README and docs show runs, and says what it does."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


LONG = {"tutorial.md", "trajectories.md"}
"""Pages that take more than a few seconds."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page.name in LONG else [], id=page.name) for page in PAGES],
)
def test_python_examples_run(page, tmp_path, monkeypatch):
    """The blocks of a page, one after the other, as a reader would paste them."""
    code = blocks(page, "python")
    if not code:
        pytest.skip("no Python on this page")
    script = tmp_path / "page.py"
    script.write_text("\n".join(code))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


@cache
def shown_by_help(command):
    line = [sys.executable, "-c", "from mcnqm.cli import main; main()", command, "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, command
    return done.stdout


def test_commands_exist():
    """Every `mcnqm` command shown parses: its options are known to --help."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.splitlines():
                for part in line.split("&&"):
                    words = shlex.split(part)
                    if words[:1] != ["mcnqm"]:
                        continue
                    for word in words[2:]:
                        if word.startswith("-"):
                            assert word in shown_by_help(words[1]), f"{word} in {part}"


def test_the_notebook_is_the_tutorial():
    """``python scripts/build_pages.py --notebook`` writes it; this is how it would be written now."""
    location = spec_from_file_location("build_pages", ROOT / "scripts" / "build_pages.py")
    script = module_from_spec(location)
    location.loader.exec_module(script)
    page, notebook = ROOT / "docs" / "tutorial.md", ROOT / "docs" / "tutorial.ipynb"
    assert notebook.read_text() == script.written(page.read_text())
    cells = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    compile(code, "notebook", "exec")
    assert "mcnqm.tune" in code
    assert "savefig" not in code


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
