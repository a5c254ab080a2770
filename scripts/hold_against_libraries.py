"""Replays of every optimizer and schedule against the real torch and optax, where they are installed.

    python scripts/hold_against_libraries.py [--steps 2000]

needs ``pip install torch optax`` (the extra ``bench``). Each row runs one trajectory of an optimizer on the noisy
quadratic model, d = 30, and the library's on the same gradients in float64: the same start and noise, from
`mcnqm.noise`. The figure is the largest difference along the path, relative to the largest |theta| of each coordinate.
Schedules are compared step by step. Ends with 1 if a difference exceeds 1e-11, or if the library accepts a combination
that `mcnqm` refuses because of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import torch
from optax import contrib
from rich.console import Console
from rich.table import Table

import mcnqm
from mcnqm import SGD, Adam, AdEMAMix, Lion, NAdam, RMSProp, ScheduleFreeAdam, ScheduleFreeSGD, Signum, schedules
from mcnqm.schedules import Schedule

jax.config.update("jax_enable_x64", True)
torch.set_default_dtype(torch.float64)  # NAdam keeps its product of momenta in it

DIM, BATCH, SEED = 30, 4, 11
TOLERANCE = 1e-11

Gradient = Callable[[int, np.ndarray], np.ndarray]


def problem() -> mcnqm.NoisyQuadratic:
    rng = np.random.default_rng(3)
    return mcnqm.NoisyQuadratic(
        curvature=1.0 / np.arange(1, DIM + 1),
        noise=rng.uniform(0.2, 1.0, DIM),
        initial_mean=rng.normal(size=DIM),
        initial_std=rng.uniform(0.5, 1.0, DIM),
    )


def along(value: Any, steps: int) -> Any:
    """A hyperparameter as a table of its values, or as it is."""
    return value(np.arange(steps)) if isinstance(value, Schedule) else value


def torch_path(cls: Any, options: dict[str, Any], theta: np.ndarray, gradient: Gradient, steps: int) -> np.ndarray:
    """Path under a torch optimizer; an option that is a schedule is set in the parameter group before every step."""
    tables = {name: along(value, steps) for name, value in options.items()}
    betas = [along(beta, steps) for beta in options.get("betas", ())]

    def at(t: int) -> dict[str, Any]:
        now = {name: float(v[t]) if isinstance(v, np.ndarray) else v for name, v in tables.items() if name != "betas"}
        if betas:
            now["betas"] = tuple(float(b[t]) if isinstance(b, np.ndarray) else b for b in betas)
        return now

    parameter = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    optimizer = cls([parameter], **at(0))
    path = [theta.copy()]
    for t in range(steps):
        optimizer.param_groups[0].update(at(t))
        parameter.grad = torch.tensor(gradient(t, parameter.detach().numpy()))
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    return np.stack(path)


def optax_path(
    make: Callable[[], Any], theta: np.ndarray, gradient: Gradient, steps: int, judged: Any = None
) -> np.ndarray:
    """Path under an optax transformation; `judged` gives the point whose loss counts."""
    transformation = make()
    parameters = jax.numpy.asarray(theta)
    state = transformation.init(parameters)
    update = jax.jit(transformation.update)
    path = [theta.copy()]
    for t in range(steps):
        g = jax.numpy.asarray(gradient(t, np.asarray(parameters)))
        change, state = update(g, state, parameters)
        parameters = optax.apply_updates(parameters, change)
        path.append(np.asarray(parameters if judged is None else judged(state, parameters)))
    return np.stack(path)


def lookup(schedule: Schedule, steps: int) -> Any:
    """One of our schedules as optax wants it: a function of a traced count."""
    table = jax.numpy.asarray(schedule(np.arange(steps + 1)))
    return lambda count: table[count]


def optimizers(steps: int) -> list[tuple[str, Any, Any]]:
    """Label, our optimizer, and a function of start and gradient that gives the library's path."""
    slow = schedules.cosine(1e-2, steps=steps, final=0.1)
    fast = schedules.cosine(0.2, steps=steps, final=0.1)
    cycle = schedules.join([schedules.linear(0.95, 20, 0.9), schedules.linear(0.855, 40, 1.1)], [20])
    decay = schedules.piecewise([0.1, 0.01], [500, 1])
    damp, beta2 = schedules.linear(0.9, steps, 0.1), schedules.linear(0.99, 50, 1.005)
    beta3, weight = schedules.linear(0.9, steps, 1.1), schedules.linear(0.5, steps, 10.0)
    rows: list[tuple[str, Any, Any]] = []

    def of_torch(label: str, ours: Any, cls: Any, **options: Any) -> None:
        rows.append((f"torch {cls.__name__}: {label}", ours, lambda x, g: torch_path(cls, options, x, g, steps)))

    def of_optax(label: str, ours: Any, make: Callable[[], Any], judged: Any = None) -> None:
        rows.append((f"optax {label}", ours, lambda x, g: optax_path(make, x, g, steps, judged)))

    t = torch.optim
    of_torch("plain", SGD(0.3), t.SGD, lr=0.3)
    of_torch("weight decay", SGD(0.3, weight_decay=0.1), t.SGD, lr=0.3, weight_decay=0.1)
    of_torch("weight decay, scheduled", SGD(fast, weight_decay=decay), t.SGD, lr=fast, weight_decay=decay)
    of_torch("momentum", SGD(0.1, 0.9, weight_decay=0.05), t.SGD, lr=0.1, momentum=0.9, weight_decay=0.05)
    of_torch(
        *("Nesterov", SGD(0.1, 0.9, nesterov=True, weight_decay=0.05), t.SGD),
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.05,
    )
    of_torch(
        *("Nesterov, scheduled", SGD(fast, cycle, nesterov=True, weight_decay=decay), t.SGD),
        lr=fast,
        momentum=cycle,
        nesterov=True,
        weight_decay=decay,
    )
    of_torch(
        *("dampened", SGD(0.3, 0.9, weight_decay=0.02, dampening=0.5), t.SGD),
        lr=0.3,
        momentum=0.9,
        weight_decay=0.02,
        dampening=0.5,
    )
    of_torch(
        *("dampened, scheduled", SGD(fast, cycle, weight_decay=decay, dampening=damp), t.SGD),
        lr=fast,
        momentum=cycle,
        weight_decay=decay,
        dampening=damp,
    )
    of_torch("constant", Adam(1e-2), t.Adam, lr=1e-2)
    of_torch("scheduled rate", Adam(slow), t.Adam, lr=slow)
    of_torch(
        *("scheduled betas", Adam(slow, beta1=cycle, beta2=beta2, present_betas=True), t.Adam),
        lr=slow,
        betas=(cycle, beta2),
    )
    of_torch("constant", Adam(1e-2, eps=0.1, weight_decay=0.1), t.AdamW, lr=1e-2, eps=0.1, weight_decay=0.1)
    of_torch("plain", RMSProp(1e-2, eps=1e-3), t.RMSprop, lr=1e-2, eps=1e-3)
    of_torch("momentum", RMSProp(1e-3, momentum=0.9), t.RMSprop, lr=1e-3, momentum=0.9)
    of_torch("centered", RMSProp(1e-3, alpha=0.9, eps=1e-2, centered=True), t.RMSprop,
             lr=1e-3, alpha=0.9, eps=1e-2, centered=True)  # fmt: skip
    of_torch("centered, momentum, scheduled", RMSProp(slow, eps=1e-2, momentum=cycle, centered=True), t.RMSprop,
             lr=slow, eps=1e-2, momentum=cycle, centered=True)  # fmt: skip
    of_torch("constant", NAdam(1e-2, weight_decay=0.1), t.NAdam,
             lr=1e-2, weight_decay=0.1, decoupled_weight_decay=True)  # fmt: skip
    of_torch("scheduled", NAdam(slow, beta1=cycle, momentum_decay=1.0), t.NAdam,
             lr=slow, betas=(cycle, 0.999), momentum_decay=1.0)  # fmt: skip

    of_optax("sgd: momentum", SGD(0.1, 0.9), lambda: optax.sgd(0.1, momentum=0.9))
    of_optax("sgd: Nesterov", SGD(0.1, 0.9, nesterov=True), lambda: optax.sgd(0.1, momentum=0.9, nesterov=True))
    of_optax(
        "add_decayed_weights and sgd",
        SGD(0.1, 0.9, weight_decay=0.05),
        lambda: optax.chain(optax.add_decayed_weights(0.05), optax.sgd(0.1, momentum=0.9)),
    )
    of_optax("adam: eps_root", Adam(1e-2, eps=1e-3, eps_root=0.01), lambda: optax.adam(1e-2, eps=1e-3, eps_root=0.01))
    of_optax(
        "adamw: scheduled rate",
        Adam(slow, weight_decay=0.1),
        lambda: optax.adamw(lookup(slow, steps), weight_decay=0.1),
    )
    of_optax(
        "adam: scheduled b1",
        Adam(1e-2, beta1=cycle, present_betas=True),
        lambda: optax.inject_hyperparams(optax.adam)(1e-2, b1=lookup(cycle, steps)),
    )
    of_optax("nadamw", NAdam(1e-2, momentum_decay=1e6, weight_decay=0.1), lambda: optax.nadamw(1e-2, weight_decay=0.1))
    of_optax(
        "rmsprop: eps in the root",
        RMSProp(1e-2, alpha=0.9, eps=0.0, eps_root=1e-3),
        lambda: optax.rmsprop(1e-2, decay=0.9, eps=1e-3),
    )
    of_optax(
        "rmsprop: centered, momentum, eps outside",
        RMSProp(1e-3, alpha=0.9, eps=1e-2, momentum=0.9, centered=True),
        lambda: optax.rmsprop(1e-3, decay=0.9, eps=1e-2, eps_in_sqrt=False, centered=True, momentum=0.9),
    )
    of_optax("lion", Lion(1e-3, weight_decay=0.1), lambda: optax.lion(1e-3, weight_decay=0.1))
    of_optax("signum", Signum(1e-3), lambda: optax.signum(1e-3, beta=0.9))
    of_optax("ademamix", AdEMAMix(1e-3, weight_decay=0.1), lambda: contrib.ademamix(1e-3, weight_decay=0.1))
    of_optax(
        "ademamix: scheduled b3 and alpha",
        AdEMAMix(1e-3, beta3=beta3, alpha=weight),
        lambda: contrib.ademamix(1e-3, b3=lookup(beta3, steps), alpha=lookup(weight, steps)),
    )
    evaluated = contrib.schedule_free_eval_params
    of_optax(
        "schedule_free_sgd",
        ScheduleFreeSGD(0.5, weight_decay=0.02),
        lambda: contrib.schedule_free_sgd(0.5, weight_decay=0.02),
        evaluated,
    )
    of_optax(
        "schedule_free_adamw",
        ScheduleFreeAdam(1e-2, weight_decay=0.1),
        lambda: contrib.schedule_free_adamw(1e-2, weight_decay=0.1),
        evaluated,
    )
    return rows


def torch_rates(make: Callable[[Any], Any], steps: int) -> np.ndarray:
    """Learning rates that a torch scheduler sets from a base rate of 0.3."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


def optax_rates(schedule: Any, steps: int) -> np.ndarray:
    return np.array([float(schedule(t)) for t in range(steps)])


def rate_schedules() -> list[tuple[str, Schedule, np.ndarray]]:
    """Label, ours, and the library's values."""
    s, t = schedules, torch.optim.lr_scheduler
    return [
        ("torch LinearLR", s.linear(0.1, steps=5, final=3.0), torch_rates(t.LinearLR, 40)),
        (
            "torch CosineAnnealingLR",
            s.cosine(0.3, steps=39, final=0.1),
            torch_rates(lambda o: t.CosineAnnealingLR(o, T_max=39, eta_min=0.03), 40),
        ),
        (
            "torch ExponentialLR",
            s.exponential(0.3, steps=40, final=0.9**40),
            torch_rates(lambda o: t.ExponentialLR(o, gamma=0.9), 40),
        ),
        (
            "torch MultiStepLR",
            s.piecewise([0.3, 0.03, 0.003], [5, 10, 1]),
            torch_rates(lambda o: t.MultiStepLR(o, milestones=[5, 15], gamma=0.1), 40),
        ),
        (
            "torch SequentialLR",
            s.join([s.linear(0.03, steps=8, final=10.0), s.exponential(0.3, 32, 0.9**32)], [8]),
            torch_rates(
                lambda o: t.SequentialLR(
                    o, [t.LinearLR(o, start_factor=0.1, total_iters=8), t.ExponentialLR(o, gamma=0.9)], milestones=[8]
                ),
                40,
            ),
        ),
        (
            "torch OneCycleLR",
            s.join([s.cosine(0.3 / 25, steps=11, final=25.0), s.cosine(0.3, steps=28, final=1 / 25e4)], [11]),
            torch_rates(lambda o: t.OneCycleLR(o, max_lr=0.3, total_steps=40, cycle_momentum=False), 40),
        ),
        ("optax linear_schedule", s.linear(0.3, 9, 0.2), optax_rates(optax.linear_schedule(0.3, 0.06, 9), 40)),
        (
            "optax cosine_decay_schedule",
            s.cosine(0.3, steps=20, final=0.1),
            optax_rates(optax.cosine_decay_schedule(0.3, 20, alpha=0.1), 40),
        ),
        (
            "optax exponential_decay",
            s.exponential(0.3, steps=40, final=0.5 ** (40 / 7)),
            optax_rates(optax.exponential_decay(0.3, 7, 0.5), 40),
        ),
        (
            "optax piecewise_constant_schedule",
            s.piecewise([0.3, 0.03, 0.003], [5, 10, 1]),
            optax_rates(optax.piecewise_constant_schedule(0.3, {5: 0.1, 15: 0.1}), 40),
        ),
        (
            "optax join_schedules",
            s.join([s.linear(0.3, 9, 0.2), s.cosine(1.0, steps=20)], [6]),
            optax_rates(
                optax.join_schedules([optax.linear_schedule(0.3, 0.06, 9), optax.cosine_decay_schedule(1.0, 20)], [6]),
                40,
            ),
        ),
        (
            "optax warmup_cosine_decay_schedule",
            s.warmup_stable_decay(0.3, warmup=8, stable=0, decay=22, final=0.1, shape="cosine", initial=0.2),
            optax_rates(optax.warmup_cosine_decay_schedule(0.06, 0.3, 8, 30, 0.03), 40),
        ),
    ]


def refusals() -> list[tuple[str, bool]]:
    """Combinations that torch refuses, and whether both refuse them."""
    rows = []
    for options in ({"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.5}):
        refused = 0
        for make in (lambda o: torch.optim.SGD([torch.zeros(1)], lr=0.1, **o), lambda o: SGD(lr=0.1, **o)):
            try:
                make(options)
            except ValueError:
                refused += 1
        rows.append((f"SGD({', '.join(f'{k}={v}' for k, v in options.items())})", refused == 2))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    steps = parser.parse_args().steps

    model, where = problem(), np.arange(DIM)
    z = mcnqm.noise(SEED, 0, where, steps)[0]
    start = model.initial_mean + model.initial_std * mcnqm.noise(SEED, 0, where, 1, purpose="initial")[0, 0]
    sigma = np.sqrt(model.noise / BATCH)

    table = Table(title=f"torch {torch.__version__}, optax {optax.__version__}: {steps} steps, d = {DIM}")
    table.add_column("replay")
    table.add_column("largest relative difference", justify="right")
    worst = 0.0
    for label, ours, theirs in optimizers(steps):
        runs = mcnqm.simulate(
            *(model, ours, BATCH, steps), trajectories=1, seed=SEED, coordinates=where, record=range(steps + 1)
        )
        expected = theirs(start, lambda t, x: model.curvature * x + sigma * z[t])
        found = runs.theta.isel(trajectory=0).values
        error = float((np.abs(found - expected) / np.abs(expected).max(axis=0)).max())
        worst = max(worst, error if np.isfinite(error) else np.inf)
        table.add_row(label, f"{error:.1e}")
    for label, ours, values in rate_schedules():
        error = float(np.abs(ours(np.arange(values.size)) - values).max() / values.max())
        worst = max(worst, error)
        table.add_row(label, f"{error:.1e}")
    both = True
    for label, agreed in refusals():
        both &= agreed
        table.add_row(label, "both refuse" if agreed else "only one refuses")
    Console(width=110 if not sys.stdout.isatty() else None).print(table)
    return 0 if worst <= TOLERANCE and both else 1


if __name__ == "__main__":
    sys.exit(main())
