"""Hold the results of two versions of the package against each other: simulated ones bit by bit, closed forms to 1e-12.

Every call of the table below runs in a process of its own version, which saves all variables of the answer:

    python scripts/compare_results.py ../before .          # two checkouts
    python scripts/compare_results.py ../before . -k tune  # only calls whose name contains "tune"

The exit code is 1 if a result differs, a variable is gone, or a call fails in one of the two.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLOSED_FORM = 1e-12
"""Largest relative difference allowed between closed forms. Simulated results must be the same bits."""


def calls() -> dict[str, tuple[bool, Callable[[], Any]]]:
    """Name to whether the answer is simulated, and the call. Only public names that both versions know."""
    import mcnqm  # noqa: PLC0415 - of the checkout that runs

    problem = mcnqm.NoisyQuadratic.power_law(dim=60)
    sgd, adam = mcnqm.SGD(lr=[0.1, 0.5], momentum=0.9), mcnqm.Adam(lr=[0.003, 0.01])
    plain, schedule = mcnqm.SGD(lr=0.2), mcnqm.schedules.cosine(0.5, 200, 0.1)
    optimizers = {
        "sgd": sgd,
        "nesterov": mcnqm.SGD(lr=0.1, momentum=0.9, nesterov=True, precondition=0.3, weight_decay=0.01),
        "dampened": mcnqm.SGD(lr=0.3, momentum=0.8, dampening=0.3),
        "adam": adam,
        "adam-options": mcnqm.Adam(lr=0.01, weight_decay=0.1, eps_root=1e-8),
        "rmsprop": mcnqm.RMSProp(lr=0.01, centered=True, momentum=0.5),
        "nadam": mcnqm.NAdam(lr=0.01),
        "ademamix": mcnqm.AdEMAMix(lr=0.01),
        "lion": mcnqm.Lion(lr=0.003),
        "signum": mcnqm.Signum(lr=0.003),
        "schedule-free-sgd": mcnqm.ScheduleFreeSGD(lr=0.3),
        "schedule-free-adam": mcnqm.ScheduleFreeAdam(lr=0.01),
        "scheduled": mcnqm.SGD(lr=schedule, momentum=0.9),
    }
    exact = mcnqm.analytic
    table: dict[str, tuple[bool, Callable[[], Any]]] = {}
    for name, optimizer in optimizers.items():
        table[f"simulate {name}"] = True, lambda o=optimizer: mcnqm.simulate(problem, o, 8, 200, trajectories=5)
    table["simulate control variate"] = (
        True,
        lambda: mcnqm.simulate(problem, adam, 8, 300, trajectories=16, control_variate=True),
    )
    table["simulate coordinates"] = True, lambda: mcnqm.simulate(problem, sgd, [2, 8], 100, coordinates=[0, 7])
    table["simulate float32"] = True, lambda: mcnqm.simulate(problem, adam, 8, 200, trajectories=5, dtype="float32")
    table["simulate average"] = True, lambda: mcnqm.simulate(problem, sgd, 8, 200, average=0.9)
    table["noise"] = True, lambda: mcnqm.noise(5, [0, 3], [1, 7], 20)
    table["steps_to_target sgd"] = True, lambda: mcnqm.steps_to_target(problem, sgd, [8, 64], 0.1, seed=1)
    table["steps_to_target adam"] = True, lambda: mcnqm.steps_to_target(problem, adam, 16, [0.2, 0.1], max_steps=4096)
    table["tune sgd"] = True, lambda: mcnqm.tune(problem, plain, {"lr": (0.01, 1.5)}, batch_size=[16, 64], target=0.1)
    table["tune adam"] = (
        True,
        lambda: mcnqm.tune(problem, mcnqm.Adam(lr=1.0), {"lr": (1e-3, 0.3)}, batch_size=64, target=0.1),
    )
    table["tune two"] = (
        True,
        lambda: mcnqm.tune(problem, plain, {"lr": (0.01, 1.5), "momentum": (0.0, 0.95)}, batch_size=64, target=0.1),
    )
    table["agreement"] = True, lambda: mcnqm.agreement(problem, sgd, 8, 100, trajectories=64)
    table["optimize_schedule adam"] = (
        True,
        lambda: mcnqm.optimize_schedule(problem, mcnqm.Adam(lr=0.1), 16, steps=120, pieces=6, trajectories=4),
    )
    table["optimize_schedule lion"] = (
        True,
        lambda: mcnqm.optimize_schedule(problem, mcnqm.Lion(lr=0.1), 16, steps=120, pieces=6),
    )
    table["optimize_schedule adam target"] = (
        True,
        lambda: mcnqm.optimize_schedule(
            problem, mcnqm.RMSProp(lr=0.1), [16, 64], target=0.2, pieces=4, trajectories=4, baselines=False
        ),
    )
    closed: dict[str, Callable[[], Any]] = {
        "analytic.risk": lambda: exact.risk(problem, sgd, [2, 8], 1000),
        "analytic.risk nesterov": lambda: exact.risk(problem, optimizers["nesterov"], 8, 1000),
        "analytic.risk scheduled": lambda: exact.risk(problem, optimizers["scheduled"], 8, 300),
        "analytic.risk average": lambda: exact.risk(problem, sgd, 8, 300, average=0.9),
        "analytic.moments": lambda: exact.moments(problem, sgd, 8, 100, record=[0, 7, 100]),
        "analytic.steps_to_target": lambda: exact.steps_to_target(problem, sgd, [2, 8, 64], 0.1),
        "analytic.steady_state": lambda: exact.steady_state(problem, sgd, 8),
        "analytic.largest_stable_lr": lambda: exact.largest_stable_lr(problem, sgd),
        "analytic.bayes_bound": lambda: exact.bayes_bound(problem, np.array([1.0, 100.0, 1e4])),
        "analytic.mean_field.risk": lambda: exact.mean_field.risk(problem, adam, 8, 500),
        "analytic.mean_field.steps_to_target": lambda: exact.mean_field.steps_to_target(problem, adam, 64, 0.1),
        "steps_to_target analytic": lambda: mcnqm.steps_to_target(problem, sgd, 8, 0.1, method="analytic"),
        "tune analytic": lambda: mcnqm.tune(
            problem, plain, {"lr": (0.01, 1.5)}, batch_size=[4, 64], target=0.1, method="analytic"),
        "optimize_schedule steps": lambda: mcnqm.optimize_schedule(problem, plain, [1, 64], steps=300, pieces=10),
        "optimize_schedule limits": lambda: mcnqm.optimize_schedule(
            problem, plain, [4, 64], steps=150, pieces=8, largest_lr=1.9, largest_risk=problem.initial_risk
        ),
        "optimize_schedule target": lambda: mcnqm.optimize_schedule(problem, plain, [4, 64], target=0.1, pieces=10),
        "optimize_schedule momentum": lambda: mcnqm.optimize_schedule(
            problem, mcnqm.SGD(lr=0.1, momentum=0.5), 64, steps=200, pieces=8, tune_momentum=True),
        "optimize_schedule nesterov": lambda: mcnqm.optimize_schedule(
            problem, mcnqm.SGD(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01), 16, target=0.2, pieces=8),
        "optimize_schedule dampening": lambda: mcnqm.optimize_schedule(
            problem, mcnqm.SGD(lr=0.1, momentum=0.8, dampening=0.3), 16, steps=100, lengths=[1, 9, 90], bins=20),
    }  # fmt: skip
    return {**table, **{name: (False, call) for name, call in closed.items()}}


def save(path: Path, wanted: str) -> None:
    """Run the table in this process and write name -> (simulated, variables or the error)."""
    answers = {}
    for name, (simulated, call) in calls().items():
        if wanted not in name:
            continue
        try:
            result = call()
            if hasattr(result, "variables"):
                found: Any = {str(key): np.asarray(value.values) for key, value in result.variables.items()}
            else:
                found = {"value": np.asarray(getattr(result, "values", result))}
        except Exception as error:  # what fails is reported by name
            found = f"{type(error).__name__}: {error}"
        answers[name] = simulated, found
    path.write_bytes(pickle.dumps(answers))


def answers_of(checkout: Path, wanted: str, folder: Path) -> dict[str, Any]:
    """The table's answers under one checkout."""
    path = folder / "answers.pickle"
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    subprocess.run([sys.executable, __file__, "--save", str(path), "-k", wanted], env=environment, check=True)
    answers: dict[str, Any] = pickle.loads(path.read_bytes())
    return answers


def difference(old: Any, new: Any, simulated: bool) -> str:
    """What is wrong about a variable, or nothing."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{old.dtype}{old.shape} before, {new.dtype}{new.shape} now"
    if old.tobytes() == new.tobytes():
        return ""
    if old.dtype.kind != "f":
        return "" if (old == new).all() else "other values"
    with np.errstate(all="ignore"):
        off = np.where((old == new) | (np.isnan(old) & np.isnan(new)), 0.0, np.abs(new / old - 1.0))
    worst = float(np.nan_to_num(off, nan=np.inf).max())
    return "" if worst <= (0.0 if simulated else CLOSED_FORM) else f"relative difference {worst:.1e}"


def main() -> int:
    """Compare two checkouts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="CHECKOUT")
    parser.add_argument("-k", default="", help="only calls whose name contains this")
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.save:
        save(arguments.save, arguments.k)
        return 0
    if len(arguments.checkouts) != 2:
        parser.error("give two checkouts: the one before and the one now")
    with tempfile.TemporaryDirectory() as folder:
        before, now = (answers_of(checkout, arguments.k, Path(folder)) for checkout in arguments.checkouts)
    wrong = 0
    for name, (simulated, old) in before.items():
        new = now[name][1]
        if isinstance(old, str) or isinstance(new, str):
            said = [answer if isinstance(answer, str) else "fine" for answer in (old, new)]
            problems = [f"before: {said[0]}; now: {said[1]}"]
        else:
            problems = [f"{key} is gone" for key in old if key not in new]
            problems += [
                f"{key}: {text}" for key in old if key in new and (text := difference(old[key], new[key], simulated))
            ]
        wrong += bool(problems)
        kind = "bits" if simulated else f"{CLOSED_FORM:g}"
        print(f"{'DIFFERS' if problems else 'same'}  {name} ({kind})", *problems, sep="\n    " if problems else "")
    print(f"{len(before) - wrong} of {len(before)} calls give the same results")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
