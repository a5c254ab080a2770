"""All that an optimizer of your own needs, under public names; ``docs/extending.md`` shows how.

Description
    `hyperparameters` makes a `NamedTuple` an optimizer; `Number` annotates its fields; `positive`, `nonnegative`,
    `unit_interval`, `finite` and your own `Domain` say what a field may be; `combined` and `ParameterError` are for
    checks of several fields at once.
Arithmetic
    `update_rule` gives it the update of one step. `fma` and `number` are for use inside: a multiply-add that is rounded
    once, and a constant in the width of another number.
Options
    `kernel_forms` keeps options free where they are off; `Twin` is a control variate for adaptive optimizers.
"""

from mcnqm.domains import Domain, finite, nonnegative, positive, unit_interval
from mcnqm.errors import ParameterError
from mcnqm.kernels.forms import kernel_forms
from mcnqm.kernels.jit import fma, number
from mcnqm.kernels.updates import Twin, update_rule
from mcnqm.optimizers.base import Number, combined, hyperparameters

__all__ = [
    "Domain",
    "Number",
    "ParameterError",
    "Twin",
    "combined",
    "finite",
    "fma",
    "hyperparameters",
    "kernel_forms",
    "nonnegative",
    "number",
    "positive",
    "unit_interval",
    "update_rule",
]
