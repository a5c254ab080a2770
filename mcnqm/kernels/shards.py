"""From a shard to its numbers: allocate, call the compiled kernel, hand back the result."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from mcnqm.kernels.caching import sources
from mcnqm.kernels.jit import OPTIONS
from mcnqm.kernels.loops import BY_SETTING, BY_TRAJECTORY, LANES, Shard, advance_kernel
from mcnqm.kernels.noise import streams
from mcnqm.kernels.updates import rule_of

__all__ = ["ShardState", "advance_shard", "new_cancel_flag", "replay"]


class ShardState(NamedTuple):
    """Where a shard's lanes are: enough to go on from there, bit for bit.

    Attributes
    ----------
    lanes : ndarray of float64, shape (coordinates * groups * variables * LANES,)
    clock : ndarray of float64, shape (clock variables * LANES,)
    """

    lanes: NDArray[np.float64]
    clock: NDArray[np.float64]


def new_cancel_flag() -> NDArray[np.uint8]:
    """A flag that running kernels look at once per block; set ``flag[0] = 1`` to stop them early."""
    return np.zeros(1, np.uint8)


@functools.cache
def _replay_kernel(fingerprint: str) -> Any:
    def replay(seed, purpose, trajectories, coordinates, out):  # type: ignore[no-untyped-def]
        fingerprint  # noqa: B018 - part of the cache's key, see `advance_kernel`
        streams(seed, purpose, trajectories, coordinates, out)

    return numba.njit(cache=True, **OPTIONS)(replay)


def replay(
    seed: int, purpose: np.uint32, trajectories: NDArray[np.uint32], coordinates: NDArray[np.uint32], steps: int
) -> NDArray[np.float32]:
    """The first `steps` normals of streams, shape (trajectories, steps, coordinates)."""
    out = np.empty((trajectories.size, steps, coordinates.size), np.float32)
    _replay_kernel(sources())(np.uint64(seed), purpose, trajectories, coordinates, out)
    return out


def advance_shard(
    hyper_type: type,
    by_setting: bool,
    shard: Shard,
    state: ShardState | None = None,
    cancel: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.float64], ShardState]:
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
        The state at ``shard.start``; not needed at 0. It is not changed.
    cancel : ndarray of uint8, shape (1,), optional
        See `new_cancel_flag`. The result of a cancelled shard means nothing.

    Returns
    -------
    out : ndarray of float64, shape (records, trajectories, settings) or (.., coordinates, keep)
        Weighted sum of theta² over the shard's coordinates, or the kept variables of each.
    state : ShardState
        The state at ``shard.stop``.
    """
    rule = rule_of(hyper_type)
    fields = len(hyper_type._fields)  # type: ignore[attr-defined]
    like_p = hyper_type._make([1.0] * fields)  # type: ignore[attr-defined]
    like_s = (0.0,) * len(rule.state)
    like_k = rule.clock_start
    like_c: tuple[float, ...] = ()
    if rule.clock is not None:
        first = hyper_type._make(shard.settings[:fields, 0].tolist())  # type: ignore[attr-defined]
        like_c = tuple(float(c) for c in rule.clock.py_func(first, like_k)[1])  # type: ignore[attr-defined]

    groups, lanes = shard.trajectories.size, shard.n_settings
    if not by_setting:
        groups, lanes = lanes, groups
    if state is None:
        clock = np.repeat(np.array(like_k, dtype=np.float64), LANES)
        state = ShardState(np.zeros(shard.curvature.size * groups * (1 + len(like_s)) * LANES), clock)
    else:
        state = ShardState(state.lanes.copy(), state.clock.copy())
    outputs = shard.curvature.size if shard.keep else 1
    out = np.zeros((outputs, shard.record.size, groups, max(shard.keep, 1), LANES))

    kernel = advance_kernel(hyper_type, f"{sources()}-{rule.fingerprint}")
    layout = BY_SETTING if by_setting else BY_TRAJECTORY
    flag = new_cancel_flag() if cancel is None else cancel
    kernel(layout, like_p, like_s, like_c, like_k, shard, state.lanes, state.clock, out.reshape(-1), flag)

    # (output, record, group, kept, lane) to (record, trajectory, setting, output, kept)
    result = out[..., :lanes].transpose((1, 2, 4, 0, 3) if by_setting else (1, 4, 2, 0, 3))
    return (result if shard.keep else result[..., 0, 0]), state
