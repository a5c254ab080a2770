"""Checkpoints: the broken is computed again, the foreign is refused by name, and nobody else's files are lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest
import xarray as xr

from mcnqm import NoisyQuadratic, ParameterError
from mcnqm.checkpoint import Checkpoint
from mcnqm.studies import chains
from mcnqm.studies.contenders import CONTENDERS
from mcnqm.studies.scaling import ScalingConfig, cells_of, run

CONFIG = {"target": 0.1, "problem": {"dim": 10}, "mcnqm_version": "0"}


@pytest.fixture(scope="module")
def config():
    problem = NoisyQuadratic.power_law(10)
    return ScalingConfig(problem, {"sgd": CONTENDERS["sgd"]}, batch_sizes=(16, 64), target=0.1)


@pytest.fixture(scope="module")
def study(config):
    return run(config)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"steps": ', '"steps": 1'),
        lambda text: "[]",
        lambda text: "{}",
        lambda text: '{"steps": 1.0}',
        lambda text: "\udcff",
    ],
    ids=["empty", "torn", "edited", "list", "nothing", "old", "bytes"],
)
def test_a_broken_cell_is_computed_again(tmp_path, config, study, spoil):
    run(config, checkpoint=tmp_path / "parts")
    cell = tmp_path / "parts" / "sgd-16-simulated.json"
    before = cell.read_bytes()
    cell.write_bytes(spoil(before.decode()).encode("utf-8", "surrogateescape"))
    with pytest.warns(RuntimeWarning, match=r"sgd-16-simulated\.json is broken; this cell is computed again"):
        again = run(config, checkpoint=tmp_path / "parts")
    xr.testing.assert_identical(again, study)
    assert cell.read_bytes() == before


def test_what_was_kept_is_read_back_to_the_same_bits(tmp_path):
    content = {"steps": 0.1 + 0.2, "far": float("inf"), "none": float("nan"), "at_edge": False}
    with Checkpoint(tmp_path / "parts", CONFIG) as checkpoint:
        checkpoint.keep("cell", content)
    with Checkpoint(tmp_path / "parts", CONFIG) as checkpoint:
        found = checkpoint.find("cell")
        assert checkpoint.find("another") is None
    assert repr(found) == repr(content)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_a_broken_configuration_is_refused_by_its_path(tmp_path, text):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "config.json").write_text(text)
    with pytest.raises(ParameterError, match="checkpoint must hold the configuration") as caught, open_(tmp_path):
        pass
    assert str(tmp_path / "parts" / "config.json") in str(caught.value)


def open_(tmp_path, **changes):
    return Checkpoint(tmp_path / "parts", {**CONFIG, **changes})


def test_another_configuration_is_refused_by_the_option_that_differs(tmp_path):
    with open_(tmp_path):
        pass
    with pytest.raises(ParameterError, match=r"\(target is 0\.1 there and 0\.2 here\)"), open_(tmp_path, target=0.2):
        pass
    with (
        pytest.raises(ParameterError, match=r"\(problem\.dim is 10 there and 11 here\)") as caught,
        open_(tmp_path, problem={"dim": 11}),
    ):
        pass
    assert "config.json" in str(caught.value)
    with open_(tmp_path):
        pass


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine.txt").write_text("x")
    with pytest.raises(ParameterError, match=r"holds 'mine\.txt' and no config\.json"), open_(tmp_path):
        pass
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["mine.txt"]


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "parts").write_text("x")
    with pytest.raises(ParameterError, match="this is a file"), open_(tmp_path):
        pass
    assert (tmp_path / "parts").read_text() == "x"


def test_only_own_files_are_removed(tmp_path):
    with open_(tmp_path) as checkpoint:
        checkpoint.keep("cell", {"steps": 1.0})
        (tmp_path / "parts" / "mine.json").write_text("x")
        checkpoint.remove(["cell", "never"])
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["mine.json"]
    (tmp_path / "parts" / "mine.json").unlink()
    with open_(tmp_path) as checkpoint:
        checkpoint.keep("cell", {"steps": 1.0})
        checkpoint.remove(["cell"])
    assert list(tmp_path.iterdir()) == []


def test_after_its_end_nothing_is_written(tmp_path):
    with open_(tmp_path) as checkpoint:
        pass
    checkpoint.keep("cell", {"steps": 1.0})
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["config.json"]


def test_all_cells_of_a_study_are_known_by_name(tmp_path, config):
    run(config, checkpoint=tmp_path / "parts")
    kept = {path.stem for path in (tmp_path / "parts").iterdir()} - {"config"}
    assert kept == set(cells_of(config))


HOLDER = """
import sys, time
from mcnqm.checkpoint import Checkpoint
with Checkpoint(sys.argv[1], {"target": 0.1, "problem": {"dim": 10}, "mcnqm_version": "0"}):
    print("there", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works in the folder."""
    line = [sys.executable, "-c", HOLDER, str(tmp_path / "parts")]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "there\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_and_told_who_works_there(tmp_path, holder):
    begun = time.monotonic()
    with pytest.raises(ParameterError, match=f"process {holder.pid} on .*, since .* works there"), open_(tmp_path):
        pass
    assert time.monotonic() - begun < 5
    assert (tmp_path / "parts" / "lock").exists(), "the lock is the other's"


def test_the_lock_of_a_killed_process_is_none(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "parts" / "lock").exists()
    with open_(tmp_path) as checkpoint:
        checkpoint.keep("cell", {"steps": 1.0})
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["cell.json", "config.json"]


def test_two_studies_of_one_process(tmp_path):
    with (
        open_(tmp_path),
        pytest.raises(ParameterError, match=f"process {os.getpid()} on"),
        open_(tmp_path),
    ):
        pass


class _Dead(Executor):
    def submit(self, fn, /, *args, **kwargs):
        raise OSError("no workers at all")


def test_a_chain_that_never_began_hides_no_error(monkeypatch):
    """One chain after the other: when the first fails, the second is cancelled before it begins."""

    def one_at_a_time(workers, thread_name_prefix):
        return ThreadPoolExecutor(1, thread_name_prefix)

    monkeypatch.setattr(chains, "ThreadPoolExecutor", one_at_a_time)
    several = {name: CONTENDERS[name] for name in ("sgd", "nesterov", "lion")}
    config = ScalingConfig(NoisyQuadratic.power_law(10), several, batch_sizes=(16, 64), target=0.1)
    with pytest.raises(OSError, match="no workers at all"):
        run(config, executor=_Dead())


def test_a_configuration_is_plain(tmp_path, config):
    with Checkpoint(tmp_path / "parts", config.to_dict()):
        kept = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert kept == json.loads(json.dumps(config.to_dict()))
