"""How much memory a call will need, compared with what there is, before the work begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mcnqm.errors import ParameterError

__all__ = ["available", "check_memory"]

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of a container's memory, in both versions of the interface."""

_SPARE = 2**28
"""Smaller requests are not looked at: to read what is free costs a system call, and they are not the problem."""


def check_memory(needed: float, what: str, name: str, value: Any) -> None:
    """Raise `ParameterError` if so much memory is not to be had.

    Parameters
    ----------
    needed : float
        Bytes.
    what : str
        What for, in the plural: ``"losses of 10 settings x 100 trajectories x 50 records"``.
    name, value
        The argument to lower.

    Examples
    --------
    >>> check_memory(8e15, "paths of everything", "record", "1000 steps")
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: record must be lowered: paths of everything need 8000000 GB of memory, and ... GB are
    available, got '1000 steps'
    """
    if needed < _SPARE:
        return
    free = available()
    if needed > free:
        allowed = f"be lowered: {what} need {_gigabytes(needed)} of memory, and {_gigabytes(free)} are available"
        raise ParameterError(name, value, allowed)


def _gigabytes(size: float) -> str:
    size /= 1e9
    return f"{size:.0f} GB" if size >= 100 else f"{size:.2g} GB"


def available() -> float:
    """Bytes that this process can still have, by the limits of machine, container and process; inf if unknown."""
    return max(min(_of_machine(), _of_container(), _of_process()), 0.0)


def _of_machine() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")  # all there is, used or not
    except (AttributeError, OSError, ValueError):
        return float("inf")


def _of_container() -> float:
    for limit, use in _CGROUPS:
        try:
            return float(Path(limit).read_text()) - float(Path(use).read_text())
        except (OSError, ValueError):  # no container, or "max"
            continue
    return float("inf")


def _of_process() -> float:
    try:
        import resource  # noqa: PLC0415 - Windows has none

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return float("inf")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError):
        return float("inf")
    return float(limit) - used
