"""Figures 3b, 3c and 13: optimized piecewise-constant schedules."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mcnqm.optimizers import SGD
from mcnqm.scheduling.labels import scheduled_optimizer
from mcnqm.scheduling.public import optimize_schedule
from mcnqm.studies.paper.figure import Figure, Work
from mcnqm.studies.paper.scaling import plain_curves
from mcnqm.studies.scaling import examples_of_bounds
from mcnqm.tuning.passages import steps_to_target

__all__ = ["FIGURES"]

_POWERS = (0.0, 0.5, 1.0)
_CHECKED = (64.0, 4096.0)


def _best(work: Work, power: float) -> xr.Dataset:
    """Optimized schedules at every batch size."""

    def compute() -> xr.Dataset:
        found = optimize_schedule(
            work.problem,
            SGD(lr=1.0, precondition=power),
            np.array(work.scale.schedule_batch_sizes),
            target=work.scale.target,
            pieces=work.scale.pieces,
            baselines=False,
        )
        kept = found[["lr", "start", "length", "steps"]]
        last = (kept["length"] > 0).sum("piece") - 1
        final = kept["lr"].isel(piece=last)
        return kept.assign(final_lr=final, first_lr=kept["lr"].isel(piece=0)).drop_attrs()

    return work.cells.known(f"schedules-{power:g}", compute)


def _checked(work: Work) -> xr.Dataset:
    """Steps that a simulation under the optimized schedule takes to the target."""

    def compute() -> xr.Dataset:
        table = np.empty((2, len(_CHECKED), 3))
        for i, power in enumerate(_POWERS[:2]):
            for k, b in enumerate(_CHECKED):
                found = optimize_schedule(
                    work.problem,
                    SGD(lr=1.0, precondition=power),
                    b,
                    target=0.99 * work.scale.target,
                    pieces=work.scale.pieces,
                    baselines=False,
                )
                runs = steps_to_target(
                    work.problem,
                    scheduled_optimizer(found),
                    b,
                    work.scale.target,
                    replicates=work.scale.replicates,
                    **work.running,
                )
                table[i, k] = [float(runs["steps"]), *runs["steps_interval"].values.tolist()]
        dims = ("simulated_power", "simulated_batch_size")
        return xr.Dataset(
            {
                "simulated_steps": (dims, table[..., 0]),
                "simulated_steps_interval": ((*dims, "bound"), table[..., 1:]),
            },
            coords={
                "simulated_power": list(_POWERS[:2]),
                "simulated_batch_size": list(_CHECKED),
                "bound": ["low", "high"],
            },
        )

    return work.cells.known("checked-schedules", compute)


def _all(work: Work) -> xr.Dataset:
    rows = [_best(work, p) for p in _POWERS]
    return xr.concat(rows, dim=xr.Variable("power", list(_POWERS))).rename(batch_size="schedule_batch_size")


def _figure_3b(work: Work) -> xr.Dataset:
    plain = plain_curves(work)["steps"].sel(power=list(_POWERS))
    bounds = examples_of_bounds(work.problem, work.scale.target)
    data = xr.Dataset(
        {
            "steps": _all(work)["steps"],
            "constant_steps": plain,
            **{name: bounds[name] / plain["batch_size"] for name in ("information_bound", "bayes_bound")},
        }
    )
    return data.merge(_checked(work))


def _figure_3c(work: Work) -> xr.Dataset:
    return _best(work, 0.0)[["lr", "start", "length", "steps"]]


def _figure_13(work: Work) -> xr.Dataset:
    return _all(work)[["final_lr", "first_lr"]]


_PIECES = "h = c = 1/i, target risk 0.01, 50 pieces that are longer in the middle, rates below the stability limit, "
FIGURES = (
    Figure(
        "3b",
        "Effect of learning rate decay. The solid lines use the optimized piecewise constant scheme; the dashed "
        "curves are "
        "plain SGD for comparison. Learning rate schedules close most of the gap between the fixed learning "
        "rate performance "
        "and the information theoretic lower bound.",
        _PIECES + "in closed form. The powers are lost in the text; chosen: 0, 0.5, 1. Points with 95 % intervals are "
        "simulated under schedules optimized for a risk 1 % lower, which reach the target within the run.",
        _figure_3b,
        cost=25.0,
    ),
    Figure(
        "3c",
        "Optimized LR schedules (for one power, at different batch sizes).",
        _PIECES + "power 0 (lost in the text). Rates against the part of the run, since runs have 600 to 80 000 steps.",
        _figure_3c,
        cost=3.0,
    ),
    Figure(
        "13",
        "Final learning rate of the piecewise-constant learning rate scheme v.s. batch size.",
        _PIECES + "powers 0, 0.5, 1; the first rate beside it.",
        _figure_13,
        cost=1.0,
    ),
)
