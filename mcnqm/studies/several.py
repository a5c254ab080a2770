"""A scaling study at several targets, or of several problems, as one Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from mcnqm.checkpoint import Checkpoint
from mcnqm.domains import positive
from mcnqm.engine import Pool
from mcnqm.errors import ParameterError
from mcnqm.problems import Problem
from mcnqm.progress import Meter, NoMeter, PartMeter
from mcnqm.provenance import recorded
from mcnqm.settings import check_distinct
from mcnqm.studies.chains import safe_name
from mcnqm.studies.scaling import ScalingConfig, cells_of, run

__all__ = ["ALONG", "Parts", "configs_of", "members", "run_each"]

ALONG = ("problem", "target")
"""Dimensions along which studies are laid side by side."""


class Parts:
    """Checkpoints of all the studies, each in a folder of its own within one; a context manager, as each is.

    Parameters
    ----------
    folder : path
    configs : mapping of str to ScalingConfig
        As from `configs_of`.
    """

    def __init__(self, folder: str | Path, configs: Mapping[str, ScalingConfig]) -> None:
        self.folder = Path(folder)
        self._configs = configs
        self._opened: dict[str, Checkpoint] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Parts:
        with ExitStack() as stack:
            for name, config in self._configs.items():
                self._opened[name] = stack.enter_context(Checkpoint(self.folder / name, config.to_dict()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> Checkpoint:
        return self._opened[name]

    def remove(self) -> None:
        """Remove what is ours: the cells of all studies, and folders that are empty then."""
        for name, config in self._configs.items():
            self._opened[name].remove(cells_of(config))
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


@recorded("mcnqm.studies.several.run_each", ScalingConfig)
def run_each(
    config: ScalingConfig | None = None,
    *,
    targets: Sequence[float] | None = None,
    problems: Mapping[str, Problem] | None = None,
    checkpoint: str | Path | Parts | None = None,
    executor: Executor | None = None,
    threads: int | None = None,
    meter: Meter | None = None,
) -> xr.Dataset:
    """Carry out a scaling study for each target and each problem.

    Parameters
    ----------
    config : ScalingConfig, optional
        What all have in common; by default as for `mcnqm.studies.scaling.run`.
    targets : sequence of float, optional
        Risks to reach, instead of the configuration's.
    problems : mapping of str to problem, optional
        Label to problem, instead of the configuration's. At least one of `targets` and `problems` must be given.
    checkpoint : path, optional
        Folder for finished cells, in a folder of its own for each study.
    executor, threads, meter
        As for `mcnqm.studies.scaling.run`. The meter's unit is a study.

    Returns
    -------
    xarray.Dataset
        As from `mcnqm.studies.scaling.run`, with the dimensions ``problem`` and ``target`` in front, of those that were
        given. Each study is, to the bit, what it would be alone.

    Raises
    ------
    ParameterError
        As for `mcnqm.studies.scaling.run`; or if neither is given, or a target twice.

    Examples
    --------
    >>> from mcnqm import SGD, NoisyQuadratic
    >>> from mcnqm.studies.contenders import Contender
    >>> config = ScalingConfig(NoisyQuadratic.power_law(30), {"sgd": Contender(SGD(lr=1.0))}, batch_sizes=(64, 256))
    >>> study = run_each(config, targets=[0.2, 0.1])
    >>> study.steps.dims, bool((study.steps.sel(target=0.1) > study.steps.sel(target=0.2)).all())
    (('target', 'optimizer', 'batch_size'), True)
    """
    common = ScalingConfig() if config is None else config
    configs = configs_of(common, targets, problems)
    Pool(executor, threads)  # refused before there is a folder
    running = {"executor": executor, "threads": threads}
    meter = NoMeter() if meter is None else meter
    if isinstance(checkpoint, (str, Path)):
        with Parts(checkpoint, configs) as opened:
            studies = _run_all(configs, opened, running, meter)
    else:
        studies = _run_all(configs, checkpoint, running, meter)
    dims: dict[str, list[Any]] = {
        "problem": list(problems or ()),
        "target": [float(target) for target in targets or ()],
    }
    return _side_by_side(studies, {dim: labels for dim, labels in dims.items() if labels})


def configs_of(
    config: ScalingConfig, targets: Sequence[float] | None, problems: Mapping[str, Problem] | None
) -> dict[str, ScalingConfig]:
    """The configuration of each study, by a name that is fit for a folder; problem by problem.

    Examples
    --------
    >>> list(configs_of(ScalingConfig(), [0.01, 0.1], None))
    ['target-0.01', 'target-0.1']
    """
    if targets is None and problems is None:
        raise ParameterError("targets, problems", None, "be given, one of them at least")
    if problems is not None and (not isinstance(problems, Mapping) or not problems):
        raise ParameterError("problems", problems, 'look like {"d = 100": problem, ...}')
    if targets is not None:
        values = positive.check("targets", targets)
        if values.ndim != 1 or not values.size:
            raise ParameterError("targets", targets, "be a list of numbers")
        check_distinct("targets", values)
    found: dict[str, ScalingConfig] = {}
    for label, problem in (problems or {"": config.problem}).items():
        for target in [config.target] if targets is None else targets:
            parts = [f"problem-{label}"] if problems else []
            parts += [] if targets is None else [f"target-{target!r}"]
            name = safe_name("-".join(parts))
            if name in found:
                allowed = "have labels that differ in their letters, digits, '-', '_' or '.': folders are named by them"
                raise ParameterError("problems", list(problems or ()), allowed)
            found[name] = replace(config, problem=problem, target=float(target))
    return found


def _run_all(
    configs: Mapping[str, ScalingConfig], parts: Parts | None, running: Mapping[str, Any], meter: Meter
) -> list[xr.Dataset]:
    meter.start(float(len(configs)), "scaling")
    try:
        return [
            run(one, checkpoint=None if parts is None else parts[name], meter=PartMeter(meter), **running)
            for name, one in configs.items()
        ]
    finally:
        meter.close()


def _side_by_side(studies: list[xr.Dataset], dims: Mapping[str, list[Any]]) -> xr.Dataset:
    """One Dataset of all; attributes in which they differ become coordinates."""
    shared = {key: value for key, value in studies[0].attrs.items() if key not in ("config", "problem", "target")}
    differing = [key for key in shared if any(one.attrs.get(key) != shared[key] for one in studies)]
    flat = [
        one.assign_coords({key: one.attrs[key] for key in differing}).drop_attrs(deep=False) if differing else one
        for one in studies
    ]
    rows = flat
    for dim in reversed(list(dims)):
        width = len(dims[dim])
        rows = [
            xr.concat(
                rows[k : k + width], dim=xr.DataArray(dims[dim], dims=dim, name=dim), join="exact", combine_attrs="drop"
            )
            for k in range(0, len(rows), width)
        ]
    (whole,) = rows
    kept = {key: value for key, value in shared.items() if key not in differing}
    return whole.assign_attrs({**kept, **({} if "target" in dims else {"target": studies[0].attrs["target"]})})


def members(study: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """The studies of a Dataset of several, each as it would be alone, with a text that tells which it is.

    Examples
    --------
    >>> [text for text, _ in members(xr.Dataset({"steps": ("target", [9.0, 5.0])}, coords={"target": [0.1, 0.2]}))]
    ['target 0.1', 'target 0.2']
    """
    dims = [dim for dim in ALONG if dim in study.dims]
    stacked = study.stack({"study": dims}, create_index=False) if dims else study.expand_dims("study")
    found = []
    for k in range(stacked.sizes["study"]):
        one = stacked.isel(study=k)
        facts = {str(name): one[name].item() for name in one.coords if one[name].ndim == 0}
        text = ", ".join(f"{dim} {facts[dim]:g}" if dim == "target" else f"{facts[dim]}" for dim in dims)
        found.append((text, one.drop_vars(list(facts)).assign_attrs({**one.attrs, **facts})))
    return found
