"""All that an optimizer of your own needs, under public names; ``docs/extending.md`` shows how.

Description
    `hyperparameters` makes a `NamedTuple` an optimizer; `Number` annotates its fields; `positive`, `nonnegative`,
    `unit_interval`, `finite` and your own `Domain` say what a field may be; `combined` and `ParameterError` are for
    checks of several fields at once.
Arithmetic
    `update_rule` gives it the update of one step. `fma` and `number` are for use inside: a multiply-add that is rounded
    once, and a constant in the width of another number.
Problems
    `landscape` makes a `NamedTuple` a kind of problem. `exp` and `log` are for use inside its functions, and `helper`
    decorates what several of them have in common: see ``docs/landscapes.md``.
Options
    `kernel_forms` keeps options free where they are off; `Twin` is a control variate for adaptive optimizers.
"""

from mcnqm.domains import Domain, finite, nonnegative, positive, unit_interval
from mcnqm.errors import ParameterError
from mcnqm.kernels.forms import kernel_forms
from mcnqm.kernels.updates import Twin, update_rule
from mcnqm.optimizers.base import Number, combined, hyperparameters
from mcnqm.problems.arithmetic import exp, fma, helper, log, number
from mcnqm.problems.landscapes import landscape

__all__ = [
    "Domain",
    "Number",
    "ParameterError",
    "Twin",
    "combined",
    "exp",
    "finite",
    "fma",
    "helper",
    "hyperparameters",
    "kernel_forms",
    "landscape",
    "log",
    "nonnegative",
    "number",
    "positive",
    "unit_interval",
    "update_rule",
]
