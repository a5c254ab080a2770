"""Searches for the best hyperparameters: what they ask, along which axes they move, and what they answer."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from mcnqm.domains import unit_interval
from mcnqm.flags import Flag
from mcnqm.optimizers import domain_of
from mcnqm.statistics import jackknife
from mcnqm.tuning.checks import check_bound, check_sample
from mcnqm.tuning.race import at_least
from mcnqm.tuning.routes import SHORT, Found, Query

__all__ = [
    "FIT_RATE",
    "FIT_STEPS",
    "ROUNDING",
    "WIDEN",
    "Search",
    "Tuned",
    "as_good",
    "confirmed",
    "confirmed_risk",
    "from_line",
    "in_steps",
    "log_of",
    "plain_jackknife",
    "student",
    "to_line",
    "unreachable",
    "usable",
]

Array = NDArray[np.float64]

WIDEN = 3
"""How often a search may be widened at an edge, each time by a factor 8 in the hyperparameter."""

FIT_RATE, FIT_STEPS = 0.01, 0.003
"""Relative error of a local fit itself, added in quadrature to the jackknife's."""

_CHANCE = 1e-5
"""Chance of an estimated risk so far below the true one that a risk at the Bayes bound seems to be below it."""

ROUNDING = 0.29
"""Standard deviation, in steps, of what is added to a crossing to make it whole."""


@dataclass(frozen=True)
class Tuned:
    """One search's answer.

    Attributes
    ----------
    values, errors : dict of str to float
        Each tuned hyperparameter and its standard error (0 in closed form).
    steps, steps_error : float
        At a horizon, the risk there and its standard error.
    at_edge : bool
        Whether the best lies at an edge of the search, even after widening.
    intervals : dict of str to (float, float)
        95 % interval of each hyperparameter.
    steps_interval : (float, float)
    freedom : int
        Degrees of freedom of the errors; 0 in closed form.
    flags : int
        Bits of `mcnqm.flags.Flag`.
    """

    values: dict[str, float]
    errors: dict[str, float]
    steps: float
    steps_error: float
    at_edge: bool
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    steps_interval: tuple[float, float] = (np.nan, np.nan)
    freedom: int = 0
    flags: int = 0


Search: TypeAlias = Generator[Query, Found, Tuned]
"""Asks for the steps of candidates, until it has its answer."""


def to_line(optimizer: Any, name: str, value: Any) -> Any:
    """Hyperparameters on the axis a search moves along: log x, and -log(1 - x) for those in [0, 1)."""
    return -np.log1p(-np.asarray(value)) if domain_of(optimizer, name) is unit_interval else np.log(value)


def from_line(optimizer: Any, name: str, place: Any) -> Any:
    """The hyperparameter at a place on its axis."""
    return -np.expm1(-np.asarray(place)) if domain_of(optimizer, name) is unit_interval else np.exp(place)


def unreachable(names: list[str]) -> Tuned:
    """Nothing reaches the target, or at a horizon everything has diverged."""
    nothing = dict.fromkeys(names, np.nan)
    return Tuned(nothing, nothing, np.inf, np.nan, False, dict.fromkeys(names, (np.nan, np.nan)))


def usable(steps: Array) -> Array:
    """Steps by all trajectories, where every estimate arrived; else inf."""
    return np.where(np.isfinite(steps).all(axis=1), steps[:, 0], np.inf)


def plain_jackknife(estimates: Any, short: bool) -> tuple[float, float]:
    """Best estimate and error: in short runs, as in `mcnqm.tuning.race.summarise`, without correcting the bias."""
    values = np.asarray(estimates, dtype=np.float64)
    value, error = jackknife(values)
    return (float(values[0]) if short else float(value)), float(error)


def log_of(found: Array, *, risk: bool = False) -> Array:
    """Logarithm of steps or risks; finite where they are 0."""
    return np.asarray(np.log(np.maximum(found, 1e-300 if risk else 1e-9)))


def student(freedom: int) -> float:
    """Half the width of a 95 % interval in standard errors."""
    return float(special.stdtrit(freedom, 0.975)) if freedom > 0 else 0.0


def as_good(places: Array, found: Array, least: Array, t: float, tolerance: float) -> tuple[float, float]:
    """Where steps cannot be told from the fewest: between which places, the best among them.

    For every estimate, by how much each place needs more (in log) than the best, `least`; with the jackknife's error of
    that difference, which common random numbers make small. About a smooth optimum an error σ of its place gives a
    difference of ½ κ x² an error of κ x σ, so that half of Student's t just stands for t σ.
    """
    excess = np.array([plain_jackknife(np.log(np.maximum(row, 1e-9)) - least, short=True) for row in found])
    with np.errstate(invalid="ignore"):
        beyond = np.where(np.isfinite(found).all(axis=1), excess[:, 0] - 0.5 * t * excess[:, 1] - tolerance, np.inf)
    good = np.flatnonzero(beyond <= 0)
    if not good.size:
        best = int(usable(found).argmin())
        return float(places[best]), float(places[best])

    def edge(inside: int, outside: int) -> float:
        if not 0 <= outside < places.size:
            return float(places[inside])
        share = 0.5 if not np.isfinite(beyond[outside]) else -beyond[inside] / (beyond[outside] - beyond[inside])
        return float(places[inside] + share * (places[outside] - places[inside]))

    return edge(int(good[0]), int(good[0]) - 1), edge(int(good[-1]), int(good[-1]) + 1)


def in_steps(steps: float, relative: float) -> float:
    """Error of a whole number of steps: that of the crossing, and that of rounding it up."""
    return float(np.hypot(steps * relative, ROUNDING)) if steps > 0 else 0.0


def confirmed(
    problem: Any,
    batch_size: float,
    target: float,
    tuned: Tuned,
    found: Found,
    *,
    slack: float = 0.0,
    lowest: float = np.inf,
    values: Mapping[str, float] | None = None,
) -> Tuned:
    """A search's answer with the steps that its winner took on fresh noise.

    Flagged where they are more, by 10 % and three standard errors of the difference, or not finite. The fewest steps of
    all may be fewer by `slack`, relative: what the search leaves between its candidates; and
    no fewer than `lowest`, where the interval of some candidate begins.
    """
    crossing, jackknifed = plain_jackknife(found.steps[0], short=bool(found.steps[0, 0] <= SHORT))
    steps = float(np.ceil(crossing - 1e-9) + 0.0)
    first, last = found.interval[0]
    shift = crossing - found.steps[0, 0] if np.isfinite(crossing) else 0.0
    freedom = found.steps.shape[1] - 2
    own = np.array([first, last]) + shift
    first = min(np.ceil((first + shift) * (1.0 - 2.0 * slack) - 1e-9) - 1.0, lowest)
    interval = (max(float(first), 0.0), float(np.ceil(own[1] - 1e-9)))
    error = np.nan
    if np.isfinite(crossing):
        # Of the winner; and that another candidate may need fewer steps, down to where the interval of any begins.
        gap = max(own[0] - lowest, 0.0) / np.sqrt(12.0)
        error = float(np.linalg.norm([at_least(np.array(jackknifed), own, freedom), slack * crossing, gap]))
    flags = tuned.flags | int(check_sample(steps, jackknifed, interval[1], found.effective[0]))
    flags |= int(check_bound(problem, batch_size, target, interval[1]))
    both = np.hypot(0.0 if np.isnan(error) else error, tuned.steps_error)
    if not np.isfinite(steps) or steps > tuned.steps + max(3.0 * both, 0.1 * tuned.steps) + 1.0:
        flags |= int(Flag.UNCONFIRMED)
    return Tuned(
        dict(tuned.values if values is None else values), tuned.errors, steps, float(np.hypot(error, ROUNDING)) if
        steps > 0 else 0.0, tuned.at_edge, tuned.intervals, interval, freedom, flags,
    )  # fmt: skip


def confirmed_risk(
    problem: Any, batch_size: float, horizon: int, tuned: Tuned, found: Found, values: Mapping[str, float]
) -> Tuned:
    """A search's answer with the risk of its winner on fresh noise, after so many steps.

    Flagged where that is larger, by 10 % and three standard errors of the difference, or not finite. It is the risk of
    these `values`, and so at or above the least there is.
    """
    risk, error = plain_jackknife(found.steps[0], short=True)
    interval, freedom = (float(found.interval[0, 0]), float(found.interval[0, 1])), found.steps.shape[1] - 2
    flags = tuned.flags | int(check_sample(risk, error, interval[1], found.effective[0]))
    if np.isfinite(risk):
        surely = max(interval[1], risk - float(special.stdtrit(freedom, _CHANCE)) * error)
        flags |= int(check_bound(problem, batch_size, surely, horizon))
    both = np.hypot(0.0 if np.isnan(error) else error, tuned.steps_error)
    if not np.isfinite(risk) or risk > tuned.steps + max(3.0 * both, 0.1 * tuned.steps):
        flags |= int(Flag.UNCONFIRMED)
    return Tuned(
        dict(values), tuned.errors, risk, error, tuned.at_edge, tuned.intervals, interval, freedom, flags
    )  # fmt: skip
