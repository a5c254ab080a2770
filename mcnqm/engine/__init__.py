"""Lanes and shards: plan a run, carry it out on any executor, reduce in a fixed order.

Every lane of every coordinate is a pure function of its hyperparameters and the seed, so a run may be cut anywhere.
Only sums over coordinates depend on an order, and that is fixed by the number of coordinates alone: sums within
blocks of consecutive coordinates, then over the blocks, first to last.
"""

from mcnqm.engine.executor import CancellableExecutor, ExecutorClosed, Pool
from mcnqm.engine.job import RECORDS, Job, check_room, first_trajectories, joined, may_join, twin_cells
from mcnqm.engine.losses import Losses
from mcnqm.engine.march import March, run_loss
from mcnqm.engine.passages import portions, run_passages
from mcnqm.engine.paths import run_paths
from mcnqm.engine.states import run_effective_lr, run_gradients, state_names
from mcnqm.kernels.forms import has_twin, kernel_form

__all__ = [
    "RECORDS",
    "CancellableExecutor",
    "ExecutorClosed",
    "Job",
    "Losses",
    "March",
    "Pool",
    "check_room",
    "first_trajectories",
    "has_twin",
    "joined",
    "kernel_form",
    "may_join",
    "portions",
    "run_effective_lr",
    "run_gradients",
    "run_loss",
    "run_passages",
    "run_paths",
    "state_names",
    "twin_cells",
]
