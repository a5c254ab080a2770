"""How far estimates are from the truth, in units of what they state: z-scores, coverage, and summaries of many.

Pure functions of numbers; nothing here runs `mcnqm`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["Estimate", "Score", "Summary", "Truth", "faults", "score", "summarize", "z_of_t"]

Array = NDArray[np.float64]

ROUNDING = 1.0 / math.sqrt(12.0)
"""Standard deviation of rounding to a whole number, in steps: no error of a whole number counts as smaller."""

OFF = 0.1
"""Relative error from which on an answer is off."""

FAR = 4.0
"""|z| beyond which the stated error does not explain an answer. Wrong is what is both off and far."""

LARGEST = 12.0
"""Larger |z| enter root mean squares as this: one answer without a finite error must not hide all others."""

RMS_Z = (0.8, 1.25)
COVER_95 = 0.90
WRONG = 1e-3
FLAGGED = 0.05


@dataclass(frozen=True)
class Truth:
    """The right answer, or the set of all right answers.

    Attributes
    ----------
    value : float
        The right answer; where several are as good, one of them.
    stderr : float
        Its standard error, 0 if it is exact.
    runs : tuple of (float, float)
        Intervals of right answers, such as all rates that need the fewest whole steps. By default the value alone.
    """

    value: float
    stderr: float = 0.0
    runs: tuple[tuple[float, float], ...] = ()

    def nearest(self, estimate: float) -> float:
        """The right answer that is nearest to an estimate."""
        return min(max(estimate, self.about(estimate)[0]), self.about(estimate)[1])

    def about(self, estimate: float) -> tuple[float, float]:
        """The run of right answers that is nearest to an estimate."""
        runs = self.runs or ((self.value, self.value),)
        return min(runs, key=lambda run: max(run[0] - estimate, estimate - run[1], 0.0))

    def meets(self, low: float, high: float) -> bool:
        """Whether an interval holds a right answer."""
        return any(low <= top and bottom <= high for bottom, top in self.runs or ((self.value, self.value),))


@dataclass(frozen=True)
class Estimate:
    """One estimate, as a user reads it.

    Attributes
    ----------
    quantity : str
        What is estimated; the key of its `Truth`.
    kind : str
        "risk", "steps", "rate", "slope", "trade-off" or "search": estimates of a kind are pooled over a group.
    line : str
        Which line of the table of cells it belongs to.
    value, stderr : float
        NaN where there is none.
    low, high : float
        95 % interval.
    freedom : float
        Degrees of freedom of `stderr`; inf if it is known.
    flags : int
        Bits that the answer carries; 0 if it passed all checks of its own.
    whole : bool
        Whether it is a whole number of steps.
    logarithmic : bool
        Whether `stderr` is an error of the logarithm.
    truth : Truth, optional
        If each seed has a truth of its own, such as the right steps at the hyperparameters that were found.
    """

    quantity: str
    kind: str
    line: str
    value: float
    stderr: float
    low: float
    high: float
    freedom: float = math.inf
    flags: int = 0
    whole: bool = False
    logarithmic: bool = False
    truth: Truth | None = None


@dataclass(frozen=True)
class Score:
    """One estimate against its truth.

    Attributes
    ----------
    relative : float
        Relative error; inf if there is no answer, or an infinite one where the truth is finite.
    z : float
        Standard normal of the same tail probability as Student's t of the deviation; NaN if there is no answer.
    covered_68, covered_95 : bool
    flagged : bool
    coarse : bool
        Whether the answer cannot scatter as its stated error says: whole steps with an error below half a step, or an
        error smaller than the run of right answers about it.
    cluster : hashable
        Scores of one cluster are dependent: those of one cell and seed.
    """

    relative: float
    z: float
    covered_68: bool
    covered_95: bool
    flagged: bool
    coarse: bool = False
    cluster: object = None

    @property
    def off(self) -> bool:
        """Off by a tenth or more."""
        return not abs(self.relative) < OFF

    @property
    def wrong(self) -> bool:
        """Off, and by more than the stated error explains; no answer is not a wrong one."""
        return self.off and abs(self.z) > FAR


def z_of_t(t: float, freedom: float) -> float:
    """Standard normal with the tail probability that `t` has under Student's law.

    Examples
    --------
    >>> round(z_of_t(3.182446, 3), 4), round(z_of_t(-2.5, math.inf), 4)
    (1.96, -2.5)
    """
    if not math.isfinite(freedom) or not math.isfinite(t):
        return t
    tail = float(special.stdtr(freedom, -abs(t)))  # the lower tail does not round to certainty
    return math.copysign(-float(special.ndtri(tail)), t) if tail > 0 else math.copysign(math.inf, t)


def score(estimate: Estimate, truth: Truth, cluster: object = None) -> Score:
    """Compare an estimate with its truth.

    The truth's own error enters in quadrature, with degrees of freedom by Welch and Satterthwaite. 68 % intervals are
    the stated 95 % ones, either side shrunk by the ratio of the quantiles of Student's t (in the logarithm where both
    ends are positive).
    """
    value, near, flagged = estimate.value, truth.nearest(estimate.value), estimate.flags != 0
    if math.isnan(value):
        return Score(math.inf, math.nan, False, False, flagged, cluster=cluster)
    if math.isinf(value) or math.isinf(near):
        if value == near:
            return Score(0.0, 0.0, True, True, flagged, cluster=cluster)
        relative = math.inf if math.isinf(value) else -1.0
        # An interval that reaches to infinity, or to the truth, says that this may be.
        covered = estimate.low <= near <= estimate.high
        return Score(relative, math.copysign(math.inf, relative), False, covered, flagged, cluster=cluster)
    floor = ROUNDING if estimate.whole else 0.0
    own = max(estimate.stderr, floor) if math.isfinite(estimate.stderr) else math.nan
    deviation, other = value - near, truth.stderr
    relative = deviation / abs(near) if near else math.copysign(math.inf, deviation) if deviation else 0.0
    if estimate.logarithmic:
        deviation = math.log(value / near) if value > 0 else -math.inf
        other = truth.stderr / abs(near)
    total = math.hypot(own, other)
    if deviation == 0.0:
        z = 0.0
    elif math.isnan(total) or total == 0.0:
        z = math.copysign(math.inf, deviation)
    else:
        freedom = estimate.freedom * (total / own) ** 4 if own > 0 else math.inf
        z = z_of_t(deviation / total, freedom)
    # The truth's error widens the interval as it widens the error: by the same factor.
    wider = total / own if own > 0 else 1.0
    cover = [truth.meets(*_scaled(estimate, share * wider)) for share in (_ratio_68(estimate.freedom), 1.0)]
    bottom, top = truth.about(value)
    coarse = (estimate.whole and not estimate.stderr >= 0.5) or (not estimate.whole and top - bottom > estimate.stderr)
    return Score(relative, z, *cover, flagged, coarse, cluster)


def _ratio_68(freedom: float) -> float:
    """Half-width of a 68 % interval (one standard deviation of a normal) over that of a 95 % interval."""
    if not math.isfinite(freedom):
        return 1.0 / 1.959964
    return float(special.stdtrit(freedom, special.ndtr(1.0)) / special.stdtrit(freedom, 0.975))


def _scaled(estimate: Estimate, share: float) -> tuple[float, float]:
    """The 95 % interval, either side scaled."""
    value, low, high = estimate.value, min(estimate.low, estimate.value), max(estimate.high, estimate.value)
    if not (low <= high):
        return math.nan, math.nan
    if low > 0 and math.isfinite(high):
        return value * (low / value) ** share, value * (high / value) ** share
    return value - share * (value - low), value + share * (high - value)


@dataclass(frozen=True)
class Summary:
    """What many scores say; shares are between 0 and 1, NaN where there is nothing to share.

    Attributes
    ----------
    count : int
        Scores.
    unanswered : float
        Share without a finite answer where there is one, or the reverse.
    bias_median, bias_mean, bias_stderr : float
        Of the relative error of what was answered.
    rms_z, rms_z_stderr, rms_z_fine, largest_z : float
        `rms_z_fine` is that of answers that are not coarse; NaN if they are fewer than a third.
    cover_68, cover_68_stderr, cover_95, cover_95_stderr : float
    off, wrong : float
        Share off by a tenth or more; share off by that and by more than four stated errors.
    flagged_sound, flagged_wrong : float
        Shares flagged of those that are not wrong, and of those that are.
    unflagged : float
        Share of all that are wrong and not flagged.
    clusters : int
        Independent groups of scores.
    """

    count: int
    unanswered: float
    bias_median: float
    bias_mean: float
    bias_stderr: float
    rms_z: float
    rms_z_stderr: float
    rms_z_fine: float
    largest_z: float
    cover_68: float
    cover_68_stderr: float
    cover_95: float
    cover_95_stderr: float
    off: float
    wrong: float
    flagged_sound: float
    flagged_wrong: float
    unflagged: float
    clusters: int


def summarize(scores: Sequence[Score]) -> Summary:
    """Summarize scores; standard errors are between clusters, since scores within one are dependent."""
    relative = np.array([s.relative for s in scores])
    answered = np.isfinite(relative)
    z = np.clip([s.z for s in scores], -LARGEST, LARGEST)
    told = ~np.isnan(z)
    clusters = np.unique([repr(s.cluster) for s in scores], return_inverse=True)[1] if scores else np.empty(0, int)
    wrong = np.array([s.wrong for s in scores], dtype=bool)
    flagged = np.array([s.flagged for s in scores], dtype=bool)
    fine = told & ~np.array([s.coarse for s in scores], dtype=bool)
    inside_68 = np.array([s.covered_68 for s in scores], dtype=float)
    inside_95 = np.array([s.covered_95 for s in scores], dtype=float)
    square, square_error = _mean(z[told] ** 2, clusters[told])
    bias, bias_error = _mean(relative[answered], clusters[answered])
    rms = math.sqrt(square)
    return Summary(
        count=len(scores),
        unanswered=_share(~answered),
        bias_median=float(np.median(relative[answered])) if answered.any() else math.nan,
        bias_mean=bias,
        bias_stderr=bias_error,
        rms_z=rms,
        rms_z_stderr=square_error / (2 * rms) if rms > 0 else 0.0,
        rms_z_fine=math.sqrt(float((z[fine] ** 2).mean())) if 3 * fine.sum() >= max(fine.size, 1) else math.nan,
        largest_z=max((abs(s.z) for s in scores if not math.isnan(s.z)), default=math.nan),
        cover_68=_mean(inside_68, clusters)[0],
        cover_68_stderr=_share_error(inside_68, clusters),
        cover_95=_mean(inside_95, clusters)[0],
        cover_95_stderr=_share_error(inside_95, clusters),
        off=_share(np.array([s.off for s in scores], dtype=bool)),
        wrong=_share(wrong),
        flagged_sound=_share(flagged[~wrong]),
        flagged_wrong=_share(flagged[wrong]),
        unflagged=_share(wrong & ~flagged),
        clusters=int(clusters.max(initial=-1)) + 1,
    )


def faults(summary: Summary, allowance: float = 0.0) -> list[str]:
    """Which of the criteria are not met, by more than chance explains.

    The criteria: r.m.s. z between 0.8 and 1.25 (the lower bound of answers that are not coarse), 95 % intervals that
    cover at least 90 %, at most one answer in a thousand wrong, at most one in a thousand wrong and not flagged, and at
    most 5 % of sound answers flagged.

    Parameters
    ----------
    summary : Summary
    allowance : float
        By so many standard errors they may be missed; shares of rare cases by what has the same tail probability.
    """
    n, found = summary.clusters, []
    if not n:
        return found
    # A few seeds may agree by chance: no error is less than that of as many standard normals.
    slack = allowance * max(summary.rms_z_stderr, 1.0 / math.sqrt(2.0 * n))
    if not summary.rms_z - slack <= RMS_Z[1]:
        found.append("errors too small")
    if summary.rms_z_fine + slack < RMS_Z[0]:
        found.append("errors too large")
    if summary.cover_95 + allowance * summary.cover_95_stderr < COVER_95:
        found.append("coverage")
    for share, limit, name in (
        (summary.wrong, WRONG, "wrong answers"),
        (summary.unflagged, WRONG, "wrong but not flagged"),
        (summary.flagged_sound, FLAGGED, "flagged though sound"),
    ):
        if share > limit and (allowance == 0.0 or _tail(share, n, limit) < special.ndtr(-allowance)):
            found.append(name)
    return found


def _tail(share: float, n: int, limit: float) -> float:
    """Chance of so large a share of n, or a larger one, where the limit is the true share."""
    count = round(share * n)
    return float(special.bdtrc(count - 1, n, limit)) if count else 1.0


def _share(which: NDArray[np.bool_]) -> float:
    return float(which.mean()) if which.size else math.nan


def _mean(values: Array, clusters: NDArray[np.int64]) -> tuple[float, float]:
    """Mean, and its standard error from the scatter between clusters."""
    if not values.size:
        return math.nan, math.nan
    mean = float(values.mean())
    sums = np.bincount(clusters, weights=values - mean)[np.unique(clusters)]
    n = sums.size
    return mean, math.nan if n < 2 else math.sqrt(n / (n - 1) * float((sums**2).sum())) / values.size


def _share_error(inside: Array, clusters: NDArray[np.int64]) -> float:
    """Standard error of a share: between clusters, and no less than two more cases of either outcome would give.

    The scatter between clusters is 0 where all cases agree, which is not certainty (Agresti and Coull 1998).
    """
    if not inside.size:
        return math.nan
    error = _mean(inside, clusters)[1]
    n = np.unique(clusters).size
    if n < 2:
        return math.nan
    return max(error, _binomial_error(1.0, n)) if float(inside.mean()) in {0.0, 1.0} else error


def _binomial_error(share: float, n: int) -> float:
    if not n or math.isnan(share):
        return math.nan
    adjusted = (share * n + 2.0) / (n + 4.0)
    return math.sqrt(adjusted * (1.0 - adjusted) / (n + 4.0))
