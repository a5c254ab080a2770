"""Moments of mean-field twins: many steps at a time, many lanes at once.

A lane is one coordinate of one (setting, node) pair. Its state is (P, C, Q, v, slope): second moments of y and m, the
expected second moment of the gradient's average, and how fast the expected squared gradient changed last.

Lanes are advanced `_LANES` at a time, through all chunks before the next. What they need lies in one array, at
distances that the compiler knows: it then sees that no number overwrites another, and uses vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import inlined, njit

__all__ = ["VARIABLES", "advance"]

Array = NDArray[np.float64]

VARIABLES = 5

_LANES = 64
_P, _C, _Q, _V, _SLOPE = (_LANES * k for k in range(VARIABLES))
_H, _NOISE, _USED, _LOW = (_LANES * k for k in range(5, 9))
_A00, _A01, _A10, _A11, _N00, _N01, _N11 = (_LANES * k for k in range(9, 16))
_P_BEFORE, _C_BEFORE, _Q_BEFORE = (_LANES * k for k in range(16, 19))
_ROOM = 19 * _LANES

_TRIES = 40
"""Most rates that are tried for an unstable chunk."""

_BALANCED = 1e-13
"""Relative difference to which v and what becomes of it balance: so small that it then stands still, since
`mean_field.steps_to_target` goes on as long as anything falls."""


@njit
def _clock(rule: Array, powers: Array, lengths: NDArray[np.int64]) -> Array:
    """What depends on a chunk and a setting alone, shape (chunks, settings, 13); `powers` go on to the end."""
    table = np.empty((lengths.size, rule.shape[2], 13))
    for k in range(lengths.size):
        n = lengths[k]
        middle = 0.5 * (n + 1)  # the mean over the chunk of the steps done when a rate is used
        for s in range(rule.shape[2]):
            lr, beta1, beta2, eps, decay, correct, eps_root, present, hat = rule[k, :, s]
            left1, left2 = 1.0 - beta1, 1.0 - beta2
            kept2 = beta2**middle
            power1, power2 = powers[0, s] * beta1**middle, powers[1, s] * kept2
            used1, used2 = power1, power2
            if present > 0.0:
                used1, used2 = beta1 ** (powers[2, s] + middle), beta2 ** (powers[2, s] + middle)
            bias1, bias2 = 1.0 - used1 * correct, 1.0 - used2 * correct
            if hat > 0.0:
                eps, eps_root = eps / np.sqrt(bias2), eps_root / bias2
            powers[0, s] *= beta1**n
            powers[1, s] *= beta2**n
            powers[2, s] += n
            # Twice the sum of squared weights in v, and the overlap of the weights in m and in v.
            spread = 2.0 * left2 * (1.0 + power2) / ((1.0 + beta2) * (1.0 - power2))
            overlap = left1 * left2 * (1.0 - power1 * power2)
            overlap /= (1.0 - beta1 * beta2) * (1.0 - power1) * (1.0 - power2)
            table[k, s, :4] = lr, eps, 1.0 - lr * decay, beta1
            table[k, s, 4:6] = kept2, ((middle - 1.0) - middle * beta2 + kept2) / left2
            table[k, s, 6:10] = bias1, bias2, spread, overlap
            table[k, s, 10:] = beta2**n, ((n - 1.0) - n * beta2 + beta2**n) / left2, eps_root
    return table


@inlined
def _rate(
    v: float,
    noise: float,
    share: float,
    lr: float,
    eps: float,
    eps_root: float,
    bias1: float,
    bias2: float,
    spread: float,
    overlap: float,
    order: int,
) -> tuple[float, float]:
    """Rate of the twin where v is given, and the variance of its noise before the rate multiplies it."""
    root = np.sqrt(v / bias2 + eps_root)
    below = bias1 * (root + eps)
    a = lr / below if below > 0.0 else 0.0
    # How much of the denominator fluctuates, and how much of what is under its root: all of it without an epsilon.
    r = root / (root + eps)
    under = v / (v + eps_root * bias2) if eps_root > 0.0 else 1.0
    rho, kappa = spread * share * (2.0 - share) * under * under, r * overlap * share * under
    drift = 1.0 + rho * r * (0.25 * r + 0.125) - kappa
    push = noise * (1.0 + rho * r * (0.75 * r + 0.25) - 2.0 * kappa) / (drift * drift)
    plain = order == 1 or share == 0.0
    return (a if plain else a * drift), (noise if plain else push)


@njit
def _doubled(
    n: int,
    a: float,
    push: float,
    h: float,
    keep: float,
    beta1: float,
    p: float,
    c: float,
    q: float,
) -> tuple[float, float, float]:
    """P, C, Q after n steps at rate a: what `advance` does for all lanes, for one."""
    left1 = 1.0 - beta1
    w00, w01, w10, w11 = keep - a * left1 * h, -a * beta1, left1 * h, beta1
    x11 = left1 * left1 * push
    x00, x01 = a * a * x11, -a * x11
    while n > 1:
        y00 = x00 + w00 * (w00 * x00 + 2.0 * w01 * x01) + w01 * w01 * x11
        y01 = x01 + w00 * (w10 * x00 + w11 * x01) + w01 * (w10 * x01 + w11 * x11)
        x11 = x11 + w10 * (w10 * x00 + 2.0 * w11 * x01) + w11 * w11 * x11
        x00, x01 = y00, y01
        trace, twist = w00 + w11, w01 * w10
        w00, w01, w10, w11 = w00 * w00 + twist, w01 * trace, w10 * trace, w11 * w11 + twist
        n //= 2
    return (
        max(x00 + w00 * (w00 * p + 2.0 * w01 * c) + w01 * w01 * q, 0.0),
        x01 + w00 * (w10 * p + w11 * c) + w01 * (w10 * c + w11 * q),
        x11 + w10 * (w10 * p + 2.0 * w11 * c) + w11 * w11 * q,
    )


@njit
def _bounded(
    n: int,
    low: float,
    high: float,
    h: float,
    noise: float,
    keep: float,
    beta1: float,
    kept: float,
    bias1: float,
    bias2: float,
    lr: float,
    eps: float,
    eps_root: float,
    spread: float,
    overlap: float,
    order: int,
    state: tuple[float, float, float, float],
) -> tuple[float, float, float]:
    """P, C, Q after n steps at the rate that is theirs at the end: for a chunk that is unstable, or would become so.

    A growing P raises v, which lowers the rate. Sought, between `low` and `high`, is the least v that is no less than
    what v becomes with the P that it leads to. As with an implicit rule for a stiff equation, a long chunk ends where
    P and v balance.
    """
    p, c, q, before = state
    square = h * h * p + noise
    share = noise / square if noise > 0.0 else 0.0
    # False position with the Illinois rule, in logarithms; by halves where growth is wild. `above` and `below` say by
    # how much v is outrun at either end.
    left, right = np.log(low), np.log(high)
    above, below = np.inf, np.nan
    x, side = right, 0
    for _ in range(_TRIES):
        a, push = _rate(np.exp(x), noise, share, lr, eps, eps_root, bias1, bias2, spread, overlap, order)
        found = _doubled(n, a, push, h, keep, beta1, p, c, q)
        gap = np.log(kept * before + (1.0 - kept) * (h * h * found[0] + noise)) - x
        if abs(gap) < _BALANCED or (side == 0 and gap > 0.0):
            return found
        if gap <= 0.0:
            right, below = x, gap
            above *= 0.5 if side == -1 else 1.0
            side = -1
        else:  # or not finite
            left, above = x, gap if np.isfinite(gap) else np.inf
            below *= 0.5 if side == 1 else 1.0
            side = 1
        x = (left * below - right * above) / (below - above) if above < 4.0 else 0.5 * (left + right)
    a, push = _rate(np.exp(right), noise, share, lr, eps, eps_root, bias1, bias2, spread, overlap, order)
    return _doubled(n, a, push, h, keep, beta1, p, c, q)


@njit
def _chunk(work: Array, m: int, now: Array, inverse: float, order: int, n: int) -> None:
    """Advance `m` lanes by `n` steps, one setting's; see `advance`."""
    lr, eps, keep, beta1, kept2, ramp, bias1, bias2, spread, overlap, kept, ramp_to_end, eps_root = now
    left1 = 1.0 - beta1
    for j in range(m):
        h, p = work[_H + j], work[_P + j]
        noise = work[_NOISE + j] * inverse
        square = h * h * p + noise
        # A falling h²P may come to nothing within the chunk, but not to less.
        change = max(work[_SLOPE + j], -h * h * p / n)
        v = max(kept2 * work[_V + j] + (1.0 - kept2) * square + change * ramp, 0.0)
        share = noise / square if noise > 0.0 else 0.0
        a, push = _rate(v, noise, share, lr, eps, eps_root, bias1, bias2, spread, overlap, order)
        work[_USED + j] = v
        work[_A00 + j], work[_A01 + j] = keep - a * left1 * h, -a * beta1
        work[_A10 + j], work[_A11 + j] = left1 * h, beta1
        work[_N00 + j] = a * a * left1 * left1 * push
        work[_N01 + j] = -a * left1 * left1 * push
        work[_N11 + j] = left1 * left1 * push
    done = 1
    while done < n:
        done *= 2
        for j in range(m):
            w00, w01, w10, w11 = work[_A00 + j], work[_A01 + j], work[_A10 + j], work[_A11 + j]
            x00, x01, x11 = work[_N00 + j], work[_N01 + j], work[_N11 + j]
            work[_N00 + j] = x00 + w00 * (w00 * x00 + 2.0 * w01 * x01) + w01 * w01 * x11
            work[_N01 + j] = x01 + w00 * (w10 * x00 + w11 * x01) + w01 * (w10 * x01 + w11 * x11)
            work[_N11 + j] = x11 + w10 * (w10 * x00 + 2.0 * w11 * x01) + w11 * w11 * x11
            work[_A00 + j] = w00 * w00 + w01 * w10
            work[_A01 + j] = w01 * (w00 + w11)
            work[_A10 + j] = w10 * (w00 + w11)
            work[_A11 + j] = w10 * w01 + w11 * w11
    near = 0
    for j in range(m):
        h, noise = work[_H + j], work[_NOISE + j] * inverse
        w00, w01, w10, w11 = work[_A00 + j], work[_A01 + j], work[_A10 + j], work[_A11 + j]
        p, c, q = work[_P + j], work[_C + j], work[_Q + j]
        work[_P_BEFORE + j], work[_C_BEFORE + j], work[_Q_BEFORE + j] = p, c, q
        p_new = max(work[_N00 + j] + w00 * (w00 * p + 2.0 * w01 * c) + w01 * w01 * q, 0.0)
        work[_P + j] = p_new
        work[_C + j] = work[_N01 + j] + w00 * (w10 * p + w11 * c) + w01 * (w10 * c + w11 * q)
        work[_Q + j] = work[_N11 + j] + w10 * (w10 * p + 2.0 * w11 * c) + w11 * w11 * q
        low = kept * work[_V + j] + (1.0 - kept) * (h * h * p_new + noise)
        low = min(low, work[_USED + j]) if np.isfinite(low) else work[_USED + j]
        work[_LOW + j] = low
        near += low < 2.0 * _limit(h, lr, eps, eps_root, keep, beta1, bias1, bias2)
    if n > 1 and near > 0:
        # An explicit rule would swing ever wider about a balance near the limit, from half of it on.
        for j in range(m):
            h, noise, low = work[_H + j], work[_NOISE + j] * inverse, work[_LOW + j]
            limit = _limit(h, lr, eps, eps_root, keep, beta1, bias1, bias2)
            if low < 2.0 * limit:
                before = work[_P_BEFORE + j], work[_C_BEFORE + j], work[_Q_BEFORE + j], work[_V + j]
                high = max(4.0 * limit, 8.0 * noise, before[3], h * h * before[0] + noise)
                work[_P + j], work[_C + j], work[_Q + j] = _bounded(
                    *(n, max(low, 1e-60 * high), high, h, noise, keep, beta1, kept, bias1, bias2, lr, eps, eps_root),
                    *(spread, overlap, order, before),
                )
    for j in range(m):
        h, p, noise = work[_H + j], work[_P_BEFORE + j], work[_NOISE + j] * inverse
        slope = h * h * (work[_P + j] - p) / n
        work[_SLOPE + j] = slope
        work[_V + j] = max(kept * work[_V + j] + (1.0 - kept) * (h * h * p + noise) + slope * ramp_to_end, 0.0)


@inlined
def _limit(
    h: float, lr: float, eps: float, eps_root: float, keep: float, beta1: float, bias1: float, bias2: float
) -> float:
    """The v below which a rate is unstable, 0 if none is. Beyond weight decay's own limit none is stable."""
    edge = bias1 * (1.0 + keep) * (1.0 + beta1) / ((1.0 - beta1) * h)
    limit = max(lr / edge - eps, 0.0)
    return max(limit * limit - eps_root, 0.0) * bias2 if edge > 0.0 else 0.0


@njit
def advance(
    state: Array,
    curvature: Array,
    noise_variance: Array,
    weight: Array,
    rule: Array,
    inverse: Array,
    powers: Array,
    order: int,
    lengths: NDArray[np.int64],
    looks: NDArray[np.bool_],
    out: Array,
) -> None:
    """Advance every coordinate through a list of chunks.

    Parameters
    ----------
    state : ndarray, shape (coordinates, VARIABLES, settings, nodes)
        Updated in place.
    curvature, noise_variance : ndarray, shape (coordinates,)
        h and c.
    weight : ndarray, shape (coordinates, nodes)
        Share of a node's y² in the risk: multiplicity times h / 2 times the node's weight.
    rule : ndarray, shape (chunks, 9, settings)
        lr, beta1, beta2, eps, weight decay, 1 for bias correction, eps_root, 1 for a correction by the present betas,
        and 1 for both eps before the correction.
    inverse : ndarray, shape (chunks, settings)
        1 / B.
    powers : ndarray, shape (3, settings)
        Products of beta1 and of beta2 over the completed steps, and how many those are. Updated in place.
    order : int
        1: mean field. 2: with the fluctuations of v to first order.
    lengths : ndarray of int64
        Steps of each chunk, a power of 2. Chunks of 1 are exact.
    looks : ndarray of bool
        Whether to look at the risk after each chunk.
    out : ndarray, shape (settings, looks)
        The risk is added to it.
    """
    n_settings, nodes = state.shape[2], state.shape[3]
    clock = _clock(rule, powers, lengths)
    work = np.empty(_ROOM)
    seen = np.empty((out.shape[1], _LANES))
    for first in range(0, curvature.size, _LANES):
        m = min(_LANES, curvature.size - first)
        for j in range(m):
            work[_H + j], work[_NOISE + j] = curvature[first + j], noise_variance[first + j]
        for s in range(n_settings):
            seen[:] = 0.0
            for b in range(nodes):
                for k in range(VARIABLES):
                    for j in range(m):
                        work[_LANES * k + j] = state[first + j, k, s, b]
                look = 0
                for k in range(lengths.size):
                    _chunk(work, m, clock[k, s], inverse[k, s], order, lengths[k])
                    if looks[k]:
                        for j in range(m):
                            seen[look, j] += weight[first + j, b] * work[_P + j]
                        look += 1
                for k in range(VARIABLES):
                    for j in range(m):
                        state[first + j, k, s, b] = work[_LANES * k + j]
            for look in range(seen.shape[0]):
                for j in range(m):
                    out[s, look] += seen[look, j]
