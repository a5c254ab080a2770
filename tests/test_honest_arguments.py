"""What an answer does not use is refused by name, and never ignored; so is what would mean two things."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm import SGD, Adam, Lion, NoisyQuadratic, ParameterError, analytic, schedules
from mcnqm.arguments import value_of
from mcnqm.progress import NoMeter

PROBLEM = NoisyQuadratic.power_law(dim=8)
HALF, ONE = SGD(lr=0.5), SGD(lr=1.0)
RATES = {"lr": (0.01, 1.0)}
TWO = {"lr": (0.01, 1.0), "momentum": (0.0, 0.9)}


def steps_to_target(optimizer=HALF, **changes):
    return mcnqm.steps_to_target(PROBLEM, optimizer, 64, 0.5, **changes)


def tune(optimizer=ONE, search=RATES, **changes):
    return mcnqm.tune(PROBLEM, optimizer, search, **{"batch_size": 64, "target": 0.5, **changes})


def schedule(optimizer=ONE, **changes):
    given = {} if "target" in changes else {"steps": 10}
    return mcnqm.optimize_schedule(PROBLEM, optimizer, **{"batch_size": 64, **given, **changes})


ONLY_SIMULATED = {"trajectories": 4, "replicates": 16, "seed": 0, "dtype": "float64", "threads": 1}
"""Some at their defaults: what is given and not used is refused, whatever its value."""

REFUSED = [
    *((steps_to_target, {"method": "analytic", name: value}, name) for name, value in ONLY_SIMULATED.items()),
    (steps_to_target, {"method": "analytic", "control_variate": True}, "control_variate"),
    (steps_to_target, {"method": "analytic", "control_variate": False}, "control_variate"),
    (steps_to_target, {"method": "analytic", "executor": ThreadPoolExecutor(1)}, "executor"),
    (steps_to_target, {"method": "analytic", "overtaken_factor": 2.0}, "overtaken_factor"),
    *(
        (steps_to_target, {"optimizer": Adam(lr=0.1), "method": "mean-field", name: value}, name)
        for name, value in {**ONLY_SIMULATED, "control_variate": True, "average": 0.9}.items()
    ),
    (steps_to_target, {"control_variate": True}, "control_variate"),
    (steps_to_target, {"optimizer": Lion(lr=0.1), "control_variate": True}, "control_variate"),
    (steps_to_target, {"optimizer": Adam(lr=0.1), "control_variate": True, "average": 0.9}, "control_variate"),
    (steps_to_target, {"optimizer": Adam(lr=0.1), "control_variate": True, "dtype": "float32"}, "control_variate"),
    *(
        (tune, {"method": "analytic", name: value}, name)
        for name, value in {"reference_trajectories": 1, "replicates": 16, "seed": 0, "dtype": "float64"}.items()
    ),
    (tune, {"method": "analytic", "search": TWO, "replicates": 16}, "replicates"),
    (tune, {"method": "mean-field", "optimizer": Adam(lr=1.0), "threads": 1}, "threads"),
    (tune, {"batch_size": [4, 4]}, "batch_size"),
    *(
        (schedule, {name: value}, name)
        for name, value in {"reference_trajectories": 16, "seed": 0, "threads": 1, "refine": True}.items()
    ),
    (schedule, {"max_steps": 100}, "max_steps"),
    (schedule, {"lengths": [5, 5], "pieces": 2}, "pieces"),
    (schedule, {"lengths": [5, 5], "spacing": "equal"}, "spacing"),
    (schedule, {"optimizer": Adam(lr=1.0), "tune_momentum": True}, "tune_momentum"),
    (schedule, {"optimizer": Adam(lr=1.0), "lengths": [5, 5]}, "lengths"),
    (schedule, {"optimizer": Adam(lr=1.0), "target": 0.5, "max_steps": 2**30}, "max_steps"),
    (schedule, {"batch_size": [4, 8, 4]}, "batch_size"),
    (steps_to_target, {"optimizer": SGD(lr=[0.1, 0.2, 0.1])}, "lr"),
    (tune, {"target": [0.1, 0.2]}, "target"),
    (schedule, {"target": [0.1, 0.2]}, "target"),
]


@pytest.mark.parametrize(
    ("call", "changes", "name"),
    REFUSED,
    ids=lambda x: x if isinstance(x, str) else getattr(x, "__name__", None) or "-".join(x),
)
def test_refused_by_name(call, changes, name):
    with pytest.raises(ParameterError) as caught:
        call(**changes)
    assert caught.value.name == name


@pytest.mark.parametrize(
    "call",
    [
        lambda lr: mcnqm.simulate(PROBLEM, SGD(lr=lr), 4, 5),
        lambda lr: analytic.risk(PROBLEM, SGD(lr=lr), 4, 5),
        lambda lr: analytic.steps_to_target(PROBLEM, SGD(lr=0.1), 4, lr),
        lambda lr: analytic.mean_field.risk(PROBLEM, Adam(lr=lr), 4, 5),
        lambda lr: mcnqm.agreement(PROBLEM, SGD(lr=lr), 4, 5),
        lambda lr: mcnqm.simulate(PROBLEM, SGD(lr=xr.DataArray(lr, dims="lr", coords={"lr": lr})), 4, 5),
    ],
    ids=["simulate", "risk", "target", "mean field", "agreement", "labels"],
)
def test_a_value_twice_in_a_sweep_is_refused(call):
    with pytest.raises(ParameterError, match=r"must have distinct values, which label a sweep, got '0\.1 twice'"):
        call([0.1, 0.2, 0.1])
    call([0.1, 0.2, 0.3])


def test_what_is_left_out_is_not_refused():
    """Nor is None, which stands for the default; and a seed is used where a search in theory draws at random."""
    assert steps_to_target(method="analytic", seed=None, progress=False).steps > 0
    assert tune(method="analytic", threads=None).steps > 0
    tune(method="analytic", search=TWO, seed=3)
    assert schedule(Adam(lr=1.0), pieces=2, refine=False, seed=1, baselines=False).risk > 0


def test_defaults_are_shown_and_are_what_is_used():
    signature = inspect.signature(mcnqm.steps_to_target)
    assert "trajectories: 'int' = 4" in str(signature)
    shown = {name: value_of(signature.parameters[name].default) for name in ("trajectories", "replicates", "seed")}
    assert shown == {"trajectories": 4, "replicates": 16, "seed": 0}
    xr.testing.assert_equal(steps_to_target(), steps_to_target(**shown, dtype="float64"))


@pytest.mark.parametrize(("method", "optimizer"), [("analytic", SGD(lr=0.5)), ("mean-field", Adam(lr=0.1))])
def test_the_method_reads_back_as_it_was_passed(method, optimizer):
    assert steps_to_target(optimizer, method=method).attrs["method"] == method
    assert tune(optimizer, method=method).attrs["method"] == method


def test_theories_stop_where_they_are_told():
    theory = {"method": "analytic", "target": 0.1}
    needed = int(tune(**theory).steps)
    assert tune(**theory, max_steps=needed).steps == needed
    assert np.isinf(tune(**theory, max_steps=needed - 1).steps)
    assert np.isinf(tune(Adam(lr=1.0), {"lr": (0.01, 0.02)}, method="mean-field", target=0.1, max_steps=1).steps)


class _Counting(NoMeter):
    def __init__(self):
        self.total, self.done, self.closed = None, 0.0, False

    def start(self, total, label):
        self.total = total

    def advance(self, amount):
        self.done += amount

    def close(self):
        self.closed = True


@pytest.mark.parametrize("options", [{"method": "analytic"}, {"max_steps": 512}], ids=["analytic", "simulate"])
def test_tuning_tells_its_progress(options):
    meter = _Counting()
    tune(batch_size=[16, 64], progress=meter, **options)
    assert (meter.total, meter.done, meter.closed) == (2.0, 2.0, True)


def test_old_names_work_and_warn():
    with pytest.warns(DeprecationWarning, match="trajectories is now reference_trajectories"):
        old = tune(trajectories=1, max_steps=512)
    xr.testing.assert_equal(old, tune(reference_trajectories=1, max_steps=512))
    with pytest.warns(DeprecationWarning, match="patience is now overtaken_factor"):
        steps_to_target(SGD(lr=[0.5, 0.1]), patience=2.0, max_steps=64)
    with pytest.raises(ParameterError, match="patience must be left out where overtaken_factor"):
        steps_to_target(patience=2.0, overtaken_factor=2.0)
    best = schedule(pieces=2)
    with pytest.warns(DeprecationWarning, match=r"mcnqm\.schedules_of is now mcnqm\.scheduled_optimizer"):
        assert mcnqm.schedules_of(best) == mcnqm.scheduled_optimizer(best)
    assert isinstance(mcnqm.scheduled_optimizer(best).lr, schedules.Schedule)
