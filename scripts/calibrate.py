"""How well is everything calibrated that mcnqm estimates from samples? Some seventy questions, two hundred seeds each.

    python scripts/calibrate.py --folder calibration [--seeds 200] [--workers 2] [--cells PATTERN] [--markdown PAGE]
    python scripts/calibrate.py --folder calibration --report
    python scripts/calibrate.py --list

Every question (cell) is one of those that users ask, through the public interface and with its defaults: the risk by
`simulate`, `steps_to_target`, `tune` of one hyperparameter and of two, the scaling study. Its right answer is exact, or
comes from many plain trajectories of other seeds. Printed are bias, coverage, r.m.s. z and the share of wrong answers,
for groups of cells against the criteria of `calibration.scores.faults`, then for each cell.

Answers are kept in the folder, one file for each cell and ten seeds, under a key of the sources of the estimators: an
interrupted run continues, and answers of other code are not mixed in. Right answers are kept there too. Interrupt it
with Ctrl-C: what is finished stays.
"""

from __future__ import annotations

import argparse
import fnmatch
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

from calibration.cells import CELLS, Cell, seed_of
from calibration.report import Line, lines_of, markdown, show
from calibration.store import Answer, Store
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mcnqm import __version__
from mcnqm.files import write_text

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


def version() -> str:
    """Commit, if this is a repository, else the version."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--tags"]
    try:
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"mcnqm {__version__}"
    return f"commit {found}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("calibration"), help="where answers are kept")
    parser.add_argument("--seeds", type=int, default=200, help="of each cell; a fifth at d = 1000 (default: 200)")
    parser.add_argument("--first-seed", type=int, default=0, help="to try seeds that nothing was built on")
    parser.add_argument("--cells", metavar="PATTERN", help="only cells whose name holds this; * and ? are wild")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (default: 2)")
    parser.add_argument("--list", action="store_true", help="list the cells and do nothing")
    parser.add_argument("--report", action="store_true", help="only print the tables of what is stored")
    parser.add_argument("--sources", metavar="KEY", help="with --report: of answers by other sources")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as a page")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)
    cells = chosen(options.cells)
    if options.list:
        for k in cells:
            cell = CELLS[k]
            console.print(f"{cell.group}: {cell.label}", markup=False)
        console.print(f"{len(cells)} cells")
        return 0
    if options.sources and not options.report:
        parser.error("--sources goes with --report")
    complete = True
    if not options.report:
        options.folder.mkdir(parents=True, exist_ok=True)
        complete = run(options.folder, cells, options.seeds, options.first_seed, options.workers, console)
    store = Store(options.folder, options.sources)
    groups, single = lines_of([CELLS[k] for k in cells], store)
    if not single:
        console.print(f"no answers of sources {store.key}; there are some of: {', '.join(store.others()) or 'none'}")
        return 1
    show(console, groups, single)
    note = version() if options.sources is None else "other sources than these"
    console.print(f"sources {store.key} ({note}); a full run costs {_hours(single)} of one core's time")
    if options.markdown:
        seeds = max(line.summary.clusters for line in single)
        write_text(options.markdown, markdown(groups, single, store.key, note, seeds))
    return 0 if complete else 1


def _hours(lines: list[Line]) -> str:
    """Time of two hundred seeds of each cell, a fifth at d = 1000."""
    costs = {line.name: line.seconds * (40 if f"d={LARGE}" in line.name else 200) for line in lines}
    return f"{sum(costs.values()) / 60:.0f} min"


if __name__ == "__main__":
    sys.exit(main())
