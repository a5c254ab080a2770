"""Claims about the best learning-rate schedules, and about batches that grow in place of rates that fall."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mcnqm import analytic, schedules
from mcnqm.claims.claim import Ask, Claim, Effect, Estimate, Found
from mcnqm.claims.curves import Curves, curve
from mcnqm.claims.intervals import exact
from mcnqm.claims.tuned import best_schedules
from mcnqm.optimizers import SGD
from mcnqm.studies.scaling import examples_of_bounds

__all__ = ["CLAIMS"]

_SAME = (0.95, 1.05)
_BATCH = "batch size B (examples)"
_POWERS = (0.0, 0.5, 1.0)
_SMALL = (1.0, 4.0, 16.0, 64.0)
_LARGE = (65536.0, 2.0**20, 2.0**24)


def _small_batch(ask: Ask) -> Found:
    effects, series = {}, {}
    for p in _POWERS:
        found = best_schedules(ask.lab, p, _SMALL)
        best = found["constant" if ask.control else "steps"].values
        constant = found["constant"].values
        bound = examples_of_bounds(ask.lab.problem, ask.lab.budget.target)["information_bound"]
        closed = (constant[0] - best[0]) / (constant[0] - bound)
        effects[f"share of the gap to the information bound that is closed, p = {p:g}"] = exact(closed, 0.005)
        effects[f"examples over the information bound's, p = {p:g}"] = exact(best[0] / bound, 0.005)
        series[f"constant, p = {p:g}"] = curve(_SMALL, constant)
        series[f"best schedule, p = {p:g}"] = curve(_SMALL, best)
    series["information bound"] = curve(_SMALL, bound / np.array(_SMALL))
    return Found(effects, Curves(series, _BATCH, "steps to the target risk"))


def _large_batch(ask: Ask) -> Found:
    effects, series = {}, {}
    for p in _POWERS:
        found = best_schedules(ask.lab, p, _SMALL if ask.control else _LARGE)
        gain = (found["constant"] / found["steps"]).values
        error = 0.5 / found["steps"].values + 0.002
        effects[f"steps of the best constant over those of the schedule, largest B, p = {p:g}"] = exact(
            gain[-1], float(min(error[-1], 0.02))
        )
        series[f"p = {p:g}"] = curve(found["batch_size"].values, gain)
    return Found(effects, Curves(series, _BATCH, "steps of the best constant over the schedule's"))


def _course(found: xr.Dataset, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the pieces, as parts of the run, and their rates."""
    one = found.sel(batch_size=b)
    kept = one["length"].values > 0
    start, length, rate = (one[name].values[kept] for name in ("start", "length", "lr"))
    return (start + 0.5 * length) / float(one["steps"]), rate


def _residual(x: np.ndarray, y: np.ndarray) -> float:
    """Root mean square residual of a straight line."""
    line = np.polynomial.Polynomial.fit(x, y, 1)
    return float(np.sqrt(np.mean((y - line(x)) ** 2)))


def _shape(ask: Ask) -> Found:
    effects, series = {}, {}
    for p in (0.0, 0.5):
        found = best_schedules(ask.lab, p, _SMALL)
        for b in (1.0, 64.0):
            place, rate = _course(found, b)
            if ask.control:  # a rate that falls like 1/t from the start
                rate = 1.0 / (1.0 + 1e3 * place)
            grid = np.linspace(0.01, 0.99, 300)
            log_rate = np.interp(grid, place, np.log(rate))
            large = float(np.mean(log_rate > log_rate.max() - np.log(2.0)))
            end = np.log(rate[-1])
            falling = (log_rate < log_rate.max() - np.log(2.0)) & (log_rate > end)
            effects[f"part of the run with at least half the largest rate, p = {p:g}, B = {b:g}"] = exact(large, 0.02)
            x, y = grid[falling], log_rate[falling]
            effects[f"scatter about an exponential over that about a power law, p = {p:g}, B = {b:g}"] = exact(
                _residual(x, y) / _residual(np.log(x), y), 0.05
            )
            series[f"p = {p:g}, B = {b:g}"] = curve(place, rate / rate.max())
    return Found(effects, Curves(series, "part of the run", "rate over the largest", log_x=False))


_PIECE_ERROR = 0.025
"""Of a slope between B = 1 and 64: 5 % in the rate of a single piece at either end, about which the risk is flat."""


def _final_rate(ask: Ask) -> Found:
    effects, series = {}, {}
    for p in (0.0, 0.5):
        seen = tuple(np.sqrt(_SMALL).tolist()) if ask.control else _SMALL
        found = best_schedules(ask.lab, p, seen)
        first, last = (np.array([_course(found, b)[1][k] for b in seen]) for k in (0, -1))
        for which, rate in (("final", last), ("first", first)):
            rise = np.log(rate[-1] / rate[0]) / np.log(_SMALL[-1] / _SMALL[0])
            effects[f"slope of log {which} rate on log B, B = 1 to 64, p = {p:g}"] = Estimate(
                rise, rise - _PIECE_ERROR, rise + _PIECE_ERROR
            )
        series[f"first rate, p = {p:g}"] = curve(_SMALL, first)
        series[f"final rate, p = {p:g}"] = curve(_SMALL, last)
    return Found(effects, Curves(series, _BATCH, "rate"))


_STAGES = 4


def _decay_or_growth(ask: Ask) -> Found:
    """Risk after four stages of equal examples: the rate halved from one to the next, or the batch doubled."""
    problem, effects, series = ask.lab.problem, {}, {}
    for name, rate, batch_size, momentum, examples in _COURSES:
        stage = int(examples / batch_size)
        factors = 2.0 ** np.arange(_STAGES)
        ends = np.cumsum(np.full(_STAGES, stage))
        falling = schedules.piecewise(rate / factors, stage)
        growth = factors**2 if ask.control else factors
        lengths = (stage / growth).astype(int)
        grown = schedules.piecewise(batch_size * growth, lengths)
        pair = []
        for lr, batch, total, marks in (
            (falling, batch_size, ends[-1], ends),
            (rate, grown, lengths.sum(), np.cumsum(lengths)),
        ):
            risk = analytic.risk(problem, SGD(lr=lr, momentum=momentum), batch, int(total), record=marks)["risk"].values
            pair.append(risk)
        effects[f"risk after the last stage, growing batch over falling rate, {name}"] = exact(
            pair[1][-1] / pair[0][-1]
        )
        x = examples * np.arange(1, _STAGES + 1)
        series[f"falling rate, {name}"] = curve(x, pair[0])
        series[f"growing batch, {name}"] = curve(x, pair[1])
    return Found(effects, Curves(series, "examples", "risk"))


_COURSES = (
    ("SGD, B = 16", 0.1, 16.0, 0.0, 2**15),
    ("momentum 0.9, B = 16", 0.01, 16.0, 0.9, 2**15),
    ("SGD, B = 4096", 1.5, 4096.0, 0.0, 2**19),
)
"""Name, rate, batch size and momentum of the first stage, examples of each stage."""


CLAIMS = (
    Claim(
        "schedule-small-batch",
        "schedules",
        "Zhang et al. 2019, Fig. 3b",
        "At small batches an optimized schedule closes most of the gap to the information bound, and nearly "
        "reaches it.",
        "Fewest steps with 50 pieces, and with one rate, at B = 1, in closed form: (constant - schedule) / (constant - "
        "bound), at least a half; and the schedule's examples over the bound's, 10 % allowed.",
        tuple(
            Effect(text.format(p), regime.format(p), low, high)
            for p in _POWERS
            for text, regime, low, high in (
                ("share of the gap to the information bound that is closed, p = {:g}", "most, p = {:g}", 0.5, 1.1),
                ("examples over the information bound's, p = {:g}", "nearly all, p = {:g}", 0.9, 1.1),
            )
        ),
        "The best constant rate in place of the schedule.",
        _small_batch,
        cost=8.0,
    ),
    Claim(
        "schedule-large-batch",
        "schedules",
        "Zhang et al. 2019, Fig. 3b",
        "At large batches an optimized schedule gains nothing over the best constant rate.",
        "Fewest steps at B = 2^24 with one rate over those with 50 pieces, both below the stability limit.",
        tuple(
            Effect(f"steps of the best constant over those of the schedule, largest B, p = {p:g}", f"p = {p:g}", *_SAME)
            for p in _POWERS
        ),
        "Small batches.",
        _large_batch,
        cost=8.0,
    ),
    Claim(
        "schedule-shape",
        "schedules",
        "Zhang et al. 2019, Fig. 3c",
        "The optimized schedule keeps a large rate and then decays roughly exponentially.",
        "Best schedule of 50 pieces, B = 1 and 64: the part of the run with at least half of the largest rate, a third "
        "at least; and in the rest the root mean square residual of log rate about a line in the step, over "
        "that about a "
        "line in the log of the step.",
        tuple(
            Effect(f"{what}, p = {p:g}, B = {b:g}", f"{regime}, p = {p:g}, B = {b:g}", low, high)
            for p in (0.0, 0.5)
            for b in (1.0, 64.0)
            for what, regime, low, high in (
                ("part of the run with at least half the largest rate", "a large rate", 1.0 / 3.0, 1.0),
                ("scatter about an exponential over that about a power law", "an exponential", 0.0, 1.0),
            )
        ),
        "A rate that falls like 1/t from the start.",
        _shape,
        cost=1.0,
    ),
    Claim(
        "schedule-final-lr",
        "schedules",
        "Zhang et al. 2019, Fig. 13",
        "The final rate of the optimized schedule is proportional to B, while its first does not change with B.",
        "First and last of 50 pieces, B = 1 to 64: slopes of their logarithms between these ends.",
        tuple(
            Effect(f"slope of log {which} rate on log B, B = 1 to 64, p = {p:g}", f"{which} rate, p = {p:g}", low, high)
            for p in (0.0, 0.5)
            for which, low, high in (("final", *_SAME), ("first", -0.05, 0.05))
        ),
        "Examples of a batch are correlated: the noise falls as 1/sqrt(B).",
        _final_rate,
        cost=1.0,
    ),
    Claim(
        "decay-equals-growth",
        "schedules",
        "Jastrzębski et al. 2018; Smith et al. 2018",
        "A schedule of falling rates can be replaced by one of growing batches.",
        "Four stages of equal examples, in closed form: the rate halved, or the batch doubled, from one to the next; "
        "risk at the end of the one over that of the other.",
        tuple(
            Effect(f"risk after the last stage, growing batch over falling rate, {name}", name, *_SAME)
            for name, *_ in _COURSES
        ),
        "Batches that grow by four where the rate is halved.",
        _decay_or_growth,
        cost=1.0,
    ),
)
"""Claims of this theme."""
