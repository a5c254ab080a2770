"""mcnqm beside what people would use instead: the same work in NumPy, Numba, PyTorch, JAX, optax and C.

    pip install -e ".[bench]" && python scripts/bench_peers.py --markdown peers.md --json peers.json

d = 1000, B = 16, float64, on one thread and on two:

(i)   one setting, 64 trajectories, 1024 steps;
(ii)  64 learning rates, 4 trajectories, 2048 steps;
(iii) the risk of Adam at 64 rates around the best, at the step where the best meets the target 0.01: seconds to a
      standard error of 1 %, and to the one that mcnqm reaches with 8 trajectories, from which on it uses its control
      variate unasked. Peers simulate as many trajectories as that needs.

(i) and (ii) each for heavy ball and Adam. Every tool is a process of its own that stays alive, all are asked in turn,
`--rounds` times over, so that a drift of the machine's speed meets them alike; medians are printed. A time counts only
if the losses of all rounds, one of them not timed, agree with the exact risk (heavy ball) or with that of many of our
trajectories (Adam): |z| <= 5 for every setting. What is not installed is skipped, with a message.

A tool that takes more than 4 s is timed once.

In (iii) a peer's time is that of its runs in (ii), scaled to the steps and the trajectories that it would need. Ours is
run in full; for 1 % with 4 trajectories, and counted as it is though its error is smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from peers import Task

import mcnqm
from mcnqm import analytic

PEERS = {
    "our_peer": ("mcnqm",),
    "c_peer": ("C, ziggurat",),
    "numba_peer": ("Numba, Generator", "Numba, np.random"),
    "numpy_peer": ("NumPy",),
    "torch_peer": ("torch.compile", "torch.optim"),
    "jax_peer": ("JAX, rbg", "JAX, unsafe_rbg", "JAX, threefry", "optax, rbg"),
}
LONG = 4.0
"""Seconds after which a tool is timed once only."""

BEST, CROSSING = 2.2e-3, 8600
"""Of Adam at B = 16: the best rate, and the step at which it meets the target (docs/scaling.md)."""


def rates_of(kind: str, settings: int) -> tuple[float, ...]:
    """Stable learning rates."""
    top = 0.1 if kind == "heavy ball" else 5e-3
    return tuple(np.geomspace(top / 30, top, settings).tolist()) if settings > 1 else (top,)


TASKS = {
    f"{kind}, ({case})": Task(kind, rates_of(kind, settings), trajectories, steps)
    for kind in ("heavy ball", "Adam")
    for case, settings, trajectories, steps in (("i", 1, 64, 1024), ("ii", 64, 4, 2048))
}

# ------------------------------------------------------------------------------------------------------------ workers


class Worker:
    """A tool's process."""

    def __init__(self, module: str, name: str, threads: int) -> None:
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads))
        here = str(Path(__file__).parent)
        command = [sys.executable, "-m", "peers.worker", module, name, str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment, cwd=here,
        )  # fmt: skip
        self.missing = self._answer()["missing"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": "it stopped"}

    def ask(self, task: Task, seed: int) -> dict[str, Any] | None:
        """One run, or None if the tool gave up."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"task": asdict(task), "seed": seed}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = self._answer()
        return answer if "seconds" in answer else None

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait()


# ------------------------------------------------------------------------------------------------------------- truth


def truth(task: Task, trajectories: int = 256) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Risk of every setting, its standard error, and the standard deviation of one trajectory's loss."""
    problem = mcnqm.NoisyQuadratic.power_law(task.dim)
    lr = np.array(task.rates)
    optimizer = mcnqm.SGD(lr=lr, momentum=0.9) if task.kind == "heavy ball" else mcnqm.Adam(lr=lr)
    runs = mcnqm.simulate(
        problem, optimizer, task.batch, task.steps, trajectories=trajectories, seed=99, record=[task.steps],
        control_variate=False,
    )  # fmt: skip
    loss = runs.loss.transpose("lr", "trajectory", "step").values[..., -1]
    spread = loss.std(axis=1, ddof=1)
    if task.kind == "heavy ball":
        exact = analytic.risk(problem, optimizer, task.batch, task.steps, record=[task.steps])
        return exact.risk.values[..., -1], np.zeros_like(spread), spread
    return loss.mean(axis=1), spread / np.sqrt(trajectories), spread


def farthest(losses: np.ndarray, known: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    """Largest |z| over settings of the mean loss, shape (settings, trajectories), against the truth."""
    risk, error, spread = known
    return float(np.abs((losses.mean(axis=1) - risk) / np.hypot(error, spread / np.sqrt(losses.shape[1]))).max())


def at_equal_error(threads: int, rounds: int) -> dict[str, Any]:
    """Case (iii): our times and errors, and the spread that a plain simulation averages over; medians over rates."""
    problem = mcnqm.NoisyQuadratic.power_law(1000)
    optimizer = mcnqm.Adam(lr=np.geomspace(BEST / 4, BEST * 4, 64))
    options = {"record": np.unique(np.linspace(CROSSING // 2, CROSSING, 64).astype(int)), "threads": threads}
    found: dict[str, Any] = {}
    for trajectories in (4, 8):
        took, errors = [], []
        for seed in range(rounds + 1):  # the first compiles
            start = time.perf_counter()
            runs = mcnqm.simulate(
                problem, optimizer, 16, CROSSING, trajectories=trajectories, seed=seed, control_variate=True, **options
            )
            took.append(time.perf_counter() - start)
            errors.append((runs.risk_stderr / runs.risk).isel(step=-1).values)
        found[f"seconds_{trajectories}"] = statistics.median(took[1:])
        found[f"error_{trajectories}"] = float(np.median(np.concatenate(errors)))
    plain = mcnqm.simulate(problem, optimizer, 16, CROSSING, trajectories=64, control_variate=False, **options)
    last = plain.loss.isel(step=-1)
    found["spread"] = float(np.median((last.std("trajectory", ddof=1) / last.mean("trajectory")).values))
    return found


# ------------------------------------------------------------------------------------------------------------- report


def measure(rounds: int, only: list[str]) -> dict[str, Any]:
    """All tools in turn, `rounds` times over."""
    known = {label: truth(task) for label, task in TASKS.items()}
    rows: list[dict[str, Any]] = []
    for threads in (1, 2):
        workers: dict[str, Worker] = {}
        for module, names in PEERS.items():
            for name in names:
                if only and not any(part in name for part in (*only, "mcnqm")):
                    continue
                tool = Worker(module, name, threads)
                if tool.missing:
                    print(f"skipped {name}: {tool.missing}", file=sys.stderr)
                    tool.close()
                else:
                    workers[name] = tool
        for label, task in TASKS.items():
            took: dict[str, list[float]] = {name: [] for name in workers}
            losses: dict[str, list[np.ndarray]] = {name: [] for name in workers}
            peak: dict[str, float] = {}
            for seed in range(rounds + 1):  # the first compiles
                for name, tool in workers.items():
                    if took[name] and took[name][-1] > LONG:
                        continue
                    answer = tool.ask(task, seed + 1)
                    if answer is None:
                        print(f"{name} gave up on {label}", file=sys.stderr)
                        continue
                    losses[name].append(np.array(answer["losses"]))
                    peak[name] = answer["peak"]
                    if seed:
                        took[name].append(answer["seconds"])
            for name, times in took.items():
                if not times:
                    continue
                z = farthest(np.concatenate(losses[name], axis=1), known[label])
                rows.append(
                    {
                        "tool": name,
                        "task": label,
                        "threads": threads,
                        "seconds": statistics.median(times),
                        "fastest": min(times),
                        "slowest": max(times),
                        "z": z,
                        "right": z <= 5,
                        "peak_mb": peak[name],
                        "updates_per_second": task.updates / statistics.median(times),
                    }
                )
                print(f"{threads} {label} {name}: {rows[-1]['updates_per_second']:.3g} per second, |z| {z:.1f}",
                      file=sys.stderr)  # fmt: skip
        for tool in workers.values():
            tool.close()
    return {"rows": rows, "equal_error": {str(k): at_equal_error(k, rounds) for k in (1, 2)}}


def table(report: dict[str, Any]) -> str:
    """Markdown."""
    rows = [row for row in report["rows"] if row["right"]]
    names = list(dict.fromkeys(row["tool"] for row in rows))
    found = {(row["tool"], row["task"], row["threads"]): row for row in rows}
    lines = []
    for threads in (1, 2):
        ours = report["equal_error"][str(threads)]
        heads = [*TASKS, "Adam, (iii): 1 %", f"{ours['error_8']:.2%}", "peak memory"]
        lines += [
            f"{threads} thread{'s' * (threads > 1)}: coordinate updates per second, and how many times as many mcnqm "
            "does; (iii) seconds to a standard error",
            "",
            "| | " + " | ".join(heads) + " |",
            "|---|" + "---:|" * len(heads),
        ]
        for name in names:
            cells = []
            for label in TASKS:
                row, mine = found.get((name, label, threads)), found[("mcnqm", label, threads)]
                if row is None:
                    cells.append("–")
                    continue
                speed, ratio = row["updates_per_second"], row["seconds"] / mine["seconds"]
                cells.append(f"{speed / 1e9:.3g}e9" + ("" if name == "mcnqm" else f" (×{ratio:.2g})"))
            row = found.get((name, "Adam, (ii)", threads))
            for error, mine in ((0.01, ours["seconds_4"]), (ours["error_8"], ours["seconds_8"])):
                if name == "mcnqm":
                    cells.append(f"{mine:.3g}")
                elif row is None:
                    cells.append("–")
                else:
                    task = TASKS["Adam, (ii)"]
                    each = row["seconds"] / task.trajectories * CROSSING / task.steps
                    needs = each * (ours["spread"] / error) ** 2
                    cells.append(f"{needs:.3g} (×{needs / mine:.3g})")
            peaks = [r["peak_mb"] for r in rows if r["tool"] == name and r["threads"] == threads]
            cells.append(f"{max(peaks):.0f} MB" if peaks else "–")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines += [
            "",
            f"(iii): one plain trajectory has a relative standard deviation of {ours['spread']:.2g}, so that 1 % needs "
            f"{(ours['spread'] / 0.01) ** 2:.0f} and {ours['error_8']:.2%} needs "
            f"{(ours['spread'] / ours['error_8']) ** 2:.0f}; mcnqm reaches {ours['error_4']:.2%} with 4 and "
            f"{ours['error_8']:.2%} with 8.",
            "",
        ]
    wrong = [f"{row['tool']}, {row['task']} (|z| {row['z']:.1f})" for row in report["rows"] if not row["right"]]
    return "\n".join(lines + ([f"Left out, since the losses are wrong: {'; '.join(wrong)}."] if wrong else []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="tools whose names contain one of these, and mcnqm")
    parser.add_argument("--markdown", metavar="PATH")
    parser.add_argument("--json", metavar="PATH")
    options = parser.parse_args()
    report = measure(options.rounds, options.only)
    report["machine"] = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    text = table(report)
    print(text)
    if options.markdown:
        with open(options.markdown, "w") as file:
            file.write(text + "\n")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
