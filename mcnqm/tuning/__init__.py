"""Steps to a target and the best hyperparameters, by simulation or by closed form."""

from mcnqm.tuning.passages import steps_to_target
from mcnqm.tuning.tuner import tune

__all__ = ["steps_to_target", "tune"]
