"""Pools: what is left running when one is interrupted (nothing), and what executors of others may do."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import mcnqm
from mcnqm import ParameterError
from mcnqm.engine import CancellableExecutor, Job, Pool, run_loss
from mcnqm.errors import ExecutorError
from mcnqm.progress import NoMeter
from mcnqm.settings import settings_of


class InterruptedAtFirst(ThreadPoolExecutor):
    """Ctrl-C comes after the task was handed on and before anybody learns of it."""

    def submit(self, fn, /, *args, **kwargs):
        super().submit(fn, *args, **kwargs)
        raise KeyboardInterrupt


def test_ctrl_c_within_the_first_submit_stops_the_task():
    ended = threading.Event()

    def run(cancel):
        while not cancel[0]:
            pass
        ended.set()

    with InterruptedAtFirst(1) as executor:
        pool = Pool(executor)
        try:
            with pytest.raises(KeyboardInterrupt):
                list(pool.map(run, [(pool.cancel,)]))
            assert ended.wait(10)
        finally:
            pool.cancel[0] = 1


def test_a_caller_that_has_all_it_wants_cancels_nothing():
    with ThreadPoolExecutor(1) as executor:
        pool = Pool(executor)
        results = pool.map(abs, [(-1,)])
        assert next(results) == 1
        results.close()
        assert pool.cancel[0] == 0
        results = pool.map(abs, [(-1,), (-2,)])
        assert next(results) == 1
        results.close()
        assert pool.cancel[0] == 1


class Twice(Executor):
    """Runs every task twice, as one does that hedges or tries again; as it came, or in another process's copy."""

    def __init__(self):
        self.threads = ThreadPoolExecutor(2)

    def submit(self, fn, /, *args, **kwargs):
        def both():
            fn(*args, **kwargs)
            return fn(*args, **kwargs)

        return self.threads.submit(both)


class TwiceInThreads(ThreadPoolExecutor):
    """The same, known to be threads of this process: tasks come as they are."""

    def submit(self, fn, /, *args, **kwargs):
        def both():
            fn(*args, **kwargs)
            return fn(*args, **kwargs)

        return super().submit(both)


OPTIMIZERS = [mcnqm.SGD(lr=[0.005, 0.01], momentum=0.5), mcnqm.Adam(lr=[0.01, 0.02])]


@pytest.mark.parametrize("make", [Twice, lambda: TwiceInThreads(2)], ids=["bytes", "threads"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tasks_are_pure_functions(make, optimizer):
    """Run twice, they answer the same: a task leaves what it was given as it was."""
    problem = mcnqm.NoisyQuadratic.power_law(20)
    found = mcnqm.steps_to_target(problem, optimizer, 16, 0.3, executor=make(), trajectories=8)
    assert (found.steps > 70).any(), "several stretches"
    assert found.identical(mcnqm.steps_to_target(problem, optimizer, 16, 0.3, trajectories=8))


def test_own_threads_advance_states_in_place():
    """They run each task once, and to copy every state would cost time."""
    assert Pool().own
    with Pool().shared() as gate:
        assert Pool(gate).own
    with ThreadPoolExecutor(1) as executor:
        assert not Pool(executor).own
        with Pool(executor).shared() as gate:
            assert not Pool(gate).own


class Broken(Executor):
    def __init__(self, future):
        self.future = future

    def submit(self, fn, /, *args, **kwargs):
        return self.future


def failed(error):
    future = Future()
    future.set_exception(error)
    return future


def cancelled():
    future = Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    return future


class SilentError(Exception):
    """An error without a word, as of a scheduler that died."""


@pytest.mark.parametrize(
    ("future", "kind", "message"),
    [
        (None, ParameterError, "executor must have a submit that returns futures, not None"),
        (failed(SilentError()), ExecutorError, "the executor failed with SilentError, without a message"),
        (cancelled(), ExecutorError, "cancelled a task: its scheduler or its workers may have ended"),
        (failed(OSError("the wire broke")), OSError, "the wire broke"),
    ],
    ids=["nothing", "silent", "cancelled", "said"],
)
@pytest.mark.parametrize("gated", [False, True])
def test_what_an_executor_fails_with_is_said(future, kind, message, gated):
    executor = Broken(future)
    pool = Pool(CancellableExecutor(executor)) if gated else Pool(executor)
    with pytest.raises(kind, match=message):
        list(pool.map(abs, [(1,)]))


class Elsewhere(Executor):
    """A worker that lacks a module of the user's."""

    def submit(self, fn, /, *args, **kwargs):
        future, mine = Future(), sys.modules.pop("mine", None)
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        finally:
            if mine is not None:
                sys.modules["mine"] = mine
        return future


def test_a_worker_without_the_users_module(monkeypatch):
    mine = types.ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", mine)
    code = (
        "from typing import NamedTuple\nimport mcnqm\n"
        "@mcnqm.hyperparameters()\nclass Mine(NamedTuple):\n    lr: float\n"
        "@mcnqm.update_rule(Mine)\ndef update(p, c, g, theta, s):\n    return theta - p.lr * g, s\n"
    )
    exec(code, mine.__dict__)
    with pytest.raises(ParameterError, match=r"executor must have workers that can import .* No module named 'mine'"):
        mcnqm.simulate(mcnqm.NoisyQuadratic.power_law(3), mine.Mine(lr=0.1), 4, 5, executor=Elsewhere())


def test_an_interrupted_wait_does_not_wait_for_a_thread_that_compiles():
    """It takes seconds, and cannot be told."""
    begun, over = threading.Event(), threading.Event()

    def compile_something():
        begun.set()
        over.wait(20)

    def interrupt():
        begun.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    pool = Pool(threads=1)
    results = pool.map(compile_something, [()])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            next(results)
        assert time.monotonic() - start < 5
        assert pool.cancel[0] == 1
    finally:
        signal.signal(signal.SIGINT, before)
        over.set()


def test_many_examples_are_left_at_once():
    """A run that draws a million examples a step looks at the flag within each step, not between blocks of them."""
    problem = mcnqm.NoisyQuadratic.power_law(10)
    settings = settings_of(mcnqm.SGD(lr=0.1), 1e6)
    job = Job(problem, mcnqm.SGD(lr=0.1), settings, np.arange(2, dtype=np.uint32), 0, per_example=True)
    warm = replace(job, settings=settings_of(mcnqm.SGD(lr=0.1), 2.0))
    run_loss(warm, np.array([0, 1]), Pool(threads=1), NoMeter())
    pool = Pool(threads=1)
    running = threading.Thread(target=run_loss, args=(job, np.array([0, 4096]), pool, NoMeter()))
    running.start()
    time.sleep(0.5)
    assert running.is_alive()
    pool.cancel[0] = 1
    running.join(2)
    assert not running.is_alive()
