"""Numba: one coordinate at a time, so that its state stays in registers and L1, and noise drawn a block at a time.

"plain" draws with `np.random` inside, as most would; "Generator" is fed by a NumPy Generator (SFC64), which is faster.
Loops over settings, or over trajectories where there is one setting, are innermost, so that they vectorise.
"""

from __future__ import annotations

from functools import partial

import numba
import numpy as np

from peers import Task, over_threads

NAMES = ("Numba, np.random", "Numba, Generator")

_BLOCK = 256

_options = {"nogil": True, "fastmath": True, "error_model": "numpy"}


@numba.njit(**_options)
def _heavy_ball(h, lr, sigma, z, theta, m):
    # z (steps, trajectories), the rest (trajectories, settings)
    for t in range(z.shape[0]):
        for r in range(theta.shape[0]):
            push = sigma * z[t, r]
            for s in range(theta.shape[1]):
                m[r, s] = 0.9 * m[r, s] + (h * theta[r, s] + push)
                theta[r, s] -= lr[s] * m[r, s]


@numba.njit(**_options)
def _heavy_ball_one(h, lr, sigma, z, theta, m):
    for t in range(z.shape[0]):
        for r in range(theta.size):
            m[r] = 0.9 * m[r] + (h * theta[r] + sigma * z[t, r])
            theta[r] -= lr * m[r]


@numba.njit(**_options)
def _adam(h, rate, eps, sigma, z, theta, m, v):
    for t in range(z.shape[0]):
        for r in range(theta.shape[0]):
            push = sigma * z[t, r]
            for s in range(theta.shape[1]):
                g = h * theta[r, s] + push
                m[r, s] = 0.9 * m[r, s] + 0.1 * g
                v[r, s] = 0.999 * v[r, s] + 0.001 * g * g
                theta[r, s] -= rate[t, s] * m[r, s] / (np.sqrt(v[r, s]) + eps[t])


@numba.njit(**_options)
def _adam_one(h, rate, eps, sigma, z, theta, m, v):
    for t in range(z.shape[0]):
        for r in range(theta.size):
            g = h * theta[r] + sigma * z[t, r]
            m[r] = 0.9 * m[r] + 0.1 * g
            v[r] = 0.999 * v[r] + 0.001 * g * g
            theta[r] -= rate[t, 0] * m[r] / (np.sqrt(v[r]) + eps[t])


@numba.njit(**_options)
def _fill(z):
    for t in range(z.shape[0]):
        for r in range(z.shape[1]):
            z[t, r] = np.random.standard_normal()  # noqa: NPY002 - what is measured


@numba.njit(**_options)
def _seed(seed):
    np.random.seed(seed)  # noqa: NPY002


def _kernel(draw):
    """The whole run of a share of the trajectories; `draw` fills a block of noise."""

    @numba.njit(**_options)
    def run(rng, adam, h, sigma, rates, rate, eps, trajectories, steps):
        settings = rates.size
        loss = np.zeros((settings, trajectories))
        z = np.empty((_BLOCK, trajectories))
        first = np.empty((1, trajectories))
        theta, m, v = (
            np.empty((trajectories, settings)),
            np.empty((trajectories, settings)),
            np.empty((trajectories, settings)),
        )
        for i in range(h.size):
            draw(rng, first)
            for r in range(trajectories):
                theta[r] = first[0, r]
            m[:] = 0.0
            v[:] = 0.0
            for start in range(0, steps, _BLOCK):
                stop = min(start + _BLOCK, steps)
                part = z[: stop - start]
                draw(rng, part)
                if adam and settings == 1:
                    _adam_one(
                        h[i],
                        rate[start:stop],
                        eps[start:stop],
                        sigma[i],
                        part,
                        theta.reshape(-1),
                        m.reshape(-1),
                        v.reshape(-1),
                    )
                elif adam:
                    _adam(h[i], rate[start:stop], eps[start:stop], sigma[i], part, theta, m, v)
                elif settings == 1:
                    _heavy_ball_one(h[i], rates[0], sigma[i], part, theta.reshape(-1), m.reshape(-1))
                else:
                    _heavy_ball(h[i], rates, sigma[i], part, theta, m)
            for r in range(trajectories):
                for s in range(settings):
                    loss[s, r] += 0.5 * h[i] * theta[r, s] ** 2
        return loss

    return run


@numba.njit(**_options)
def _draw_plain(rng, z):
    _fill(z)


@numba.njit(**_options)
def _draw_generator(rng, z):
    for t in range(z.shape[0]):
        for r in range(z.shape[1]):
            z[t, r] = rng.standard_normal()


def _part(name: str, kernel, task: Task, trajectories: int, seed: int) -> np.ndarray:
    rng = np.random.Generator(np.random.SFC64(seed))
    if name == NAMES[0]:
        _seed(seed)
    t = np.arange(1, task.steps + 1)
    root = np.sqrt(1 - 0.999**t)
    rates = np.array(task.rates)
    rate = rates * (root / (1 - 0.9**t))[:, np.newaxis]
    sigma = np.sqrt(task.h / task.batch)
    return kernel(rng, task.kind == "Adam", task.h, sigma, rates, rate, 1e-8 * root, trajectories, task.steps)


_kernels: dict[str, object] = {}


def make(name: str, task: Task, threads: int):
    if name not in _kernels:
        _kernels[name] = _kernel(_draw_plain if name == NAMES[0] else _draw_generator)
    return lambda seed: over_threads(partial(_part, name, _kernels[name], task), task.trajectories, threads, seed)
