"""Ctrl-C and SIGTERM, in processes of their own: the end comes at once, without a traceback, and cells are kept.

A second is what is promised; what is asserted is a little more, for machines that do something else besides.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import _wait_until_at_work

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at processes through /proc")

LINE = [sys.executable, "-c", "from mcnqm_main import main; main()"]
SOON = 4.0


@pytest.fixture
def start(tmp_path):
    """Start the command line in a folder of its own; a shell's background job, as tests may be, ignores Ctrl-C."""
    begun = []

    def run(*arguments):
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            process = subprocess.Popen(
                [*LINE, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def end_of(process, *signals):
    """How a process ends that gets these signals, a little apart: its code, what it said, and the time it took."""
    assert process.poll() is None, process.communicate()
    begun = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err, time.monotonic() - begun


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "--minibatch", "per_example", "-b", "1000000", "-n", "100000", "-o", "sgd lr=0.1"),
        ("simulate", "--steps", "2000000000", "--output", "runs.nc", "--figure", "risk.png"),
        ("verify", "--steps", "100000000"),
    ],
    ids=["per example", "simulate", "verify"],
)
@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT] * 5], ids=["int", "term", "5"])
def test_the_end_comes_at_once(tmp_path, start, arguments, signals):
    process = start(*arguments)
    _wait_until_at_work(process)
    code, out, err, took = end_of(process, *signals)
    assert code == 128 + signals[0]
    assert err == "Interrupted; no result was written.\n"
    assert out == ""
    assert took < SOON
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_modules_are_imported(start, number):
    process = start("simulate")
    maps = Path(f"/proc/{process.pid}/maps")
    while "numpy" not in maps.read_text():  # it takes another second from there
        time.sleep(0.005)
    code, _, err, took = end_of(process, number)
    assert code == 128 + number
    assert err == "Interrupted; no result was written.\n"
    assert took < SOON


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT] * 5], ids=["int", "term", "5"])
def test_a_study_keeps_its_cells_and_goes_on(tmp_path, start, signals):
    line = ["scaling", "-d", "30", "--doublings", "9", "--target", "0.03", "-o", "sgd", "-o", "adam"]
    process = start(*line)
    parts = tmp_path / "scaling.nc.parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("*-simulated.json"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    code, out, err, took = end_of(process, *signals)
    assert code == 128 + signals[0]
    kept = "Finished cells are kept in scaling.nc.parts; the same command continues.\n"
    assert err == kept + "Interrupted; no result was written.\n"
    assert out == ""
    assert took < SOON
    left = {path.name for path in parts.iterdir()}
    assert len([name for name in left if name.endswith("-simulated.json")]) >= 3
    assert not [name for name in left if name.startswith(".")], "no temporary files"
    if len(signals) == 1:
        out, err = start(*line).communicate(timeout=300)
        assert "wrote scaling.nc" in out, err
        assert [path.name for path in tmp_path.iterdir()] == ["scaling.nc"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
@pytest.mark.parametrize(
    ("line", "result"),
    [
        (("reproduce", "2", "12a", "--cache", "kept", "--output", "drawn"), "drawn/figure12a.nc"),
        (("claims", "sgd-risk", "lr-linear-sgd", "lr-sqrt-adam", "--cache", "kept", "--output", "c.json"), "c.json"),
    ],
    ids=["reproduce", "claims"],
)
def test_figures_and_claims_keep_what_is_finished(tmp_path, start, line, result, number):
    process = start(*line)
    deadline = time.monotonic() + 120
    while len(cells := sorted((tmp_path / "kept").rglob("[!.]*.json"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    code, out, err, took = end_of(process, number)
    assert code == 128 + number
    assert err.endswith("Interrupted; no result was written.\n")
    assert "Finished" in err
    assert "Traceback" not in err
    assert out == ""
    assert took < SOON
    assert not (tmp_path / result).exists()
    assert not list((tmp_path / "kept").rglob(".*")), "no temporary files"
    times = {path: path.stat().st_mtime_ns for path in cells}
    out, err = start(*line).communicate(timeout=300)
    assert (tmp_path / result).exists(), (out, err)
    assert {path: path.stat().st_mtime_ns for path in cells} == times, "finished parts are not computed again"


STUCK = """
import sys, time
import mcnqm.cli.app as app
from mcnqm.cli.outputs import written

def stuck(*args, **kwargs):
    print("stuck", flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass  # as a compiled function, which sees no signals

app._run.__globals__["app"] = stuck
from mcnqm.cli import main
main()
"""


def test_what_does_not_listen_is_ended(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout.readline() == "stuck\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - begun < SOON
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 143
    assert err == "Interrupted; no result was written.\n"


WRITING = """
import sys, time
from pathlib import Path
import mcnqm.cli.app as app
from mcnqm.files import write_whole

def stuck(path):
    path.write_text("half")
    print("stuck", flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass

app._run.__globals__["app"] = lambda **options: write_whole(Path("a.png"), stuck)
from mcnqm.cli import main
main()
"""


def test_an_end_in_the_middle_of_a_file_leaves_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout.readline() == "stuck\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_signals_that_were_ignored_stay_ignored(tmp_path):
    """As in a shell's background job, and after nohup."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import mcnqm.cli.verify as v\n"
        "real = v.agreement\n"
        "v.agreement = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT) or real(*a, **k)\n"
        "sys.argv = ['mcnqm', 'verify', '-d', '5', '-n', '9', '-r', '16', '-o', 'sgd lr=0.1']\n"
        "from mcnqm_main import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done.stderr
