"""What every kind of problem has: coordinates, each of some multiplicity, and the law of the starting point."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcnqm.domains import Domain, real_array
from mcnqm.errors import ParameterError

__all__ = ["Problem", "check_any_problem", "counts", "frozen", "not_huge", "not_tiny", "shaped", "span"]

_LARGEST = 1e60
not_tiny = Domain(f"be >= {1 / _LARGEST:g}, lest powers of it overflow", lambda x: x >= 1 / _LARGEST)
not_huge = Domain(f"be at most {_LARGEST:g} in size, lest powers of it overflow", lambda x: np.abs(x) <= _LARGEST)
_count = Domain("be integers in [1, 2**32]", lambda x: (x >= 1) & (x <= 2**32) & (x == np.floor(x)))


class Problem:
    """What is optimized: loss, gradient and its noise, of independent coordinates, and the law of their start.

    Immutable, comparable with ``==``, hashable and picklable. The kinds are `mcnqm.NoisyQuadratic` and landscapes, such
    as `mcnqm.DoubleWell`.

    Attributes
    ----------
    initial_mean, initial_std : ndarray of float64, shape (size,)
        Mean and standard deviation of the starting point, in parameter units.
    multiplicity : ndarray of int64, shape (size,)
        How many independent coordinates share an entry.
    initial_risk : float
        Expected loss of the starting point.
    loss_scale : float
        Natural size of a loss, by which divergence is judged.
    noise_df : float or None
        Degrees of freedom of the noise; None where it is Gaussian.
    """

    initial_mean: NDArray[np.float64]
    initial_std: NDArray[np.float64]
    multiplicity: NDArray[np.int64]
    noise_df: float | None

    @property
    def size(self) -> int:
        """Number of distinct entries, each of some multiplicity."""
        return int(self.multiplicity.size)

    @cached_property
    def dim(self) -> int:
        """Number of coordinates: the sum of the multiplicities."""
        return int(self.multiplicity.sum())

    @cached_property
    def initial_risk(self) -> float:
        """Expected loss of the starting point."""
        raise NotImplementedError

    @cached_property
    def loss_scale(self) -> float:
        """Natural size of a loss."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings; fit for JSON."""
        raise NotImplementedError


def check_any_problem(problem: object) -> None:
    """Raise `ParameterError` if this is no problem of any kind."""
    if not isinstance(problem, Problem):
        raise ParameterError("problem", problem, "be a mcnqm.NoisyQuadratic or a landscape such as mcnqm.DoubleWell")


def shaped(shape: tuple[int, ...], of: str, name: str, domain: Domain, value: ArrayLike) -> NDArray[np.float64]:
    """Numbers of the coordinates: checked, and broadcast to the shape they have in common (that `of` something)."""
    array = real_array(name, value, domain.allowed)
    if array.ndim != 0 and array.shape != shape:
        raise ParameterError(name, f"shape {array.shape}", f"be a scalar or have {of} shape {shape}")
    return np.broadcast_to(domain.check(name, value), shape)


def counts(shape: tuple[int, ...], of: str, multiplicity: ArrayLike | None) -> NDArray[np.int64]:
    """Multiplicities, one each by default."""
    return shaped(shape, of, "multiplicity", _count, 1 if multiplicity is None else multiplicity).astype(np.int64)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only copy, so that the caller's array stays the caller's."""
    array = np.array(array)
    array.flags.writeable = False
    return array


def span(array: NDArray[np.float64]) -> str:
    """The numbers of coordinates, as short as a repr wants them."""
    low, high = array.min(), array.max()
    return f"{low:g}" if low == high else f"[{low:g} .. {high:g}]"
