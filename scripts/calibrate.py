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
import subprocess
import sys
from pathlib import Path

from calibration.cells import CELLS
from calibration.report import Line, lines_of, markdown, show
from calibration.store import Store
from calibration.work import LARGE, chosen, run
from rich.console import Console

from mcnqm import __version__
from mcnqm.files import write_text


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
    console.print(f"sources {store.key} ({note}); two hundred seeds of these cost {_minutes(single)} of one core")
    if options.markdown:
        seeds = max(line.summary.clusters for line in single)
        write_text(options.markdown, markdown(groups, single, store.key, note, seeds))
    return 0 if complete else 1


def _minutes(lines: list[Line]) -> str:
    """Processor time of two hundred seeds of each cell, a fifth at d = 1000."""
    costs = {(x.group, x.name): x.seconds * (40 if f"d={LARGE}" in x.name else 200) for x in lines}
    return f"{sum(costs.values()) / 60:.0f} min"


if __name__ == "__main__":
    sys.exit(main())
