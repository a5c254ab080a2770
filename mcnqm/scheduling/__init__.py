"""The best schedules: exact for linear optimizers, by the mean field and simulation for adaptive ones."""

from mcnqm.scheduling.labels import optimizer_of, schedules_of
from mcnqm.scheduling.public import optimize_schedule

__all__ = ["optimize_schedule", "optimizer_of", "schedules_of"]
