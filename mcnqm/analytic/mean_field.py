r"""Adaptive optimizers in the mean field: Adam's risk without running Adam.

Adam divides the averaged gradient by the root of v, an average of squared gradients. Where v is an average over many
steps it is nearly its own expectation. Put that in its place,

.. math::

    v_{t+1} = \beta_2 v_t + (1-\beta_2) \big(h^2\, E y_t^2 + c/B\big), \qquad
    a_t = \frac{\alpha}{(1-\beta_1^{t+1}) \big(\sqrt{v_{t+1} / (1-\beta_2^{t+1})} + \epsilon\big)},

and what remains, :math:`y_{t+1} = y_t - a_t m_{t+1}`, is a linear optimizer with a known rate per coordinate and
step, whose second moments obey a closed recursion: the *mean-field twin*. Two refinements make it a theory of Adam at
any batch size; ``docs/mean_field.md`` derives them and measures what each is worth:

* the starting point is given: each node of a Gauss rule for :math:`|\theta_0|` has a twin of its own. Without noise
  v is a function of the starting point, so this is exact for :math:`B \to \infty`, where a single twin is off by
  factors;
* with ``order=2``, the fluctuations of v around its mean count to first order, in the drift (Jensen's inequality, and
  that a gradient is in its own v) and in the noise.

`mcnqm.simulate` runs the same twins, without the second, as control variates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.analytic._labels import LOSS, check_answer, dataset, selection
from mcnqm.analytic.linear.chunks import Chunks
from mcnqm.analytic.twins.quadrature import size_of_normal
from mcnqm.analytic.twins.recursion import VARIABLES, advance
from mcnqm.arguments import renamed
from mcnqm.domains import MOST_STEPS, integer, positive
from mcnqm.errors import ParameterError
from mcnqm.optimizers import Adam, RMSProp
from mcnqm.problems import NoisyQuadratic, check_constant_noise, check_problem
from mcnqm.provenance import recorded
from mcnqm.record import recorded_steps
from mcnqm.settings import Settings, settings_of

__all__ = ["OPTIMIZERS", "covers", "moments", "risk", "steps_to_target"]

Array = NDArray[np.float64]

OPTIMIZERS = (Adam, RMSProp)
"""Classes that have a mean-field theory."""

_LONGEST = 2**40
"""Where to give up by default: a chunk of steps more costs as much however many there were."""

_TABLE = 2**21
"""Most numbers in a table of hyperparameters by chunk."""

_STILL = 1e-14
"""A second moment that falls by less than this in an octave of steps, relative to itself, stands still: rounding."""


@recorded("mcnqm.analytic.mean_field.risk")
def risk(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Any,
    steps: int,
    *,
    record: Any = None,
    order: int = 2,
    nodes: int = 8,
) -> xr.Dataset:
    r"""Expected loss of an adaptive optimizer in the mean field, at the recorded steps.

    Parameters
    ----------
    problem : NoisyQuadratic
    optimizer : Adam or RMSProp
        With all options of Adam; RMSProp neither centered nor with momentum. Arrays make a sweep, and schedules change
        with the step.
    batch_size : Number
        Examples per step, at least 1; an array makes a sweep. Or a schedule.
    steps : int
        Length of the run, up to 2**53.
    record : sequence of int, optional
        Steps at which to answer; the default is that of `mcnqm.record.recorded_steps`.
    order : {2, 1}
        2 counts fluctuations of v to first order; 1 is the plain mean field.
    nodes : int
        Starting points, by size, of each coordinate's Gauss rule; at least 2.

    Returns
    -------
    xarray.Dataset
        ``risk`` (\*sweep, step), in units of the loss.

    Raises
    ------
    ParameterError
        If the optimizer has no mean-field theory, or a value is out of range.

    Notes
    -----
    The first 256 steps are taken one by one. Beyond, 1/16 to 1/32 of the steps so far are taken at a time, by
    repeated squaring of the map with the rate of their middle: relative error of the risk below 2e-3, below
    7e-3 at rates far above the best. The cost of a run grows like the logarithm of its length. Under schedules a chunk
    ends where a piece of a curve does, no number changes by more than 1/500 within one, and after a jump they are short
    again, as at the start: an error below 2e-3 too, and more chunks. A function of which no pieces are known is taken
    to be smooth over 1/16 of the steps so far. Measured error against simulation: see ``docs/mean_field.md``.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=50)
    >>> adam = mcnqm.Adam(lr=2e-3)
    >>> theory = mcnqm.analytic.mean_field.risk(problem, adam, batch_size=16, steps=2000)
    >>> runs = mcnqm.simulate(problem, adam, batch_size=16, steps=2000, trajectories=64)
    >>> bool((abs(theory.risk / runs.risk - 1) < 0.05).all())
    True
    """
    check_problem(problem)
    check_constant_noise(problem, "the mean field is that of additive normal noise; mcnqm.simulate runs every kind")
    at = recorded_steps(steps, record, limit=MOST_STEPS)
    settings = settings_of(optimizer, batch_size, schedules=True)
    check_answer(settings, records=at.size)
    flat = _Field(problem, optimizer, settings, order, nodes).run(at)
    data = xr.DataArray(settings.unflatten(flat), dims=(*settings.dims, "step"), attrs=LOSS)
    return dataset({"risk": data}, settings, at).assign_attrs(method="mean-field", order=order)


@recorded("mcnqm.analytic.mean_field.moments")
def moments(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Any,
    steps: int,
    *,
    record: Any = None,
    coordinates: Any = None,
    order: int = 2,
    nodes: int = 8,
) -> xr.Dataset:
    r"""Second moments of every coordinate in the mean field.

    Parameters
    ----------
    problem, optimizer, batch_size, steps, record, order, nodes
        As for `risk`.
    coordinates : sequence of int, optional
        Coordinates to answer for; all by default.

    Returns
    -------
    xarray.Dataset
        Over (\*sweep, step, coordinate): ``theta_square``, E θ²; ``theta_momentum``, E θ m; ``momentum_square``,
        E m², of the averaged gradient m (of RMSProp: the gradient); and ``gradient_square``, the mean of Adam's
        v before bias correction.

    Raises
    ------
    ParameterError
        As `risk`.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=3)
    >>> found = moments(problem, mcnqm.Adam(lr=1e-3), batch_size=4, steps=100_000, record=[100_000])
    >>> v = found.gradient_square.sel(step=100_000)
    >>> [round(ratio, 3) for ratio in (v * 4 / problem.noise).values.tolist()]  # c / B, and what θ adds
    [1.001, 1.001, 1.001]
    """
    check_problem(problem)
    check_constant_noise(problem, "the mean field is that of additive normal noise; mcnqm.simulate runs every kind")
    at = recorded_steps(steps, record, limit=MOST_STEPS)
    settings = settings_of(optimizer, batch_size, schedules=True)
    field = _Field(problem, optimizer, settings, order, nodes)
    chosen = selection(problem, coordinates)
    entry = np.repeat(np.arange(problem.size), problem.multiplicity)[chosen]
    names = ("theta_square", "theta_momentum", "momentum_square", "gradient_square")
    check_answer(settings, records=at.size, coordinates=chosen.size, variables=4)
    found = np.empty((4, settings.size, at.size, chosen.size))

    def keep(k: int, state: Array) -> None:
        averaged = (state[:, :4] * field.share[:, np.newaxis, np.newaxis, :]).sum(axis=-1)
        found[:, :, k] = averaged[entry].transpose(1, 2, 0)

    field.run(at, keep)
    units = ("parameter²", "parameter × gradient", "gradient²", "gradient²")
    dims = (*settings.dims, "step", "coordinate")
    data = {
        name: xr.DataArray(settings.unflatten(values), dims=dims, attrs={"units": unit})
        for name, values, unit in zip(names, found, units, strict=True)
    }
    result = dataset(data, settings, at).assign_coords(coordinate=chosen)
    return result.assign_attrs(method="mean-field", order=order)


@recorded("mcnqm.analytic.mean_field.steps_to_target")
def steps_to_target(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Any,
    target: Any,
    *,
    max_steps: int | None = None,
    overtaken_factor: float | None = None,
    order: int = 2,
    nodes: int = 8,
    patience: float | None = None,
) -> xr.Dataset:
    r"""First step at which the mean-field risk is at or below `target`.

    Parameters
    ----------
    problem, optimizer, batch_size, order, nodes
        As for `risk`.
    target : Number
        Risk to reach, > 0; an array makes a dimension ``target``.
    max_steps : int, optional
        Where to give up. By default as far as this theory goes in reasonable time, 2**40.
    overtaken_factor : float, optional
        Once some setting has reached the target after t steps, the others stop at so many times t.
    patience : float, optional
        Deprecated name of `overtaken_factor`.

    Returns
    -------
    xarray.Dataset
        ``steps`` (\*sweep), inf where the target is not reached; ``crossing`` (\*sweep), when the risk crosses the
        target by interpolation between looks, linear in the logarithms: a smooth function of the hyperparameters.

    Raises
    ------
    ParameterError
        As `risk`.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=1000)
    >>> adam = mcnqm.Adam(lr=[1e-3, 2e-3])
    >>> mcnqm.analytic.mean_field.steps_to_target(problem, adam, batch_size=16, target=0.01).steps.values.round(-2)
    array([14400.,  8800.])
    """
    check_problem(problem)
    check_constant_noise(problem, "the mean field is that of additive normal noise; mcnqm.simulate runs every kind")
    last = _LONGEST if max_steps is None else integer("max_steps", max_steps, 1, MOST_STEPS)
    overtaken_factor = renamed("patience", patience, "overtaken_factor", overtaken_factor)
    positive.check("target", getattr(target, "values", target))
    if overtaken_factor is not None and not (isinstance(overtaken_factor, (int, float)) and overtaken_factor >= 1):
        raise ParameterError("overtaken_factor", overtaken_factor, "be >= 1")
    settings = settings_of(optimizer, batch_size, schedules=True, target=target)
    flat = _Field(problem, optimizer, settings, order, nodes).passages(
        settings.values["target"], last, overtaken_factor
    )
    whole = np.maximum(np.ceil(flat - 1e-9), 0.0)
    data = {
        name: xr.DataArray(settings.unflatten(values), dims=settings.dims, attrs={"units": "steps"})
        for name, values in (("steps", whole), ("crossing", flat))
    }
    return dataset(data, settings).assign_attrs(method="mean-field", order=order)


def covers(optimizer: Any, tuned: Iterable[str] = ()) -> bool:
    """Whether the theory knows an optimizer and its options, while hyperparameters named in `tuned` take any value.

    Examples
    --------
    >>> covers(Adam(lr=1e-3)), covers(RMSProp(lr=1e-3, momentum=0.9)), covers(RMSProp(lr=1e-3), ["momentum"])
    (True, False, False)
    """
    if not isinstance(optimizer, RMSProp):
        return isinstance(optimizer, OPTIMIZERS)
    momentum = getattr(optimizer.momentum, "scale", optimizer.momentum)  # of a schedule
    return not (optimizer.centered or np.any(np.asarray(momentum) > 0.0) or "momentum" in tuned)


def _without_momentum(optimizer: RMSProp, columns: dict[str, Array]) -> None:
    """Refuse the options of RMSProp that this theory lacks; the kernels' twin has them."""
    for entry in columns["momentum"][columns["momentum"] > 0.0]:
        raise ParameterError("momentum", float(entry), "be 0 for the mean-field theory of RMSProp")
    if optimizer.centered:
        raise ParameterError("centered", True, "be False for the mean-field theory of RMSProp")


class _Field:
    """The state of every twin, and how to advance it."""

    def __init__(
        self,
        problem: NoisyQuadratic,
        optimizer: Any,
        settings: Settings,
        order: int,
        nodes: int,
        law: tuple[Array, Array] | None = None,
    ) -> None:
        if not isinstance(problem, NoisyQuadratic):
            raise ParameterError("problem", problem, "be a mcnqm.NoisyQuadratic")
        if not isinstance(optimizer, OPTIMIZERS):
            names = " or ".join(kind.__name__ for kind in OPTIMIZERS)
            raise ParameterError("optimizer", optimizer, f"be {names}, which have a mean-field theory")
        integer("order", order, 1, 2)
        integer("nodes", nodes, 2, 64)
        place, self.share = size_of_normal(problem.initial_mean, problem.initial_std, nodes) if law is None else law
        columns = settings.values
        one, none = np.ones(settings.size), np.zeros(settings.size)
        if isinstance(optimizer, Adam):
            fields = ["lr", "beta1", "beta2", "eps", "weight_decay", "bias_correction", "eps_root"]
            fields += ["present_betas", "eps_hat"]
        else:
            _without_momentum(optimizer, columns)
            fields = ["lr", "", "alpha", "eps", "", "", "eps_root", "", ""]
        on = {name: one for name, value in optimizer._asdict().items() if value is True}
        rows = [on.get(name, columns.get(name, none)) for name in fields]
        self._rule = np.ascontiguousarray(np.stack(rows))
        self._batch = columns["batch_size"]
        self._tables = settings.schedules
        self._row = {name: fields.index(name) for name in self._tables if name != "batch_size"}
        self._chunks = Chunks(settings)
        self._powers = np.stack([one, one, none])
        self._order = order
        self._curvature = np.ascontiguousarray(problem.curvature, dtype=np.float64)
        self._noise = np.ascontiguousarray(problem.noise, dtype=np.float64)
        self._weight = (0.5 * problem.multiplicity * problem.curvature)[:, np.newaxis] * self.share
        self._state = np.zeros((problem.size, VARIABLES, settings.size, self.share.shape[1]))
        self._state[:, 0] = (place**2)[:, np.newaxis]
        self._initial = problem.initial_risk
        self._step = 0

    def run(self, at: NDArray[np.int64], keep: Callable[[int, Array], None] | None = None) -> Array:
        """Risk at steps `at`, shape (settings, steps); `keep` sees the state at each."""
        out = np.full((self._rule.shape[1], at.size), self._initial)
        if keep is not None and at[0] == 0:
            keep(0, self._state)
        if keep is None:
            later = at[at > 0]
            out[:, at.size - later.size :] = self._to(later)
            return out
        for k in range(at.size):
            if at[k] > 0:
                out[:, k] = self._to(at[k : k + 1])[:, 0]
                keep(k, self._state)
        return out

    def _to(self, stops: NDArray[np.int64]) -> Array:
        """Advance through `stops`, and the risk at each."""
        lengths, looks, t = [], [], self._step
        for stop in stops.tolist():
            while t < stop:
                lengths.append(self._chunks.chunk(t, stop))
                t += lengths[-1]
                looks.append(t == stop)
        out = np.zeros((self._rule.shape[1], stops.size))
        seen, most = 0, max(1, _TABLE // self._rule.size)
        for first in range(0, len(lengths), most):
            chunks = np.array(lengths[first : first + most], dtype=np.int64)
            look = np.array(looks[first : first + most], dtype=np.bool_)
            rule, inverse = self._numbers(chunks)
            part = np.zeros((out.shape[0], int(look.sum())))
            advance(
                *(self._state, self._curvature, self._noise, self._weight, rule, inverse, self._powers, self._order),
                *(chunks, look, part),
            )
            out[:, seen : seen + part.shape[1]] = part
            seen += part.shape[1]
            self._step += int(chunks.sum())
        return out

    def _numbers(self, chunks: NDArray[np.int64]) -> tuple[Array, Array]:
        """Hyperparameters and 1 / B of the chunks from the present step on: means of their first and last step."""
        rule = np.repeat(self._rule[np.newaxis], chunks.size, axis=0)
        inverse = np.repeat(1.0 / self._batch[np.newaxis], chunks.size, axis=0)
        ends = self._step + np.cumsum(chunks)
        for name, table in self._tables.items():
            first, last = (table.scale * table.at(step)[table.which].T for step in (ends - chunks, ends - 1))
            if name == "batch_size":
                inverse[:] = 0.5 / first + 0.5 / last
            else:
                rule[:, self._row[name]] = 0.5 * (first + last)
        return rule, inverse

    def passages(self, targets: Array, last: int, patience: float | None) -> Array:
        """When each setting's risk crosses its target, inf if never."""
        crossing = np.where(self._initial <= targets, 0.0, np.inf)
        before = np.full(targets.size, self._initial)
        second, hopeless = self._state[:, 0].copy(), np.zeros(targets.size, dtype=bool)
        running = np.isinf(crossing)
        while running.any() and self._step < last:
            looks, start = self._chunks.looks(self._step, last), self._step
            risk = self._to(looks)
            times = np.concatenate([[start], looks]).astype(float)
            curve = np.concatenate([before[:, np.newaxis], risk], axis=1)
            for s in np.flatnonzero(running):
                below = np.flatnonzero(risk[s] <= targets[s])
                if below.size:
                    j = int(below[0])
                    above, under = np.log(curve[s, j : j + 2])
                    share = (above - np.log(targets[s])) / (above - under)
                    early, late = np.log(np.maximum(times[j : j + 2], 0.5))
                    crossing[s] = np.exp(early + share * (late - early))
            before = risk[:, -1]
            with np.errstate(invalid="ignore", over="ignore"):
                # A second moment falls ever more slowly: linearly in the root at most, when all gradient is signal. So
                # what fell in this octave, kept up to the end, is the most that can fall. Moments that rise do not
                # count against those that fall. Twice over, lest a moment be caught as it turns from rising.
                fall = np.maximum(second * (1.0 - _STILL) - self._state[:, 0], 0.0)
                pace = np.einsum("in,isn->s", self._weight, fall) / (self._step - start)
                out_of_reach = before - pace * (last - self._step) > targets
                # Until schedules have settled, anything may yet fall.
                out_of_reach &= start >= self._chunks.settled
                running = np.isinf(crossing) & np.isfinite(before) & ~(out_of_reach & hopeless)
            second, hopeless = self._state[:, 0].copy(), out_of_reach
            if patience is not None and self._step > patience * crossing.min():
                break
        return crossing
