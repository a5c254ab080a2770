"""Where shards run: our own threads, or anything with `submit`, several callers at once, and how all of it stops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from mcnqm.domains import integer
from mcnqm.errors import ExecutorError, ParameterError
from mcnqm.kernels.shards import new_cancel_flag

__all__ = ["CancellableExecutor", "ExecutorClosed", "Pool"]

T = TypeVar("T")

_MOST_THREADS = 2**12
"""More threads than any machine has cores."""

_POLL = 0.1
"""Seconds after which somebody who waits for a result looks whether the gate was closed."""


_UNPACKED = (pickle.PicklingError, AttributeError, TypeError)
"""What pickling raises where it cannot."""

_IMPORTABLE = (
    "have workers that can import the modules of the optimizer and the problem "
    "(one that is defined in a script or a notebook is to move to a module of its own)"
)


class ExecutorClosed(RuntimeError):  # noqa: N818 - not an error, unless somebody still wants results
    """The gate to the workers was closed."""


class CancellableExecutor(Executor):
    """An executor that several threads share, and that one of them can close for all.

    Once it is closed it takes no more tasks, kernels that run under it return early, and every `Pool.map` under it ends
    with `ExecutorClosed` rather than with what they left.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        That does the work. It is not shut down.
    own : bool
        Whether its threads are our own: see `Pool.own`.
    """

    def __init__(self, executor: Executor, *, own: bool = False) -> None:
        self._executor = executor
        self.own = own
        self.shares_memory = own or isinstance(executor, ThreadPoolExecutor)
        self._max_workers = getattr(executor, "_max_workers", 1) or 1
        self.cancel = new_cancel_flag()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Hand a task on."""
        self.check()
        return self._executor.submit(fn, *args, **kwargs)

    def check(self) -> None:
        """Raise `ExecutorClosed` if the gate is."""
        if self.cancel[0]:
            raise ExecutorClosed

    def close(self) -> None:
        """Take no more tasks."""
        self.cancel[0] = 1


class Pool:
    """Runs functions over tasks on an executor, results in order, and cleans up after an interruption.

    Parameters
    ----------
    executor : concurrent.futures.Executor, optional
        Anything with `submit`: threads, processes, a Dask cluster's. By default, threads of our own.
    threads : int, optional
        How many, without an executor. By default one per available core.

    Attributes
    ----------
    own : bool
        Whether tasks run in threads of our own, once each, so that they may use up what they were given. Any other
        executor may run a task twice, and gets tasks that are pure functions.
    """

    def __init__(self, executor: Executor | None = None, threads: int | None = None) -> None:
        if executor is not None and threads is not None:
            raise ParameterError("threads", threads, "be None when an executor is given")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise ParameterError("executor", executor, "have a submit method, as concurrent.futures executors do")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = cores if threads is None else integer("threads", threads, 1, _MOST_THREADS)
        self.executor = executor
        self.cancel = new_cancel_flag()
        self._unpacked: Exception | None = None
        self.own = executor is None
        self._shares_memory = self.own or isinstance(executor, ThreadPoolExecutor)
        if isinstance(executor, CancellableExecutor):
            self.cancel, self.workers = executor.cancel, executor._max_workers
            self.own, self._shares_memory = executor.own, executor.shares_memory

    @contextmanager
    def shared(self) -> Iterator[CancellableExecutor]:
        """A gate to the same workers, for several pools at once."""
        with self._submitter() as executor:
            yield CancellableExecutor(executor, own=self.own)

    @contextmanager
    def _submitter(self) -> Iterator[Executor]:
        if self.executor is not None:
            yield self.executor
            return
        threads = ThreadPoolExecutor(self.workers, thread_name_prefix="mcnqm")
        patient = True
        try:
            yield threads
        except KeyboardInterrupt:
            # Kernels return at once. A thread that compiles one cannot be told, and ends by itself in some seconds.
            patient = False
            raise
        finally:
            threads.shutdown(wait=patient, cancel_futures=True)

    def _submit(self, executor: Executor, function: Callable[..., T], task: tuple[Any, ...]) -> Future[T]:
        """Hand a task to the executor: as it is to threads, as bytes to workers elsewhere.

        What a worker fails to unpack inside our function is an error of the task, with a message; what it fails to
        unpack before may be none, and the answer never comes.
        """
        packed = None
        if not self._shares_memory:
            try:
                packed = pickle.dumps((function, task))
            except _UNPACKED as error:  # the executor may know better how
                self._unpacked = error
        future: Any = executor.submit(function, *task) if packed is None else executor.submit(unpack_and_run, packed)
        if not callable(getattr(future, "result", None)):
            raise ParameterError("executor", self.executor, f"have a submit that returns futures, not {future!r}")
        return future  # type: ignore[no-any-return]

    def _next(self, pending: deque[Future[T]]) -> T:
        gate = self.executor if isinstance(self.executor, CancellableExecutor) else None
        future = pending[0]  # stays among the pending while we wait, to be cancelled with them
        try:
            result: T = _patiently(future, gate)
        except (concurrent.futures.CancelledError, asyncio.CancelledError) as error:
            if gate is not None:
                gate.check()
            raise ExecutorError(
                "the executor cancelled a task: its scheduler or its workers may have ended"
                + (f" ({error})" if str(error) else "")
            ) from error
        except Exception as error:
            if gate is not None:
                gate.check()
            if self._unpacked is not None and isinstance(error, _UNPACKED):
                raise ParameterError("executor", str(self._unpacked).split("\n")[0], _IMPORTABLE) from None
            if not str(error) and not self.own:
                raise ExecutorError(f"the executor failed with {type(error).__name__}, without a message") from error
            raise
        if gate is not None:
            gate.check()  # the kernel may have returned early
        pending.popleft()
        return result

    def map(self, function: Callable[..., T], tasks: Iterable[tuple[Any, ...]]) -> Generator[T, None, None]:
        """Yield ``function(*task)`` for each task, in order, with a bounded number in flight."""
        # Kernels in our own threads see the flag at once; a copy of it in another process never changes, and
        # such a worker finishes the shard it is at.
        window = 4 * max(self.workers, getattr(self.executor, "_max_workers", 1) or 1)
        pending: deque[Future[T]] = deque()
        with self._submitter() as executor:
            try:
                for task in tasks:
                    pending.append(self._submit(executor, function, task))
                    if len(pending) >= window:
                        yield self._next(pending)
                while pending:
                    yield self._next(pending)
            except BaseException as stopped:
                # Ctrl-C within `submit` leaves a task that runs and that we never saw; a caller that has all results
                # and takes no more leaves none.
                if pending or not isinstance(stopped, GeneratorExit):
                    self.cancel[0] = 1
                for future in pending:
                    if callable(getattr(future, "cancel", None)):
                        future.cancel()
                raise


def _patiently(future: Any, gate: CancellableExecutor | None) -> Any:
    """The result, unless a gate is closed meanwhile: a worker may be compiling, which takes seconds.

    A signal that comes just before a wait begins does not end the wait, so none is long.
    """
    while isinstance(future, Future):
        try:
            return future.result(timeout=_POLL)
        except TimeoutError:
            if future.done():  # it is the task's own
                raise
            if gate is not None:
                gate.check()
    return future.result()


def unpack_and_run(packed: bytes) -> Any:
    """Carry out a task that travelled as bytes.

    Raises
    ------
    ParameterError
        If this worker lacks something that the task is made of.
    """
    try:
        function, task = pickle.loads(packed)
    except (ImportError, AttributeError) as error:
        raise ParameterError("executor", f"{type(error).__name__}: {error}", _IMPORTABLE) from None
    return function(*task)
