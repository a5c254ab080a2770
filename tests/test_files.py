"""Files are whole or absent."""

from __future__ import annotations

import pytest
import xarray as xr

from mcnqm import ParameterError
from mcnqm.files import check_writable, write_dataset, write_whole


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
