"""One step's arithmetic: a scalar update per optimizer, chosen by the type of its hyperparameters.

An update sees numbers only: one lane of one coordinate at one step. Kernels vectorise it over lanes.
"""

from __future__ import annotations

import hashlib
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from numba.extending import overload

from mcnqm.domains import real_array
from mcnqm.errors import ParameterError
from mcnqm.kernels.jit import scalar
from mcnqm.kernels.sources import source
from mcnqm.kernels.trial import try_update

__all__ = [
    "Rule",
    "Twin",
    "expected_rates",
    "first_moments",
    "first_state",
    "first_twin_state",
    "judged",
    "judged_row",
    "local",
    "newest",
    "rule_of",
    "steps_at_once",
    "tick",
    "twin_row",
    "twin_update",
    "update",
    "update_rule",
]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Twin:
    """The mean-field twin of an adaptive optimizer: linear, on the same noise, its second moments known.

    Where the optimizer divides by what it has seen, the twin divides by what it expects to see under its own law.

    Attributes
    ----------
    update : jitted function
        ``update(p, a, g, y, s) -> (y, s)``: hyperparameters, this step's rates, gradient, parameter, state. Linear
        in the last three.
    state : tuple of str
        Names of the state variables besides y, all 0 at the start.
    rates : jitted function
        ``rates(p, c, h, var, f) -> (f, a)``: from the clock's coefficients, the curvature, the variance of the
        gradient's noise and the moments before the step, the moments after it and the rates of the step.
    moments : tuple of str
        Names of the moments. The first is the second moment of the iterate; E y² at the start, where the others are 0.
    iterate : str
        ``"y"`` or the state variable whose loss is that of the twin.
    start : jitted function or None
        ``start(p, y) -> s``: the state before the first step, instead of 0.
    begin : jitted function or None
        ``begin(second) -> f``: the moments before the first step, from E y² there.
    """

    update: Callable[..., Any]
    state: tuple[str, ...]
    rates: Callable[..., Any]
    moments: tuple[str, ...]
    iterate: str = "y"
    start: Callable[..., Any] | None = None
    begin: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Rule:
    """What a kernel needs to know of an optimizer.

    Attributes
    ----------
    update : jitted function
        ``update(p, c, g, theta, s) -> (theta, s)``: hyperparameters, this step's coefficients, gradient,
        parameter, state.
    state : tuple of str
        Names of the state variables.
    start : jitted function or None
        ``start(p, theta) -> s``: the state before the first step; without it, all are 0.
    row : int
        Which variable is the iterate: 0 for theta, else 1 + its place in the state.
    clock : jitted function or None
        ``clock(p, k) -> (k, c)``: advance what depends on the step but not on the gradient, and give this
        step's coefficients. Computed once per step and setting, not per coordinate and trajectory.
    clock_start : tuple of float
        The clock before the first step.
    local : jitted function or None
        ``local(p, h) -> p``: hyperparameters as one coordinate of curvature h sees them.
    steps_at_once : int
        Steps that a lane takes between loading and storing its state, 1 or 4.
    twin : Twin or None
        For adaptive optimizers, a control variate.
    fingerprint : str
        Hash of the sources, of helpers and constants too. Compiled kernels are cached on disk under it, so an edited
        update is recompiled.
    effective_lr : function or None
        ``effective_lr(p, k, g, s)`` of an adaptive optimizer, over arrays. No kernel knows it.
    """

    update: Callable[..., Any]
    state: tuple[str, ...]
    start: Callable[..., Any] | None
    row: int
    clock: Callable[..., Any] | None
    clock_start: tuple[float, ...]
    local: Callable[..., Any] | None
    steps_at_once: int
    twin: Twin | None
    fingerprint: str
    effective_lr: Callable[..., Any] | None = None


_RULES: dict[type, Rule] = {}

_NEWEST: dict[type, type] = {}
"""Of classes that got another update: the class that stands for each of them in kernels."""


def update_rule(
    optimizer: type,
    *,
    state: tuple[str, ...] = (),
    start: Callable[..., Any] | None = None,
    iterate: str = "theta",
    clock: Callable[..., Any] | None = None,
    clock_start: tuple[float, ...] = (),
    local: Callable[..., Any] | None = None,
    steps_at_once: int = 4,
    twin: Twin | None = None,
    effective_lr: Callable[..., Any] | None = None,
) -> Callable[[F], F]:
    """Give an optimizer its arithmetic: the other half of `mcnqm.hyperparameters`.

    The decorated function is one step of one coordinate, in plain float arithmetic,

        update(p, c, g, theta, s) -> (theta, s)

    with hyperparameters ``p`` (the NamedTuple, one float per field), coefficients ``c`` of this step (from
    `clock`, else empty), gradient ``g``, parameter ``theta`` and a tuple ``s`` of state variables. It is compiled
    with Numba and vectorised over trajectories and settings, so it must not branch into calls or allocate;
    ``a if condition else b``, `numpy.sqrt` and `mcnqm.kernels.jit.fma` are fine, powers and logarithms are slow.

    Parameters
    ----------
    optimizer : type
        A NamedTuple made with `mcnqm.hyperparameters`.
    state : tuple of str
        Names of the state variables.
    start : callable, optional
        ``start(p, theta) -> s``, the state before the first step, from the hyperparameters (of a schedule, its scale)
        and the starting point. By default all variables start at 0.
    iterate : str
        ``"theta"``, where gradients are taken, or the state variable that is the iterate: losses are those of it, and
        so are paths and averages.
    clock : callable, optional
        ``clock(p, k) -> (k, c)``, for what depends on the step number but not on the gradient, such as bias
        corrections. It runs once per step and setting.
    clock_start : tuple of float
        ``k`` before the first step.
    local : callable, optional
        ``local(p, h) -> p``, hyperparameters as a coordinate of curvature ``h`` sees them: a preconditioner.
    steps_at_once : {4, 1}
        Steps between loading and storing a lane's state. 4 suits updates of a few multiplications. With roots and
        divisions 1 is faster: their latency is hidden by other lanes, of which more fit into flight. The results
        are the same bits.
    twin : Twin, optional
        A linear optimizer close to this one, for variance reduction (see `mcnqm.simulate`).
    effective_lr : callable, optional
        ``effective_lr(p, k, g, s) -> rate`` of an adaptive optimizer: by what a step multiplies the gradient, or the
        average of gradients it descends along, from the hyperparameters of the step, the clock after it, the gradient
        and the state before it. It is called with NumPy arrays that broadcast, and is not compiled. Results have it as
        ``effective_lr`` (see `mcnqm.simulate`, ``record_state``).

    Returns
    -------
    callable
        A decorator that returns the function unchanged.

    Raises
    ------
    ParameterError
        If `optimizer` was not made with `mcnqm.hyperparameters`, two state variables have one name, `iterate` is no
        variable, or one trial step in plain Python shows that a function uses a field, an entry of the state or a
        coefficient that there is not, or returns a state of another length.

    Notes
    -----
    A class that has an update may be given another, as happens when a cell of a notebook is edited and run again: runs
    from then on use the new one.

    Examples
    --------
    Descent along a soft sign of a momentum buffer, in full:

    >>> from typing import NamedTuple
    >>> import mcnqm
    >>> from mcnqm.domains import positive, unit_interval
    >>> @mcnqm.hyperparameters(lr=positive, momentum=unit_interval)
    ... class SoftSign(NamedTuple):
    ...     lr: float
    ...     momentum: float = 0.9
    >>> @mcnqm.update_rule(SoftSign, state=("momentum",))
    ... def soft_sign(p, c, g, theta, s):
    ...     m = p.momentum * s[0] + (1 - p.momentum) * g
    ...     return theta - p.lr * m / (abs(m) + 0.1), (m,)
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=3)
    >>> runs = mcnqm.simulate(problem, SoftSign(lr=0.01), batch_size=1, steps=5, trajectories=2)
    >>> dict(runs.loss.sizes)
    {'trajectory': 2, 'step': 6}
    """
    if not hasattr(optimizer, "_fields"):
        raise ParameterError("optimizer", optimizer, "be a NamedTuple made with mcnqm.hyperparameters")
    if steps_at_once not in (1, 4):
        raise ParameterError("steps_at_once", steps_at_once, "be 1 or 4")
    if len({"theta", *state}) <= len(tuple(state)):
        raise ParameterError("state", state, "be names that differ from each other and from theta")
    ticks = tuple(float(value) for value in real_array("clock_start", clock_start)) if clock_start else ()
    row = _row(iterate, "theta", tuple(state))

    def decorate(function: F) -> F:
        pair = () if twin is None else (twin.update, twin.rates, twin.start, twin.begin)
        optional = (clock, local, start, *pair)
        parts: list[Callable[..., Any]] = [function, *(part for part in optional if part is not None)]
        names = () if twin is None else (twin.state, twin.moments, _row(twin.iterate, "y", twin.state))
        shape = (optimizer._fields, tuple(state), row, ticks, steps_at_once, *names)  # kernels know fields by position
        rule = Rule(
            update=scalar(function),
            state=tuple(state),
            start=None if start is None else scalar(start),
            row=row,
            clock=None if clock is None else scalar(clock),
            clock_start=ticks,
            local=None if local is None else scalar(local),
            steps_at_once=steps_at_once,
            twin=None if twin is None else _compiled(twin),
            fingerprint=hashlib.sha256(repr((shape, *map(source, parts))).encode()).hexdigest()[:16],
            effective_lr=effective_lr,
        )
        try_update(optimizer, tuple(state), function, start, clock, ticks, local)
        if optimizer in _RULES and _RULES[optimizer].fingerprint != rule.fingerprint:
            # Kernels compiled for the class keep its first update: from now on they are compiled for a class like it.
            like: type = namedtuple(optimizer.__name__, optimizer._fields, module=optimizer.__module__)  # type: ignore[misc]
            _RULES[like], _NEWEST[optimizer] = rule, like
        _RULES[optimizer] = rule
        return function

    return decorate


def _row(iterate: str, first: str, state: tuple[str, ...]) -> int:
    variables = (first, *state)
    if iterate not in variables:
        raise ParameterError("iterate", iterate, f"be one of {', '.join(variables)}")
    return variables.index(iterate)


def _compiled(twin: Twin) -> Twin:
    parts = {name: getattr(twin, name) for name in ("update", "rates", "start", "begin")}
    return replace(twin, **{name: scalar(part) for name, part in parts.items() if part is not None})


def newest(hyper_type: type) -> type:
    """The class by which kernels know a class: itself, unless its update was replaced."""
    return _NEWEST.get(hyper_type, hyper_type)


def rule_of(hyper_type: type) -> Rule:
    """The rule of a NamedTuple type, or `ParameterError` if it has none."""
    try:
        return _RULES[hyper_type]
    except KeyError:
        allowed = "have an update; give it one with mcnqm.update_rule"
        raise ParameterError("optimizer", hyper_type.__name__, allowed) from None


# ----------------------------------------------------------------------------- dispatch by type, inside a kernel


def update(p, c, g, theta, s):
    """One step of the optimizer whose hyperparameters are `p`."""
    raise NotImplementedError


def tick(p, k):
    """Advance the clock of `p` by one step: ``(k, c)``."""
    raise NotImplementedError


def steps_at_once(p):
    """A tuple as long as the steps that `p` takes at once."""
    raise NotImplementedError


def judged(p, theta, s):
    """The iterate of the optimizer whose hyperparameters are `p`: the variable whose loss counts."""
    raise NotImplementedError


def judged_row(p):
    """A tuple as long as there are variables before the iterate."""
    raise NotImplementedError


def first_state(p, theta, s):
    """The state before the first step; `s` holds zeros."""
    raise NotImplementedError


def twin_row(p):
    """A tuple as long as there are variables of the twin of `p` before its iterate."""
    raise NotImplementedError


def first_twin_state(p, y, s):
    """The state of the twin before the first step; `s` holds zeros."""
    raise NotImplementedError


def first_moments(p, second, f):
    """The moments of the twin before the first step; `f` holds zeros."""
    raise NotImplementedError


def local(p, h):
    """`p` as a coordinate of curvature `h` sees it."""
    raise NotImplementedError


def expected_rates(p, c, h, var, f):
    """Advance the moments of the twin of `p` by one step: ``(f, a)``."""
    raise NotImplementedError


def twin_update(p, a, g, y, s):
    """One step of the twin of `p`."""
    raise NotImplementedError


@overload(update, jit_options={"forceinline": True})
def _update(p, c, g, theta, s):
    function = rule_of(p.instance_class).update
    return lambda p, c, g, theta, s: function(p, c, g, theta, s)  # noqa: PLW0108 - Numba wants a function


@overload(steps_at_once, jit_options={"forceinline": True})
def _steps_at_once(p):
    steps = (0,) * rule_of(p.instance_class).steps_at_once
    return lambda p: steps


@overload(judged, jit_options={"forceinline": True})
def _judged(p, theta, s):
    place = rule_of(p.instance_class).row - 1
    if place < 0:
        return lambda p, theta, s: theta
    return lambda p, theta, s: s[place]


@overload(judged_row, jit_options={"forceinline": True})
def _judged_row(p):
    before = (0,) * rule_of(p.instance_class).row
    return lambda p: before


@overload(first_state, jit_options={"forceinline": True})
def _first_state(p, theta, s):
    function = rule_of(p.instance_class).start
    if function is None:
        return lambda p, theta, s: s
    return lambda p, theta, s: function(p, theta)


@overload(tick, jit_options={"forceinline": True})
def _tick(p, k):
    function = rule_of(p.instance_class).clock
    if function is None:
        return lambda p, k: (k, ())
    return lambda p, k: function(p, k)  # noqa: PLW0108 - Numba wants a function


@overload(local, jit_options={"forceinline": True})
def _local(p, h):
    function = rule_of(p.instance_class).local
    if function is None:
        return lambda p, h: p
    return lambda p, h: function(p, h)  # noqa: PLW0108 - Numba wants a function


def _twin_of(p: Any) -> Twin:
    twin = rule_of(p.instance_class).twin
    assert twin is not None, "a shard with cells was refused for an optimizer without a twin"
    return twin


@overload(expected_rates, jit_options={"forceinline": True})
def _expected_rates(p, c, h, var, f):
    function = _twin_of(p).rates
    return lambda p, c, h, var, f: function(p, c, h, var, f)  # noqa: PLW0108 - Numba wants a function


@overload(twin_update, jit_options={"forceinline": True})
def _twin_update(p, a, g, y, s):
    function = _twin_of(p).update
    return lambda p, a, g, y, s: function(p, a, g, y, s)  # noqa: PLW0108 - Numba wants a function


@overload(twin_row, jit_options={"forceinline": True})
def _twin_row(p):
    twin = rule_of(p.instance_class).twin  # asked of all, whether or not their twins run
    before = () if twin is None else (0,) * _row(twin.iterate, "y", twin.state)
    return lambda p: before


@overload(first_twin_state, jit_options={"forceinline": True})
def _first_twin_state(p, y, s):
    function = _twin_of(p).start
    if function is None:
        return lambda p, y, s: s
    return lambda p, y, s: function(p, y)


@overload(first_moments, jit_options={"forceinline": True})
def _first_moments(p, second, f):
    function = _twin_of(p).begin
    if function is None:
        return lambda p, second, f: (second, *f[1:])
    return lambda p, second, f: function(second)
