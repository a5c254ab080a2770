"""The best schedules: exact for linear optimizers, by the mean field and simulation for adaptive ones."""

from mcnqm.scheduling.exact import optimize_schedule, schedules_of

__all__ = ["optimize_schedule", "schedules_of"]
