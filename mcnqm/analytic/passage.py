"""First passage: the true first step at which the risk is at or below a target.

There are two searches that jump. The one here is of maps that stay the same, from the start of the run: its settings
differ in batch size and target alone, and share one ladder of powers, which is most of the work of a tuned sweep. A
second moment of the noise in double-doubles is all the state it carries. `mcnqm.analytic.linear.scheduled_passage`
starts anywhere in a run: from a covariance that is known to a double, taken apart into as many vectors as there are
variables, each of which is carried along and bounded by itself, and so at several times the cost. Both use the ladder
of `mcnqm.analytic.linear.ladder`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit
from mcnqm.analytic._labels import dataset
from mcnqm.analytic.linear.doubledouble import dd_add
from mcnqm.analytic.linear.ladder import (
    Rung,
    State,
    StepMap,
    Weights,
    advance,
    begin_ladder,
    blocked,
    build_ladder,
    empty_ladder,
    start,
    sums,
)
from mcnqm.analytic.linear.lifted import rises
from mcnqm.analytic.linear.maps import LinearMap, linear_map, linear_settings, maps_of
from mcnqm.analytic.linear.roots import ALTERNATING, DECAYING, ROTATING, SINGLE, modes
from mcnqm.analytic.linear.scheduled import scheduled_settings, unshared
from mcnqm.analytic.linear.scheduled_passage import first_passages
from mcnqm.domains import MOST_STEPS, integer, positive
from mcnqm.problems import NoisyQuadratic, check_problem
from mcnqm.provenance import recorded

__all__ = ["steps_to_target"]

_UNSETTLED = 2**22
"""Where to give up by default if a schedule never settles."""


@recorded("mcnqm.analytic.steps_to_target")
def steps_to_target(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Any,
    target: Any,
    *,
    max_steps: int | None = None,
    average: Any = None,
) -> xr.Dataset:
    r"""First step at which the exact risk is at or below `target`.

    Parameters
    ----------
    problem : NoisyQuadratic
    optimizer : SGD
        Arrays make a grid, as everywhere.
    batch_size : Number
        Examples per step, at least 1.
    target : Number
        Risk to reach, > 0, in units of the loss; an array makes a dimension ``target``.
    max_steps : int, optional
        Where to give up. The default, 2**53, costs no more than a few doublings. For a schedule that may change for
        ever (a function, an average of `mcnqm.averaging.polynomial`) it is 2**22.
    average : Number, optional
        Decay of an exponential moving average of the iterates, or a schedule of it, as in `mcnqm.analytic.risk`.

    Returns
    -------
    xarray.Dataset
        ``steps`` (\*sweep), in steps; infinite where the target is not reached within `max_steps`.

    Raises
    ------
    ParameterError
        If the optimizer is not linear, or a value is out of range.

    Notes
    -----
    The risk is not monotone: momentum oscillates, and even plain SGD can dip below a target and rise again.
    The search therefore never assumes it. Split the risk as bias plus variance, :math:`R_t = T_t + N_t`;
    :math:`N_t` is a growing sum of squares, always. For an interval :math:`[t_1, t_2]` it forms the bound

    .. math:: \min_{t_1 \le t \le t_2} R_t \;\ge\; \sum_i \big( \min(T_{i,t_1}, T_{i,t_2}) + N_{i,t_1} \big),

    in which a coordinate's minimum is replaced by 0 where it may pass through zero inside, and by the
    sharper :math:`\min(R_{i,t_1}, R_{i,t_2})` without momentum or averaging. An interval whose bound exceeds
    the target is jumped over and the next one is twice as long; otherwise half as long, down to single steps.
    So modes that turn fast are scanned while they matter, monotone stretches are bisected, and the answer is
    the first passage either way. Why each minimum is at an end: ``docs/analytic.md``, section 4.

    With multiplicative noise, :math:`N_t` is what constant noise leaves, with what feeds on that, and it never falls;
    what is left of the start is never less than what the map of the means leaves of it, which takes the place of T.

    Decisions use risks of the accuracy of `mcnqm.analytic.risk`, so the step is exact unless the risk there
    and the target agree to 14 digits. Time grows like d · log₂(steps) where little oscillates.

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic.power_law(dim=1000)
    >>> analytic.steps_to_target(problem, SGD(lr=[0.1, 1.0]), [64, 1024], target=0.01).steps.values
    array([[14704., 13417.],
           [   inf,  1428.]])
    """
    check_problem(problem)
    positive.check("target", getattr(target, "values", target))
    settings = linear_settings(optimizer, batch_size, average, schedules=True, target=target)
    apart = rises(problem)
    scheduled = scheduled_settings(settings, optimizer.nesterov, apart=apart)
    if max_steps is None:
        settled = max(setting.settles() for _, setting in scheduled) < np.inf
        max_steps = MOST_STEPS if settled else _UNSETTLED
    last = integer("max_steps", max_steps, 0, MOST_STEPS)
    flat = np.empty(settings.size)
    for members, setting in scheduled:
        if apart or settings.schedules or (setting.buffer and (setting.averaged or setting.dampened)):
            goal = settings.values["target"][members]
            flat[members] = first_passages(problem, setting, unshared(settings, apart)[members], goal, last)
    for members, values in [] if apart or settings.schedules else maps_of(settings):
        if values["momentum"] > 0 and ("average" in values or values["dampening"] > 0):
            continue  # done above
        linear = linear_map(problem, optimizer.nesterov, values["momentum"] > 0, values)
        batch, goal = settings.values["batch_size"][members], settings.values["target"][members]
        flat[members] = _first_passages(linear, linear.weights(problem), batch, goal, last)
    data = xr.DataArray(
        settings.unflatten(flat),
        dims=settings.dims,
        attrs={"units": "steps", "long_name": "first step at or below the target risk"},
    )
    return dataset({"steps": data}, settings).assign_attrs(
        max_steps=float(last)  # netCDF-3 has no integers beyond 32 bits
    )


class _Motion(NamedTuple):
    kind: NDArray[np.int64]
    angle: NDArray[np.float64]


def _first_passages(
    linear: LinearMap,
    weights: Weights,
    batch_size: NDArray[np.float64],
    target: NDArray[np.float64],
    last: int,
) -> NDArray[np.float64]:
    """First passages of one map at several batch sizes and targets, which share its ladder."""
    found = modes(linear.step.matrix)
    step = StepMap(*map(blocked, linear.step))
    return _passages(
        step,
        Weights(blocked(weights.bias), blocked(weights.noise), weights.readout),
        _Motion(blocked(found.kind), blocked(found.angle)),
        _Goals(batch_size, target, last),
        empty_ladder(step, last),
    )


class _Goals(NamedTuple):
    batch_size: NDArray[np.float64]
    target: NDArray[np.float64]
    last: int


@njit
def _lower_bound(motion: _Motion, weights: Weights, batch_size: float, steps: int, ends: tuple[State, State]) -> float:
    """Sum over a block of what each coordinate's risk cannot fall below between two states.

    `steps` is the number of steps from one to the other, and even.
    """
    first, second = ends
    i = weights.readout
    total = 0.0
    for c in range(weights.bias.size):
        b, w = weights.bias[c], weights.noise[c] / batch_size
        v1, v2 = first.vector[i, 0, c], second.vector[i, 0, c]
        before = b * v1 * v1 if b > 0.0 else 0.0
        after = b * v2 * v2 if b > 0.0 else 0.0
        noise = w * first.noise[i, i, 0, c] if w > 0.0 else 0.0
        kind = motion.kind[c]
        if kind == SINGLE:
            later = w * second.noise[i, i, 0, c] if w > 0.0 else 0.0
            total += min(before + noise, after + later)
            continue
        # An even number of steps, so that alternating modes too compare by their sign.
        if v1 * v2 > 0.0 and (
            kind in (DECAYING, ALTERNATING) or (kind == ROTATING and motion.angle[c] * steps < np.pi * (1.0 - 1e-9))
        ):
            noise += min(before, after)
        total += noise
    return total


@njit
def _passages(step: StepMap, weights: Weights, motion: _Motion, goals: _Goals, ladder: Rung) -> NDArray[np.float64]:
    blocks, n, width = step.matrix.shape[0], step.matrix.shape[1], step.matrix.shape[4]
    scratch = np.empty((n, n, 2, width))
    begin_ladder(step, ladder)
    built = 1
    vector, noise = np.empty((blocks, n, 2, width)), np.empty((blocks, n, n, 2, width))
    vector2, noise2 = np.empty((blocks, n, 2, width)), np.empty((blocks, n, n, 2, width))
    answer = np.full(goals.target.size, np.inf)
    for m in range(goals.target.size):
        goal, batch_size = goals.target[m], goals.batch_size[m]
        bias = 0.0
        for k in range(blocks):
            state = State(vector[k], noise[k])
            start(state, step.initial[k])
            bias += sums(state, Weights(weights.bias[k], weights.noise[k], weights.readout))[0]
        if bias <= goal:
            answer[m] = 0.0
            continue
        at, j = 0, 0
        end, known = goals.last + 1, False  # the passage is before `end` or, where known, at `end` at the latest
        while True:
            # Here the risk is known to exceed the goal at every step up to `at`.
            if at + 1 >= end:
                if known:
                    answer[m] = end
                break
            while at + (1 << j) >= end:
                j -= 1
            built = build_ladder(ladder, built, j, scratch)
            bias = variance = bias_rest = variance_rest = bound = 0.0
            for k in range(blocks):
                share = Weights(weights.bias[k], weights.noise[k], weights.readout)
                state, ahead = State(vector[k], noise[k]), State(vector2[k], noise2[k])
                advance(Rung(ladder.power[j, k], ladder.noise[j, k]), state, ahead, scratch)
                both = sums(ahead, share)
                bias, bias_rest = dd_add(bias, bias_rest, both[0], 0.0)
                variance, variance_rest = dd_add(variance, variance_rest, both[1], 0.0)
                if j > 0:
                    local = _Motion(motion.kind[k], motion.angle[k])
                    bound += _lower_bound(local, share, batch_size, 1 << j, (state, ahead))
            # What overflowed compares as above the goal.
            if bias + variance / batch_size <= goal:
                end, known = at + (1 << j), True
                j = max(j - 1, 0)
            elif j == 0 or bound > goal:
                at += 1 << j
                vector, vector2 = vector2, vector
                noise, noise2 = noise2, noise
                # The variance never falls again: above the goal, there is no way back below it. Nor is there from what
                # overflowed.
                if not known and not (variance / batch_size <= goal and np.isfinite(bias)):
                    break
                j += 1
            else:
                j -= 1
    return answer
