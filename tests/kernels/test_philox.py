"""Random bits and the streams made of them, against published vectors and a generator in plain integers."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcnqm
from mcnqm.kernels import noise as streams
from mcnqm.kernels.normal import box_muller
from mcnqm.kernels.philox import key_words, philox4x32

WORD = 2**32

# Random123's kat_vectors, lines "philox4x32 10": counter, key, output.
KNOWN_ANSWERS = [
    "00000000 00000000 00000000 00000000 00000000 00000000   6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff   408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0   d16cfe09 94fdcceb 5001e420 24126ea1",
]


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


def compiled_philox(counter, key):
    return tuple(int(word) for word in philox4x32(*(np.uint32(word) for word in (*counter, *key))))


def contract_words(seed, purpose, trajectory, coordinate, step):
    """The two words of the pair that holds `step`, and its place in the pair, as the contract has it."""
    words = plain_philox((step // 4, coordinate, trajectory, purpose), (seed % WORD, seed // WORD))
    pair, place = divmod(step % 4, 2)
    return words[2 * pair], words[2 * pair + 1], place


def contract_normal(seed, purpose, trajectory, coordinate, step):
    """One normal, bit for bit: the contract's words through the package's Box-Muller."""
    a, b, place = contract_words(seed, purpose, trajectory, coordinate, step)
    return float(box_muller(np.uint32(a), np.uint32(b))[place])


def formula_normal(seed, purpose, trajectory, coordinate, step):
    """One normal, from nothing but this file and the formula."""
    a, b, place = contract_words(seed, purpose, trajectory, coordinate, step)
    turn = 2 * math.pi * b / WORD
    return math.sqrt(-2 * math.log((a + 0.5) / WORD)) * (math.sin(turn) if place else math.cos(turn))


words = st.integers(0, WORD - 1) | st.sampled_from([0, 1, WORD // 2 - 1, WORD // 2, WORD - 1])
seeds = st.integers(0, WORD**2 - 1) | st.sampled_from([0, WORD - 1, WORD, WORD**2 - 1])


@pytest.mark.parametrize("philox", [plain_philox, compiled_philox])
@pytest.mark.parametrize("line", KNOWN_ANSWERS)
def test_random123_known_answers(philox, line):
    numbers = [int(word, 16) for word in line.split()]
    output = philox(numbers[:4], numbers[4:6])
    assert output == tuple(numbers[6:]), " ".join(f"{word:08x}" for word in output)


@settings(max_examples=500, deadline=None)
@given(counter=st.tuples(words, words, words, words), key=st.tuples(words, words))
def test_philox_in_plain_integers(counter, key):
    assert compiled_philox(counter, key) == plain_philox(counter, key)


@settings(deadline=None)
@given(seed=seeds)
def test_key_is_the_seed_low_word_first(seed):
    assert tuple(int(word) for word in key_words(np.uint64(seed))) == (seed % WORD, seed // WORD)


@settings(max_examples=100, deadline=None)
@given(
    seed=seeds,
    purpose=st.sampled_from(["initial", "gradient"]),
    trajectory=st.lists(words, min_size=1, max_size=3),
    coordinate=st.lists(words, min_size=1, max_size=3),
    steps=st.integers(0, 21),
)
def test_noise_follows_the_contract(seed, purpose, trajectory, coordinate, steps):
    code = {"initial": 0, "gradient": 1}[purpose]
    z = mcnqm.noise(seed, trajectory, coordinate, steps, purpose=purpose)
    assert z.shape == (len(trajectory), steps, len(coordinate))
    assert z.dtype == np.float64
    for (r, t, i), value in np.ndenumerate(z):
        where = (seed, code, trajectory[r], coordinate[i], t)
        assert value == contract_normal(*where), where
        assert value == pytest.approx(formula_normal(*where), abs=3e-4), where


@pytest.mark.parametrize(
    ("where", "z"),
    [
        # Written down once from `formula_normal`, should the formula here and the package drift together.
        ((0, 1, 0, 0, 0), 1.651178),
        ((0, 1, 0, 0, 1), 0.845646),
        ((0, 1, 0, 0, 2), -0.102099),
        ((0, 0, 0, 0, 0), 0.991138),
        ((2**40 + 7, 1, 3, 5, 999), 0.440595),
    ],
)
def test_noise_never_changes(where, z):
    seed, purpose, trajectory, coordinate, step = where
    value = mcnqm.noise(seed, trajectory, coordinate, step + 1, purpose=["initial", "gradient"][purpose])[0, -1, 0]
    assert value == pytest.approx(z, abs=5e-6)


def test_bits_never_change():
    # Every operation is rounded as IEEE 754 says, so this holds on any machine. Only a deliberate change of the
    # streams, and a line in the changelog, may change it: published results stop being repeatable.
    z = mcnqm.noise(2**35 + 3, np.arange(8), np.arange(16), 512)
    digest = hashlib.sha256(z.astype("<f4").tobytes()).hexdigest()
    assert digest == "62b5f16b9f148449861ed7210d121b3c729d482a48ccf87ab86213d5fb734eb7"


@pytest.mark.parametrize("purpose", ["initial", "gradient"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 5, 7, 64, 99])
def test_short_replay_begins_a_long_one(steps, purpose):
    long = mcnqm.noise(11, [0, 3], [5, 1, 9], 100, purpose=purpose)
    np.testing.assert_array_equal(mcnqm.noise(11, [0, 3], [5, 1, 9], steps, purpose=purpose), long[:, :steps])


def test_subset_of_streams_in_any_order():
    everything = mcnqm.noise(2**63 + 1, np.arange(6), np.arange(7), 41)
    some = mcnqm.noise(2**63 + 1, [4, 0, 4], np.array([6, 2], dtype=np.uint64), 41)
    np.testing.assert_array_equal(some, everything[[4, 0, 4]][:, :, [6, 2]])
    np.testing.assert_array_equal(mcnqm.noise(2**63 + 1, 4, 6, 41), everything[4:5, :, 6:7])


def test_streams_differ_in_every_part_of_their_address():
    # 24-bit coincidences are common among float32 normals, so whole streams are compared, not numbers.
    seen = {}
    for seed in [0, *(2**bit for bit in range(64))]:
        seen[f"{seed=}"] = mcnqm.noise(seed, 0, 0, 8)
    for bit in range(32):
        seen[f"trajectory=2**{bit}"] = mcnqm.noise(0, 2**bit, 0, 8)
        seen[f"coordinate=2**{bit}"] = mcnqm.noise(0, 0, 2**bit, 8)
    for seed in [0, 1, 2**32]:
        seen[f"initial, {seed=}"] = mcnqm.noise(seed, 0, 0, 8, purpose="initial")
    rows = np.concatenate([z[0, :, 0].reshape(2, 4) for z in seen.values()])
    assert len(np.unique(rows, axis=0)) == 2 * len(seen)


def test_purposes_never_share_a_counter():
    assert [int(p) for p in (streams.INITIAL, streams.GRADIENT, streams.EXAMPLE)] == [0, 1, 2]
    shift = 8
    assert (streams.MAX_EXAMPLES - 1) << shift < WORD, "the last example's number must fit beside the purpose"
    last = int(streams.EXAMPLE) | (streams.MAX_EXAMPLES - 1) << shift
    assert last % 2**shift == int(streams.EXAMPLE)


def replay_examples(seed, trajectory, coordinate, calls, examples):
    calls = np.asarray(calls, np.uint32)
    n = calls.size
    z = np.empty(4 * n, np.float32)
    streams.fill_examples(
        calls,
        np.full(n, trajectory, np.uint32),
        np.uint32(coordinate),
        examples,
        streams.GAUSSIAN,
        np.uint64(seed),
        np.empty(4 * n, np.uint32),
        z,
        np.empty(4 * n, np.float64),
        np.zeros(1, np.uint8),
    )
    return z.reshape(4, n).T  # (call, place)


@pytest.mark.parametrize("examples", [1, 2, 3, 300])
def test_examples_are_means_of_streams_of_their_own(examples):
    seed, trajectory, coordinate, calls = 2**33 + 5, 7, 11, [0, 1, 250]
    z = replay_examples(seed, trajectory, coordinate, calls, examples)
    for j, call in enumerate(calls):
        for place in range(4):
            where = (trajectory, coordinate, 4 * call + place)
            draws = [contract_normal(seed, 2 + 256 * e, *where) for e in range(examples)]
            assert z[j, place] == np.float32(sum(draws) / examples), (where, draws)


def test_fill_noise_takes_any_calls_and_trajectories():
    calls = np.array([3, 3, 0, WORD - 1, 17], np.uint32)
    trajectories = np.array([0, 1, WORD - 1, 5, 5], np.uint32)
    n = calls.size
    z, bits = np.empty(4 * n, np.float32), np.empty(4 * n, np.uint32)
    streams.fill_noise(calls, trajectories, np.uint32(9), np.uint32(258), np.uint64(2**50), bits, z)
    for place in range(4):
        for j in range(n):
            where = (2**50, 258, int(trajectories[j]), 9, 4 * int(calls[j]) + place)
            assert z[place * n + j] == contract_normal(*where), where


@pytest.mark.parametrize(
    ("name", "value", "offender"),
    [
        ("seed", -1, -1),
        ("seed", 2**64, 2**64),
        ("seed", 1.0, 1.0),
        ("seed", True, True),
        ("seed", None, None),
        ("trajectory", -1, -1),
        ("trajectory", 2**32, 2**32),
        ("trajectory", [0, 2**32, -5], 2**32),
        ("trajectory", 2**70, 2**70),
        ("trajectory", 1.5, 1.5),
        ("trajectory", [], []),
        ("coordinate", [3, -3], -3),
        ("coordinate", [[0]], [[0]]),
        ("coordinate", True, True),
        ("coordinate", "a", "a"),
        ("coordinate", math.nan, math.nan),
        ("steps", -1, -1),
        ("steps", 2.0, 2.0),
        ("steps", 2**34 + 1, 2**34 + 1),
        ("steps", math.nan, math.nan),
        ("purpose", "example", "example"),
        ("purpose", 1, 1),
        ("purpose", "", ""),
    ],
)
def test_bad_input_is_named(name, value, offender):
    arguments = {"seed": 0, "trajectory": 0, "coordinate": 0, "steps": 2, name: value}
    with pytest.raises(mcnqm.ParameterError) as caught:
        mcnqm.noise(**arguments)
    assert caught.value.name == name
    assert repr(caught.value.value) == repr(offender)
    assert str(caught.value).startswith(f"{name} must be ")
    assert str(caught.value).endswith(f", got {offender!r}")


@pytest.mark.parametrize("bound", [{"seed": 2**64 - 1}, {"trajectory": 2**32 - 1}, {"coordinate": 2**32 - 1}])
def test_largest_address(bound):
    address = {"seed": 0, "trajectory": 0, "coordinate": 0} | bound
    where = (address["seed"], 1, address["trajectory"], address["coordinate"], 2)
    assert mcnqm.noise(**address, steps=3)[0, 2, 0] == contract_normal(*where)
