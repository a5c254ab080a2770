"""Claims about steps to the target against batch size: two regimes, critical batch sizes, noise scales."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm import analytic
from mcnqm.claims.claim import Ask, Claim, Effect, Estimate, Found
from mcnqm.claims.curves import Curves, curve
from mcnqm.claims.intervals import KNEE_ERROR, critical_batch, exact, slope
from mcnqm.claims.lab import Lab
from mcnqm.claims.tuned import freely_tuned, octaves, of, steps_error, tuned
from mcnqm.fits import tradeoff
from mcnqm.optimizers import SGD
from mcnqm.problems import NoisyQuadratic

__all__ = ["CLAIMS"]

_SAME = (0.95, 1.05)
_MORE = (1.05, np.inf)
_BATCH = "batch size B (examples)"
_STEPS = "steps to the target risk"
_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_TARGETS = (0.1, 0.03, 0.01, 0.003)


def _over(above: xr.Dataset, below: xr.Dataset, batch_size: float) -> Estimate:
    """Quotient of two exact numbers of steps at a batch size."""
    one, other = (float(curve["steps"].sel(batch_size=batch_size)) for curve in (above, below))
    return exact(one / other, float(steps_error(one) + steps_error(other)))


def _knee(curve: xr.Dataset) -> float:
    return critical_batch(curve["batch_size"].values, curve["steps"].values)


def _knees(above: xr.Dataset, below: xr.Dataset) -> Estimate:
    return exact(_knee(above) / _knee(below), 2.0 * KNEE_ERROR)


def _two_regimes(ask: Ask) -> Found:
    curves = {
        "SGD": tuned(ask.lab, correlated=ask.control),
        "momentum 0.9": tuned(ask.lab, momentum=0.9, correlated=ask.control),
        "SGD, p = 0.5": tuned(ask.lab, power=0.5, correlated=ask.control),
    }
    effects = {}
    for name, one in curves.items():
        steps, sizes = one["steps"].values, one["batch_size"].values
        few = sizes <= 16
        error = steps_error(steps[few]) * steps[few]
        effects[f"slope of log steps on log B, B = 1 to 16, {name}"] = slope(
            sizes[few], steps[few], error, ask.level, first_order=False
        )
        last = exact(steps[-1] / steps[-3], float(2.0 * steps_error(steps[-1])))
        effects[f"steps at the largest B over those at a quarter of it, {name}"] = last
        misfit = tradeoff(sizes, steps, steps_error(steps) * steps).misfit
        effects[f"scatter about the trade-off, {name}"] = exact(misfit, 0.05)
    return Found(effects, Curves({name: of(one) for name, one in curves.items()}, _BATCH, _STEPS))


def _momentum_small(ask: Ask) -> Found:
    plain = tuned(ask.lab, power=0.5 if ask.control else 0.0)
    fixed, free = tuned(ask.lab, momentum=0.9), freely_tuned(ask.lab)
    effects = {}
    for b in (1.0, 4.0):
        effects[f"steps over SGD's, momentum 0.9, B = {b:g}"] = _over(fixed, plain, b)
        effects[f"steps over SGD's, momentum tuned freely, B = {b:g}"] = _over(free, plain, b)
    series = {"SGD": of(plain), "momentum 0.9": of(fixed), "momentum tuned freely": of(free)}
    return Found(effects, Curves(series, _BATCH, _STEPS))


def _momentum_critical(ask: Ask) -> Found:
    plain = tuned(ask.lab)
    fixed = tuned(ask.lab, momentum=0.0 if ask.control else 0.9)
    free = plain if ask.control else freely_tuned(ask.lab)
    effects = {}
    for name, one in (("momentum 0.9", fixed), ("momentum tuned freely", free)):
        effects[f"critical batch size over SGD's, {name}"] = _knees(one, plain)
        effects[f"SGD's steps over those of {name} at the largest B"] = _over(plain, one, float(octaves(ask.lab)[-1]))
    series = {"SGD": of(plain), "momentum 0.9": of(fixed), "momentum tuned freely": of(free)}
    return Found(effects, Curves(series, _BATCH, _STEPS))


def _precondition_critical(ask: Ask) -> Found:
    curves = {p: tuned(ask.lab, power=0.0 if ask.control else p) for p in _POWERS}
    effects = {}
    for weaker, stronger in pairwise(_POWERS):
        name = f"critical batch size at p = {stronger:g} over that at p = {weaker:g}"
        effects[name] = _knees(curves[stronger], curves[weaker])
    for p in (0.5, 1.0):
        effects[f"steps of SGD over those at p = {p:g}, B = 1"] = _over(curves[0.0], curves[p], 1.0)
        effects[f"steps of SGD over those at p = {p:g}, B = 4"] = _over(curves[0.0], curves[p], 4.0)
    return Found(effects, Curves({f"p = {p:g}": of(one) for p, one in curves.items()}, _BATCH, _STEPS))


def _threshold(ask: Ask) -> Found:
    same = _TARGETS[0]
    curves = {t: tuned(ask.lab, target=same if ask.control else t) for t in _TARGETS}
    effects = {}
    shapes = {}
    for easier, harder in pairwise(_TARGETS):
        name = f"critical batch size at risk {harder:g} over that at {easier:g}"
        effects[name] = _knees(curves[harder], curves[easier])
    grid = np.linspace(np.log(0.02), np.log(50.0), 60)  # around the knee
    for t, one in curves.items():
        x = np.log(one["batch_size"].values / _knee(one))
        shapes[t] = np.interp(grid, x, np.log(one["steps"].values / one["steps"].values[-1]))
    for t in _TARGETS[1:]:
        gap = np.exp(np.abs(shapes[t] - shapes[same]).max())
        effects[f"largest factor from the curve for risk {same:g}, each over its knee, risk {t:g}"] = exact(
            gap, KNEE_ERROR
        )
    return Found(effects, Curves({f"risk {t:g}": of(one) for t, one in curves.items()}, _BATCH, _STEPS))


def _scale_along_run(lab: Lab, control: bool) -> tuple[NDArray[np.int64], NDArray[np.float64], float, float]:
    """Steps of a run of SGD at B = 1 with the best rate, B_noise there, the knee, and the steps to the target."""
    best = tuned(lab)
    rate, last = (float(best[name].sel(batch_size=1.0)) for name in ("lr", "steps"))
    at = np.unique(np.concatenate([[0], np.geomspace(1, last, 40)]).astype(np.int64))
    problem: NoisyQuadratic = lab.problem
    first = np.cumsum(problem.multiplicity) - problem.multiplicity  # of the coordinates that share an entry
    optimizer = SGD(lr=rate * 1e-9 if control else rate)
    found = analytic.moments(problem, optimizer, 1, int(last), record=at, coordinates=first)
    square = found["theta_variance"].values + found["theta_mean"].values ** 2
    scales = [float(analytic.noise_scale(problem, row)["B_noise"]) for row in square]
    return at, np.array(scales), _knee(best), last


def _noise_scale(ask: Ask) -> Found:
    at, scales, knee, last = _scale_along_run(ask.lab, ask.control)
    middle = int(np.searchsorted(at, 0.1 * last))
    effects = {
        f"noise scale over the knee, {name}": exact(scales[k] / knee, KNEE_ERROR)
        for name, k in (("start", 0), ("a tenth of the run", middle), ("end", -1))
    }
    return Found(effects, _scale_curves(at, scales, knee))


def _scale_moves(ask: Ask) -> Found:
    at, scales, knee, _ = _scale_along_run(ask.lab, ask.control)
    effects = {
        "noise scale at the end of the run over that at its start": exact(scales[-1] / scales[0]),
        "noise scale of the end over the knee": exact(scales[-1] / knee, KNEE_ERROR),
        "knee over the noise scale of the start": exact(knee / scales[0], KNEE_ERROR),
    }
    return Found(effects, _scale_curves(at, scales, knee))


def _scale_curves(at: Any, scales: Any, knee: float) -> Curves:
    series = {
        "noise scale along the run, B = 1": curve(at[1:], scales[1:]),
        "knee of the steps": curve(at[[1, -1]], [knee, knee]),
    }
    return Curves(series, "step", "examples")


CLAIMS = (
    Claim(
        "steps-two-regimes",
        "steps against batch size",
        "Zhang et al. 2019, Fig. 3a; McCandlish et al. 2018",
        "Steps fall as 1/B and then stay constant, and (S/S_min - 1)(E/E_min - 1) = 1 describes the bend.",
        "Steps with the best constant rate in closed form, at every octave of B: slope at B = 1 to 16, the last two "
        "octaves, and the relative scatter of all about the fitted trade-off (10 % allowed).",
        tuple(
            Effect(f"{what}, {name}", f"{name}, {regime}", low, high)
            for name in ("SGD", "momentum 0.9", "SGD, p = 0.5")
            for what, regime, low, high in (
                ("slope of log steps on log B, B = 1 to 16", "small batches", -1.05, -0.95),
                ("steps at the largest B over those at a quarter of it", "large batches", *_SAME),
                ("scatter about the trade-off", "bend", 0.0, 0.1),
            )
        ),
        "Examples of a batch are correlated: the noise falls as 1/sqrt(B).",
        _two_regimes,
        cost=3.0,
    ),
    Claim(
        "momentum-small-batch",
        "steps against batch size",
        "Zhang et al. 2019, sections 3.2 and 3.6.1",
        "At small batch sizes momentum needs as many steps as plain SGD.",
        "Exact first passages with the best rate, B = 1 and 4: momentum 0.9, and momentum tuned freely, over SGD.",
        tuple(
            Effect(f"steps over SGD's, {name}, B = {b:g}", f"{name}, B = {b:g}", *_SAME)
            for b in (1.0, 4.0)
            for name in ("momentum 0.9", "momentum tuned freely")
        ),
        "Steps of SGD preconditioned by H^0.5 in place of plain SGD's.",
        _momentum_small,
        cost=4.0,
    ),
    Claim(
        "momentum-critical-batch",
        "steps against batch size",
        "Zhang et al. 2019, section 3.6.1",
        "Momentum raises the critical batch size and needs fewer steps at large batches.",
        "Critical batch size (where twice the fewest examples are needed) and steps at the largest batch, over SGD's.",
        tuple(
            Effect(text.format(name), f"{name}", *_MORE)
            for name in ("momentum 0.9", "momentum tuned freely")
            for text in ("critical batch size over SGD's, {}", "SGD's steps over those of {} at the largest B")
        ),
        "Momentum 0.",
        _momentum_critical,
        cost=2.0,
    ),
    Claim(
        "precondition-critical-batch",
        "steps against batch size",
        "Zhang et al. 2019, section 3.3 and Fig. 3a",
        "A larger power p of the preconditioner raises the critical batch size, and gains a constant factor at small "
        "batches.",
        "Plain SGD under P = H^p with the best rate, p = 0 to 1 in quarters, in closed form.",
        (
            *(
                Effect(f"critical batch size at p = {b:g} over that at p = {a:g}", f"p = {a:g} to {b:g}", *_MORE)
                for a, b in pairwise(_POWERS)
            ),
            *(
                Effect(f"steps of SGD over those at p = {p:g}, B = {b:g}", f"p = {p:g}, small batches", *_MORE)
                for p in (0.5, 1.0)
                for b in (1.0, 4.0)
            ),
        ),
        "No preconditioner, whatever p.",
        _precondition_critical,
        cost=4.0,
    ),
    Claim(
        "threshold",
        "steps against batch size",
        "Zhang et al. 2019, Fig. 11",
        "Curves of steps against batch size have the same shape for other targets; harder targets raise the critical "
        "batch size.",
        "SGD with the best rate for risks 0.1, 0.03, 0.01, 0.003: quotients of critical batch sizes, and the largest "
        "factor between a curve and that for 0.1, once each is divided by its knee and its least steps, from "
        "1/50 to 50 "
        "times the knee (1.5 allowed).",
        (
            *(
                Effect(f"critical batch size at risk {b:g} over that at {a:g}", f"risk {a:g} to {b:g}", *_MORE)
                for a, b in pairwise(_TARGETS)
            ),
            *(
                Effect(
                    f"largest factor from the curve for risk {_TARGETS[0]:g}, each over its knee, risk {t:g}",
                    f"shape, risk {t:g}",
                    1.0,
                    1.5,
                )
                for t in _TARGETS[1:]
            ),
        ),
        "The same target under every name.",
        _threshold,
        cost=3.0,
    ),
    Claim(
        "critical-is-noise-scale",
        "steps against batch size",
        "Smith et al. 2020; McCandlish et al. 2018",
        "The knee of the steps lies at B = B_noise.",
        "B_noise = tr(HΣ)/E GᵀHG of the exact second moments along a run of SGD at B = 1 with the best rate, over the "
        "critical batch size (within a factor 2 allowed).",
        tuple(
            Effect(f"noise scale over the knee, {name}", f"noise scale of the {name}", 0.5, 2.0)
            for name in ("start", "a tenth of the run", "end")
        ),
        "A run that stands still, whose noise scale is that of the start throughout.",
        _noise_scale,
        cost=2.0,
    ),
    Claim(
        "noise-scale-moves",
        "steps against batch size",
        "McCandlish et al. 2018; this package",
        "The knee is the noise scale of the end of a small-batch run, not of its start.",
        "As for critical-is-noise-scale.",
        (
            Effect("noise scale at the end of the run over that at its start", "along the run", 2.0, np.inf),
            Effect("noise scale of the end over the knee", "end", 0.5, 2.0),
            Effect("knee over the noise scale of the start", "start", 2.0, np.inf),
        ),
        "A run that stands still, whose noise scale is that of the start throughout.",
        _scale_moves,
        cost=1.0,
    ),
)
"""Claims of this theme."""
