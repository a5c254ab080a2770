"""Landscapes and noise of other kinds: the same bits however a run is cut, in any process; caches that know them."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from made_up_landscapes import Ripples, basin_gradient, basin_loss, basin_variance

import mcnqm
from mcnqm.engine import Job, Pool, run_loss
from mcnqm.kernels.gradients import kind_of
from mcnqm.problems.landscapes import give_functions
from mcnqm.progress import NoMeter
from mcnqm.record import recorded_steps
from mcnqm.settings import settings_of

STEPS = 203  # a multiple of nothing
PROBLEMS = {
    "multiplicative": mcnqm.NoisyQuadratic.power_law(77, multiplicative_noise=0.3),
    "Student": mcnqm.NoisyQuadratic.power_law(77, noise_df=3.0),
    "wells": mcnqm.DoubleWell(dim=77, initial_std=0.3),
    "ripples": Ripples(curvature=1.0 / np.arange(1, 78)),
}
RATES = np.geomspace(0.01, 0.2, 21)


@pytest.mark.parametrize("name", PROBLEMS)
def test_shard_sizes_and_layouts(name):
    problem, optimizer, record = PROBLEMS[name], mcnqm.SGD(lr=RATES), recorded_steps(STEPS)
    job = Job(problem, optimizer, settings_of(optimizer, 4.0), np.arange(19, dtype=np.uint32), 5)
    whole = run_loss(job, record, Pool(), NoMeter()).loss
    for most_lanes in (1, 8, 13, 20):
        assert np.array_equal(run_loss(job, record, Pool(), NoMeter(), most_lanes=most_lanes).loss, whole), most_lanes
    alone = mcnqm.SGD(lr=RATES[3])
    one = Job(problem, alone, settings_of(alone, 4.0), np.arange(19, dtype=np.uint32), 5)
    assert np.array_equal(run_loss(one, record, Pool(threads=1), NoMeter()).loss[0], whole[3])


def test_process_pool():
    """Workers import a user's landscape from its module."""
    optimizer = mcnqm.SGD(lr=RATES)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for problem in (PROBLEMS["ripples"], PROBLEMS["Student"]):
            away = mcnqm.simulate(problem, optimizer, 4, STEPS, trajectories=5, coordinates=[0, 7], executor=pool)
            assert away.identical(mcnqm.simulate(problem, optimizer, 4, STEPS, trajectories=5, coordinates=[0, 7]))


def test_a_fingerprint_knows_functions_and_fields():
    def made(loss=basin_loss, gradient=basin_gradient, variance=basin_variance, fields=("depth", "noise", "edge")):
        numbers = NamedTuple("Made", [(name, float) for name in fields])  # type: ignore[misc]
        mcnqm.landscape(loss, gradient, variance)(numbers)
        return kind_of(numbers).fingerprint

    same = made()
    assert made() == same
    assert made(loss=lambda x, p: 2.0 * basin_loss(x, p)) != same
    assert made(gradient=lambda x, p: 2.0 * basin_gradient(x, p)) != same
    assert made(variance=lambda x, p: 2.0 * p.noise) != same
    assert made(fields=("noise", "depth", "edge")) != same


@pytest.mark.parametrize(
    ("variance", "name", "message"),
    [
        (lambda x, p: unknown_function(x), "variance", "unknown_function"),  # noqa: F821
        (lambda x, p: str(x), "variance", "return a number|compile with Numba"),
        (lambda x, p: (p.noise, p.noise)[int(np.sign(x * 0)) :], "variance", "return a number|compile with Numba"),
    ],
)
def test_functions_that_do_not_compile(variance, name, message):
    """They may be fine in Python; the first run says in one line what Numba cannot do."""

    class numbers(NamedTuple):  # noqa: N801
        depth: float
        noise: float
        edge: float

    made = mcnqm.landscape(basin_loss, basin_gradient, basin_variance)(numbers)
    problem = made(depth=1.0, noise=1.0, edge=1.0)
    give_functions(numbers, basin_loss, basin_gradient, variance)
    with pytest.raises(mcnqm.ParameterError, match=message) as error:
        mcnqm.simulate(problem, mcnqm.SGD(lr=0.1), 4, 10)
    assert error.value.name == name
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_kernels_of_a_landscape_are_cached(tmp_path):
    """Of one in a module; and an edit of it is seen."""
    source = Path(__file__).parents[1].joinpath("made_up_landscapes.py").read_text()
    module = tmp_path / "my_landscapes.py"
    script = (
        "import my_landscapes, mcnqm\n"
        "runs = mcnqm.simulate(my_landscapes.Ripples(curvature=1.0), mcnqm.SGD(lr=0.1), 4, 50, trajectories=2)\n"
        "print(float(runs.risk[-1]))\n"
    )
    cache = tmp_path / "cache"

    def run(text):
        module.write_text(text)
        path = f"{tmp_path}:{Path(mcnqm.__file__).parents[1]}"
        env = {"PYTHONPATH": path, "NUMBA_CACHE_DIR": str(cache), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        return float(done.stdout), {p.name: p.stat().st_mtime_ns for p in cache.rglob("*my_landscapes*.nbc")}

    first, files = run(source)
    again, same = run(source)
    assert files
    assert (again, same) == (first, files)
    edited, more = run(source.replace("p.depth * np.sin(theta)", "p.depth * np.sin(theta) + 0.0"))
    assert edited == pytest.approx(first)
    assert len(more) > len(files)
