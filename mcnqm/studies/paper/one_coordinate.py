"""Figures 1, 2 and 9: single coordinates at given rates."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mcnqm import analytic, schedules
from mcnqm.optimizers import SGD
from mcnqm.problems import NoisyQuadratic
from mcnqm.simulation import simulate
from mcnqm.studies.paper.figure import Figure, Work

__all__ = ["FIGURES"]

_CURVATURES = (1.0, 0.1, 0.01)
_STEPS, _DROP = 800, 400


def _figure_1(work: Work) -> xr.Dataset:
    """Risk of three coordinates (decay, curvature, step), in closed form and simulated at a few steps."""
    points = np.array([5, 40, 150, 300, 420, 500, 650, 800])
    at = np.unique(np.concatenate([np.arange(0, 41), np.arange(40, _STEPS + 1, 4), points]))
    falling = schedules.piecewise([0.5, 0.05], [_DROP, _STEPS - _DROP])
    table, measured = [], []
    for rate in (0.5, falling):
        optimizer = SGD(lr=rate)
        for h in _CURVATURES:
            problem = NoisyQuadratic(curvature=[h])
            table.append(analytic.risk(problem, optimizer, 1, _STEPS, record=at)["risk"].values)
            runs = simulate(
                *(problem, optimizer, 1, _STEPS),
                trajectories=work.scale.trajectories,
                record=points,
                **work.running,
            )
            measured.append([runs["risk"].values, runs["risk_stderr"].values])
    shape = (2, len(_CURVATURES))
    simulated = np.array(measured).reshape(*shape, 2, points.size)
    return xr.Dataset(
        {
            "risk": (("decay", "curvature", "step"), np.reshape(table, (*shape, at.size)), {"units": "loss"}),
            "simulated_risk": (("decay", "curvature", "point"), simulated[:, :, 0]),
            "simulated_risk_stderr": (("decay", "curvature", "point"), simulated[:, :, 1]),
        },
        coords={"decay": [False, True], "curvature": list(_CURVATURES), "step": at, "point": points},
    )


_RATE_2, _BATCH_2 = 1e-3, 1


def _figure_2(work: Work) -> xr.Dataset:
    """Rate of convergence and steady-state risk against momentum, and what plain SGD at the effective rate has."""
    one = NoisyQuadratic(curvature=[1.0])
    beta = np.concatenate([np.linspace(0.0, 0.99, 100), 1.0 - np.geomspace(9e-3, 1e-3, 20)])
    heavy = SGD(lr=_RATE_2, momentum=beta)
    effective = _RATE_2 / (1.0 - beta)
    points = np.array([0.0, 0.5, 0.8, 0.9, 0.95, 0.98])
    steady, errors = [], []
    for b in points:
        steps = int(6.0 * (1.0 - b) / _RATE_2) + 200
        runs = simulate(
            *(one, SGD(lr=_RATE_2, momentum=float(b)), _BATCH_2, steps),
            trajectories=work.scale.trajectories,
            record=[steps],
            **work.running,
        )
        # Of the start, exp(-12) is left.
        steady.append(float(runs["risk"][0]))
        errors.append(float(runs["risk_stderr"][0]))
    return xr.Dataset(
        {
            "convergence_rate": ("momentum", analytic.convergence_rate(one, heavy)["slowest"].values),
            "effective_convergence_rate": ("momentum", 1.0 - effective),
            "steady_state_risk": ("momentum", analytic.steady_state(one, heavy, _BATCH_2)["risk"].values),
            "effective_steady_state_risk": (
                "momentum",
                analytic.steady_state(one, SGD(lr=effective), _BATCH_2)["risk"].values,
            ),
            "simulated_risk": ("point", steady),
            "simulated_risk_stderr": ("point", errors),
        },
        coords={"momentum": beta, "point": points},
    )


_RATE_9 = 1e-5
_AT_9 = (1000, 3000, 10_000, 30_000)


def _figure_9(work: Work) -> xr.Dataset:
    """First term of Theorem 1 over its start, with momentum and for plain SGD at the effective rate."""
    one = NoisyQuadratic(curvature=[1.0], noise=[0.0])
    scaling = np.geomspace(1.0, 100.0, 80)
    heavy = SGD(lr=_RATE_9, momentum=1.0 - 1.0 / scaling)
    plain = SGD(lr=_RATE_9 * scaling)
    both = [
        analytic.risk(one, ran, 1, _AT_9[-1], record=list(_AT_9))["risk"].values / one.initial_risk
        for ran in (heavy, plain)
    ]
    dims = ("scaling", "step")
    return xr.Dataset(
        {"momentum": (dims, both[0]), "effective": (dims, both[1])},
        coords={"scaling": scaling, "step": list(_AT_9)},
    )


FIGURES = (
    Figure(
        "1",
        "Cartoon of the evolution of risk for different coordinates with and without learning rate decay.",
        "Chosen, since a cartoon has none: h = c = 1, 0.1, 0.01, B = 1, lr 0.5, divided by 10 after 400 of 800 steps.",
        _figure_1,
        cost=2.0,
    ),
    Figure(
        "2",
        "Convergence rate and steady state risk as a function of momentum for a single dimension.",
        "Rate, curvature and batch size are lost in the text; chosen: αh = 0.001, h = 1, B = 1.",
        _figure_2,
        cost=3.0,
    ),
    Figure(
        "9",
        "First term of eq. (6) against the scaling between effective and true learning rate, 1/(1-β): momentum, and "
        "plain SGD at the effective rate; normalized.",
        "Rate and steps are lost in the text; chosen: αh = 0.00001 after 1000 to 30 000 steps.",
        _figure_9,
        cost=0.5,
    ),
)
