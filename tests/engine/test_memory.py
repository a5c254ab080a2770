"""What does not fit into memory is refused before the work, with how much, of what, and what to lower."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from command_line import in_this_process

import mcnqm
from mcnqm import memory

PROBLEM = mcnqm.NoisyQuadratic.power_law(1000)
SGD = mcnqm.SGD(lr=0.1)


@pytest.fixture
def no_work(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("it was to be refused before the work")

    monkeypatch.setattr("mcnqm.engine.executor.Pool.map", never)
    monkeypatch.setattr(sys.modules["mcnqm.simulation"], "replay", never)
    monkeypatch.setattr(memory, "available", lambda: 8e9)


CASES = {
    "paths": (
        lambda: mcnqm.simulate(PROBLEM, SGD, 4, 1000, trajectories=16384, coordinates=np.arange(1000)),
        r"trajectories must be lowered: paths of 1 setting x 16384 trajectories x \d+ records x 1000 coordinates, and "
        r"what else there is, need \d\d GB of memory, and 8 GB are available, got 16384",
    ),
    "losses": (lambda: mcnqm.simulate(PROBLEM, SGD, 4, 10, trajectories=2**27), "losses of 1 setting"),
    "dense record": (
        lambda: mcnqm.simulate(PROBLEM, SGD, 4, 10**6, trajectories=4096, record=np.arange(10**6)),
        "trajectories must be lowered: losses",
    ),
    "settings": (
        lambda: mcnqm.simulate(PROBLEM, mcnqm.SGD(lr=np.linspace(0.1, 1, 10**5)), np.arange(1, 10**5), 10),
        r"hyperparameters must be lowered: 9999900000 settings need",
    ),
    "settings x trajectories": (
        lambda: mcnqm.simulate(PROBLEM, mcnqm.SGD(lr=np.linspace(0.1, 1, 10**5)), 4, 10, trajectories=10**5),
        "losses of 100000 settings x 100000 trajectories",
    ),
    "a race": (
        lambda: mcnqm.steps_to_target(PROBLEM, mcnqm.Adam(lr=0.1), 4, trajectories=2**18, replicates=8),
        "trajectories must be lowered: the state of all lanes of",
    ),
    "agreement": (lambda: mcnqm.agreement(PROBLEM, SGD, 4, 100, trajectories=2**20), "paths of 1 setting"),
    "dimension": (lambda: mcnqm.NoisyQuadratic.power_law(10**12), "dim must be lowered: 1000000000000 coordinates"),
    "noise": (lambda: mcnqm.noise(0, range(1000), range(1000), 10**5), "steps must be lowered: normals of 1000"),
    "closed form, moments": (
        lambda: mcnqm.analytic.moments(PROBLEM, SGD, np.arange(1, 1001), 10**4, record=np.arange(10**4)),
        "record must be lowered: answers for 1000 settings x 10000 steps x 1000 coordinates need",
    ),
    "closed form, risk": (
        lambda: mcnqm.analytic.risk(
            PROBLEM, mcnqm.SGD(lr=np.linspace(0.1, 1, 10**5)), 4, 10**4, record=np.arange(10**4)
        ),
        "hyperparameters must be lowered: answers for 100000 settings x 10000 steps x 1 coordinates need",
    ),
    "closed form, steady state": (
        lambda: mcnqm.analytic.steady_state(
            PROBLEM, mcnqm.SGD(lr=np.linspace(0.1, 1, 10**6)), 4, coordinates=np.arange(1000)
        ),
        "hyperparameters must be lowered: answers for 1000000 settings x 1 steps x 1000 coordinates",
    ),
    "closed form, transition": (
        lambda: mcnqm.analytic.transition(PROBLEM, mcnqm.SGD(lr=np.linspace(0.1, 1, 10**6)), 4, 10),
        "hyperparameters must be lowered: answers for",
    ),
    "mean field": (
        lambda: mcnqm.analytic.mean_field.moments(PROBLEM, mcnqm.Adam(lr=0.1), 4, 10**6, record=np.arange(10**6)),
        "record must be lowered: answers for 1 settings x 1000000 steps x 1000 coordinates",
    ),
    "mean field, risk": (
        lambda: mcnqm.analytic.mean_field.risk(
            PROBLEM, mcnqm.Adam(lr=np.linspace(0.1, 1, 10**4)), 4, 10**5, record=np.arange(10**5)
        ),
        "record must be lowered: answers for 10000 settings x 100000 steps",
    ),
    "bound": (
        lambda: mcnqm.analytic.theorem1(PROBLEM, SGD, np.arange(1, 10**5), 10**5, record=np.arange(10**5)),
        "must be lowered: answers for 99999 settings x 100000 steps",
    ),
    "diffusion": (
        lambda: mcnqm.analytic.sde_risk(PROBLEM, SGD, np.arange(1, 10**5), 10**5, record=np.arange(10**5)),
        "must be lowered: answers for 99999 settings x 100000 steps",
    ),
    "multiplicity": (
        lambda: mcnqm.simulate(mcnqm.NoisyQuadratic([1.0, 0.5], multiplicity=[2**32 - 1, 8]), SGD, 4, 10),
        "problem must have at most 4294967296, got '4294967303 coordinates'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_before_the_work(no_work, name):
    call, message = CASES[name]
    with pytest.raises(mcnqm.ParameterError, match=message):
        call()


def test_what_fits_is_not_refused(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 3e8)
    mcnqm.simulate(mcnqm.NoisyQuadratic.power_law(10), SGD, 4, 100, trajectories=1000, coordinates=[0])


def test_what_is_there_is_what_the_process_may_have():
    """Of this machine at least a little and at most a petabyte; of a process with a limit, no more than that."""
    assert 1e7 < memory.available() < 1e15
    code = (
        "import resource; from mcnqm import memory\n"
        "used = memory.available()\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, resource.RLIM_INFINITY))\n"
        "assert 0.5 * 2**30 < memory.available() <= 2**30, memory.available()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_limit_of_a_container(tmp_path, monkeypatch):
    limit, use = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "_CGROUPS", ((limit, use),))
    limit.write_text("30000000\n")
    use.write_text("10000000\n")
    assert memory.available() == 2e7
    limit.write_text("max\n")
    assert memory.available() > 2e7


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line, message in [
        ("mcnqm simulate -d 1000000000000", "dim must be lowered: 1000000000000 coordinates need"),
        ("mcnqm simulate -d 10 -r 4000000000 -o 'sgd lr=0.1'", "trajectories must be lowered: losses of"),
        ("mcnqm scaling -d 1000000000000", "dim must be lowered"),
        ("mcnqm schedule -d 1000000000000", "dim must be lowered"),
        ("mcnqm verify -d 1000000000000", "dim must be lowered"),
    ]:
        code, _, err = in_this_process(monkeypatch, capsys, line)
        assert code == 2, line
        assert message in err
    assert list(tmp_path.iterdir()) == []
