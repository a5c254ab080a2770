"""The loops: many lanes of many coordinates through many steps, in blocks that stay in cache.

A *lane* is one (trajectory, setting) pair. Vectors run over one of the two, groups over the other:

* by setting: a vector is up to `LANES` settings of one trajectory, all on the same noise;
* by trajectory: a vector is up to `LANES` trajectories of one setting, each on its own noise.

Both compute the same numbers for a lane, bit for bit. The numbers of a group lie in one-dimensional arrays, the
lanes `LANES` apart (see `mcnqm.kernels.jit.load_row` for why):

    params   (coordinate, field of p .. and sigma twice, setting)
             sigma = sqrt(c / B), the first 1 where the noise is scaled for all settings at once
    state    (coordinate, group, theta and state variables, lane); with a twin, y and its state variables follow,
             with an average of the iterates, that
    clock    (clock variable, setting)
    coefs    (step of the block, coefficient, setting)
    factors  (step of the block, scheduled number, setting): see `mcnqm.kernels.jit.scheduled_row`
    moments  (coordinate, cell, the twin's moments and rates, setting)
    out      (record, group, lane): sums over coordinates; or (coordinate, record, group, kept variable, lane);
             with a twin (record, group, loss of theta and of y, lane); with an average its loss, not that of theta
    expected (record, setting): expected loss of y

Rules for a twin are in `mcnqm.kernels.updates.Twin`. Its rates depend on which cell of its law a trajectory's starting
point fell into: the same for all trajectories of a cell, and so in advance.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.extending import overload

from mcnqm.compiling import compiled
from mcnqm.kernels.gradients import add_loss, described, judged_by, like_of, pull, steps_together
from mcnqm.kernels.jit import (
    OPTIONS,
    fma,
    get,
    load_row,
    load_state,
    put,
    scalar,
    scheduled,
    scheduled_last,
    scheduled_row,
    store_row,
    store_state,
)
from mcnqm.kernels.noise import GAUSSIAN, INITIAL, fill_batches, fill_examples, fill_noise
from mcnqm.kernels.updates import (
    expected_rates,
    first_moments,
    first_state,
    first_twin_state,
    judged,
    judged_row,
    local,
    steps_at_once,
    tick,
    twin_row,
    twin_update,
    update,
)

__all__ = ["BLOCK", "BY_SETTING", "BY_TRAJECTORY", "LANES", "Shard", "advance_kernel"]

LANES = 64
"""Most lanes of one group: wide enough to fill vectors and hide latencies, small enough for the L1 cache."""

BLOCK = 256
"""Steps per block: noise and coefficients are prepared for so many at a time. A multiple of 4."""

# Choices that the compiler must see are made by the length of a tuple.
BY_SETTING = (0,)
BY_TRAJECTORY = (0, 0)
_ONE_STEP = (0,)
_EVEN = (0,)
_NEVER = np.int64(2**62)


class Shard(NamedTuple):
    """A block of coordinates and lanes to advance: numbers and arrays only, so that any worker can take it.

    Attributes
    ----------
    seed : uint64
        Key of all streams.
    examples : int
        0: the exact law of the averaged gradient. B > 0: draw B examples each and average.
    settings : ndarray of float64, shape (fields + 1, LANES)
        One column per setting: the hyperparameters in order, then the batch size.
    n_settings : int
        How many columns are in use, at most LANES.
    trajectories, coordinates : ndarray of uint32, shape (trajectories,), (coordinates,)
        Indices in the counters.
    curvature, noise, mean, std, weight : ndarray of float64, shape (coordinates,)
        h, c, law of the starting point, and what theta² counts in the loss (h / 2).
    start, stop : int
        Completed steps before and after.
    record : ndarray of int64, shape (records,)
        Steps to record, increasing; those beyond `start` up to `stop`, and step 0 of a new run.
    keep : int
        0: sum the loss of the iterates over coordinates. k > 0: write the first k of theta, the state variables and
        the average.
    edges, second, share : ndarray of float64, shape (coordinates, cells - 1) and twice (coordinates, cells)
        Cells of the starting point's law, for the twin: bounds of θ², its mean within, and the chance of each. No
        cells, no twin.
    scheduled : tuple
        () or, for each hyperparameter, for sigma and for the weight of the past in an average of the iterates, a tuple:
        (0.0,) where it has a factor of its own at every step, else ().
    table : ndarray of float64, shape (curves, stop - start)
        Factors, at the steps from `start` on.
    which : ndarray of int64, shape (scheduled numbers, LANES)
        Whose row each of them follows in the table, for every setting.
    evenly : bool
        Whether the noise has the same scale in all settings at all steps.
    zero : float64 or float32
        0 in the type of the state and of all arithmetic on it; times, sums and twins are float64 throughout.
    df : float
        Degrees of freedom of the noise; 0.0 where it is Gaussian.
    kind, wide_kind : tuple
        () for the plain quadratic, else the NamedTuple of a coordinate's numbers (`mcnqm.kernels.gradients`), of zeros
        of the type of `zero`, and of float64, in which losses are computed.
    numbers : ndarray of float64, shape (coordinates, fields of the kind)
        And then `noise` is 1: the variance of a gradient is the kind's.
    bounds : ndarray of float64, shape (coordinates, 3)
        Of such a kind, least loss, and the least and largest parameter at which there is one.
    """

    seed: Any
    examples: int
    settings: Any
    n_settings: int
    trajectories: Any
    coordinates: Any
    curvature: Any
    noise: Any
    mean: Any
    std: Any
    weight: Any
    start: int
    stop: int
    record: Any
    keep: int
    edges: Any
    second: Any
    share: Any
    scheduled: Any = ()
    table: Any = np.empty((0, 0))
    which: Any = np.empty((0, LANES), np.int64)
    evenly: bool = False
    zero: Any = 0.0
    df: float = GAUSSIAN
    kind: Any = ()
    wide_kind: Any = ()
    numbers: Any = np.empty((0, 0))
    bounds: Any = np.empty((0, 3))


def _mix(gamma, x, mean):
    """The average after a step to x: nothing if there is none."""
    raise NotImplementedError


@overload(_mix, jit_options={"forceinline": True})
def _mix_if_any(gamma, x, mean):
    if not len(gamma):
        return lambda gamma, x, mean: ()
    return lambda gamma, x, mean: (fma(gamma[0], mean[0] - x, x),)


@scalar
def _now(mask, p, sigma, factors, f0):
    """Hyperparameters, noise scale and the weight of the past in the average, at one step."""
    return (
        scheduled_row(mask, p, factors, f0, LANES),
        scheduled(mask, p, sigma, factors, f0, LANES),
        scheduled_last(mask, factors, f0, LANES),
    )


def _scale_of(even, params, place):
    """The noise scale of a lane: 1, known to the compiler, where the noise has been scaled for all lanes at once."""
    raise NotImplementedError


@overload(_scale_of, jit_options={"forceinline": True})
def _scale_if_uneven(even, params, place):
    if len(even):
        one = np.float32(1.0) if params.dtype == numba.float32 else 1.0
        return lambda even, params, place: one
    return lambda even, params, place: get(params, place)


@scalar
def _step(now, h, c, z, x, s, mean):
    """One noisy gradient and one update, of one lane."""
    p, sigma, gamma = now
    x, s = update(p, c, pull(h, x, sigma * z), x, s)
    return x, s, _mix(gamma, judged(p, x, s), mean)


@scalar
def _by_setting(q, even, like_p, like_s, like_c, n, h, params, p0, state, s0, coefs, c0, z, z0, zq, times, twin):
    """Advance `n` settings of one trajectory by ``len(q)`` steps, state in registers."""
    mask, like_m, factors, f0, later = times
    row = len(like_c) * LANES
    m0 = s0 + (1 + len(like_s)) * LANES
    za, zb = get(z, z0), get(z, z0 + zq)
    zc, zd = get(z, z0 + 2 * zq), get(z, z0 + 3 * zq)
    for j in range(n):
        p = load_row(like_p, params, p0 + j, LANES)
        sigma = _scale_of(even, params, p0 + len(like_p) * LANES + j)
        (x,) = load_state((like_of(h),), state, s0 + j, LANES)
        s = load_state(like_s, state, s0 + LANES + j, LANES)
        mean = load_state(like_m, state, m0 + j, LANES)
        f = f0 + j
        x, s, mean = _step(_now(mask, p, sigma, factors, f), h, load_row(like_c, coefs, c0 + j, LANES), za, x, s, mean)
        if len(q) == 4:
            c = load_row(like_c, coefs, c0 + row + j, LANES)
            x, s, mean = _step(_now(mask, p, sigma, factors, f + later), h, c, zb, x, s, mean)
            c = load_row(like_c, coefs, c0 + 2 * row + j, LANES)
            x, s, mean = _step(_now(mask, p, sigma, factors, f + 2 * later), h, c, zc, x, s, mean)
            c = load_row(like_c, coefs, c0 + 3 * row + j, LANES)
            x, s, mean = _step(_now(mask, p, sigma, factors, f + 3 * later), h, c, zd, x, s, mean)
        store_state((x, *s, *mean), state, s0 + j, LANES)


@scalar
def _by_trajectory(q, even, like_p, like_s, like_c, n, h, params, p0, state, s0, coefs, c0, z, z0, zq, times, twin):
    """Advance `n` trajectories of one setting by ``len(q)`` steps, state in registers."""
    mask, like_m, factors, f0, later = times
    later *= len(q) // 4
    row = len(like_c) * LANES * (len(q) // 4)
    m0 = s0 + (1 + len(like_s)) * LANES
    p = load_row(like_p, params, p0, LANES)
    sigma = _scale_of(even, params, p0 + len(like_p) * LANES)
    ca = load_row(like_c, coefs, c0, LANES)
    cb = load_row(like_c, coefs, c0 + row, LANES)
    cc = load_row(like_c, coefs, c0 + 2 * row, LANES)
    cd = load_row(like_c, coefs, c0 + 3 * row, LANES)
    na = _now(mask, p, sigma, factors, f0)
    nb = _now(mask, p, sigma, factors, f0 + later)
    nc = _now(mask, p, sigma, factors, f0 + 2 * later)
    nd = _now(mask, p, sigma, factors, f0 + 3 * later)
    for j in range(n):
        (x,) = load_state((like_of(h),), state, s0 + j, LANES)
        s = load_state(like_s, state, s0 + LANES + j, LANES)
        mean = load_state(like_m, state, m0 + j, LANES)
        x, s, mean = _step(na, h, ca, get(z, z0 + j), x, s, mean)
        if len(q) == 4:
            x, s, mean = _step(nb, h, cb, get(z, z0 + zq + j), x, s, mean)
            x, s, mean = _step(nc, h, cc, get(z, z0 + 2 * zq + j), x, s, mean)
            x, s, mean = _step(nd, h, cd, get(z, z0 + 3 * zq + j), x, s, mean)
        store_state((x, *s, *mean), state, s0 + j, LANES)


@scalar
def _both_by_setting(q, even, like_p, like_s, like_c, n, h, params, p0, state, s0, coefs, c0, z, z0, zq, times, twin):
    """Advance `n` settings of one trajectory by one step, and their twins."""
    like_y, like_a, moments, cell, k0, a0, stride, _ = twin
    mask, _, factors, f0, _ = times
    y0 = s0 + (1 + len(like_s)) * LANES
    a0 += np.intp(get(cell, k0)) * stride
    normal = get(z, z0)
    for j in range(n):
        p = load_row(like_p, params, p0 + j, LANES)
        p, sigma, _ = _now(mask, p, get(params, p0 + len(like_p) * LANES + j), factors, f0 + j)
        push = sigma * normal
        (x,), (y,) = load_state((0.0,), state, s0 + j, LANES), load_state((0.0,), state, y0 + j, LANES)
        s = load_state(like_s, state, s0 + LANES + j, LANES)
        u = load_state(like_y, state, y0 + LANES + j, LANES)
        a = load_row(like_a, moments, a0 + j, LANES)
        x, s = update(p, load_row(like_c, coefs, c0 + j, LANES), fma(h, x, push), x, s)
        y, u = twin_update(p, a, fma(h, y, push), y, u)
        store_state((x, *s, y, *u), state, s0 + j, LANES)


@scalar
def _both_by_trajectory(
    q, even, like_p, like_s, like_c, n, h, params, p0, state, s0, coefs, c0, z, z0, zq, times, twin
):
    """Advance `n` trajectories of one setting by one step, and their twins."""
    like_y, like_a, moments, cell, k0, a0, stride, rates = twin
    mask, _, factors, f0, _ = times
    y0 = s0 + (1 + len(like_s)) * LANES
    # Gathered apart: within the loop below this would keep it from vectorising.
    for j in range(n):
        store_row(load_row(like_a, moments, a0 + np.intp(get(cell, k0 + j)) * stride, LANES), rates, j, LANES)
    p = load_row(like_p, params, p0, LANES)
    p, sigma, _ = _now(mask, p, get(params, p0 + len(like_p) * LANES), factors, f0)
    c = load_row(like_c, coefs, c0, LANES)
    for j in range(n):
        push = sigma * get(z, z0 + j)
        (x,), (y,) = load_state((0.0,), state, s0 + j, LANES), load_state((0.0,), state, y0 + j, LANES)
        s = load_state(like_s, state, s0 + LANES + j, LANES)
        u = load_state(like_y, state, y0 + LANES + j, LANES)
        a = load_row(like_a, rates, j, LANES)
        x, s = update(p, c, fma(h, x, push), x, s)
        y, u = twin_update(p, a, fma(h, y, push), y, u)
        store_state((x, *s, y, *u), state, s0 + j, LANES)


def _advance(layout, q, even, like_p, like_s, like_c, n, h, params, p0, state, s0, coefs, c0, z, z0, zq, times, twin):
    raise NotImplementedError


@overload(_advance, jit_options={"forceinline": True})
def _by_layout(layout, q, even, like_p, like_s, like_c, n, h, params, p0, state, s0, coefs, c0, z, z0, zq, times, twin):
    by_setting = len(layout) == len(BY_SETTING)
    if len(twin):
        chosen = _both_by_setting if by_setting else _both_by_trajectory
    else:
        chosen = _by_setting if by_setting else _by_trajectory

    def call(layout, q, even, like_p, like_s, like_c, n, h, params, p0, state, s0, coefs, c0, z, z0, zq, times, twin):
        chosen(q, even, like_p, like_s, like_c, n, h, params, p0, state, s0, coefs, c0, z, z0, zq, times, twin)

    return call


def _expect(like_p, like_c, like_f, cells, n, h, params, p0, coefs, c0, moments, f0, stride, times):
    """Advance the moments of the twin by one step in every cell, and write the step's rates behind them."""
    raise NotImplementedError


@overload(_expect, jit_options={"forceinline": True})
def _expect_if_twin(like_p, like_c, like_f, cells, n, h, params, p0, coefs, c0, moments, f0, stride, times):
    if not len(like_f):
        return lambda like_p, like_c, like_f, cells, n, h, params, p0, coefs, c0, moments, f0, stride, times: None

    def expect(like_p, like_c, like_f, cells, n, h, params, p0, coefs, c0, moments, f0, stride, times):
        mask, _, factors, t0, _ = times
        for k in range(cells):
            for j in range(n):
                p = load_row(like_p, params, p0 + j, LANES)
                p, sigma, _ = _now(mask, p, get(params, p0 + (len(like_p) + 1) * LANES + j), factors, t0 + j)
                c = load_row(like_c, coefs, c0 + j, LANES)
                f = load_row(like_f, moments, f0 + k * stride + j, LANES)
                f, a = expected_rates(p, c, h, sigma * sigma, f)
                store_row((*f, *a), moments, f0 + k * stride + j, LANES)

    return expect


def _find_cells(like_f, trajectories, coordinates, mean, std, edges, seed, calls, words, z, cell):
    """Which cell each trajectory's starting point fell into, per coordinate, if there are twins."""
    raise NotImplementedError


@overload(_find_cells)
def _find_cells_if_twin(like_f, trajectories, coordinates, mean, std, edges, seed, calls, words, z, cell):
    if not len(like_f):
        return lambda like_f, trajectories, coordinates, mean, std, edges, seed, calls, words, z, cell: None

    def find(like_f, trajectories, coordinates, mean, std, edges, seed, calls, words, z, cell):
        n = trajectories.size
        for i in range(coordinates.size):
            fill_noise(calls[:n], trajectories, coordinates[i], INITIAL, seed, words, z)
            for r in range(n):
                start = fma(std[i], np.float64(z[r]), mean[i])
                for edge in edges[i]:
                    if start * start >= edge:
                        cell[i * n + r] += 1

    return find


def _twin(like_f, like_y, like_a, moments, cell, k0, a0, stride, rates):
    """What `_advance` needs for twins: nothing if there are none."""
    raise NotImplementedError


@overload(_twin, jit_options={"forceinline": True})
def _twin_if_any(like_f, like_y, like_a, moments, cell, k0, a0, stride, rates):
    if not len(like_f):
        return lambda like_f, like_y, like_a, moments, cell, k0, a0, stride, rates: ()
    return lambda like_f, like_y, like_a, moments, cell, k0, a0, stride, rates: (
        like_y, like_a, moments, cell, k0, a0, stride, rates,
    )  # fmt: skip


def _averaged(mask):
    """(0.0,) if there is an average of the iterates, else ()."""
    raise NotImplementedError


@overload(_averaged, jit_options={"forceinline": True})
def _averaged_by_mask(mask):
    there = bool(len(mask)) and bool(len(mask[-1]))
    return (lambda mask: (0.0,)) if there else (lambda mask: ())


@scalar
def _add_loss(judge, n, state, s0, out, o0):
    for j in range(n):
        (x,) = load_state((0.0,), state, s0 + j, LANES)
        put(out, o0 + j, add_loss(judge, x, get(out, o0 + j)))


@scalar
def _begin_lane(like_p, like_s, like_f, like_y, like_m, params, p0, state, s0):
    """Everything of a lane before its first step but theta, which is there."""
    p = load_row(like_p, params, p0, LANES)
    (x,) = load_state((0.0,), state, s0, LANES)
    s = first_state(p, x, like_s)
    store_state(s, state, s0 + LANES, LANES)
    if len(like_m) > 0:
        store_state((judged(p, x, s),), state, s0 + (1 + len(like_s)) * LANES, LANES)
    _begin_twin(p, like_f, like_y, x, state, s0 + (1 + len(like_s)) * LANES)


def _begin_twin(p, like_f, like_y, y, state, s0):
    """The same of its twin, if there is one."""
    raise NotImplementedError


@overload(_begin_twin, jit_options={"forceinline": True})
def _begin_twin_if_any(p, like_f, like_y, y, state, s0):
    if not len(like_f):
        return lambda p, like_f, like_y, y, state, s0: None
    return lambda p, like_f, like_y, y, state, s0: store_state((y, *first_twin_state(p, y, like_y)), state, s0, LANES)


def _begin_moments(like_p, like_f, second, cells, i, n_settings, params, p0, moments, stride):
    """The moments of the twins before the first step, if there are any."""
    raise NotImplementedError


@overload(_begin_moments, jit_options={"forceinline": True})
def _begin_moments_if_twin(like_p, like_f, second, cells, i, n_settings, params, p0, moments, stride):
    if not len(like_f):
        return lambda like_p, like_f, second, cells, i, n_settings, params, p0, moments, stride: None

    def begin(like_p, like_f, second, cells, i, n_settings, params, p0, moments, stride):
        for k in range(cells):
            f0 = (i * cells + k) * stride
            moments[f0 : f0 + stride] = 0.0
            for j in range(n_settings):
                p = load_row(like_p, params, p0 + j, LANES)
                store_row(first_moments(p, second[i, k], like_f), moments, f0 + j, LANES)

    return begin


@numba.njit(**OPTIONS)
def _record(rows, like_s, like_f, like_m, judge, keep, records, i, r, groups, variables, n, state, out):
    """Record `r` of coordinate `i`: add its loss, or write the first `keep` variables as they are.

    `rows` are tuples as long as there are variables before the iterate, and before that of a twin.
    """
    twins = len(like_f) > 0
    for g in range(groups):
        s0 = (i * groups + g) * variables * LANES
        if keep == 0:
            o0 = (r * groups + g) * (2 if twins else 1) * LANES
            _add_loss(judge, n, state, s0 + (1 + len(like_s) if len(like_m) else len(rows[0])) * LANES, out, o0)
            if twins:
                _add_loss(judge, n, state, s0 + (1 + len(like_s) + len(rows[1])) * LANES, out, o0 + LANES)
        else:
            o0 = ((i * records + r) * groups + g) * keep * LANES
            for row in range(keep):
                for j in range(n):
                    (x,) = load_state((0.0,), state, s0 + row * LANES + j, LANES)
                    put(out, o0 + row * LANES + j, x)


def _record_expected(like_f, weight, share, i, r, n_settings, moments, stride, expected):
    """Add the expected loss of the twins, if there are any."""
    raise NotImplementedError


@overload(_record_expected)
def _record_expected_if_twin(like_f, weight, share, i, r, n_settings, moments, stride, expected):
    if not len(like_f):
        return lambda like_f, weight, share, i, r, n_settings, moments, stride, expected: None

    def add(like_f, weight, share, i, r, n_settings, moments, stride, expected):
        for k in range(share.shape[1]):
            f0 = (i * share.shape[1] + k) * stride
            for j in range(n_settings):
                part = weight * share[i, k] * get(moments, f0 + j)
                put(expected, r * LANES + j, get(expected, r * LANES + j) + part)

    return add


@numba.njit(**OPTIONS)
def _prepare(like_p, flat, n_settings, curvature, noise, evenly, params):
    """Hyperparameters and noise scale of every setting, as each coordinate sees them."""
    fields = len(like_p)
    for i in range(curvature.size):
        p0 = i * (fields + 2) * LANES
        for j in range(n_settings):
            p = local(load_row(like_p, flat, j, LANES), curvature[i])
            store_row(p, params, p0 + j, LANES)
            sigma = np.sqrt(noise[i] / flat[fields * LANES + j])
            params[p0 + fields * LANES + j] = 1.0 if evenly else sigma
            params[p0 + (fields + 1) * LANES + j] = sigma


@numba.njit(**OPTIONS)
def _scale(z, n, scale, push):
    """Noise as the steps want it: once here, rather than for every setting there."""
    for k in range(n):
        push[k] = scale * np.float64(z[k])


def _tick_block(like_p, like_c, like_k, mask, flat, n_settings, first, last, clock, coefs, factors, later):
    """Coefficients of the block's steps `first` to `last` - 1, for every setting, if there are any."""
    raise NotImplementedError


@overload(_tick_block)
def _tick_block_if_clock(like_p, like_c, like_k, mask, flat, n_settings, first, last, clock, coefs, factors, later):
    if not len(like_k) and not len(like_c):
        return lambda like_p, like_c, like_k, mask, flat, n_settings, first, last, clock, coefs, factors, later: None

    def advance(like_p, like_c, like_k, mask, flat, n_settings, first, last, clock, coefs, factors, later):
        for k in range(first, last):
            for j in range(n_settings):
                p = load_row(like_p, flat, j, LANES)
                p = scheduled_row(mask, p, factors, k * later + j, LANES)
                next_k, c = tick(p, load_row(like_k, clock, j, LANES))
                store_row(next_k, clock, j, LANES)
                store_row(c, coefs, k * len(like_c) * LANES + j, LANES)

    return advance


def _fill_factors(mask, which, n_settings, table, first, last, offset, factors, later):
    """Factors of the block's steps `first` to `last` - 1, for every setting, if there are any."""
    raise NotImplementedError


@overload(_fill_factors)
def _fill_factors_if_scheduled(mask, which, n_settings, table, first, last, offset, factors, later):
    if not len(mask):
        return lambda mask, which, n_settings, table, first, last, offset, factors, later: None

    def fill(mask, which, n_settings, table, first, last, offset, factors, later):
        for k in range(first, last):
            for r in range(which.shape[0]):
                for j in range(n_settings):
                    factors[k * later + r * LANES + j] = table[which[r, j], offset + k]

    return fill


@functools.cache
def advance_kernel(hyper_type: type, kind: type | None, fingerprint: str) -> Any:
    """The kernel that runs every lane of a shard from ``shard.start`` to ``shard.stop`` completed steps.

    Of an optimizer's hyperparameters and a kind of coordinate, None for the plain quadratic.

    ``advance(layout, wide_p, like_p, like_s, like_c, like_k, like_f, like_y, like_a, shard, state, clock, moments, out,
    expected, cancel)``, where the ``like_*`` are tuples of floats of the types of the hyperparameters, state,
    coefficients and clock, and of the twin's moments, state and rates, empty without twin; `wide_p` is `like_p` in
    float64, for what is done once per setting; the arguments after the
    shard are written (`cancel`, uint8 of shape (1,), is read: the kernel returns early once it is not 0).

    Compiled kernels are cached on disk. Numba's cache knows the file of the function it caches, but not what was
    inlined from elsewhere: a constant in the closure is part of its key, so `fingerprint` stands for all of that.
    Its index names every type in it, so each pair of them gets an index of its own: a process that lacks some user's
    module must still be able to read those of the rest.
    """

    def advance(
        layout,
        wide_p,
        like_p,
        like_s,
        like_c,
        like_k,
        like_f,
        like_y,
        like_a,
        shard,
        state,
        clock,
        moments,
        out,
        expected,
        cancel,
    ):
        fingerprint  # noqa: B018
        by_setting = len(layout) == len(BY_SETTING)
        h, trajectories, record = shard.curvature, shard.trajectories, shard.record
        n_trajectories = trajectories.size
        n = shard.n_settings if by_setting else n_trajectories  # lanes of a group
        groups = n_trajectories if by_setting else shard.n_settings
        twins = len(like_f) > 0
        like_m = _averaged(shard.scheduled)
        variables = 2 + len(like_s) + len(like_y) if twins else 1 + len(like_s) + len(like_m)
        cells = shard.share.shape[1]
        stride = (len(like_f) + len(like_a)) * LANES  # from cell to cell
        at_once = steps_together(shard.kind, steps_at_once(like_p))
        numbers = shard.numbers.reshape(shard.numbers.size)
        rows = (judged_row(like_p), twin_row(like_p))

        flat = shard.settings.reshape(shard.settings.size)
        evenly = shard.evenly
        params = np.empty(h.size * (len(like_p) + 2) * LANES, state.dtype)
        _prepare(wide_p, flat, shard.n_settings, h, shard.noise, evenly, params)
        coefs = np.empty(BLOCK * len(like_c) * LANES + 1, state.dtype)
        later = shard.which.shape[0] * LANES  # from step to step
        factors = np.empty(BLOCK * later + 1)
        most = BLOCK // 4 * n_trajectories
        words = np.empty(4 * most, np.uint32)
        z = np.empty(4 * most, np.float32)
        push = np.empty(4 * most, state.dtype)
        total = np.empty(4 * most)
        calls = np.zeros(most, np.uint32)
        owners = np.empty(most, np.uint32)
        cell = np.zeros(h.size * n_trajectories if twins else 0, np.int32)
        rates = np.empty(len(like_a) * LANES)
        _find_cells(
            *(like_f, trajectories, shard.coordinates, shard.mean, shard.std, shard.edges, shard.seed),
            *(calls, words, z, cell),
        )

        if shard.start == 0:
            state[:] = 0.0
            for i in range(h.size):
                fill_noise(calls[:n_trajectories], trajectories, shard.coordinates[i], INITIAL, shard.seed, words, z)
                for g in range(groups):
                    s0 = (i * groups + g) * variables * LANES
                    for j in range(n):
                        normal = np.float64(z[g if by_setting else j])
                        state[s0 + j] = fma(shard.std[i], normal, shard.mean[i])
                        p0 = i * (len(like_p) + 2) * LANES + (j if by_setting else g)
                        _begin_lane(like_p, like_s, like_f, like_y, like_m, params, p0, state, s0 + j)
                p0 = i * (len(like_p) + 2) * LANES
                _begin_moments(wide_p, like_f, shard.second, cells, i, shard.n_settings, params, p0, moments, stride)
                if record.size > 0 and record[0] == 0:
                    first = np.int64(0)
                    judge = judged_by(shard.wide_kind, shard.weight, numbers, shard.bounds, i)
                    _record(
                        *(rows, like_s, like_f, like_m, judge, shard.keep, record.size, i, first, groups),
                        *(variables, n, state, out),
                    )
                    _record_expected(
                        like_f, shard.weight[i], shard.share, i, first, shard.n_settings, moments, stride, expected
                    )

        next_record = 0
        while next_record < record.size and record[next_record] <= shard.start:
            next_record += 1

        t_block = shard.start
        while t_block < shard.stop and cancel[0] == 0:
            t_base = t_block - t_block % BLOCK  # blocks lie at the same steps however a run is cut
            t_end = min(t_base + BLOCK, shard.stop)
            first, last = t_block - t_base, t_end - t_base
            skip = first // 4  # calls of the block whose steps are done
            calls_each = (last + 3) // 4 - skip
            n_calls = calls_each * n_trajectories
            offset = t_base - shard.start
            _fill_factors(
                shard.scheduled, shard.which, shard.n_settings, shard.table, first, last, offset, factors, later
            )
            _tick_block(
                *(wide_p, like_c, like_k, shard.scheduled, flat, shard.n_settings),
                *(first, last, clock, coefs, factors, later),
            )

            for k in range(calls_each):
                for r in range(n_trajectories):
                    calls[k * n_trajectories + r] = np.uint32(t_base // 4 + skip + k)
                    owners[k * n_trajectories + r] = trajectories[r]
            for i in range(h.size):
                if cancel[0] != 0:
                    break
                if shard.examples == 0:
                    fill_batches(
                        calls[:n_calls], owners[:n_calls], shard.coordinates[i], shard.df, shard.seed, words, z
                    )
                else:
                    fill_examples(
                        calls[:n_calls],
                        owners[:n_calls],
                        shard.coordinates[i],
                        shard.examples,
                        shard.df,
                        shard.seed,
                        words,
                        z,
                        total,
                        cancel,
                    )
                h_i = described(shard.kind, h, numbers, i, shard.zero)
                judge = judged_by(shard.wide_kind, shard.weight, numbers, shard.bounds, i)
                p0_i = i * (len(like_p) + 2) * LANES
                _scale(z, 4 * n_calls, params[p0_i + (len(like_p) + 1) * LANES] if evenly else 1.0, push)
                r = next_record
                t = t_block
                while t < t_end:
                    due = record[r] if r < record.size else _NEVER
                    offset = t - t_base
                    z0 = (offset // 4 - skip) * n_trajectories + offset % 4 * n_calls
                    four = len(at_once) == 4 and not twins and offset % 4 == 0 and t + 4 <= min(due, t_end)
                    c0_t = offset * len(like_c) * LANES
                    f0 = i * cells * stride
                    t0 = offset * later
                    _expect(
                        like_p,
                        like_c,
                        like_f,
                        cells,
                        shard.n_settings,
                        h[i],
                        params,
                        p0_i,
                        coefs,
                        c0_t,
                        moments,
                        f0,
                        stride,
                        (shard.scheduled, like_m, factors, t0, later),
                    )
                    # Groups within, steps without: what one group waits for, the next computes.
                    for g in range(groups):
                        s0 = (i * groups + g) * variables * LANES
                        p0 = p0_i + (0 if by_setting else g)
                        c0 = c0_t + (0 if by_setting else g)
                        zg = z0 + (g if by_setting else 0)
                        k0 = i * n_trajectories + (g if by_setting else 0)
                        a0 = f0 + len(like_f) * LANES + (0 if by_setting else g)
                        times = (shard.scheduled, like_m, factors, t0 + (0 if by_setting else g), later)
                        twin = _twin(like_f, like_y, like_a, moments, cell, k0, a0, stride, rates)
                        if four and evenly:
                            _advance(
                                *(layout, at_once, _EVEN, like_p, like_s, like_c, n, h_i),
                                *(params, p0, state, s0, coefs, c0, push, zg, n_calls, times, twin),
                            )
                        elif four:
                            _advance(
                                *(layout, at_once, (), like_p, like_s, like_c, n, h_i),
                                *(params, p0, state, s0, coefs, c0, push, zg, n_calls, times, twin),
                            )
                        else:
                            _advance(
                                *(layout, _ONE_STEP, (), like_p, like_s, like_c, n, h_i),
                                *(params, p0, state, s0, coefs, c0, push, zg, 0, times, twin),
                            )
                    t += 4 if four else 1
                    if t == due:
                        _record(
                            *(rows, like_s, like_f, like_m, judge, shard.keep, record.size, i, r, groups),
                            *(variables, n, state, out),
                        )
                        _record_expected(
                            like_f, shard.weight[i], shard.share, i, r, shard.n_settings, moments, stride, expected
                        )
                        r += 1

            while next_record < record.size and record[next_record] <= t_end:
                next_record += 1
            t_block = t_end

    owners = [hyper_type] if kind is None else [hyper_type, kind]
    names = "_".join(f"{owner.__module__}_{owner.__qualname__}" for owner in owners)
    advance.__qualname__ = f"advance_{names}".replace(".", "_")
    return compiled(advance, cached=all(map(_importable, owners)), **OPTIONS)


def _importable(cls: type) -> bool:
    """Whether another process could find this class again, as a cached kernel needs it to."""
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return cls.__module__ not in ("__main__", "__mp_main__") and found is cls
