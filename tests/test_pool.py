"""What is left running when `mcnqm.engine.Pool` is interrupted: nothing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mcnqm.engine import Pool


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
