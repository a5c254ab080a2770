r"""Averages of the iterates: which weight the past keeps at each step.

Every average here is :math:`\bar\theta_{t+1} = \gamma_t \bar\theta_t + (1-\gamma_t)\theta_{t+1}`, from
:math:`\bar\theta_0 = \theta_0`; they differ in :math:`\gamma_t`. A number is the plain exponential moving average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcnqm.domains import Domain, integer, nonnegative, unit_interval
from mcnqm.schedules import FOREVER, Schedule

__all__ = ["Harmonic", "checked_average", "growing", "polynomial", "tail", "weight_domain"]

weight_domain = Domain("be in [0, 1]", lambda x: (x >= 0) & (x <= 1))


@dataclass(frozen=True)
class Harmonic:
    """γ = n / (n + 1 + η) after n averaged iterates, at most `limit`; 0 before the start.

    Attributes
    ----------
    start : int
        First step that counts.
    eta : float
        η; 0 for the plain mean.
    limit : float
        Where γ stops growing.
    """

    start: int
    eta: float = 0.0
    limit: float = 1.0

    def at(self, step: NDArray[np.int64]) -> NDArray[np.float64]:
        """Values at steps."""
        n = np.maximum(step + 1 - self.start, 0).astype(np.float64)
        return np.minimum(n / (n + 1.0 + self.eta), self.limit)

    def stretches(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """See `mcnqm.schedules.stretches`."""
        grown = FOREVER
        if self.limit < 1.0:
            # Two steps more, lest rounding put the end too early.
            needed = np.ceil(self.limit * (1.0 + self.eta) / (1.0 - self.limit)) + 2
            grown = int(min(self.start + needed, FOREVER))
        stops = {self.start: True, grown: False, FOREVER: True}
        kept = {stop: flat for stop, flat in stops.items() if stop > 0}
        if grown == FOREVER:
            kept[FOREVER] = False
        return np.array(list(kept), dtype=np.int64), np.array(list(kept.values()))

    def describe(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return {"start": self.start, "eta": self.eta, "limit": self.limit}


def tail(start: int) -> Schedule:
    r"""The plain mean of the iterates from step `start` on (Polyak and Ruppert); before, the iterate itself.

    Parameters
    ----------
    start : int
        First step that counts, >= 0.

    Returns
    -------
    Schedule
        Of γ, for ``average=``.

    Examples
    --------
    >>> tail(2)([0, 1, 2, 3]).round(4)  # γ of the updates to steps 1, 2, 3, 4
    array([0.    , 0.    , 0.5   , 0.6667])
    """
    return Schedule(1.0, (Harmonic(integer("start", start, 0, 2**53)),))


def polynomial(eta: float) -> Schedule:
    r"""Polynomial-decay averaging (Shamir & Zhang 2013): iterate s counts about like :math:`s^\eta`.

    Parameters
    ----------
    eta : float
        η >= 0; 0 is the plain mean of all iterates.

    Returns
    -------
    Schedule
        Of γ, for ``average=``.

    Examples
    --------
    >>> polynomial(3.0)([0, 4, 96]).round(4)
    array([0.2   , 0.5556, 0.9604])
    """
    return Schedule(1.0, (Harmonic(0, float(nonnegative.check("eta", eta))),))


def growing(decay: float, eta: float = 8.0) -> Schedule:
    r"""An exponential average whose memory grows with the run up to its own: γ = min(decay, (t+1)/(t+2+η)).

    Parameters
    ----------
    decay : float
        γ that is reached, in [0, 1).
    eta : float
        η >= 0; the default, 8, is TensorFlow's ramp ``(1 + t) / (10 + t)``.

    Returns
    -------
    Schedule
        Of γ, for ``average=``.

    Notes
    -----
    ``tf.train.ExponentialMovingAverage(decay, num_updates=t)``, with t = 0 at the update to step 1.

    Examples
    --------
    >>> growing(0.99)([0, 8, 10_000]).round(4)
    array([0.1 , 0.5 , 0.99])
    """
    limit = float(unit_interval.check("decay", decay))
    return Schedule(1.0, (Harmonic(0, float(nonnegative.check("eta", eta)), limit),))


def checked_average(average: Any) -> Any:
    """The weight of the past as it was given, or `ParameterError` if it is not in [0, 1]."""
    if isinstance(average, Schedule):
        return average.check("average", weight_domain)
    weight_domain.check("average", getattr(average, "values", average))
    return average
