import pytest
from command_line import in_this_process

import mcnqm
from mcnqm.files import write_dataset

PROBLEM = mcnqm.NoisyQuadratic.power_law(10)


@pytest.fixture
def saved(tmp_path):
    sweep = mcnqm.SGD(lr=[0.1, 0.2], momentum=[0.0, 0.9])
    runs = mcnqm.simulate(PROBLEM, sweep, 8, 50, trajectories=24, coordinates=[0, 3])
    write_dataset(runs, tmp_path / "runs.nc")
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--view ensemble",
        "--view heatmap --x momentum --y lr",
        "--view distribution --select lr=0.11 --select momentum=0",
        "--view paths --select lr=0.2 --select momentum=0.9",
    ],
)
def test_a_saved_result_is_drawn(monkeypatch, capsys, saved, options):
    line = f"mcnqm plot {saved}/runs.nc --output {saved}/figure.png {options}"
    code, out, err = in_this_process(monkeypatch, capsys, line)
    assert (code, err) == (0, "")
    assert out == f"wrote {saved}/figure.png\n"
    assert (saved / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{0}/runs.nc --view ensembel --output {0}/f.png", "view must be one of ensemble"),
        ("{0}/runs.nc --view phase --output {0}/f.png", "runs must hold state_momentum"),
        ("{0}/runs.nc --view scaling --output {0}/f.png", "runs must hold steps"),
        ("{0}/runs.nc --view risk --x lr --output {0}/f.png", "x must be given with --view heatmap alone"),
        ("{0}/runs.nc --select beta=1 --output {0}/f.png", "select must look like NAME=VALUE"),
        ("{0}/runs.nc --select lr=fast --output {0}/f.png", "select must give a number for lr"),
        ("{0}/none.nc --output {0}/f.png", "file must be readable"),
        ("{0}/text.nc --output {0}/f.png", "file must be a result that mcnqm saved"),
        ("{0}/runs.nc --output {0}/f.txt", "output must end in .png"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_written(monkeypatch, capsys, saved, line, message):
    (saved / "text.nc").write_text("no netCDF")
    before = sorted(saved.iterdir())
    code, _, err = in_this_process(monkeypatch, capsys, "mcnqm plot " + line.format(saved))
    assert code == 2
    assert message in err
    assert sorted(saved.iterdir()) == before
