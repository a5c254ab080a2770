"""Where the mean-field theory of Adam is right, and where it is not.

At every batch size and β₂ the theory names the best learning rate for a target; Adam is simulated at that rate, and the
risk compared with three theories, each with one thing less than the one before: the full one, one without the
fluctuations of v, and one whose twin does not know its starting point. A fourth is the full one with a finer rule for
the starting point, which tells what is the theory's error from what is its quadrature's. What the twin is worth as a
control variate is measured along the way.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm._version import __version__
from mcnqm.domains import positive, unit_interval
from mcnqm.errors import ParameterError
from mcnqm.optimizers import Adam
from mcnqm.problems import NoisyQuadratic
from mcnqm.progress import Meter
from mcnqm.provenance import recorded
from mcnqm.simulation import simulate
from mcnqm.statistics import jackknife
from mcnqm.studies.cells import check_counts, finished, increasing
from mcnqm.tuning.routes import mean_field_route
from mcnqm.tuning.search import Tuned
from mcnqm.tuning.searches import tune_one

__all__ = ["VARIANTS", "MeanFieldConfig", "run"]

Array = NDArray[np.float64]

VARIANTS = ("full", "no fluctuations", "one twin", "fine rule")
"""The theory (order 2, starting point given); at order 1; at order 1 with a single twin; in full with more nodes."""

_NODES, _NODES_FINE = 16, 64
"""Starting points of each coordinate: as many as `mcnqm.tune` takes for short runs, and enough at any batch size."""

_REPLICATES = 8
"""Independent seeds, for the errors of what is not linear in the risk."""

_EFFORT = 2**20
"""Trajectories times steps that a short run may take, in all replicates."""

_MOST = 1024
"""Most trajectories of a replicate."""

_BEYOND = 1.1
"""Runs last so many times the predicted steps."""


@dataclass(frozen=True)
class MeanFieldConfig:
    """Everything that decides the study's numbers.

    Attributes
    ----------
    problem : NoisyQuadratic
    batch_sizes : tuple of int
        Increasing.
    beta2 : tuple of float
        Increasing, in [0, 1).
    target : float
        Risk for which the theory tunes the learning rate.
    trajectories : int
        Of each of 8 replicates, at least; runs of few steps get up to 1024.
    seed : int
    points : int
        Steps at which risks are compared, at least 3.
    search : tuple of float
        Between which learning rates the search begins.
    """

    problem: NoisyQuadratic = field(default_factory=lambda: NoisyQuadratic.power_law(200))
    batch_sizes: tuple[int, ...] = tuple(4**k for k in range(9))
    beta2: tuple[float, ...] = (0.9, 0.99, 0.999)
    target: float = 0.02
    trajectories: int = 64
    seed: int = 0
    points: int = 12
    search: tuple[float, float] = (1e-4, 1.0)

    def __post_init__(self) -> None:
        increasing("batch_sizes", self.batch_sizes)
        increasing("beta2", self.beta2, unit_interval)
        increasing("search", self.search, positive)
        if len(self.search) != 2:
            raise ParameterError("search", self.search, "be two learning rates")
        positive.check("target", self.target)
        if self.target >= self.problem.initial_risk:
            raise ParameterError("target", self.target, f"be below the initial risk {self.problem.initial_risk:g}")
        check_counts(self, 2**64 - _REPLICATES, trajectories=4, points=3)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings; two studies with the same are the same."""
        return {
            "problem": self.problem.to_dict(),
            "batch_sizes": [int(b) for b in self.batch_sizes],
            "beta2": [float(b) for b in self.beta2],
            "target": float(self.target),
            "trajectories": self.trajectories,
            "seed": self.seed,
            "points": self.points,
            "search": [float(x) for x in self.search],
            "mcnqm_version": __version__,
        }


@recorded("mcnqm.studies.mean_field.run", MeanFieldConfig)
def run(
    config: MeanFieldConfig | None = None,
    *,
    executor: Executor | None = None,
    threads: int | None = None,
    meter: Meter | None = None,
) -> xr.Dataset:
    """Compare the mean-field theory of Adam with simulation.

    Parameters
    ----------
    config : MeanFieldConfig, optional
        By default d = 200, batch sizes 1 to 65536 by factors of 4, and β₂ of 0.9, 0.99, 0.999.
    executor, threads
        As for `mcnqm.simulate`.
    meter : Meter, optional
        Told of cells done: one batch size at one β₂, all alike.

    Returns
    -------
    xarray.Dataset
        Over (beta2, batch_size): ``lr``, the best rate by the full theory, ``at_edge`` of its search,
        ``predicted_steps`` to the target, and ``trajectories`` simulated. A cell whose target theory never reaches is
        NaN throughout.

        Over (beta2, batch_size, point): ``step``, about evenly spaced on a logarithmic axis up to 1.1 times the
        predicted steps, the predicted step itself the last but one; NaN where a run is too short for as many;
        ``risk`` and ``risk_stderr`` simulated; ``variance_reduction`` by the control variate.

        Over (variant, beta2, batch_size, point): ``predicted_risk``, and ``risk_error``, how far it is from the
        simulated, relative to that, with ``risk_error_stderr`` from the simulation.

        Over (variant, beta2, batch_size): ``rms_error`` over points, with the jackknife's ``rms_error_stderr``;
        ``max_error``, the largest in size; ``target_error``, at the predicted step, with its ``_stderr``. Over (beta2,
        batch_size): ``rms_noise``, the root mean square of the simulation's own relative error, which is the
        ``rms_error`` that a perfect theory would show; ``late_reduction``, ``variance_reduction`` at the last point,
        with ``_stderr``.

    Raises
    ------
    ParameterError
        If the configuration is not allowed.

    Examples
    --------
    >>> config = MeanFieldConfig(
    ...     NoisyQuadratic.power_law(20), batch_sizes=(16, 64), beta2=(0.99,), target=0.1, trajectories=16
    ... )
    >>> study = run(config)
    >>> study.rms_error.dims
    ('variant', 'beta2', 'batch_size')
    >>> bool((study.rms_error.sel(variant="full") < 0.1).all())
    True
    """
    config = MeanFieldConfig() if config is None else config
    both = product(config.beta2, config.batch_sizes)
    parts = {each: partial(_cell, config, *each, executor, threads) for each in both}
    return _labelled(config, list(finished(parts, "mean field", meter=meter).values()))


class _Cell(NamedTuple):
    """One batch size at one β₂; arrays over points, those by variant over (variant, point)."""

    tuned: Tuned
    trajectories: int
    step: Array
    risk: Array
    stderr: Array
    reduction: Array
    reduction_stderr: Array
    predicted: Array
    rms: Array
    rms_stderr: Array


def _cell(
    config: MeanFieldConfig, beta2: float, batch_size: int, executor: Executor | None, threads: int | None
) -> _Cell:
    route = mean_field_route(config.problem, float(batch_size), config.target)
    tuned = tune_one(route, Adam(lr=1.0, beta2=beta2), {"lr": config.search})
    if not math.isfinite(tuned.steps):
        gap = np.full(config.points, np.nan)
        gaps, none = np.full((len(VARIANTS), config.points), np.nan), np.full(len(VARIANTS), np.nan)
        return _Cell(tuned, 0, gap, gap, gap, gap, gap, gaps, none, none)
    adam = Adam(lr=tuned.values["lr"], beta2=beta2)
    at = _points(int(tuned.steps), config.points)
    each = max(config.trajectories, min(_MOST, _EFFORT // (_REPLICATES * int(at[-1]))))
    # Replicates rather than one large sample: an rms is not linear in the risk, so its error needs a jackknife.
    runs = [
        simulate(
            *(config.problem, adam, batch_size, int(at[-1])),
            trajectories=each,
            seed=config.seed + k,
            record=at,
            control_variate=True,
            executor=executor,
            threads=threads,
        )
        for k in range(_REPLICATES)
    ]
    risks, errors, reductions = (
        np.array([one[name].values for one in runs]) for name in ("risk", "risk_stderr", "variance_reduction")
    )
    predicted = _predictions(config.problem, adam, batch_size, at)
    rms = np.sqrt(((predicted / _left_out(risks)[:, np.newaxis] - 1.0) ** 2).mean(axis=-1))
    # The ratio of mean variances: that of single replicates scatters, and its mean would be biased upwards.
    plain, controlled = _left_out(errors**2 * reductions), _left_out(errors**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        reduction = plain / controlled
    return _Cell(
        tuned,
        each * _REPLICATES,
        at.astype(np.float64),
        risks.mean(axis=0),
        np.sqrt((errors**2).sum(axis=0)) / _REPLICATES,
        reduction[0],
        jackknife(reduction, axis=0)[1],
        predicted,
        rms[0],
        jackknife(rms, axis=0)[1],
    )


def _points(predicted: int, count: int) -> NDArray[np.int64]:
    """Up to `count` steps, evenly spaced on a logarithmic axis as far as whole numbers can be.

    Examples
    --------
    >>> _points(1000, 6)
    array([   1,    6,   33,  191, 1000, 1100])
    >>> _points(3, 6)
    array([1, 2, 3, 4])
    """
    last = math.ceil(_BEYOND * predicted)
    found = np.array([predicted, last])
    for tried in range(count, 4 * count):
        early = np.unique(np.round(np.geomspace(1, last, tried - 1)).astype(np.int64))
        # The predicted step takes the place of what would lie close to it.
        found = np.unique(np.concatenate([early[early < predicted / 1.05], [predicted, last]]))
        if found.size >= count:
            break
    return found[-count:] if found.size > count else found


def _predictions(problem: NoisyQuadratic, adam: Adam, batch_size: int, at: NDArray[np.int64]) -> Array:
    """Risk by every variant, shape (variants, points)."""
    # A starting point of known size has a one-point law: every node is the same twin, and two are the fewest allowed.
    size = np.sqrt(problem.initial_second_moment)
    single = NoisyQuadratic(problem.curvature, problem.noise, size, 0.0, problem.multiplicity)
    kinds = ((problem, 2, _NODES), (problem, 1, _NODES), (single, 1, 2), (problem, 2, _NODES_FINE))
    return np.array(
        [
            analytic.mean_field.risk(
                where, adam, batch_size, int(at[-1]), record=at, order=order, nodes=nodes
            ).risk.values
            for where, order, nodes in kinds
        ]
    )


def _left_out(values: Array) -> Array:
    """Means over all replicates, then without each in turn, as `jackknife` wants them."""
    whole = values.mean(axis=0, keepdims=True)
    count = values.shape[0]
    return np.concatenate([whole, (count * whole - values) / (count - 1)])


def _labelled(config: MeanFieldConfig, cells: list[_Cell]) -> xr.Dataset:
    shape = (len(config.beta2), len(config.batch_sizes))

    def table(values: list[Any]) -> Array:
        return np.array(values, dtype=np.float64).reshape(shape)

    def curves(name: str) -> Array:
        return np.array([_padded(getattr(cell, name), config.points) for cell in cells]).reshape(*shape, config.points)

    def by_variant(values: list[Array]) -> Array:
        return np.moveaxis(np.array(values).reshape(*shape, len(VARIANTS), *values[0].shape[1:]), 2, 0)

    cell, along = ("beta2", "batch_size"), ("beta2", "batch_size", "point")
    predicted = by_variant([_padded(one.predicted, config.points) for one in cells])
    step, risk, stderr = (curves(name) for name in ("step", "risk", "stderr"))
    error = predicted / risk - 1.0
    error_stderr = np.abs(predicted / risk) * (stderr / risk)
    last = np.maximum(np.isfinite(step).sum(axis=-1) - 1, 0)
    target = last - 1  # the predicted step comes last but one

    def pick(values: Array, place: NDArray[np.intp]) -> Array:
        place = np.broadcast_to(np.maximum(place, 0), values.shape[:-1])
        return np.take_along_axis(values, place[..., np.newaxis], axis=-1)[..., 0]

    known = np.isfinite(error)
    largest = np.where(known, np.abs(error), -1.0).argmax(axis=-1)
    counted = np.isfinite(risk)
    noise = np.where(counted, stderr / np.where(counted, risk, 1.0), 0.0) ** 2
    rate, steps, loss = {"units": "parameter"}, {"units": "steps"}, {"units": "loss"}
    relative = {"units": "1"}
    with np.errstate(invalid="ignore"):
        rms_noise = np.sqrt(noise.sum(axis=-1) / np.where(counted.any(axis=-1), counted.sum(axis=-1), np.nan))
    data: dict[str, Any] = {
        "lr": (cell, table([one.tuned.values["lr"] for one in cells]), rate),
        "at_edge": (cell, table([one.tuned.at_edge for one in cells]).astype(bool)),
        "predicted_steps": (cell, table([one.tuned.steps for one in cells]), steps),
        "trajectories": (cell, table([one.trajectories for one in cells]).astype(np.int32)),
        "step": (along, step, {"units": "completed steps"}),
        "risk": (along, risk, loss),
        "risk_stderr": (along, stderr, loss),
        "variance_reduction": (along, curves("reduction"), relative),
        "predicted_risk": (("variant", *along), predicted, loss),
        "risk_error": (("variant", *along), error, relative),
        "risk_error_stderr": (("variant", *along), error_stderr, relative),
        "rms_error": (("variant", *cell), by_variant([one.rms for one in cells]), relative),
        "rms_error_stderr": (("variant", *cell), by_variant([one.rms_stderr for one in cells]), relative),
        "max_error": (("variant", *cell), pick(error, largest), relative),
        "target_error": (("variant", *cell), pick(error, target), relative),
        "target_error_stderr": (("variant", *cell), pick(error_stderr, target), relative),
        "rms_noise": (cell, rms_noise, relative),
        "late_reduction": (cell, pick(curves("reduction"), last), relative),
        "late_reduction_stderr": (cell, pick(curves("reduction_stderr"), last), relative),
    }
    return xr.Dataset(
        data,
        coords={
            "variant": np.array(VARIANTS),
            "beta2": np.array(config.beta2, dtype=np.float64),
            "batch_size": ("batch_size", np.array(config.batch_sizes, dtype=np.float64), {"units": "examples"}),
        },
        attrs={
            "target": config.target,
            "dim": config.problem.dim,
            "replicates": _REPLICATES,
            "nodes": _NODES,
            "nodes_fine": _NODES_FINE,
            "seed": str(config.seed),
        },
    )


def _padded(values: Array, size: int) -> Array:
    """NaN after the last point of a run too short for all of them."""
    gap = np.full((*values.shape[:-1], size - values.shape[-1]), np.nan)
    return np.concatenate([values, gap], axis=-1)
