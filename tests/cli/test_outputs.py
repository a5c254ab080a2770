"""Results survive whatever becomes of the terminal: all commands × closed pipe, full disk, poor encodings."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
from command_line import in_this_process

from mcnqm.checkpoint import Checkpoint
from mcnqm.cli.terminal import Forgiving

COMMANDS = {
    "simulate": "mcnqm simulate -d 5 -n 50 -r 4",
    "scaling": "mcnqm scaling -d 10 --doublings 3 --target 0.1 -o sgd -o adam",
    "schedule": "mcnqm schedule -d 10 -b 4,16 --target 0.1 --pieces 4",
    "verify": "mcnqm verify -d 10 -n 20 -r 32 -o 'sgd lr=0.1'",
}
FILES = {"verify": []}


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", encoding="utf-8")


def into(name, encoding):
    return Path(name).open("w", encoding=encoding)


STREAMS = {
    "closed pipe": (closed_pipe, 0),
    "full disk": (lambda: into("/dev/full", "utf-8"), 74),
    "cp1252": (lambda: into("out.txt", "cp1252"), 0),
    "ascii": (lambda: into("out.txt", "ascii"), 0),
    "none": (lambda: None, 0),
}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("command", COMMANDS)
def test_files_are_written_whatever_the_terminal_takes(tmp_path, monkeypatch, capsys, command, stream):
    monkeypatch.chdir(tmp_path)
    make, expected = STREAMS[stream]
    files = FILES.get(command, ["a.nc", "a.png"])
    outputs = " --output a.nc --figure a.png" if files else ""
    out = make()
    monkeypatch.setattr(sys, "stdout", out)
    code, _, err = in_this_process(monkeypatch, capsys, COMMANDS[command] + outputs)
    assert code == expected, err
    assert err == ("Error: standard output: No space left on device\n" if expected else "")
    if out is not None:
        out.close()
    text = tmp_path / "out.txt"
    if text.exists():
        shown = text.read_bytes().decode(out.encoding)
        assert "±" not in shown or stream != "ascii"
        assert len(shown) > 100
        text.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    if files:
        with xr.open_dataset(tmp_path / "a.nc") as result:
            result.load()


LINE = [sys.executable, "-c", "from mcnqm_main import main; main()"]


@pytest.mark.parametrize("kind", ["head", "full", "closed"])
def test_in_a_process_of_its_own(tmp_path, kind):
    """Python flushes its streams once more as it ends: that must not change the exit code, nor print anything."""
    command = " ".join(f"'{word}'" for word in [*LINE, *COMMANDS["simulate"].split()[1:], "--output", "a.nc"])
    redirected = {"head": "| (read line)", "full": "> /dev/full", "closed": ">&-"}[kind]
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} {redirected}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.returncode == (74 if kind == "full" else 0), done.stderr
    assert done.stderr == ("Error: standard output: No space left on device\n" if kind == "full" else "")
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]


class _Bad:
    def __call__(self, *args, **kwargs):
        raise ValueError("no such font")


@pytest.mark.parametrize(
    ("command", "picture", "table"),
    [
        ("simulate", "mcnqm.plots.risk_curves.risk", "mcnqm.cli.simulate.print_table"),
        ("scaling", "mcnqm.plots.scaling.plot_scaling", "mcnqm.cli.scaling.print_side_by_side"),
        ("schedule", "mcnqm.plots.schedules.plot_schedules", "mcnqm.cli.schedule.print_side_by_side"),
    ],
)
def test_what_fails_costs_nothing_else(tmp_path, monkeypatch, capsys, command, picture, table):
    monkeypatch.chdir(tmp_path)
    line = COMMANDS[command] + " --output a.nc --figure a.png --force"
    with monkeypatch.context() as patch:
        patch.setattr(picture, _Bad())
        code, out, err = in_this_process(patch, capsys, line)
    assert code == 70, "a crash, not the finding that verify has 1 for"
    assert err == "Error: a.png was not drawn: ValueError: no such font\n"
    assert "wrote a.nc" in out
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]
    with monkeypatch.context() as patch:
        patch.setattr(table, _Bad())
        code, out, err = in_this_process(patch, capsys, line)
    assert code == 70
    assert err == "Error: the table was not shown: ValueError: no such font\n"
    assert out.endswith("wrote a.nc\nwrote a.png\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc", "a.png"]
    (tmp_path / "a.nc").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("xarray.Dataset.to_netcdf", _full)
        code, out, err = in_this_process(patch, capsys, line)
    assert code == 74
    assert err.startswith("Error: a.nc was not written: [Errno 28] No space left on device")
    assert "wrote a.png" in out
    kept = ["a.nc.parts", "a.png"] if command == "scaling" else ["a.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept, "the cells of a study stay"


def _full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_a_crash_is_not_a_finding(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mcnqm.cli.verify.agreement", _Bad())
    code, _, err = in_this_process(monkeypatch, capsys, COMMANDS["verify"])
    assert code == 70
    assert "Traceback" in err
    assert err.endswith("Error: ValueError: no such font\n")


def test_the_disk_fills_up_in_the_middle_of_a_study(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = COMMANDS["scaling"] + " --output a.nc"
    with monkeypatch.context() as patch:
        patch.setattr("mcnqm.checkpoint.Checkpoint.keep", _full)
        code, _, err = in_this_process(patch, capsys, whole)
    assert code == 74
    assert err.startswith("Error: [Errno 28] No space left on device\n")
    assert "the same command continues" in err
    assert in_this_process(monkeypatch, capsys, whole)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]


def test_memory_that_runs_out_all_the_same(monkeypatch, capsys):
    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("mcnqm.cli.verify.agreement", full)
    code, _, err = in_this_process(monkeypatch, capsys, COMMANDS["verify"])
    assert code == 71
    assert err == "Error: the machine has too little memory for this\n"


def test_folders_of_others_are_refused_and_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.nc.parts").mkdir()
    (tmp_path / "s.nc.parts" / "mine.txt").write_text("x")
    line = COMMANDS["scaling"] + " --output s.nc"
    code, _, err = in_this_process(monkeypatch, capsys, line)
    assert code == 2
    assert "it holds 'mine.txt' and no config.json, got 's.nc.parts'" in err
    assert (tmp_path / "s.nc.parts" / "mine.txt").read_text() == "x"
    (tmp_path / "s.nc.parts" / "mine.txt").unlink()
    (tmp_path / "s.nc.parts").rmdir()
    (tmp_path / "s.nc.parts").write_text("x")
    code, _, err = in_this_process(monkeypatch, capsys, line)
    assert code == 2
    assert "this is a file" in err
    assert (tmp_path / "s.nc.parts").read_text() == "x"


def test_a_second_command_on_one_output_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with Checkpoint(Path("s.nc.parts"), {"mcnqm_version": "0"}) as first:
        first.keep("cell", {"steps": 1.0})
        code, _, err = in_this_process(monkeypatch, capsys, COMMANDS["scaling"] + " --output s.nc")
        assert code == 2
        assert f"process {os.getpid()} on" in err
        assert first.find("cell") == {"steps": 1.0}
    assert not (tmp_path / "s.nc").exists()


def test_force_keeps_permissions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.nc").write_text("before")
    (tmp_path / "a.nc").chmod(0o600)
    assert in_this_process(monkeypatch, capsys, COMMANDS["simulate"] + " --output a.nc --force")[0] == 0
    assert (tmp_path / "a.nc").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("simulate -n many", "'many'"),
        ("simulate --steps=many", "'many'"),
        ("simulate -nmany", "'many'"),
        ("scaling --target low", "'low'"),
        ("scaling --target 1000", "target must be below the risk at the start, 3.743, got 1000.0"),
        ("schedule --target 1000", "target must be below the risk at the start, 3.743, got 1000.0"),
        ("scaling --target 1e-12", "target must be one that can be reached: at batch size 65536 no optimizer needs"),
        ("schedule --target nan", "target must be > 0 and finite, got nan"),
        ("simulate -o raises:Mine", "be importable (ZeroDivisionError: division by zero), got 'raises:Mine'"),
        ("simulate -o leaves:Mine", "be importable (SystemExit: 3), got 'leaves:Mine'"),
        ("simulate -o nowhere:Mine", "be importable (ModuleNotFoundError: No module named 'nowhere')"),
        ("simulate -o :Mine", "be importable ("),
        ("simulate -o raises:", "be importable ("),
        ("scaling --threads 0", "threads must be an integer in [1, 4096], got 0"),
        ("simulate --threads 100000000", "threads must be an integer in [1, 4096], got 100000000"),
    ],
)
def test_bad_options_are_one_line(tmp_path, monkeypatch, capsys, line, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "raises.py").write_text("1 / 0\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code, _, err = in_this_process(monkeypatch, capsys, f"mcnqm {line}")
    assert code == 2, err
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leaves.py", "raises.py"]


def test_a_forgiving_stream_says_what_it_lost():
    class Full(io.StringIO):
        encoding = "utf-8"

        def write(self, text):
            raise OSError(28, "No space left on device")

    stream = Forgiving(Full())
    assert stream.write("text") == 4
    assert stream.failure.errno == 28
    stream.write("more")
    stream.flush()
    with pytest.raises(TypeError):
        stream.write(b"bytes")


def test_what_cannot_be_encoded_is_spelled_out():
    bytes_ = io.BytesIO()
    stream = Forgiving(io.TextIOWrapper(bytes_, encoding="cp1252"))
    stream.write("B ≤ 4, 1 ± 2, θ, 漢")
    stream.flush()
    assert bytes_.getvalue().decode("cp1252") == "B <= 4, 1 ± 2, theta, ?"
