#!/usr/bin/env python
"""Plant faults in the package, drawn by seed, and list those that no test notices.

    python scripts/mutate.py --folder FOLDER --count 60 --seed 0
    python scripts/mutate.py --folder FOLDER --modules mcnqm/statistics.py mcnqm/tuning --count 20
    python scripts/mutate.py --folder FOLDER --report

Cosmic Ray (extra ``mutation``) finds the places and makes the faults, in a clone of the last commit under FOLDER; half
of them lie outside kernels and theory. For each, the tests of the module's own room run first and the default run after
them, until one fails. The same command continues an interrupted run. A fault that survives is either a hole in the
tests or changes nothing that anybody could see: look at each. Faults in a kernel make it compile anew, so they take
longest.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

_DEEP = ("mcnqm/kernels", "mcnqm/analytic")
"""Kernels and theory, whose arithmetic is tested best."""

_CONFIG = """[cosmic-ray]
module-path = {modules}
timeout = {timeout}.0
excluded-modules = []
test-command = {command}

[cosmic-ray.distributor]
name = "local"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the clone and the session are kept")
    parser.add_argument("--modules", nargs="+", default=["mcnqm"], help="files or folders to plant faults in")
    parser.add_argument("--count", type=int, default=60, help="faults to plant (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--room-only", action="store_true", help="run the tests of the module's own room only")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds after which a fault counts as noticed")
    parser.add_argument("--report", action="store_true", help="only list what is known")
    parser.add_argument("--test", metavar="MODE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.test:
        return run_tests(room_only=options.test == "room")
    if options.folder is None:
        parser.error("--folder is needed")
    folder = options.folder.resolve()
    session, config, tree = folder / "session.sqlite", folder / "config.toml", folder / "tree"
    if not options.report:
        if not session.exists():
            prepare(tree, session, config, options)
        subprocess.run([sys.executable, "-m", "cosmic_ray.cli", "exec", config, session], cwd=tree, check=True)
    return report(session)


def prepare(tree: Path, session: Path, config: Path, options: argparse.Namespace) -> None:
    """Clone the last commit, find all places for faults, and keep as many as were asked for."""
    tree.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "--quiet", ROOT, tree], check=True)
    mode = "room" if options.room_only else "all"
    command = f"{sys.executable} {Path(__file__).resolve()} --test {mode}"
    config.write_text(
        _CONFIG.format(modules=json.dumps(options.modules), timeout=options.timeout, command=json.dumps(command))
    )
    subprocess.run([sys.executable, "-m", "cosmic_ray.cli", "init", config, session], cwd=tree, check=True)
    from cosmic_ray.work_db import use_db  # noqa: PLC0415 - not needed by the tests' own process
    from cosmic_ray.work_item import WorkerOutcome, WorkResult  # noqa: PLC0415

    with use_db(session) as db:
        items = sorted(db.work_items, key=lambda item: (str(item.mutations[0].module_path), item.job_id))
        spans = {path: annotations(tree / path) for path in {item.mutations[0].module_path for item in items}}
        items = [item for item in items if not _is_annotation(item.mutations[0], spans)]
        items.sort(key=_place)
        draw = random.Random(options.seed)
        deep = [item for item in items if str(item.mutations[0].module_path).startswith(_DEEP)]
        other = [item for item in items if item not in deep]
        some = draw.sample(other, min(len(other), options.count - min(len(deep), options.count // 2)))
        some += draw.sample(deep, min(len(deep), options.count - len(some)))
        chosen = {item.job_id for item in some}
        rest = [item.job_id for item in db.work_items if item.job_id not in chosen]
        db.set_multiple_results(rest, WorkResult(WorkerOutcome.SKIPPED))
    print(f"{len(items)} places, {len(chosen)} drawn")


def _place(item: Any) -> tuple[Any, ...]:
    """An order that does not depend on random job numbers."""
    one = item.mutations[0]
    return str(one.module_path), one.start_pos, one.operator_name, one.occurrence


def annotations(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations begin and end: a fault there changes nothing."""
    found: list[Any] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        found += [getattr(node, name, None) for name in ("annotation", "returns")]
    return [((a.lineno, a.col_offset), (a.end_lineno, a.end_col_offset)) for a in found if a is not None]


def _is_annotation(mutation: Any, spans: dict[Path, list[tuple[Any, Any]]]) -> bool:
    return any(start <= mutation.start_pos <= stop for start, stop in spans[mutation.module_path])


def run_tests(*, room_only: bool) -> int:
    """Tests of the room of what is changed, then all others; stops at the first failure."""
    changed = subprocess.run(["git", "diff", "--name-only"], capture_output=True, text=True, check=True).stdout.split()
    rooms = sorted({_room(Path(name)) for name in changed})
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    for where in ([*rooms], []) if rooms else ([],):
        if not where and room_only and rooms:
            break
        code = subprocess.run([*pytest, *where], check=False).returncode
        if code not in (0, 5):  # 5: no tests there
            return code
    return 0


def _room(path: Path) -> str:
    """The tests that mirror a module: its folder's, or the file of its name."""
    if len(path.parts) > 2 and (Path("tests") / path.parts[1]).is_dir():
        return f"tests/{path.parts[1]}"
    named = Path("tests") / f"test_{path.stem}.py"
    return str(named) if named.exists() else "tests"


def report(session: Path) -> int:
    """Print what became of each fault; 1 if any survived."""
    from cosmic_ray.work_db import use_db  # noqa: PLC0415
    from cosmic_ray.work_item import WorkerOutcome  # noqa: PLC0415

    survived, noticed = [], 0
    with use_db(session) as db:
        waiting = len(list(db.pending_work_items))
        for item, result in db.completed_work_items:
            if result.worker_outcome == WorkerOutcome.SKIPPED:
                continue
            noticed += result.is_killed
            if not result.is_killed:
                survived.append((item.mutations[0], result.diff))
    for mutation, diff in sorted(survived, key=lambda pair: (str(pair[0].module_path), pair[0].start_pos)):
        print(f"\n{mutation.module_path}:{mutation.start_pos[0]} {mutation.operator_name}\n{diff}")
    print(f"{noticed} noticed, {len(survived)} survived, {waiting} to go")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
