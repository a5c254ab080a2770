"""An optimizer that stays where it is and keeps the gradient it saw: for gradients along paths that are known."""

from __future__ import annotations

from typing import Any, NamedTuple

from mcnqm.kernels.updates import update_rule

__all__ = ["Probe"]


class Probe(NamedTuple):
    """No hyperparameters, but that kernels know none without."""

    unused: float


_class: Any = Probe  # a NamedTuple's own body takes no such name
_class._switches = frozenset()


@update_rule(Probe, state=("gradient",), steps_at_once=1)
def _probe(p, c, g, theta, s):
    return theta, (g,)
