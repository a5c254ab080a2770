"""Compiled code on disk: unwritable, broken or turned off, and what is said of it. Each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SMALL = "import mcnqm; print(float(mcnqm.noise(0, 0, 0, 1)[0, 0, 0]))"
NOWHERE = "import numba.core.caching as caching; caching.CacheImpl._locator_classes = []\n"
"""As on a machine where neither the package, nor the home directory, nor ``NUMBA_CACHE_DIR`` can be written."""


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **environment},
    )


def test_without_a_folder_for_it_code_is_compiled_anew_with_one_warning():
    done = python(NOWHERE + SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning") == 1, done.stderr
    assert "compiled code cannot be kept" in done.stderr
    assert "NUMBA_CACHE_DIR" in done.stderr
    assert done.stdout == python(SMALL).stdout


def test_on_the_command_line_that_is_one_line():
    done = python(NOWHERE + "import sys; sys.argv = ['mcnqm', '--version']; from mcnqm_main import main; main()")
    assert done.returncode == 0
    assert done.stderr.count("\n") <= 2


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99])
@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_a_broken_cache_is_discarded(tmp_path, spoil, ending):
    code = "import mcnqm.compiling as c\n@c.compiled\ndef f(x):\n    return x + 1\nprint(f(1), f.stats.cache_misses)\n"
    (tmp_path / "small.py").write_text(code)
    run = "import small"
    where = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    first = python(run, **where)
    assert first.stdout.startswith("2 Counter({"), first.stderr
    files = list((tmp_path / "cache").rglob(f"small.*{ending}"))
    assert files
    for file in files:
        file.write_bytes(spoil(file.read_bytes()))
    again = python(run, **where)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout, "compiled again"
    assert python(run, **where).stdout == "2 Counter()\n", "and kept"


def test_what_is_not_supported_is_said():
    done = python("import mcnqm", NUMBA_DISABLE_JIT="1")
    assert "ImportError: mcnqm needs Numba's compiler, which NUMBA_DISABLE_JIT=1 turns off" in done.stderr
    command = python("from mcnqm_main import main; main()", NUMBA_DISABLE_JIT="1")
    assert command.returncode == 70
    assert command.stderr.startswith("Error: mcnqm needs Numba's compiler")
    assert command.stderr.count("\n") == 1


def test_a_cache_knows_what_its_function_calls(tmp_path):
    inner = "import mcnqm.compiling as c\nSHIFT = {shift}\n@c.compiled\ndef inner(x):\n    return x + {by}\n"
    outer = (
        "import mcnqm.compiling as c\nfrom inner import SHIFT, inner\n"
        "@c.compiled\ndef middle(x):\n    return inner(x)\n@c.compiled\ndef outer(x):\n    return middle(x) + SHIFT\n"
        "print(outer(1), outer.stats.cache_misses)\n"
    )
    (tmp_path / "outer.py").write_text(outer)
    where = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    for by, shift, answer in ((1, 0, 2), (5, 0, 6), (5, 3, 9)):
        (tmp_path / "inner.py").write_text(inner.format(by=by, shift=shift))
        done = python("import outer", **where)
        assert done.stdout.startswith(f"{answer} Counter({{"), done.stdout + done.stderr
        assert python("import outer", **where).stdout == f"{answer} Counter()\n", "kept"
