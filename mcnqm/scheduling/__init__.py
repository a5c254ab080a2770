"""The best schedules: exact for linear optimizers, by the mean field and simulation for adaptive ones."""

from mcnqm.scheduling.labels import scheduled_optimizer, schedules_of
from mcnqm.scheduling.public import optimize_schedule

__all__ = ["optimize_schedule", "scheduled_optimizer", "schedules_of"]
