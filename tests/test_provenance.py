import json
import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm import SGD, Adam, NoisyQuadratic, ParameterError, RMSProp, analytic, averaging, provenance, schedules
from mcnqm.domains import positive
from mcnqm.files import write_dataset
from mcnqm.provenance import arguments_of, encoded, optimizer_of, problem_of, rerun
from mcnqm.studies.batch_growth import BatchGrowthConfig
from mcnqm.studies.batch_growth import run as run_growth
from mcnqm.studies.comparison import compare
from mcnqm.studies.contenders import Contender
from mcnqm.studies.mean_field import MeanFieldConfig
from mcnqm.studies.mean_field import run as run_field
from mcnqm.studies.scaling import ScalingConfig
from mcnqm.studies.scaling import run as run_scaling
from mcnqm.studies.schedules import ScheduleConfig
from mcnqm.studies.schedules import run as run_schedules

THIRDS = NoisyQuadratic(
    curvature=np.array([1.0, 1 / 3, 1 / 7]),
    noise=[0.1, 1 / 9, 0.3],
    initial_mean=[0.0, -1 / 3, 2.0],
    multiplicity=[1, 2, 1],
)
PAPER = NoisyQuadratic.power_law(12)
B = xr.DataArray([2.0, 8.0], dims="batch_size", coords={"batch_size": [2, 8]}, attrs={"units": "examples"})
FALL = schedules.join([schedules.linear(0.3, 10), schedules.cosine(0.2, 20, final=1 / 3)], [7])
BOTH = schedules.stack(
    {"a": schedules.exponential(0.1, 30, final=1 / 7), "b": schedules.piecewise([0.2, 1 / 3], [5, 6])}
)


def read_back(result, tmp_path):
    write_dataset(result, tmp_path / "result.nc")
    with xr.open_dataset(tmp_path / "result.nc") as back:
        return back.load()


def same_numbers(one, two):
    assert set(one.variables) == set(two.variables)
    for name, variable in one.variables.items():
        np.testing.assert_array_equal(variable.values, two[name].values, err_msg=name)


RESULTS = {
    "simulate": lambda: mcnqm.simulate(THIRDS, SGD(lr=[0.1, 1 / 3], momentum=0.9), B, 40, trajectories=3, seed=2**63),
    "schedule": lambda: mcnqm.simulate(THIRDS, SGD(lr=FALL * [1.0, 1 / 3]), 4, 40, trajectories=2),
    "stack": lambda: mcnqm.simulate(PAPER, Adam(lr=BOTH, beta1=FALL), B, 30, trajectories=8, record=[3, 30]),
    "growing batch": lambda: mcnqm.simulate(
        PAPER, SGD(lr=0.1 * B), schedules.exponential(B, 20, final=3.0), 30, trajectories=2, average=averaging.tail(5)
    ),
    "per example": lambda: mcnqm.simulate(PAPER, RMSProp(lr=0.1), 4, 9, minibatch="per_example", trajectories=2),
    "state": lambda: mcnqm.simulate(
        PAPER, Adam(lr=0.1), 4, 30, trajectories=3, coordinates=[1], record_state=["first_moment"], target=[2.0, 1.0]
    ),
    "reduced": lambda: mcnqm.simulate(PAPER, SGD(lr=0.1), 4, 9, reduce={"quantiles": [0.1], "histogram": [0, 1, 9]}),
    "law": lambda: analytic.loss_law(THIRDS, SGD(lr=0.1), 4, 9, probability=[1 / 3]),
    "effective": lambda: analytic.effective_lr(PAPER, Adam(lr=FALL), 4, 9, coordinates=[3]),
    "wells": lambda: mcnqm.simulate(
        mcnqm.DoubleWell(sharp=8.0, wide=1.0, separation=1.5, offset=0.05, noise=12.0), SGD(lr=0.02), 8, 9
    ),
    "multiplicative": lambda: mcnqm.simulate(
        NoisyQuadratic([1.0, 0.5], multiplicative_noise=1 / 3, noise_df=5.0), SGD(lr=0.1), 8, 9
    ),
    "float32": lambda: mcnqm.simulate(PAPER, mcnqm.Lion(lr=0.01), 4, 9, dtype="float32", coordinates=[1, 3]),
    "steps": lambda: mcnqm.steps_to_target(PAPER, SGD(lr=[0.1, 0.2]), 16, 0.3, replicates=4, trajectories=2, seed=2),
    "exact steps": lambda: mcnqm.steps_to_target(PAPER, SGD(lr=0.1), 16, [0.3, 0.2], method="analytic"),
    "field steps": lambda: mcnqm.steps_to_target(PAPER, Adam(lr=0.01), 16, 0.3, method="mean-field"),
    "tune": lambda: mcnqm.tune(PAPER, SGD(1.0), {"lr": (0.01, 1)}, batch_size=B, target=0.2, method="analytic"),
    "best schedule": lambda: mcnqm.optimize_schedule(PAPER, SGD(lr=0.1), [4, 16], target=0.2, pieces=3),
    "agreement": lambda: mcnqm.agreement(THIRDS, SGD(lr=0.1), 8, 20, trajectories=16, seed=4),
    "risk": lambda: analytic.risk(THIRDS, SGD(lr=FALL), B, 2**40, record=[0, 2**40], average=averaging.growing(0.9)),
    "moments": lambda: analytic.moments(THIRDS, SGD(lr=0.1, momentum=0.5), 8, 20, coordinates=[0, 2]),
    "steady": lambda: analytic.steady_state(THIRDS, SGD(lr=[0.1, 0.2]), 8),
    "passage": lambda: analytic.steps_to_target(THIRDS, SGD(lr=0.1), 64, 0.1),
    "theorem": lambda: analytic.theorem1(THIRDS, SGD(lr=0.1, momentum=0.5), 64, 10),
    "sde": lambda: analytic.sde_risk(THIRDS, SGD(lr=0.1), 64, 10),
    "transition": lambda: analytic.transition(THIRDS, SGD(lr=0.1, momentum=0.1), 64, 10),
    "rate": lambda: analytic.convergence_rate(THIRDS, SGD(lr=0.1)),
    "edge": lambda: analytic.largest_stable_lr(THIRDS, SGD(lr=0.1)),
    "bounds": lambda: analytic.bayes_bound(THIRDS, [1.0, 2.5]),
    "information": lambda: analytic.information_bound(THIRDS, 3.5),
    "scales": lambda: analytic.noise_scale(THIRDS),
    "greedy": lambda: analytic.greedy_lr(THIRDS, B, second_moment=[1 / 3, 2.0, 1.0]),
    "field": lambda: analytic.mean_field.moments(PAPER, Adam(lr=0.01), B, 10, nodes=3),
    "compare": lambda: compare(PAPER, {"s": SGD(lr=0.1), "a": Adam(lr=0.01 * B)}, B, 9, trajectories=8),
}  # fmt: skip
STUDIES = {
    "growth": lambda: run_growth(
        BatchGrowthConfig(PAPER, {"sgd": SGD(lr=1 / 3)}, batch_size=2, stages=2, examples=64, trajectories=3)
    ),
    "scaling": lambda: run_scaling(
        ScalingConfig(PAPER, {"mine": Contender(SGD(lr=1.0), {"lr": (0.1, 1.0)})}, batch_sizes=(64, 128), target=0.3)
    ),
    "schedules": lambda: run_schedules(ScheduleConfig(PAPER, batch_sizes=(16,), target=0.3, pieces=3)),
    "mean field": lambda: run_field(
        MeanFieldConfig(PAPER, batch_sizes=(16,), beta2=(0.9,), target=0.3, trajectories=4, points=3)
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_runs_again_from_its_file(name, tmp_path):
    result = RESULTS[name]()
    again = rerun(read_back(result, tmp_path))
    same_numbers(result, again)
    assert again.attrs == result.attrs
    assert result.attrs["mcnqm_version"] == mcnqm.__version__


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_again_from_its_file(name, tmp_path):
    result = STUDIES[name]()
    back = read_back(result, tmp_path)
    assert problem_of(back) == PAPER
    if name != "mean field":  # whose optimizer is Adam, always
        assert all(isinstance(one, (SGD, Adam)) for one in optimizer_of(back).values())
    again = rerun(back)
    same_numbers(result, again)
    assert again.attrs == result.attrs


def test_problem_and_optimizer_are_those_that_were_passed(tmp_path):
    optimizer = Adam(lr=BOTH, beta1=FALL, beta2=[0.9, 1 / 3])
    runs = read_back(mcnqm.simulate(THIRDS, optimizer, 4, 20, trajectories=2), tmp_path)
    assert problem_of(runs) == THIRDS
    assert optimizer_of(runs) == optimizer
    assert optimizer_of(runs) != optimizer._replace(beta2=0.9)
    arguments = arguments_of(runs)
    assert (arguments["batch_size"], arguments["steps"], arguments["average"]) == (4, 20, None)
    both = compare(PAPER, {"s": SGD(lr=0.1), "m": SGD(lr=0.1, momentum=0.5)}, 4, 5, trajectories=2)
    assert optimizer_of(both)["m"] == SGD(lr=0.1, momentum=0.5)


@pytest.mark.parametrize("method", ["simulate", "analytic"])
def test_the_method_is_under_the_name_that_was_passed(method):
    best = mcnqm.tune(PAPER, SGD(1.0), {"lr": (0.1, 1.0)}, batch_size=64, target=0.5, method=method)
    assert best.attrs["method"] == method
    assert mcnqm.steps_to_target(PAPER, SGD(0.2), 64, 0.5, method=method).attrs["method"] == method
    assert mcnqm.steps_to_target(PAPER, Adam(0.02), 64, 0.5, method="mean-field").attrs["method"] == "mean-field"


def test_changes_are_arguments():
    runs = mcnqm.simulate(PAPER, SGD(lr=0.1), 4, 20, trajectories=2)
    other = rerun(runs, seed=1, threads=1)
    same_numbers(other, mcnqm.simulate(PAPER, SGD(lr=0.1), 4, 20, trajectories=2, seed=1))
    assert (other.loss != runs.loss).any()
    with pytest.raises(ParameterError, match="changes must be arguments of mcnqm"):
        rerun(runs, sead=1)


@pytest.mark.parametrize("wrong", [3, xr.Dataset(), xr.Dataset(attrs={"config": "{}"})])
def test_a_dataset_of_something_else_is_refused(wrong):
    for ask in (rerun, problem_of, optimizer_of):
        with pytest.raises(ParameterError, match="result must"):
            ask(wrong)


@pytest.mark.parametrize("name", ["os.system", "mcnqm.noise", "mcnqm.nothing", "mcnqm.no.where", None])
def test_only_functions_of_the_package_are_called(name):
    result = xr.Dataset(attrs={"config": json.dumps({"function": name, "command": "true"})})
    with pytest.raises(ParameterError, match="result must be of a function"):
        rerun(result)


def halves(step):
    return 0.5 ** (step / 10)


def test_functions_of_the_step_are_found_by_name_or_refused():
    named = mcnqm.simulate(PAPER, SGD(lr=schedules.from_function(halves, 0.3)), 4, 20, trajectories=2)
    same_numbers(rerun(named), named)
    local = mcnqm.simulate(PAPER, SGD(lr=schedules.from_function(lambda t: 0.1 + 0 * t)), 4, 20, trajectories=2)
    with pytest.raises(ParameterError, match="result must be of functions of the step that are known here"):
        rerun(local)
    assert problem_of(local) == PAPER


@mcnqm.hyperparameters(lr=positive)
class WrittenDown(NamedTuple):
    lr: float


@provenance.register
@dataclass(frozen=True)
class Wells:
    sharp: float
    places: tuple[float, ...]


def test_classes_of_ones_own():
    assert provenance.decoded(json.loads(json.dumps(encoded(WrittenDown(lr=1 / 3))))) == WrittenDown(lr=1 / 3)
    wells = Wells(1 / 3, (0.1, 0.2))
    back = provenance.decoded(json.loads(json.dumps(encoded(wells))))
    assert (type(back), back.sharp, tuple(back.places)) == (Wells, 1 / 3, (0.1, 0.2))
    with pytest.raises(ParameterError, match="known here"):
        provenance.decoded({"kind": "Unheard"})
    with pytest.raises(ParameterError, match="known here"):
        provenance.decoded({"name": "Unheard", "lr": 0.1})
    with pytest.raises(ParameterError, match="can be written down"):
        provenance.decoded(encoded(object()))


def test_labels_of_several_levels_come_back():
    index = xr.Coordinates.from_pandas_multiindex(
        xr.DataArray([0.0, 1.0], dims="at", coords={"p": ("at", [1, 2]), "q": ("at", ["x", "y"])})
        .set_index(at=["p", "q"])
        .indexes["at"],
        "at",
    )
    array = xr.DataArray([0.1, 1 / 3], dims="at", coords=index)
    assert provenance.decoded(json.loads(json.dumps(encoded(array)))).identical(array)


def test_theory_within_a_call_leaves_no_trace_and_a_call_within_none_of_its_own(tmp_path):
    exact = mcnqm.steps_to_target(PAPER, SGD(lr=0.1), 16, 0.3, method="analytic")
    config = json.loads(exact.attrs["config"])
    assert (config["function"], config["method"]) == ("mcnqm.steps_to_target", "analytic")


def test_wide_integers_are_saved_as_floats_or_text(tmp_path):
    odd = xr.Dataset(
        {"length": ("piece", np.array([1, 2**40], dtype=np.int64), {"longest": 2**40, "on": True})},
        coords={"piece": np.array([2**31, 2**33])},
        attrs={"exact": 2**60, "odd": 2**60 + 1, "small": np.int64(3), "flag": True},
    )
    back = read_back(odd, tmp_path)
    np.testing.assert_array_equal(back.length, odd.length)
    np.testing.assert_array_equal(back.piece, odd.piece)
    assert (back.attrs["exact"], int(back.attrs["odd"])) == (2**60, 2**60 + 1)
    assert (back.attrs["small"], back.attrs["flag"], back.length.attrs["longest"]) == (3, 1, 2**40)
    assert odd.length.dtype == np.int64


def test_importing_the_package_imports_no_matplotlib():
    code = "import mcnqm, sys; assert 'matplotlib' not in sys.modules; assert 'risk' in mcnqm.plots.VIEWS; print(1)"
    code += "; assert 'matplotlib' not in sys.modules; mcnqm.plots.risk; assert 'matplotlib' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"1\n"


def test_what_was_left_out_is_left_out_again(tmp_path):
    """Where an answer does not use an argument, giving its default would be refused."""
    exact = read_back(mcnqm.steps_to_target(PAPER, SGD(lr=0.1), 16, 0.3, method="analytic"), tmp_path)
    config = json.loads(exact.attrs["config"])
    assert config["seed"] == {"default": 0}
    assert arguments_of(exact)["seed"] == 0
    assert rerun(exact).identical(rerun(rerun(exact)))
    with pytest.raises(ParameterError, match="seed must"):
        rerun(exact, seed=0)
    simulated = mcnqm.steps_to_target(PAPER, SGD(lr=0.1), 16, 0.3, seed=3, trajectories=2, replicates=4)
    assert (arguments_of(simulated)["seed"], simulated.attrs["seed"]) == (3, "3")
