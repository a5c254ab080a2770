"""Box-Muller in float32 against the formula in float64, with every bound measured over all 2**32 words.

Over all radius words, the squared radius is off by at most 6e-8 absolute (the word's rounding to 24 bits)
plus 1.5e-7 relative; over all angle words, sine and cosine by at most 1.6e-7. Where the radius itself is
tiny, the square root enlarges this: by 2.44e-4 at the worst word, 4294967168, where the radius is 2.44e-4
and comes out as zero.
"""

import numba
import numpy as np
import pytest

from mcnqm.kernels.jit import OPTIONS
from mcnqm.kernels.normal import box_muller

WORD = 2**32
RADIUS_ABSOLUTE = 6.2e-8  # of the squared radius
RADIUS_RELATIVE = 1.5e-7  # of the squared radius
ANGLE = 1.7e-7
ROUNDING = 2.0**-24


@numba.njit(**OPTIONS)
def _pairs(a, b, z0, z1):
    for j in range(a.size):
        z0[j], z1[j] = box_muller(a[j], b[j])


def normals(a, b):
    """Two float32 arrays of normals from two arrays of words."""
    a, b = (np.ascontiguousarray(w.ravel()) for w in np.broadcast_arrays(np.uint32(a), np.uint32(b)))
    z = np.empty((2, a.size), np.float32)
    _pairs(a, b, z[0], z[1])
    return z


def radius_formula(a):
    a = np.asarray(a, np.float64)
    low = np.log((np.minimum(a, WORD / 2) + 0.5) / WORD)
    high = np.log1p(-(WORD - 0.5 - np.maximum(a, WORD / 2)) / WORD)  # log(u) near u = 1 keeps its digits
    return np.sqrt(-2 * np.where(a < WORD / 2, low, high))


def formula(a, b):
    radius = radius_formula(a)
    turn = 2 * np.pi * (np.asarray(b, np.float64) / WORD)
    return radius * np.cos(turn), radius * np.sin(turn)


def error_bound(a):
    """How far a normal may be from the formula, given the word of its radius."""
    radius = radius_formula(a)
    squared = RADIUS_ABSOLUTE + RADIUS_RELATIVE * radius**2
    return np.minimum(squared / radius, np.sqrt(squared)) + (ANGLE + 2 * ROUNDING) * radius


def check_against_formula(a, b):
    a, b = np.broadcast_arrays(np.asarray(a, np.int64), np.asarray(b, np.int64))
    a, b = a.ravel(), b.ravel()
    z = normals(a, b)
    assert np.isfinite(z).all(), f"not finite for words {a[~np.isfinite(z).all(0)]}, {b[~np.isfinite(z).all(0)]}"
    for got, want, name in zip(z, formula(a, b), ("cosine", "sine"), strict=True):
        excess = np.abs(got - want) - error_bound(a)
        k = int(np.argmax(excess))
        bound = error_bound(a[k])
        assert excess[k] <= 0, f"{name} of words {a[k]}, {b[k]}: {got[k]!r}, formula {want[k]!r}, bound {bound:.3g}"


def around(centres, width):
    """All words within `width` of the given ones, on the circle of words."""
    return np.unique((np.asarray(centres)[:, None] + np.arange(-width, width + 1)) % WORD)


POWERS = [2**k for k in range(33)]
MANTISSA_WRAPS = [int(2**k * np.sqrt(0.5)) for k in range(1, 33)]  # where the polynomial's range starts again
RADIUS_EDGES = around(POWERS + MANTISSA_WRAPS, 3)
OCTANTS = [k * 2**29 for k in range(8)]
ANGLE_EDGES = around(OCTANTS, 40)


def test_every_pair_of_edge_words():
    check_against_formula(RADIUS_EDGES[:, None], ANGLE_EDGES)


def test_random_words():
    rng = np.random.default_rng(2)
    check_against_formula(*rng.integers(0, WORD, (2, 2**21)))


def test_radius_near_zero():
    # The last 2**20 words: u rounds to 24 bits, most coarsely relative to the radius.
    check_against_formula(np.arange(WORD - 2**20, WORD), 0)


def test_radius_in_the_tail():
    check_against_formula(np.arange(2**20), 2**29)


def test_the_bound_is_what_the_docstring_can_promise():
    # Beside `error_bound`, in plain figures. Radii below 0.03 take 0.05 % of the draws.
    words = np.concatenate([np.arange(0, WORD, 4099), np.arange(WORD - 2**20, WORD)])
    radius, off = radius_formula(words), np.abs(normals(words, 0)[0] - radius_formula(words))
    worst = {
        "all": (off.max(), 2.5e-4),
        "radius > 0.003": (off[radius > 0.003].max(), 1.1e-5),
        "radius > 0.03": (off[radius > 0.03].max(), 1e-6),
    }
    assert all(measured <= allowed for measured, allowed in worst.values()), worst


def test_zero_radius_gives_zeros():
    for a in (WORD - 1, WORD - 128):
        z = normals(a, ANGLE_EDGES)
        assert (z == 0).all(), z


def test_tail_reaches_its_end_in_all_four_directions():
    longest = np.sqrt(2 * np.log(2.0**33))
    z0, z1 = normals(0, [0, 2**30, 2**31, 3 * 2**30])
    np.testing.assert_allclose(z0, [longest, 0, -longest, 0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(z1, [0, longest, 0, -longest], rtol=0, atol=1e-6)


@pytest.mark.parametrize("low_half", [0, 0x8000, 0xFFFF])
def test_radius_never_grows_with_its_word(low_half):
    a = np.arange(2**16) << 16 | low_half
    radius = normals(a, 0)[0]
    growth = np.diff(radius)
    assert growth.max() <= 0, (a[np.argmax(growth)], growth.max())
    assert len(np.unique(radius)) > 0.99 * 2**16


def test_low_half_of_the_word_matters_in_the_tail():
    # All 32 bits go into the radius: among the smallest words each has a radius of its own.
    radius = normals(np.arange(2**16), 0)[0]
    assert (np.diff(radius[:4096]) < 0).all()
    assert (np.diff(radius) <= 0).all()


ANGLES = np.concatenate([ANGLE_EDGES, np.random.default_rng(3).integers(0, WORD, 2**16)])
RADII = np.array([0, 1, 2**31, 2**32 - 2**12, 2**32 - 1])


@pytest.mark.parametrize("a", RADII)
def test_half_a_turn_changes_both_signs(a):
    np.testing.assert_array_equal(normals(a, (ANGLES + 2**31) % WORD), -normals(a, ANGLES))


@pytest.mark.parametrize("a", RADII)
def test_quarter_turn_swaps_the_pair(a):
    z0, z1 = normals(a, ANGLES)
    np.testing.assert_array_equal(normals(a, (ANGLES + 2**30) % WORD), [-z1, z0])


@pytest.mark.parametrize("a", RADII)
def test_reflected_angle(a):
    angles = ANGLES[ANGLES % 2**29 != 0]  # on an octant's edge itself, sine and cosine have two polynomials
    z0, z1 = normals(a, angles)
    np.testing.assert_array_equal(normals(a, (-angles) % WORD), [z0, -z1])


def test_vectorised_and_lone_pairs_agree_to_the_bit():
    rng = np.random.default_rng(4)
    a, b = np.concatenate([rng.integers(0, WORD, (2, 203)), [RADIUS_EDGES[:200], ANGLE_EDGES[:200]]], axis=1)
    lone = [box_muller(np.uint32(p), np.uint32(q)) for p, q in zip(a, b, strict=True)]
    np.testing.assert_array_equal(normals(a, b).T, np.float32(lone))
