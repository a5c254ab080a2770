"""Streams of standard normals and of Student's t: which counter belongs to which draw.

Philox key = 64-bit seed; counter = (step // 4, coordinate, trajectory, purpose). One call gives the normals of four
consecutive steps: words (0, 1) are the Box-Muller pair of the first two, words (2, 3) of the last two.

A draw of Student's t takes two words to itself, so four steps take two calls, of purposes that follow one another: the
first for steps 0 and 1 of the four, the second for steps 2 and 3. With u and b as in `mcnqm.kernels.normal`,

    t = sqrt(df (u**(-2/df) - 1)) cos(2 pi b / 2**32)

has df degrees of freedom (Bailey 1994, "Polar generation of random variates with the t-distribution"); it is scaled to
variance 1. Where u is least, 2**-33, the tail ends, which leaves out about the share 2**(-33 (1 - 2/df)) of the
variance: 5e-4 at 3 degrees of freedom, 1 % at 2.5, 10 % at 2.22.
"""

from __future__ import annotations

import numba
import numpy as np

from mcnqm.kernels.exponential import expm1_positive
from mcnqm.kernels.jit import OPTIONS, scalar
from mcnqm.kernels.normal import radius_of, squared_radius, turned
from mcnqm.kernels.philox import key_words, philox4x32

__all__ = [
    "EXAMPLE",
    "GAUSSIAN",
    "GRADIENT",
    "INITIAL",
    "MAX_EXAMPLES",
    "STUDENT",
    "STUDENT_EXAMPLE",
    "fill_batches",
    "fill_examples",
    "fill_noise",
    "fill_student",
    "streams",
]

INITIAL = np.uint32(0)
"""Purpose of the starting point's draw: the first normal of call 0."""

GRADIENT = np.uint32(1)
"""Purpose of the averaged gradient's noise."""

EXAMPLE = np.uint32(2)
"""Purpose of one example's noise: the low byte; the example's number takes the three above it."""

STUDENT = np.uint32(16)
"""Purpose of Student's t in the averaged gradient's noise: this and the next."""

STUDENT_EXAMPLE = np.uint32(18)
"""Purpose of one example's, this and the next: the low byte, as with `EXAMPLE`."""

GAUSSIAN = 0.0
"""Degrees of freedom that stand for none."""

MAX_EXAMPLES = 2**24
_NEARLY_GAUSSIAN = 1e9
_TWO = np.float64(2.0)
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


@scalar
def _student_radius(a, per, scale):
    return np.sqrt(scale * expm1_positive(per * squared_radius(a)))


@numba.njit(**OPTIONS)
def fill_student(calls, trajectories, coordinate, purpose, df, seed, words, z):
    """As `fill_noise`, draws of Student's t with `df` degrees of freedom, of variance 1."""
    k0, k1 = key_words(seed)
    n = calls.size
    df = min(df, _NEARLY_GAUSSIAN)
    per, scale = np.float32(1.0 / df), np.float32(df - _TWO)
    for half in range(2):
        this = np.uint32(purpose + np.uint32(half))
        for j in range(n):
            a, b, c, d = philox4x32(calls[j], coordinate, trajectories[j], this, k0, k1)
            words[j] = a
            words[n + j] = b
            words[2 * n + j] = c
            words[3 * n + j] = d
        for part in range(2):
            # Slices, since an index that may be negative keeps loops from vectorizing.
            draw = z[(2 * half + part) * n : (2 * half + part + 1) * n]
            radius, angle = words[2 * part * n : (2 * part + 1) * n], words[(2 * part + 1) * n : (2 * part + 2) * n]
            for j in range(n):
                draw[j] = _student_radius(radius[j], per, scale)
            for j in range(n):
                draw[j] = turned(draw[j], angle[j])[0]


@numba.njit(**OPTIONS)
def fill_batches(calls, trajectories, coordinate, df, seed, words, z):
    """Noise of averaged gradients, of variance 1: normal, or Student's t if there are degrees of freedom."""
    if df == GAUSSIAN:
        fill_noise(calls, trajectories, coordinate, GRADIENT, seed, words, z)
    else:
        fill_student(calls, trajectories, coordinate, STUDENT, df, seed, words, z)


@numba.njit(**OPTIONS)
def fill_examples(calls, trajectories, coordinate, examples, df, seed, words, z, total, cancel):
    """As `fill_batches`, each entry the mean of as many independent draws as there are `examples`.

    Returns early, and with nothing of use, once ``cancel[0]`` is not 0: a million examples take minutes.
    """
    n = 4 * calls.size
    for j in range(n):
        total[j] = 0.0
    for e in range(examples):
        if cancel[0] != 0:
            return
        if df == GAUSSIAN:
            purpose = np.uint32(EXAMPLE | np.uint32(e << _EXAMPLE_SHIFT))
            fill_noise(calls, trajectories, coordinate, purpose, seed, words, z)
        else:
            purpose = np.uint32(STUDENT_EXAMPLE | np.uint32(e << _EXAMPLE_SHIFT))
            fill_student(calls, trajectories, coordinate, purpose, df, seed, words, z)
        for j in range(n):
            total[j] += np.float64(z[j])
    for j in range(n):
        z[j] = np.float32(total[j] / examples)


@numba.njit(**OPTIONS)
def streams(seed, purpose, df, trajectories, coordinates, out):
    """Replay streams into `out`, float32 of shape (trajectory, step, coordinate).

    Of the averaged gradient's noise with `df` degrees of freedom or, if it is Gaussian, of normals with a purpose.
    """
    steps = out.shape[1]
    n = (steps + 3) // 4
    calls = np.arange(n).astype(np.uint32)
    words = np.empty(4 * n, np.uint32)
    z = np.empty(4 * n, np.float32)
    for r in range(trajectories.size):
        same = np.full(n, trajectories[r])
        for i in range(coordinates.size):
            if df == GAUSSIAN:
                fill_noise(calls, same, coordinates[i], purpose, seed, words, z)
            else:
                fill_batches(calls, same, coordinates[i], df, seed, words, z)
            for t in range(steps):
                out[r, t, i] = z[(t % 4) * n + t // 4]
