"""Work in processes: right answers first, then the cells' answers, kept as they come."""

from __future__ import annotations

import fnmatch
import signal
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from calibration.cells import CELLS, Cell, seed_of
from calibration.store import Answer, Store

__all__ = ["LARGE", "chosen", "run", "seeds_of"]

LARGE = 1000
"""Coordinates from which on cells get a fifth of the seeds."""


def find_truths(folder: Path, which: int) -> None:
    """Right answers of a cell, in a worker."""
    start = time.process_time()
    cell = CELLS[which]
    truths = cell.truths()
    Store(folder).keep_truths(cell, truths, time.process_time() - start)


def measure(folder: Path, which: int, seeds: list[int]) -> None:
    """Answers of a cell to some seeds, in a worker."""
    cell, store = CELLS[which], Store(folder)
    truths = store.truths(cell)
    if truths is None:
        raise RuntimeError(f"no right answers of {cell.label} in {folder}")
    answers = []
    for k in seeds:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            start = time.process_time()
            estimates = cell.measure(seed_of(cell, k), truths)
            seconds = time.process_time() - start
        answers.append(Answer(k, estimates, seconds, bool(caught)))
    store.keep(cell, answers)


def chosen(pattern: str | None) -> list[int]:
    """Numbers of the cells whose group and label hold a pattern; * and ? are wild."""
    names = [f"{cell.group}: {cell.label}".lower() for cell in CELLS]
    wanted = f"*{(pattern or '').lower()}*"
    return [k for k, name in enumerate(names) if fnmatch.fnmatchcase(name, wanted)]


def seeds_of(cell: Cell, seeds: int, first: int) -> range:
    """Seeds of a cell: fewer where each is dear."""
    return range(first, first + (max(1, seeds // 5) if cell.dim >= LARGE else seeds))


def ignore_interrupts() -> None:
    """Let the parent decide: a worker finishes what it has begun."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run(folder: Path, cells: list[int], seeds: int, first: int, workers: int, console: Console) -> bool:
    """Find what is missing; return whether all was found."""
    store = Store(folder)
    unknown = [k for k in cells if store.truths(CELLS[k]) is None]
    chunks = {k: store.missing(CELLS[k], seeds_of(CELLS[k], seeds, first)) for k in cells}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    failed = False
    # A fork would copy the state of Numba's threads.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=ignore_interrupts)
    running: dict[Future[None], str] = {}
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bar:
        try:
            for title, tasks in (
                ("right answers", [(find_truths, k, ()) for k in unknown]),
                ("answers", [(measure, k, (part,)) for k in cells for part in chunks[k]]),
            ):
                task = bar.add_task(title, total=len(tasks))
                running = {pool.submit(job, folder, k, *rest): CELLS[k].label for job, k, rest in tasks}
                while running:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        label = running.pop(future)
                        if error := future.exception():
                            failed = True
                            bar.console.print(f"{label}: {type(error).__name__}: {error}", markup=False)
                        bar.advance(task)
        except KeyboardInterrupt:
            failed = True
            bar.console.print("interrupted; what is finished is kept")
        finally:
            pool.shutdown(cancel_futures=True)
    return not failed
