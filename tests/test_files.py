"""Files are whole or absent."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from mcnqm import ParameterError
from mcnqm.files import check_writable, write_dataset, write_text, write_whole


def test_a_failed_write_leaves_what_was_there(tmp_path):
    target = tmp_path / "a.nc"
    target.write_text("before")

    def half(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(target, half)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_check_writable_leaves_nothing(tmp_path):
    assert check_writable("output", tmp_path / "a.nc", (".nc",)) == tmp_path / "a.nc"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "dir.nc").mkdir()
    with pytest.raises(ParameterError, match="output must be a file, not a directory"):
        check_writable("output", tmp_path / "dir.nc", (".nc",))


def test_steps_beyond_32_bits(tmp_path):
    runs = xr.Dataset({"risk": ("step", [1.0, 2.0])}, coords={"step": [0, 2**33]})
    write_dataset(runs, tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as back:
        assert back.step.values.tolist() == [0, 2**33]


def test_a_file_keeps_its_permissions_and_a_link_stays_one(tmp_path):
    target, link = tmp_path / "a.txt", tmp_path / "link.txt"
    target.write_text("before")
    target.chmod(0o600)
    link.symlink_to(target)
    write_text(link, "after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """A power cut between the two must not leave an empty file under the new name."""
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(("flush", os.fstat(handle).st_size)))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: seen.append(("name", 0)) or replace(self, to))
    write_text(tmp_path / "a.txt", "text")
    assert seen[:2] == [("flush", 4), ("name", 0)]
    assert [what for what, _ in seen] == ["flush", "name", "flush"], "and the folder's list of names after it"


KILLED = """
import os, signal, sys, threading
from pathlib import Path
import xarray as xr
import mcnqm.files as files

def stuck(path):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

kind, path = sys.argv[1], Path(sys.argv[2])
if kind == "text":
    Path.write_text = lambda self, *args, **options: stuck(self)
    files.write_text(path, "text")
elif kind == "dataset":
    xr.Dataset.to_netcdf = lambda self, path, **options: stuck(path)
    files.write_dataset(xr.Dataset({"a": 1.0}), path)
else:
    files.write_whole(path, stuck)
"""


@pytest.mark.parametrize(("kind", "name"), [("text", "a.json"), ("dataset", "a.nc"), ("figure", "a.png")])
def test_what_a_killed_write_leaves_goes_with_the_next(tmp_path, kind, name):
    target = tmp_path / name
    target.write_text("before")
    strangers = [tmp_path / ".a-xyz.png", tmp_path / f".a.mcnqm-elsewhere-1-00000000{target.suffix}"]
    for stranger in strangers:
        stranger.write_text("not ours")
    killed = subprocess.run([sys.executable, "-c", KILLED, kind, str(target)], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert target.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 4, "the temporary file of the killed process"
    write_whole(target, lambda path: path.write_text("after"))
    assert target.read_text() == "after"
    assert sorted(tmp_path.iterdir()) == sorted([target, *strangers])


def test_temporaries_of_a_running_process_stay(tmp_path):
    seen = []

    def write(path):
        write_text(tmp_path / "a.txt", "by another, meanwhile")
        seen.append(path.exists())
        path.write_text("by us")

    write_whole(tmp_path / "a.txt", write)
    assert seen == [True]
    assert (tmp_path / "a.txt").read_text() == "by us"


@pytest.mark.parametrize("name", ["a" * 300 + ".nc", "a\0b.nc"])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(ParameterError, match="output must be"):
        check_writable("output", tmp_path / name, (".nc",))
    assert list(tmp_path.iterdir()) == []
