"""Would float32 state be worth it? Speed and rounding of the same loops with either width, on the same noise.

    python scripts/weigh_float32.py

Speed: updates alone, 64 settings on one draw, as the engine's innermost loop does them, and noise alone; from both, the
gain of a whole run for one setting (a draw per update) and for 64. Rounding: trajectories with float32 and with float64
state on the same noise; the mean relative difference of their final losses, its standard error, and beside it the
Monte Carlo error of the risk itself with so many trajectories.
"""

from __future__ import annotations

import statistics
import time

import numba
import numpy as np

import mcnqm
from mcnqm import analytic
from mcnqm.kernels.jit import OPTIONS, fma, scalar
from mcnqm.kernels.noise import GRADIENT, fill_noise

LANES = 64


@scalar
def _heavy_ball(k, h, x, m, v, z):
    m = fma(k[1], m, fma(h, x, z))
    return fma(-k[0], m, x), m, v


@scalar
def _adam(k, h, x, m, v, z):
    g = fma(h, x, z)
    m = fma(k[1], m, k[2] * g)
    v = fma(k[3], v, k[4] * g * g)
    return fma(-k[0], m / (np.sqrt(v) + k[5]), x), m, v


def _kernel(step):
    @numba.njit(**OPTIONS)
    def run(times, k, h, z, x, m, v):
        for _ in range(times):
            for t in range(z.size):
                for j in range(x.size):
                    x[j], m[j], v[j] = step(k, h, x[j], m[j], v[j], z[t])

    return run


def _long(step):
    """One coordinate of many trajectories over all steps; noise as the engine makes it."""

    @numba.njit(**OPTIONS)
    def run(k, h, sigma, coordinate, seed, steps, x, m, v):
        n = x.size
        calls, owners = np.empty(n, np.uint32), np.arange(n).astype(np.uint32)
        words, z = np.empty(4 * n, np.uint32), np.empty(4 * n, np.float32)
        for call in range(steps // 4):
            calls[:] = call
            fill_noise(calls, owners, np.uint32(coordinate), GRADIENT, seed, words, z)
            for q in range(4):
                for j in range(n):
                    x[j], m[j], v[j] = step(k, h, x[j], m[j], v[j], sigma * z[q * n + j])

    return run


@numba.njit(**OPTIONS)
def _fill_many(times, calls, owners, words, z):
    for k in range(times):
        fill_noise(calls, owners, np.uint32(k), GRADIENT, np.uint64(1), words, z)


def constants(kind: str, lr: float, dtype) -> tuple:
    """Hyperparameters in one width."""
    values = (lr, 0.9) if kind == "heavy ball" else (lr, 0.9, 0.1, 0.999, 0.001, 1e-8)
    return tuple(dtype(value) for value in values)


def nanoseconds(run, *arguments, updates: float) -> float:
    """Median time of one update."""
    run(*arguments)
    took = []
    for _ in range(7):
        start = time.perf_counter()
        run(*arguments)
        took.append(time.perf_counter() - start)
    return 1e9 * statistics.median(took) / updates


def speed() -> None:
    n = 256
    calls, owners = np.zeros(n, np.uint32), np.arange(n, dtype=np.uint32)
    words, z = np.empty(4 * n, np.uint32), np.empty(4 * n, np.float32)
    noise = nanoseconds(_fill_many, 500, calls, owners, words, z, updates=500 * 4 * n)
    print(f"a normal: {noise:.2f} ns")
    for kind, step in (("heavy ball", _heavy_ball), ("Adam", _adam)):
        run, each = _kernel(step), {}
        for dtype in (np.float64, np.float32):
            x, m, v = (np.ones(LANES, dtype) for _ in range(3))
            z = np.zeros(256, dtype)
            each[dtype] = nanoseconds(
                run, 40, constants(kind, 1e-3, dtype), dtype(0.5), z, x, m, v, updates=40 * 256 * LANES
            )
        wide, narrow = each[np.float64], each[np.float32]
        print(
            f"{kind}: {wide:.3f} ns in float64, {narrow:.3f} in float32: updates {wide / narrow:.2f} times as fast, "
            f"a run of one setting {(noise + wide) / (noise + narrow):.2f}, "
            f"of 64 {(noise / 64 + wide) / (noise / 64 + narrow):.2f} times"
        )


def rounding(kind: str, lr: float, batch: int, steps: int, dim: int, trajectories: int = 64) -> None:
    run = _long(_heavy_ball if kind == "heavy ball" else _adam)
    coordinates = np.unique(np.geomspace(1, dim, 12).astype(int))
    print(f"{kind}, lr {lr:g}, B = {batch}, {steps} steps, d = {dim}")
    print("  h, relative difference of E theta² and its error, Monte Carlo error of E theta²")
    start = np.random.Generator(np.random.SFC64(0)).standard_normal((coordinates.size, trajectories))
    for i, first in zip(coordinates, start, strict=True):
        h, sigma = 1.0 / i, np.sqrt(1.0 / i / batch)
        squares = {}
        for dtype in (np.float64, np.float32):
            x, m, v = first.astype(dtype), np.zeros(trajectories, dtype), np.zeros(trajectories, dtype)
            run(constants(kind, lr, dtype), dtype(h), dtype(sigma), i, np.uint64(5), steps, x, m, v)
            squares[dtype] = x.astype(np.float64) ** 2
        off = squares[np.float32] - squares[np.float64]
        mean = squares[np.float64].mean()
        print(
            f"  1/{i:<6d} {off.mean() / mean:+.1e} ± {off.std(ddof=1) / np.sqrt(trajectories) / mean:.0e}"
            f"   {squares[np.float64].std(ddof=1) / np.sqrt(trajectories) / mean:.0e}"
        )


def main() -> None:
    speed()
    problem = mcnqm.NoisyQuadratic.power_law(1000)
    steps = int(analytic.steps_to_target(problem, mcnqm.SGD(lr=0.00043, momentum=0.9), 1, 0.01)["steps"]) // 4 * 4
    rounding("heavy ball", 0.00043, 1, steps, 1000)
    rounding("heavy ball", 3e-6, 1, 2**22, 10_000)
    rounding("Adam", 0.00055, 1, 137_000, 1000)


if __name__ == "__main__":
    main()
