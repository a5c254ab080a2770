"""Where a chain is looked at: panels of Gauss-Legendre nodes, fine enough for a step, that end at barriers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from mcnqm.analytic.chains import banded
from mcnqm.analytic.chains.coordinates import Coordinate
from mcnqm.errors import ParameterError
from mcnqm.memory import check_memory

__all__ = ["Chain", "chain_on", "gauss_panels", "start_of", "window_of"]

Array = NDArray[np.float64]

_ORDER = 8
"""Nodes of a panel."""

_COARSE = 2.5
"""Length of a panel of the coarsest grid, in standard deviations of a step as they look from where it begins."""

_MOST_NODES = 30_000
_MOST_ENTRIES = 30_000_000
"""Of a band: 240 MB."""

_SPOTS = 20_001
_DEPTH = 50.0
"""How far below its largest value the SDE's stationary density lies at the ends of the first window: 2e-22."""

_FLUX = 1e-20
"""Chance of a step beyond the window, in the stationary law, that is let pass."""

_FAR = 9.5
"""Standard deviations of the start that are looked at, 2e-21 beyond."""

_NEAR = 6.2
"""Of the start, and of the step that follows, for which a window has room: what is beyond, 6e-10, counts as lost."""


def gauss_panels(edges: Array, order: int = _ORDER) -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Legendre panels with these edges."""
    x, w = np.polynomial.legendre.leggauss(order)
    half = 0.5 * np.diff(edges)[:, np.newaxis]
    return (edges[:-1, np.newaxis] + half * (1.0 + x)).ravel(), (half * w).ravel()


@dataclass(frozen=True)
class Chain:
    """A coordinate on nodes.

    Attributes
    ----------
    coordinate : Coordinate
    x, weight : ndarray, shape (nodes,)
        Positions, increasing, and quadrature weights.
    window : (float, float)
        Ends of the outermost panels.
    mean, spread : ndarray, shape (nodes,)
        Of a step from each node.
    """

    coordinate: Coordinate
    x: Array
    weight: Array
    window: tuple[float, float]
    mean: Array
    spread: Array
    _powers: dict[str, list[tuple[Array, Array]]] = field(default_factory=dict)

    @cached_property
    def reach(self) -> float:
        """Standard deviations beyond which a step is not followed.

        An escape over a barrier of S temperatures happens at about exp(-S) a step, and so may a single step that makes
        it; what is left out is rarer by another 3e-20.
        """
        coordinate, height = self.coordinate, 0.0
        if coordinate.barrier is not None:
            place = np.array([*coordinate.minima, coordinate.barrier])
            loss = coordinate.loss(place)
            temperature = 0.5 * coordinate.lr / coordinate.batch_size * float(coordinate.variance(place).min())
            height = float(loss[2] - loss[:2].min()) / temperature
        return float(np.sqrt(2.0 * (45.0 + height)))

    @cached_property
    def width(self) -> int:
        """Half width of the band."""
        width = int(banded.bandwidth(self.x, self.mean, self.spread, self.reach))
        if self.x.size * (2.0 * width + 1.0) > _MOST_ENTRIES:
            raise _too_fine(self.coordinate, self.x.size)
        return width

    @cached_property
    def center(self) -> int:
        """The node of least loss."""
        return int(np.argmin(self.coordinate.loss(self.x)))

    @cached_property
    def band(self) -> Array:
        """The transition matrix, as `mcnqm.analytic.chains.banded` keeps it."""
        check_memory(16.0 * self.x.size * (2 * self.width + 1), "transition matrices", "lr", self.coordinate.lr)
        return banded.fill(self.x, self.weight, self.mean, self.spread, self.width, self.reach)

    @cached_property
    def out(self) -> Array:
        """Chance of a step beyond the window."""
        low, high = self.window
        beyond: Array = ndtr((low - self.mean) / self.spread) + ndtr((self.mean - high) / self.spread)
        return beyond

    def stationary(self) -> Array:
        """Stationary law on the nodes."""
        return banded.stationary(self.band.copy(), self.width, self.center)

    def part(self, inside: NDArray[np.bool_], edges: tuple[float, float]) -> Chain:
        """The nodes on one side of a barrier."""
        return Chain(
            *(self.coordinate, self.x[inside], self.weight[inside], edges, self.mean[inside], self.spread[inside])
        )

    def first_step(self, begin: Array, share: Array) -> Array:
        """Law on the nodes after one step from a start on nodes of its own."""
        m, s = self.coordinate.mean(begin), self.coordinate.spread(begin)
        law = np.zeros(self.x.size)
        for k in range(begin.size):
            z = (self.x - m[k]) / s[k]
            law += share[k] / (s[k] * np.sqrt(2.0 * np.pi)) * np.exp(-0.5 * z * z)
        return law * self.weight

    def later(self, law: Array, steps: int, leave: Array | None = None, name: str = "whole") -> Array:
        """The law some steps later; `leave` is the chance in a step to be gone, under a `name` of its own."""
        gone = np.zeros(self.x.size) if leave is None else leave
        n = self.x.size
        if steps * (2 * self.width + 1.0) < 0.2 * n * n * max(steps, 1).bit_length():
            return banded.advance(law, self.band, self.width, gone, steps)
        powers = self._powers.setdefault(name, [(banded.dense(self.band, self.width, gone), gone)])
        for j in range(steps.bit_length()):
            if j == len(powers):
                powers.append(_squared(*powers[-1]))
            if steps >> j & 1:
                law = law @ powers[j][0]
        return law


def _squared(matrix: Array, gone: Array) -> tuple[Array, Array]:
    """Twice the steps, with the chances to stay put right: they are what others leave of 1."""
    twice, left = matrix @ matrix, gone + matrix @ gone
    spot = np.arange(left.size)
    twice[spot, spot] += (1.0 - left) - twice.sum(axis=1)
    return twice, left


def _too_fine(coordinate: Coordinate, nodes: float) -> ParameterError:
    allowed = (
        f"be larger beside its problem: a step scatters so little that the chain would need {nodes:.3g} nodes, and "
        "small rates are the SDE's (sde_occupancy, sde_steps of larger rates at the same lr / batch_size)"
    )
    return ParameterError("lr", coordinate.lr, allowed)


def _hopeless(seen: list[tuple[float, int]]) -> bool:
    """Whether a window, by the flux out of it and the entries of its band so far, will need more than there may be.

    A law with tails like powers loses flux slowly as its window widens, and would take minutes before it is refused.
    Half the widenings that the present pace asks for are counted, since most laws fall faster and faster; on the grid
    that checks the first a band is four times as large.
    """
    if len(seen) < 3:
        return False
    (before, few), (now, many) = seen[-3], seen[-1]
    pace, growth = 0.5 * np.log(before / now), (many / few) ** 0.5
    needed = np.log(now / _FLUX) / max(pace, 1e-3)
    return bool(np.log(many) + 0.5 * needed * np.log(growth) > np.log(_MOST_ENTRIES / 4.0))


def window_of(coordinate: Coordinate, settles: bool = True) -> tuple[float, float]:
    """Ends of a window that the stationary law and the first step do not leave.

    Where there is no such window, since steps overshoot far out, a chain settles nowhere: an error, or unless it is
    asked what it `settles` into, the largest window in which steps lead inwards.
    """
    low, high = _first_window(coordinate)
    seen: list[tuple[float, int]] = []
    for _ in range(80):
        chain = chain_on(coordinate, (low, high), 0)
        law = chain.stationary()
        below = float(law @ ndtr((low - chain.mean) / chain.spread))
        above = float(law @ ndtr((chain.mean - high) / chain.spread))
        if below <= _FLUX and above <= _FLUX:
            return low, high
        seen.append((max(below, above), chain.x.size * (2 * chain.width + 1)))
        if _hopeless(seen):
            break
        reach = 0.06 * (high - low)
        left, right = coordinate.bounds
        wider = (max(low - reach * (below > _FLUX), left), min(high + reach * (above > _FLUX), right))
        if wider == (low, high):
            break
        at = np.array(wider)
        center = coordinate.mean(at) - at
        # A step that leads outwards from an end, or to beyond the other one, holds nothing together.
        if center[0] < 0.0 or center[1] > 0.0 or (np.abs(center) > 1.0001 * (wider[1] - wider[0])).any():
            break
        low, high = wider
    if not settles:
        return low, high
    allowed = "be one under which the chain stays near its minima: it leaves every range here"
    raise ParameterError("lr", coordinate.lr, allowed)


def _first_window(coordinate: Coordinate) -> tuple[float, float]:
    """Where the SDE's stationary density is not negligible, and where the first step may lead."""
    mu, sigma = coordinate.start
    anchors = [*coordinate.minima, mu]
    begin = mu + sigma * np.linspace(-_NEAR, _NEAR, 41)
    variance = coordinate.variance(begin)
    if not (variance > 0).all():
        raise ParameterError("variance", float(variance.min()), "be > 0 in a chain: a step must have a density")
    m, s = coordinate.mean(begin), coordinate.spread(begin)
    if not (np.isfinite(m).all() and np.isfinite(s).all()):
        raise ParameterError("initial_mean", mu, "lie where the loss has a gradient")
    low, high = float(min(*anchors, *(m - _NEAR * s))), float(max(*anchors, *(m + _NEAR * s)))
    if low < coordinate.bounds[0] or high > coordinate.bounds[1]:
        allowed = f"lie so that a step stays in the quadrature's range [{coordinate.bounds[0]}, {coordinate.bounds[1]}]"
        raise ParameterError("initial_mean", mu, allowed)
    center, reach = 0.5 * (low + high), 0.5 * (high - low)
    for _ in range(200):
        left, right = max(center - reach, coordinate.bounds[0]), min(center + reach, coordinate.bounds[1])
        x = np.linspace(left, right, _SPOTS)
        variance = coordinate.variance(x)
        with np.errstate(all="ignore"):
            slope = 2.0 * coordinate.batch_size / coordinate.lr * coordinate.gradient(x) / variance
            steps = 0.5 * (slope[1:] + slope[:-1]) * np.diff(x)
            potential = np.concatenate([[0.0], np.cumsum(steps)])
            # The density's own exponent, to which a variance that depends on the parameter adds.
            exponent = potential + np.log(variance / variance.min())
            exponent -= exponent.min()
        if not np.isfinite(exponent).all():
            break
        deep = exponent > _DEPTH
        bottom = int(np.argmin(exponent))
        if deep[0] and deep[-1] and deep[:bottom].any() and deep[bottom:].any():
            inside = np.flatnonzero(~deep)
            return min(low, float(x[inside[0] - 1])), max(high, float(x[inside[-1] + 1]))
        if (left, right) == coordinate.bounds:
            return left, right
        reach *= 1.5
    raise ParameterError("lr", coordinate.lr, "be one under which the loss holds the chain together; it does not here")


def start_of(coordinate: Coordinate, level: int) -> tuple[Array, Array]:
    """Nodes of the start's law, panels ending at the barrier, and its shares there: one point if it is certain."""
    mu, sigma = coordinate.start
    if sigma == 0.0:
        return np.array([mu]), np.ones(1)
    low, high = mu - _FAR * sigma, mu + _FAR * sigma
    at = np.linspace(low, high, _SPOTS)
    edges = np.union1d(_edges(coordinate, at, level), np.linspace(low, high, 20 * 2**level))
    if coordinate.barrier is not None and low < coordinate.barrier < high:
        edges = np.union1d(edges, coordinate.barrier)
    begin, weight = gauss_panels(edges)
    share = weight * np.exp(-0.5 * ((begin - mu) / sigma) ** 2)
    return begin, share / share.sum()


def chain_on(coordinate: Coordinate, window: tuple[float, float], level: int) -> Chain:
    """The chain on a window, with panels half as long for every `level`; they end at the barrier."""
    cuts = [window[0], *([coordinate.barrier] if coordinate.barrier is not None else []), window[1]]
    spots = [np.linspace(a, b, _SPOTS) for a, b in pairwise(cuts)]
    edges = [_edges(coordinate, at, level) for at in spots]
    x, weight = gauss_panels(np.concatenate([edges[0], *(more[1:] for more in edges[1:])]))
    mean, spread = coordinate.mean(x), coordinate.spread(x)
    if not (spread > 0).all():
        raise ParameterError("variance", 0.0, "be > 0 in a chain: a step must have a density")
    return Chain(coordinate, x, weight, window, mean, spread)


def _edges(coordinate: Coordinate, at: Array, level: int) -> Array:
    slope = np.gradient(coordinate.mean(at), at)
    bend = np.abs(np.gradient(slope, at))
    # As a function of where it begins, a step's density is narrower by the slope of its mean; a panel follows that.
    steep = np.maximum(1.0, np.abs(slope))
    length = 1.0 / (steep / coordinate.spread(at) + bend / steep)
    density = 0.5 * (1.0 / length[1:] + 1.0 / length[:-1]) / _COARSE
    panels = np.concatenate([[0.0], np.cumsum(density * np.diff(at))])
    if not np.isfinite(panels[-1]):
        raise ParameterError("lr", coordinate.lr, "be one under which a step stays within the range of numbers")
    count = int(np.ceil(panels[-1])) * 2**level
    if count * _ORDER > _MOST_NODES:
        raise _too_fine(coordinate, float(panels[-1]) * _ORDER * 2**level)
    edges = np.interp(np.linspace(0.0, panels[-1], max(count, 1) + 1), panels, at)
    edges[0], edges[-1] = at[0], at[-1]
    return edges
