"""Streams of standard normals: which counter belongs to which draw.

Philox key = 64-bit seed; counter = (step // 4, coordinate, trajectory, purpose). One call gives the normals of four
consecutive steps: words (0, 1) are the Box-Muller pair of the first two, words (2, 3) of the last two.
"""

from __future__ import annotations

import numba
import numpy as np

from mcnqm.kernels.jit import OPTIONS
from mcnqm.kernels.normal import radius_of, turned
from mcnqm.kernels.philox import key_words, philox4x32

__all__ = ["EXAMPLE", "GRADIENT", "INITIAL", "MAX_EXAMPLES", "fill_examples", "fill_noise", "streams"]

INITIAL = np.uint32(0)
"""Purpose of the starting point's draw: the first normal of call 0."""

GRADIENT = np.uint32(1)
"""Purpose of the averaged gradient's noise."""

EXAMPLE = np.uint32(2)
"""Purpose of one example's noise: the low byte; the example's number takes the three above it."""

MAX_EXAMPLES = 2**24
_EXAMPLE_SHIFT = np.uint32(8)


@numba.njit(**OPTIONS)
def fill_noise(calls, trajectories, coordinate, purpose, seed, words, z):
    """Normals of ``n`` generator calls: call ``j`` writes ``z[j], z[n + j], z[2n + j], z[3n + j]``.

    `calls` and `trajectories` (uint32, shape (n,)) give each call's step // 4 and trajectory; `words` (uint32) and
    `z` (float32) have room for 4n. Bits first, normals after: integers and floats want different vector widths.
    """
    k0, k1 = key_words(seed)
    n = calls.size
    for j in range(n):
        a, b, c, d = philox4x32(calls[j], coordinate, trajectories[j], purpose, k0, k1)
        words[j] = a
        words[n + j] = b
        words[2 * n + j] = c
        words[3 * n + j] = d
    for part in (0, 2 * n):
        for j in range(n):
            z[part + j] = radius_of(words[part + j])
        for j in range(n):
            z[part + j], z[part + n + j] = turned(z[part + j], words[part + n + j])


@numba.njit(**OPTIONS)
def fill_examples(calls, trajectories, coordinate, examples, seed, words, z, total, cancel):
    """As `fill_noise`, each entry the mean of as many independent normals as there are `examples`.

    Returns early, and with nothing of use, once ``cancel[0]`` is not 0: a million examples take minutes.
    """
    n = 4 * calls.size
    for j in range(n):
        total[j] = 0.0
    for e in range(examples):
        if cancel[0] != 0:
            return
        fill_noise(calls, trajectories, coordinate, np.uint32(EXAMPLE | np.uint32(e << _EXAMPLE_SHIFT)), seed, words, z)
        for j in range(n):
            total[j] += np.float64(z[j])
    for j in range(n):
        z[j] = np.float32(total[j] / examples)


@numba.njit(**OPTIONS)
def streams(seed, purpose, trajectories, coordinates, out):
    """Replay streams into `out`, float32 of shape (trajectory, step, coordinate)."""
    steps = out.shape[1]
    n = (steps + 3) // 4
    calls = np.arange(n).astype(np.uint32)
    words = np.empty(4 * n, np.uint32)
    z = np.empty(4 * n, np.float32)
    for r in range(trajectories.size):
        same = np.full(n, trajectories[r])
        for i in range(coordinates.size):
            fill_noise(calls, same, coordinates[i], purpose, seed, words, z)
            for t in range(steps):
                out[r, t, i] = z[(t % 4) * n + t // 4]
