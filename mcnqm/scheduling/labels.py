"""What a search for schedules answers, as a Dataset, and back from a Dataset to an optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mcnqm.errors import ParameterError
from mcnqm.provenance import arguments_of, optimizer_of
from mcnqm.schedules import Schedule, piecewise, stack
from mcnqm.scheduling.pieces import Lengths

__all__ = ["ADAPTIVE", "LINEAR", "SIMULATED", "Best", "Wording", "labeled", "scheduled_optimizer", "schedules_of"]

Array = NDArray[np.float64]
_Attrs = Mapping[str, Mapping[str, str]]


class Best(NamedTuple):
    """The best schedule at one batch size.

    Attributes
    ----------
    lengths : ndarray of int, shape (pieces,)
        Steps of each piece.
    pieces : dict of str to ndarray, shape (pieces,)
        Value of each scheduled hyperparameter.
    values : dict of str to float
        Risks at the end of the run.
    baseline_risk, baseline_steps : dict of str to float
        Of each baseline after as many steps, and the steps that it needs; empty where they were not asked for.
    baseline_stderr : dict of str to float
        Standard errors of the baselines' risks, where these are simulated.
    """

    lengths: Lengths
    pieces: Mapping[str, Array]
    values: Mapping[str, float]
    baseline_risk: Mapping[str, float]
    baseline_steps: Mapping[str, float]
    baseline_stderr: Mapping[str, float] = {}


class Wording(NamedTuple):
    """Which variables an answer has, and what they are called.

    Attributes
    ----------
    pieces, values : mapping of str to attributes
        Of the variables that `Best` has under these names.
    compared : str
        The risk that baselines are held against where no target is given.
    baseline_risk, baseline_steps, gain : str
        Long names.
    """

    pieces: _Attrs
    values: _Attrs
    compared: str
    baseline_risk: str
    baseline_steps: str
    gain: str


_LOSS = {"units": "loss"}

LINEAR = Wording(
    pieces={"lr": {"units": "parameter²/loss"}, "momentum": {"units": "1"}},
    values={
        "risk": {"units": "loss", "long_name": "expected loss after all steps"},
        "largest_risk": {"units": "loss", "long_name": "largest expected loss on the way, the start's included"},
    },
    compared="risk",
    baseline_risk="expected loss after as many steps",
    baseline_steps="fewest steps to the target",
    gain="the baseline's steps (or risk) over ours",
)
"""Of linear optimizers."""

ADAPTIVE = Wording(
    pieces={"lr": {"units": "parameter/step"}},
    values=dict.fromkeys(("risk", "risk_stderr", "unrefined_risk", "unrefined_risk_stderr", "twin_risk"), _LOSS),
    compared="twin_risk",
    baseline_risk="of the twin, after as many steps",
    baseline_steps="fewest steps of the twin",
    gain="the baseline's steps (or the twin's risk) over ours",
)
"""Of adaptive ones."""

SIMULATED = Wording(
    pieces={"lr": {"units": "parameter/step"}},
    values={"risk": {**_LOSS, "long_name": "simulated, on other noise than the search's"}, "risk_stderr": _LOSS},
    compared="risk",
    baseline_risk="simulated after as many steps, on the same noise as the risk",
    baseline_steps="fewest steps to the target, by simulation",
    gain="the baseline's steps (or risk) over ours",
)
"""Of all others."""


def labeled(found: list[Best | None], batch: xr.DataArray, target: float | None, wording: Wording) -> xr.Dataset:
    """What was found at each batch size, as `mcnqm.optimize_schedule` answers; None: the target was not reached."""
    dims = tuple(str(dim) for dim in batch.dims)
    each, along = (*dims, "piece"), (*dims, "baseline")
    most = max([one.lengths.size for one in found if one is not None] + [1])

    def pieces(values: list[Array], fill: float) -> Array:
        rows = [np.concatenate([v, np.full(most - v.size, fill)]) for v in values]
        return np.array(rows).reshape(*batch.shape, most)

    def scalars(values: list[float]) -> Array:
        return np.array(values, dtype=np.float64).reshape(batch.shape)

    lengths = [np.empty(0) if one is None else one.lengths.astype(np.float64) for one in found]
    data: dict[str, Any] = {
        name: (each, pieces([np.empty(0) if one is None else one.pieces[name] for one in found], np.nan), attrs)
        for name, attrs in wording.pieces.items()
    }
    data["length"] = (each, pieces(lengths, 0.0).astype(np.int64), {"units": "steps"})
    before = {"units": "steps", "long_name": "steps done before"}
    data["start"] = (each, pieces([np.cumsum(n) - n for n in lengths], np.nan), before)
    for name, attrs in wording.values.items():
        data[name] = (dims, scalars([np.nan if one is None else one.values[name] for one in found]), attrs)
    data["steps"] = (dims, scalars([float(n.sum()) or np.inf for n in lengths]), {"units": "steps"})
    coords = {str(name): value for name, value in batch.coords.items()}
    if not dims:
        coords["batch_size"] = batch
    names = next((list(one.baseline_risk) for one in found if one is not None), [])
    if not names:
        return xr.Dataset(data, coords=coords)

    def baselines(which: str) -> Array:
        rows = [[np.nan if one is None else getattr(one, which)[name] for name in names] for one in found]
        return np.array(rows).reshape(*batch.shape, len(names))

    risks = baselines("baseline_risk")
    with np.errstate(divide="ignore", invalid="ignore"):  # where standing still is best the risk may be 0
        gain = risks / data[wording.compared][1][..., np.newaxis]
    data["baseline_risk"] = (along, risks, {"units": "loss", "long_name": wording.baseline_risk})
    if any(one is not None and one.baseline_stderr for one in found):
        data["baseline_risk_stderr"] = (along, baselines("baseline_stderr"), _LOSS)
    if target is not None:
        needed = baselines("baseline_steps")
        gain = needed / data["steps"][1][..., np.newaxis]
        data["baseline_steps"] = (along, needed, {"units": "steps", "long_name": wording.baseline_steps})
    data["gain"] = (along, gain, {"units": "1", "long_name": wording.gain})
    return xr.Dataset(data, coords={**coords, "baseline": names})


def scheduled_optimizer(result: xr.Dataset) -> Any:
    """The optimizer of a result of `optimize_schedule`, with its schedules in place of the rate and the momentum.

    Parameters
    ----------
    result : xarray.Dataset
        Of `optimize_schedule`, as returned or read from a file. Of several batch sizes, those that reached the target.

    Returns
    -------
    optimizer
        Ready for `mcnqm.simulate`: of several batch sizes, swept along ``batch_size``.

    Raises
    ------
    ParameterError
        If it is not such a result, or no batch size reached its target.

    Examples
    --------
    >>> import mcnqm
    >>> problem = mcnqm.NoisyQuadratic.power_law(dim=20)
    >>> best = mcnqm.optimize_schedule(problem, mcnqm.SGD(lr=0.1), 4, steps=100, pieces=5)
    >>> optimizer = scheduled_optimizer(best)
    >>> optimizer.lr(0) == float(best.lr[0]), optimizer.lr(99) == float(best.lr[-1])
    (True, True)
    """
    needed = ("lr", "length", "steps")
    if not isinstance(result, xr.Dataset) or "config" not in result.attrs or any(n not in result for n in needed):
        raise ParameterError("result", type(result).__name__, "be what mcnqm.optimize_schedule returns")
    optimizer, given = optimizer_of(result), arguments_of(result)
    dims = [str(dim) for dim in result["steps"].dims]

    def one(at: xr.Dataset, name: str) -> Schedule:
        used = at["length"].values > 0
        return piecewise(at[name].values[used], at["length"].values[used].astype(np.int64))

    names = ["lr"] + (["momentum"] if given.get("tune_momentum") else [])
    reached = np.isfinite(result["steps"].values)
    if not reached.any():
        raise ParameterError("result", result["steps"].values, "have reached its target somewhere")
    if not dims:
        return optimizer._replace(**{name: one(result, name) for name in names})
    (dim,) = dims
    found = {}
    for name in names:
        labels = result[dim].values if dim in result.coords else np.arange(result.sizes[dim])
        curves = {np.asarray(labels[k]).item(): one(result.isel({dim: k}), name) for k in np.flatnonzero(reached)}
        found[name] = stack(curves, dim=dim)
    return optimizer._replace(**found)


def schedules_of(result: xr.Dataset) -> Any:
    """Deprecated name of `scheduled_optimizer`."""
    warnings.warn("mcnqm.schedules_of is now mcnqm.scheduled_optimizer", DeprecationWarning, stacklevel=2)
    return scheduled_optimizer(result)
