"""The scaling study, small: what it answers, and that an interrupted one continues to the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

from mcnqm import NoisyQuadratic, ParameterError
from mcnqm.cli import main
from mcnqm.engine import CancellableExecutor, ExecutorClosed, Pool
from mcnqm.studies.contenders import CONTENDERS
from mcnqm.studies.scaling import ScalingConfig, run

COMMAND = [sys.executable, "-c", "from mcnqm.cli import main; main()", "scaling"]
SMALL = ["-d", "30", "--doublings", "7", "--target", "0.05", "-o", "sgd", "-o", "adam"]


@pytest.fixture(scope="module")
def study():
    config = ScalingConfig(
        NoisyQuadratic.power_law(100),
        {name: CONTENDERS[name] for name in ("sgd", "momentum", "adam")},
        batch_sizes=tuple(2**k for k in range(6)),
        target=0.05,
        trajectories=4,
        replicates=8,
    )
    return run(config)


def test_simulated_steps_and_rates_agree_with_theory(study):
    """|z| < 4.5, the errors including the local fit's own.

    Steps at every batch size. Rates where more than 250 steps are needed: with fewer, several rates share the smallest
    whole number of steps, and the exact best is whichever of them is found first.
    """
    linear = study.sel(optimizer=["sgd", "momentum"])
    for name, counted in (("steps", linear.steps > 0), ("effective_lr", linear.analytic_steps > 250)):
        z = ((linear[name] - linear[f"analytic_{name}"]) / linear[f"{name}_stderr"]).where(counted)
        assert np.abs(z).max() < 4.5, (name, z.values)
    assert (linear.analytic_steps > 250).sum() >= 6
    assert not study.at_edge.any()


def test_adam_agrees_with_the_mean_field(study):
    """Within 3 %, theory's own error, or 4.5 standard errors; what it says of the next batch size is far outside."""
    adam = study.sel(optimizer="adam")
    assert adam.theory == "mean field"
    off = np.abs(adam.analytic_steps - adam.steps)
    allowed = 0.03 * adam.steps + 4.5 * adam.steps_stderr
    assert (off < allowed).all(), (adam.steps.values, adam.analytic_steps.values)
    assert float(adam.theory_error) < 0.03
    of_another = adam.analytic_steps.values[:-1]
    assert (np.abs(of_another - adam.steps[1:]) > allowed[1:]).all()


@pytest.mark.slow
def test_every_regime_agrees_with_theory_at_the_full_size():
    """d = 1000, from noise to curvature: steps and rates of SGD and momentum, |z| < 4.5 each.

    Two errors at once are correlated, since both optimizers see the same noise. Rates where more than 100 steps are
    needed; below, whole steps decide, and the exact best is whichever of equals is found first.
    """
    config = ScalingConfig(
        contenders={name: CONTENDERS[name] for name in ("sgd", "momentum")},
        batch_sizes=tuple(4**k for k in range(9)),
    )
    study = run(config)
    for name, counted in (("steps", study.steps > 0), ("effective_lr", study.analytic_steps > 100)):
        z = ((study[name] - study[f"analytic_{name}"]) / study[f"{name}_stderr"]).where(counted)
        assert np.abs(z).max() < 4.5, (name, z.values)
    # Negative control: steps off by a tenth are rejected wherever they are known to 1 %.
    known = study.steps_stderr < 0.01 * study.steps
    wrong = np.abs(study.steps - 1.1 * study.analytic_steps) / study.steps_stderr
    assert known.sum() >= 8
    assert (wrong.where(known, np.inf) > 4.5).all()


def test_slopes_are_those_of_the_rules(study):
    """Linear for SGD and momentum, square root for Adam: within 0.15 on so small a problem, where the bend is near."""
    slope = study.slope.sel(optimizer=["sgd", "momentum", "adam"]).values
    assert np.abs(slope - [1.0, 1.0, 0.5]).max() < 0.15, slope
    assert (study.slope_low < study.slope).all()


def test_bounds_lie_below(study):
    assert (study.bayes_bound <= study.information_bound * (1 + 1e-9)).all()
    assert (study.bayes_bound < study.steps).all()


def test_killed_and_continued(tmp_path):
    """kill -9 in the middle; the same command goes on, to the bits of an uninterrupted run."""
    through = tmp_path / "through"
    through.mkdir()
    subprocess.run([*COMMAND, *SMALL], cwd=through, check=True, capture_output=True, timeout=300)
    broken = tmp_path / "broken"
    broken.mkdir()
    process = subprocess.Popen([*COMMAND, *SMALL], cwd=broken, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts = broken / "scaling.nc.parts"
    deadline = time.monotonic() + 120
    while len(list(parts.glob("*-simulated.json"))) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "scaling.nc").exists()
    kept = {path.name: path.read_bytes() for path in parts.glob("*-simulated.json")}
    subprocess.run([*COMMAND, *SMALL], cwd=broken, check=True, capture_output=True, timeout=300)
    assert len(kept) < 16, "killed in the middle, not at the end"
    with xr.open_dataset(through / "scaling.nc") as a, xr.open_dataset(broken / "scaling.nc") as b:
        xr.testing.assert_identical(a.load(), b.load())
    assert sorted(path.name for path in broken.iterdir()) == ["scaling.nc"]


class _Broken(ThreadPoolExecutor):
    """Workers that fail after a while."""

    left = 60

    def submit(self, fn, /, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise OSError("no more workers")
        return super().submit(fn, *args, **kwargs)


def test_what_ends_one_optimizer_ends_all(tmp_path):
    """The error is that of the one that failed, not that the others were told to stop; finished cells stay."""
    problem = NoisyQuadratic.power_law(30)
    three = {name: CONTENDERS[name] for name in ("sgd", "momentum", "adam")}
    config = ScalingConfig(problem, three, batch_sizes=(4, 16, 64), target=0.05)
    before = threading.active_count()
    with _Broken(2) as executor, pytest.raises(OSError, match="no more workers"):
        run(config, executor=executor, checkpoint=tmp_path / "parts")
    assert threading.active_count() <= before + 1  # theory's thread may be finishing its last cell
    assert not list((tmp_path / "parts").glob("*-4-simulated.json"))
    resumed = run(config, checkpoint=tmp_path / "parts")
    xr.testing.assert_identical(resumed, run(config))


def test_a_target_reached_at_the_start():
    config = ScalingConfig(NoisyQuadratic.power_law(8), {"sgd": CONTENDERS["sgd"]}, batch_sizes=(1, 64), target=5.0)
    study = run(config)
    assert (study.steps == 0).all()
    assert np.isnan(study.slope).all()


def test_a_closed_gate_lets_nothing_through():
    """Kernels that were told to return early leave garbage: nobody gets it, also where it is the last result."""
    gate = CancellableExecutor(ThreadPoolExecutor(1))
    started, closed = threading.Event(), threading.Event()

    def work(x):
        started.set()
        closed.wait(10)
        return x

    def close():
        started.wait(10)
        gate.close()
        closed.set()

    threading.Thread(target=close).start()
    with pytest.raises(ExecutorClosed):
        list(Pool(gate).map(work, [(1,)]))
    with pytest.raises(ExecutorClosed):
        list(Pool(gate).map(work, [(2,)]))
    assert Pool(gate).cancel is gate.cancel


def test_a_checkpoint_of_another_study_is_refused(tmp_path):
    problem = NoisyQuadratic.power_law(10)
    one = ScalingConfig(problem, {"sgd": CONTENDERS["sgd"]}, batch_sizes=(64,), target=0.1)
    run(one, checkpoint=tmp_path / "parts")
    other = ScalingConfig(problem, {"sgd": CONTENDERS["sgd"]}, batch_sizes=(64,), target=0.2)
    with pytest.raises(ParameterError, match="checkpoint must be continued with the configuration"):
        run(other, checkpoint=tmp_path / "parts")
    assert json.loads((tmp_path / "parts" / "config.json").read_text())["target"] == 0.1


def test_decays_held_in_examples():
    contender = CONTENDERS["adam-examples"]
    assert contender.at(16).beta2 == 0.999
    assert contender.at(64).beta2 == pytest.approx(0.999**4)
    assert CONTENDERS["momentum"].effective_lr({"lr": 0.1}) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"batch_sizes": (2, 1)}, "batch_sizes"),
        ({"batch_sizes": (0.5,)}, "batch_sizes"),
        ({"target": 0.0}, "target"),
        ({"replicates": 1}, "replicates"),
        ({"seed": -1}, "seed"),
        ({"contenders": {}}, "contenders"),
        ({"contenders": {"a b": CONTENDERS["sgd"], "a_b": CONTENDERS["adam"]}}, "contenders"),
    ],
)
def test_bad_configuration(changes, name):
    with pytest.raises(ParameterError) as caught:
        ScalingConfig(**changes)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "sgd lr=0.1"], "optimizer must leave out lr"),
        (["-o", "sgd momentum=linear(0.1,steps=9)"], "momentum must be the same at every step"),
        (["--target", "0.1,0.1"], "targets must have distinct values"),
        (["--target", "0.1,1e9"], "target must be below the risk at the start"),
        (["-o", "bgd"], "optimizer must be one of"),
        (["--doublings", "-1"], "doublings must be"),
        (["--output", "a.txt"], "output must end in .nc"),
    ],
)
def test_bad_command(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mcnqm", "scaling", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
