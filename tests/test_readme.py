"""What README and docs show runs, and says what it does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page, tmp_path, monkeypatch):
    """The blocks of a page, one after the other, as a reader would paste them."""
    code = blocks(page, "python")
    if not code:
        pytest.skip("no Python on this page")
    script = tmp_path / "page.py"
    script.write_text("\n".join(code))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_exist():
    """Every `mcnqm` command shown parses: its options are known to --help."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.splitlines():
                for part in line.split("&&"):
                    words = shlex.split(part)
                    if words[:1] != ["mcnqm"]:
                        continue
                    done = subprocess.run(
                        [sys.executable, "-c", "from mcnqm.cli import main; main()", words[1], "--help"],
                        capture_output=True, text=True, check=False,
                    )  # fmt: skip
                    assert done.returncode == 0, part
                    for word in words[2:]:
                        if word.startswith("-"):
                            assert word in done.stdout, f"{word} in {part}"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
