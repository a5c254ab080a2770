"""C: gcc -O3 -march=native, xoshiro256++ and a ziggurat; one coordinate at a time, innermost loops vectorise."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from peers import Task, over_threads

NAMES = ("C, ziggurat",)

if shutil.which("gcc") is None:
    raise ImportError("no gcc")

_library = None


def _built():
    global _library  # noqa: PLW0603 - built once
    if _library is None:
        folder = Path(tempfile.mkdtemp())
        target = folder / "peer.so"
        source = Path(__file__).with_name("peer.c")
        flags = ["-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-shared", "-fPIC"]
        subprocess.run(["gcc", *flags, str(source), "-o", str(target), "-lm"], check=True)
        _library = ctypes.CDLL(str(target))
    return _library


def _part(task: Task, trajectories: int, seed: int) -> np.ndarray:
    rates = np.array(task.rates)
    h = task.h
    loss = np.zeros((rates.size, trajectories))
    pointer = partial(np.ctypeslib.as_ctypes)
    _built().run(
        ctypes.c_int(task.kind == "Adam"),
        ctypes.c_uint64(seed),
        ctypes.c_long(task.dim),
        ctypes.c_long(rates.size),
        ctypes.c_long(trajectories),
        ctypes.c_long(task.steps),
        ctypes.c_double(task.batch),
        pointer(h),
        pointer(rates),
        pointer(loss.reshape(-1)),
    )
    return loss


def make(name: str, task: Task, threads: int):
    _built()
    return lambda seed: over_threads(partial(_part, task), task.trajectories, threads, seed)
