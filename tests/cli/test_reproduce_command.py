"""`mcnqm reproduce`: files of each figure, what is kept, and what is refused."""

import pytest
import xarray as xr
from command_line import in_this_process


def test_files_of_two_figures(tmp_path, monkeypatch, capsys):
    line = f"mcnqm reproduce 9 2 --quick --output {tmp_path}/out --cache {tmp_path}/kept"
    code, out, _ = in_this_process(monkeypatch, capsys, line)
    assert code == 0
    assert "figure 9: First term of eq. (6)" in out
    ends = (".nc", ".png", ".svg")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        f"figure{number}{end}" for number in (2, 9) for end in ends
    )
    with xr.open_dataset(tmp_path / "out" / "figure9.nc") as data:
        assert data.attrs["figure"] == "9"
        assert data.momentum.dims == ("scaling", "step")
    assert {path.name for path in (tmp_path / "kept").iterdir()} >= {"figure-9.json", "figure-2.json"}
    code, _, err = in_this_process(monkeypatch, capsys, line)
    assert code == 2
    assert "--force" in err
    assert in_this_process(monkeypatch, capsys, line + " --force")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [("7", "one of 1, 2, 3a, 3b"), ("9 --output {0}/file", "folder"), ("9 --seed -1", "seed")],
)
def test_what_is_refused(words, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    code, _, err = in_this_process(monkeypatch, capsys, f"mcnqm reproduce {words.format(tmp_path)}")
    assert code == 2
    assert said in " ".join(err.split())
