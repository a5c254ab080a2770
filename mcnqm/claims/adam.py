"""Claims about true Adam, judged by simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import erf

from mcnqm.claims.claim import Ask, Claim, Effect, Found
from mcnqm.claims.curves import Curves, curve
from mcnqm.claims.intervals import critical_batch, exact, quotient, slope
from mcnqm.claims.tuned import RATE_ERROR, adam, of, tuned, tuned_adam
from mcnqm.optimizers import SGD, Adam
from mcnqm.problems import NoisyQuadratic
from mcnqm.simulation import simulate
from mcnqm.tuning.tuner import tune

__all__ = ["CLAIMS"]

Array = NDArray[np.float64]

_SAME = (0.95, 1.05)
_SAME_RATE = (0.9, 1.1)
_BATCH = "batch size B (examples)"
_FEW = 4
"""So many of the smallest batch sizes are very small: up to 64 at d = 1000."""


def _relative(one: xr.Dataset, name: str) -> Array:
    return np.asarray((one[f"{name}_stderr"] / one[name]).values)


def _sqrt_rule(ask: Ask) -> Found:
    found = adam(ask.lab)
    sizes, rates = found["batch_size"].values, found["lr"].values
    errors = found["lr_stderr"].values
    if ask.control:
        other = tuned(ask.lab, momentum=0.9)["effective_lr"].sel(batch_size=sizes)
        rates, errors = other.values, RATE_ERROR * other.values
    few = slice(0, _FEW)
    name = "slope of log rate on log B"
    effects = {name: slope(sizes[few], rates[few], errors[few], ask.level, first_order=False)}
    whole = rates[0] * np.sqrt(sizes / sizes[0])
    series = {"best rate, simulated": curve(sizes, rates, errors), "sqrt(B)": curve(sizes, whole)}
    return Found(effects, Curves(series, _BATCH, "best learning rate"))


def _critical(ask: Ask) -> Found:
    found, momentum, plain = adam(ask.lab), tuned(ask.lab, momentum=0.9), tuned(ask.lab)
    sizes = found["batch_size"].values
    steps, error = found["steps"].values, _relative(found, "steps")
    if ask.control:
        steps, error = tuned(ask.lab, power=1.0)["steps"].sel(batch_size=sizes).values, np.zeros(sizes.size)
    knees = critical_batch(sizes, steps), critical_batch(momentum["batch_size"].values, momentum["steps"].values)
    at = int(np.searchsorted(sizes, knees[0]).clip(0, sizes.size - 1))
    effects = {
        # Batch sizes a factor 4 apart: 5 % of interpolation, and about twice the error of the steps.
        "critical batch size over that of momentum 0.9": quotient(*knees, ask.level, 0.05, 2.0 * error[at]),
        "steps of SGD over Adam's, smallest B": quotient(
            float(plain["steps"].sel(batch_size=sizes[0])), steps[0], ask.level, error[0]
        ),
    }
    series = {"Adam, simulated": of(found), "momentum 0.9": of(momentum), "SGD": of(plain)}
    return Found(effects, Curves(series, _BATCH, "steps to the target risk"))


def _one_step(sizes: Array, h: Array) -> Array:
    """Best rate of one step of sign descent from θ(0) ~ N(0, 1), H diagonal, C = H: Σ E |∂L| erf / tr H."""
    signal = h**2 * np.sqrt(2.0 * sizes[:, None] / (np.pi * h)) / np.sqrt(1.0 + sizes[:, None] * h)
    return np.asarray(signal.sum(axis=1) / h.sum())


def _one_step_dense(sizes: Array) -> Array:
    """The same for H = 0.7 I + 0.3 u uᵀ of 100 coordinates and a gradient along u: with off-diagonal curvature."""
    d, noise = 100, 900.0
    signs = np.ones(d)
    slope_ = (0.7 + 0.3 * d) * signs
    e = erf(slope_ * np.sqrt(sizes[:, None] / (2.0 * noise)))
    bend = d * 1.0 + 0.3 * (e.sum(axis=1) ** 2 - (e**2).sum(axis=1))
    return np.asarray((slope_ * e).sum(axis=1) / bend)


def _surge(ask: Ask) -> Found:
    found = adam(ask.lab)
    sizes, rates, errors = found["batch_size"].values, found["lr"].values, _relative(found, "lr")
    theory = _one_step(sizes, ask.lab.simulated.curvature)
    if ask.control:
        theory = _one_step_dense(sizes)
        rates, errors = theory, np.full(sizes.size, 0.01)
    before = int(np.argmin(np.abs(np.log(sizes / (sizes[-1] / 16.0)))))
    effects = {
        "best rate at the largest B over that at a sixteenth of it, simulated": quotient(
            rates[-1], rates[before], ask.level, errors[-1], errors[before]
        ),
        "best one-step rate of sign descent at the largest B over the largest of all": exact(theory[-1] / theory.max()),
    }
    series = {
        "best rate, simulated": curve(sizes, rates, errors * rates),
        "best one-step rate of sign descent": curve(sizes, theory),
    }
    return Found(effects, Curves(series, _BATCH, "learning rate"))


def _preconditioned(ask: Ask) -> Found:
    budget = ask.lab.budget
    found = adam(ask.lab).isel(batch_size=slice(0, _FEW))
    flat = NoisyQuadratic.power_law(budget.small_dim)
    flat = NoisyQuadratic(flat.curvature, np.full(flat.size, 0.02))
    few = (4, 16)
    other = tuned_adam(ask.lab, "flat-noise", Adam(lr=1.0), few, problem=flat)
    effects, series = {}, {"Adam, C = H": of(found), "Adam, C constant": of(other)}
    cases = (
        ("C = H", ask.lab.simulated, found, 0.0 if ask.control else 0.5, 1.0),
        ("C constant", flat, other, 0.5 if ask.control else 0.0, np.sqrt(0.02)),
    )
    for name, problem, one, power, root in cases:
        where = one["batch_size"].values
        best = tune(
            problem,
            SGD(lr=1.0, momentum=0.9, precondition=power),
            {"lr": (1e-4, 1.0)},
            batch_size=where,
            target=budget.target,
            method="analytic",
        )
        steps, rates = _relative(one, "steps"), _relative(one, "lr")
        # The largest of the very small batch sizes is shown, not judged: there the noise begins to lose.
        for k, b in enumerate(where[: 3 if name == "C = H" else 2]):
            exactly = float(best["steps"][k]), float(best["lr"][k]) / 0.1
            label = f"{name}, {_ORDER[k]} B"
            effects[f"steps over those of preconditioned momentum, {label}"] = quotient(
                float(one["steps"][k]), exactly[0], ask.level, steps[k]
            )
            effects[f"α sqrt(B/c) over the effective rate, {label}"] = quotient(
                float(one["lr"][k]) * np.sqrt(b) / root, exactly[1], ask.level, rates[k], RATE_ERROR
            )
        series[f"momentum 0.9, p = {power:g}, {name}"] = curve(where, best["steps"].values)
    return Found(effects, Curves(series, _BATCH, "steps to the target risk"))


_ORDER = ("smallest", "second", "third")


_KAPPA = 4.0


def _sde_scaling(ask: Ask) -> Found:
    problem, effects, series = ask.lab.small, {}, {}
    for name, batch_size, rate, steps in _COURSES:
        base = Adam(lr=rate, beta1=0.9, beta2=0.999, eps=1e-8)
        gain = _KAPPA if ask.control else np.sqrt(_KAPPA)
        scaled = Adam(
            lr=rate * gain,
            beta1=1.0 - _KAPPA * (1.0 - 0.9),
            beta2=1.0 - _KAPPA * (1.0 - 0.999),
            eps=1e-8 / np.sqrt(_KAPPA),
        )
        at = np.unique(np.geomspace(8, steps // 4, 24).astype(int))
        options: dict[str, Any] = {"trajectories": 64, **ask.lab.running}
        slow = simulate(problem, base, batch_size, 4 * int(at[-1]), record=4 * at, **options)
        fast = simulate(problem, scaled, _KAPPA * batch_size, int(at[-1]), record=at, **options)
        pair = [one["risk"].values for one in (fast, slow)]
        errors = [one["risk_stderr"].values / one["risk"].values for one in (fast, slow)]
        for part, k in (("a third", int(np.searchsorted(at, at[-1] / 3))), ("end", -1)):
            effects[f"risk over that of the smaller batch at equal examples, {name}, {part} of the run"] = quotient(
                pair[0][k], pair[1][k], ask.level, errors[0][k], errors[1][k]
            )
        examples = 4 * at * batch_size
        series[f"B = {batch_size:g}"] = curve(examples, pair[1], errors[1] * pair[1])
        series[f"B = {_KAPPA * batch_size:g}, rescaled"] = curve(examples, pair[0], errors[0] * pair[0])
    return Found(effects, Curves(series, "examples", "risk"))


_COURSES = (("B = 1 to 4", 1.0, 6e-4, 40_000), ("B = 4096 to 16384", 4096.0, 0.04, 400))
"""Name, batch size, rate and steps at the smaller batch size."""

_BASE = 16.0
_LIVES = (1 / 16, 1 / 4, 1.0, 4.0, 16.0)
_SIZES = (1, 16, 256, 4096)


def _with_half_life(ask: Ask, b: int, life: float) -> xr.Dataset:
    """Tuned Adam whose half-life of β₂ is so many times the held one; for the control momentum, which has no β₂."""
    if ask.control:
        search = {"lr": (1e-3, 1.0)}
        target = ask.lab.budget.target
        best = tune(ask.lab.small, SGD(lr=1.0, momentum=0.9), search, batch_size=b, target=target, method="analytic")
        return best[["steps", "steps_stderr"]]
    beta2 = float(0.999 ** (b / _BASE / life))
    name = f"half-life-{b}-{life:g}"
    return tuned_adam(ask.lab, name, Adam(lr=1.0, beta2=beta2), (b,), problem=ask.lab.small).isel(batch_size=0)


def _half_life(ask: Ask) -> Found:
    """Steps with β₂ held in examples over the fewest with half-lives 16 times shorter to 16 times longer."""
    effects, series = {}, {}
    for b in _SIZES:
        tried = {life: _with_half_life(ask, b, life) for life in _LIVES}
        held = tried[1.0]
        steps = np.array([float(one["steps"]) for one in tried.values()])
        errors = np.array([float(one["steps_stderr"]) for one in tried.values()])
        k = int(steps.argmin())
        effects[f"steps over the fewest of all half-lives, B = {b}"] = quotient(
            float(held["steps"]),
            steps[k],
            ask.level,
            float(held["steps_stderr"] / held["steps"]) if held is not tried[_LIVES[k]] else 0.0,
            errors[k] / steps[k] if held is not tried[_LIVES[k]] else 0.0,
            freedom=15.0,
        )
        series[f"B = {b}"] = curve(np.array(_LIVES), steps / steps.min(), errors / steps.min())
    return Found(
        effects, Curves(series, "half-life of β₂ in examples over the held one", "steps over the fewest", log_y=False)
    )


CLAIMS = (
    Claim(
        "lr-sqrt-adam",
        "Adam",
        "curriculum of experiments; Malladi et al. 2022",
        "The best rate of true Adam is proportional to sqrt(B) at very small batches.",
        "Best rate by simulation, β = (0.9, 0.999), at the four smallest batch sizes (B = 1 to 64 at d = 1000): "
        "slope of "
        "log rate on log B.",
        (Effect("slope of log rate on log B", "very small batches", 0.45, 0.55),),
        "Best rates of SGD with momentum 0.9.",
        _sqrt_rule,
        cost=30.0,
    ),
    Claim(
        "adam-critical-batch",
        "Adam",
        "Zhang et al. 2019, Fig. 4",
        "Adam scales perfectly to larger batches than SGD with momentum, and needs fewer steps at small ones.",
        "Tuned steps of true Adam by simulation, β = (0.9, 0.999): critical batch size (twice the fewest "
        "examples) over "
        "that of momentum 0.9 in closed form, and steps of SGD over Adam's at the smallest B.",
        (
            Effect("critical batch size over that of momentum 0.9", "critical batch size", 1.05, np.inf),
            Effect("steps of SGD over Adam's, smallest B", "small batches", 1.05, np.inf),
        ),
        "SGD preconditioned by H in place of Adam.",
        _critical,
        cost=1.0,
    ),
    Claim(
        "surge",
        "Adam",
        "Li et al. 2024",
        "Adam's best rate rises with the batch size, peaks, and then falls.",
        "On a diagonal Hessian, by simulation: the best rate at the largest batch size over that at a sixteenth of it; "
        "and the best rate of one step of sign descent from the start, in closed form, over its largest value.",
        (
            Effect("best rate at the largest B over that at a sixteenth of it, simulated", "tuned Adam", 0.0, 0.95),
            Effect(
                "best one-step rate of sign descent at the largest B over the largest of all",
                "one step of sign descent",
                0.0,
                0.95,
            ),
        ),
        "One-step rates of sign descent on a Hessian with off-diagonal curvature, 0.7 I + 0.3 u uᵀ.",
        _surge,
        cost=1.0,
    ),
    Claim(
        "adam-is-preconditioned",
        "Adam",
        "this package",
        "Where noise dominates, true Adam is momentum SGD under the fixed preconditioner diag(C/B)^(1/2): with C = H, "
        "under P = H^(1/2).",
        "Tuned steps and rate of true Adam by simulation over those of momentum 0.9 in closed form: with C = H under "
        "P = H^0.5, and with the same C in all coordinates without preconditioner.",
        tuple(
            Effect(text.format(name, _ORDER[k]), f"{name}, {_ORDER[k]} B", *allowed)
            for name, count in (("C = H", 3), ("C constant", 2))
            for k in range(count)
            for text, allowed in (
                ("steps over those of preconditioned momentum, {}, {} B", _SAME),
                ("α sqrt(B/c) over the effective rate, {}, {} B", _SAME_RATE),
            )
        ),
        "No preconditioner where C = H, and P = H^0.5 where C is constant.",
        _preconditioned,
        cost=15.0,
    ),
    Claim(
        "adam-sde-scaling",
        "Adam",
        "Malladi et al. 2022",
        "Adam's square-root rule, with β₁, β₂ and ε rescaled, preserves the law at equal examples.",
        "B → 4 B with 2 α, 1-β → 4 (1-β), ε/2: risk of true Adam over that at the smaller batch, by simulation, from "
        "B = 1 and from B = 4096 (5 % allowed).",
        tuple(
            Effect(
                f"risk over that of the smaller batch at equal examples, {name}, {part} of the run",
                f"{name}, {part} of the run",
                *_SAME,
            )
            for name, *_ in _COURSES
            for part in ("a third", "end")
        ),
        "Four times the rate.",
        _sde_scaling,
        cost=10.0,
    ),
    Claim(
        "beta2-half-life",
        "Adam",
        "Marek et al. 2025",
        "Holding the half-life of β₂ in examples keeps Adam tuned across batch sizes.",
        "Tuned steps of true Adam by simulation with β₂ = 0.999^(B/16), over the fewest with half-lives of a "
        "sixteenth to "
        "sixteen times that, B = 1, 16, 256, 4096 (5 % allowed).",
        tuple(Effect(f"steps over the fewest of all half-lives, B = {b}", f"B = {b}", 0.9, 1.05) for b in _SIZES),
        "Momentum SGD, which has no β₂: every half-life is as good.",
        _half_life,
        cost=40.0,
    ),
)
"""Claims of this theme."""
