"""Sweeps by name: what is zipped, and which names a dimension may not have."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm import SGD, Adam, NoisyQuadratic, ParameterError, analytic
from mcnqm.optimizers import Number, hyperparameters
from mcnqm.settings import NO_BATCH_SIZE, RESULT_NAMES, THEORY_NAMES, settings_of
from mcnqm.studies.comparison import compare

PROBLEM = NoisyQuadratic.power_law(dim=5)


def along(dim, values=(0.1, 0.2), **labels):
    return xr.DataArray(list(values), dims=dim, coords=labels or None)


def short(optimizer, batch_size=4.0):
    return mcnqm.simulate(PROBLEM, optimizer, batch_size, 3, trajectories=2)


def refused(call, name, dim):
    with pytest.raises(ParameterError) as caught:
        call()
    assert caught.value.name == name
    assert caught.value.value == f"dimension {dim!r}"
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ names of results


@pytest.mark.parametrize("dim", RESULT_NAMES + THEORY_NAMES)
def test_a_dimension_named_like_a_part_of_a_result(dim):
    message = refused(lambda: short(SGD(lr=along(dim))), "lr", dim)
    assert "not use the names in a result for a dimension (trajectory, step," in message


def test_it_is_refused_by_either_route_and_for_the_batch_size():
    refused(lambda: analytic.risk(PROBLEM, SGD(lr=along("risk")), 4, 3), "lr", "risk")
    refused(lambda: mcnqm.steps_to_target(PROBLEM, SGD(lr=along("steps")), 4, 0.1), "lr", "steps")
    refused(lambda: short(SGD(lr=0.1), along("loss", [1, 2])), "batch_size", "loss")


def test_names_of_theory_are_free_for_optimizers_that_have_none():
    decay = along("decay", [0.1, 0.01])
    assert short(Adam(lr=0.1, beta2=1 - decay)).risk.dims == ("decay", "step")


def test_every_name_in_a_result_is_reserved_and_no_other():
    """What may not be a dimension is what the results hold: neither list may grow without the other."""
    sgd, pair = SGD(lr=0.1, momentum=0.5), {"a": SGD(lr=0.1), "b": Adam(lr=0.1)}
    results = [
        mcnqm.simulate(PROBLEM, sgd, 4, 3, trajectories=2, coordinates=[0]),
        mcnqm.simulate(PROBLEM, Adam(lr=0.1), 4, 3, trajectories=2, coordinates=[0], record_state=True, target=0.1),
        mcnqm.simulate(PROBLEM, sgd, 4, 3, trajectories=2, reduce={"quantiles": [0.5], "histogram": [0.0, 1.0]}),
        compare(PROBLEM, pair, 4, 3, trajectories=2),
        mcnqm.steps_to_target(PROBLEM, sgd, 4, 0.5, trajectories=2, replicates=2),
        mcnqm.steps_to_target(PROBLEM, sgd, 4, 0.5, method="analytic"),
        mcnqm.tune(PROBLEM, sgd, {"lr": (0.1, 0.2)}, batch_size=4, target=0.5, method="analytic"),
        mcnqm.agreement(PROBLEM, sgd, 4, 3, trajectories=8),
        analytic.risk(PROBLEM, sgd, mcnqm.schedules.linear(4.0, steps=3, final=2.0), 3),
        analytic.moments(PROBLEM, sgd, 4, 3, average=0.9),
        analytic.steady_state(PROBLEM, sgd, 4, average=0.9),
        analytic.transition(PROBLEM, sgd, 4, 3),
        analytic.convergence_rate(PROBLEM, sgd),
        analytic.largest_stable_lr(PROBLEM, sgd),
        analytic.theorem1(PROBLEM, SGD(lr=0.1), 4, 3),
        analytic.sde_risk(PROBLEM, SGD(lr=0.1), 4, 3),
        analytic.greedy_lr(PROBLEM, 4),
        analytic.mean_field.risk(PROBLEM, Adam(lr=0.1), 4, 3),
        analytic.mean_field.moments(PROBLEM, Adam(lr=0.1), 4, 3),
        analytic.mean_field.steps_to_target(PROBLEM, Adam(lr=0.1), 4, 0.5),
    ]
    found = {str(name) for result in results for name in (*result.variables, *result.dims)}
    arguments = {"lr_stderr", "lr_interval", "batch_size", "target", "average", *SGD._fields, *Adam._fields}
    arguments |= {"quantile", "bin", "state_first_moment", "state_second_moment"}  # refused where they are asked for
    assert found - arguments == {*RESULT_NAMES, *THEORY_NAMES}


# --------------------------------------------------------------------------------------- names of hyperparameters


@pytest.mark.parametrize("dim", ["momentum", "precondition", "nesterov", "batch_size"])
def test_a_dimension_named_like_a_hyperparameter_that_does_not_vary_along_it(dim):
    message = refused(lambda: short(SGD(lr=along(dim))), "lr", dim)
    assert "only where that one varies along it" in message


def test_nor_one_that_varies_along_more():
    grid = xr.DataArray([[0.1, 0.2]], dims=("x", "momentum"))
    refused(lambda: short(SGD(lr=along("momentum"), momentum=grid)), "lr", "momentum")
    refused(lambda: short(SGD(lr=0.1, momentum=grid)), "momentum", "momentum")


def test_nor_a_level_of_its_labels():
    """A stacked dimension brings its levels into the result as coordinates."""
    stacked = xr.DataArray([[0.1, 0.2]], dims=("risk", "b"), coords={"risk": [1], "b": [1, 2]}).stack(k=("risk", "b"))
    refused(lambda: short(SGD(lr=stacked)), "lr", "risk")


def test_nor_one_that_is_not_a_name():
    refused(lambda: short(SGD(lr=along([3]))), "lr", 3)


def test_a_target_for_every_rate():
    lr, target = along("target", [0.1, 0.2]), along("target", [0.5, 0.4])
    both = mcnqm.steps_to_target(PROBLEM, SGD(lr=lr), 4, target, trajectories=2, replicates=2)
    assert both.steps.dims == ("target",)
    assert both.target.values.tolist() == [0.5, 0.4]
    refused(lambda: mcnqm.steps_to_target(PROBLEM, SGD(lr=lr), 4, 0.5), "lr", "target")


@pytest.mark.parametrize("labelled", [False, True])
def test_rate_and_batch_size_zipped(labelled):
    B = along("batch_size", [1, 4], **({"batch_size": [1, 4]} if labelled else {}))
    runs = short(SGD(lr=0.1 * B), B)
    assert runs.risk.dims == ("batch_size", "step")
    assert runs.batch_size.values.tolist() == [1, 4]
    np.testing.assert_allclose(runs.lr, [0.1, 0.4])
    one = short(SGD(lr=0.4), 4)
    assert np.array_equal(runs.risk.sel(batch_size=4), one.risk)


def test_a_rate_along_a_batch_size_that_is_a_plain_array():
    runs = short(SGD(lr=along("batch_size", [0.1, 0.4])), [1, 4])
    assert runs.lr.sel(batch_size=4) == 0.4


def test_a_rate_along_the_momentum_it_belongs_to():
    beta = along("momentum", [0.0, 0.9])
    runs = short(SGD(lr=0.1 * (1 - beta), momentum=beta))
    assert runs.risk.dims == ("momentum", "step")
    np.testing.assert_allclose(runs.lr.sel(momentum=0.9), 0.01)


def test_labels_of_another_do_not_stand_for_the_values():
    """The rate's labels, 5 and 6, are not the momenta that were run."""
    beta = along("momentum", [0.0, 0.9])
    with pytest.raises(ParameterError, match="hyperparameters must agree on the length and the labels"):
        short(SGD(lr=along("momentum", momentum=[5, 6]), momentum=beta))


def test_without_a_batch_size_its_name_is_free():
    sweep = settings_of(SGD(lr=along("batch_size")), NO_BATCH_SIZE)
    assert sweep.dims == ("batch_size",)
    assert "batch_size" not in sweep.coords
    assert "batch_size" not in sweep.values


# -------------------------------------------------------------------------------------------------- names of fields


@pytest.mark.parametrize("field", ["risk", "step", "batch_size"])
@pytest.mark.parametrize("value", [0.1, along("k")], ids=["scalar", "DataArray"])
def test_fields_of_an_optimizer_named_like_parts_of_a_result(field, value):
    cls = hyperparameters()(NamedTuple("Own", [(field, Number)]))
    with pytest.raises(ParameterError) as caught:
        settings_of(cls(value), 4)
    assert caught.value.name == "optimizer"
    assert caught.value.value == f"field {field!r}"


# ------------------------------------------------------------------------------------------------------- comparisons


def test_several_optimizers_may_follow_the_batch_size():
    """Each by its own rule: no coordinate may claim that all had the rates of one."""
    B = along("batch_size", [1.0, 4.0])
    runs = compare(PROBLEM, {"a": SGD(lr=0.1 * B), "b": SGD(lr=0.2)}, B, 3, trajectories=2)
    assert runs.risk.dims == ("optimizer", "batch_size", "step")
    assert "lr" not in runs.coords
    assert np.array_equal(runs.risk.sel(optimizer="a", batch_size=4), short(SGD(lr=0.4)).risk)
    with pytest.raises(ParameterError, match="must have scalar hyperparameters"):
        compare(PROBLEM, {"a": SGD(lr=[0.1, 0.2]), "b": SGD(lr=0.2)}, B, 3)
