"""Do simulation and theory agree? Z-scores for the eye, one exact p-value for the verdict.

Under a linear optimizer every coordinate's state s = (θ, m), with an average of the iterates (θ, m, θ̄), is Gaussian,
so the laws of all sample moments are known. Those at successive steps are correlated, since a trajectory remembers.
They are decorrelated exactly: given the state at the last recorded step, s(t') should be Gaussian with mean
μ(t') + A^(t'-t) (s(t) - μ(t)) and the covariance that noise builds up in t' - t steps. Standardised by these, the
*innovations* of all steps, coordinates and trajectories are independent standard normals, whatever the correlation of
the moments, and a regression of them on what they must not depend on turns them into independent normal test
statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from mcnqm import analytic
from mcnqm.averaging import checked_average
from mcnqm.domains import Domain, integer
from mcnqm.engine import Job, Pool, first_trajectories, run_paths
from mcnqm.errors import ParameterError
from mcnqm.expectations import expectation_agreement
from mcnqm.optimizers import SGD, Number
from mcnqm.problems import NoisyQuadratic, Problem, check_any_problem, is_gaussian
from mcnqm.progress import meter_of
from mcnqm.provenance import recorded
from mcnqm.record import MAX_STEPS, recorded_steps
from mcnqm.schedules import Schedule
from mcnqm.settings import settings_of
from mcnqm.statistics import chi_square_z, combined_p_value, regression_z, weighted_chi_square_z

__all__ = ["EXACT", "Theory", "agreement"]

Array = NDArray[np.float64]

_VARIABLES = ("theta", "momentum", "average")

_MOMENTS = ("theta_mean", "theta_variance", "momentum_mean", "momentum_variance", "theta_momentum_covariance", "risk")
_AVERAGED_MOMENTS = (*_MOMENTS[:-1], "average_mean", "average_variance", "risk")
_STATISTICS = (
    *("theta_mean", "theta_on_theta", "theta_on_momentum", "theta_variance"),
    *("momentum_mean", "momentum_on_theta", "momentum_on_momentum", "momentum_on_innovation", "momentum_variance"),
)
_AVERAGED_STATISTICS = (
    *_STATISTICS,
    *("average_mean", "average_on_theta", "average_on_momentum", "average_on_average"),
    *("average_on_innovation", "average_on_momentum_innovation", "average_variance"),
)
_INNOVATIONS = {"theta": "innovation", "momentum": "momentum_innovation"}
_rate = Domain("be in (0, 1)", lambda x: (x > 0) & (x < 1))

_SINGULAR = 1e-9
"""Below this share of its variance left over, a second component counts as a function of the first."""

_ROUNDING = 1e-9
"""Relative size of differences that rounding may make."""

_CERTAIN = 20 * _ROUNDING
"""Relative size of deviations that a coordinate without randomness may have."""

_UNDERFLOW = float(np.finfo(np.float64).tiny)
"""Below this numbers have lost digits, so that rounding is not relative."""


class Theory(NamedTuple):
    """A closed form on trial: three functions with the signatures and answers of those in `mcnqm.analytic`.

    They are given ``average=`` only where `agreement` was.

    Attributes
    ----------
    moments, transition, risk : callable
        As `mcnqm.analytic.moments`, `mcnqm.analytic.transition` and `mcnqm.analytic.risk`.
    """

    moments: Callable[..., xr.Dataset]
    transition: Callable[..., xr.Dataset]
    risk: Callable[..., xr.Dataset]


EXACT = Theory(analytic.moments, analytic.transition, analytic.risk)
"""The package's own."""


@recorded("mcnqm.agreement")
def agreement(
    problem: Problem,
    optimizer: Any,
    batch_size: Number,
    steps: int,
    *,
    trajectories: int = 1024,
    seed: int = 0,
    record: ArrayLike | None = None,
    error_rate: float = 1e-3,
    average: Any = None,
    theory: Theory = EXACT,
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Any = False,
) -> xr.Dataset:
    r"""Run both routes of a linear optimizer and say whether they agree.

    Parameters
    ----------
    problem : NoisyQuadratic or landscape
        All coordinates are compared; a few hundred are enough to notice anything. With multiplicative noise or
        Student's t, and on landscapes, no law is Gaussian: there, expectations are compared, with fewer answers.
    optimizer : SGD
        A linear optimizer; hyperparameters may be swept. On a landscape, plain SGD, whose theory is
        `mcnqm.analytic.chain`.
    batch_size : Number
        Examples per step.
    steps : int
        Steps to run, at least 1.
    trajectories : int
        Independent runs, at least 8.
    seed : int
        Of the simulation.
    record : array_like of int, optional
        Steps to compare at. By default the start and eight, evenly spaced on a logarithmic axis.
    error_rate : float
        Chance of a false alarm per setting, in (0, 1).
    average : Number, optional
        Weight γ of the past, in [0, 1), in an average of the iterates, or a schedule of it (`mcnqm.averaging`), as in
        `mcnqm.simulate` and `mcnqm.analytic.risk`. The risk is then that of the average, whose own law is on trial
        too. Not on landscapes, whose theory knows no averages.
    theory : Theory
        What to compare with, by default the exact one. Put your own closed form on trial here.
    executor, threads, progress
        As for `mcnqm.simulate`.

    Returns
    -------
    xarray.Dataset
        - ``z`` (…, moment, step): standard normal each under agreement, pooled over coordinates: the sum of
          squared errors of the means, the sample variances, the covariance with the momentum buffer (of what is
          left of m after regression on θ), and the risk; with `average`, mean and variance of that too. Correlated
          between steps. NaN where there is nothing random, or no more than rounding.
        - ``z_independent`` (…, statistic, step): the same deviations as independent standard normals, from the
          innovations: mean, dependence on the previous θ and m, variance; exactly, for any number of trajectories. An
          average's are what is left after regression on those of θ and m.
        - ``consistent`` (…): whether the theory's moments, transitions and risk fit each other to 1e-9.
        - ``p_value`` (…): of the sum of all squared ``z_independent``; uniform under agreement.
        - ``agrees`` (…): whether consistent and ``p_value >= error_rate``.

        Where no law is Gaussian: ``z`` of the risk and, of two wells, the occupancy; ``p_value``, the smallest of
        these times their number, approximate as sample means are only nearly normal; ``agrees``.

    Raises
    ------
    ParameterError
        If an argument is not allowed, the optimizer is not linear, or the theory overflows (an unstable rate).

    Notes
    -----
    Power: a variance wrong by a fraction δ is noticed at about ``δ * sqrt(n / 2) >= 4`` with n = trajectories × dim
    per recorded step. A rate wrong by 1 % changes variances by 1 % to 2 %.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=50)
    >>> report = agreement(problem, mcnqm.SGD(lr=0.1, momentum=0.9), batch_size=8, steps=300)
    >>> bool(report.agrees)
    True
    >>> averaged = agreement(problem, mcnqm.SGD(lr=1.0), batch_size=8, steps=300, average=mcnqm.averaging.tail(100))
    >>> bool(averaged.agrees)
    True
    """
    check_any_problem(problem)
    if not isinstance(optimizer, SGD):
        raise ParameterError("optimizer", optimizer, "be linear in the gradient (mcnqm.SGD)")
    if not isinstance(optimizer.dampening, float):
        raise ParameterError("dampening", optimizer.dampening, "be a single number here")
    averaged = {} if average is None else {"average": checked_average(average)}
    settings = settings_of(optimizer, batch_size, schedules=True, **averaged)
    integer("steps", steps, 1)
    wanted = recorded_steps(steps, _default_record(min(steps, MAX_STEPS)) if record is None else record)
    count = integer("trajectories", trajectories, 8, 2**32)
    if _rate.check("error_rate", error_rate).ndim:
        raise ParameterError("error_rate", error_rate, "be a number")
    if not is_gaussian(problem):
        if theory is not EXACT:
            raise ParameterError("theory", theory, "be left out where noise is not Gaussian, of one variance")
        given: dict[str, Any] = {"trajectories": count, "seed": seed, "error_rate": error_rate, "average": average}
        given |= {"executor": executor, "threads": threads, "progress": progress}
        return expectation_agreement(problem, optimizer, batch_size, wanted, **given)
    exact = _Exact(theory, problem, optimizer, batch_size, wanted, average)

    key = integer("seed", seed, 0, 2**64 - 1)
    job = Job(problem, optimizer, settings, first_trajectories(count, settings, wanted.size), key)
    meter = meter_of(progress)
    meter.start(job.lanes * float(steps) * problem.dim, "simulating")
    try:
        paths = run_paths(job, wanted, np.arange(problem.dim), Pool(executor, threads), meter, keep=len(exact.names))
    finally:
        meter.close()

    moments = _MOMENTS if average is None else _AVERAGED_MOMENTS
    statistics = _STATISTICS if average is None else _AVERAGED_STATISTICS
    z = np.full((settings.size, len(moments), wanted.size), np.nan)
    independent = np.full((settings.size, len(statistics), wanted.size), np.nan)
    consistent = np.empty(settings.size, dtype=np.bool_)
    p_value = np.empty(settings.size)
    for s in range(settings.size):
        state = np.moveaxis(paths[s], 0, 1)  # (record, trajectory, coordinate, variable)
        for k in range(wanted.size):
            found = _marginal_z(exact, s, k, state[k])
            z[s, :, k] = [found.get(name, np.nan) for name in moments]
            found, settled = _innovation_z(exact, s, k, state)
            independent[s, :, k] = [found.get(name, np.nan) for name in statistics] if settled else np.inf
        consistent[s] = exact.consistent(s)
        p_value[s] = combined_p_value(independent[s][~np.isnan(independent[s])])

    dims = settings.dims
    return xr.Dataset(
        {
            "z": ((*dims, "moment", "step"), settings.unflatten(z)),
            "z_independent": ((*dims, "statistic", "step"), settings.unflatten(independent)),
            "consistent": (dims, settings.unflatten(consistent)),
            "p_value": (dims, settings.unflatten(p_value)),
            "agrees": (dims, settings.unflatten(consistent & (p_value >= error_rate))),
        },
        coords={
            **settings.coords,
            "moment": list(moments),
            "statistic": list(statistics),
            "step": ("step", wanted, {"units": "completed steps"}),
        },
        attrs={"dim": problem.dim},
    )


def _default_record(steps: int) -> NDArray[np.int64]:
    return np.unique(np.concatenate([[0], np.round(np.geomspace(min(2, steps), steps, 8)).astype(np.int64)]))


class _Exact:
    """What the theory says, as arrays: one entry per setting, recorded step and coordinate."""

    def __init__(
        self,
        theory: Theory,
        problem: NoisyQuadratic,
        optimizer: Any,
        batch_size: Any,
        record: NDArray[np.int64],
        average: Any,
    ) -> None:
        steps = int(record[-1])
        self.weight = 0.5 * np.repeat(problem.curvature, problem.multiplicity)
        averaged = {} if average is None else {"average": average}
        settings = settings_of(optimizer, batch_size, schedules=True, **averaged)

        def flat(data: xr.DataArray) -> Array:
            return data.values.reshape(settings.size, *data.shape[len(settings.dims) :])

        there = (True, bool(settings.values["momentum"].any()), average is not None)
        self.names = names = [name for name, has in zip(_VARIABLES, there, strict=True) if has]
        """Variables, in the order in which a run keeps them."""
        self.judged = 0 if average is None else len(names) - 1
        """Which of them the risk is of."""

        def mean_and_covariance(found: xr.Dataset) -> tuple[Array, Array]:
            known = [name for name in _VARIABLES if f"{name}_mean" in found]
            if known != names:
                allowed = f"have moments of {' and '.join(names)} here"
                raise ParameterError("theory", f"moments of {' and '.join(known)}", allowed)
            mean = np.stack([flat(found[f"{name}_mean"]) for name in names], axis=-1)
            covariance = np.empty((*mean.shape, len(names)))
            for i, name in enumerate(names):
                covariance[..., i, i] = flat(found[f"{name}_variance"])
                for j, other in enumerate(names[:i]):
                    covariance[..., j, i] = covariance[..., i, j] = flat(found[f"{other}_{name}_covariance"])
            return mean, covariance

        # (setting, record, coordinate, variable [, variable])
        self.mean, self.covariance = mean_and_covariance(
            theory.moments(problem, optimizer, batch_size, steps, record=record, **averaged)
        )
        self.risk = flat(theory.risk(problem, optimizer, batch_size, steps, record=record, **averaged)["risk"])
        if not (np.isfinite(self.covariance).all() and np.isfinite(self.mean).all()):
            raise ParameterError("optimizer", optimizer, "be stable: the theory overflows")

        # Noise built up since the last record: the covariance of a run that starts at the minimum, at rest.
        still = NoisyQuadratic(problem.curvature, problem.noise, 0.0, 0.0, problem.multiplicity)
        self.transition = np.zeros_like(self.covariance)
        self.noise = np.zeros_like(self.covariance)
        gaps = np.diff(record)
        # Without schedules, all gaps of a length are alike; with them, each begins where the last ended. With dampening
        # the first step, and so the first gap, is apart from the rest.
        dampened = bool(np.any(settings.values.get("dampening", 0.0)))
        begins = record[:-1] if settings.schedules else np.minimum(record[:-1], int(dampened))
        for begin, gap in np.unique(np.stack([begins, gaps]), axis=1).T.tolist():
            where = np.flatnonzero((begins == begin) & (gaps == gap)) + 1
            then, batch = _later(optimizer, begin), batch_size
            unit = np.ones(self.mean.shape[-1])
            if dampened and begin > 0:
                then, unit[1] = _undampened(then)
            if isinstance(batch, Schedule):
                batch = batch.later(begin)
            if isinstance(average, Schedule):
                averaged = {"average": average.later(begin)}
            power = flat(theory.transition(problem, then, batch, gap, **averaged)["transition"])
            _, noise = mean_and_covariance(theory.moments(still, then, batch, gap, record=[gap], **averaged))
            self.transition[:, where] = power[:, np.newaxis] * unit[:, np.newaxis] / unit
            self.noise[:, where] = noise[:, :1] * unit[:, np.newaxis] * unit
        self.noise[:, 0] = self.covariance[:, 0]
        self.scale = self._scale()

    def _scale(self) -> Array:
        """What rounding is relative to: where a coordinate has been, or could have come to from there.

        Not where it will be: beside the end of an unstable run, everything at its start would look like rounding.
        """
        size = np.hypot(np.sqrt(self.covariance[..., 0, 0]), self.mean[..., 0])
        # A buffer sums gradients; an average stays where its iterates have been.
        units = {"theta": size, "momentum": self.weight * 2 * size, "average": size}
        both = np.stack([units[name] for name in self.names], axis=-1)
        so_far = np.maximum.accumulate(both, axis=1)
        scale = so_far.copy()
        for k in range(1, scale.shape[1]):
            reach = np.einsum("siab,sib->sia", np.abs(self.transition[:, k]), scale[:, k - 1])
            scale[:, k] = np.fmin(np.maximum(so_far[:, k], reach), so_far[:, -1])
        return scale

    def consistent(self, s: int) -> bool:
        """Whether moments follow from each other by the transitions, and the risk from the moments."""
        A, before = self.transition[s, 1:], self.covariance[s, :-1]
        carried = A @ before @ A.swapaxes(-1, -2) + self.noise[s, 1:]
        mean = (A @ self.mean[s, :-1, :, :, np.newaxis])[..., 0]
        unit = self.scale[s, 1:]
        size = np.maximum(unit[..., :, np.newaxis] * unit[..., np.newaxis, :], np.abs(carried))
        tolerance = _ROUNDING * size + _UNDERFLOW
        i = self.judged
        second = self.covariance[s, :, :, i, i] + self.mean[s, :, :, i] ** 2
        risk = (self.weight * second).sum(axis=-1)
        return bool(
            (np.abs(carried - self.covariance[s, 1:]) <= tolerance).all()
            and (np.abs(mean - self.mean[s, 1:]) <= _ROUNDING * unit + _UNDERFLOW).all()
            and (np.abs(risk - self.risk[s]) <= _ROUNDING * risk + _UNDERFLOW).all()
        )


def _later(optimizer: Any, start: int) -> Any:
    """The optimizer whose schedules begin at step `start`."""
    changing = {k: v.later(start) for k, v in optimizer._asdict().items() if isinstance(v, Schedule)}
    return optimizer._replace(**changing) if changing else optimizer


def _undampened(optimizer: Any) -> tuple[Any, float]:
    """The heavy ball that a dampened one is from its second step on, and what its buffer is multiplied by."""
    keep = 1.0 - float(optimizer.dampening)
    return optimizer._replace(lr=optimizer.lr * keep, dampening=0.0), keep


def _standardize(deviation: Array, covariance: Array, scale: Array) -> tuple[Array, NDArray[np.bool_], bool]:
    """Deviations (trajectory, coordinate, variable) as independent standard normals.

    Each is what those of the variables before it leave unexplained. Returns them, where they are random
    (coordinate, variable), and whether what should be certain is so.
    """
    out = np.zeros_like(deviation)
    random = np.zeros(covariance.shape[:-1], dtype=np.bool_)
    left, rests = np.empty_like(deviation), np.empty(covariance.shape[:-1])
    """What is left of each variable, and its variance."""
    shared = covariance.copy()
    """Covariance of each variable with what is left of those before."""
    settled = True
    for i in range(deviation.shape[-1]):
        whole = covariance[:, i, i]
        left[..., i], rests[:, i] = deviation[..., i], whole
        for j in range(i):
            for k in range(j):
                shared[:, i, j] = shared[:, i, j] - _slope(shared, rests, random, j, k) * shared[:, i, k]
            slope = _slope(shared, rests, random, i, j)
            rests[:, i] = rests[:, i] - slope * shared[:, i, j]
            left[..., i] = left[..., i] - slope * left[..., j]
        random[:, i] = whole > (_ROUNDING * scale[:, i]) ** 2
        allowed = _CERTAIN * scale[:, i] + _UNDERFLOW
        if i > 0:
            random[:, i] &= rests[:, i] > _SINGULAR * whole
            # A dependence that is exact up to _SINGULAR may leave a few standard deviations of that size.
            allowed = 10 * (np.sqrt(_SINGULAR * whole) + _ROUNDING * scale[:, i])
        seen = random[:, i]
        out[:, seen, i] = left[:, seen, i] / np.sqrt(rests[seen, i])
        settled &= bool((np.abs(left[:, ~seen, i]) <= allowed[~seen]).all())
    return out, random, settled


def _slope(shared: Array, rests: Array, random: NDArray[np.bool_], i: int, j: int) -> Array:
    """By how much variable `i` follows what is left of variable `j`; 0 where nothing random is."""
    seen = random[:, j]
    return np.where(seen, shared[:, i, j] / np.where(seen, rests[:, j], 1.0), 0.0)


def _marginal_z(exact: _Exact, s: int, k: int, state: Array) -> dict[str, float]:
    """Z-scores of the sample moments of one step, by name."""
    result = {}
    mean, covariance = exact.mean[s, k], exact.covariance[s, k]
    deviation = state - mean
    scale = exact.scale[s, k]
    normal, random, _ = _standardize(deviation, covariance, scale)
    count = state.shape[0]
    for variable, name in enumerate(exact.names):
        spread = covariance[:, variable, variable]
        seen = spread > (_ROUNDING * scale[:, variable]) ** 2
        if not seen.any():
            continue
        normed = deviation[:, seen, variable] / np.sqrt(spread[seen])
        average = normed.mean(axis=0)
        result[f"{name}_mean"] = chi_square_z(count * float(average @ average), int(seen.sum()))
        result[f"{name}_variance"] = chi_square_z(float((normed**2).sum()), normed.size)
    both = random[:, :2].all(axis=-1)
    if "momentum" in exact.names and both.any():
        u, v = normal[:, both, 0], normal[:, both, 1]
        result["theta_momentum_covariance"] = float((u * v).sum() / np.sqrt((u**2).sum()))
    i = exact.judged
    loss = float((exact.weight * state[..., i] ** 2).sum(axis=-1).mean())
    spread = covariance[:, i, i]
    known = spread > (_ROUNDING * scale[:, i]) ** 2
    result["risk"] = _loss_z(loss, count, exact.weight, mean[:, i], spread, scale[:, i], known)
    return result


def _loss_z(
    loss: float, count: int, weight: Array, mean: Array, variance: Array, scale: Array, random: NDArray[np.bool_]
) -> float:
    """Z-score of the mean loss of `count` trajectories; NaN where its law is narrower than rounding."""
    # Sum of w (μ + σ u)², with cumulants w σ² + w μ², 2 w² σ⁴ + 4 w² σ² μ², 8 w³ σ⁶ + 24 w³ σ⁴ μ².
    unit = float((weight * (variance + mean**2)).max())
    if unit == 0.0:
        return float("nan")
    a, q = weight * variance / unit, weight * mean**2 / unit  # so that powers do not underflow
    expected, spread = float((a + q).sum()), float((a * (2 * a + 4 * q)).sum()) / count
    # What rounding may do to the coordinates that should be certain, each by as much as `_standardize` lets pass.
    slip = np.where(random, 0.0, _CERTAIN * scale)
    slack = float((weight * slip * (2 * np.abs(mean) + slip)).sum()) / unit
    if np.sqrt(spread) <= slack:
        off = loss / unit - expected
        return float("nan") if abs(off) <= slack else float(np.copysign(np.inf, off))
    third = float((a**2 * (8 * a + 24 * q)).sum()) / count**2
    return weighted_chi_square_z(loss / unit, (expected, spread, third))


def _innovation_z(exact: _Exact, s: int, k: int, state: Array) -> tuple[dict[str, float], bool]:
    """Independent standard normals from one step's innovations, by name, and whether what should be certain is so."""
    result: dict[str, float] = {}
    innovation = state[k] - exact.mean[s, k]
    before = np.zeros_like(innovation)
    known = np.zeros(exact.mean.shape[2:], dtype=np.bool_)
    if k > 0:
        last = state[k - 1] - exact.mean[s, k - 1]
        innovation = innovation - np.einsum("iab,rib->ria", exact.transition[s, k], last)
        before, known, _ = _standardize(last, exact.covariance[s, k - 1], exact.scale[s, k - 1])
    normal, random, settled = _standardize(innovation, exact.noise[s, k], exact.scale[s, k])
    if not settled:
        return result, False
    for variable, name in enumerate(exact.names):
        seen = random[:, variable]
        if not seen.any():
            continue
        columns = {f"{name}_mean": np.ones(normal[:, seen, 0].size)}
        for j, other in enumerate(exact.names):
            # Nothing feeds back from an average to what it is of.
            if known[seen, j].any() and (other != "average" or name == "average"):
                columns[f"{name}_on_{other}"] = before[:, seen, j].ravel()
        for j, other in enumerate(exact.names[:variable]):
            if (random[:, j] & seen).any():
                columns[f"{name}_on_{_INNOVATIONS[other]}"] = normal[:, seen, j].ravel()
        found = regression_z(normal[:, seen, variable].ravel(), np.stack(list(columns.values()), axis=1))
        if found.size == len(columns) + 1:
            result |= dict(zip(columns, found[:-1].tolist(), strict=True))
        result[f"{name}_variance"] = float(found[-1])
    return result, True
