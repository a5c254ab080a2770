"""Right answers: exact for linear optimizers, else from many plain trajectories of seeds that no estimate is given.

The plain mean of the loss is all that is used of the simulation here: no control variate, no smoothing and no search
of `mcnqm`, which are what is being judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import mcnqm
from calibration.scores import Truth

__all__ = ["best_of_several", "best_rate", "plain_steps", "risk_at", "steps_at"]

Array = NDArray[np.float64]

_STREAM = 2**62
"""Seeds of truths start here; estimates get smaller ones."""

_CHUNKS = 32
"""Trajectories are simulated in so many parts at least, left out in turn for the jackknife."""

_WORK = 1e10
"""Coordinate updates that one truth may cost; some seconds."""

_SEARCH_WORK = 2e10
"""The same of a dense grid of rates, whose settings share their noise and are cheaper by a factor of two or three."""

_RESOLVED = 0.3
"""Below this error, in steps, whole steps show."""

_NUMBERS = 2e7
"""Losses held at a time."""


def is_linear(optimizer: Any) -> bool:
    """Whether the risk is known exactly."""
    return isinstance(optimizer, mcnqm.SGD)


def risk_at(problem: mcnqm.NoisyQuadratic, optimizer: Any, batch_size: int, record: tuple[int, ...]) -> list[Truth]:
    """Risk at recorded steps."""
    if is_linear(optimizer):
        exact = mcnqm.analytic.risk(problem, optimizer, batch_size, record[-1], record=list(record))
        return [Truth(float(value)) for value in exact["risk"].values]
    count = _trajectories(record[-1] * problem.dim, _WORK)
    parts = _mean_losses(problem, optimizer, batch_size, np.array(record), count)
    error = parts.std(axis=0, ddof=1) / math.sqrt(len(parts))
    return [Truth(float(m), float(s)) for m, s in zip(parts.mean(axis=0), error, strict=True)]


def steps_at(problem: mcnqm.NoisyQuadratic, optimizer: Any, batch_size: int, target: float) -> Truth:
    """Steps to target at given hyperparameters."""
    if is_linear(optimizer):
        return Truth(float(mcnqm.analytic.steps_to_target(problem, optimizer, batch_size, target)["steps"]))
    horizon = int(1.4 * _horizon(problem, optimizer, batch_size, target)) + 8
    return plain_steps(
        problem, optimizer, batch_size, target, horizon, _trajectories(horizon * problem.dim, _WORK), stream=1
    )


def plain_steps(
    problem: mcnqm.NoisyQuadratic,
    optimizer: Any,
    batch_size: int,
    target: float,
    horizon: int,
    trajectories: int,
    stream: int,
) -> Truth:
    """Steps to target by the mean loss of plain trajectories, infinite if not within the horizon."""
    record = _record(horizon)
    parts = _mean_losses(problem, optimizer, batch_size, record, trajectories, stream)
    crossing, error = _jackknife(parts, lambda mean: _crossing(record, mean, target))
    return _whole(float(crossing), float(error))


def best_rate(
    problem: mcnqm.NoisyQuadratic, optimizer: Any, batch_size: int, target: float, bounds: tuple[float, float]
) -> tuple[Truth, Truth]:
    """Fewest steps over learning rates, and the rates that need no more.

    Exact: the first passages over a grid of 1 % between rates, then of 0.05 % wherever nearly as few are needed. All
    rates that need the fewest whole steps are right. By trajectories: a grid of 2 %. Right are the rates whose steps
    need the fewest whole steps, by a quartic through the speeds near the best where the steps of single rates are not
    known to a fraction of a step. The steps at the best are those of fresh trajectories, since the least of a grid is
    that of its luckiest place.
    """
    if is_linear(optimizer):
        return _exact_best_rate(problem, optimizer, batch_size, target, bounds)
    coarse = np.geomspace(bounds[0] / 4, bounds[1] * 4, 32)
    horizon = _horizon(problem, optimizer._replace(lr=coarse), batch_size, target)
    # No rate arrives long before the fastest of the first few trajectories did.
    record = _record(int(1.15 * horizon) + 4, start=horizon // 2, looks=512)
    parts = _mean_losses(problem, optimizer._replace(lr=coarse), batch_size, record, 256, stream=2)
    centre = coarse[int(_crossing(record, parts.mean(axis=0), target).argmin())]
    rates = centre * np.exp(np.arange(-0.5, 0.505, 0.02))
    count = _trajectories(record[-1] * problem.dim * rates.size, _SEARCH_WORK, least=512)
    parts = _mean_losses(problem, optimizer._replace(lr=rates), batch_size, record, count, stream=3)

    def crossings(mean: Array) -> Array:
        return _crossing(record, mean, target)

    everywhere, error = _jackknife(parts, crossings)
    k = int(np.nanargmin(everywhere))
    short = bool(error[k] < _RESOLVED)
    _, place_error = _jackknife(parts, lambda mean: _vertex(np.log(rates), crossings(mean))[0])
    place, places, steps = _vertex(np.log(rates), crossings(parts.mean(axis=0)))
    rate, places, half = float(np.exp(place)), np.exp(places), 0.0
    if short:  # else the fastest of the rates is the luckiest, and only the curve through all of them can be trusted
        places, steps, half = rates, everywhere, 0.01
    alike = np.isfinite(steps) & (np.ceil(steps) <= math.ceil(steps[np.isfinite(steps)].min()))
    runs = (*_runs(places, alike, half), (rate, rate))
    horizon = int(record[-1])
    count = _trajectories(horizon * problem.dim, _WORK / 2)
    confirmed = [
        plain_steps(problem, optimizer._replace(lr=r), batch_size, target, horizon, count, stream=9)
        for r in ((rate, float(rates[k])) if short else (rate,))
    ]
    return min(confirmed, key=lambda found: found.value), Truth(rate, rate * float(place_error), runs)


def best_of_several(
    problem: mcnqm.NoisyQuadratic,
    optimizer: Any,
    batch_size: int,
    target: float,
    search: Mapping[str, tuple[float, float]],
) -> Truth:
    """Fewest steps over several hyperparameters: an upper bound, near it, as no grid is endlessly fine."""
    if is_linear(optimizer):
        found = mcnqm.tune(problem, optimizer, search, batch_size=batch_size, target=target, method="analytic")
        return Truth(float(found["steps"]))
    decays = [name != "lr" for name in search]
    box = np.array([_to_axis(np.array(b), decay) for b, decay in zip(search.values(), decays, strict=True)])
    horizon = None
    for fineness in range(3):
        axes = [np.linspace(low, high, 16) for low, high in box]
        grid = [axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")]
        values = {
            name: xr.DataArray(_from_axis(axis, decay), dims="place")
            for name, axis, decay in zip(search, grid, decays, strict=True)
        }
        swept = optimizer._replace(**values)
        if horizon is None:
            horizon = _horizon(problem, swept, batch_size, target)
        record = _record(int(1.1 * horizon) + 4)
        parts = _mean_losses(problem, swept, batch_size, record, 512, stream=4 + fineness)
        k = int(_crossing(record, parts.mean(axis=0), target).argmin())
        centre, width = np.array([axis[k] for axis in grid]), 0.25 * (box[:, 1] - box[:, 0])
        box = np.stack([centre - 0.5 * width, centre + 0.5 * width], axis=1)
        box[decays] = np.maximum(box[decays], 0.0)
    best = optimizer._replace(**{name: float(values[name][k]) for name in search})
    return steps_at(problem, best, batch_size, target)


def _exact_best_rate(
    problem: mcnqm.NoisyQuadratic, optimizer: Any, batch_size: int, target: float, bounds: tuple[float, float]
) -> tuple[Truth, Truth]:
    def steps(rates: Array) -> Array:
        swept = optimizer._replace(lr=rates)
        return mcnqm.analytic.steps_to_target(problem, swept, batch_size, target)["steps"].values

    found = mcnqm.tune(problem, optimizer, {"lr": bounds}, batch_size=batch_size, target=target, method="analytic")
    rates = float(found["lr"]) * np.exp(np.arange(-1.2, 1.2, 0.01))
    coarse = steps(rates)
    near = rates[coarse <= 1.01 * coarse.min() + 1.0]
    fine = np.unique(np.concatenate([rate * np.exp(np.arange(-0.01, 0.0101, 0.0005)) for rate in near]))
    whole = steps(fine)
    fewest = whole.min()
    # Rates of the overlapping grids may lie closer than the spacing; half of it is how well a run's end is known.
    runs = _runs(fine, whole == fewest, half=0.00025)
    widest = max(runs, key=lambda run: run[1] / run[0])
    return Truth(float(fewest)), Truth(math.sqrt(widest[0] * widest[1]), 0.0, runs)


def _to_axis(value: Array, decay: bool) -> Array:
    """Axis on which hyperparameters are searched: log x, or -log(1 - x) of a decay."""
    return -np.log1p(-value) if decay else np.log(value)


def _from_axis(place: Array, decay: bool) -> Array:
    return -np.expm1(-place) if decay else np.exp(place)


def _runs(places: Array, which: NDArray[np.bool_], half: float) -> tuple[tuple[float, float], ...]:
    """Runs of neighbours that belong, widened by `half` in the logarithm at either end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], which.astype(int), [0]])))
    pairs = zip(edges[::2], edges[1::2] - 1, strict=True)
    return tuple((float(places[a] * math.exp(-half)), float(places[b] * math.exp(half))) for a, b in pairs)


def _whole(crossing: float, error: float) -> Truth:
    """First step at or below the target. Where the error leaves two whole numbers open, both are right."""
    if not math.isfinite(crossing):
        return Truth(math.inf)
    first, last = (max(math.ceil(crossing + end * error - 1e-9), 0) for end in (-2.0, 2.0))
    runs = ((float(first), float(last)),) if last - first == 1 else ()
    return Truth(float(math.ceil(crossing - 1e-9)), error, runs)


def _trajectories(each: float, work: float, least: int = 12288, most: int = 2**17) -> int:
    return int(min(max(work / each, least), most))


def _record(horizon: int, start: int = 0, looks: int = 4096) -> NDArray[np.int64]:
    """Steps to look at: every one, or not many more than `looks`."""
    return np.arange(start, horizon + 1, max(1, (horizon - start) // looks), dtype=np.int64)


def _horizon(problem: mcnqm.NoisyQuadratic, optimizer: Any, batch_size: int, target: float) -> int:
    """About how many steps the fastest setting needs, on 256 trajectories."""
    last = 32
    while last <= 2**17:
        record = _record(last)
        parts = _mean_losses(problem, optimizer, batch_size, record, 256, stream=0, chunks=1)
        first = float(_crossing(record, parts.mean(axis=0), target).min())
        if math.isfinite(first):
            return math.ceil(first)
        last *= 2
    raise ValueError(f"{optimizer} does not reach {target} within {last // 2} steps at batch size {batch_size}")


def _mean_losses(
    problem: mcnqm.NoisyQuadratic,
    optimizer: Any,
    batch_size: int,
    record: NDArray[np.int64],
    trajectories: int,
    stream: int = 0,
    chunks: int = _CHUNKS,
) -> Array:
    """Mean losses of independent groups of trajectories, shape (groups, settings, steps), or (groups, steps)."""
    swept = [np.shape(value) for value in optimizer if np.ndim(value)]
    settings = int(np.prod(swept[0])) if swept else 1
    room = max(int(_NUMBERS / (settings * record.size)), 1)
    size = min(max(trajectories // chunks, 1), room, 1024)
    means = []
    for k in range(math.ceil(trajectories / size)):
        runs = mcnqm.simulate(
            problem, optimizer, batch_size, int(record[-1]), trajectories=size, record=record,
            seed=_STREAM + 2**40 * stream + k, control_variate=False, threads=1,
        )  # fmt: skip
        means.append(runs["loss"].mean("trajectory").values)
    return np.array(means)


def _crossing(record: NDArray[np.int64], mean: Array, target: float) -> Array:
    """First time at or below the target of mean losses (..., steps), by interpolation in the logarithm; else inf."""
    below = mean <= target
    first = below.argmax(axis=-1)
    reached = np.take_along_axis(below, first[..., np.newaxis], -1)[..., 0]
    before = np.maximum(first - 1, 0)
    high, low = (np.take_along_axis(mean, k[..., np.newaxis], -1)[..., 0] for k in (before, first))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.log(high / target) / np.log(high / low)
        crossing = np.where(first == 0, float(record[0]), record[before] + share * (record[first] - record[before]))
    return np.where(reached, crossing, np.inf)


def _jackknife(parts: Array, statistic: Callable[[Array], Any]) -> tuple[Array, Array]:
    """A statistic of the mean over parts, freed of its leading bias, and its standard error."""
    n = len(parts)
    whole = np.asarray(statistic(parts.mean(axis=0)))
    total = parts.sum(axis=0)
    others = np.array([statistic((total - part) / (n - 1)) for part in parts])
    with np.errstate(invalid="ignore"):
        error = np.sqrt((n - 1) / n * ((others - others.mean(axis=0)) ** 2).sum(axis=0))
        corrected = n * whole - (n - 1) * others.mean(axis=0)
    return np.where(np.isfinite(corrected), corrected, whole), error


def _vertex(places: Array, steps: Array) -> tuple[float, Array, Array]:
    """A quartic through the speeds 1 / steps of all places nearly as fast as the fastest: where it is largest.

    And its steps over a dense grid of places.
    """
    k = int(np.argmin(steps))
    near = np.isfinite(steps) & (steps <= 1.1 * steps[k] + 1.0) & (np.abs(places - places[k]) < 0.4)
    x = places[near] - places[k]
    if x.size < 8:
        return float(places[k]), places, steps
    fit = np.polynomial.Polynomial.fit(x, 1.0 / np.maximum(steps[near], 0.5), 4)
    dense = np.linspace(x.min(), x.max(), 4001)
    speed = fit(dense)
    return float(places[k] + dense[int(speed.argmax())]), places[k] + dense, 1.0 / speed
