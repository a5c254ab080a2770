"""How a state today decides a state later: the powers of the linear map, in the units of θ and the buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.analytic._labels import check_answer, dataset, selection
from mcnqm.analytic.linear.maps import linear_settings
from mcnqm.analytic.linear.scheduled import V0, V1, VA, Walk, scheduled_settings
from mcnqm.domains import integer
from mcnqm.problems import NoisyQuadratic, check_problem
from mcnqm.provenance import recorded
from mcnqm.settings import Settings

__all__ = ["transition"]


@recorded("mcnqm.analytic.transition")
def transition(
    problem: NoisyQuadratic,
    optimizer: Any,
    batch_size: Any,
    steps: int,
    *,
    coordinates: Any = None,
    average: Any = None,
) -> xr.Dataset:
    r"""Linear map from (θ, m), and an average, at any step to its conditional mean `steps` later: :math:`A^t`.

    With :math:`s = (\theta, m)`: :math:`E[s_{k+t} \mid s_k] = A^t s_k`, and
    :math:`\operatorname{Cov}(s_{k+t}, s_k) = A^t \operatorname{Cov}(s_k)`.

    Parameters
    ----------
    problem : NoisyQuadratic
    optimizer : SGD
        Any linear optimizer. Hyperparameters may be swept; with schedules or dampening, under which steps differ, it is
        the map of the first ones.
    batch_size : Number
        Broadcast along; the map does not depend on it.
    steps : int
        t >= 0.
    coordinates : sequence of int, optional
        Which coordinates of the expanded problem. The default is all.
    average : Number, optional
        Weight of the past in an average of the iterates, or a schedule of it, as in `mcnqm.analytic.risk`.

    Returns
    -------
    xarray.Dataset
        ``transition`` (\*sweep, coordinate, to, of), with labels ``theta``, where the optimizer has a momentum buffer
        (torch's: a sum of gradients) ``momentum``, and with `average` ``average``.

    Raises
    ------
    ParameterError
        If the optimizer is not linear, `steps` is negative or a coordinate does not exist.

    Notes
    -----
    Plain double arithmetic by repeated squaring: the relative error grows like `steps` times 1e-16. It is
    independent of the arithmetic behind `moments`, which it can therefore check.

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic, analytic
    >>> problem = NoisyQuadratic(curvature=[1.0, 0.5])
    >>> analytic.transition(problem, SGD(lr=0.5), 1, steps=2).transition.values.ravel()
    array([0.25  , 0.5625])
    """
    check_problem(problem)
    t = integer("steps", steps, 0)
    settings = linear_settings(optimizer, batch_size, average, schedules=True)
    wanted = selection(problem, coordinates)
    check_answer(settings, coordinates=wanted.size, variables=4 if average is None else 9)
    entry = np.repeat(np.arange(problem.size), problem.multiplicity)
    h = problem.curvature[entry[wanted]]
    values = {name: array[:, np.newaxis] for name, array in settings.values.items()}
    rate, beta = values["lr"] * h ** -values["precondition"], values["momentum"]
    pull = h + values["weight_decay"]
    buffer = bool(np.any(beta != 0))
    nothing = np.zeros_like(beta)
    ahead = beta if optimizer.nesterov else nothing
    # θ' = θ - α (g + n (β m' - ..)): heavy ball moves by m' = β m + g, Nesterov by g + β m'.
    reach = -rate * (beta if not optimizer.nesterov else beta**2)
    entries = [[1.0 - rate * (1.0 + ahead) * pull, reach, nothing], [pull, beta, nothing]]
    # Of the states there are, θ, m and θ̄, those that this optimizer has.
    kept = [0, *([1] if buffer else []), *([2] if average is not None else [])]
    names = [("theta", "momentum", "average")[i] for i in kept]
    size = len(names)
    if settings.schedules or np.any(settings.values["dampening"] > 0):
        power = _scheduled(problem, optimizer, settings, kept, t)[:, entry[wanted]]
        return _labelled(power, settings, wanted, names)
    if average is not None:
        gamma = values["average"]
        entries.append([(1.0 - gamma) * entries[0][0], (1.0 - gamma) * entries[0][1], gamma])
    matrix = np.empty((settings.size, h.size, size, size))
    for i in range(size):
        for j in range(size):
            matrix[..., i, j] = entries[kept[i]][kept[j]]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        power = np.linalg.matrix_power(matrix, t)
    return _labelled(power, settings, wanted, names)


def _scheduled(
    problem: NoisyQuadratic, optimizer: Any, settings: Settings, kept: list[int], t: int
) -> NDArray[np.float64]:
    """The map of the first `t` steps where they differ, shape (settings, entries, to, of): what starts turn into."""
    power = np.empty((settings.size, problem.size, len(kept), len(kept)))
    for members, setting in scheduled_settings(settings, optimizer.nesterov, 1 in kept):
        for j, of in enumerate(kept):
            start = (float(of == 0), float(of == 1), float(of == 2))
            state = Walk(problem, setting, start).states(np.array([t]))[0]
            power[members, :, :, j] = state[np.array([V0, V1, VA])[kept]].T
    return power


def _labelled(
    power: NDArray[np.float64],
    settings: Settings,
    wanted: NDArray[np.int64],
    names: list[str],
) -> xr.Dataset:
    data = xr.DataArray(
        settings.unflatten(power), dims=(*settings.dims, "coordinate", "to", "of"), attrs={"long_name": "A^t"}
    )
    result = dataset({"transition": data}, settings)
    return result.assign_coords(coordinate=("coordinate", wanted), to=names, of=names)
