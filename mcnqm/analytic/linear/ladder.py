r"""Powers of a linear map and of its noise, by doubling, in double-double.

A coordinate's optimizer is :math:`s' = A s + b \varepsilon`. Its state after t steps is known from

.. math::

    v_t = A^t s_0, \qquad S_t = \sum_{k<t} A^k b b^T (A^k)^T,

and both double: :math:`A^{2t} = A^t A^t`, :math:`S_{2t} = S_t + A^t S_t (A^t)^T`. `S` is a sum of positive
semidefinite terms, so nothing cancels in it. A *rung* j holds the pair at :math:`t = 2^j`; a walk from t to
t + n applies the rungs of the set bits of n.

Arrays are ``[..., 2, coordinate]``, high and low words, the coordinate innermost so that loops vectorise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit
from mcnqm.analytic.linear.doubledouble import dd_add, dd_mul

__all__ = [
    "Rung",
    "State",
    "StepMap",
    "Weights",
    "advance",
    "begin_ladder",
    "blocked",
    "build_ladder",
    "empty_ladder",
    "empty_rung",
    "empty_state",
    "first_rung",
    "limit",
    "origin",
    "square",
    "start",
    "sums",
    "walk",
    "walk_sums",
]

Array = NDArray[np.float64]

_WIDTH = 128
"""Coordinates per block: one rung of it (16 KB with momentum) stays in the first-level cache."""


class StepMap(NamedTuple):
    """One step: A, shape (n, n, 2, d); b, shape (n, 2, d); the start for θ(0) = 1, shape (n, d)."""

    matrix: Array
    impulse: Array
    initial: Array


class Rung(NamedTuple):
    """A to the power 2**j and S after as many steps, shapes (n, n, 2, d); (levels, ...) of a ladder."""

    power: Array
    noise: Array


class State(NamedTuple):
    """v, shape (n, 2, d), and S, shape (n, n, 2, d)."""

    vector: Array
    noise: Array


class Weights(NamedTuple):
    """Shares of each coordinate's v² and S in the risk, shape (d,), and which state they are read from."""

    bias: Array
    noise: Array
    readout: int


@njit
def _copy(out: Array, a: Array) -> None:
    for c in range(out.shape[1]):
        out[0, c] = a[0, c]
        out[1, c] = a[1, c]


@njit
def _multiply(out: Array, a: Array, b: Array) -> None:
    for c in range(out.shape[1]):
        out[0, c], out[1, c] = dd_mul(a[0, c], a[1, c], b[0, c], b[1, c])


@njit
def _accumulate(out: Array, a: Array, b: Array) -> None:
    for c in range(out.shape[1]):
        high, low = dd_mul(a[0, c], a[1, c], b[0, c], b[1, c])
        out[0, c], out[1, c] = dd_add(out[0, c], out[1, c], high, low)


@njit
def _spread(noise: Array, power: Array, old: Array, scratch: Array) -> None:
    """Add ``power @ old @ power.T`` to `noise`; only the upper triangle is computed."""
    n = power.shape[0]
    for i in range(n):
        for j in range(n):
            _multiply(scratch[i, j], power[i, 0], old[0, j])
            for k in range(1, n):
                _accumulate(scratch[i, j], power[i, k], old[k, j])
    for i in range(n):
        for j in range(i, n):
            for k in range(n):
                _accumulate(noise[i, j], scratch[i, k], power[j, k])
    for i in range(n):
        for j in range(i):
            _copy(noise[i, j], noise[j, i])


def blocked(array: NDArray[Any]) -> NDArray[Any]:
    """Coordinates (..., size) in blocks, (blocks, ..., width); what fills up the last is zero, and weighs nothing."""
    size = array.shape[-1]
    width = min(_WIDTH, size)
    blocks = -(-size // width)
    wide = np.zeros((*array.shape[:-1], blocks * width), dtype=array.dtype)
    wide[..., :size] = array
    return np.ascontiguousarray(np.moveaxis(wide.reshape(*array.shape[:-1], blocks, width), -2, 0))


def empty_ladder(step: StepMap, longest: int) -> Rung:
    """Memory for all rungs up to `longest` steps of a blocked map; pages that are never touched cost nothing."""
    shape = (longest.bit_length() + 1, *step.matrix.shape)
    return Rung(np.empty(shape), np.empty(shape))


@njit
def begin_ladder(step: StepMap, ladder: Rung) -> None:
    """Fill the first rung of every block."""
    for k in range(step.matrix.shape[0]):
        first_rung(
            StepMap(step.matrix[k], step.impulse[k], step.initial[k]),
            Rung(ladder.power[0, k], ladder.noise[0, k]),
        )


@njit
def build_ladder(ladder: Rung, built: int, level: int, scratch: Array) -> int:
    """Fill what is missing up to a level, and return how many rungs there are; `scratch` is of a rung's size."""
    while built <= level:
        for k in range(ladder.power.shape[1]):
            square(
                Rung(ladder.power[built - 1, k], ladder.noise[built - 1, k]),
                Rung(ladder.power[built, k], ladder.noise[built, k]),
                scratch,
            )
        built += 1
    return built


@njit
def empty_rung(n: int, d: int) -> Rung:
    """Memory for a rung."""
    return Rung(np.empty((n, n, 2, d)), np.empty((n, n, 2, d)))


@njit
def empty_state(n: int, d: int) -> State:
    """Memory for a state."""
    return State(np.empty((n, 2, d)), np.empty((n, n, 2, d)))


@njit
def first_rung(step: StepMap, out: Rung) -> None:
    """Fill the pair (A, b bᵀ) of one step."""
    n = step.matrix.shape[0]
    for i in range(n):
        for j in range(n):
            _copy(out.power[i, j], step.matrix[i, j])
            _multiply(out.noise[i, j], step.impulse[i], step.impulse[j])


@njit
def square(rung: Rung, out: Rung, scratch: Array) -> None:
    """Fill the pair at 2t from the pair at t."""
    power = rung.power
    n = power.shape[0]
    for i in range(n):
        for j in range(n):
            _multiply(out.power[i, j], power[i, 0], power[0, j])
            for k in range(1, n):
                _accumulate(out.power[i, j], power[i, k], power[k, j])
            _copy(out.noise[i, j], rung.noise[i, j])
    _spread(out.noise, power, rung.noise, scratch)


@njit
def start(state: State, initial: Array) -> None:
    """Fill (v, S) at t = 0."""
    state.noise[:] = 0.0
    state.vector[:, 0] = initial
    state.vector[:, 1] = 0.0


@njit
def advance(rung: Rung, state: State, out: State, scratch: Array) -> None:
    """Fill (v, S) at t + 2**j from (v, S) at t and rung j."""
    n = rung.power.shape[0]
    for i in range(n):
        _multiply(out.vector[i], rung.power[i, 0], state.vector[0])
        for k in range(1, n):
            _accumulate(out.vector[i], rung.power[i, k], state.vector[k])
        for j in range(n):
            _copy(out.noise[i, j], rung.noise[i, j])
    _spread(out.noise, rung.power, state.noise, scratch)


@njit
def _levels(record: NDArray[np.int64]) -> int:
    longest, previous = 1, 0
    for step in record:
        longest = max(longest, step - previous)
        previous = step
    levels = 0
    while longest:
        longest >>= 1
        levels += 1
    return levels


@njit
def _climb(step: StepMap, levels: int) -> Rung:
    """Rungs 0 .. levels-1."""
    n, d = step.matrix.shape[0], step.matrix.shape[3]
    power = np.empty((levels, n, n, 2, d))
    noise = np.empty((levels, n, n, 2, d))
    scratch = np.empty((n, n, 2, d))
    first_rung(step, Rung(power[0], noise[0]))
    for j in range(1, levels):
        square(Rung(power[j - 1], noise[j - 1]), Rung(power[j], noise[j]), scratch)
    return Rung(power, noise)


@njit
def _walk_on(ladder: Rung, steps: int, state: State, spare: State, scratch: Array) -> None:
    """Take (v, S) `steps` further, in place."""
    j = 0
    while steps:
        if steps & 1:
            advance(Rung(ladder.power[j], ladder.noise[j]), state, spare, scratch)
            state.vector[:] = spare.vector
            state.noise[:] = spare.noise
        steps >>= 1
        j += 1


def origin(step: StepMap) -> State:
    """(v, S) at t = 0."""
    n, d = step.initial.shape
    vector = np.zeros((n, 2, d))
    vector[:, 0] = step.initial
    return State(vector, np.zeros((n, n, 2, d)))


@njit
def walk(step: StepMap, begin: State, record: NDArray[np.int64]) -> tuple[Array, Array]:
    """v, shape (records, n, d), and S, (records, n, n, d), as doubles, at the recorded steps after (v, S) `begin`."""
    n, d = step.matrix.shape[0], step.matrix.shape[3]
    ladder = _climb(step, _levels(record))
    state, spare, scratch = empty_state(n, d), empty_state(n, d), np.empty((n, n, 2, d))
    vectors, noises = np.empty((record.size, n, d)), np.empty((record.size, n, n, d))
    state.vector[:] = begin.vector
    state.noise[:] = begin.noise
    at = 0
    for r in range(record.size):
        _walk_on(ladder, record[r] - at, state, spare, scratch)
        at = record[r]
        vectors[r] = state.vector[:, 0]
        noises[r] = state.noise[:, :, 0]
    return vectors, noises


@njit
def sums(state: State, weights: Weights) -> tuple[float, float]:
    """Sums over coordinates of ``bias * v**2`` and ``noise * S``.

    Compensated (Kahan), so that 10⁴ coordinates cost no digits. What overflowed is infinite; a weight of zero
    silences even that.
    """
    i = weights.readout
    bias = bias_rest = variance = variance_rest = 0.0
    for c in range(weights.bias.size):
        if weights.bias[c] > 0.0:
            v = state.vector[i, 0, c]
            term = weights.bias[c] * v * v - bias_rest
            total = bias + term
            bias_rest = (total - bias) - term
            bias = total
        if weights.noise[c] > 0.0:
            term = weights.noise[c] * state.noise[i, i, 0, c] - variance_rest
            total = variance + term
            variance_rest = (total - variance) - term
            variance = total
    if not np.isfinite(bias):
        bias = np.inf
    if not np.isfinite(variance):
        variance = np.inf
    return bias, variance


@njit
def walk_sums(step: StepMap, begin: State, record: NDArray[np.int64], weights: Weights, block: int) -> Array:
    """`sums` at each recorded step after (v, S) `begin`, shape (2, records).

    Coordinates go through in blocks, whose ladder stays in the cache.
    """
    n, d = step.matrix.shape[0], step.matrix.shape[3]
    levels = _levels(record)
    result = np.zeros((2, record.size))
    rest = np.zeros((2, record.size))
    for low in range(0, d, block):
        high = min(low + block, d)
        part = StepMap(
            np.ascontiguousarray(step.matrix[:, :, :, low:high]),
            np.ascontiguousarray(step.impulse[:, :, low:high]),
            np.ascontiguousarray(step.initial[:, low:high]),
        )
        share = Weights(weights.bias[low:high], weights.noise[low:high], weights.readout)
        ladder = _climb(part, levels)
        state, spare = empty_state(n, high - low), empty_state(n, high - low)
        scratch = np.empty((n, n, 2, high - low))
        state.vector[:] = begin.vector[:, :, low:high]
        state.noise[:] = begin.noise[:, :, :, low:high]
        at = 0
        for r in range(record.size):
            _walk_on(ladder, record[r] - at, state, spare, scratch)
            at = record[r]
            both = sums(state, share)
            for k in range(2):
                result[k, r], rest[k, r] = dd_add(result[k, r], rest[k, r], both[k], 0.0)
    for k in range(2):
        for r in range(record.size):
            if not np.isfinite(result[k, r]):
                result[k, r] = np.inf
    return result


@njit
def limit(step: StepMap, doublings: int) -> Array:
    """S after ``2**doublings`` steps, shape (n, n, 2, d): Smith's method for the Lyapunov equation."""
    n, d = step.matrix.shape[0], step.matrix.shape[3]
    rung, spare, scratch = empty_rung(n, d), empty_rung(n, d), np.empty((n, n, 2, d))
    first_rung(step, rung)
    for _ in range(doublings):
        square(rung, spare, scratch)
        rung, spare = spare, rung
    return rung.noise
