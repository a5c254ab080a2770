"""The figures of Zhang et al. 2019 on the noisy quadratic model, one computation each.

`FIGURES` holds them by number. What several of them show (tuned rates, schedules) is computed once.
"""

from mcnqm.studies.paper.figure import FULL, QUICK, Figure, Scale, Work
from mcnqm.studies.paper.one_coordinate import FIGURES as _ONE
from mcnqm.studies.paper.scaling import FIGURES as _SCALING
from mcnqm.studies.paper.schedules import FIGURES as _SCHEDULES

__all__ = ["FIGURES", "FULL", "QUICK", "Figure", "Scale", "Work"]

FIGURES: dict[str, Figure] = {
    one.number: one
    for one in sorted((*_ONE, *_SCALING, *_SCHEDULES), key=lambda one: (int(one.number.rstrip("abc")), one.number))
}
"""By number, as in the paper."""
