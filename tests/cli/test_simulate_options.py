"""What `mcnqm simulate` asks beyond the risk, and the problems that every command takes."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from command_line import in_this_process
from PIL import Image

import mcnqm
from mcnqm import SGD, Adam, NoisyQuadratic, ParameterError
from mcnqm.cli.curves import parse_average, parse_value
from mcnqm.cli.parsing import expanded, parse_optimizer
from mcnqm.cli.problems import read_spectrum

PROBLEM = NoisyQuadratic.power_law(20, 1.2, noise_exponent=0.5, initial_std=2.0)
OF_PROBLEM = "-d 20 --exponent 1.2 --noise-exponent 0.5 --initial-std 2"


def test_everything_at_once_is_what_the_call_gives(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = (
        'mcnqm simulate -o "adam lr=cosine([0.01,0.1], steps=200) beta2=0.99" -b 8 -n 200 -r 5 --seed 3 '
        f"{OF_PROBLEM} --average tail(50) --record 0,7,200 --coordinates 19,0 --record-state --target 0.1,0.3 "
        "--output runs.nc"
    )
    code, out, err = in_this_process(monkeypatch, capsys, line.replace("tail(50)", "'tail(50)'"))
    assert (code, err) == (0, "")
    lr = mcnqm.schedules.cosine([0.01, 0.1], steps=200)
    expected = mcnqm.simulate(
        PROBLEM,
        Adam(lr=lr, beta2=0.99),
        8,
        200,
        trajectories=5,
        seed=3,
        average=mcnqm.averaging.tail(50),
        record=[0, 7, 200],
        coordinates=[19, 0],
        record_state=True,
        target=[0.1, 0.3],
    )
    with xr.open_dataset(tmp_path / "runs.nc") as runs:
        for name in expected.data_vars:
            found = runs[name].isel(optimizer=0).values
            np.testing.assert_array_equal(found, expected[name].values, err_msg=name)
    medians = np.quantile(expected.first_passage, 0.5, axis=-1, method="lower")
    assert "steps to 0.1" in " ".join(out.split())
    for steps in medians.ravel():
        assert (f"{steps:.0f}" if np.isfinite(steps) else "never") in out


def test_a_sweep_beside_one_that_sweeps_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "mcnqm simulate -o 'adam lr=0.01,0.02' -o 'sgd lr=0.1 momentum=0.9' -b 4,8 -n 60 -r 3 -d 20 "
    code, _, err = in_this_process(
        monkeypatch, capsys, line + "--coordinates 3 --record-state --output a.nc --figure a.png"
    )
    assert (code, err) == (0, "")
    with xr.open_dataset(tmp_path / "a.nc") as runs:
        labels = ["adam lr=0.01", "adam lr=0.02", "sgd lr=0.1 momentum=0.9"]
        assert runs.optimizer.values.tolist() == labels
        alone = mcnqm.simulate(
            NoisyQuadratic.power_law(20), Adam(lr=0.02), [4, 8], 60, trajectories=3, coordinates=[3], record_state=True
        )
        np.testing.assert_array_equal(runs.loss.sel(optimizer="adam lr=0.02"), alone.loss)
        np.testing.assert_array_equal(runs.effective_lr.sel(optimizer="adam lr=0.02"), alone.effective_lr)
        # What an optimizer does not have is missing.
        assert np.isnan(runs.state_momentum.sel(optimizer=labels[:2])).all()
        assert np.isfinite(runs.state_momentum.sel(optimizer=labels[2])).all()


def test_words_of_a_schedule():
    lr = parse_value("lr", "warmup_stable_decay(0.1,warmup=10,stable=1e2,decay=50,shape=cosine,initial=0.0)")
    assert lr == mcnqm.schedules.warmup_stable_decay(0.1, warmup=10, stable=100, decay=50, shape="cosine", initial=0)
    swept = parse_optimizer("sgd lr=exponential(1e-2:1:3, steps=9, final=0.5) momentum=piecewise([0.5,0.9],[10,1])")
    assert np.allclose(swept.lr.scale, [0.01, 0.1, 1.0])
    assert swept.momentum(10) == 0.9
    assert parse_average("polynomial(3)") == mcnqm.averaging.polynomial(3)
    texts = expanded("sgd lr=exponential(1e-2:1:3, steps=9, final=0.5) momentum=0,0.9")
    assert len(texts) == 6
    assert texts["sgd lr=exponential(0.1,steps=9,final=0.5) momentum=0.9"] == SGD(
        lr=mcnqm.schedules.exponential(0.1, 9, 0.5), momentum=0.9
    )
    assert list(expanded("adam lr=0.1")) == ["adam lr=0.1"]
    assert list(expanded("sgd lr=linear([1,2],steps=3)")) == [
        "sgd lr=linear(1,steps=3)",
        "sgd lr=linear(2,steps=3)",
    ]


H, C, M, S = np.array([1.0, 0.3, 0.02]), np.array([0.5, 0.0, 2.0]), np.array([0.0, -1.0, 2.0]), np.array([1.0, 0.5, 0])


def save(path, columns, header=None):
    table = np.stack(columns, axis=1)
    if path.suffix == ".npy":
        np.save(path, table if table.shape[1] > 1 else table[:, 0])
    else:
        delimiter = "," if path.suffix == ".csv" else "  "
        np.savetxt(path, table, delimiter=delimiter, header=header or "", comments="", fmt="%.17g")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".npy"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_measured_spectrum(tmp_path, suffix, count):
    found = read_spectrum(save(tmp_path / f"a{suffix}", [H, C, M, S][:count]))
    assert NoisyQuadratic(**found) == NoisyQuadratic(*[H, C, M, S][:count])


def test_columns_by_name(tmp_path):
    found = read_spectrum(save(tmp_path / "a.csv", [C, H], "noise,curvature"))
    assert NoisyQuadratic(**found) == NoisyQuadratic(H, C)
    (tmp_path / "b.txt").write_text("# of a network\n1 0.5\n\n0.3 0.0 # the second\n0.02 2\n")
    assert NoisyQuadratic(**read_spectrum(tmp_path / "b.txt")) == NoisyQuadratic(H, C)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "1,2,3\n4,5,6\n"),
        ("a.csv", "1,2\n3\n"),
        ("a.csv", "one,two\n1,2\n"),
        ("a.csv", "curvature,curvature\n1,2\n"),
        ("a.csv", "noise\n1\n"),
        ("a.csv", "curvature,noise\n"),
        ("a.csv", ""),
        ("a.csv", b"\xff\xfe\x00"),
        ("a.npy", b"not numpy"),
        ("a.npy", b""),
        ("a.xls", "1\n"),
    ],
)
def test_files_that_are_no_spectrum(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ParameterError, match="spectrum must"):
        read_spectrum(tmp_path / name)
    with pytest.raises(ParameterError, match="spectrum must be readable"):
        read_spectrum(tmp_path / f"no{name.replace('xls', 'csv')}")
    np.save(tmp_path / "b.npy", np.array([1 + 2j]))
    with pytest.raises(ParameterError, match="spectrum must"):
        read_spectrum(tmp_path / "b.npy")


def test_every_command_takes_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "h.csv", [H, C, M, S])
    seen = []

    class Seen(Exception):  # noqa: N818
        pass

    def look(problem, *args, **options):
        seen.append(getattr(problem, "problem", problem))
        raise Seen

    where = {"simulate": "compare", "scaling": "run", "schedule": "run", "verify": "agreement"}
    for command, function in where.items():
        monkeypatch.setattr(f"mcnqm.cli.{command}.{function}", look)
        for k, problem in enumerate(("--spectrum h.csv", OF_PROBLEM)):
            output = f" --output {k}.nc" if command == "scaling" else ""
            assert in_this_process(monkeypatch, capsys, f"mcnqm {command} {problem}{output}")[0] == 70
    assert seen == [NoisyQuadratic(H, C, M, S), PROBLEM] * len(where)
    for option in ("-d 3", "--exponent 1", "--noise-exponent 1", "--initial-std 1"):
        code, _, err = in_this_process(monkeypatch, capsys, f"mcnqm simulate --spectrum h.csv {option}")
        assert code == 2
        assert "must be left out" in err
    save(tmp_path / "bad.csv", [-H])
    code, _, err = in_this_process(monkeypatch, capsys, "mcnqm simulate --spectrum bad.csv --output runs.nc")
    assert code == 2
    assert "curvature must be > 0, got -1.0" in err
    assert not (tmp_path / "runs.nc").exists()


@pytest.mark.parametrize("view", ["ensemble", "distribution", "paths", "phase", "state", "heatmap"])
def test_views_of_a_run(tmp_path, monkeypatch, capsys, view):
    monkeypatch.chdir(tmp_path)
    specs = {"heatmap": "sgd lr=0.1,0.2,0.4", "state": "adam lr=0.01"}
    line = (
        f"mcnqm simulate -o '{specs.get(view, 'sgd lr=0.1 momentum=0.9')}' -b {'4,8' if view == 'heatmap' else 8} "
        f"-n 60 -r 40 -d 20 --coordinates 3 --record-state --figure a.png --view {view}"
    )
    code, _, err = in_this_process(monkeypatch, capsys, line)
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
