r"""The SDE that a chain tends to as its rate goes to 0 at a fixed ratio to the batch size.

:math:`d\theta = -L'\, d\tau + \sqrt{2T}\, dW` with :math:`T = \alpha c(\theta) / (2B)`; a step is a time α.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mcnqm.analytic.chains.coordinates import Coordinate
from mcnqm.analytic.chains.nodes import gauss_panels

__all__ = ["Escape", "sde_escape", "sde_law"]

Array = NDArray[np.float64]

_PANELS = 400
_ORDER = 16


def sde_law(coordinate: Coordinate, window: tuple[float, float]) -> tuple[Array, Array]:
    r"""Nodes and the stationary law on them, :math:`\propto (1/c) \exp(-(2B/\alpha) \int L'/c)`."""
    x, weight, edges = _grid(coordinate, window)
    variance = coordinate.variance(x)
    exponent = _potential(coordinate, x, edges) + np.log(variance)
    law = weight * np.exp(-(exponent - exponent.min()))
    return x, law / law.sum()


def _grid(coordinate: Coordinate, window: tuple[float, float]) -> tuple[Array, Array, Array]:
    barrier = coordinate.barrier
    cuts = [window[0], window[1]] if barrier is None else [window[0], barrier, window[1]]
    parts = [np.linspace(a, b, _PANELS + 1) for a, b in pairwise(cuts)]
    edges = np.concatenate([parts[0], *(part[1:] for part in parts[1:])])
    return *gauss_panels(edges, _ORDER), edges


def _potential(coordinate: Coordinate, x: Array, edges: Array) -> Array:
    """Integral of 2 B L' / (α c) up to each node."""
    factor = 2.0 * coordinate.batch_size / coordinate.lr
    variance = coordinate.variance(x)
    if np.all(variance == variance[0]):
        constant: Array = factor / variance[0] * coordinate.loss(x)
        return constant
    return _cumulative(factor * coordinate.gradient(x) / variance, edges)


def _cumulative(values: Array, edges: Array) -> Array:
    """Integral from the left end up to each node, of values on the nodes of panels."""
    x, w = np.polynomial.legendre.leggauss(_ORDER)
    # Integrals of the Lagrange polynomials of a panel up to its own nodes, through Legendre's.
    at = np.polynomial.legendre.legvander(x, _ORDER)
    degree = np.arange(_ORDER)
    coefficients = (2 * degree[:, np.newaxis] + 1) / 2.0 * w * at[:, :_ORDER].T  # (degree, node)
    primitive = np.empty((_ORDER, _ORDER))
    primitive[:, 0] = 1.0 + x
    for n in range(1, _ORDER):
        primitive[:, n] = (at[:, n + 1] - at[:, n - 1]) / (2 * n + 1)
    matrix = primitive @ coefficients
    half = 0.5 * np.diff(edges)[:, np.newaxis]
    panels = values.reshape(-1, _ORDER)
    inside = half * (panels @ matrix.T)
    whole = (half * panels) @ w
    before = np.concatenate([[0.0], np.cumsum(whole)[:-1]])
    return (before[:, np.newaxis] + inside).ravel()


class Escape:
    """Mean times, in steps, in the limit of the SDE, for constant noise."""

    def __init__(self, coordinate: Coordinate, well: int) -> None:
        self.coordinate, self.well = coordinate, well
        assert coordinate.barrier is not None
        self.start, self.barrier, self.other = coordinate.minima[well], coordinate.barrier, coordinate.minima[1 - well]
        place = np.array([self.start, self.barrier])
        loss = coordinate.loss(place)
        self.temperature = coordinate.lr * float(coordinate.variance(place)[0]) / (2.0 * coordinate.batch_size)
        self.height = float(loss[1] - loss[0]) / self.temperature

    def kramers(self) -> float:
        r"""To the other minimum: :math:`2\pi / \sqrt{h\, |h_b|}\; e^{\Delta L / T}`."""
        here, top = (abs(_curvature(self.coordinate, x)) for x in (self.start, self.barrier))
        with np.errstate(over="ignore"):
            return float(2.0 * np.pi / np.sqrt(here * top) * np.exp(self.height)) / self.coordinate.lr

    def laplace(self) -> float:
        """To the barrier: both integrals of the exact time by Laplace's method, half of Kramers' time."""
        return 0.5 * self.kramers()

    def exact(self, window: tuple[float, float], to: float) -> float:
        r"""To `to`: :math:`(1/T) \int_a^x dy\, e^{L(y)/T} \int_{-\infty}^y dz\, e^{-L(z)/T}`."""
        sign = 1.0 if self.well == 0 else -1.0
        low = window[0] if self.well == 0 else -window[1]
        points = sorted({low, sign * self.start, *(p for p in (sign * self.barrier,) if p < sign * to), sign * to})
        edges = np.concatenate([
            np.linspace(a, b, _PANELS + 1)[:-1] for a, b in pairwise(points)
        ])  # fmt: skip
        edges = np.append(edges, points[-1])
        x, weight = gauss_panels(edges, _ORDER)
        energy = self.coordinate.loss(sign * x) / self.temperature
        base, top = energy.min(), float(energy[x > sign * self.start].max())
        inner = _cumulative(np.exp(-(energy - base)), edges)
        after = x > sign * self.start
        outer = float(np.sum(weight[after] * np.exp(energy[after] - top) * inner[after]))
        with np.errstate(over="ignore"):
            return outer * float(np.exp(top - base)) / self.temperature / self.coordinate.lr


def sde_escape(coordinate: Coordinate, window: tuple[float, float], well: int) -> dict[str, float]:
    """Mean steps of the SDE and of its approximations, from a minimum."""
    escape = Escape(coordinate, well)
    return {
        "sde_steps": escape.exact(window, escape.barrier),
        "sde_steps_to_minimum": escape.exact(window, escape.other),
        "kramers_steps": escape.kramers(),
        "laplace_steps": escape.laplace(),
    }


def _curvature(coordinate: Coordinate, at: float) -> float:
    """Second derivative of the loss, from differences of the gradient: error of the sixth power of the step."""
    scale = 1e-3 * abs(coordinate.minima[1] - coordinate.minima[0])
    offsets = scale * np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0])
    weights = np.array([-1.0, 9.0, -45.0, 45.0, -9.0, 1.0]) / (60.0 * scale)
    return float(weights @ coordinate.gradient(at + offsets))
