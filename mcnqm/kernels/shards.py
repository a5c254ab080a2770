"""From a shard to its numbers: allocate, call the compiled kernel, hand back the result."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import mcnqm.kernels.rules  # noqa: F401 - registers the optimizers of the package, in every worker too
from mcnqm.compiling import compiled
from mcnqm.errors import ParameterError
from mcnqm.kernels.caching import sources
from mcnqm.kernels.gradients import kind_of
from mcnqm.kernels.jit import OPTIONS
from mcnqm.kernels.loops import BY_SETTING, BY_TRAJECTORY, LANES, Shard, advance_kernel
from mcnqm.kernels.mistakes import named
from mcnqm.kernels.noise import GAUSSIAN, streams
from mcnqm.kernels.updates import rule_of

__all__ = ["ShardResult", "ShardState", "advance_shard", "new_cancel_flag", "padded", "replay"]

_SMALL = 2**23
"""Bytes of a narrow shard that may lie idle."""


class ShardState(NamedTuple):
    """Where a shard's lanes are: enough to go on from there, bit for bit.

    Attributes
    ----------
    lanes : ndarray of float64 or float32, shape (coordinates, variables, trajectories, settings)
        theta and the optimizer's state variables; then those of a twin, or the average of the iterates.
    clock : ndarray of float64, shape (clock variables, settings)
    moments : ndarray of float64, shape (coordinates, cells, moments, settings)
        Of the twin; without one, no cells.
    buffer : ndarray, optional
        Where the kernel had the lanes, of which `lanes` is then a view; the next stretch may go on in it.
    """

    lanes: NDArray[Any]
    clock: NDArray[np.float64]
    moments: NDArray[np.float64]
    buffer: NDArray[Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardState, self[:3]  # to another process go the lanes alone

    def select(self, settings: Any, trajectories: Any = slice(None)) -> ShardState:
        """Some of the settings and trajectories."""
        return ShardState(
            self.lanes[:, :, trajectories, settings], self.clock[:, settings], self.moments[..., settings]
        )


class ShardResult(NamedTuple):
    """What a shard answers.

    Attributes
    ----------
    out : ndarray of float64, shape (records, trajectories, settings), or (.., 2), or (.., coordinates, keep)
        Weighted sum of theta² over the shard's coordinates; with a twin, that of y² after it; or the kept variables
        of each coordinate.
    expected : ndarray of float64, shape (records, settings)
        Expected weighted sum of the twin's y²; 0 without a twin.
    state : ShardState or None
        The state at ``shard.stop``.
    """

    out: NDArray[np.float64]
    expected: NDArray[np.float64]
    state: ShardState | None


def new_cancel_flag() -> NDArray[np.uint8]:
    """A flag that running kernels look at once per block; set ``flag[0] = 1`` to stop them early."""
    return np.zeros(1, np.uint8)


@functools.cache
def _replay_kernel(fingerprint: str) -> Any:
    def replay(seed, purpose, df, trajectories, coordinates, out):  # type: ignore[no-untyped-def]
        fingerprint  # noqa: B018 - part of the cache's key, see `advance_kernel`
        streams(seed, purpose, df, trajectories, coordinates, out)

    return compiled(replay, **OPTIONS)


def replay(
    seed: int,
    purpose: np.uint32,
    trajectories: NDArray[np.uint32],
    coordinates: NDArray[np.uint32],
    steps: int,
    df: float = GAUSSIAN,
) -> NDArray[np.float32]:
    """The first `steps` draws of streams, shape (trajectories, steps, coordinates): see `streams`."""
    out = np.empty((trajectories.size, steps, coordinates.size), np.float32)
    _replay_kernel(sources())(np.uint64(seed), purpose, df, trajectories, coordinates, out)
    return out


def advance_shard(
    hyper_type: Any,
    by_setting: bool,
    shard: Shard,
    state: ShardState | None = None,
    cancel: NDArray[np.uint8] | None = None,
) -> ShardResult:
    """Run a shard from ``shard.start`` to ``shard.stop``.

    Parameters
    ----------
    hyper_type : type
        NamedTuple of hyperparameters with a rule (`mcnqm.kernels.updates.update_rule`).
    by_setting : bool
        Whether vectors run over settings (else over trajectories). Changes the speed, not one bit of the result.
    shard : Shard
        What to run.
    state : ShardState, optional
        The state at ``shard.start``; not needed at 0. If it has a buffer, that is used up: pass it once only.
    cancel : ndarray of uint8, shape (1,), optional
        See `new_cancel_flag`. The result of a cancelled shard means nothing.

    Returns
    -------
    ShardResult
    """
    rule = rule_of(hyper_type)
    averaged = bool(shard.scheduled) and bool(shard.scheduled[-1])
    most = 1 + len(rule.state) + averaged
    if shard.keep > most:
        raise ParameterError("keep", shard.keep, f"be at most {most} for {hyper_type.__name__}")
    fields = len(hyper_type._fields)
    wide_p = hyper_type._make([1.0] * fields)
    like_p = hyper_type._make([shard.zero] * fields)
    like_s = (shard.zero,) * len(rule.state)
    like_k = rule.clock_start
    like_c: tuple[Any, ...] = ()
    if rule.clock is not None:
        first = hyper_type._make(shard.settings[:fields, 0].tolist())
        with np.errstate(all="ignore"):  # only how many there are counts; what is scheduled may be out of range here
            like_c = (shard.zero,) * len(rule.clock.py_func(first, like_k)[1])  # type: ignore[attr-defined]
    cells = shard.share.shape[1]
    twin = rule.twin if cells else None
    if cells and twin is None:
        raise ParameterError("optimizer", hyper_type.__name__, "have a twin")
    like_f: tuple[float, ...] = () if twin is None else (0.0,) * len(twin.moments)
    like_y: tuple[float, ...] = () if twin is None else (0.0,) * len(twin.state)
    like_a: tuple[float, ...] = ()
    if twin is not None:
        first = hyper_type._make(shard.settings[:fields, 0].tolist())
        like_a = (0.0,) * len(twin.rates.py_func(first, like_c, 1.0, 1.0, like_f)[1])  # type: ignore[attr-defined]

    trajectories, settings = shard.trajectories.size, shard.n_settings
    wide = _padded(shard, by_setting)
    groups, lanes = (trajectories, settings) if by_setting else (settings, trajectories)
    variables = 1 + len(like_s) + (0 if twin is None else 1 + len(like_y)) + averaged
    shape = (shard.curvature.size, groups, variables, LANES)
    moments = _zeros((shard.curvature.size, cells, len(like_f) + len(like_a), LANES))
    clock = np.repeat(np.array(like_k, dtype=np.float64)[:, np.newaxis], LANES, axis=1)
    # (coordinate, variable, trajectory, setting) to (coordinate, group, variable, lane)
    axes = (0, 2, 1, 3) if by_setting else (0, 3, 1, 2)
    back = np.argsort(axes)
    # New memory is slow to touch: a state whose lanes are where they are to be is advanced in place.
    buffer = None if state is None or state.buffer is None or state.buffer.shape != shape else state.buffer
    if state is not None and buffer is not None and buffer[..., :lanes].transpose(back).strides != state.lanes.strides:
        buffer = None
    if buffer is None:
        buffer = _zeros(shape, type(shard.zero))
        if state is not None:
            buffer[..., :lanes] = state.lanes.transpose(axes)
    if state is not None:
        clock[:, :settings] = state.clock
        moments[..., :settings] = state.moments
        if by_setting and settings < wide.n_settings:  # lanes that only fill a vector do what the last one does
            clock[:, settings : wide.n_settings] = clock[:, settings - 1 : settings]
            moments[..., settings : wide.n_settings] = moments[..., settings - 1 : settings]
    outputs = shard.curvature.size if shard.keep else 1
    kept = max(shard.keep, 1) if twin is None else 2
    out = np.zeros((outputs, shard.record.size, groups, kept, LANES))
    expected = np.zeros((shard.record.size, LANES))

    kind: Any = type(shard.kind) if shard.kind else None
    of_kind = "" if kind is None else f"-{kind_of(kind).fingerprint}"
    kernel = advance_kernel(hyper_type, kind, f"{sources()}-{rule.fingerprint}{of_kind}")
    layout = BY_SETTING if by_setting else BY_TRAJECTORY
    flag = new_cancel_flag() if cancel is None else cancel
    flat = (a.reshape(-1) for a in (buffer, clock, moments, out, expected))
    try:
        kernel(layout, wide_p, like_p, like_s, like_c, like_k, like_f, like_y, like_a, wide, *flat, flag)
    except Exception as error:
        said = named(error, hyper_type, kind)
        if said is error:
            raise
        raise said from None

    # (output, record, group, kept, lane) to (record, trajectory, setting, output, kept)
    result = out[..., :lanes].transpose((1, 2, 4, 0, 3) if by_setting else (1, 4, 2, 0, 3))
    if not shard.keep:
        result = result[..., 0, 0] if twin is None else result[..., 0, :]
    # What a caller keeps of a narrow shard is not to hold on to the buffer of a wide one, if that is much.
    wide_enough = 2 * lanes >= LANES or (8 * lanes >= LANES and buffer.nbytes <= _SMALL)
    kept_lanes = buffer[..., :lanes] if wide_enough else buffer[..., :lanes].copy()
    end = ShardState(
        kept_lanes.transpose(back),
        clock[:, :settings],
        moments[..., :settings].copy(),
        buffer if wide_enough else None,
    )
    return ShardResult(result, expected[:, :settings], end)


def _zeros(shape: tuple[int, ...], kind: type = float) -> NDArray[Any]:
    """Zeros that begin on a cache line: NumPy's begin anywhere, and half of all vectors would then straddle two."""
    size = math.prod(shape)
    buffer: NDArray[Any] = np.zeros(size + 16, kind)
    first = -buffer.ctypes.data % 64 // buffer.itemsize
    return buffer[first : first + size].reshape(shape)


def padded(lanes: int) -> int:
    """How many lanes a group is filled up to: a full vector is cheaper than a few left-over lanes on their own."""
    return min(LANES, 8 * math.ceil(lanes / 8)) if lanes % 8 > 2 else lanes


def _padded(shard: Shard, by_setting: bool) -> Shard:
    """The shard with its last lane repeated, where it is to be filled up."""
    n = shard.n_settings if by_setting else shard.trajectories.size
    wide = padded(n)
    which = np.zeros((shard.which.shape[0], LANES), np.int64)
    which[:, : shard.n_settings] = shard.which[:, : shard.n_settings]
    shard = shard._replace(which=which)
    settings = np.ones((shard.settings.shape[0], LANES))
    settings[:, : shard.n_settings] = shard.settings
    if not by_setting:
        return shard._replace(settings=settings, trajectories=np.resize(shard.trajectories, wide))
    settings[:, n:wide] = settings[:, n - 1 : n]
    which[:, n:wide] = which[:, n - 1 : n]
    return shard._replace(settings=settings, n_settings=wide)
