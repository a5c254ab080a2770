"""Quadratic surfaces through a few points: their slope, curvature and lowest point. Knows nothing of optimizers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Quadratic", "quadratic", "star", "vertex"]

Array = NDArray[np.float64]


class Quadratic(NamedTuple):
    """Height, slope and curvature at a place."""

    height: float
    slope: Array
    curvature: Array


def star(dimensions: int) -> Array:
    """Directions to the corners, sides and center of a cube, shape (dimensions, 3 ** dimensions)."""
    return np.array(np.meshgrid(*[[-1.0, 0.0, 1.0]] * dimensions)).reshape(dimensions, -1)


def quadratic(places: Array, values: Array, about: Array) -> Quadratic | None:
    """The quadratic surface of least squares, expanded about a place; None with too few values.

    Parameters
    ----------
    places : ndarray, shape (dimensions, points)
    values : ndarray, shape (points,)
    about : ndarray, shape (dimensions,)
    """
    n = places.shape[0]
    x = places - about[:, np.newaxis]
    pairs = [(i, j) for i in range(n) for j in range(i, n)]
    if values.size < 1 + n + len(pairs):
        return None
    design = np.stack([np.ones(values.size), *x, *(x[i] * x[j] for i, j in pairs)], axis=1)
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    hessian = np.zeros((n, n))
    for (i, j), c in zip(pairs, coefficients[1 + n :], strict=True):
        hessian[i, j] += c
        hessian[j, i] += c
    return Quadratic(float(coefficients[0]), coefficients[1 : n + 1], hessian)


def vertex(places: Array, values: Array, best: Array, reach: float) -> tuple[Array, float] | None:
    """The lowest point of a quadratic surface and its height; None where it has none within reach of the best."""
    surface = quadratic(places, values, best)
    if surface is None or np.linalg.eigvalsh(surface.curvature).min() <= 0:
        return None
    move = np.linalg.solve(surface.curvature, -surface.slope)
    if np.abs(move).max() > reach:
        return None
    return best + move, float(surface.height + 0.5 * surface.slope @ move)
