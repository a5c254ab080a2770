"""Random bits: Philox4x32-10, a counter-based generator (Salmon et al. 2011, "Random123").

A draw is a pure function of a 128-bit counter and a 64-bit key, so any draw can be made anywhere, in any order.
"""

from __future__ import annotations

import numpy as np

from mcnqm.kernels.jit import scalar

__all__ = ["key_words", "philox4x32"]

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint32(0x9E3779B9)  # golden ratio
_WEYL_1 = np.uint32(0xBB67AE85)  # sqrt(3) - 1
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@scalar
def key_words(seed):
    """Split a 64-bit seed into the two 32-bit words of a key, low word first."""
    return np.uint32(seed), np.uint32(np.uint64(seed) >> _HALF)


@scalar
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Ten rounds: four uint32 counter words and two uint32 key words in, four uint32 words out."""
    # In 64-bit lanes, of which only the lower half counts: a vector multiplier reads just that half, so a round is two
    # multiplications, two shifts and four exclusive ors, without packing words in between.
    a, b, c, d = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
    for _ in range(10):
        product_0 = (a & _LOW) * _MULTIPLIER_0
        product_1 = (c & _LOW) * _MULTIPLIER_1
        a = (product_1 >> _HALF) ^ (b ^ np.uint64(k0))
        c = (product_0 >> _HALF) ^ (d ^ np.uint64(k1))
        b = product_1
        d = product_0
        k0 = np.uint32(k0 + _WEYL_0)
        k1 = np.uint32(k1 + _WEYL_1)
    return np.uint32(a), np.uint32(b), np.uint32(c), np.uint32(d)
