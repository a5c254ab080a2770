r"""Plain SGD on one-dimensional landscapes, exact to quadrature: a Markov chain in each coordinate.

A step of a coordinate is normal given where it begins,
:math:`\theta' \sim N(\theta - \alpha L'(\theta),\, \alpha^2 c(\theta) / B)`, whatever the loss. On quadrature nodes
its law is a vector and the step a matrix: risk, occupancy of wells, stationary laws and escape times are linear
algebra. Beside them stands what the stochastic differential equation of small rates says. ``docs/chains.md`` derives.

Grids are halved until an answer no longer changes by more than 1e-8 (occupancy by 1e-8, the others by that share of
themselves); the change is the result's attribute ``error``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import ndtr

from mcnqm.analytic._labels import LOSS, dataset
from mcnqm.analytic.chains import banded
from mcnqm.analytic.chains.coordinates import (
    Coordinate,
    chain_settings,
    check_chain_problem,
    check_wells,
    coordinates_of,
)
from mcnqm.analytic.chains.limits import sde_escape, sde_law
from mcnqm.analytic.chains.nodes import Chain, chain_on, start_of, window_of
from mcnqm.domains import real_array
from mcnqm.errors import ParameterError
from mcnqm.provenance import recorded
from mcnqm.record import recorded_steps

__all__ = ["escape_steps", "occupancy", "risk", "stationary", "survival"]

Array = NDArray[np.float64]

_TOLERANCE = 1e-8
_MOST_STEPS = 2**40
_LEVELS = 6
_LOST = 1e-8
_WELLS = ["sharp", "wide"]
_SHARE = {"units": "1", "long_name": "chance to be in the well"}
_PER_STEP = {"units": "steps"}


_QUIET: Any = {"over": "ignore", "invalid": "ignore", "divide": "ignore"}
"""At absurd rates numbers overflow, and an answer that is not finite on two grids is refused by the rate's name."""


@recorded("mcnqm.analytic.chain.risk")
@np.errstate(**_QUIET)
def risk(problem: Any, optimizer: Any, batch_size: Any, steps: int, *, record: Any = None) -> xr.Dataset:
    r"""Expected loss at the recorded steps.

    Parameters
    ----------
    problem : DoubleWell, QuarticWell, any other landscape, or NoisyQuadratic
        Every distinct coordinate is a chain of its own; a start without spread is a point. Noise must be > 0.
    optimizer : SGD
        Plain: without momentum, preconditioner, weight decay, dampening and schedules. Arrays make a sweep.
    batch_size : Number
        Examples per step, at least 1; an array makes a sweep.
    steps : int
        Length of the run, up to 2**40.
    record : sequence of int, optional
        Steps at which to answer; the default is that of `mcnqm.record.recorded_steps`.

    Returns
    -------
    xarray.Dataset
        ``risk`` (\*sweep, step), in units of the loss, above its least.

    Raises
    ------
    ParameterError
        If the optimizer is another, the noise is not normal or vanishes, the start or a step from it lies outside what
        the quadrature reaches, or the chain does not stay near its minima (too large a rate).

    Notes
    -----
    Steps are taken one by one or, where that is cheaper, by repeated squaring of the matrix, in which what leaves a
    node and what stays always add up to 1.

    Examples
    --------
    >>> import mcnqm
    >>> from mcnqm.analytic import chain
    >>> well = mcnqm.QuarticWell(initial_mean=1.0, initial_std=0.0)
    >>> chain.risk(well, mcnqm.SGD(lr=0.1), 4, steps=100, record=[0, 1, 100]).risk.round(4).values
    array([0.75  , 0.4261, 0.0065])
    """
    check_chain_problem(problem)
    settings = chain_settings(optimizer, batch_size)
    at = recorded_steps(steps, record, limit=_MOST_STEPS)
    flat, worst, nodes = np.zeros((settings.size, at.size)), 0.0, 0
    for s, _, coordinate, entries in coordinates_of(problem, settings):
        values, error, count = _refined(coordinate, lambda chain, level: _along(chain, level, at, 0))
        flat[s] += problem.multiplicity[entries].sum() * values
        worst, nodes = max(worst, error), max(nodes, count)
    data = xr.DataArray(settings.unflatten(flat), dims=(*settings.dims, "step"), attrs=LOSS)
    return _answer({"risk": data}, settings, worst, nodes, at)


@recorded("mcnqm.analytic.chain.occupancy")
@np.errstate(**_QUIET)
def occupancy(problem: Any, optimizer: Any, batch_size: Any, steps: int, *, record: Any = None) -> xr.Dataset:
    r"""Chance to be in each of two wells at the recorded steps, the barrier between them.

    Parameters
    ----------
    problem : DoubleWell
    optimizer, batch_size, steps, record
        As in `risk`.

    Returns
    -------
    xarray.Dataset
        ``occupancy`` (\*sweep, step, well) with labels ``"sharp"`` and ``"wide"``; the mean over coordinates.

    Raises
    ------
    ParameterError
        As `risk`, and if the problem has no two wells.

    Examples
    --------
    >>> import mcnqm
    >>> from mcnqm.analytic import chain
    >>> found = chain.occupancy(mcnqm.DoubleWell(), mcnqm.SGD(lr=[0.05, 0.1]), 4, steps=1000, record=[0, 1000])
    >>> found.occupancy.sel(well="wide").round(4).values
    array([[0.    , 0.0525],
           [0.    , 0.8521]])
    """
    check_wells(problem)
    settings = chain_settings(optimizer, batch_size)
    at = recorded_steps(steps, record, limit=_MOST_STEPS)
    flat, worst, nodes = np.zeros((settings.size, at.size)), 0.0, 0
    for s, _, coordinate, entries in coordinates_of(problem, settings):
        values, error, count = _refined(coordinate, lambda chain, level: _along(chain, level, at, 1))
        flat[s] += problem.multiplicity[entries].sum() / problem.dim * values
        worst, nodes = max(worst, error), max(nodes, count)
    data = _wells(flat, settings, ("step",))
    return _answer({"occupancy": data}, settings, worst, nodes, at).assign_coords(well=_WELLS)


@recorded("mcnqm.analytic.chain.stationary")
@np.errstate(**_QUIET)
def stationary(problem: Any, optimizer: Any, batch_size: Any, *, positions: Any = None) -> xr.Dataset:
    r"""What the chain settles into, and what the SDE of small rates settles into.

    The SDE's density is :math:`\propto (1/c) \exp(-(2B/\alpha) \int L'/c)`, for constant noise
    :math:`\exp(-L/T)` with :math:`T = \alpha c / (2B)`: only the ratio α/B enters. In the chain the rate does too.

    Parameters
    ----------
    problem, optimizer, batch_size
        As in `risk`.
    positions : array_like, shape (n,), optional
        Parameters at which to give the density; by default none.

    Returns
    -------
    xarray.Dataset
        ``risk`` and ``sde_risk`` (\*sweep), in units of the loss. For a `DoubleWell` also ``occupancy`` and
        ``sde_occupancy`` (\*sweep, well), means over coordinates. With `positions` also ``density``
        (\*sweep, entry, position), per parameter unit, of each entry of the problem.

    Raises
    ------
    ParameterError
        As `risk`.

    Examples
    --------
    >>> import mcnqm
    >>> from mcnqm.analytic import chain
    >>> found = chain.stationary(mcnqm.DoubleWell(), mcnqm.SGD(lr=[0.025, 0.1]), batch_size=[1, 4])
    >>> both = found.isel(lr=[0, 1], batch_size=[0, 1]).sel(well="wide")
    >>> both.occupancy.round(3).values.diagonal(), both.sde_occupancy.round(3).values.diagonal()
    (array([0.703, 0.852]), array([0.669, 0.669]))
    """
    check_chain_problem(problem)
    settings = chain_settings(optimizer, batch_size)
    place = None
    if positions is not None:
        place = real_array("positions", positions)
        if place.ndim != 1 or not np.isfinite(place).all():
            raise ParameterError("positions", positions, "be a sequence of finite parameters")
    flat, worst, nodes = np.zeros((settings.size, 4)), 0.0, 0
    density = np.zeros((settings.size, problem.size, 0 if place is None else place.size))
    wells = False
    for s, _, coordinate, entries in coordinates_of(problem, settings):
        count = problem.multiplicity[entries].sum()
        wells = coordinate.barrier is not None
        found, error, many = _refined(coordinate, lambda chain, level: _settled(chain, place), settles=True)
        x, law = sde_law(coordinate, window_of(coordinate))
        values = (found[0], law @ coordinate.loss(x), found[1] / problem.dim, _beyond(coordinate, x, law) / problem.dim)
        flat[s] += count * np.array(values)
        density[s, entries] = found[2:]
        worst, nodes = max(worst, error), max(nodes, many)
    data = {
        name: xr.DataArray(settings.unflatten(flat[:, k]), dims=settings.dims, attrs=LOSS)
        for k, name in enumerate(("risk", "sde_risk"))
    }
    if wells:
        data |= {name: _wells(flat[:, k], settings, ()) for k, name in ((2, "occupancy"), (3, "sde_occupancy"))}
    if place is not None:
        dims = (*settings.dims, "entry", "position")
        data["density"] = xr.DataArray(settings.unflatten(density), dims=dims, attrs={"units": "1/parameter"})
    result = _answer(data, settings, worst, nodes)
    if wells:
        result = result.assign_coords(well=_WELLS)
    return result if place is None else result.assign_coords(position=("position", place, {"units": "parameter"}))


@recorded("mcnqm.analytic.chain.escape_steps")
@np.errstate(**_QUIET)
def escape_steps(problem: Any, optimizer: Any, batch_size: Any) -> xr.Dataset:
    r"""Mean number of steps from the minimum of the start's well to past the barrier.

    Parameters
    ----------
    problem : DoubleWell
        Its start says which well to leave.
    optimizer, batch_size
        As in `risk`.

    Returns
    -------
    xarray.Dataset
        In steps, (\*sweep), with a dimension ``entry`` where the problem has several distinct coordinates:

        - ``steps``: the chain's, to the first step past the barrier.
        - ``sde_steps``: the SDE's, to the barrier:
          :math:`\frac1{\alpha T} \int_a^b dy\, e^{L(y)/T} \int_{-\infty}^y dz\, e^{-L(z)/T}`.
        - ``sde_steps_to_minimum``: the same to the other minimum.
        - ``kramers_steps``: Kramers' :math:`2\pi / (\alpha \sqrt{h |h_b|})\, e^{\Delta L / T}`, to the other minimum.
        - ``laplace_steps``: Laplace's method on the integral to the barrier, half of Kramers'.

    Raises
    ------
    ParameterError
        As `occupancy`.

    Notes
    -----
    The equations :math:`(I - K) \tau = 1` lose as many digits as τ has. Elimination by sums of positive numbers
    (Grassmann, Taksar & Heyman 1985) does not: the relative error is that of the quadrature, whatever the time; above
    1e300 steps it is infinite.

    Examples
    --------
    >>> import mcnqm
    >>> from mcnqm.analytic import chain
    >>> found = chain.escape_steps(mcnqm.DoubleWell(), mcnqm.SGD(lr=0.025), batch_size=1)
    >>> {name: round(float(found[name])) for name in ("steps", "sde_steps", "kramers_steps")}
    {'steps': 650, 'sde_steps': 423, 'kramers_steps': 588}
    """
    check_wells(problem)
    settings = chain_settings(optimizer, batch_size)
    names = ("steps", "sde_steps", "sde_steps_to_minimum", "kramers_steps", "laplace_steps")
    found, worst, nodes = np.zeros((len(names), settings.size, problem.size)), 0.0, 0
    for s, _, coordinate, entries in coordinates_of(problem, settings):
        well = _well(coordinate)
        values, error, count = _refined(coordinate, partial(_escape_of, well))
        theory = sde_escape(coordinate, window_of(coordinate, settles=False), well)
        for k, name in enumerate(names):
            found[k, s, entries] = values[0] if name == "steps" else theory[name]
        worst, nodes = max(worst, error), max(nodes, count)
    several = problem.size > 1
    data = {
        name: xr.DataArray(
            settings.unflatten(found[k] if several else found[k, :, 0]),
            dims=(*settings.dims, *(["entry"] if several else [])),
            attrs=_PER_STEP,
        )
        for k, name in enumerate(names)
    }
    return _answer(data, settings, worst, nodes)


@recorded("mcnqm.analytic.chain.survival")
@np.errstate(**_QUIET)
def survival(problem: Any, optimizer: Any, batch_size: Any, steps: int, *, record: Any = None) -> xr.Dataset:
    r"""Chance not to have been past the barrier yet, at the recorded steps: the law of the first passage.

    Parameters
    ----------
    problem : DoubleWell
        It begins where its start says; what begins past the barrier has passed at step 0.
    optimizer, batch_size, steps, record
        As in `risk`.

    Returns
    -------
    xarray.Dataset
        ``survival`` (\*sweep, step), with a dimension ``entry`` before ``step`` where coordinates differ.

    Raises
    ------
    ParameterError
        As `occupancy`.

    Examples
    --------
    >>> import mcnqm
    >>> from mcnqm.analytic import chain
    >>> found = chain.survival(mcnqm.DoubleWell(), mcnqm.SGD(lr=0.025), 1, steps=3000, record=[0, 1, 1500, 3000])
    >>> found.survival.round(4).values
    array([1.    , 1.    , 0.0987, 0.0097])
    """
    check_wells(problem)
    settings = chain_settings(optimizer, batch_size)
    at = recorded_steps(steps, record, limit=_MOST_STEPS)
    flat, worst, nodes = np.zeros((settings.size, problem.size, at.size)), 0.0, 0
    for s, _, coordinate, entries in coordinates_of(problem, settings):
        well = _well(coordinate)
        values, error, count = _refined(coordinate, partial(_surviving, at, well))
        flat[s, entries] = values
        worst, nodes = max(worst, error), max(nodes, count)
    several = problem.size > 1
    data = xr.DataArray(
        settings.unflatten(flat if several else flat[:, 0]),
        dims=(*settings.dims, *(["entry"] if several else []), "step"),
        attrs={"units": "1", "long_name": "chance not to have passed the barrier"},
    )
    return _answer({"survival": data}, settings, worst, nodes, at)


# ------------------------------------------------------------------------------------------------------ one coordinate


def _refined(
    coordinate: Coordinate, ask: Callable[[Chain, int], tuple[Array, Any]], settles: bool = False
) -> tuple[Array, float, int]:
    """An answer, its change when the grid was last halved, in the units that come with it, and the nodes."""
    window = window_of(coordinate, settles)
    before, _ = ask(chain_on(coordinate, window, 0), 0)
    for level in range(1, _LEVELS):
        chain = chain_on(coordinate, window, level)
        now, unit = ask(chain, level)
        error = float(np.max(np.abs(now - before) / unit))
        if error <= _TOLERANCE:
            return now, error, chain.x.size
        before = now
    allowed = f"be one at which the quadrature converges: halved {_LEVELS} times, it still changes by {error:.2g}"
    raise ParameterError("lr", coordinate.lr, allowed)


def _along(chain: Chain, level: int, at: NDArray[np.int64], which: int) -> tuple[Array, Any]:
    """Risk (`which` = 0) or chance to be beyond the barrier (1) at steps, with its unit."""
    coordinate = chain.coordinate
    out = np.empty((2, at.size))
    begin, share = start_of(coordinate, level)
    law, done = chain.first_step(begin, share), 1
    lost = max(0.0, 1.0 - float(law.sum()))
    loss = coordinate.loss(chain.x)
    for k, step in enumerate(at.tolist()):
        if step == 0:
            out[:, k] = share @ coordinate.loss(begin), _beyond(coordinate, begin, share)
            continue
        lost += float(law @ chain.out) * (step - done)
        law, done = chain.later(law, step - done), step
        out[:, k] = law @ loss, _beyond(coordinate, chain.x, law)
    if at[-1] > 0 and lost > _LOST:
        low, high = chain.window
        allowed = f"lie in the quadrature's range [{low:.6g}, {high:.6g}], and so that steps stay in it"
        raise ParameterError("initial_mean", coordinate.start[0], allowed)
    return out[which], np.maximum(out[0], 1e-300) if which == 0 else 1.0


def _beyond(coordinate: Coordinate, x: Array, law: Array) -> float:
    return 0.0 if coordinate.barrier is None else float(law[x > coordinate.barrier].sum())


def _settled(chain: Chain, place: Array | None) -> tuple[Array, Any]:
    """Risk, chance to be beyond the barrier, and densities, with their units."""
    law, coordinate = chain.stationary(), chain.coordinate
    out = [float(law @ coordinate.loss(chain.x)), _beyond(coordinate, chain.x, law)]
    if place is not None:
        z = (place[:, np.newaxis] - chain.mean) / chain.spread
        out.extend(np.exp(-0.5 * z * z) @ (law / (chain.spread * np.sqrt(2.0 * np.pi))))
    values = np.array(out)
    unit = np.ones(values.size)
    unit[0], unit[2:] = values[0], np.max(values[2:], initial=0.0) or 1.0
    return values, unit


def _well(coordinate: Coordinate) -> int:
    assert coordinate.barrier is not None
    return int(coordinate.start[0] > coordinate.barrier)


def _inside(chain: Chain, well: int) -> tuple[Chain, Array]:
    """The nodes of a well, and the chance of a step from each to be past the barrier."""
    barrier = chain.coordinate.barrier
    assert barrier is not None
    low, high = chain.window
    if well == 0:
        part = chain.part(chain.x < barrier, (low, barrier))
        return part, ndtr((part.mean - barrier) / part.spread)
    part = chain.part(chain.x > barrier, (barrier, high))
    return part, ndtr((barrier - part.mean) / part.spread)


def _escape_of(well: int, chain: Chain, level: int) -> tuple[Array, Any]:
    part, leave = _inside(chain, well)
    times = banded.absorption_times(part.band.copy(), part.width, leave, part.center)
    # From the minimum itself: one step, and what is left from where that leads.
    begin = np.array([chain.coordinate.minima[well]])
    steps = np.array([1.0 + part.first_step(begin, np.ones(1)) @ times])
    return steps, steps


def _surviving(at: NDArray[np.int64], well: int, chain: Chain, level: int) -> tuple[Array, Any]:
    part, leave = _inside(chain, well)
    barrier = chain.coordinate.barrier
    assert barrier is not None
    begin, share = start_of(chain.coordinate, level)
    inside = begin < barrier if well == 0 else begin > barrier
    law, done = part.first_step(begin[inside], share[inside]), 1
    out = np.empty(at.size)
    for k, step in enumerate(at.tolist()):
        if step == 0:
            out[k] = share[inside].sum()
            continue
        law, done = part.later(law, step - done, leave), step
        out[k] = law.sum()
    return out, 1.0


# ------------------------------------------------------------------------------------------------------------- labels


def _wells(beyond: Array, settings: Any, dims: tuple[str, ...]) -> xr.DataArray:
    both = np.stack([1.0 - beyond, beyond], axis=-1)
    return xr.DataArray(settings.unflatten(both), dims=(*settings.dims, *dims, "well"), attrs=_SHARE)


def _answer(
    data: dict[str, xr.DataArray],
    settings: Any,
    error: float,
    nodes: int,
    at: NDArray[np.int64] | None = None,
) -> xr.Dataset:
    return dataset(data, settings, at).assign_attrs(error=error, nodes=nodes)
