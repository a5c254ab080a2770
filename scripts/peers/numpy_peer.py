"""NumPy: in place, on blocks that fit the L2 cache, with SFC64, its fastest bit generator."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from peers import Task, over_threads

NAMES = ("NumPy",)

_BLOCK = 16_000
"""Numbers per array: five arrays of these fill half an L2 cache."""


def _heavy_ball(h, lr, sigma, theta, m, z, g):
    np.multiply(h, theta, out=g)
    g += z
    m *= 0.9
    m += g
    np.multiply(m, lr, out=g)
    theta -= g


def _adam(t, h, lr, sigma, theta, m, v, z, g, s):
    root = math.sqrt(1 - 0.999**t)
    np.multiply(h, theta, out=g)
    g += z
    np.multiply(g, 0.1, out=s)
    m *= 0.9
    m += s
    g *= g
    g *= 0.001
    v *= 0.999
    v += g
    np.sqrt(v, out=g)
    g += 1e-8 * root
    np.divide(m, g, out=g)
    np.multiply(g, lr * (root / (1 - 0.9**t)), out=g)
    theta -= g


def _part(task: Task, trajectories: int, seed: int) -> np.ndarray:
    rng = np.random.Generator(np.random.SFC64(seed))
    h, sigma = task.h, np.sqrt(task.h / task.batch)
    rates = np.array(task.rates)
    # Blocks of settings share a step's noise; blocks of trajectories of one setting run one after another.
    rows = max(1, _BLOCK // task.dim)
    if rates.size == 1:
        outs = [
            _block(task, rng, h, sigma, [rates[:, np.newaxis, np.newaxis]], min(rows, trajectories - start))
            for start in range(0, trajectories, rows)
        ]
        return np.concatenate(outs, axis=1)
    each = max(1, rows // trajectories)
    slabs = [rates[i : i + each, np.newaxis, np.newaxis] for i in range(0, rates.size, each)]
    return _block(task, rng, h, sigma, slabs, trajectories)


def _block(task, rng, h, sigma, slabs, trajectories):
    z = np.empty((trajectories, task.dim))
    start = rng.standard_normal(z.shape)
    state = []
    for lr in slabs:
        shape = (lr.size, *z.shape)
        zeros = 3 if task.kind == "heavy ball" else 4
        state.append([np.broadcast_to(start, shape).copy(), *(np.zeros(shape) for _ in range(zeros))])
    for t in range(1, task.steps + 1):
        rng.standard_normal(out=z)
        z *= sigma
        for lr, (theta, m, *rest) in zip(slabs, state, strict=True):
            if task.kind == "heavy ball":
                _heavy_ball(h, lr, sigma, theta, m, z, rest[0])
            else:
                _adam(t, h, lr, sigma, theta, m, rest[0], z, rest[1], rest[2])
    return np.concatenate([0.5 * (h * theta**2).sum(axis=-1) for theta, *_ in state])


def make(name: str, task: Task, threads: int):
    return lambda seed: over_threads(partial(_part, task), task.trajectories, threads, seed)
