"""Landscapes: losses whose gradient is not linear, of coordinates that are independent; how a user adds one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcnqm.domains import Domain, finite, nonnegative
from mcnqm.errors import ParameterError
from mcnqm.problems.problem import Problem, counts, frozen, not_huge, shaped, span

__all__ = ["Functions", "Landscape", "functions_of", "give_functions", "landscape"]

Array = NDArray[np.float64]
T = TypeVar("T", bound=type)


class Functions(NamedTuple):
    """What a landscape computes of one coordinate: plain functions of numbers, ``f(theta, p)``.

    Attributes
    ----------
    loss, gradient, variance : callable
        Loss, its derivative, and the variance of one example's gradient.
    """

    loss: Callable[..., Any]
    gradient: Callable[..., Any]
    variance: Callable[..., Any]


_FUNCTIONS: dict[type, Functions] = {}


def functions_of(numbers: type) -> Functions:
    """The functions of a landscape, by the NamedTuple of its numbers; `ParameterError` if it has none."""
    try:
        return _FUNCTIONS[numbers]
    except KeyError:
        allowed = "be made of a NamedTuple with mcnqm.landscape"
        raise ParameterError("landscape", getattr(numbers, "__name__", numbers), allowed) from None


def give_functions(
    numbers: type, loss: Callable[..., Any], gradient: Callable[..., Any], variance: Callable[..., Any]
) -> None:
    """Say what a NamedTuple of numbers stands for; `landscape` does, and a class of problems that is written out."""
    for name, part in (("loss", loss), ("gradient", gradient), ("variance", variance)):
        if not callable(part):
            raise ParameterError(name, part, "be a function (theta, p)")
    _FUNCTIONS[numbers] = Functions(loss, gradient, variance)


class Landscape(Problem):
    """A problem whose coordinates have a loss, a gradient and a noise of their own kind: see `landscape`.

    Parameters
    ----------
    *numbers, **more
        The numbers of the kind, in its order or by name: scalars or arrays of shape (n,).
    initial_mean, initial_std : array_like, shape (n,) or scalar
        Mean and standard deviation >= 0 of the starting point, in parameter units.
    multiplicity : array_like of int, shape (n,) or scalar, optional
        How many independent coordinates share an entry; one each by default.

    Attributes
    ----------
    numbers : NamedTuple
        The numbers of all coordinates, arrays of shape (n,). Each is also an attribute under its own name.
    floor : ndarray of float64, shape (n,)
        Least loss of each coordinate, where the kind says where that is; else 0. Losses in results are above it.
    region : ndarray of float64, shape (n, 2)
        Beyond these parameters a coordinate has left every well, and its loss counts as infinite.
    """

    Numbers: ClassVar[Any]
    _domains: ClassVar[dict[str, Domain]] = {}
    _minimum: ClassVar[Callable[..., Any] | None] = None
    _region: ClassVar[Callable[..., Any] | None] = None
    _described: ClassVar[tuple[str, ...] | None] = None

    numbers: Any
    floor: Array
    region: Array
    noise_df = None

    def __init__(
        self,
        *numbers: ArrayLike,
        initial_mean: ArrayLike = 0.0,
        initial_std: ArrayLike = 1.0,
        multiplicity: ArrayLike | None = None,
        **more: ArrayLike,
    ) -> None:
        given: dict[str, Any] = self.Numbers(*numbers, **more)._asdict()
        everything = {**given, "initial_mean": initial_mean, "initial_std": initial_std}
        domains = {"initial_std": nonnegative, **self._domains}
        if multiplicity is not None:
            everything["multiplicity"] = multiplicity
        arrays = {name: domains.get(name, finite).check(name, value) for name, value in everything.items()}
        shape = next((a.shape for a in arrays.values() if a.ndim == 1), (1,))
        of = "the other numbers'"
        for name, array in arrays.items():
            if name != "multiplicity":
                self._set(name, shaped(shape, of, name, not_huge, array))
        self._set("multiplicity", counts(shape, of, multiplicity))
        self._finish()

    def _set(self, name: str, value: Any) -> None:
        self.__dict__[name] = frozen(value) if isinstance(value, np.ndarray) else value

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def _finish(self) -> None:
        """What follows from the numbers, and whether the functions hold for them."""
        self._set("numbers", self.Numbers(*(getattr(self, name) for name in self.Numbers._fields)))
        everywhere = np.tile([-np.inf, np.inf], (self.size, 1))
        self._set("region", everywhere if self._region is None else self._bounds())
        self._set("floor", self._least())
        _check_functions(self)

    def _least(self) -> Array:
        """Least loss of each coordinate, as far as the kind says."""
        return np.zeros(self.size) if self._minimum is None else self.loss(self._each(self._minimum, "minimum"))

    def _each(self, function: Callable[..., Any], name: str) -> Array:
        values = [function(self.Numbers(*map(float, entry))) for entry in zip(*self.numbers, strict=True)]
        try:
            return np.array(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise ParameterError(name, values[0], f"return numbers in {type(self).__name__}") from None

    def _bounds(self) -> Array:
        assert self._region is not None
        bounds = self._each(self._region, "region")
        if bounds.shape != (self.size, 2) or not (bounds[:, 0] < bounds[:, 1]).all():
            raise ParameterError("region", bounds.tolist(), "return (low, high) with low < high")
        return bounds

    # ------------------------------------------------------------------------------------------------- functions

    def loss(self, theta: ArrayLike) -> Array:
        """Loss of each coordinate as it stands, shape (..., n) for `theta` of that shape; its least is `floor`."""
        return self._of("loss", theta)

    def gradient(self, theta: ArrayLike) -> Array:
        """Derivative of the loss, shape (..., n)."""
        return self._of("gradient", theta)

    def variance(self, theta: ArrayLike) -> Array:
        """Variance of one example's gradient, shape (..., n), in gradient²."""
        return self._of("variance", theta)

    def _of(self, name: str, theta: ArrayLike, entries: Any = slice(None)) -> Array:
        function = getattr(functions_of(self.Numbers), name)
        numbers = self.Numbers(*(array[entries] for array in self.numbers))
        at = np.asarray(theta, dtype=np.float64)
        shape = np.broadcast_shapes(at.shape, numbers[0].shape)
        with np.errstate(all="ignore"):
            with suppress(Exception):  # it branches, say
                return np.broadcast_to(np.asarray(function(at, numbers), dtype=np.float64), shape).copy()
            try:  # a number at a time
                one = np.vectorize(lambda x, *p: function(x, self.Numbers(*p)), otypes=[np.float64])
                each: Array = one(at, *numbers)
                return each
            except Exception as error:
                what = f"{type(error).__name__}: {error}".split("\n")[0]
                raise ParameterError(name, what, f"be a function (theta, p) of numbers in {_named(self)}") from None

    # ------------------------------------------------------------------------------------------------- properties

    @cached_property
    def initial_risk(self) -> float:
        """Expected loss of the starting point, above the least loss, by quadrature."""
        at, weight = _normal_quadrature()
        part = self.loss(self.initial_mean + self.initial_std * at[:, np.newaxis]) - self.floor
        fixed = self.loss(self.initial_mean) - self.floor
        with np.errstate(invalid="ignore"):
            risk = np.where(self.initial_std > 0, weight @ part, fixed)
        return math.fsum(self.multiplicity * risk)

    @cached_property
    def loss_scale(self) -> float:
        """Natural size of a loss: that of the start, and what a step to either side of it by 1 and std adds."""
        reach = 1.0 + 4.0 * self.initial_std
        ends = [self.loss(self.initial_mean + sign * reach) - self.floor for sign in (-1.0, 0.0, 1.0)]
        return float(np.sum(self.multiplicity * np.max(np.abs(ends), axis=0)))

    def to_dict(self) -> dict[str, Any]:
        """The kind and its numbers; fit for JSON."""
        names = (*self._names(), "multiplicity")
        return {"landscape": _named(self), **{name: _compact(getattr(self, name)) for name in names}}

    @classmethod
    def from_dict(cls, numbers: dict[str, Any]) -> Landscape:
        """The problem that `to_dict` described."""
        return cls(**{name: value for name, value in numbers.items() if name != "landscape"})

    def _names(self) -> tuple[str, ...]:
        return (*(self._described or self.Numbers._fields), "initial_mean", "initial_std")

    # --------------------------------------------------------------------------------------------------- identity

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return (*self.numbers, self.initial_mean, self.initial_std, self.multiplicity)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Landscape):
            return NotImplemented
        if type(self) is not type(other):
            return False
        return all(np.array_equal(a, b) for a, b in zip(self._arrays(), other._arrays(), strict=True))

    def __hash__(self) -> int:
        # Adding zero turns -0.0 into 0.0, which compares equal and must hash alike.
        return hash((type(self), *((a + 0).tobytes() for a in self._arrays())))

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            self._set(name, value)
        self._set("numbers", self.Numbers(*map(frozen, self.numbers)))

    def __repr__(self) -> str:
        parts = [f"dim={self.dim}", *(f"{name}={span(getattr(self, name))}" for name in self._names())]
        return f"{type(self).__name__}({', '.join(parts)})"


def landscape(
    loss: Callable[..., Any],
    gradient: Callable[..., Any],
    variance: Callable[..., Any],
    *,
    minimum: Callable[..., Any] | None = None,
    region: Callable[..., Any] | None = None,
    **domains: Domain,
) -> Callable[[type], Any]:
    r"""Make a `NamedTuple` of numbers a kind of problem, from what one coordinate of it computes.

    The three functions take a parameter and the NamedTuple, one float per field, and return a float:

        loss(theta, p),   gradient(theta, p),   variance(theta, p)

    with the derivative of the loss, and the variance of one example's gradient. A minibatch's gradient is then
    :math:`L'(\theta) + \sqrt{v(\theta)/B}\, z`. They are compiled with Numba and vectorized over trajectories and
    settings, so they are plain arithmetic; ``a if condition else b`` and `numpy.sqrt` are fine, and so is
    `mcnqm.problems.arithmetic.exp`, an exponential that becomes a vector. Other functions of NumPy are right but slow.

    Parameters
    ----------
    loss, gradient, variance : callable
        As above. The gradient is held against differences of the loss whenever a problem is made.
    minimum : callable, optional
        ``minimum(p) -> theta``, where a coordinate's loss is least. Losses in results are then above it. Without it
        they are as they stand, so write a loss whose least value is 0.
    region : callable, optional
        ``region(p) -> (low, high)``: a coordinate beyond them has left every well, and its loss counts as infinite: its
        run has diverged. By default there is no end, and a run diverges by its loss.
    **domains : Domain
        The allowed set of each field, as in `mcnqm.hyperparameters`. Fields without one must be finite.

    Returns
    -------
    callable
        A class decorator. In place of the NamedTuple it returns a `Landscape`: a class of problems.

    Raises
    ------
    ParameterError
        If this is no NamedTuple, or a field's name is taken. When a problem is made: if a number is not allowed, the
        gradient is not the derivative of the loss, or a variance is negative. In the first simulation: if Numba cannot
        compile the functions.

    Examples
    --------
    Ripples on a parabola:

    >>> from typing import NamedTuple
    >>> import numpy as np, mcnqm
    >>> from mcnqm.domains import positive, nonnegative
    >>> def loss(theta, p):
    ...     return 0.5 * p.curvature * theta * theta + p.depth * (1 - np.cos(theta))
    >>> def gradient(theta, p):
    ...     return p.curvature * theta + p.depth * np.sin(theta)
    >>> def variance(theta, p):
    ...     return p.noise
    >>> @mcnqm.landscape(loss, gradient, variance, curvature=positive, noise=nonnegative)
    ... class Ripples(NamedTuple):
    ...     curvature: float
    ...     depth: float = 0.1
    ...     noise: float = 1.0
    >>> problem = Ripples(curvature=[1.0, 0.5], initial_mean=2.0, initial_std=0.0)
    >>> problem.dim, round(problem.initial_risk, 4)
    (2, 3.2832)
    """

    def decorate(numbers: type) -> Any:
        fields: tuple[str, ...] = getattr(numbers, "_fields", ())
        if not fields or not issubclass(numbers, tuple):
            raise ParameterError("landscape", numbers, "decorate a NamedTuple of at least one number")
        if unknown := sorted(set(domains) - set(fields)):
            raise ParameterError("domains", unknown, f"name fields of {numbers.__name__}: {', '.join(fields)}")
        if taken := sorted(set(fields) & _TAKEN):
            raise ParameterError("landscape", taken, "have fields of other names: these are what every landscape has")
        body = {
            "__module__": numbers.__module__,
            "__qualname__": numbers.__qualname__,
            "__doc__": numbers.__doc__,
            "__signature__": _signature(numbers),
            "Numbers": numbers,
            "_domains": dict(domains),
            "_minimum": None if minimum is None else staticmethod(minimum),
            "_region": None if region is None else staticmethod(region),
        }
        give_functions(numbers, loss, gradient, variance)
        made = type(numbers.__name__, (Landscape,), body)
        # The class of problems takes the NamedTuple's name; workers and caches find that one within it.
        numbers.__qualname__ = f"{numbers.__qualname__}.Numbers"
        return made

    return decorate


_TAKEN = {name for name in dir(Landscape) if not name.startswith("__")} | set(Landscape.__annotations__) | {
    *("multiplicity", "initial_mean", "initial_std", "noise_df", "theta"),
}  # fmt: skip


def _signature(numbers: Any) -> inspect.Signature:
    defaults = numbers._field_defaults
    empty = inspect.Parameter.empty
    either = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=defaults.get(name, empty))
        for name in numbers._fields
    ]
    own = inspect.signature(Landscape.__init__).parameters.values()
    return inspect.Signature([*either, *(p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY)])


def _named(problem: Landscape) -> str:
    return type(problem).__name__


def _compact(array: NDArray[Any]) -> Any:
    return array[0].item() if (array == array[0]).all() else array.tolist()


_SPOTS = np.linspace(-1.0, 1.0, 41) + 0.00371
"""Where functions are looked at, about the start; slightly off, so that no round number is among them."""

_STEP = 1e-4
_MOST_ENTRIES = 64


def _check_functions(problem: Landscape) -> None:
    """Whether functions give finite numbers about the start, and the gradient is the derivative of the loss."""
    some = np.unique(np.linspace(0, problem.size - 1, _MOST_ENTRIES).astype(np.int64))
    reach = 1.0 + 4.0 * problem.initial_std[some]
    at = np.clip(problem.initial_mean[some] + reach * _SPOTS[:, np.newaxis], *problem.region[some].T)
    step = _STEP * (1.0 + np.abs(at))
    loss = np.stack([problem._of("loss", at + k * step, some) for k in (-2.0, -1.0, 0.0, 1.0, 2.0)])
    slope = (8.0 * (loss[3] - loss[1]) - (loss[4] - loss[0])) / (12.0 * step)  # off by the fourth power of the step
    gradient, variance = problem._of("gradient", at, some), problem._of("variance", at, some)
    kind = type(problem).__name__

    def refuse(wrong: NDArray[np.bool_], name: str, value: Array, allowed: Callable[[Any], str]) -> None:
        for k in np.argwhere(wrong)[:1]:
            where = tuple(k)
            raise ParameterError(name, float(value[where]), f"{allowed(where)} of {kind} at theta = {at[where]:.6g}")

    for name, value in (("loss", loss[2]), ("gradient", gradient), ("variance", variance)):
        refuse(~np.isfinite(value), name, value, lambda k: "be finite about the start, as")
    refuse(variance < 0, "variance", variance, lambda k: "be >= 0, as that")
    rounding = 1e-15 * np.max(np.abs(loss), axis=0) / step
    off = np.abs(gradient - slope) > 1e-5 * np.max(np.abs(gradient), axis=0) + 1e-6 * np.abs(slope) + 16.0 * rounding
    off &= off.sum(axis=0) > 2  # a kink within a step is no mistake
    refuse(off, "gradient", gradient, lambda k: f"be the derivative of the loss, {slope[k]:.6g}, as that")
    if problem.floor.any():
        floor = np.broadcast_to(problem.floor[some], at.shape)
        below = loss[2] < floor - 1e-9 * (1.0 + np.abs(floor))
        refuse(below, "minimum", floor, lambda k: f"be where the loss is least; it is {loss[2][k]:.6g}, that")


def _normal_quadrature() -> tuple[Array, Array]:
    """Nodes and weights of a standard normal, out to 12: panels, since a landscape may have a bend."""
    panels = 96
    x, w = np.polynomial.legendre.leggauss(16)
    edges = np.linspace(-12.0, 12.0, panels + 1)
    half = 0.5 * np.diff(edges)[:, np.newaxis]
    at = (edges[:-1, np.newaxis] + half * (1.0 + x)).reshape(-1)
    weight = (half * w).reshape(-1) * np.exp(-0.5 * at * at) / math.sqrt(2.0 * math.pi)
    return at, weight
