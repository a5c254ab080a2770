"""Optimizers as frozen descriptions: hyperparameters, their ranges, and the equations they stand for.

A description holds no state and does no stepping. The arithmetic of one step lives in `mcnqm.kernels.rules`,
the exact linear maps in `mcnqm.analytic`. To add an optimizer, write its hyperparameters as a `NamedTuple` under
`hyperparameters`, and its update under `mcnqm.update_rule`; ``docs/extending.md`` shows how.
"""

from mcnqm.optimizers.adam import Adam
from mcnqm.optimizers.ademamix import AdEMAMix
from mcnqm.optimizers.base import Number, domain_of, hyperparameters, is_optimizer, named_optimizers, numeric_fields
from mcnqm.optimizers.nadam import NAdam
from mcnqm.optimizers.rmsprop import RMSProp
from mcnqm.optimizers.schedule_free import ScheduleFreeAdam, ScheduleFreeSGD
from mcnqm.optimizers.sgd import SGD
from mcnqm.optimizers.sign import Lion, Signum

__all__ = [
    "SGD",
    "AdEMAMix",
    "Adam",
    "Lion",
    "NAdam",
    "Number",
    "RMSProp",
    "ScheduleFreeAdam",
    "ScheduleFreeSGD",
    "Signum",
    "domain_of",
    "hyperparameters",
    "is_optimizer",
    "named_optimizers",
    "numeric_fields",
]
