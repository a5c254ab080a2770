"""Are the normals normal, and independent along and across streams?

Every statistic gives its findings with p-values. They are rejected when the smallest p-value lies below
ALPHA divided by their number (Bonferroni). So under another seed each test of the true generator would reject
it with a probability of at most ALPHA = 1e-6: the default suite with 7e-6, the slow one with 7e-6. Seeds are
fixed: nothing here flakes.

Each statistic must also reject generators with a known fault, by the same rule and from no more draws.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numba
import numpy as np
import pytest
from scipy import stats

from mcnqm.kernels.jit import OPTIONS
from mcnqm.kernels.noise import EXAMPLE, GRADIENT, INITIAL, MAX_EXAMPLES, fill_noise
from mcnqm.kernels.normal import box_muller

ALPHA = 1e-6
"""Probability that one test falsely rejects a perfect generator."""

CALLS = 2**14
BLOCK = 4 * CALLS
SMALL = 160 * BLOCK  # 1.0e7 normals
MEDIUM = 2**28
LARGE = 2**30
HUGE = 160_000 * BLOCK  # 1.05e10, for the tails alone
SEED = 0x9A5_1EAF_0000_0001

# -------------------- generators --------------------

Address = tuple[int, int, np.ndarray, np.ndarray, int]
"""Seed, purpose, calls, trajectories, coordinate; both arrays of shape (n,)."""

Source = Callable[[int, int, np.ndarray, np.ndarray, int], np.ndarray]
"""An address to normals of shape (4, n): the four steps of every call."""


def package(seed, purpose, calls, trajectories, coordinate):
    """The generator under test."""
    return words_and_normals(seed, purpose, calls, trajectories, coordinate)[1]


def words_and_normals(seed, purpose, calls, trajectories, coordinate):
    z = np.empty((4, calls.size), np.float32)
    words = np.empty((4, calls.size), np.uint32)
    fill_noise(
        calls,
        trajectories,
        np.uint32(coordinate),
        np.uint32(purpose),
        np.uint64(seed),
        words.ravel(),
        z.ravel(),
    )
    return words, z


@numba.njit(**OPTIONS)
def _box_muller(words, mask, bit, z):
    for j in range(words.shape[1]):
        z[0, j], z[1, j] = box_muller(words[0, j] & mask | bit, words[1, j])
        z[2, j], z[3, j] = box_muller(words[2, j] & mask | bit, words[3, j])


def coarse_radius(bits):
    """Only the high `bits` of a word go into the radius, so the tail ends at sqrt(2 log 2**(bits + 1))."""

    def source(*address):
        words, z = words_and_normals(*address)
        mask = 2**32 - 2 ** (32 - bits)
        _box_muller(words, np.uint32(mask), np.uint32(2 ** (31 - bits)), z)
        return z

    return source


def changed(change) -> Source:
    """A generator whose normals pass through `change`."""
    return lambda *address: change(package(*address))


def twelve_uniforms(seed, purpose, calls, trajectories, coordinate):
    rng = np.random.default_rng([seed, purpose, int(calls[0]), int(trajectories[0]), coordinate])
    return rng.random((12, 4, calls.size), np.float32).sum(0) - np.float32(6)


def in_order_of_steps(change):
    """Apply `change` to the block as one series."""

    def source(*address):
        z = package(*address)
        return np.ascontiguousarray(change(z.T.reshape(-1)).reshape(-1, 4).T)

    return source


def serially_correlated(rho):
    def change(z):
        z[1:] += np.float32(rho) * z[:-1]  # the right-hand side is evaluated first: a moving average
        return z

    return in_order_of_steps(change)


def clustered(strength):
    """A large normal makes the next one large, of either sign."""

    def change(z):
        z[1:] *= 1 + np.float32(strength) * (z[:-1] ** 2 - 1)
        return z

    return in_order_of_steps(change)


def rippled(amplitude):
    """A density with a fine comb that no low moment sees."""
    return changed(lambda z: z + np.float32(amplitude) * np.sin(np.float32(80 * math.pi) * z))


def with_some_nan(z):
    z[0, 0] = np.nan
    return z


def shared_radius(z):
    """Both pairs of a call have one radius: uncorrelated, not independent."""
    z[2:] *= np.hypot(z[0], z[1]) / np.hypot(z[2], z[3])
    return z


def warped_angle(strength):
    """Box-Muller with an uneven angle, four bumps per turn: means, variances and correlations stay."""

    def change(z):
        for pair in (z[:2], z[2:]):
            radius, turn = np.hypot(*pair), np.arctan2(pair[1], pair[0])
            turn += np.float32(strength) * np.cos(4 * turn)
            pair[:] = radius * np.cos(turn), radius * np.sin(turn)
        return z

    return changed(change)


def correlated_pair(rho):
    def change(z):
        z[1] += np.float32(rho) * z[0]
        return z

    return changed(change)


def common_part(weight):
    """Every stream has a little of one common stream."""

    def source(seed, purpose, calls, trajectories, coordinate):
        common = package(0, 99, calls, np.zeros_like(trajectories), 0)
        own = package(seed, purpose, calls, trajectories, coordinate)
        return np.float32(math.sqrt(1 - weight**2)) * own + np.float32(weight) * common

    return source


def readdressed(change) -> Source:
    """A generator that confuses addresses."""
    return lambda *address: package(*change(*address))


# -------------------- sums over draws --------------------

FAST = OPTIONS | {"fastmath": {"reassoc", "contract", "nsz"}}  # sums vectorise; NaN stays NaN

HALF_RANGE = 8
PER_UNIT = 512
THRESHOLDS = np.array([3, 3.5, 4, 4.5, 5, 5.5, 6], np.float32)
LAGS = 8
PLACES = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


@numba.njit(**FAST)
def _add_powers(z, total):
    s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = 0.0
    for x32 in z.ravel():
        x = np.float64(x32)
        x2 = x * x
        x3 = x2 * x
        x4 = x2 * x2
        s1 += x
        s2 += x2
        s3 += x3
        s4 += x4
        s5 += x4 * x
        s6 += x4 * x2
        s7 += x4 * x3
        s8 += x4 * x4
    for k, s in enumerate((s1, s2, s3, s4, s5, s6, s7, s8)):
        total[k] += s


@numba.njit(**FAST)
def _add_bins(z, counts):
    for x in z.ravel():
        inside = -HALF_RANGE <= x < HALF_RANGE
        counts[int((np.float64(x) + HALF_RANGE) * PER_UNIT) if inside else 0] += 1


@numba.njit(**FAST)
def _add_tails(z, thresholds, counts):
    for chunk in z.reshape(-1, 16):
        beyond = np.int32(0)
        for j in range(16):
            beyond += np.int32(abs(chunk[j]) > thresholds[0])
        if beyond > 0:  # one chunk in 24
            for j in range(16):
                for k in range(thresholds.size):
                    counts[int(chunk[j] > 0), k] += abs(chunk[j]) > thresholds[k]


@numba.njit(**FAST)
def _add_products(x, y, total):
    one = np.float32(1)
    plain = squares = angles = np.float32(0)  # of one row: 2**14 terms
    for j in range(x.size):
        p, q = x[j] * x[j], y[j] * y[j]
        plain += x[j] * y[j]
        squares += (p - one) * (q - one)
        angles += x[j] * y[j] * (p - q)
    total[0] += plain
    total[1] += squares
    total[2] += angles


PRODUCT_NAMES = ("product", "squares", "fourfold angle")
PRODUCT_DEVIATIONS = np.array([1, 2, math.sqrt(12)])  # of one term, for independent normals


@numba.njit(**FAST)
def _add_lags(z, in_time, total, terms):
    for lag in range(1, total.shape[0] + 1):
        for p in range(4):
            q, shift = ((p + lag) % 4, (p + lag) // 4) if in_time else (p, lag)
            n = z.shape[1] - shift
            _add_products(z[p, :n], z[q, shift:], total[lag - 1])
            terms[lag - 1] += n


@numba.njit(**FAST)
def _add_places(z, places, total):
    for k in range(places.shape[0]):
        _add_products(z[places[k, 0]], z[places[k, 1]], total[k])


@dataclass
class Sums:
    """Everything that the statistics of one long sample need."""

    draws: int = 0
    powers: np.ndarray = field(default_factory=lambda: np.zeros(8))
    bins: np.ndarray = field(default_factory=lambda: np.zeros(2 * HALF_RANGE * PER_UNIT, np.int64))
    tails: np.ndarray = field(default_factory=lambda: np.zeros((2, THRESHOLDS.size), np.int64))
    lags: np.ndarray = field(default_factory=lambda: np.zeros((LAGS, 3)))
    lag_terms: np.ndarray = field(default_factory=lambda: np.zeros(LAGS, np.int64))
    places: np.ndarray = field(default_factory=lambda: np.zeros((len(PLACES), 3)))


def blocks_in_time(draws) -> Iterator[Address]:
    """Long stretches of streams: trajectory after trajectory, coordinate after coordinate."""
    calls = np.arange(CALLS, dtype=np.uint32)
    for k in range(draws // BLOCK):
        yield SEED, GRADIENT, calls, np.full(CALLS, k % 64, np.uint32), k // 64


def blocks_of_trajectories(draws) -> Iterator[Address]:
    """Many neighbouring trajectories at the same steps."""
    trajectories = np.arange(CALLS, dtype=np.uint32)
    for k in range(draws // BLOCK):
        yield SEED, GRADIENT, np.full(CALLS, k % 64, np.uint32), trajectories, k // 64


def sums_of(source: Source, blocks: Iterator[Address], in_time=True) -> Sums:
    sums = Sums()
    places = np.array(PLACES)
    for address in blocks:
        z = source(*address)
        sums.draws += z.size
        _add_powers(z, sums.powers)
        _add_bins(z, sums.bins)
        _add_tails(z, THRESHOLDS, sums.tails)
        _add_lags(z, in_time, sums.lags, sums.lag_terms)
        _add_places(z, places, sums.places)
    return sums


def tails_of(source: Source, draws: int) -> Sums:
    """Tail counts alone, for the largest samples."""
    sums = Sums()
    for address in blocks_in_time(draws):
        z = source(*address)
        sums.draws += z.size
        _add_tails(z, THRESHOLDS, sums.tails)
    return sums


# -------------------- statistics --------------------

Findings = dict[str, tuple[float, float]]
"""Name to value and p-value."""


def by_score(score: float) -> tuple[float, float]:
    """A finding that is a standard normal if all is well."""
    return float(score), float(2 * stats.norm.sf(abs(score)))


def moments(sums: Sums) -> Findings:
    """Raw moments 1 to 8 in units of their exact standard errors."""
    exact = [0 if k % 2 else math.prod(range(1, k, 2)) for k in range(17)]
    found = {}
    for k in range(1, 9):
        deviation = math.sqrt((exact[2 * k] - exact[k] ** 2) / sums.draws)
        found[f"moment {k}"] = by_score((sums.powers[k - 1] / sums.draws - exact[k]) / deviation)
    return found


def tails(sums: Sums) -> Findings:
    """Counts beyond 3 to 6 standard deviations, each side and both, against the binomial law."""
    found = {}
    for name, counts, sides in [
        ("< -", sums.tails[0], 1),
        ("> ", sums.tails[1], 1),
        ("|z| > ", sums.tails.sum(0), 2),
    ]:
        for threshold, count in zip(THRESHOLDS, counts, strict=True):
            law = stats.binom(sums.draws, sides * stats.norm.sf(float(threshold)))
            p = min(1.0, 2 * min(law.cdf(count), law.sf(count - 1)))
            found[f"{name}{threshold}, {law.mean():.6g} expected"] = int(count), p
    return found


def bins(sums: Sums) -> Findings:
    """Chi-square over bins of 1/512, the ends pooled until 20 are expected; too good a fit is a fault too."""
    edges = np.linspace(-HALF_RANGE, HALF_RANGE, sums.bins.size + 1)
    lower = np.concatenate([[0.0], stats.norm.cdf(edges[1 : edges.size // 2 + 1])])  # up to 0.5
    probability = np.diff(lower)
    expected = sums.draws * np.concatenate([probability, probability[::-1]])
    first = int(np.searchsorted(np.cumsum(expected), 20.0))
    starts = np.arange(first + 1, sums.bins.size - first)
    starts[0] = 0
    observed, expected = np.add.reduceat(sums.bins, starts), np.add.reduceat(expected, starts)
    chi2 = float(((observed - expected) ** 2 / expected).sum())
    law = stats.chi2(len(expected) - 1)
    return {f"chi-square of {len(expected)} bins": (chi2, 2 * min(law.cdf(chi2), law.sf(chi2)))}


def serial(sums: Sums) -> Findings:
    """Correlations at lags 1 to 8, of the normals and of their squares."""
    scores = sums.lags / np.sqrt(sums.lag_terms)[:, None] / PRODUCT_DEVIATIONS
    return {f"lag {k + 1}, {PRODUCT_NAMES[j]}": by_score(scores[k, j]) for k in range(LAGS) for j in range(2)}


def within_call(sums: Sums) -> Findings:
    """Correlations of the four normals of one call, of their squares, and of the angle of each two."""
    scores = sums.places / math.sqrt(sums.draws / 4) / PRODUCT_DEVIATIONS
    return {
        f"places {pair}, {name}": by_score(scores[k, j])
        for k, pair in enumerate(PLACES)
        for j, name in enumerate(PRODUCT_NAMES)
    }


Stream = tuple[int, int, int, int]
"""Seed, purpose, trajectory, coordinate."""


def pairs_of_streams() -> dict[str, list[tuple[Stream, Stream]]]:
    """Streams with almost one address: groups of pairs."""
    g = int(GRADIENT)
    home = (SEED, g, 3, 5)
    purposes = [int(INITIAL), g, *(int(EXAMPLE) | e << 8 for e in (0, 1, MAX_EXAMPLES - 1))]
    return {
        "neighbouring trajectories": [((SEED, g, r, 5), (SEED, g, r + 1, 5)) for r in [*range(48), 2**32 - 2]],
        "neighbouring coordinates": [((SEED, g, 3, i), (SEED, g, 3, i + 1)) for i in [*range(48), 2**32 - 2]],
        "trajectory off by one bit": [(home, (SEED, g, 3 ^ 1 << bit, 5)) for bit in range(32)],
        "coordinate off by one bit": [(home, (SEED, g, 3, 5 ^ 1 << bit)) for bit in range(32)],
        "seed off by one bit": [(home, (SEED ^ 1 << bit, g, 3, 5)) for bit in range(64)],
        "purposes": [((SEED, p, 3, 5), (SEED, q, 3, 5)) for k, p in enumerate(purposes) for q in purposes[k + 1 :]],
        "trajectory and coordinate swapped": [((SEED, g, r, i), (SEED, g, i, r)) for r in range(4) for i in range(r)],
        "trajectory and coordinate traded": [
            ((SEED, g, r, i), (SEED, g, r + 1, i - 1)) for r in range(4) for i in range(1, 5)
        ],
    }


def across_streams(source: Source, blocks: int) -> Findings:
    """Correlations of streams and of squares, delayed by up to 8 steps either way; each group also pooled."""
    calls = np.arange(CALLS, dtype=np.uint32)
    delays = (-8, -4, -1, 0, 1, 4, 8)
    found = {}

    def rows(stream: Stream, block: int) -> np.ndarray:
        seed, purpose, trajectory, coordinate = stream
        at = calls + np.uint32(block * CALLS)
        z = source(seed, purpose, at, np.full(CALLS, trajectory, np.uint32), coordinate)
        return np.ascontiguousarray(z.T).reshape(-1)  # in order of steps

    for group, pairs in pairs_of_streams().items():
        pooled = np.zeros((len(delays), 2))
        for one, other in pairs:
            total = np.zeros((len(delays), 3))
            for block in range(blocks):
                x, y = rows(one, block), rows(other, block)
                for k, delay in enumerate(delays):
                    early, late = (x, y) if delay >= 0 else (y, x)
                    _add_products(early[: BLOCK - abs(delay)], late[abs(delay) :], total[k])
            terms = blocks * (BLOCK - np.abs(delays))
            scores = (total / np.sqrt(terms)[:, None] / PRODUCT_DEVIATIONS)[:, :2]
            pooled += scores / math.sqrt(len(pairs))
            for (k, j), score in np.ndenumerate(scores):
                found[f"{group}: {one} and {other}, delay {delays[k]}, {PRODUCT_NAMES[j]}"] = by_score(score)
        for (k, j), score in np.ndenumerate(pooled):
            found[f"{group}, pooled: delay {delays[k]}, {PRODUCT_NAMES[j]}"] = by_score(score)
    return found


# -------------------- verdicts --------------------


def report(found: Findings) -> str:
    lines = [f"{name}: {value:.6g}, p = {p:.3g}" for name, (value, p) in found.items()]
    return "\n".join([f"rejected below p = {ALPHA / len(found):.3g}", *lines])


def sound(found: Findings) -> bool:
    return all(p >= ALPHA / len(found) for _, p in found.values())  # a NaN is not sound


def check(found: Findings) -> None:
    assert sound(found), report(found)


def check_rejected(found: Findings) -> None:
    assert not sound(found), "a broken generator passed\n" + report(found)


# -------------------- default suite: 1e7 each --------------------


@pytest.fixture(scope="module")
def small() -> Sums:
    return sums_of(package, blocks_in_time(SMALL))


@pytest.mark.parametrize("statistic", [moments, tails, bins, serial, within_call])
def test_normals(small, statistic):
    check(statistic(small))


def test_neighbouring_trajectories():
    check(serial(sums_of(package, blocks_of_trajectories(SMALL), in_time=False)))


def test_streams():
    check(across_streams(package, blocks=1))


@pytest.mark.parametrize(
    ("statistic", "source"),
    [
        pytest.param(moments, changed(lambda z: z + np.float32(0.003)), id="mean 0.003"),
        pytest.param(moments, changed(lambda z: z * np.float32(1.003)), id="variance 1.006"),
        pytest.param(moments, changed(lambda z: z + np.float32(0.003) * (z**2 - 1)), id="skewed"),
        pytest.param(moments, twelve_uniforms, id="twelve uniforms, moments"),
        pytest.param(moments, changed(with_some_nan), id="NaN"),
        pytest.param(tails, twelve_uniforms, id="twelve uniforms, tails"),
        pytest.param(tails, coarse_radius(12), id="12 bits of radius"),
        pytest.param(tails, changed(np.abs), id="one-sided"),
        pytest.param(bins, rippled(3e-4), id="ripple"),
        pytest.param(bins, twelve_uniforms, id="twelve uniforms, bins"),
        pytest.param(serial, serially_correlated(3e-3), id="correlation 3e-3"),
        pytest.param(serial, clustered(3e-3), id="clustered"),
        pytest.param(within_call, correlated_pair(5e-3), id="correlated pair"),
        pytest.param(within_call, changed(shared_radius), id="shared radius"),
        pytest.param(within_call, warped_angle(5e-3), id="warped angle"),
    ],
)
def test_normals_reject(statistic, source):
    check_rejected(statistic(sums_of(source, blocks_in_time(SMALL))))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(readdressed(lambda s, p, c, r, i: (s, p, c, r // 2, i)), id="shared by two"),
        pytest.param(readdressed(lambda s, p, c, r, i: (s, p, c, r & np.uint32(~4 % 2**32), i)), id="a bit lost"),
        pytest.param(common_part(0.05), id="common part"),
    ],
)
def test_neighbouring_trajectories_reject(source):
    check_rejected(serial(sums_of(source, blocks_of_trajectories(SMALL), in_time=False)))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(common_part(0.1), id="common part"),
        pytest.param(readdressed(lambda s, p, c, r, i: (s % 2**32, p, c, r, i)), id="half a seed"),
        pytest.param(readdressed(lambda s, p, c, r, i: (s, 0, c, r, i)), id="purposes share"),
        pytest.param(readdressed(lambda s, p, c, r, i: (s, p % 256, c, r, i)), id="examples share"),
        pytest.param(readdressed(lambda s, p, c, r, i: (s, p, c, r % 2**16, i)), id="16-bit trajectories"),
        pytest.param(readdressed(lambda s, p, c, r, i: (s, p, c, r, i % 2**16)), id="16-bit coordinates"),
        pytest.param(
            readdressed(lambda s, p, c, r, i: (s, p, c + r, 0 * r, i)), id="one stream, shifted by trajectory"
        ),
        pytest.param(readdressed(lambda s, p, c, r, i: (s, p, c + np.uint32(2 * i % 2**32), r, 0)), id="by coordinate"),
        pytest.param(readdressed(lambda s, p, c, r, i: (s, p, c, r ^ np.uint32(i), 0)), id="trajectory xor coordinate"),
        pytest.param(readdressed(lambda s, p, c, r, i: (s, p, c, r + np.uint32(i), 0)), id="trajectory + coordinate"),
        pytest.param(
            lambda s, p, c, r, i: package(s, p, c, r, i) * package(0, 9, c, 0 * r, 0),
            id="common factor",
        ),
    ],
)
def test_streams_reject(source):
    check_rejected(across_streams(source, blocks=1))


# -------------------- slow suite --------------------


@pytest.fixture(scope="module")
def large() -> Sums:
    return sums_of(package, blocks_in_time(LARGE))


@pytest.mark.slow
@pytest.mark.parametrize("statistic", [moments, bins, serial, within_call])
def test_a_billion_normals(large, statistic):
    assert large.draws >= 1e9
    check(statistic(large))


@pytest.mark.slow
def test_tails_of_ten_billion_normals():
    sums = tails_of(package, HUGE)
    assert sums.draws >= 1e10
    check(tails(sums))


@pytest.mark.slow
def test_neighbouring_trajectories_long():
    check(serial(sums_of(package, blocks_of_trajectories(LARGE), in_time=False)))


@pytest.mark.slow
def test_streams_long():
    check(across_streams(package, blocks=16))


@pytest.mark.slow
def test_tails_reject_24_bits_of_radius():
    check_rejected(tails(tails_of(coarse_radius(24), HUGE)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statistic", "source"),
    [
        pytest.param(moments, changed(lambda z: z * np.float32(1.0005)), id="variance 1.001"),
        pytest.param(moments, changed(lambda z: z + np.float32(5e-4) * (z**2 - 1)), id="skewed"),
        pytest.param(bins, rippled(3e-5), id="ripple"),
        pytest.param(serial, serially_correlated(1e-3), id="correlation 1e-3"),
        pytest.param(serial, clustered(5e-4), id="clustered"),
        pytest.param(within_call, correlated_pair(1e-3), id="correlated pair"),
        pytest.param(within_call, warped_angle(1e-3), id="warped angle"),
    ],
)
def test_normals_reject_small_faults(statistic, source):
    # A quarter of the sample suffices.
    check_rejected(statistic(sums_of(source, blocks_in_time(MEDIUM))))


@pytest.mark.slow
def test_neighbouring_trajectories_reject_small_faults():
    check_rejected(serial(sums_of(common_part(0.03), blocks_of_trajectories(MEDIUM), in_time=False)))


@pytest.mark.slow
def test_streams_reject_small_faults():
    check_rejected(across_streams(common_part(0.05), blocks=16))
