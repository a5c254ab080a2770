"""Real optimizers on the noisy quadratic model: fast trajectories beside exact risk."""

from mcnqm._version import __version__
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, Adam, Lion, RMSProp
from mcnqm.problem import NoisyQuadratic

__all__ = [
    "SGD",
    "Adam",
    "Lion",
    "NoisyQuadratic",
    "ParameterError",
    "RMSProp",
    "__version__",
]
