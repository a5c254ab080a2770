"""Student's t by Bailey's polar form of Philox's words, in plain Python."""

from __future__ import annotations

import numpy as np

WORD = 2**32


def plain_philox(counter, key):
    """Philox4x32-10 in Python's unbounded integers: multiply and xor, keys along a Weyl sequence."""
    left_0, right_0, left_1, right_1 = counter
    for r in range(10):
        key_0 = (key[0] + r * 0x9E3779B9) % WORD
        key_1 = (key[1] + r * 0xBB67AE85) % WORD
        high_0, low_0 = divmod(left_0 * 0xD2511F53, WORD)
        high_1, low_1 = divmod(left_1 * 0xCD9E8D57, WORD)
        left_0, right_0, left_1, right_1 = high_1 ^ right_0 ^ key_0, low_1, high_0 ^ right_1 ^ key_1, low_0
    return left_0, right_0, left_1, right_1


def student(seed, trajectory, coordinate, step, df, purpose=16):
    """One draw of variance 1."""
    call, place = divmod(step, 4)
    counter = (call, coordinate, trajectory, purpose + place // 2)
    words = plain_philox(counter, (seed % WORD, seed // WORD))
    a, b = words[2 * (place % 2) : 2 * (place % 2) + 2]
    u = (a + 0.5) / WORD
    return np.sqrt((df - 2) * (u ** (-2 / df) - 1)) * np.cos(2 * np.pi * b / WORD)
