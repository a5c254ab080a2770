"""Optimizers as frozen descriptions: hyperparameters, their ranges, and the equations they stand for.

A description holds no state and does no stepping. The arithmetic of one step lives in `mcnqm.kernels.updates`,
the exact linear maps in `mcnqm.analytic`. To add an optimizer, write its hyperparameters as a `NamedTuple` under
`hyperparameters`, and its update under `mcnqm.update_rule`; ``docs/extending.md`` shows how.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar, get_type_hints

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from mcnqm.domains import Domain, finite, nonnegative, positive, unit_interval
from mcnqm.errors import ParameterError
from mcnqm.schedules import Schedule

__all__ = [
    "SGD",
    "Adam",
    "Lion",
    "Number",
    "RMSProp",
    "domain_of",
    "hyperparameters",
    "is_optimizer",
    "named_optimizers",
    "numeric_fields",
]

Number: TypeAlias = float | ArrayLike | xr.DataArray | Schedule
"""A numeric hyperparameter: a scalar, a 1-D array (its dimension is its own name), a DataArray, or a `Schedule`."""

T = TypeVar("T", bound=type)

_REGISTRY: dict[str, type] = {}


def hyperparameters(**domains: Domain) -> Callable[[T], T]:
    """Make a `NamedTuple` of hyperparameters an optimizer that checks its values.

    Every field is numeric (scalar, 1-D array, `xarray.DataArray` or `mcnqm.schedules.Schedule`) unless it is
    annotated ``bool``; a ``bool`` field is a switch and takes a single value. Numeric fields without a domain must
    be finite.

    Parameters
    ----------
    **domains : Domain
        The allowed set of each field: `mcnqm.domains.positive`, ``nonnegative``, ``unit_interval``, ``finite``
        or your own `mcnqm.domains.Domain`.

    Returns
    -------
    callable
        A class decorator. It returns the same class, with checks on construction, comparison that understands
        arrays, and its lower-case name known to the command line.

    Examples
    --------
    >>> from typing import NamedTuple
    >>> from mcnqm.domains import positive
    >>> @hyperparameters(lr=positive)
    ... class SignSGD(NamedTuple):
    ...     lr: Number
    >>> SignSGD(lr=0.0)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: lr must be > 0, got 0.0
    """

    def decorate(cls: T) -> T:
        fields: tuple[str, ...] = cls._fields  # type: ignore[attr-defined]
        if unknown := sorted(set(domains) - set(fields)):
            raise ParameterError("domains", unknown, f"name fields of {cls.__name__}: {', '.join(fields)}")
        hints = get_type_hints(cls, localns={"Number": Any})
        switches = frozenset(name for name in fields if hints[name] is bool)
        plain_new = cls.__new__

        @functools.wraps(plain_new)
        def __new__(klass: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            self = plain_new(klass, *args, **kwargs)
            return klass._make(
                _switch(name, value) if name in switches else _number(name, value, domains.get(name, finite))
                for name, value in zip(fields, self, strict=True)
            )

        def _replace(self: Any, **changes: Any) -> Any:
            return type(self)(**{**self._asdict(), **changes})

        def __eq__(self: Any, other: object) -> bool:  # noqa: N807
            if type(self) is not type(other):
                return False
            return all(_same(a, b) for a, b in zip(self, other, strict=True))  # type: ignore[call-overload]

        def __hash__(self: Any) -> int:  # noqa: N807
            return hash((type(self), *map(_hash, self)))

        def __ne__(self: Any, other: object) -> bool:  # noqa: N807 - a tuple has one of its own
            return not __eq__(self, other)

        methods = {"__new__": __new__, "__eq__": __eq__, "__ne__": __ne__, "__hash__": __hash__}
        for name, value in {**methods, "_replace": _replace, "_switches": switches, "_domains": domains}.items():
            setattr(cls, name, value)
        _REGISTRY[cls.__name__.lower()] = cls
        return cls

    return decorate


def is_optimizer(value: object) -> bool:
    """Whether `value` is an instance of a class made with `hyperparameters`."""
    return hasattr(type(value), "_switches")


def numeric_fields(optimizer: Any) -> dict[str, Any]:
    """The hyperparameters that may vary over a sweep, in the order of the class, without the switches.

    Examples
    --------
    >>> numeric_fields(SGD(lr=0.1, nesterov=True))
    {'lr': 0.1, 'momentum': 0.0, 'precondition': 0.0}
    """
    if not is_optimizer(optimizer):
        raise ParameterError("optimizer", optimizer, "be an optimizer such as mcnqm.SGD(lr=0.1)")
    return {name: value for name, value in optimizer._asdict().items() if name not in optimizer._switches}


def domain_of(optimizer: Any, name: str) -> Domain:
    """The allowed set of a numeric hyperparameter."""
    domain: Domain = optimizer._domains.get(name, finite)
    return domain


def named_optimizers() -> dict[str, type]:
    """Every optimizer class by its lower-case name, those that users added included."""
    return dict(_REGISTRY)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ParameterError(name, value, "be True or False")
    return bool(value)


def _hash(value: Any) -> int:
    return hash(value) if isinstance(value, Schedule) else hash((np.asarray(value) + 0).tobytes())


def _number(name: str, value: Any, domain: Domain) -> Any:
    if isinstance(value, Schedule):
        return value.check(name, domain)
    if isinstance(value, xr.DataArray):
        data = domain.check(name, value.values)
        data.flags.writeable = False
        return value.copy(data=data)
    array = domain.check(name, value)
    if array.ndim == 0:
        return float(array)
    if array.ndim != 1:
        raise ParameterError(name, f"shape {array.shape}", "be a scalar, a 1-D array or an xarray.DataArray")
    array.flags.writeable = False
    return array


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Schedule) or isinstance(b, Schedule):
        return isinstance(a, Schedule) and a == b
    if isinstance(a, xr.DataArray) or isinstance(b, xr.DataArray):
        return isinstance(a, xr.DataArray) and isinstance(b, xr.DataArray) and a.identical(b)
    return np.array_equal(a, b)


@hyperparameters(lr=positive, momentum=unit_interval)
class SGD(NamedTuple):
    r"""Stochastic gradient descent with heavy-ball or Nesterov momentum, as ``torch.optim.SGD`` does it.

    .. math::

        m_{t+1} &= \beta m_t + g_t, \qquad m_0 = 0 \\
        \theta_{t+1} &= \theta_t - \alpha P^{-1} m_{t+1} && \text{(heavy ball)} \\
        \theta_{t+1} &= \theta_t - \alpha P^{-1} (g_t + \beta m_{t+1}) && \text{(Nesterov)}

    with :math:`\alpha` = `lr`, :math:`\beta` = `momentum`, :math:`P = H^p`, :math:`p` = `precondition`.

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter² / loss (times curvature to the power p).
    momentum : Number
        β in [0, 1). 0 is plain SGD. The effective learning rate is ``lr / (1 - momentum)``.
    nesterov : bool
        Look ahead with the torch form of Nesterov's momentum.
    precondition : Number
        Power p of the preconditioner ``P = H**p``: 0 is none, 1 is Newton's (Zhang et al. 2019, section 3.3).

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite. A rate beyond stability is allowed: it diverges.

    Notes
    -----
    Variants differ in where the learning rate stands. Here (and in torch) the buffer holds gradients and the rate
    multiplies it on the way out; in Sutskever et al. (2013) the rate is inside the buffer, which is the same for
    a constant rate and differs under a schedule. There is no dampening: ``m`` is a sum, not an average, so a
    rate with momentum is ``1 / (1 - momentum)`` times as strong as without.

    References
    ----------
    B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    ``torch.optim.SGD``.

    Examples
    --------
    >>> SGD(lr=0.1, momentum=0.9)
    SGD(lr=0.1, momentum=0.9, nesterov=False, precondition=0.0)
    >>> SGD(lr=0.1, momentum=1.0)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: momentum must be in [0, 1), got 1.0
    """

    lr: Number
    momentum: Number = 0.0
    nesterov: bool = False
    precondition: Number = 0.0


@hyperparameters(lr=positive, beta1=unit_interval, beta2=unit_interval, eps=nonnegative, weight_decay=nonnegative)
class Adam(NamedTuple):
    r"""Adam (Kingma & Ba 2015, Algorithm 1), with optional decoupled weight decay (AdamW).

    .. math::

        m_{t} &= \beta_1 m_{t-1} + (1-\beta_1) g_{t-1}, \qquad
        v_{t} = \beta_2 v_{t-1} + (1-\beta_2) g_{t-1}^2, \qquad m_0 = v_0 = 0 \\
        \theta_{t} &= (1 - \alpha\lambda)\,\theta_{t-1} - \alpha\,
        \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon},
        \qquad t = 1, 2, \dots

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter units per step.
    beta1, beta2 : Number
        Decay of the first and second moment, in [0, 1).
    eps : Number
        ε >= 0, in gradient units, added *outside* the root and after the bias correction.
    weight_decay : Number
        λ >= 0, decoupled as in ``torch.optim.AdamW``: it multiplies θ and never enters the moments.
    bias_correction : bool
        Divide by ``1 - beta**t``. Off, both denominators are 1.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite.

    Notes
    -----
    This is the form of ``torch.optim.Adam``. Variants differ in ε: inside the root
    (``sqrt(v + eps)``, optax's ``eps_root``), or added before the bias correction (the "ε̂" form at the end of
    section 2 of the paper, and TensorFlow's), which early on is a smaller ε by ``sqrt(1 - beta2**t)``.

    References
    ----------
    D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Examples
    --------
    >>> Adam(lr=1e-3).beta2
    0.999
    >>> Adam(lr=1e-3, eps=-1e-8)
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: eps must be >= 0, got -1e-08
    """

    lr: Number
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    bias_correction: bool = True


@hyperparameters(lr=positive, alpha=unit_interval, eps=nonnegative)
class RMSProp(NamedTuple):
    r"""RMSProp as ``torch.optim.RMSprop`` does it (not centred, without momentum).

    .. math::

        v_{t+1} = a v_t + (1-a) g_t^2, \quad v_0 = 0, \qquad
        \theta_{t+1} = \theta_t - \alpha\, g_t / (\sqrt{v_{t+1}} + \epsilon)

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter units per step.
    alpha : Number
        Decay a of the second moment, in [0, 1), under torch's name.
    eps : Number
        ε >= 0, in gradient units, outside the root.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite.

    References
    ----------
    T. Tieleman and G. Hinton, Lecture 6.5, COURSERA: Neural Networks for Machine Learning, 2012.

    Examples
    --------
    >>> RMSProp(lr=1e-3)
    RMSProp(lr=0.001, alpha=0.99, eps=1e-08)
    """

    lr: Number
    alpha: Number = 0.99
    eps: Number = 1e-8


@hyperparameters(lr=positive, beta1=unit_interval, beta2=unit_interval, weight_decay=nonnegative)
class Lion(NamedTuple):
    r"""Lion, the sign of an interpolated momentum (Chen et al. 2023, Algorithm 2).

    .. math::

        \theta_{t+1} &= (1 - \alpha\lambda)\,\theta_t - \alpha \operatorname{sign}(\beta_1 m_t + (1-\beta_1) g_t) \\
        m_{t+1} &= \beta_2 m_t + (1-\beta_2) g_t, \qquad m_0 = 0

    Parameters
    ----------
    lr : Number
        Learning rate α > 0, in parameter units per step.
    beta1, beta2 : Number
        Interpolation of the direction and decay of the buffer, in [0, 1).
    weight_decay : Number
        λ >= 0, decoupled.

    Raises
    ------
    ParameterError
        If a value is outside its range or not finite.

    References
    ----------
    X. Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023.

    Examples
    --------
    >>> Lion(lr=1e-4)
    Lion(lr=0.0001, beta1=0.9, beta2=0.99, weight_decay=0.0)
    """

    lr: Number
    beta1: Number = 0.9
    beta2: Number = 0.99
    weight_decay: Number = 0.0
