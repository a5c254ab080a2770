"""What a control variate brings, and what it costs: Adam at batch size 1, d = 1000, beta2 = 0.999.

    python scripts/bench_control_variate.py [--steps N] [--timed-steps 4096] [--repeats 5] [--json out.json]

How much: one run of 64 trajectories at the rate that mean-field theory finds best for risk 0.01, to the step where it
predicts that risk, about 137 000; the variance of the plain mean of the loss over that of the controlled one, on the
same trajectories, at steps evenly spaced on a logarithmic axis through the last decade. With --steps the run is
shorter, and the risk printed says how late it is. An estimate from 64 trajectories is good to about a quarter.

At what cost: time of `simulate` with control_variate=True over False, for a shorter run, on one thread and on two. All
rows are measured in turn, `repeats` times over and in alternating order, so that a drift of the machine's speed meets
them alike; ratios are of medians. Beside wall time stands the processor time of the process, which other work on the
machine disturbs less.

Efficiency is reduction over overhead: how many times the work a plain run would need for the same error.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

import mcnqm
from mcnqm.files import write_text
from mcnqm.tuning.routes import mean_field_route
from mcnqm.tuning.searches import tune_one

DIM, BATCH, BETA2, TARGET, TRAJECTORIES = 1000, 1, 0.999, 0.01, 64
THREADS = (1, 2)
CLAIM = {"reduction": 300.0, "overhead": 2.5}


def late_run(problem: mcnqm.NoisyQuadratic, adam: mcnqm.Adam, steps: int, threads: int) -> tuple[xr.Dataset, float]:
    """The run whose variance reduction is the question, and its wall time."""
    record = np.unique(np.round(np.geomspace(max(steps / 10, 1), steps, 9)).astype(np.int64))
    start = time.perf_counter()
    options = {"trajectories": TRAJECTORIES, "record": record, "threads": threads}
    runs = mcnqm.simulate(problem, adam, BATCH, steps, control_variate=True, **options)
    return runs, time.perf_counter() - start


def time_both(
    problem: mcnqm.NoisyQuadratic, adam: mcnqm.Adam, steps: int, repeats: int
) -> dict[int, dict[str, dict[bool, float]]]:
    """Median wall and processor time by threads, with the control variate and without."""
    samples: dict[tuple[int, str, bool], list[float]] = {}
    for round_ in range(repeats + 1):
        # The first round compiles, and need not be long.
        length = steps if round_ else 16
        for threads in THREADS:
            for twin in (False, True)[:: 1 if round_ % 2 else -1]:
                wall, own = time.perf_counter(), time.process_time()
                options = {"trajectories": TRAJECTORIES, "record": [length], "threads": threads}
                mcnqm.simulate(problem, adam, BATCH, length, control_variate=twin, **options)
                took = {"wall": time.perf_counter() - wall, "processor": time.process_time() - own}
                if round_:
                    for kind, seconds in took.items():
                        samples.setdefault((threads, kind, twin), []).append(seconds)
    return {
        threads: {
            kind: {twin: statistics.median(samples[threads, kind, twin]) for twin in (False, True)}
            for kind in ("wall", "processor")
        }
        for threads in THREADS
    }


def cpu_name() -> str:
    """The processor as Linux names it, and its widest vectors."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    name = next((v.strip() for k, v in fields.items() if k.strip() == "model name"), platform.machine())
    flags = next((v for k, v in fields.items() if k.strip() == "flags"), "").split()
    widest = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{name}, {widest}"


def verdict(holds: bool) -> str:
    return "holds" if holds else "DOES NOT HOLD"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="of the long run; default: to the target, by theory")
    parser.add_argument("--lr", type=float, help="default: the best, by theory")
    parser.add_argument("--timed-steps", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures here")
    options = parser.parse_args()
    console = Console(width=110 if not sys.stdout.isatty() else None, highlight=False)

    problem = mcnqm.NoisyQuadratic.power_law(DIM)
    best = tune_one(mean_field_route(problem, BATCH, TARGET), mcnqm.Adam(lr=1.0, beta2=BETA2), {"lr": (1e-4, 1e-2)})
    adam = mcnqm.Adam(lr=options.lr or best.values["lr"], beta2=BETA2)
    steps = options.steps or int(best.steps)
    load = os.getloadavg() if hasattr(os, "getloadavg") else (math.nan,)
    machine = f"{cpu_name()}, {os.cpu_count()} cores, load {load[0]:.1f} before, Numba {numba.__version__}"
    console.print(f"machine: {machine}")
    console.print(
        f"d = {DIM}, B = {BATCH}, beta2 = {BETA2:g}, lr = {adam.lr:.3g}, {TRAJECTORIES} trajectories; by theory risk "
        f"{TARGET:g} is reached at step {best.steps:.0f} with lr = {best.values['lr']:.3g}"
    )

    clock = time_both(problem, adam, options.timed_steps, options.repeats)
    table = Table(title=f"Seconds for {options.timed_steps} steps, medians of {options.repeats} in turn")
    for heading in ("threads", "plain", "with twin", "overhead", "processor: plain", "with twin", "overhead"):
        table.add_column(heading, justify="right")
    overhead = {}
    for threads, kinds in clock.items():
        overhead[threads] = {kind: pair[True] / pair[False] for kind, pair in kinds.items()}
        cells = [
            text
            for kind, pair in kinds.items()
            for text in (f"{pair[False]:.2f}", f"{pair[True]:.2f}", f"{overhead[threads][kind]:.2f}")
        ]
        table.add_row(str(threads), *cells)
    console.print(table)

    runs, took = late_run(problem, adam, steps, max(THREADS))
    table = Table(title=f"Last decade of {steps} steps ({took:.0f} s)")
    for heading in ("step", "risk", "relative s.e.", "plain relative s.e.", "variance reduction"):
        table.add_column(heading, justify="right")
    reduction = runs.variance_reduction.values
    error = (runs.risk_stderr / runs.risk).values
    for k, step in enumerate(runs.step.values):
        plain = error[k] * math.sqrt(reduction[k])
        table.add_row(f"{step}", f"{runs.risk.values[k]:.5f}", f"{error[k]:.1e}", f"{plain:.1e}", f"{reduction[k]:.0f}")
    console.print(table)

    least, middle = float(reduction.min()), float(np.median(reduction))
    worst = max(overhead[threads]["wall"] for threads in THREADS)
    console.print(f"variance reduction: median {middle:.0f}, least {least:.0f}, at the last step {reduction[-1]:.0f}")
    console.print(f"claim: reduction >= {CLAIM['reduction']:g}, least: {verdict(least >= CLAIM['reduction'])}")
    console.print(f"claim: overhead < {CLAIM['overhead']:g}, worst {worst:.2f}: {verdict(worst < CLAIM['overhead'])}")
    efficiency = {threads: middle / overhead[threads]["wall"] for threads in THREADS}
    for threads, value in efficiency.items():
        console.print(f"efficiency, {threads} thread{'s' * (threads > 1)}: median reduction / overhead = {value:.0f}")
    if options.json:
        report: dict[str, Any] = {
            "machine": machine,
            "lr": adam.lr,
            "steps": runs.step.values.tolist(),
            "risk": runs.risk.values.tolist(),
            "reduction": reduction.tolist(),
            "seconds": {n: {k: {str(t): s for t, s in p.items()} for k, p in c.items()} for n, c in clock.items()},
            "overhead": overhead,
            "efficiency": efficiency,
        }
        write_text(options.json, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
