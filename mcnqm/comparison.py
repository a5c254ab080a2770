"""Do simulation and theory agree? Z-scores for the eye, one exact p-value for the verdict.

Under a linear optimizer every coordinate's state s = (θ, m) is Gaussian, so the laws of all sample moments are
known. Those at successive steps are correlated, since a trajectory remembers. They are decorrelated exactly: given
the state at the last recorded step, s(t') should be Gaussian with mean μ(t') + A^(t'-t) (s(t) - μ(t)) and the
covariance that noise builds up in t' - t steps. Standardised by these, the *innovations* of all steps, coordinates
and trajectories are independent standard normals, whatever the correlation of the moments, and a regression of them
on what they must not depend on turns them into independent normal test statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from mcnqm import analytic
from mcnqm.domains import Domain, integer
from mcnqm.engine import Job, Pool, first_trajectories, run_paths
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD, Number
from mcnqm.problems import NoisyQuadratic
from mcnqm.progress import meter_of
from mcnqm.provenance import recorded
from mcnqm.record import MAX_STEPS, recorded_steps
from mcnqm.schedules import Schedule
from mcnqm.settings import settings_of
from mcnqm.statistics import chi_square_z, combined_p_value, regression_z, weighted_chi_square_z

__all__ = ["EXACT", "Theory", "agreement"]

Array = NDArray[np.float64]

_MOMENTS = ("theta_mean", "theta_variance", "momentum_mean", "momentum_variance", "theta_momentum_covariance", "risk")
_STATISTICS = (
    *("theta_mean", "theta_on_theta", "theta_on_momentum", "theta_variance"),
    *("momentum_mean", "momentum_on_theta", "momentum_on_momentum", "momentum_on_innovation", "momentum_variance"),
)
_rate = Domain("be in (0, 1)", lambda x: (x > 0) & (x < 1))

_SINGULAR = 1e-9
"""Below this share of its variance left over, a second component counts as a function of the first."""

_ROUNDING = 1e-9
"""Relative size of differences that rounding may make."""

_CERTAIN = 20 * _ROUNDING
"""Relative size of deviations that a coordinate without randomness may have."""


class Theory(NamedTuple):
    """A closed form on trial: three functions with the signatures and answers of those in `mcnqm.analytic`.

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
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Number,
    steps: int,
    *,
    trajectories: int = 1024,
    seed: int = 0,
    record: ArrayLike | None = None,
    error_rate: float = 1e-3,
    theory: Theory = EXACT,
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Any = False,
) -> xr.Dataset:
    r"""Run both routes of a linear optimizer and say whether they agree.

    Parameters
    ----------
    problem : NoisyQuadratic
        All coordinates are compared; a few hundred are enough to notice anything.
    optimizer : SGD
        A linear optimizer; hyperparameters may be swept.
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
    theory : Theory
        What to compare with, by default the exact one. Put your own closed form on trial here.
    executor, threads, progress
        As for `mcnqm.simulate`.

    Returns
    -------
    xarray.Dataset
        - ``z`` (…, moment, step): standard normal each under agreement, pooled over coordinates: the sum of
          squared errors of the means, the sample variances, the covariance with the momentum buffer (of what is
          left of m after regression on θ), and the risk. Correlated between steps. NaN where there is nothing random,
          or no more than rounding.
        - ``z_independent`` (…, statistic, step): the same deviations as independent standard normals, from the
          innovations: mean, dependence on the previous θ and m, variance; exactly, for any number of trajectories.
        - ``consistent`` (…): whether the theory's moments, transitions and risk fit each other to 1e-9.
        - ``p_value`` (…): of the sum of all squared ``z_independent``; uniform under agreement.
        - ``agrees`` (…): whether consistent and ``p_value >= error_rate``.

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
    """
    if not isinstance(problem, NoisyQuadratic):
        raise ParameterError("problem", problem, "be a mcnqm.NoisyQuadratic")
    if not isinstance(optimizer, SGD):
        raise ParameterError("optimizer", optimizer, "be linear in the gradient (mcnqm.SGD)")
    if not isinstance(optimizer.dampening, float):
        raise ParameterError("dampening", optimizer.dampening, "be a single number here")
    settings = settings_of(optimizer, batch_size, schedules=True)
    integer("steps", steps, 1)
    wanted = recorded_steps(steps, _default_record(min(steps, MAX_STEPS)) if record is None else record)
    count = integer("trajectories", trajectories, 8, 2**32)
    if _rate.check("error_rate", error_rate).ndim:
        raise ParameterError("error_rate", error_rate, "be a number")
    exact = _Exact(theory, problem, optimizer, batch_size, wanted)

    keep = 2 if exact.buffer else 1
    if exact.buffer != bool(settings.values["momentum"].any()):
        raise ParameterError("theory", "moments", "have a momentum buffer just where the optimizer has momentum")
    key = integer("seed", seed, 0, 2**64 - 1)
    job = Job(problem, optimizer, settings, first_trajectories(count, settings, wanted.size), key)
    meter = meter_of(progress)
    meter.start(job.lanes * float(steps) * problem.dim, "simulating")
    try:
        paths = run_paths(job, wanted, np.arange(problem.dim), Pool(executor, threads), meter, keep=keep)
    finally:
        meter.close()

    z = np.full((settings.size, len(_MOMENTS), wanted.size), np.nan)
    independent = np.full((settings.size, len(_STATISTICS), wanted.size), np.nan)
    consistent = np.empty(settings.size, dtype=np.bool_)
    p_value = np.empty(settings.size)
    for s in range(settings.size):
        state = np.moveaxis(paths[s], 0, 1)  # (record, trajectory, coordinate, variable)
        for k in range(wanted.size):
            z[s, :, k] = _marginal_z(exact, s, k, state[k])
            independent[s, :, k] = _innovation_z(exact, s, k, state)
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
            "moment": list(_MOMENTS),
            "statistic": list(_STATISTICS),
            "step": ("step", wanted, {"units": "completed steps"}),
        },
        attrs={"dim": problem.dim},
    )


def _default_record(steps: int) -> NDArray[np.int64]:
    return np.unique(np.concatenate([[0], np.round(np.geomspace(min(2, steps), steps, 8)).astype(np.int64)]))


class _Exact:
    """What the theory says, as arrays: one entry per setting, recorded step and coordinate."""

    def __init__(
        self, theory: Theory, problem: NoisyQuadratic, optimizer: Any, batch_size: Any, record: NDArray[np.int64]
    ) -> None:
        steps = int(record[-1])
        self.weight = 0.5 * np.repeat(problem.curvature, problem.multiplicity)
        settings = settings_of(optimizer, batch_size, schedules=True)

        def flat(data: xr.DataArray) -> Array:
            return data.values.reshape(settings.size, *data.shape[len(settings.dims) :])

        def mean_and_covariance(found: xr.Dataset) -> tuple[Array, Array]:
            names = ["theta", "momentum"] if "momentum_mean" in found else ["theta"]
            mean = np.stack([flat(found[f"{name}_mean"]) for name in names], axis=-1)
            covariance = np.empty((*mean.shape, len(names)))
            for i, name in enumerate(names):
                covariance[..., i, i] = flat(found[f"{name}_variance"])
            if len(names) == 2:
                covariance[..., 0, 1] = covariance[..., 1, 0] = flat(found["theta_momentum_covariance"])
            return mean, covariance

        # (setting, record, coordinate, variable [, variable])
        self.mean, self.covariance = mean_and_covariance(
            theory.moments(problem, optimizer, batch_size, steps, record=record)
        )
        self.buffer = self.mean.shape[-1] == 2
        self.risk = flat(theory.risk(problem, optimizer, batch_size, steps, record=record)["risk"])
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
            power = flat(theory.transition(problem, then, batch, gap)["transition"])
            _, noise = mean_and_covariance(theory.moments(still, then, batch, gap, record=[gap]))
            self.transition[:, where] = power[:, np.newaxis] * unit[:, np.newaxis] / unit
            self.noise[:, where] = noise[:, :1] * unit[:, np.newaxis] * unit
        self.noise[:, 0] = self.covariance[:, 0]
        self.scale = self._scale()

    def _scale(self) -> Array:
        """What rounding is relative to: where a coordinate has been, or could have come to from there.

        Not where it will be: beside the end of an unstable run, everything at its start would look like rounding.
        """
        size = np.hypot(np.sqrt(self.covariance[..., 0, 0]), self.mean[..., 0])
        both = np.stack([size, self.weight * 2 * size], axis=-1)[..., : self.mean.shape[-1]]
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
        tolerance = _ROUNDING * np.maximum(unit[..., :, np.newaxis] * unit[..., np.newaxis, :], np.abs(carried))
        second = self.covariance[s, :, :, 0, 0] + self.mean[s, :, :, 0] ** 2
        risk = (self.weight * second).sum(axis=-1)
        return bool(
            (np.abs(carried - self.covariance[s, 1:]) <= tolerance).all()
            and (np.abs(mean - self.mean[s, 1:]) <= _ROUNDING * unit).all()
            and (np.abs(risk - self.risk[s]) <= _ROUNDING * risk).all()
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

    Returns them, where they are random (coordinate, variable), and whether what should be certain is so.
    """
    out = np.zeros_like(deviation)
    random = np.zeros(covariance.shape[:-1], dtype=np.bool_)
    variance = covariance[:, 0, 0]
    random[:, 0] = variance > (_ROUNDING * scale[:, 0]) ** 2
    first = random[:, 0]
    out[:, first, 0] = deviation[:, first, 0] / np.sqrt(variance[first])
    certain = np.abs(deviation[:, ~first, 0]) <= _CERTAIN * scale[~first, 0]
    settled = bool(certain.all())
    if deviation.shape[-1] == 2:
        slope = np.where(first, covariance[:, 0, 1] / np.where(first, variance, 1.0), 0.0)
        whole = covariance[:, 1, 1]
        rest = whole - slope * covariance[:, 0, 1]
        random[:, 1] = (rest > _SINGULAR * whole) & (whole > (_ROUNDING * scale[:, 1]) ** 2)
        second = random[:, 1]
        residual = deviation[..., 1] - slope * deviation[..., 0]
        out[:, second, 1] = residual[:, second] / np.sqrt(rest[second])
        # A dependence that is exact up to _SINGULAR may leave a few standard deviations of that size.
        allowed = 10 * (np.sqrt(_SINGULAR * whole) + _ROUNDING * scale[:, 1])
        settled &= bool((np.abs(residual[:, ~second]) <= allowed[~second]).all())
    return out, random, settled


def _marginal_z(exact: _Exact, s: int, k: int, state: Array) -> Array:
    """Z-scores of the sample moments of one step, in the order of `_MOMENTS`."""
    result = np.full(len(_MOMENTS), np.nan)
    mean, covariance = exact.mean[s, k], exact.covariance[s, k]
    deviation = state - mean
    scale = exact.scale[s, k]
    normal, random, _ = _standardize(deviation, covariance, scale)
    count = state.shape[0]
    for variable in range(state.shape[-1]):
        spread = covariance[:, variable, variable]
        seen = spread > (_ROUNDING * scale[:, variable]) ** 2
        if not seen.any():
            continue
        normed = deviation[:, seen, variable] / np.sqrt(spread[seen])
        average = normed.mean(axis=0)
        result[2 * variable] = chi_square_z(count * float(average @ average), int(seen.sum()))
        result[2 * variable + 1] = chi_square_z(float((normed**2).sum()), normed.size)
    both = random.all(axis=-1)
    if exact.buffer and both.any():
        u, v = normal[:, both, 0], normal[:, both, 1]
        result[4] = float((u * v).sum() / np.sqrt((u**2).sum()))
    loss = (exact.weight * state[..., 0] ** 2).sum(axis=-1).mean()
    result[5] = _loss_z(float(loss), count, exact.weight, mean[:, 0], covariance[:, 0, 0], scale[:, 0], random[:, 0])
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


def _innovation_z(exact: _Exact, s: int, k: int, state: Array) -> Array:
    """Independent standard normals from one step's innovations, in the order of `_STATISTICS`."""
    result = np.full(len(_STATISTICS), np.nan)
    innovation = state[k] - exact.mean[s, k]
    before = np.zeros_like(innovation)
    known = np.zeros(exact.mean.shape[2:], dtype=np.bool_)
    if k > 0:
        last = state[k - 1] - exact.mean[s, k - 1]
        innovation = innovation - np.einsum("iab,rib->ria", exact.transition[s, k], last)
        before, known, _ = _standardize(last, exact.covariance[s, k - 1], exact.scale[s, k - 1])
    normal, random, settled = _standardize(innovation, exact.noise[s, k], exact.scale[s, k])
    if not settled:
        result[:] = np.inf
        return result
    variables = innovation.shape[-1]
    for variable in range(variables):
        seen = random[:, variable]
        if not seen.any():
            continue
        columns = [np.ones(normal[:, seen, 0].size)]
        columns += [before[:, seen, j].ravel() for j in range(variables)]
        used = [True, *(bool(known[seen, j].any()) for j in range(variables))]
        names = [0, 1, 2][: variables + 1]
        if variable == 1:
            columns.append(normal[:, seen, 0].ravel())
            used.append(bool((random[:, 0] & seen).any()))
            names.append(3)
        chosen = [name for name, use in zip(names, used, strict=True) if use]
        design = np.stack([column for column, use in zip(columns, used, strict=True) if use], axis=1)
        found = regression_z(normal[:, seen, variable].ravel(), design)
        offset, last_index = (0, 3) if variable == 0 else (4, 8)
        if found.size == len(chosen) + 1:
            result[[offset + name for name in chosen]] = found[:-1]
        result[last_index] = found[-1]
    return result
