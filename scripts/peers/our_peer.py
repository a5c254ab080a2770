"""mcnqm itself, through its public call."""

from __future__ import annotations

import numpy as np

import mcnqm
from peers import Task

NAMES = ("mcnqm",)


def make(name: str, task: Task, threads: int):
    problem = mcnqm.NoisyQuadratic.power_law(task.dim)
    lr = np.array(task.rates)
    optimizer = mcnqm.SGD(lr=lr, momentum=0.9) if task.kind == "heavy ball" else mcnqm.Adam(lr=lr)

    def run(seed: int) -> np.ndarray:
        runs = mcnqm.simulate(
            problem, optimizer, task.batch, task.steps, trajectories=task.trajectories, seed=seed, threads=threads,
            record=[task.steps], control_variate=False,
        )  # fmt: skip
        return runs.loss.transpose("lr", "trajectory", "step").values[..., -1]

    return run
