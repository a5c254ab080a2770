"""The same bits, however a run is cut: threads, processes, shard sizes, other lanes, other records."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from selection import mostly_slow

import mcnqm
from mcnqm.engine import Job, March, Pool, run_loss
from mcnqm.kernels.shards import ShardState
from mcnqm.progress import NoMeter
from mcnqm.record import recorded_steps
from mcnqm.settings import settings_of

PROBLEM = mcnqm.NoisyQuadratic.power_law(dim=333)
OPTIMIZERS = {
    "SGD": mcnqm.SGD(lr=np.geomspace(0.01, 0.5, 21)),
    "heavy ball": mcnqm.SGD(lr=np.geomspace(0.01, 0.2, 21), momentum=0.9),
    "Nesterov": mcnqm.SGD(lr=np.geomspace(0.01, 0.2, 21), momentum=0.9, nesterov=True, precondition=0.3),
    "Adam": mcnqm.Adam(lr=np.geomspace(1e-3, 0.1, 21), weight_decay=0.01),
    "RMSProp": mcnqm.RMSProp(lr=np.geomspace(1e-3, 0.1, 21)),
    "Lion": mcnqm.Lion(lr=np.geomspace(1e-3, 0.1, 21)),
}
SOME = mostly_slow(OPTIMIZERS, "SGD", "heavy ball", "Adam")
STEPS = 203  # a multiple of nothing


def run(optimizer, **options):
    return mcnqm.simulate(PROBLEM, optimizer, **{"batch_size": 4, "steps": STEPS, "trajectories": 5, **options})


@pytest.mark.parametrize("name", SOME)
def test_threads_and_repetition(name):
    once = run(OPTIMIZERS[name], threads=1)
    assert run(OPTIMIZERS[name], threads=1).identical(once)
    assert run(OPTIMIZERS[name], threads=2).identical(once)
    with ThreadPoolExecutor(3) as pool:
        assert run(OPTIMIZERS[name], executor=pool).identical(once)


def test_process_pool():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for optimizer in (OPTIMIZERS["heavy ball"], OPTIMIZERS["Adam"]):
            assert run(optimizer, executor=pool, coordinates=[0, 7]).identical(run(optimizer, coordinates=[0, 7]))
            # States go to and fro between stretches.
            job = Job(PROBLEM, optimizer, settings_of(optimizer, 4.0), np.arange(12, dtype=np.uint32), 5)
            away, here = March(job, Pool(pool), NoMeter()), March(job, Pool(), NoMeter())
            for stop in (40, 100, STEPS):
                record = np.array([stop])
                assert np.array_equal(away.advance(record).loss, here.advance(record).loss)


def test_a_state_is_its_lanes_to_another_process():
    """Not the buffer that they lie in."""
    buffer = np.arange(2 * 3 * 2 * 64.0).reshape(2, 3, 2, 64)
    state = ShardState(buffer[..., :8].transpose(0, 2, 1, 3), np.ones((1, 8)), np.empty((2, 0, 0, 8)), buffer)
    sent = pickle.dumps(state)
    assert len(sent) < 2 * state.lanes.nbytes
    back = pickle.loads(sent)
    assert back.buffer is None
    assert np.array_equal(back.lanes, state.lanes)
    assert np.array_equal(back.clock, state.clock)


@pytest.mark.parametrize("name", SOME)
def test_shard_sizes(name):
    optimizer = OPTIMIZERS[name]
    record = recorded_steps(STEPS)
    job = Job(PROBLEM, optimizer, settings_of(optimizer, 4.0), np.arange(19, dtype=np.uint32), 5)
    whole = run_loss(job, record, Pool(), NoMeter()).loss
    for most_lanes in (1, 8, 13, 20):
        assert np.array_equal(run_loss(job, record, Pool(), NoMeter(), most_lanes=most_lanes).loss, whole), most_lanes


@pytest.mark.parametrize("name", SOME)
def test_any_subset_of_the_lanes(name):
    optimizer = OPTIMIZERS[name]
    whole = run(optimizer, trajectories=40, batch_size=[1, 4])
    for k in (0, 10, 20):
        one = run(optimizer._replace(lr=float(optimizer.lr[k])), trajectories=3, batch_size=4)
        assert np.array_equal(one.loss, whole.loss.isel(lr=k, batch_size=1, trajectory=slice(3)))
    some = run(optimizer._replace(lr=optimizer.lr[4:17]), trajectories=11, batch_size=[4])
    assert np.array_equal(some.loss, whole.loss.isel(lr=slice(4, 17), batch_size=slice(1, 2), trajectory=slice(11)))


def test_momentum_zero_beside_others():
    """SGD without momentum has a kernel of its own; inside a sweep over momentum it does not."""
    both = run(mcnqm.SGD(lr=0.1, momentum=[0.0, 0.9]))
    assert np.array_equal(both.loss.isel(momentum=0), run(mcnqm.SGD(lr=0.1)).loss)


@pytest.mark.parametrize("name", SOME)
def test_records_and_length_do_not_matter(name):
    """Four steps in registers, single steps, and a run that ends elsewhere are the same arithmetic."""
    optimizer = OPTIMIZERS[name]
    every = run(optimizer, record=range(STEPS + 1))
    few = run(optimizer, record=[0, 1, 6, 64, 101, STEPS])
    assert np.array_equal(few.loss, every.loss.sel(step=few.step))
    assert np.array_equal(run(optimizer, steps=77).loss.isel(step=-1), every.loss.sel(step=77))


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("trajectories", [5, 30])
def test_a_march_in_stretches(name, trajectories):
    """Stopping anywhere, dropping settings and going on is the same as running through."""
    optimizer = OPTIMIZERS[name]
    job = Job(PROBLEM, optimizer, settings_of(optimizer, 4.0), np.arange(trajectories, dtype=np.uint32), 5)
    whole = run_loss(job, np.arange(STEPS + 1), Pool(), NoMeter()).loss
    march = March(job, Pool(), NoMeter())
    rng = np.random.default_rng(1)
    for start, stop in ((0, 50), (51, 128), (129, 131), (132, STEPS)):
        part = march.advance(np.arange(start, stop + 1)).loss
        assert march.step == stop
        assert np.array_equal(part, whole[march.alive, :, start : stop + 1])
        march.drop(rng.uniform(size=march.alive.size) < 0.4)
    assert 0 < march.alive.size < 10


@pytest.mark.parametrize("name", SOME)
def test_shards_that_share_a_setting_start_from_the_same_clock(name):
    """Trajectories in many narrow shards, more than are in flight at a time, over several stretches."""
    optimizer = OPTIMIZERS[name]._replace(lr=OPTIMIZERS[name].lr[3:5])
    job = Job(PROBLEM, optimizer, settings_of(optimizer, 4.0), np.arange(90, dtype=np.uint32), 5)
    whole = run_loss(job, np.arange(STEPS + 1), Pool(), NoMeter()).loss
    march = March(job, Pool(threads=1), NoMeter(), most_lanes=2)
    for start, stop in ((0, 50), (51, 128), (129, STEPS)):
        assert np.array_equal(march.advance(np.arange(start, stop + 1)).loss, whole[..., start : stop + 1])


def test_seeds_differ():
    assert not np.array_equal(run(OPTIMIZERS["SGD"], seed=0).loss, run(OPTIMIZERS["SGD"], seed=1).loss)
    assert not np.array_equal(run(OPTIMIZERS["SGD"], seed=0).loss, run(OPTIMIZERS["SGD"], seed=2**32).loss)


def test_more_workers_than_blocks():
    """Sums go over the blocks of coordinates first to last, whoever finishes first."""
    optimizer = mcnqm.SGD(lr=np.geomspace(0.01, 0.2, 3), momentum=0.9)
    options = {"batch_size": 4, "steps": 64, "trajectories": 70, "seed": 3}
    problem = mcnqm.NoisyQuadratic.power_law(dim=5000)
    once = mcnqm.simulate(problem, optimizer, **options, threads=1)
    for threads in (16, 64):
        assert mcnqm.simulate(problem, optimizer, **options, threads=threads).identical(once)
    with ThreadPoolExecutor(40) as pool:
        assert mcnqm.simulate(problem, optimizer, **options, executor=pool).identical(once)
