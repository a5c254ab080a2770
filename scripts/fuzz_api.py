"""Fuzz the public API: random calls, reasonable, extreme and wrong, end in an answer or in `ParameterError`.

Anything else is a failure: another exception, a warning, a NaN where there can be none, a file left behind, or a call
that takes longer than its limit.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from fuzz import fuzz
from hypothesis import strategies as st

import mcnqm
from mcnqm import analytic, averaging, schedules

JUNK = st.sampled_from(
    [
        None, "x", b"a", True, -1, 0, 1.5, math.nan, math.inf, -math.inf, 10**30, 1j, [], {}, [[1], [1, 2]], object(),
        int, np.array([1.0, 2.0]), np.zeros((2, 2, 2)), np.array([]),
        np.datetime64("2020-01-01"), xr.Dataset({"a": 1.0}),
        xr.DataArray([1.0, 2.0], dims="q"), xr.DataArray(["a"], dims="lr"), mcnqm.SGD(lr=0.1),
    ]
)  # fmt: skip


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers on a logarithmic axis, and now and then one from its far ends."""
    usual = st.floats(math.log(low), math.log(high)).map(math.exp)
    return st.one_of(*[usual] * 12, st.sampled_from([1e-300, 1e-20, 1e20, 1e150, 1e200, 1e300, 5e-324, 1.0]))


def maybe_swept(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A number, or an array of a few, labelled or not."""
    few = st.lists(one, min_size=1, max_size=3)
    return st.one_of(one, one, few, few.map(lambda values: xr.DataArray(values, dims="sweep")))


def made(make: Any, **parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What a function makes of keyword arguments."""
    return st.fixed_dictionaries(parts).map(lambda drawn: make(**drawn))


rates = st.one_of(
    maybe_swept(numbers(1e-4, 3.0)),
    made(schedules.cosine, value=numbers(1e-3, 1.0), steps=st.integers(1, 100)),
    made(schedules.exponential, value=numbers(1e-3, 1.0), steps=st.integers(1, 100)),
)
fractions = st.one_of(st.floats(0.0, 0.999), st.sampled_from([0.0, 0.9, 1 - 1e-12]))
heavy = st.one_of(st.none(), st.none(), st.floats(2.01, 50.0))
quadratics = st.one_of(
    made(
        mcnqm.NoisyQuadratic.power_law, dim=st.integers(1, 40), exponent=st.floats(0.0, 3.0), noise_df=heavy,
        multiplicative_noise=st.one_of(st.just(0.0), st.just(0.0), numbers(1e-3, 10.0)),
    ),
    st.integers(1, 6).flatmap(
        lambda n: made(
            mcnqm.NoisyQuadratic,
            curvature=st.lists(numbers(1e-3, 10.0), min_size=n, max_size=n),
            noise=st.lists(numbers(1e-3, 10.0), min_size=n, max_size=n),
            initial_mean=st.floats(-3.0, 3.0),
            initial_std=st.one_of(st.just(0.0), numbers(1e-3, 10.0)),
            multiplicity=st.lists(st.integers(1, 4), min_size=n, max_size=n),
        )
    ),
)  # fmt: skip
wells = made(
    mcnqm.DoubleWell, sharp=st.floats(2.0, 20.0), wide=st.floats(0.3, 2.0), offset=st.floats(-0.1, 0.1),
    noise=numbers(1e-2, 30.0), start=st.sampled_from(["sharp", "wide"]), dim=st.integers(1, 5),
    initial_std=st.sampled_from([0.0, 0.1]),
)  # fmt: skip
anharmonic = made(
    mcnqm.QuarticWell, curvature=st.floats(0.0, 2.0), quartic=numbers(1e-2, 10.0), noise=numbers(1e-2, 10.0),
    initial_mean=st.floats(-2.0, 2.0), initial_std=st.sampled_from([0.0, 0.3]),
)  # fmt: skip
problems = st.one_of(quadratics, quadratics, quadratics, wells, anharmonic)
plain_sgd = made(mcnqm.SGD, lr=numbers(1e-4, 1.0))
linear = made(mcnqm.SGD, lr=rates, momentum=maybe_swept(fractions), nesterov=st.booleans(), precondition=fractions)
adaptive = st.one_of(
    made(mcnqm.Adam, lr=rates, beta1=fractions, beta2=fractions, eps=numbers(1e-10, 1e-2)),
    made(mcnqm.RMSProp, lr=rates, alpha=fractions),
)
optimizers = st.one_of(linear, adaptive, made(mcnqm.Lion, lr=rates, beta1=fractions, beta2=fractions))
batches = st.one_of(
    *[maybe_swept(st.one_of(st.integers(1, 4096), numbers(1.0, 1e6)))] * 4,
    made(schedules.piecewise, values=st.just([4.0, 16.0, 5.0]), lengths=st.just([10, 5, 300])),
    made(schedules.linear, value=numbers(1.0, 100.0), steps=st.integers(1, 100), final=st.floats(1.0, 3.0)),
)
averages = st.one_of(
    st.none(), st.none(), fractions, made(averaging.tail, start=st.integers(0, 50)), st.just(averaging.polynomial(2.0))
)
run = {"problem": problems, "optimizer": optimizers, "batch_size": batches, "steps": st.integers(0, 400)}
exactly = {
    **run,
    "problem": st.one_of(quadratics, quadratics, problems),
    "optimizer": linear,
    "steps": st.one_of(st.integers(0, 400), st.integers(0, 10**12)),
}
several = {"trajectories": st.integers(1, 40), "seed": st.integers(0, 2**64 - 1), "threads": st.just(1)}
targets = maybe_swept(numbers(1e-3, 10.0))
TO_TUNE = [mcnqm.SGD(lr=1.0), mcnqm.Adam(lr=1.0), mcnqm.Lion(lr=1.0)]
lengths = {"max_steps": st.integers(1, 5000)}
CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "simulate": (
        mcnqm.simulate,
        {
            **run, **several, "average": averages, "dtype": st.sampled_from(["float64", "float64", "float32"]),
            "minibatch": st.sampled_from(["exact", "exact", "per_example"]),
            "coordinates": st.one_of(st.none(), st.lists(st.integers(0, 9), min_size=1, max_size=3)),
            "record": st.one_of(st.none(), st.lists(st.integers(0, 400), max_size=5)),
            "control_variate": st.sampled_from([None, None, True, False]),
            "record_state": st.sampled_from([False, False, True, ["momentum"], ["second_moment"]]),
            "target": st.one_of(st.none(), st.none(), numbers(1e-3, 10.0), st.just([1.0, 0.1])),
            "reduce": st.sampled_from([None, None, "quantiles", {"quantiles": [0.1, 0.5]}, {"histogram": [0.0, 1.0]}]),
        },
    ),
    "steps_to_target": (
        mcnqm.steps_to_target,
        {
            **{k: v for k, v in run.items() if k != "steps"}, **several, **lengths, "target": targets,
            "trajectories": st.integers(1, 4), "replicates": st.integers(2, 4), "average": averages,
            "overtaken_factor": st.one_of(st.none(), st.floats(1.0, 3.0)),
        },
    ),
    "steps_to_target by theory": (
        mcnqm.steps_to_target,
        {
            **{k: v for k, v in run.items() if k != "steps"}, **lengths, "target": targets, "average": averages,
            "method": st.sampled_from(["analytic", "mean-field"]),
        },
    ),
    "tune": (
        mcnqm.tune,
        {
            "problem": problems, "optimizer": st.one_of(st.just(mcnqm.SGD(lr=1.0)), st.just(mcnqm.Adam(lr=1.0))),
            "search": st.just({"lr": (0.01, 1.0)}), "batch_size": st.integers(16, 4096),
            "target": st.floats(0.2, 3.0), **lengths, "method": st.sampled_from(["simulate", "analytic", "mean-field"]),
        },
    ),
    "tune at a horizon": (
        mcnqm.tune,
        {
            "problem": problems, "optimizer": st.sampled_from(TO_TUNE),
            "search": st.just({"lr": (0.01, 1.0)}), "batch_size": st.one_of(st.integers(16, 4096), st.just([4, 64])),
            "steps": st.one_of(st.none(), st.integers(1, 300)), "examples": st.one_of(st.none(), st.integers(64, 4096)),
            "method": st.sampled_from(["simulate", "analytic", "mean-field"]),
        },
    ),
    "agreement": (
        mcnqm.agreement,
        {
            **exactly, **several, "steps": st.integers(0, 60), "trajectories": st.integers(8, 40), "average": averages,
        },
    ),
    "noise": (
        mcnqm.noise,
        {
            "seed": several["seed"], "trajectory": st.integers(0, 2**32 - 1), "coordinate": st.integers(0, 2**32 - 1),
            "steps": st.integers(0, 100), "purpose": st.sampled_from(["gradient", "initial"]),
        },
    ),
    "optimize_schedule": (
        mcnqm.optimize_schedule,
        {
            "problem": quadratics, "optimizer": st.just(mcnqm.SGD(lr=1.0)), "batch_size": st.integers(1, 256),
            "steps": st.integers(1, 60), "pieces": st.integers(1, 4),
            "largest_lr": st.one_of(st.none(), numbers(1e-3, 3.0)),
            "largest_risk": st.one_of(st.none(), st.none(), numbers(1e-2, 100.0)),
        },
    ),
    "optimize_schedule by simulation": (
        mcnqm.optimize_schedule,
        {
            "problem": st.one_of(made(mcnqm.NoisyQuadratic.power_law, dim=st.integers(1, 20)), wells, anharmonic),
            "optimizer": st.sampled_from(TO_TUNE),
            "batch_size": st.integers(1, 256), "steps": st.integers(1, 40), "pieces": st.integers(1, 3),
            "reference_trajectories": st.just(2),
        },
    ),
    "chain.risk": (
        analytic.chain.risk,
        {"problem": problems, "optimizer": plain_sgd, "batch_size": numbers(1.0, 1e6), "steps": st.integers(0, 400)},
    ),
    "chain.occupancy": (
        analytic.chain.occupancy,
        {"problem": wells, "optimizer": plain_sgd, "batch_size": numbers(1.0, 1e6), "steps": st.integers(0, 400)},
    ),
    "chain.stationary": (
        analytic.chain.stationary, {"problem": problems, "optimizer": plain_sgd, "batch_size": numbers(1.0, 1e6)},
    ),
    "chain.escape_steps": (
        analytic.chain.escape_steps, {"problem": wells, "optimizer": plain_sgd, "batch_size": numbers(1.0, 1e6)},
    ),
    "risk": (analytic.risk, {**exactly, "average": averages}),
    "moments": (analytic.moments, {**exactly, "average": averages}),
    "transition": (analytic.transition, exactly),
    "steady_state": (analytic.steady_state, {k: exactly[k] for k in ("problem", "optimizer", "batch_size")}),
    "theorem1": (analytic.theorem1, exactly),
    "sde_risk": (analytic.sde_risk, exactly),
    "convergence_rate": (analytic.convergence_rate, {k: exactly[k] for k in ("problem", "optimizer")}),
    "largest_stable_lr": (analytic.largest_stable_lr, {k: exactly[k] for k in ("problem", "optimizer")}),
    "information_bound": (analytic.information_bound, {"problem": problems, "examples": numbers(1.0, 1e9)}),
    "bayes_bound": (analytic.bayes_bound, {"problem": problems, "examples": numbers(1.0, 1e9)}),
    "noise_scale": (analytic.noise_scale, {"problem": problems}),
    "greedy_lr": (analytic.greedy_lr, {"problem": problems, "batch_size": batches}),
    "mean_field.risk": (analytic.mean_field.risk, {**run, "optimizer": adaptive}),
    "mean_field.moments": (analytic.mean_field.moments, {**run, "optimizer": adaptive}),
}  # fmt: skip


def try_one(data: st.DataObject, counts: Counter[str]) -> None:
    """Draw a call, now and then with an argument of a wrong type, and make it."""
    name = data.draw(st.sampled_from(list(CALLS)), label="call")
    function, strategies = CALLS[name]
    wrong = data.draw(st.one_of(st.none(), st.none(), st.none(), st.sampled_from(list(strategies))), label="wrong")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            arguments = {
                key: data.draw(JUNK if key == wrong else strategy, label=key) for key, strategy in strategies.items()
            }
            answer = function(**arguments)
        except mcnqm.ParameterError:
            counts[f"{name}: refused"] += 1
            return
    counts[f"{name}: answered"] += 1
    if name == "simulate":
        assert "loss" not in answer or not np.isnan(answer.loss).any(), "a NaN loss"
        assert not np.isnan(answer.risk).any(), "a NaN risk"
    if name in ("steps_to_target", "steps_to_target by theory", "tune"):
        assert not np.isnan(answer.steps).any(), "NaN steps"
    if name == "risk":
        assert not np.isnan(answer.risk).any(), "a NaN risk"
        assert (answer.risk >= 0).all(), "a negative risk"
    assert not list(Path.cwd().iterdir()), "a file was left behind"


if __name__ == "__main__":
    fuzz(__doc__ or "", try_one)
