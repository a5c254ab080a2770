"""The command line, run as a user runs it: in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from command_line import in_this_process
from PIL import Image

import mcnqm
from mcnqm.cli import main
from mcnqm.cli.curves import parse_numbers
from mcnqm.cli.parsing import parse_optimizer

COMMAND = [sys.executable, "-c", "from mcnqm.cli import main; main()"]


def mcnqm_command(*arguments, cwd=None):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def test_default_comparison_is_saved_and_drawn(tmp_path):
    done = mcnqm_command(
        *("simulate", "--dim", "30", "--steps", "500", "--trajectories", "4"),
        *("--output", "runs.nc", "--figure", "risk.png"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "SGD" in done.stdout
    assert "Adam" in done.stdout
    assert "wrote runs.nc" in done.stdout
    assert done.stderr == "", "no progress bar where there is no terminal"
    with xr.open_dataset(tmp_path / "runs.nc") as runs:
        assert runs.risk.dims == ("optimizer", "step")
        assert runs.optimizer.values.tolist() == ["SGD", "momentum 0.9", "Adam"]
        expected = mcnqm.simulate(mcnqm.NoisyQuadratic.power_law(30), mcnqm.Adam(lr=2e-3), 16, 500, trajectories=4)
        assert np.array_equal(runs.loss.sel(optimizer="Adam"), expected.loss)
    with Image.open(tmp_path / "risk.png") as picture:
        assert picture.width > 500
        assert np.asarray(picture.convert("L")).std() > 10, "the picture is blank"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["risk.png", "runs.nc"]


def test_a_sweep(tmp_path):
    done = mcnqm_command(
        *(
            "simulate",
            "-o",
            "adam lr=1e-3:1e-1:3 beta2=0.99",
            "-b",
            "1,64",
            "-d",
            "10",
            "-n",
            "50",
            "-r",
            "2",
        ),
        *("--output", "a.nc", "--figure", "a.pdf", "--seed", str(2**64 - 1)),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    with xr.open_dataset(tmp_path / "a.nc") as runs:
        assert runs.loss.dims == ("optimizer", "lr", "batch_size", "trajectory", "step")
        assert int(runs.attrs["seed"]) == 2**64 - 1
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "sgd lr=-1"], "lr must be > 0, got -1.0"),
        (["-o", "sgd"], "optimizer must give lr, got 'sgd'"),
        (["-o", "sgd lr"], "optimizer must look like"),
        (["-o", "sgd lr=x"], "lr must be a number, a list"),
        (["-o", "sgd lr=0.1 lr=0.2"], "optimizer must give lr once"),
        (["-o", "sgd lr=0.1 speed=3"], "optimizer must have fields among lr, momentum"),
        (["-o", "sgd lr=0.1 nesterov=yes"], "nesterov must be true or false, got 'yes'"),
        (
            ["-o", "bgd lr=0.1"],
            "or module:Class, got 'bgd'",
        ),
        (["-o", "nowhere:SGD lr=0.1"], "optimizer must be importable"),
        (["-o", "sgd lr=0.1", "-o", "sgd lr=0.1"], "optimizer must be given once each"),
        (["-o", "sgd lr=0.1,0.2", "-o", "sgd lr=0.1"], "optimizer must be given once each"),
        (["-o", "sgd lr=cosin(0.1,steps=9)"], "or a schedule: constant, linear, cosine"),
        (["-o", "sgd lr=cosine(0.1)"], "lr must be a call that mcnqm knows (cosine missing 1 required"),
        (["-o", "sgd lr=cosine(0.1,steps=0)"], "steps must be an integer in [1, "),
        (["-o", "sgd lr=cosine(0.1,step=9)"], "unexpected keyword argument 'step'"),
        (["-o", "sgd lr=cosine(steps=9,0.1)"], "lr must give arguments without a name first"),
        (["-o", "sgd lr=cosine(0.1,steps=9"], "lr must be a number"),
        (["--average", "tail"], "average must be a number"),
        (["--average", "tail(-1)"], "start must be an integer in [0, "),
        (["--average", "1.5"], "average must be in [0, 1], got 1.5"),
        (["--target", "0"], "target must be > 0, got 0.0"),
        (["--target", "low"], "target must be a number"),
        (["--coordinates", "0,5"], "coordinates must be integers in [0, 5), got 5"),
        (["--coordinates", "0.5"], "coordinates must be whole numbers, got 0.5"),
        (["--record-state"], "record_state must go with coordinates"),
        (["--record", "5,1"], "record must be integers in [0, steps=30000], strictly increasing, got 1"),
        (["--view", "risks"], "view must be one of 'risk', 'ensemble', "),
        (["--view", "ensemble"], "view must go with --figure, which it draws, got 'ensemble'"),
        (["--view", "paths", "--figure", "a.png"], "view must go with --coordinates"),
        (["--view", "phase", "--figure", "a.png", "--coordinates", "0"], "view must go with --record-state"),
        (["--view", "heatmap", "--figure", "a.png", "-o", "sgd lr=0.1", "-n", "9"], "must"),
        (["--noise-exponent", "-1"], "noise_exponent must be >= 0, got -1.0"),
        (["--initial-std", "-1"], "initial_std must be >= 0, got -1.0"),
        (["--spectrum", "nowhere.csv"], "dim must be left out with --spectrum, which says it, got 5"),
        (["-b", "0"], "batch_size must be >= 1, got 0.0"),
        (["-n", "-1"], "steps must be an integer in [0, 17179869184], got -1"),
        (["-r", "0"], "trajectories must be an integer in [1, 4294967296], got 0"),
        (["--dim", "0"], "dim must be an integer >= 1, got 0"),
        (["--exponent", "nan"], "exponent must be >= 0 and finite, got nan"),
        (["--seed", "-1"], "seed must be an integer in [0, 18446744073709551615], got -1"),
        (["--minibatch", "some"], "minibatch must be one of 'exact', 'per_example', got 'some'"),
        (["--output", "here.txt"], "output must end in .nc, got 'here.txt'"),
        (["--output", "nowhere/a.nc"], "output must be in an existing directory, got 'nowhere/a.nc'"),
        (["--output", "/proc/a.nc"], "output must be writable"),
        (["--figure", "a.jpeg"], "figure must end in .png or .pdf or .svg, got 'a.jpeg'"),
        (["--steps", "many"], "steps"),
        (["--optimiser", "sgd"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, arguments, message):
    outputs = [] if "--output" in arguments else ["--output", "runs.nc"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mcnqm", "simulate", "-d", "5", *outputs, *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_input_in_a_process_of_its_own(tmp_path):
    done = mcnqm_command("simulate", "-o", "sgd lr=-1", "--output", "runs.nc", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "Error: lr must be > 0, got -1.0\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def _wait_until_at_work(process):
    """Until it has used as much processor time as importing everything takes, twice over; or so long."""
    for _ in range(600):
        time.sleep(0.1)
        stat = Path(f"/proc/{process.pid}/stat")
        if not stat.exists():
            time.sleep(8)
            return
        user, system = stat.read_text().rsplit(")", 1)[1].split()[11:13]
        if int(user) + int(system) > 7 * os.sysconf("SC_CLK_TCK"):
            return


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_interruption_leaves_no_traceback_and_no_file(tmp_path):
    # A shell's background job, as these tests may be, ignores Ctrl-C, and so do its children unless told.
    ours = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        process = subprocess.Popen(
            [*COMMAND, "simulate", "--steps", "2000000000", "--output", "runs.nc", "--figure", "a.png"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
    finally:
        signal.signal(signal.SIGINT, ours)
    try:
        _wait_until_at_work(process)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Interrupted; no result was written." in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def never(*args, **kwargs):
    raise AssertionError("it was to be refused before the work")


@pytest.mark.parametrize("name", ["runs.nc", "risk.png"])
def test_files_that_exist_are_not_overwritten(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("before")
    line = "mcnqm simulate -d 5 -n 10 --output runs.nc --figure risk.png"
    with monkeypatch.context() as patch:
        patch.setattr("mcnqm.cli.simulate.compare", never)
        code, out, err = in_this_process(patch, capsys, line)
    option = {"runs.nc": "output", "risk.png": "figure"}[name]
    assert code == 2
    assert err == f"Error: {option} must be a new file, but it exists; use --force to overwrite, got '{name}'\n"
    assert out == ""
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
    assert in_this_process(monkeypatch, capsys, line + " --force")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["risk.png", "runs.nc"]
    assert b"before" not in (tmp_path / name).read_bytes()
    assert in_this_process(monkeypatch, capsys, line)[0] == 2, "the same command again"


@pytest.mark.parametrize(
    ("options", "name"),
    [("", "scaling.nc"), ("--output mine.nc", "mine.nc"), ("--figure scaling.png", "scaling.png")],
)
def test_nor_are_those_of_a_study(tmp_path, monkeypatch, capsys, options, name):
    """By its default name or one that was given; a study that is complete is not mistaken for an interrupted one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mcnqm.cli.scaling.run", never)
    (tmp_path / name).write_text("before")
    (tmp_path / f"{name}.parts").mkdir()
    code, _, err = in_this_process(monkeypatch, capsys, f"mcnqm scaling {options}")
    assert code == 2
    assert f"it exists; use --force to overwrite, got '{name}'" in err
    assert (tmp_path / name).read_text() == "before"
    code, _, err = in_this_process(monkeypatch, capsys, f"mcnqm scaling {options} --force")
    assert code == 70, "it would have been overwritten"
    assert "before the work" in err


def test_verify_shows_the_largest_z_of_every_moment(monkeypatch, capsys):
    """A momentum buffer is certain at the start, an unstable rate ends far from there: neither is in the way."""
    line = 'mcnqm verify -o "sgd lr=0.05 momentum=0.9" -o "sgd lr=2.5" -b 4 -n 100 -r 32 -d 10'
    code, out, _ = in_this_process(monkeypatch, capsys, line)
    assert code == 0, out
    rows = [line.split() for line in out.splitlines() if line.endswith("agree    ")]
    assert len(rows) == 2
    z = [[float(word) for word in row[row.index("4") + 1 : -1]] for row in rows]
    assert [len(entries) for entries in z] == [7, 4], "six moments and p; three for plain SGD"
    assert max(map(max, z)) < 5.5
    assert all(len(line) <= 80 for line in out.splitlines())


def test_help_teaches():
    top = mcnqm_command("--help")
    assert top.returncode == 0
    assert "mcnqm simulate --figure risk.png --output runs.nc" in top.stdout
    sub = mcnqm_command("simulate", "--help")
    for word in (
        "--optimizer",
        "--batch-size",
        "--steps",
        "--trajectories",
        "--seed",
        "--output",
        "--figure",
        "--force",
    ):
        assert word in sub.stdout
    assert mcnqm_command("--version").stdout.strip() == mcnqm.__version__


def test_a_second_process_uses_the_compiled_kernel():
    code = (
        "import mcnqm, mcnqm.kernels.shards as s, numpy as np\n"
        "seen = []\n"
        "make = s.advance_kernel\n"
        "s.advance_kernel = lambda *key: seen.append(make(*key)) or seen[-1]\n"
        "p = mcnqm.NoisyQuadratic.power_law(9)\n"
        "mcnqm.simulate(p, mcnqm.Adam(lr=0.1), 4, 9)\n"
        "mcnqm.simulate(p, mcnqm.SGD(lr=0.1, momentum=0.9), 4, 9)\n"
        "print(sum(sum(k.stats.cache_misses.values()) for k in set(seen)))\n"
    )
    run = [sys.executable, "-c", code]
    subprocess.run(run, check=True, capture_output=True, timeout=300)
    second = subprocess.run(run, check=True, capture_output=True, text=True, timeout=300)
    assert second.stdout.strip() == "0", "kernels were compiled again"


@pytest.mark.slow
def test_cached_kernels_of_a_module_that_is_gone(tmp_path):
    """A cache that knows some user's optimizer must stay readable where that module is not."""
    (tmp_path / "mine.py").write_text(
        "from typing import NamedTuple\n"
        "import mcnqm\n"
        "@mcnqm.hyperparameters()\n"
        "class Mine(NamedTuple):\n"
        "    lr: float\n"
        "@mcnqm.update_rule(Mine)\n"
        "def update(p, c, g, theta, s):\n"
        "    return theta - p.lr * g, s\n"
    )
    own = mcnqm_command("simulate", "-o", "mine:Mine lr=0.1", "-d", "5", "-n", "10", cwd=tmp_path)
    assert own.returncode == 0, own.stderr
    assert "mine:Mine lr=0.1" in own.stdout
    (tmp_path / "mine.py").unlink()
    other = mcnqm_command("simulate", "-o", "sgd lr=0.1", "-d", "5", "-n", "10", cwd=tmp_path)
    assert other.returncode == 0, other.stderr


def test_parsing():
    assert parse_numbers("lr", "1e-3:1e-1:3") == pytest.approx([1e-3, 1e-2, 1e-1])
    with pytest.raises(mcnqm.ParameterError, match="lr must be a number"):
        parse_numbers("lr", "-1:1:3")
    assert parse_optimizer("mcnqm.optimizers:Lion lr=0.1") == mcnqm.Lion(lr=0.1)
