"""The noisy quadratic model: curvature, gradient noise and the law of the starting point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcnqm.domains import finite, integer, nonnegative, positive, real_array
from mcnqm.errors import ParameterError
from mcnqm.memory import check_memory
from mcnqm.problems.problem import Problem, counts, frozen, not_huge, not_tiny, shaped, span

__all__ = ["NoisyQuadratic", "checked_degrees"]


@dataclass(frozen=True, eq=False, repr=False, init=False)
class NoisyQuadratic(Problem):
    r"""A quadratic loss whose minibatch gradients are noisy (Zhang et al. 2019, section 3.1).

    In the eigenbasis of the Hessian every coordinate is on its own:

    .. math::

        L(\theta) = \tfrac12 \sum_i h_i \theta_i^2, \qquad
        g_i = h_i \theta_i + \sqrt{c_i / B}\, z_i, \qquad
        \theta_i(0) \sim N(\mu_i, \sigma_i^2),

    with independent standard normals :math:`z_i` at every step and batch size :math:`B`. With `multiplicative_noise`
    the variance of one example's gradient is :math:`c_i + s_i \theta_i^2` instead, and with `noise_df` the :math:`z_i`
    are Student's t of variance 1.

    Parameters
    ----------
    curvature : array_like, shape (n,)
        Eigenvalues :math:`h_i > 0` of the Hessian, in loss / parameter². Any order.
    noise : array_like, shape (n,) or scalar, optional
        Per-example gradient variance :math:`c_i \ge 0`, in gradient² (one example, not one batch).
        The default is the curvature, as in the paper.
    initial_mean, initial_std : array_like, shape (n,) or scalar
        Mean :math:`\mu_i` and standard deviation :math:`\sigma_i \ge 0` of the starting point, in parameter units.
    multiplicity : array_like of int, shape (n,) or scalar, optional
        How many independent coordinates share entry ``i``. The default is one each. A simulation draws all of
        them; a closed form computes one and multiplies.
    multiplicative_noise : array_like, shape (n,) or scalar, optional
        How fast the variance of one example's gradient rises with the parameter, :math:`s_i \ge 0`, in
        gradient²/parameter²: it is :math:`c_i + s_i \theta_i^2`. The default is 0. Second moments stay linear, and so
        exact, but no law is Gaussian any more.
    noise_df : float, optional
        Degrees of freedom ν > 2 of the noise: the batch's noise is Student's t with ν degrees of freedom, scaled to the
        variance it has anyway. So second moments, and with them every closed form of the risk, are what they are with
        Gaussian noise, which is the default.

    Raises
    ------
    ParameterError
        If an entry is not finite or outside its range, or the shapes do not match.

    Notes
    -----
    Immutable (the arrays are read-only), comparable with ``==`` and hashable.

    References
    ----------
    G. Zhang et al., "Which algorithmic choices matter at which batch sizes? Insights from a noisy quadratic
    model", NeurIPS 2019.

    Examples
    --------
    >>> problem = NoisyQuadratic(curvature=[1.0, 0.5, 0.25])
    >>> problem.dim, problem.condition_number, problem.initial_risk
    (3, 4.0, 0.875)
    >>> NoisyQuadratic(curvature=[1.0, 0.0])
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: curvature must be > 0, got 0.0
    """

    curvature: NDArray[np.float64]
    noise: NDArray[np.float64]
    initial_mean: NDArray[np.float64]
    initial_std: NDArray[np.float64]
    multiplicity: NDArray[np.int64]
    multiplicative_noise: NDArray[np.float64]
    noise_df: float | None

    def __init__(
        self,
        curvature: ArrayLike,
        noise: ArrayLike | None = None,
        initial_mean: ArrayLike = 0.0,
        initial_std: ArrayLike = 1.0,
        multiplicity: ArrayLike | None = None,
        *,
        multiplicative_noise: ArrayLike = 0.0,
        noise_df: float | None = None,
    ) -> None:
        h = positive.check("curvature", curvature)
        if h.ndim != 1:
            raise ParameterError("curvature", f"shape {h.shape}", "be one-dimensional")
        self._set("curvature", h)
        shape, of = h.shape, "curvature's"
        self._set("noise", shaped(shape, of, "noise", nonnegative, h if noise is None else noise))
        self._set("initial_mean", shaped(shape, of, "initial_mean", finite, initial_mean))
        self._set("initial_std", shaped(shape, of, "initial_std", nonnegative, initial_std))
        self._set("multiplicity", counts(shape, of, multiplicity))
        slope = shaped(shape, of, "multiplicative_noise", nonnegative, multiplicative_noise)
        self._set("multiplicative_noise", slope)
        object.__setattr__(self, "noise_df", checked_degrees(noise_df))
        not_tiny.check("curvature", h)
        for name in ("curvature", "noise", "initial_mean", "initial_std", "multiplicative_noise"):
            not_huge.check(name, getattr(self, name))

    def _set(self, name: str, array: NDArray[Any]) -> None:
        object.__setattr__(self, name, frozen(array))

    # ------------------------------------------------------------------------------------------ constructors

    @classmethod
    def power_law(
        cls,
        dim: int,
        exponent: float = 1.0,
        *,
        noise_exponent: float | None = None,
        initial_std: ArrayLike = 1.0,
        multiplicative_noise: ArrayLike = 0.0,
        noise_df: float | None = None,
    ) -> NoisyQuadratic:
        """Curvature and noise ``1, 2**-exponent, 3**-exponent, ...``; the paper's problem at ``exponent=1``.

        Parameters
        ----------
        dim : int
            Number of coordinates, at least 1. The paper has 10 000.
        exponent : float
            Decay of the spectrum, at least 0. The paper has 1.
        noise_exponent : float, optional
            Decay of the noise, at least 0. By default that of the spectrum, as in the paper.
        initial_std : array_like, shape (dim,) or scalar
            Standard deviation of the starting point about 0.
        multiplicative_noise, noise_df
            As for `NoisyQuadratic`.

        Returns
        -------
        NoisyQuadratic
            By default with ``noise == curvature`` and θ(0) ~ N(0, I).

        Raises
        ------
        ParameterError
            If `dim` is not an integer >= 1, an exponent is negative or not finite, or `initial_std` is.

        Examples
        --------
        >>> NoisyQuadratic.power_law(dim=4).curvature
        array([1.        , 0.5       , 0.33333333, 0.25      ])
        """
        n = integer("dim", dim, 1)
        check_memory(64.0 * n, f"{n} coordinates", "dim", n)
        spectrum = _powers(n, "exponent", exponent)
        noise = None if noise_exponent is None else _powers(n, "noise_exponent", noise_exponent)
        return cls(
            spectrum, noise, initial_std=initial_std, multiplicative_noise=multiplicative_noise, noise_df=noise_df
        )

    def binned(self, n: int) -> NoisyQuadratic:
        """Quantise the spectrum to at most `n` distinct entries, keeping every trace.

        Bins are equal on a logarithmic axis of curvature, as many as keep at most `n` of them occupied. Each
        occupied bin becomes one entry with the mean curvature and mean noise (of either kind) of its coordinates and
        their number as multiplicity, so ``dim``, tr H, tr C and the initial risk stay what they are. (Rounding down
        to bin edges instead, as some public code does, loses 4 % of tr H at d = 10⁴, 100 bins.)

        Parameters
        ----------
        n : int
            Largest number of distinct entries, at least 1. At or above ``size``, nothing changes.

        Returns
        -------
        NoisyQuadratic
            In order of falling curvature. The starting law keeps each bin's curvature-weighted second moment,
            all that a risk depends on; the sign of a non-zero initial mean is not kept.

        Raises
        ------
        ParameterError
            If `n` is not an integer >= 1.

        Examples
        --------
        >>> full = NoisyQuadratic.power_law(dim=10_000)
        >>> small = full.binned(100)
        >>> small.size, small.dim, round(small.trace / full.trace, 12)
        (100, 10000, 1.0)
        """
        limit = integer("n", n, 1)
        if limit >= self.size:
            return self
        position = np.log(self.curvature.max() / self.curvature)
        width = position.max()
        distinct, same = np.unique(self.curvature, return_inverse=True)
        if distinct.size <= limit:
            label = -same  # falling curvature; equal curvatures share a bin, which changes no risk
        else:
            # The number of occupied bins grows with the number of bins, though not at every step: search the
            # largest count that still fits.
            low, high = limit, 2 * limit
            fits = _bin_labels(position, width, low)
            while high < _MOST_BINS and np.unique(trial := _bin_labels(position, width, high)).size <= limit:
                low, high, fits = high, 2 * high, trial
            while high - low > 1:
                middle = (low + high) // 2
                trial = _bin_labels(position, width, middle)
                if np.unique(trial).size <= limit:
                    low, fits = middle, trial
                else:
                    high = middle
            label = fits
        _, label = np.unique(label, return_inverse=True)
        count = np.bincount(label, weights=self.multiplicity)
        curvature_sum = np.bincount(label, weights=self.multiplicity * self.curvature)
        weight = self.multiplicity * self.curvature / curvature_sum[label]
        return NoisyQuadratic(
            curvature=curvature_sum / count,
            noise=np.bincount(label, weights=self.multiplicity * self.noise) / count,
            initial_mean=np.sqrt(np.bincount(label, weights=weight * self.initial_mean**2)),
            initial_std=np.sqrt(np.bincount(label, weights=weight * self.initial_std**2)),
            multiplicity=count.astype(np.int64),
            multiplicative_noise=np.bincount(label, weights=self.multiplicity * self.multiplicative_noise) / count,
            noise_df=self.noise_df,
        )

    # -------------------------------------------------------------------------------------------- properties

    @cached_property
    def condition_number(self) -> float:
        """Largest over smallest curvature."""
        return float(self.curvature.max() / self.curvature.min())

    @cached_property
    def trace(self) -> float:
        """Trace tr H, the sum of all curvatures."""
        return math.fsum(self.multiplicity * self.curvature)

    @cached_property
    def noise_trace(self) -> float:
        """Trace tr C, the per-example variance of the whole gradient at the minimum."""
        return math.fsum(self.multiplicity * self.noise)

    @cached_property
    def initial_second_moment(self) -> NDArray[np.float64]:
        """E θ(0)² of each entry, shape (size,)."""
        moment = self.initial_mean**2 + self.initial_std**2
        moment.flags.writeable = False
        return moment

    @cached_property
    def initial_risk(self) -> float:
        """Expected loss of the starting point."""
        return 0.5 * math.fsum(self.multiplicity * self.curvature * self.initial_second_moment)

    @cached_property
    def loss_scale(self) -> float:
        """Natural size of a loss: expected loss of the starting point, plus tr(C H⁻¹)/2."""
        return self.initial_risk + 0.5 * float(np.sum(self.multiplicity * self.noise / self.curvature))

    # ------------------------------------------------------------------------------------------- plain numbers

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings that `from_dict` turns back into an equal problem; fit for JSON.

        Examples
        --------
        >>> NoisyQuadratic.power_law(dim=1000, exponent=1.5).to_dict()["curvature"]
        {'power_law': 1.5, 'dim': 1000}
        >>> problem = NoisyQuadratic([1.0, 0.1], noise=[0.2, 0.2])
        >>> NoisyQuadratic.from_dict(problem.to_dict()) == problem
        True
        """
        curvature: Any = self.curvature.tolist()
        if self.size > 1 and self.curvature[0] == 1.0:
            exponent = round(-math.log2(self.curvature[1]), 12) + 0.0
            if exponent >= 0 and np.array_equal(
                NoisyQuadratic.power_law(self.size, exponent).curvature, self.curvature
            ):
                curvature = {"power_law": exponent, "dim": self.size}
        same_noise = np.array_equal(self.noise, self.curvature)
        more: dict[str, Any] = {}
        if self.multiplicative_noise.any():
            more["multiplicative_noise"] = _compact(self.multiplicative_noise)
        if self.noise_df is not None:
            more["noise_df"] = self.noise_df
        return {
            "curvature": curvature,
            "noise": "curvature" if same_noise else _compact(self.noise),
            "initial_mean": _compact(self.initial_mean),
            "initial_std": _compact(self.initial_std),
            "multiplicity": _compact(self.multiplicity),
            **more,
        }

    @classmethod
    def from_dict(cls, numbers: dict[str, Any]) -> NoisyQuadratic:
        """The problem that `to_dict` described."""
        curvature = numbers["curvature"]
        if isinstance(curvature, dict):
            curvature = cls.power_law(curvature["dim"], curvature["power_law"]).curvature
        noise = None if numbers["noise"] == "curvature" else numbers["noise"]
        others = {name: numbers[name] for name in ("initial_mean", "initial_std", "multiplicity")}
        others |= {name: numbers[name] for name in ("multiplicative_noise", "noise_df") if name in numbers}
        return cls(curvature, noise, **others)

    # ---------------------------------------------------------------------------------------------- identity

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return tuple(getattr(self, name) for name in _ARRAYS)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NoisyQuadratic):
            return NotImplemented
        alike = all(np.array_equal(a, b) for a, b in zip(self._arrays(), other._arrays(), strict=True))
        return alike and self.noise_df == other.noise_df

    def __hash__(self) -> int:
        # Adding zero turns -0.0 into 0.0, which compares equal and must hash alike.
        return hash((*((a + 0).tobytes() for a in self._arrays()), self.noise_df))

    def __getstate__(self) -> dict[str, Any]:
        return {**dict(zip(_ARRAYS, self._arrays(), strict=True)), "noise_df": self.noise_df}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in _ARRAYS:
            self._set(name, state[name])
        object.__setattr__(self, "noise_df", state["noise_df"])

    def __repr__(self) -> str:
        parts = [f"dim={self.dim}"]
        if self.size != self.dim:
            parts.append(f"size={self.size}")
        parts.append(f"curvature={span(self.curvature)}")
        parts.append("noise=curvature" if np.array_equal(self.noise, self.curvature) else f"noise={span(self.noise)}")
        parts.append(f"initial_mean={span(self.initial_mean)}")
        parts.append(f"initial_std={span(self.initial_std)}")
        if self.multiplicative_noise.any():
            parts.append(f"multiplicative_noise={span(self.multiplicative_noise)}")
        if self.noise_df is not None:
            parts.append(f"noise_df={self.noise_df:g}")
        return f"NoisyQuadratic({', '.join(parts)})"


_ARRAYS = ("curvature", "noise", "initial_mean", "initial_std", "multiplicity", "multiplicative_noise")

_MOST_BINS = 2**50
"""Finer bins than this separate nothing more in double precision."""


def checked_degrees(value: Any) -> float | None:
    """Degrees of freedom of a noise of finite variance, None for a Gaussian one; or `ParameterError`."""
    if value is None:
        return None
    allowed = "be None for Gaussian noise, or a number > 2: with fewer degrees of freedom there is no variance"
    number = real_array("noise_df", value, allowed)
    if number.ndim != 0 or not (np.isfinite(number) and number > 2):
        raise ParameterError("noise_df", value, allowed)
    return float(number)


def _powers(n: int, name: str, exponent: Any) -> NDArray[np.float64]:
    power = nonnegative.check(name, exponent)
    if power.ndim != 0:
        raise ParameterError(name, exponent, "be a number")
    with np.errstate(under="ignore"):
        values = np.arange(1, n + 1, dtype=np.float64) ** -float(power)
    if values[-1] == 0.0:
        raise ParameterError(name, power.item(), f"leave {n}**-{name} above 0")
    return np.asarray(values)


def _compact(array: NDArray[Any]) -> Any:
    return array[0].item() if (array == array[0]).all() else array.tolist()


def _bin_labels(position: NDArray[np.float64], width: float, bins: int) -> NDArray[np.int64]:
    return np.minimum((position / width * bins).astype(np.int64), bins - 1)
