"""How fast the engine is, beside a well-written in-place NumPy version and beside the machine's own limits.

    python scripts/bench_engine.py [--steps 4096] [--repeats 7] [--json out.json]

Coordinate updates per second, through the public `mcnqm.simulate`, compilation warm:

(a) one setting, d = 1000, 64 trajectories;
(b) 64 learning rates, d = 1000, 4 trajectories;

each for heavy ball and Adam, on one thread and on two; and for heavy ball with multiplicative noise and on
`mcnqm.DoubleWell`, without NumPy. All rows are measured in turn, `repeats` times over, so that a
drift of the machine's speed meets them alike; medians are printed, and ratios of medians.

NumPy works in place on arrays that fit the L2 cache, draws with SFC64 (its fastest bit generator), and draws anew for
every setting. The limits are what this machine does with nothing else in the way:

normals   our generator filling a buffer in L1: every update of (a) needs a normal of its own
fma       fused multiply-adds on registers: heavy ball needs 4 per update (h x, + sigma z, momentum, theta)
root      sqrt(v) and m / x on a buffer in L1: Adam needs one of each per update
sqrt      sqrt(v) alone: multiplicative noise needs one per update, and 6 multiply-adds (h x, s x, c + s x², + noise,
          momentum, theta)
sigmoid   1 / (1 + exp(x)) by our exponential: two wells need one per update, and 9 multiply-adds (the exponent 3, two
          slopes and their mean 3, + noise, momentum, theta)
softplus  log(1 + exp(-|x|)) / κ by our exponential and logarithm: the loss of two wells needs one at each recorded step
          (one in 27 here), and 8 multiply-adds
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
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from rich.console import Console
from rich.table import Table

import mcnqm
from mcnqm.kernels.jit import OPTIONS, fma
from mcnqm.kernels.noise import GRADIENT, fill_noise
from mcnqm.problems.arithmetic import exp, log
from mcnqm.record import recorded_steps

DIM = 1000
BATCH = 16
CASES = {"a": (1, 64), "b": (64, 4)}  # settings, trajectories
PROBLEMS = {
    "heavy ball": mcnqm.NoisyQuadratic.power_law(DIM),
    "Adam": mcnqm.NoisyQuadratic.power_law(DIM),
    "multiplicative noise": mcnqm.NoisyQuadratic.power_law(DIM, multiplicative_noise=0.3),
    "two wells": mcnqm.DoubleWell(dim=DIM, start="wide"),
}
WITH_NUMPY = ("heavy ball", "Adam")


# ------------------------------------------------------------------------------------------------------------ NumPy


def numpy_heavy_ball(h, lr, momentum, batch, steps, trajectories, rng):
    """Heavy ball on (trajectories, d) arrays, in place: about as well as NumPy can do it."""
    theta = rng.standard_normal((trajectories, h.size))
    m = np.zeros_like(theta)
    z = np.empty_like(theta)
    g = np.empty_like(theta)
    sigma = np.sqrt(h / batch)
    for _ in range(steps):
        rng.standard_normal(out=z)
        z *= sigma
        np.multiply(h, theta, out=g)
        g += z
        m *= momentum
        m += g
        np.multiply(m, lr, out=g)
        theta -= g
    return 0.5 * (h * theta**2).sum(axis=-1)


def numpy_adam(h, lr, beta1, beta2, eps, batch, steps, trajectories, rng):
    """Adam likewise."""
    theta = rng.standard_normal((trajectories, h.size))
    m = np.zeros_like(theta)
    v = np.zeros_like(theta)
    z = np.empty_like(theta)
    g = np.empty_like(theta)
    sigma = np.sqrt(h / batch)
    for t in range(1, steps + 1):
        rng.standard_normal(out=z)
        z *= sigma
        np.multiply(h, theta, out=g)
        g += z
        root = math.sqrt(1 - beta2**t)
        np.multiply(g, 1 - beta1, out=z)
        m *= beta1
        m += z
        g *= g
        g *= 1 - beta2
        v *= beta2
        v += g
        np.sqrt(v, out=g)
        g += eps * root
        np.divide(m, g, out=g)
        g *= lr * root / (1 - beta1**t)
        theta -= g
    return 0.5 * (h * theta**2).sum(axis=-1)


def numpy_run(kind: str, rates: np.ndarray, trajectories: int, steps: int) -> float:
    """One sweep, a block of 8 trajectories at a time so that the arrays stay in cache. Mean loss, as a check."""
    rng = np.random.Generator(np.random.SFC64(0))
    h = 1.0 / np.arange(1, DIM + 1)
    losses = []
    for lr in rates:
        for start in range(0, trajectories, 8):
            block = min(8, trajectories - start)
            if kind == "heavy ball":
                losses.append(numpy_heavy_ball(h, lr, 0.9, BATCH, steps, block, rng))
            else:
                losses.append(numpy_adam(h, lr, 0.9, 0.999, 1e-8, BATCH, steps, block, rng))
    return float(np.concatenate(losses).mean())


# ------------------------------------------------------------------------------------------------------------- ours


def rates_of(kind: str, settings: int) -> np.ndarray:
    """Stable learning rates for either optimizer."""
    top = 5e-3 if kind == "Adam" else 0.01 if kind == "two wells" else 0.1
    return np.geomspace(top / 30, top, settings) if settings > 1 else np.array([top])


def our_run(kind: str, rates: np.ndarray, trajectories: int, steps: int, threads: int) -> float:
    """The same sweep through the public call. Mean loss, as a check."""
    problem = PROBLEMS[kind]
    optimizer = mcnqm.Adam(lr=rates) if kind == "Adam" else mcnqm.SGD(lr=rates, momentum=0.9)
    # Without twins, which NumPy does not run either.
    alone = {"trajectories": trajectories, "threads": threads, "control_variate": False}
    runs = mcnqm.simulate(problem, optimizer, BATCH, steps, **alone)
    return float(runs.risk.isel(step=-1).mean())


# ----------------------------------------------------------------------------------------------------------- limits


@numba.njit(**OPTIONS)
def _fill_many(times, calls, owners, words, z):
    for k in range(times):
        fill_noise(calls, owners, np.uint32(k), GRADIENT, np.uint64(1), words, z)


@numba.njit(**OPTIONS)
def _fma_many(times, x, a, b):
    # Eight chains side by side: one alone would measure a multiply-add's latency.
    n = x.size // 8
    for _ in range(times):
        for j in range(n):
            y0, y1, y2, y3 = x[j], x[n + j], x[2 * n + j], x[3 * n + j]
            y4, y5, y6, y7 = x[4 * n + j], x[5 * n + j], x[6 * n + j], x[7 * n + j]
            for _ in range(32):
                y0, y1, y2, y3 = fma(y0, a, b), fma(y1, a, b), fma(y2, a, b), fma(y3, a, b)
                y4, y5, y6, y7 = fma(y4, a, b), fma(y5, a, b), fma(y6, a, b), fma(y7, a, b)
            x[j], x[n + j], x[2 * n + j], x[3 * n + j] = y0, y1, y2, y3
            x[4 * n + j], x[5 * n + j], x[6 * n + j], x[7 * n + j] = y4, y5, y6, y7


@numba.njit(**OPTIONS)
def _root_many(times, m, v):
    for k in range(times):
        eps = 1e-8 * k
        for j in range(m.size):
            m[j] = m[j] / (np.sqrt(v[j]) + eps)


@numba.njit(**OPTIONS)
def _sqrt_many(times, v, out):
    for k in range(times):
        for j in range(v.size):
            out[j] = np.sqrt(v[j] + k)


@numba.njit(**OPTIONS)
def _sigmoid_many(times, x, out):
    for k in range(times):
        for j in range(x.size):
            out[j] = 1.0 / (1.0 + exp(x[j] + k))


@numba.njit(**OPTIONS)
def _softplus_many(times, x, sharpness, out):
    for k in range(times):
        for j in range(x.size):
            out[j] += log(1.0 + exp(-abs(x[j] + k))) / sharpness


def limit_normals() -> float:
    """Normals per second, one core."""
    n, times = 1024, 400
    calls, owners = np.zeros(n, np.uint32), np.arange(n, dtype=np.uint32)
    words, z = np.empty(4 * n, np.uint32), np.empty(4 * n, np.float32)
    _fill_many(1, calls, owners, words, z)
    return times * 4 * n / seconds(lambda: _fill_many(times, calls, owners, words, z))


def limit_fma() -> float:
    """Double-precision fused multiply-adds per second, one core."""
    x, times = np.zeros(512), 2000
    _fma_many(1, x, 0.5, 0.5)
    return 32 * times * x.size / seconds(lambda: _fma_many(times, x, 0.5, 0.5))


def limit_root() -> float:
    """Pairs of a square root and a division per second, one core."""
    m, v, times = np.ones(512), np.full(512, 1.0), 4000
    _root_many(1, m, v)
    return times * m.size / seconds(lambda: _root_many(times, m, v))


def limit_sqrt() -> float:
    """Square roots per second, one core."""
    v, out, times = np.ones(512), np.empty(512), 4000
    _sqrt_many(1, v, out)
    return times * v.size / seconds(lambda: _sqrt_many(times, v, out))


def limit_sigmoid() -> float:
    """Values of 1 / (1 + exp(x)) per second, one core."""
    x, out, times = np.linspace(-5.0, 5.0, 512), np.empty(512), 4000
    _sigmoid_many(1, x, out)
    return times * x.size / seconds(lambda: _sigmoid_many(times, x, out))


def limit_softplus() -> float:
    """Values of log(1 + exp(-|x|)) / κ per second, one core."""
    x, out, times = np.linspace(-5.0, 5.0, 512), np.zeros(512), 2000
    _softplus_many(1, x, 30.0, out)
    return times * x.size / seconds(lambda: _softplus_many(times, x, 30.0, out))


LIMITS = {
    "normals": limit_normals,
    "fma": limit_fma,
    "root": limit_root,
    "sqrt": limit_sqrt,
    "sigmoid": limit_sigmoid,
    "softplus": limit_softplus,
}


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ------------------------------------------------------------------------------------------------------------ report


def measure(steps: int, repeats: int) -> dict[str, Any]:
    """Everything in turn, `repeats` times over; medians."""
    samples: dict[str, list[float]] = {}
    for round_ in range(repeats + 1):
        for kind in PROBLEMS:
            for case, (settings, trajectories) in CASES.items():
                rates = rates_of(kind, settings)
                # NumPy needs fewer steps for as good a measurement, and its cost per step does not change.
                few = max(16, steps // 16)
                work, rows = DIM * settings * trajectories, {}
                if kind in WITH_NUMPY:
                    took = seconds(partial(numpy_run, kind, rates, trajectories, few))
                    rows[f"{kind}|{case}|NumPy"] = few * work / took
                for threads in (1, 2):
                    took = seconds(partial(our_run, kind, rates, trajectories, steps, threads))
                    rows[f"{kind}|{case}|mcnqm {threads}"] = steps * work / took
                for name, value in rows.items():
                    samples.setdefault(name, []).append(value)
        for name, limit in LIMITS.items():
            samples.setdefault(f"limit|{name}", []).append(limit())
        if round_ == 0:
            samples.clear()  # the first round compiled
    return {name: statistics.median(values) for name, values in samples.items()}


def shares(rates: dict[str, float], steps: int) -> dict[str, float]:
    """Share of the limit each one-thread row reaches: the time its unavoidable work takes over the time it took."""
    normal, fused, root, square, sigmoid, softplus = (1 / rates[f"limit|{name}"] for name in LIMITS)
    shared = 1 / CASES["b"][0]  # normals per update when all settings share one
    losses = recorded_steps(steps).size / steps * (softplus + 8 * fused)  # of two wells, per update
    least = {
        "heavy ball|a": normal + 4 * fused,
        "heavy ball|b": shared * normal + 4 * fused,
        "Adam|a": normal + root,
        "Adam|b": shared * normal + root,
        "multiplicative noise|a": normal + square + 6 * fused,
        "multiplicative noise|b": shared * normal + square + 6 * fused,
        "two wells|a": normal + sigmoid + 9 * fused + losses,
        "two wells|b": shared * normal + sigmoid + 9 * fused + losses,
    }
    return {name: bound * rates[f"{name}|mcnqm 1"] for name, bound in least.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", metavar="PATH", help="also write the figures here")
    options = parser.parse_args()

    rates = measure(options.steps, options.repeats)
    share = shares(rates, options.steps)
    limits = {
        "heavy ball|a": "normals, then fma",
        "heavy ball|b": "fma",
        "Adam|a": "normals, then root",
        "Adam|b": "root",
        "multiplicative noise|a": "normals, then fma, sqrt",
        "multiplicative noise|b": "fma, then sqrt",
        "two wells|a": "normals, then sigmoid, softplus",
        "two wells|b": "sigmoid, then softplus",
    }
    table = Table(title=f"Coordinate updates per second, d = {DIM}, medians of {options.repeats}")
    for heading in (
        "optimizer",
        "case",
        "NumPy",
        "1 thread",
        "ratio",
        "2 threads",
        "2 / 1",
        "limit",
        "share of it",
    ):
        table.add_column(heading, justify="left" if heading in ("optimizer", "case", "limit") else "right")
    report: list[dict[str, Any]] = []
    for name, limit in limits.items():
        kind, case = name.split("|")
        peer = rates.get(f"{name}|NumPy", math.nan)
        one, two = (rates[f"{name}|{who}"] for who in ("mcnqm 1", "mcnqm 2"))
        report.append(
            {
                "optimizer": kind,
                "case": case,
                "numpy": None if math.isnan(peer) else peer,
                "one_thread": one,
                "ratio": None if math.isnan(peer) else one / peer,
                "two_threads": two,
                "scaling": two / one,
                "limit": limit,
                "share": share[name],
            }
        )
        table.add_row(
            *(kind, case, "" if math.isnan(peer) else f"{peer:.3g}", f"{one:.3g}"),
            *("" if math.isnan(peer) else f"{one / peer:.1f}", f"{two:.3g}", f"{two / one:.2f}"),
            *(limit, f"{share[name]:.0%}"),
        )
    console = Console(width=120 if not sys.stdout.isatty() else None)
    console.print(table)
    for name in LIMITS:
        console.print(f"limit {name}: {rates[f'limit|{name}']:.3g} per second and core", highlight=False)
    if options.json:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "numba": numba.__version__}
        with open(options.json, "w") as file:
            json.dump({"steps": options.steps, **machine, "rows": report, "medians": rates}, file, indent=1)


if __name__ == "__main__":
    main()
