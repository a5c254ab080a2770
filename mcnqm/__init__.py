"""Real optimizers on the noisy quadratic model: fast trajectories beside exact risk."""

from mcnqm import analytic, averaging, claims, extending, plots, provenance, schedules
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
from mcnqm.problems import DoubleWell, Landscape, NoisyQuadratic, QuarticWell, landscape
from mcnqm.scheduling import optimize_schedule, scheduled_optimizer, schedules_of
from mcnqm.simulation import noise, simulate
from mcnqm.tuning.passages import steps_to_target
from mcnqm.tuning.tuner import tune

__all__ = [
    "SGD",
    "AdEMAMix",
    "Adam",
    "DoubleWell",
    "Landscape",
    "Lion",
    "NAdam",
    "NoisyQuadratic",
    "ParameterError",
    "QuarticWell",
    "RMSProp",
    "ScheduleFreeAdam",
    "ScheduleFreeSGD",
    "Signum",
    "__version__",
    "agreement",
    "analytic",
    "averaging",
    "claims",
    "extending",
    "hyperparameters",
    "landscape",
    "noise",
    "optimize_schedule",
    "plots",
    "provenance",
    "scheduled_optimizer",
    "schedules",
    "schedules_of",
    "simulate",
    "steps_to_target",
    "tune",
    "update_rule",
]
