"""Gauss quadrature for the size of a normal variable."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

__all__ = ["size_of_normal"]

Array = NDArray[np.float64]

_FINE = 512
"""Points of the discrete measure that stands for the density: far more than any rule made from it has."""


@functools.cache
def _fine() -> tuple[Array, Array]:
    """Gauss-Legendre rule on [-1, 1]. SciPy's solver is banded: NumPy's takes seconds where BLAS threads crowd."""
    x, w = special.roots_legendre(_FINE)
    return x, w


_REACH = 12.0
"""A normal variable is farther than this from its mean, in standard deviations, with a chance of 4e-33."""


@functools.lru_cache(maxsize=64)
def _half(ratio: float, nodes: int) -> tuple[Array, Array]:
    """Nodes and weights for |z + ratio|, z standard normal and ratio at most `_REACH`."""
    x, w = _fine()
    reach = ratio + _REACH
    x, w = 0.5 * reach * (x + 1.0), 0.5 * reach * w
    return _gauss(x, w * (np.exp(-0.5 * (x + ratio) ** 2) + np.exp(-0.5 * (x - ratio) ** 2)), nodes)


@functools.lru_cache(maxsize=8)
def _whole(nodes: int) -> tuple[Array, Array]:
    """Nodes and weights for z, standard normal."""
    x, w = _fine()
    x = _REACH * x
    return _gauss(x, w * np.exp(-0.5 * x**2), nodes)


def _gauss(x: Array, w: Array, nodes: int) -> tuple[Array, Array]:
    """The rule of few nodes for a discrete measure."""
    w = w / w.sum()
    # Lanczos on diag(x), started at sqrt(w), gives the recurrence of the orthogonal polynomials; their zeros are the
    # nodes (Golub and Welsch 1969). Orthogonalised twice, so that rounding does not build up.
    basis = [np.sqrt(w)]
    diagonal, beside = [], []
    for k in range(nodes):
        image = x * basis[k]
        diagonal.append(float(basis[k] @ image))
        for _ in range(2):
            for q in basis:
                image = image - (q @ image) * q
        beside.append(float(np.linalg.norm(image)))
        basis.append(image / beside[-1])
    place, vectors = linalg.eigh_tridiagonal(np.array(diagonal), np.array(beside[:-1]))
    return np.asarray(place, dtype=np.float64), np.asarray(vectors[0], dtype=np.float64) ** 2


def size_of_normal(mean: Array, std: Array, nodes: int) -> tuple[Array, Array]:
    """Gauss rules for |x|, x normal: exact for polynomials in |x| of degree up to 2 nodes - 1.

    Parameters
    ----------
    mean, std : ndarray, shape (n,)
        Where std = 0, all weight lies on the first node.
    nodes : int
        At least 2, so that the second moment is exact.

    Returns
    -------
    place, weight : ndarray, shape (n, nodes)

    Examples
    --------
    >>> place, weight = size_of_normal(np.zeros(1), np.ones(1), 4)
    >>> float((weight * place**2).sum().round(12)), float((weight * place).sum().round(6))
    (1.0, 0.797885)
    """
    place, weight = np.zeros((mean.size, nodes)), np.zeros((mean.size, nodes))
    kinds, which = np.unique(np.stack([np.abs(mean), std]), axis=1, return_inverse=True)
    for k, (m, s) in enumerate(kinds.T):
        members = which.reshape(-1) == k
        if s == 0.0:
            place[members], weight[members, 0] = m, 1.0
        elif m > _REACH * s:  # all on one side of 0, where a grid from 0 on would be too coarse
            x, w = _whole(nodes)
            place[members], weight[members] = m + s * x, w
        else:
            x, w = _half(float(m / s), nodes)
            place[members], weight[members] = s * x, w
    return place, weight
