"""Figure 3a of Zhang et al. (2019) from closed forms: tuned steps to the target against batch size.

Five preconditioners, each without and with momentum, 21 batch sizes, the full spectrum of 10⁴ coordinates.

    python scripts/figure3a_analytic.py [--figure figure3a.png] [--dim 10000] [--processes 2]

A grid on a coarse spectrum finds the basin, a pattern search on a finer one its bottom; batch sizes then try
their neighbours' answers, since the landscape has more than one basin. At last the full spectrum confirms: no
neighbour at 1 % in the rate or in 1 - momentum is better, or the search moves on there. The searches walk
freely, so no optimum lies at the edge of a grid; momentum 0 is a natural boundary.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import mcnqm
from mcnqm import analytic

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
BATCH_SIZES = 2.0 ** np.arange(21)
TARGET = 0.01
COARSE = 1.6
SCALES = (1.1, 1.03, 1.01)
PLATEAU = 20  # steps: below, one step is more than a change of 1 % in the rate can buy

# A candidate is (log effective rate, log(1 - momentum)): along the first axis the noise floor moves, along
# the second only the transient does, so the basin is not a diagonal.
Point = tuple[float, float]


class Cell(NamedTuple):
    """What is tuned at one point of the figure."""

    batch_size: float
    power: float
    momentum: bool


def steps(
    problem: mcnqm.NoisyQuadratic, points: NDArray[np.float64], batch_size: Any, power: float, below: float = np.inf
) -> NDArray[np.float64]:
    """Steps to the target of each candidate (rows), at each batch size; infinite if not less than `below`."""
    rest = np.exp(points[:, 1])
    lr = xr.DataArray(np.exp(points[:, 0]) * rest, dims="candidate")
    momentum = xr.DataArray(1.0 - rest, dims="candidate")
    optimizer = mcnqm.SGD(lr=lr, momentum=momentum, precondition=power)
    last = max(int(below) - 1, 0) if np.isfinite(below) else 2**53
    found = analytic.steps_to_target(problem, optimizer, batch_size, TARGET, max_steps=last)
    return np.asarray(found.steps.values)


def _key(point: Point) -> tuple[int, int]:
    """The same for points that differ by rounding alone."""
    return round(point[0] * 1e9), round(point[1] * 1e9)


def descend(problem: mcnqm.NoisyQuadratic, cell: Cell, start: Point, scales: tuple[float, ...]) -> tuple[Point, float]:
    """Move to the best neighbour, at ever smaller scales, until no neighbour at any scale is better."""
    best = float(steps(problem, np.array([start]), cell.batch_size, cell.power)[0])
    offsets = [(i, j) for i in (-1, 0, 1) for j in ((-1, 0, 1) if cell.momentum else (0,)) if (i, j) != (0, 0)]
    tried = {_key(start)}
    scale = 0
    while scale < len(scales):
        step = np.log(scales[scale])
        near = [(start[0] + i * step, min(start[1] + j * step, 0.0)) for i, j in offsets]
        # After a move, half the neighbours were the old point's: none of them was better than the new one.
        fresh = {_key(point): point for point in near if _key(point) not in tried}
        tried.update(fresh)
        if not fresh:
            scale += 1
            continue
        around = np.array(list(fresh.values()))
        found = steps(problem, around, cell.batch_size, cell.power, best)
        k = int(np.argmin(found))
        if found[k] < best:
            start, best = (float(around[k, 0]), float(around[k, 1])), float(found[k])
            scale = 0
        else:
            scale += 1
    return start, best


def cross_plateau(problem: mcnqm.NoisyQuadratic, cell: Cell, start: Point, best: float) -> tuple[Point, float]:
    """Look further around where steps are so few that a descent sees only ties."""
    if best > PLATEAU or best <= 1.0:
        return start, best
    rates = start[0] + np.arange(-24, 25) * np.log(1.025)
    rests = start[1] + np.arange(-8, 9) * np.log(1.1) if cell.momentum else np.zeros(1)
    rests = np.unique(np.append(np.minimum(rests, 0.0), 0.0))
    around = np.stack(np.meshgrid(rates, rests, indexing="ij"), axis=-1).reshape(-1, 2)
    found = steps(problem, around, cell.batch_size, cell.power, best)
    k = int(np.argmin(found))
    if found[k] >= best:
        return start, best
    moved = descend(problem, cell, (float(around[k, 0]), float(around[k, 1])), SCALES)
    return cross_plateau(problem, cell, *moved)


def grid(free: bool, smallest: float) -> NDArray[np.float64]:
    """Candidates a factor apart: effective rates up to instability, momenta up to 0.999."""
    # h^(1-p) <= 1 here, so 2 is the limit without momentum; with it, an effective rate of 2(1+β)/(1-β).
    top = np.log(4000.0 if free else 2.0)
    rates = np.arange(top, np.log(smallest), -np.log(COARSE))
    rests = np.arange(0.0, np.log(1e-3), -np.log(COARSE)) if free else np.zeros(1)
    points = np.stack(np.meshgrid(rates, rests, indexing="ij"), axis=-1).reshape(-1, 2)
    return points[np.exp(points.sum(axis=1)) < 4.0]


def tune_curve(problem: mcnqm.NoisyQuadratic, power: float, momentum: bool) -> xr.Dataset:
    """Tuned steps, rate and momentum at every batch size."""
    coarse, fine = problem.binned(32), problem.binned(256)
    points = grid(momentum, 1e-6)
    table = steps(coarse, points, BATCH_SIZES, power)
    if not np.isfinite(table.min(axis=0)).all():
        raise RuntimeError("a batch size without any rate that reaches the target: widen the grid")
    cells = [Cell(float(b), power, momentum) for b in BATCH_SIZES]
    tuned = [
        descend(fine, cell, (float(points[k, 0]), float(points[k, 1])), SCALES)
        for cell, k in zip(cells, table.argmin(axis=0), strict=True)
    ]
    for order in (1, -1):
        for b in range(BATCH_SIZES.size)[::order]:
            if not 0 <= b - order < BATCH_SIZES.size:
                continue
            (x, y), _ = tuned[b - order]
            shift = order * np.log(2.0)  # where noise rules, the rate and 1 - momentum go with the batch size
            for start in ((x, y), (x + shift, min(y + shift, 0.0) if momentum else y)):
                there = float(steps(fine, np.array([start]), cells[b].batch_size, power, tuned[b][1])[0])
                if there < tuned[b][1]:
                    tuned[b] = descend(fine, cells[b], start, SCALES)
    tuned = [cross_plateau(fine, cell, *found) for cell, found in zip(cells, tuned, strict=True)]
    tuned = [descend(problem, cell, start, SCALES[-1:]) for cell, (start, _) in zip(cells, tuned, strict=True)]
    rest = np.exp([point[1] for point, _ in tuned])
    return xr.Dataset(
        {
            "steps": ("batch_size", [best for _, best in tuned]),
            "lr": ("batch_size", np.exp([point[0] for point, _ in tuned]) * rest),
            "momentum": ("batch_size", 1.0 - rest),
        },
        coords={"batch_size": BATCH_SIZES},
    )


def draw(curves: xr.Dataset, path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - only needed with --figure

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
    for k, p in enumerate(curves.precondition.values):
        for momentum in (False, True):
            line = curves.steps.sel(precondition=p, tuned_momentum=momentum)
            axes.loglog(
                BATCH_SIZES,
                line,
                f"C{k}{'-' if momentum else '--'}",
                label=f"p = {p:g}{', momentum' * momentum}",
            )
    axes.set(xlabel="batch size (examples)", ylabel=f"steps to risk {TARGET}")
    axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", type=Path, help="draw the curves to this file")
    parser.add_argument("--dim", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    problem = mcnqm.NoisyQuadratic.power_law(arguments.dim)
    start = time.perf_counter()
    # Longest first. Processes: most of a call on a binned spectrum is Python, where threads wait for each other.
    which = [(p, free) for free in (True, False) for p in reversed(POWERS)]
    with ProcessPoolExecutor(arguments.processes) as pool:
        pending = {pair: pool.submit(tune_curve, problem, *pair) for pair in which}
        curves = {pair: future.result() for pair, future in pending.items()}
    print(f"all curves, d = {problem.dim}, {arguments.processes} processes: {time.perf_counter() - start:.1f} s\n")
    table = xr.concat(
        [
            xr.concat([curves[p, m] for m in (False, True)], xr.Variable("tuned_momentum", [False, True]))
            for p in POWERS
        ],
        xr.Variable("precondition", list(POWERS)),
    )
    for free in (False, True):
        part = table.sel(tuned_momentum=free)
        print("steps to target," if not free else "steps to target (tuned momentum),", "columns p =", *POWERS)
        for b in BATCH_SIZES:
            row = part.sel(batch_size=b)
            cells = (
                f"{s:9.0f}" + (f" (1-{1 - m:.1e})" if free else "")
                for s, m in zip(row.steps.values, row.momentum.values, strict=True)
            )
            print(f"{b:8.0f}", *cells)
    if arguments.figure:
        draw(table, arguments.figure)


if __name__ == "__main__":
    main()
