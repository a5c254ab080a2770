r"""Linear optimizers whose numbers change with the step: their second moments, step by step or many steps at a time.

A coordinate's state is the response to its start, v, and what the noise has left, S, for noise of variance 1:

.. math::

    v_{t+1} = A_t v_t, \qquad S_{t+1} = A_t S_t A_t^T + b_t b_t^T / B_t,

over (θ, m, θ̄) with torch's buffer m, which does not depend on the rate: where the rate changes, nothing else does.
Weight decay adds to the curvature in A, and the buffer takes a part of the gradient, all of it at the first step.
Here that is done in doubles, one step at a time, with a relative error of about t · 1e-16. A stretch in which nothing
changes is taken as a whole, by the double-double ladder of constant maps. So is one in which only the weight of a plain
mean changes, n / (n + 1): the sum of the iterates has a constant map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic._jit import njit
from mcnqm.analytic.linear.doubledouble import dd_add
from mcnqm.analytic.linear.ladder import StepMap, advance, empty_rung, empty_state, first_rung, square
from mcnqm.analytic.linear.lifted import Strength, climb, gathered, lift, rises, spread_of
from mcnqm.analytic.linear.maps import linear_map
from mcnqm.averaging import Harmonic
from mcnqm.domains import Domain
from mcnqm.problems import NoisyQuadratic
from mcnqm.schedules import FOREVER, Curve, stretches
from mcnqm.settings import Settings

__all__ = [
    "COUNTING",
    "FLAT",
    "STEPWISE",
    "Piece",
    "ScheduledSetting",
    "Walk",
    "scheduled_settings",
    "stretch_map",
    "unshared",
]

Array = NDArray[np.float64]

ROWS = 9
V0, V1, VA, S00, S01, S11, S0A, S1A, SAA = range(ROWS)
"""Rows of the state: v of θ, m and θ̄, then S, its upper triangle with θ and m first."""

STEPWISE, FLAT, COUNTING = range(3)
"""How a piece of a run is taken: step by step; as a whole; as a whole, in terms of the sum of the iterates."""

_WORTH = 64
"""Shortest stretch that is worth a ladder."""

_CHUNK = 2**14
"""Most steps whose numbers are tabulated at a time."""

_BLOCK = 256
"""Coordinates whose state, 18 KB, stays in the first-level cache."""


class Piece(NamedTuple):
    """Steps from `start` to `stop`, and how they are taken."""

    start: int
    stop: int
    form: int


@dataclass(frozen=True)
class _Line:
    """One number of one setting: a scale, times a curve if it has one."""

    name: str
    scale: float
    curve: Curve | None = None
    domain: Domain | None = None

    def at(self, step: NDArray[np.int64]) -> Array:
        if self.curve is None:
            return np.full(step.size, self.scale)
        values = self.scale * self.curve.at(step)
        if self.domain is not None:
            self.domain.check(self.name, values)
        return values

    def stretches(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ends and forms."""
        if self.curve is None:
            return np.array([FOREVER]), np.array([FLAT])
        stops, flat = stretches(self.curve)
        counted = STEPWISE
        if self.name == "average" and isinstance(self.curve, Harmonic) and self.curve.eta == 0 and self.scale == 1.0:
            counted = COUNTING
        return stops, np.where(flat, FLAT, counted)


@dataclass(frozen=True)
class ScheduledSetting:
    """What the numbers of one setting do from step to step.

    Attributes
    ----------
    lines : dict of str to _Line
        ``lr``, ``momentum``, ``average``, ``batch_size``, ``weight_decay`` and ``dampening``.
    precondition : float
    nesterov, buffer, averaged : bool
        The form of the optimizer; whether there is a momentum buffer, and an average of the iterates.
    """

    lines: dict[str, _Line]
    precondition: float
    nesterov: bool
    buffer: bool
    averaged: bool

    def table(self, start: int, stop: int) -> Array:
        """Numbers of the steps from `start` to `stop` - 1, shape (6, steps).

        Rate, momentum, weight of the past, 1 / B, weight decay and the part of the gradient that the buffer takes.
        """
        step = np.arange(start, stop, dtype=np.int64)
        lr, momentum, average, batch = (self.lines[k].at(step) for k in ("lr", "momentum", "average", "batch_size"))
        gain = 1.0 - self.lines["dampening"].at(step)
        gain[step == 0] = 1.0
        return np.stack([lr, momentum, average, 1.0 / batch, self.lines["weight_decay"].at(step), gain])

    @property
    def dampened(self) -> bool:
        """Whether the first step is apart from the others."""
        return self.lines["dampening"].scale != 0.0

    def settles(self) -> float:
        """Step from which on the run can be taken as a whole; inf if none is known."""
        ends = [line.stretches() for line in self.lines.values()]
        return max(np.inf if form[-1] == STEPWISE else float(stops[-2:-1].sum()) for stops, form in ends)

    def counted(self, step: int) -> int:
        """How many iterates the plain mean holds after `step` steps."""
        curve = self.lines["average"].curve
        assert isinstance(curve, Harmonic)
        return max(step + 1 - curve.start, 0)

    def plan(self, start: int, last: int, stops: NDArray[np.int64] | None = None) -> list[Piece]:
        """Pieces of the steps from `start` to `last`; what is taken as a whole also ends at `stops`."""
        if start >= last:
            return []
        ends = [line.stretches() for line in self.lines.values()]
        inside = np.concatenate([*(stop for stop, _ in ends), np.empty(0, np.int64) if stops is None else stops])
        if self.dampened:
            inside = np.append(inside, 1)
        cuts = np.unique(np.concatenate([[start, last], inside[(inside > start) & (inside < last)]]))
        kinds = np.stack([form[np.searchsorted(stop, cuts[:-1], side="right")] for stop, form in ends])
        whole = np.where((kinds == STEPWISE).any(axis=0), STEPWISE, kinds.max(axis=0))
        whole[np.diff(cuts) < _WORTH] = STEPWISE
        # What is taken step by step on both sides of a cut is one piece.
        first = np.append(True, (whole[1:] != STEPWISE) | (whole[:-1] != STEPWISE))
        begins = cuts[:-1][first]
        pieces = zip(begins.tolist(), [*begins[1:].tolist(), last], whole[first].tolist(), strict=True)
        return [Piece(*piece) for piece in pieces]


def scheduled_settings(
    settings: Settings, nesterov: bool, buffer: bool | None = None, *, apart: bool = False
) -> list[tuple[NDArray[np.int64], ScheduledSetting]]:
    """The distinct scheduled settings of a sweep, and which of its settings share each.

    Settings that differ only in a constant batch size share one at batch size 1; so do those that differ in a target.
    With `buffer` given, all have a momentum buffer, or none. With `apart`, no batch sizes share a setting.
    """
    tables = settings.schedules
    shared = ("target",) if apart or "batch_size" in tables else ("target", "batch_size")
    names = [name for name in settings.values if name not in shared]
    rows = [settings.values[name] for name in names] + [table.which.astype(np.float64) for table in tables.values()]
    distinct, which = np.unique(np.stack(rows), axis=1, return_inverse=True)
    found = []
    for k in range(distinct.shape[1]):
        members = np.flatnonzero(which.ravel() == k)
        values = {name: float(settings.values[name][members[0]]) for name in names}
        lines = {}
        for name in ("lr", "momentum", "average", "batch_size", "weight_decay", "dampening"):
            line = _Line(name, values.get(name, 1.0 if name == "batch_size" else 0.0))
            if name in tables:
                table = tables[name]
                line = _Line(name, line.scale, table.curves[int(table.which[members[0]])], table.domain)
            lines[name] = line
        moving = lines["momentum"].scale != 0.0 if buffer is None else buffer
        found.append((members, ScheduledSetting(lines, values["precondition"], nesterov, moving, "average" in values)))
    return found


def unshared(settings: Settings, apart: bool = False) -> Array:
    """What to divide the variance part by, for each setting: its batch size, unless the walk already has."""
    return np.ones(settings.size) if apart or "batch_size" in settings.schedules else settings.values["batch_size"]


class Walk:
    """Second moments of every coordinate under one setting, advanced from step to step.

    Parameters
    ----------
    problem : NoisyQuadratic
    setting : ScheduledSetting
    initial : sequence of float
        Of θ, m and θ̄, the start whose response v is.
    """

    def __init__(
        self, problem: NoisyQuadratic, setting: ScheduledSetting, initial: tuple[float, float, float] = (1.0, 0.0, 1.0)
    ) -> None:
        self.problem, self.setting, self.step = problem, setting, 0
        self.state = np.zeros((ROWS, problem.size))
        self.state[[V0, V1, VA]] = np.array(initial)[:, np.newaxis]
        self.curvature = np.ascontiguousarray(problem.curvature, dtype=np.float64)
        with np.errstate(over="ignore", under="ignore"):
            self.unit = problem.curvature**-setting.precondition
        half = 0.5 * problem.multiplicity * problem.curvature
        # Where noise rises with the parameter, S is what noise has left itself, and not for noise of variance 1.
        self.rising = rises(problem)
        self.weights = np.stack([half * problem.initial_second_moment, half if self.rising else half * problem.noise])
        self._drive = np.stack([problem.noise, problem.multiplicative_noise, problem.initial_second_moment])
        self._shape = (setting.buffer, setting.nesterov, setting.averaged)

    def risk(self) -> Array:
        """Bias and variance parts of the risk now."""
        return np.array(_sums(self.state, self.weights, self.setting.averaged, np.empty(self.problem.size)))

    def along(self, at: NDArray[np.int64]) -> Array:
        """`risk` at the steps `at`, increasing and not before the present one, shape (2, steps)."""
        out = np.zeros((2, at.size))
        done = 0
        for piece in self.setting.plan(self.step, int(at[-1]), at):
            if done < at.size and at[done] == piece.start:
                out[:, done] = self.risk()
                done += 1
            if piece.form != STEPWISE:
                self.leap(piece)
                continue
            for start, stop in _chunks(piece):
                until = int(np.searchsorted(at, stop, side="left"))  # what falls on the end, the next piece sees
                out[:, done:until] = self.steps(start, stop, at[done:until])
                done = until
        if done < at.size:
            out[:, done] = self.risk()
        return np.where(np.isfinite(out), out, np.inf)

    def states(self, at: NDArray[np.int64]) -> Array:
        """The state at the steps `at`, shape (steps, ROWS, size)."""
        out = np.empty((at.size, *self.state.shape))
        for k, stop in enumerate(at.tolist()):
            for piece in self.setting.plan(self.step, stop):
                self.take(piece)
            out[k] = self.state
        return out

    def take(self, piece: Piece) -> None:
        """Go through a piece."""
        if piece.form != STEPWISE:
            self.leap(piece)
            return
        for start, stop in _chunks(piece):
            self.steps(start, stop, np.empty(0, np.int64))

    def steps(self, start: int, stop: int, looks: NDArray[np.int64]) -> Array:
        """Step by step from `start` to `stop`, and `risk` at the steps `looks` on the way, shape (2, looks)."""
        out = np.zeros((2, looks.size))
        table = self.setting.table(start, stop)
        drive = self._drive if self.rising else np.empty((0, self.problem.size))
        _walk(
            self.state, self.curvature, self.unit, self._shape, table, looks - start, self.weights, drive, out, _BLOCK
        )
        self.step = stop
        return out

    def leap(self, piece: Piece) -> None:
        """From the start of a piece in which nothing changes to its end."""
        whole, into, back = stretch_map(self, piece)
        vector, noise = into(self.state)
        if self.rising:
            second = self.problem.initial_second_moment
            state = climb(self.lifted(whole), gathered(noise, vector, second), piece.stop - piece.start)
            _climb(whole, piece.stop - piece.start, vector, noise, 128)
            noise = spread_of(state, vector, second)
        else:
            _climb(whole, piece.stop - piece.start, vector, noise, 128)
        self.state = back(vector, noise)
        self.step = piece.stop

    def lifted(self, whole: StepMap) -> Array:
        """The map of second moments in a piece, under noise that rises with the parameter."""
        fixed, slope = np.zeros((2, self.problem.size)), np.zeros((2, self.problem.size))
        fixed[0], slope[0] = self.problem.noise, self.problem.multiplicative_noise
        return lift(whole, Strength(fixed, slope))


def _chunks(piece: Piece) -> Iterator[tuple[int, int]]:
    for start in range(piece.start, piece.stop, _CHUNK):
        yield start, min(start + _CHUNK, piece.stop)


# --------------------------------------------------------------------------------------------- many steps at a time

Into = Callable[[Array], tuple[Array, Array]]
Back = Callable[[Array, Array], Array]


def stretch_map(walk: Walk, piece: Piece) -> tuple[StepMap, Into, Back]:
    """The constant map of a piece, and the ways into its basis and back.

    The basis is that of `mcnqm.analytic.linear.maps`; with COUNTING, its last entry is the sum of the averaged
    iterates.
    """
    setting, size = walk.setting, walk.problem.size
    lr, momentum, gamma, inverse, decay, gain = setting.table(piece.start, piece.start + 1)[:, 0].tolist()
    values = {"lr": lr, "momentum": momentum, "precondition": setting.precondition, "weight_decay": decay}
    values["dampening"] = 1.0 - gain
    if setting.averaged and piece.form == FLAT:
        values["average"] = gamma
    with np.errstate(all="ignore"):
        if lr > 0.0:
            linear = linear_map(walk.problem, setting.nesterov, setting.buffer, values)
            step, unit, scale, flipped = linear.step, linear.unit, linear.scale, linear.flipped
        else:
            pull = gain * (walk.curvature + decay)
            step = _still(pull, gain, setting.buffer, momentum, values.get("average"))
            unit = scale = np.ones(size)
            flipped = np.zeros(size, dtype=np.bool_)
        if piece.form == COUNTING:
            step = _summed(step)
        step = step._replace(impulse=np.ascontiguousarray(step.impulse * (unit * np.sqrt(inverse))))
    n = step.matrix.shape[0]
    before = setting.counted(piece.start) if piece.form == COUNTING else 1
    after = setting.counted(piece.stop) if piece.form == COUNTING else 1
    tilt = np.where(flipped, 2.0, 0.0)
    last = n - 1
    at = np.array([[S00, S01, S0A], [S01, S11, S1A], [S0A, S1A, SAA]])
    keep = [0, *([1] if setting.buffer else []), *([2] if setting.averaged else [])]
    cells = at[np.ix_(keep, keep)]

    def shear(vector: Array, noise: Array, factor: Array, by: Array) -> None:
        # Second entry: factor times itself, plus `by` times θ.
        vector[1] = factor * vector[1] + by * vector[0]
        noise[1] = factor * noise[1] + by * noise[0]
        noise[:, 1] = factor * noise[:, 1] + by * noise[:, 0]

    def into(state: Array) -> tuple[Array, Array]:
        vector, noise = state[keep].copy(), state[cells].copy()
        with np.errstate(all="ignore"):
            if setting.buffer:
                shear(vector, noise, scale, tilt)
            if setting.averaged:
                vector[last] *= before
                noise[last] *= before
                noise[:, last] *= before
        return _high(vector), _high(noise)

    def back(vector: Array, noise: Array) -> Array:
        v, S = vector[:, 0].copy(), noise[:, :, 0].copy()
        with np.errstate(all="ignore"):
            if setting.buffer:
                shear(v, S, 1.0 / scale, -tilt / scale)
            if setting.averaged:
                v[last] /= after
                S[last] /= after
                S[:, last] /= after
        state = np.zeros((ROWS, size))
        state[keep] = v
        state[cells] = S
        return state

    return step, into, back


def _high(array: Array) -> Array:
    """As double-doubles without low words: an axis before the last."""
    out = np.zeros((*array.shape[:-1], 2, array.shape[-1]))
    out[..., 0, :] = array
    return out


def _still(pull: Array, gain: float, buffer: bool, momentum: float, gamma: float | None) -> StepMap:
    """The map at rate 0: θ stays, and torch's own buffer goes on, by `pull` times θ and `gain` times the noise."""
    size = pull.size
    entries = [[1.0]] if not buffer else [[1.0, 0.0], [0.0, momentum]]
    n = len(entries) + (gamma is not None)
    matrix, impulse, initial = np.zeros((n, n, 2, size)), np.zeros((n, 2, size)), np.zeros((n, size))
    for i, row in enumerate(entries):
        for j, entry in enumerate(row):
            matrix[i, j, 0] = entry
    if buffer:
        matrix[1, 0, 0] = pull
        impulse[1, 0] = gain
    if gamma is not None:
        matrix[-1, 0, 0], matrix[-1, -1, 0] = 1.0 - gamma, gamma
    return StepMap(matrix, impulse, initial)


def _summed(step: StepMap) -> StepMap:
    """With the sum of the iterates as the last entry."""
    n, size = step.matrix.shape[0], step.matrix.shape[3]
    matrix, impulse = np.zeros((n + 1, n + 1, 2, size)), np.zeros((n + 1, 2, size))
    matrix[:n, :n], matrix[n, :n], matrix[n, n, 0] = step.matrix, step.matrix[0], 1.0
    impulse[:n], impulse[n] = step.impulse, step.impulse[0]
    return StepMap(matrix, impulse, np.zeros((n + 1, size)))


@njit
def _climb(step: StepMap, steps: int, vector: Array, noise: Array, width: int) -> None:
    """Take every coordinate `steps` further, in place, a block at a time."""
    n, size = step.matrix.shape[0], step.matrix.shape[3]
    for low in range(0, size, width):
        high = min(low + width, size)
        part = StepMap(
            np.ascontiguousarray(step.matrix[:, :, :, low:high]),
            np.ascontiguousarray(step.impulse[:, :, low:high]),
            np.ascontiguousarray(step.initial[:, low:high]),
        )
        d = high - low
        rung, other, scratch = empty_rung(n, d), empty_rung(n, d), np.empty((n, n, 2, d))
        state, spare = empty_state(n, d), empty_state(n, d)
        state.vector[:] = vector[:, :, low:high]
        state.noise[:] = noise[:, :, :, low:high]
        first_rung(part, rung)
        left = steps
        while left:
            if left & 1:
                advance(rung, state, spare, scratch)
                state, spare = spare, state
            left >>= 1
            if left:
                square(rung, other, scratch)
                rung, other = other, rung
        vector[:, :, low:high] = state.vector
        noise[:, :, :, low:high] = state.noise


# ----------------------------------------------------------------------------------------------------- step by step


@njit
def _step(s: Array, h: Array, unit: Array, shape: tuple[bool, bool, bool], now: Array, variance: Array) -> None:
    """One step of a block of coordinates, in place; `now` as in `ScheduledSetting.table`, `variance` the noise's."""
    buffer, nesterov, averaged = shape
    lr, beta, gamma, decay, gain = now[0], now[1], now[2], now[4], now[5]
    fresh = 1.0 - gamma
    lead = 1.0 + beta if nesterov else 1.0
    reach = beta * beta if nesterov else beta
    if not buffer:
        for c in range(h.size):
            a, w = lr * unit[c], variance[c]
            p = 1.0 - a * (h[c] + decay)
            v, x = p * s[V0, c], p * p * s[S00, c] + w * a * a
            if averaged:
                cross = p * s[S0A, c]
                s[VA, c] = gamma * s[VA, c] + fresh * v
                s[SAA, c] = gamma * (gamma * s[SAA, c] + 2.0 * fresh * cross) + fresh * fresh * x
                s[S0A, c] = gamma * cross + fresh * x
            s[V0, c], s[S00, c] = v, x
        return
    for c in range(h.size):
        a, w = lr * unit[c], variance[c]
        g = gain * (h[c] + decay)
        p, q, b = 1.0 - lead * a * g, -a * reach, -a * lead * gain
        v0, v1 = s[V0, c], s[V1, c]
        x0, x1 = p * s[S00, c] + q * s[S01, c], p * s[S01, c] + q * s[S11, c]
        y0, y1 = g * s[S00, c] + beta * s[S01, c], g * s[S01, c] + beta * s[S11, c]
        s[V0, c], s[V1, c] = p * v0 + q * v1, g * v0 + beta * v1
        x00, x01 = p * x0 + q * x1 + w * b * b, g * x0 + beta * x1 + w * b * gain
        s[S00, c], s[S01, c], s[S11, c] = x00, x01, g * y0 + beta * y1 + w * gain * gain
        if averaged:
            c0, c1 = p * s[S0A, c] + q * s[S1A, c], g * s[S0A, c] + beta * s[S1A, c]
            s[VA, c] = gamma * s[VA, c] + fresh * s[V0, c]
            s[SAA, c] = gamma * (gamma * s[SAA, c] + 2.0 * fresh * c0) + fresh * fresh * x00
            s[S0A, c], s[S1A, c] = gamma * c0 + fresh * x00, gamma * c1 + fresh * x01


@njit
def _total(terms: Array) -> float:
    """Sum of an array, which is overwritten: halves are added to each other, so that rounding hardly adds up."""
    n = terms.size
    while n > 1:
        half = (n + 1) // 2
        front, rear = terms[: n - half], terms[half:n]
        for c in range(front.size):
            front[c] += rear[c]
        n = half
    return float(terms[0])


@njit
def _sums(state: Array, weights: Array, averaged: bool, scratch: Array) -> tuple[float, float]:
    """Sums over coordinates of ``bias * v**2`` and ``noise * S``; a weight of 0 silences an overflow."""
    v, S = state[VA if averaged else V0], state[SAA if averaged else S00]
    terms = scratch[: v.size]
    share = weights[0]
    for c in range(v.size):
        term = share[c] * (v[c] * v[c])
        terms[c] = term if share[c] > 0.0 else 0.0
    bias = _total(terms)
    share = weights[1]
    for c in range(v.size):
        term = share[c] * S[c]
        terms[c] = term if share[c] > 0.0 else 0.0
    variance = _total(terms)
    return bias if np.isfinite(bias) else np.inf, variance if np.isfinite(variance) else np.inf


@njit
def _walk(
    state: Array,
    curvature: Array,
    unit: Array,
    shape: tuple[bool, bool, bool],
    table: Array,
    looks: NDArray[np.int64],
    weights: Array,
    drive: Array,
    out: Array,
    width: int,
) -> None:
    """Through the steps of a table; the risk after `looks` of them, increasing, is added to `out`.

    `drive` is empty for noise of variance 1; else c, s and E θ(0)², so that it is c + s E θ².
    """
    rest, scratch, variance = np.zeros_like(out), np.empty(width), np.empty(width)
    for low in range(0, curvature.size, width):
        high = min(low + width, curvature.size)
        part = np.ascontiguousarray(state[:, low:high])
        h, scale, share = curvature[low:high], unit[low:high], np.ascontiguousarray(weights[:, low:high])
        r = 0
        for t in range(table.shape[1] + 1):
            if r < looks.size and looks[r] == t:
                both = _sums(part, share, shape[2], scratch)
                for k in range(2):
                    out[k, r], rest[k, r] = dd_add(out[k, r], rest[k, r], both[k], 0.0)
                r += 1
            if t < table.shape[1]:
                w = table[3, t]
                for c in range(high - low):
                    variance[c] = w
                if drive.shape[0] > 0:
                    for c in range(high - low):
                        second = part[S00, c] + drive[2, low + c] * part[V0, c] * part[V0, c]
                        variance[c] = w * (drive[0, low + c] + drive[1, low + c] * second)
                _step(part, h, scale, shape, table[:, t], variance)
        state[:, low:high] = part
