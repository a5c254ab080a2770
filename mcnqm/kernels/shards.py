"""From a shard to its numbers: allocate, call the compiled kernel, hand back the result."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcnqm.kernels.loops import BY_SETTING, BY_TRAJECTORY, LANES, Shard, advance_kernel
from mcnqm.kernels.updates import rule_of

__all__ = ["ShardState", "advance_shard", "kept_variables", "new_cancel_flag"]


class ShardState(NamedTuple):
    """Where a shard's lanes are: enough to go on from there, bit for bit.

    Attributes
    ----------
    lanes : ndarray of float64, shape (coordinates * groups * variables * LANES,)
    clock : ndarray of float64, shape (clock variables * LANES,)
    """

    lanes: NDArray[np.float64]
    clock: NDArray[np.float64]


@functools.cache
def _sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def new_cancel_flag() -> NDArray[np.uint8]:
    """A flag that running kernels look at once per block; set ``flag[0] = 1`` to stop them early."""
    return np.zeros(1, np.uint8)


def kept_variables(hyper_type: type) -> tuple[str, ...]:
    """Names of the variables of a lane that can be kept: theta, then the optimizer's state."""
    return ("theta", *rule_of(hyper_type).state)


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
    out : ndarray of float64, shape (records, trajectories, settings) or (records, trajectories, settings, keep)
        Weighted sum of theta² over the shard's coordinates, or the kept variables of its single coordinate.
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
    out = np.zeros((shard.record.size, groups, max(shard.keep, 1), LANES))

    kernel = advance_kernel(hyper_type, f"{_sources()}-{rule.fingerprint}")
    layout = BY_SETTING if by_setting else BY_TRAJECTORY
    flag = new_cancel_flag() if cancel is None else cancel
    kernel(layout, like_p, like_s, like_c, like_k, shard, state.lanes, state.clock, out.reshape(-1), flag)

    # (record, group, kept, lane) to (record, trajectory, setting, kept)
    result = out[..., :lanes].transpose((0, 1, 3, 2) if by_setting else (0, 3, 1, 2))
    return (result if shard.keep else result[..., 0]), state
