"""Every argument of every public call × values of every wrong type: an answer or `ParameterError`, nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm import analytic, averaging, schedules

PROBLEM = mcnqm.NoisyQuadratic.power_law(5)
SGD = mcnqm.SGD(lr=0.1)
ADAM = mcnqm.Adam(lr=0.01)
JUNK = [
    None, "x", "1", b"a", True, 3, -1, 1.5, float("nan"), float("inf"), 10**30, 1j, [], {}, [[1], [1, 2]], object(),
    lambda: 0, int, np.array([1.0, 2.0]), np.zeros((2, 2, 2)), np.array([]), np.datetime64("2020-01-01"),
    xr.Dataset({"a": 1.0}), xr.DataArray([1.0, 2.0], dims="q"), xr.DataArray(["a"], dims="lr"), SGD, PROBLEM,
    schedules.cosine(1.0, steps=10),
]  # fmt: skip

_run = {"problem": PROBLEM, "optimizer": SGD, "batch_size": 4, "steps": 5}
_where = {"executor": None, "threads": None, "progress": False}
CALLS = {
    "simulate": (
        mcnqm.simulate,
        {
            **_run, **_where, "trajectories": 3, "seed": 0, "record": None, "coordinates": None, "minibatch": "exact",
            "average": None, "control_variate": None, "dtype": "float64",
        },
    ),
    "steps_to_target": (
        mcnqm.steps_to_target,
        {
            **_where, "problem": PROBLEM, "optimizer": SGD, "batch_size": 4, "target": 0.5, "method": "simulate",
            "trajectories": 2, "replicates": 2, "seed": 0, "max_steps": 100, "overtaken_factor": None,
            "control_variate": None,
            "average": None, "dtype": "float64",
        },
    ),
    "tune": (
        mcnqm.tune,
        {
            "problem": PROBLEM, "optimizer": SGD, "search": {"lr": (0.01, 1)}, "batch_size": 4, "target": 0.5,
            "method": "analytic", "reference_trajectories": None, "replicates": None, "seed": None, "max_steps": 100,
            "dtype": None, "executor": None, "threads": None, "progress": False,
        },
    ),
    "agreement": (
        mcnqm.agreement, {**_run, **_where, "trajectories": 8, "seed": 0, "record": None, "error_rate": 1e-3},
    ),
    "noise": (mcnqm.noise, {"seed": 0, "trajectory": 0, "coordinate": 0, "steps": 3, "purpose": "gradient"}),
    "optimize_schedule": (mcnqm.optimize_schedule, {**_run, "steps": 20, "pieces": 3}),
    "scheduled_optimizer": (mcnqm.scheduled_optimizer, {"result": None}),
    "NoisyQuadratic": (
        mcnqm.NoisyQuadratic,
        {"curvature": [1.0, 0.5], "noise": [1.0, 1.0], "initial_mean": 0.0, "initial_std": 1.0, "multiplicity": 1},
    ),
    "power_law": (mcnqm.NoisyQuadratic.power_law, {"dim": 4, "exponent": 1.0}),
    "SGD": (mcnqm.SGD, {"lr": 0.1, "momentum": 0.0, "nesterov": False, "precondition": 0.0}),
    "Adam": (
        mcnqm.Adam,
        {"lr": 0.1, "beta1": 0.9, "beta2": 0.9, "eps": 1e-8, "weight_decay": 0.0, "bias_correction": True},
    ),
    "RMSProp": (mcnqm.RMSProp, {"lr": 0.1, "alpha": 0.9, "eps": 1e-8}),
    "Lion": (mcnqm.Lion, {"lr": 0.1, "beta1": 0.9, "beta2": 0.9, "weight_decay": 0.0}),
    "cosine": (schedules.cosine, {"value": 1.0, "steps": 10}),
    "tail": (averaging.tail, {"start": 5}),
    "mean_field.risk": (analytic.mean_field.risk, {**_run, "optimizer": ADAM, "record": None}),
    "mean_field.moments": (analytic.mean_field.moments, {**_run, "optimizer": ADAM, "record": None}),
    "mean_field.steps": (
        analytic.mean_field.steps_to_target,
        {"problem": PROBLEM, "optimizer": ADAM, "batch_size": 4, "target": 0.5, "max_steps": 100},
    ),
    "risk": (analytic.risk, {**_run, "record": None, "average": None}),
    "moments": (analytic.moments, {**_run, "record": None, "average": None}),
    "transition": (analytic.transition, _run),
    "steady_state": (analytic.steady_state, {"problem": PROBLEM, "optimizer": SGD, "batch_size": 4, "average": None}),
    "theorem1": (analytic.theorem1, {**_run, "record": None}),
    "information_bound": (analytic.information_bound, {"problem": PROBLEM, "examples": 4.0}),
    "bayes_bound": (analytic.bayes_bound, {"problem": PROBLEM, "examples": 4.0}),
    "sde_risk": (analytic.sde_risk, {**_run, "record": None}),
    "noise_scale": (analytic.noise_scale, {"problem": PROBLEM, "second_moment": None}),
    "greedy_lr": (analytic.greedy_lr, {"problem": PROBLEM, "batch_size": 4, "second_moment": None}),
    "analytic.steps": (
        analytic.steps_to_target,
        {
            "problem": PROBLEM, "optimizer": SGD, "batch_size": 4, "target": 0.5, "max_steps": 100, "average": None,
        },
    ),
    "convergence_rate": (analytic.convergence_rate, {"problem": PROBLEM, "optimizer": SGD}),
    "largest_stable_lr": (analytic.largest_stable_lr, {"problem": PROBLEM, "optimizer": SGD}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_an_answer_or_a_parameter_error(name):
    function, arguments = CALLS[name]
    for argument in arguments:
        for junk in JUNK:
            try:
                function(**{**arguments, argument: junk})
            except mcnqm.ParameterError:
                pass
            except Exception as error:
                pytest.fail(f"{name}({argument}={junk!r}): {type(error).__name__}: {error}")


@pytest.mark.parametrize("name", [name for name, (_, arguments) in CALLS.items() if "problem" in arguments])
def test_a_problem_of_another_type_is_refused_as_such(name):
    function, arguments = CALLS[name]
    for junk in (None, 3, [1.0, 0.5], xr.Dataset({"a": 1.0}), SGD):
        with pytest.raises(mcnqm.ParameterError, match=r"problem must be a mcnqm\.NoisyQuadratic"):
            function(**{**arguments, "problem": junk})


def test_tune_without_a_search():
    with pytest.raises(mcnqm.ParameterError, match="search must look like"):
        mcnqm.tune(PROBLEM, mcnqm.SGD(lr=[0.1, 0.2]), None, batch_size=4)
