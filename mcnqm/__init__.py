"""Real optimizers on the noisy quadratic model: fast trajectories beside exact risk."""

from mcnqm import analytic, averaging, claims, schedules
from mcnqm._version import __version__
from mcnqm.comparison import agreement
from mcnqm.errors import ParameterError
from mcnqm.kernels.updates import update_rule
from mcnqm.optimizers import (
    SGD,
    Adam,
    AdEMAMix,
    Lion,
    NAdam,
    RMSProp,
    ScheduleFreeAdam,
    ScheduleFreeSGD,
    Signum,
    hyperparameters,
)
from mcnqm.problems import NoisyQuadratic
from mcnqm.scheduling.exact import optimize_schedule, schedules_of
from mcnqm.simulation import noise, simulate
from mcnqm.tuning.passages import steps_to_target
from mcnqm.tuning.tuner import tune

__all__ = [
    "SGD",
    "AdEMAMix",
    "Adam",
    "Lion",
    "NAdam",
    "NoisyQuadratic",
    "ParameterError",
    "RMSProp",
    "ScheduleFreeAdam",
    "ScheduleFreeSGD",
    "Signum",
    "__version__",
    "agreement",
    "analytic",
    "averaging",
    "claims",
    "hyperparameters",
    "noise",
    "optimize_schedule",
    "schedules",
    "schedules_of",
    "simulate",
    "steps_to_target",
    "tune",
    "update_rule",
]
