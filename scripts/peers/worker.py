"""A tool's process: answers lines of JSON on standard input with how long a run took, and its losses."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

import numpy as np

from peers import Task


def peak_mb() -> float:
    """Most memory this process has held since it began, in MB (not what its parent held, as `getrusage` counts)."""
    with open("/proc/self/status") as status:
        return next(float(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def main(module: str, name: str, threads: int) -> None:
    """Serve until standard input ends."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        make = importlib.import_module(f"peers.{module}").make
        if name.startswith("optax"):
            importlib.import_module("optax")
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    print(json.dumps({"missing": None}), flush=True)
    runs: dict[str, Any] = {}
    for line in sys.stdin:
        ask = json.loads(line)
        task = Task(**{**ask["task"], "rates": tuple(ask["task"]["rates"])})
        if repr(task) not in runs:
            runs[repr(task)] = make(name, task, threads)
        start = time.perf_counter()
        losses = np.asarray(runs[repr(task)](ask["seed"]))
        took = time.perf_counter() - start
        print(json.dumps({"seconds": took, "losses": losses.tolist(), "peak": peak_mb()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
