"""Simulation against theory where no law is Gaussian: mean losses and occupancies of wells, each with its error.

What a closed form or a chain knows are expectations. The deviation of a mean over trajectories, divided by its standard
error, has Student's law as far as sample means are normal. That is an approximation, unlike the exact test of
`mcnqm.comparison`. Steps of a run are correlated in a way that is not known, so the p-value is Bonferroni's: the
smallest of all times their number.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, ndtri, stdtr

from mcnqm import analytic
from mcnqm.errors import ParameterError
from mcnqm.problems import DoubleWell, Landscape
from mcnqm.simulation import simulate
from mcnqm.statistics import mean_and_stderr

__all__ = ["expectation_agreement"]

Array = NDArray[np.float64]

_SAME = 1e-12
"""Relative difference of two numbers that rounding makes."""


def expectation_agreement(
    problem: Any,
    optimizer: Any,
    batch_size: Any,
    record: NDArray[np.int64],
    *,
    trajectories: int,
    seed: int,
    error_rate: float,
    average: Any = None,
    executor: Executor | None = None,
    threads: int | None = None,
    progress: Any = False,
) -> xr.Dataset:
    r"""Risk, and the occupancy of wells where there are two, by both routes.

    Parameters
    ----------
    problem : NoisyQuadratic or landscape
    optimizer : SGD
        On a landscape, plain.
    batch_size, trajectories, seed, error_rate, average, executor, threads, progress
        As for `mcnqm.agreement`. No average on a landscape.
    record : ndarray of int64
        Steps to compare at.

    Returns
    -------
    xarray.Dataset
        ``z`` (\*sweep, moment, step) with moments ``risk`` and, of wells, ``occupancy``; NaN where nothing is random.
        ``p_value`` and ``agrees`` (\*sweep).

    Raises
    ------
    ParameterError
        If there is no theory of the optimizer on the problem.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(20, multiplicative_noise=0.1)
    >>> record = np.array([1, 10, 100])
    >>> given = {"trajectories": 256, "seed": 0, "error_rate": 1e-3}
    >>> bool(expectation_agreement(problem, mcnqm.SGD(lr=0.5), 4, record, **given).agrees)
    True
    """
    steps = int(record[-1])
    run = (problem, optimizer, batch_size, steps)
    wells = isinstance(problem, DoubleWell)
    theory = analytic.chain if isinstance(problem, Landscape) else analytic
    averaged = {} if average is None else {"average": average}
    if averaged and theory is analytic.chain:
        raise ParameterError("average", average, "be left out on a landscape, whose theory knows no averages")
    # Before the work: what theory refuses need not be simulated.
    expected = {"risk": theory.risk(*run, record=record, **averaged)["risk"]}
    if wells:
        expected["occupancy"] = analytic.chain.occupancy(*run, record=record)["occupancy"].sel(well="wide", drop=True)
    runs = simulate(
        *run,
        record=record,
        coordinates=np.arange(problem.dim) if wells else None,
        trajectories=trajectories,
        seed=seed,
        executor=executor,
        threads=threads,
        progress=progress,
        **averaged,
    )
    samples = {"risk": runs["loss"]}
    if wells:
        barrier = np.broadcast_to(np.repeat(np.ravel(problem.barrier), problem.multiplicity), (problem.dim,))
        beyond = runs["theta"] > xr.DataArray(barrier, dims="coordinate")
        samples["occupancy"] = beyond.mean("coordinate")
    z, p = [], []
    for name, exact in expected.items():
        sample = samples[name].transpose(..., "trajectory", "step").values
        if name == "risk":
            score, chance = _risk_score(sample, exact.values)
        else:
            score, chance = _count_score(sample, exact.values, problem.dim)
        z.append(score)
        p.append(chance)
    scores, chances = np.stack(z, axis=-2), np.stack(p, axis=-2)
    tried = np.maximum(np.sum(~np.isnan(chances), axis=(-2, -1)), 1)
    p_value = np.minimum(1.0, tried * np.nanmin(np.where(np.isnan(chances), 1.0, chances), axis=(-2, -1)))
    dims = expected["risk"].dims[:-1]
    return xr.Dataset(
        {
            "z": ((*dims, "moment", "step"), scores),
            "p_value": (dims, p_value),
            "agrees": (dims, p_value >= error_rate),
        },
        coords={
            **{name: c for name, c in expected["risk"].coords.items() if "step" not in c.dims},
            "moment": list(expected),
            "step": ("step", record, {"units": "completed steps"}),
        },
        attrs={"error_rate": error_rate, "trajectories": trajectories, "dim": problem.dim},
    )


def _risk_score(sample: Array, exact: Array) -> tuple[Array, Array]:
    """Deviations of means in their standard errors, and the chance of more; NaN where nothing is random."""
    if not np.isfinite(exact).all():
        raise ParameterError("optimizer", "an unstable rate", "be stable: the theory overflows")
    mean, stderr = mean_and_stderr(sample, axis=-2)
    off = mean - exact
    same = np.where(np.abs(off) <= 1e-9 * np.abs(exact) + 1e-300, np.nan, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(stderr <= _SAME * np.abs(exact), same, off / stderr)
    return z, np.where(np.isnan(z), np.nan, 2.0 * stdtr(sample.shape[-2] - 1, -np.abs(z)))


def _count_score(sample: Array, exact: Array, dim: int) -> tuple[Array, Array]:
    """The same of shares of independent coordinates in a well, whose number is binomial, if they are all alike."""
    draws = sample.shape[-2] * dim
    count = np.rint(sample.sum(axis=-2) * dim)
    share = np.clip(exact, 0.0, 1.0)
    below, above = bdtr(count, draws, share), bdtrc(count - 1, draws, share)
    above = np.where(count == 0, 1.0, above)
    chance = np.minimum(1.0, 2.0 * np.minimum(below, above))
    sign = np.sign(count - draws * share)
    certain = (share == count / draws) & ((share == 0.0) | (share == 1.0))
    z = np.where(certain, np.nan, -sign * ndtri(0.5 * chance))
    return z, np.where(certain, np.nan, chance)
