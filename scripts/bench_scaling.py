"""How our own time grows with the number of coordinates, trajectories, settings, steps and threads.

    python scripts/bench_scaling.py --figure scaling_of_time.png [--json scaling_of_time.json]

Each quantity is doubled from a base (d = 256, 16 trajectories, 16 settings, 1024 steps, one thread) with the others
fixed; medians of `--rounds` rounds, in which all points are measured in turn. The slope of log time against log
quantity is fitted over the upper half of each range, where fixed costs no longer show.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import numpy as np
from matplotlib.figure import Figure

import mcnqm
from mcnqm.plots.style import COLOURS, DASHES

BASE = {"coordinates": 256, "trajectories": 16, "settings": 16, "steps": 1024, "threads": 1}
RANGES = {
    "coordinates": [2**k for k in range(4, 14)],
    "trajectories": [2**k for k in range(10)],
    "settings": [2**k for k in range(10)],
    "steps": [2**k for k in range(4, 15)],
    "threads": sorted({2**k for k in range(4) if 2**k <= (os.cpu_count() or 1)} | {os.cpu_count() or 1}),
}
KINDS = ("heavy ball", "Adam")


def run(kind: str, size: dict[str, int]) -> float:
    """Seconds of one run."""
    problem = mcnqm.NoisyQuadratic.power_law(size["coordinates"])
    lr = np.geomspace(1e-4, 3e-3, size["settings"])
    optimizer = mcnqm.SGD(lr=lr, momentum=0.9) if kind == "heavy ball" else mcnqm.Adam(lr=lr)
    start = time.perf_counter()
    mcnqm.simulate(
        problem, optimizer, 16, size["steps"], trajectories=size["trajectories"], threads=size["threads"],
        record=[size["steps"]], control_variate=False,
    )  # fmt: skip
    return time.perf_counter() - start


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Medians by kind and quantity."""
    points = [(kind, name, value) for kind in KINDS for name, values in RANGES.items() for value in values]
    samples: dict[tuple[str, str, int], list[float]] = {point: [] for point in points}
    for round_ in range(rounds + 1):  # the first compiles
        for kind, name, value in points:
            took = run(kind, {**BASE, name: value})
            if round_:
                samples[kind, name, value].append(took)
    return {
        kind: {name: [statistics.median(samples[kind, name, v]) for v in values] for name, values in RANGES.items()}
        for kind in KINDS
    }


def slope(values: list[int], seconds: list[float]) -> float:
    """Of log time against log quantity, over the upper half."""
    half = len(values) // 2 if len(values) > 3 else 0
    return float(np.polyfit(np.log(values[half:]), np.log(seconds[half:]), 1)[0]) if len(values) > 1 else float("nan")


def draw(times: dict[str, dict[str, list[float]]]) -> Figure:
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    axes = figure.subplots(1, len(RANGES), sharey=True)
    for ax, (name, values) in zip(axes, RANGES.items(), strict=True):
        for kind, mark, color, dash in zip(KINDS, "os", COLOURS, DASHES, strict=False):
            seconds, label = times[kind][name], f"{kind}, slope {slope(values, times[kind][name]):.2f}"
            ax.loglog(values, seconds, dash, marker=mark, ms=4, color=color, label=label)
        ax.set_xlabel(f"number of {name}")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
        if name == "threads":
            ax.set_xticks(values, [str(v) for v in values])
            ax.minorticks_off()
            ax.set_xlim(values[0] / 1.3, values[-1] * 1.3)
    axes[0].set_ylabel("time of a run (s)")
    base = ", ".join(f"{value} {name}" for name, value in BASE.items())
    figure.suptitle(f"One quantity at a time, from {base.replace('1 threads', '1 thread')}", fontsize=10)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figure", metavar="PATH")
    parser.add_argument("--json", metavar="PATH")
    options = parser.parse_args()
    times = measure(options.rounds)
    print("| | " + " | ".join(RANGES) + " |\n|---|" + "---:|" * len(RANGES))
    for kind in KINDS:
        cells = [f"{slope(values, times[kind][name]):.2f}" for name, values in RANGES.items()]
        print(f"| {kind} | " + " | ".join(cells) + " |")
    if options.figure:
        draw(times).savefig(options.figure, dpi=150)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"base": BASE, "ranges": RANGES, "seconds": times}, file, indent=1)


if __name__ == "__main__":
    main()
