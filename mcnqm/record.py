"""Which steps a result keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.domains import integer
from mcnqm.errors import ParameterError

__all__ = ["MAX_STEPS", "recorded_steps"]

MAX_STEPS = 2**34
"""The random numbers' counter holds ``step // 4`` in 32 bits."""

_POINTS = 256
_ALIGN_FROM = 16


def recorded_steps(steps: int, record: Any = None, *, limit: int = MAX_STEPS) -> NDArray[np.int64]:
    """Steps at which a result is recorded, in increasing order.

    Parameters
    ----------
    steps : int
        Number of completed steps at the end of the run, from 0 to `limit`.
    record : sequence of int, optional
        Wanted steps, strictly increasing, within [0, steps]. By default every step of a run of up to 256,
        else a few hundred, equally spaced on a logarithmic axis, the start and the end among them.
    limit : int
        Largest number of steps allowed: 2**34 for a simulation; a closed form has no such limit.

    Returns
    -------
    ndarray of int64, shape (records,)

    Raises
    ------
    ParameterError
        If `steps` or an entry of `record` is out of range, or `record` does not increase.

    Examples
    --------
    >>> recorded_steps(5)
    array([0, 1, 2, 3, 4, 5])
    >>> record = recorded_steps(1_000_000)
    >>> record.size, record[-1]
    (207, np.int64(1000000))
    """
    last = integer("steps", steps, 0, limit)
    if record is None:
        return _automatic(last)
    allowed = f"be integers in [0, steps={last}], strictly increasing"
    try:
        wanted = np.asarray(record)
    except (TypeError, ValueError):  # a Dataset; ragged
        raise ParameterError("record", record, allowed) from None
    if wanted.ndim != 1 or wanted.size == 0 or wanted.dtype.kind not in "iu":
        raise ParameterError("record", record, allowed)
    for entry in wanted[(wanted < 0) | (wanted > last)]:
        raise ParameterError("record", int(entry), allowed)
    wanted = wanted.astype(np.int64)
    for entry in wanted[1:][np.diff(wanted) <= 0]:
        raise ParameterError("record", int(entry), allowed)
    return wanted


def _automatic(last: int) -> NDArray[np.int64]:
    if last <= _POINTS:
        return np.arange(last + 1, dtype=np.int64)
    points = np.round(np.geomspace(1, last, _POINTS)).astype(np.int64)
    # Four steps are one call of the generator: records that fall between its blocks cost a little more.
    late = points > _ALIGN_FROM
    points[late] -= points[late] % 4
    return np.unique(np.concatenate([[0], points, [last]]))
