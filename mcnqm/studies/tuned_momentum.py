"""The best learning rate and momentum of preconditioned SGD in closed form, at many batch sizes (Zhang et al., 3a).

A grid on a coarse spectrum finds the basin, a pattern search on a finer one its bottom; batch sizes then try
their neighbours' answers, since the landscape has more than one basin. At last the problem itself confirms: no
neighbour at 1 % in the rate or in 1 - momentum is better, or the search moves on there. The searches walk
freely, so no optimum lies at the edge of a grid; momentum 0 is a natural boundary.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.domains import positive
from mcnqm.errors import ParameterError
from mcnqm.optimizers import SGD
from mcnqm.problems import NoisyQuadratic, check_problem

__all__ = ["tune_curve"]

Array = NDArray[np.float64]

_COARSE = 1.6
_SCALES = (1.1, 1.03, 1.01)
_PLATEAU = 20
"""Steps below which one step more is more than a change of 1 % in the rate can buy."""

Point: TypeAlias = tuple[float, float]
"""(log effective rate, log(1 - momentum)): along the first axis the noise floor moves, along the second only the
transient does, so the basin is not a diagonal."""


class _Cell(NamedTuple):
    """What is tuned at one batch size."""

    batch_size: float
    power: float
    free: bool
    target: float


def tune_curve(
    problem: NoisyQuadratic, batch_sizes: Any, power: float, *, momentum: float | None, target: float = 0.01
) -> xr.Dataset:
    """Fewest steps to a target, with the rate and momentum that need them, at every batch size.

    Parameters
    ----------
    problem : NoisyQuadratic
        With curvatures of at most 1 after preconditioning, h**(1-p) <= 1.
    batch_sizes : array_like, shape (n,)
        Increasing, examples.
    power : float
        Of the preconditioner P = H^p.
    momentum : float or None
        In [0, 1); None to tune it too.
    target : float
        Risk to reach.

    Returns
    -------
    xarray.Dataset
        ``steps``, ``lr`` and ``momentum`` (batch_size).

    Raises
    ------
    ParameterError
        If batch sizes do not increase, a curvature is above 1, or no rate of the first grid reaches the target.

    Examples
    --------
    >>> from mcnqm import NoisyQuadratic
    >>> best = tune_curve(NoisyQuadratic.power_law(30), [16, 64], 0.0, momentum=0.0, target=0.1)
    >>> best.steps.values
    array([31., 14.])
    """
    check_problem(problem)
    if momentum is not None and not 0.0 <= momentum < 1.0:
        raise ParameterError("momentum", momentum, "be in [0, 1), or None to tune it")
    sizes = positive.check("batch_sizes", batch_sizes)
    if sizes.ndim != 1 or (np.diff(sizes) <= 0).any():
        raise ParameterError("batch_sizes", batch_sizes, "increase")
    if problem.curvature.max() ** (1.0 - power) > 1.0:
        raise ParameterError("problem", repr(problem), "have curvatures of at most 1: the first grid ends there")
    coarse, fine = problem.binned(32), problem.binned(256)
    points = _grid(momentum, 1e-7)
    table = _steps(coarse, points, sizes, power, target)
    if not np.isfinite(table.min(axis=0)).all():
        raise ParameterError("target", target, "be reached by some rate between 1e-7 and the largest stable one")
    cells = [_Cell(float(b), power, momentum is None, target) for b in sizes]
    tuned = [
        _descend(fine, cell, (float(points[k, 0]), float(points[k, 1])), _SCALES)
        for cell, k in zip(cells, table.argmin(axis=0), strict=True)
    ]
    for order in (1, -1):
        for b in range(sizes.size)[::order]:
            if not 0 <= b - order < sizes.size:
                continue
            (x, y), _ = tuned[b - order]
            shift = np.log(sizes[b] / sizes[b - order])  # where noise rules, rate and 1 - momentum go with the batch
            for start in ((x, y), (x + shift, min(y + shift, 0.0) if momentum is None else y)):
                there = float(_steps(fine, np.array([start]), sizes[b], power, target, tuned[b][1])[0])
                if there < tuned[b][1]:
                    tuned[b] = _descend(fine, cells[b], start, _SCALES)
    tuned = [_cross_plateau(fine, cell, *found) for cell, found in zip(cells, tuned, strict=True)]
    tuned = [_descend(problem, cell, start, _SCALES[-1:]) for cell, (start, _) in zip(cells, tuned, strict=True)]
    rest = np.exp([point[1] for point, _ in tuned])
    return xr.Dataset(
        {
            "steps": ("batch_size", [best for _, best in tuned], {"units": "steps"}),
            "lr": ("batch_size", np.exp([point[0] for point, _ in tuned]) * rest),
            "momentum": ("batch_size", 1.0 - rest),
        },
        coords={"batch_size": ("batch_size", sizes, {"units": "examples"})},
        attrs={"method": "analytic", "problem": repr(problem), "target": target, "precondition": power},
    )


def _steps(
    problem: NoisyQuadratic, points: Array, batch_size: Any, power: float, target: float, below: float = np.inf
) -> Array:
    """Steps to the target of each candidate (rows), at each batch size; infinite if not less than `below`."""
    rest = np.exp(points[:, 1])
    lr = xr.DataArray(np.exp(points[:, 0]) * rest, dims="candidate")
    momentum = xr.DataArray(1.0 - rest, dims="candidate")
    optimizer = SGD(lr=lr, momentum=momentum, precondition=power)
    last = max(int(below) - 1, 0) if np.isfinite(below) else 2**53
    found = analytic.steps_to_target(problem, optimizer, batch_size, target, max_steps=last)
    return np.asarray(found["steps"].values)


def _key(point: Point) -> tuple[int, int]:
    """The same for points that differ by rounding alone."""
    return round(point[0] * 1e9), round(point[1] * 1e9)


def _descend(problem: NoisyQuadratic, cell: _Cell, start: Point, scales: tuple[float, ...]) -> tuple[Point, float]:
    """Move to the best neighbour, at ever smaller scales, until no neighbour at any scale is better."""
    best = float(_steps(problem, np.array([start]), cell.batch_size, cell.power, cell.target)[0])
    offsets = [(i, j) for i in (-1, 0, 1) for j in ((-1, 0, 1) if cell.free else (0,)) if (i, j) != (0, 0)]
    tried = {_key(start)}
    scale = 0
    while scale < len(scales):
        step = np.log(scales[scale])
        near = [(start[0] + i * step, min(start[1] + j * step, 0.0)) for i, j in offsets]
        # After a move, half the neighbours were the old point's: none of them was better than the new one.
        fresh = {_key(point): point for point in near if _key(point) not in tried}
        tried.update(fresh)
        if not fresh:
            scale += 1
            continue
        around = np.array(list(fresh.values()))
        found = _steps(problem, around, cell.batch_size, cell.power, cell.target, best)
        k = int(np.argmin(found))
        if found[k] < best:
            start, best = (float(around[k, 0]), float(around[k, 1])), float(found[k])
            scale = 0
        else:
            scale += 1
    return start, best


def _cross_plateau(problem: NoisyQuadratic, cell: _Cell, start: Point, best: float) -> tuple[Point, float]:
    """Look further around where steps are so few that a descent sees only ties."""
    if best > _PLATEAU or best <= 1.0:
        return start, best
    rates = start[0] + np.arange(-24, 25) * np.log(1.025)
    rests = start[1] + np.arange(-8, 9) * np.log(1.1) if cell.free else np.array([start[1]])
    rests = np.unique(np.append(np.minimum(rests, 0.0), [0.0] if cell.free else []))
    around = np.stack(np.meshgrid(rates, rests, indexing="ij"), axis=-1).reshape(-1, 2)
    found = _steps(problem, around, cell.batch_size, cell.power, cell.target, best)
    k = int(np.argmin(found))
    if found[k] >= best:
        return start, best
    moved = _descend(problem, cell, (float(around[k, 0]), float(around[k, 1])), _SCALES)
    return _cross_plateau(problem, cell, *moved)


def _grid(momentum: float | None, smallest: float) -> Array:
    """Candidates a factor apart: effective rates up to instability, momenta up to 0.999."""
    # h^(1-p) <= 1 here, so 2 is the limit without momentum; with it, an effective rate of 2(1+β)/(1-β).
    beta = 0.999 if momentum is None else momentum
    top = np.log(2.0 * (1.0 + beta) / (1.0 - beta))
    rates = np.arange(top, np.log(smallest), -np.log(_COARSE))
    rests = np.arange(0.0, np.log(1e-3), -np.log(_COARSE)) if momentum is None else np.array([np.log1p(-momentum)])
    points = np.stack(np.meshgrid(rates, rests, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(points[np.exp(points.sum(axis=1)) < 4.0])
