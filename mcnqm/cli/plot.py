"""`mcnqm plot`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import xarray as xr

from mcnqm.cli.outputs import Force, check_outputs, deliver
from mcnqm.errors import ParameterError
from mcnqm.plots import VIEWS
from mcnqm.plots.wording import coordinate

__all__ = ["check_view", "plot_command"]

_STUDIES = {
    "mcnqm.studies.scaling.run": "scaling",
    "mcnqm.studies.schedules.run": "schedules",
    "mcnqm.studies.batch_growth.run": "batch-growth",
    "mcnqm.studies.mean_field.run": "mean-field",
}


def plot_command(
    file: Annotated[Path, typer.Argument(help="A saved result (netCDF, .nc).", show_default=False)],
    output: Annotated[Path, typer.Option(help="Draw it here (.png, .pdf, .svg).", show_default=False)],
    view: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(VIEWS)}. Default: of a study its own, else risk.", show_default=False),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Only the setting nearest to this value, such as lr=0.1, or with this label; repeat for several.",
        ),
    ] = None,
    x: Annotated[str | None, typer.Option(help="Of a heatmap: what goes across.")] = None,
    y: Annotated[str | None, typer.Option(help="Of a heatmap: what goes up.")] = None,
    force: Force = False,
) -> None:
    """Draw a saved result.

    ensemble and distribution show single losses (with the exact law, of a linear optimizer), paths and phase the
    parameters of recorded coordinates, state Adam's effective rates, heatmap the risk over two swept dimensions, risk
    the risk against steps.
    """
    if view is not None:
        check_view(view)
    check_outputs(None, output, force, called="output")
    result = _read(file)
    for text in select or []:
        result = _selected(result, text)
    name = _default_view(result) if view is None else view
    options = {key: value for key, value in (("x", x), ("y", y)) if value is not None}
    if options and name != "heatmap":
        key, value = next(iter(options.items()))
        raise ParameterError(key, value, "be given with --view heatmap alone")
    figure = VIEWS[name](result, **options)  # before anything is written
    deliver(result, None, output, lambda _: figure, _nothing)


def check_view(name: str) -> None:
    """Raise `ParameterError` if there is no view of this name.

    Examples
    --------
    >>> check_view("ensemble")
    >>> check_view("ensembel")
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: view must be one of ensemble, paths, ..., got 'ensembel'
    """
    if name not in VIEWS:
        raise ParameterError("view", name, f"be one of {', '.join(VIEWS)}")


def _nothing(result: xr.Dataset, console: Any) -> None:
    """Of a picture there is no table."""


def _read(file: Path) -> xr.Dataset:
    try:
        with xr.open_dataset(file, engine="scipy") as opened:
            return opened.load()
    except OSError as error:
        raise ParameterError("file", str(file), f"be readable ({error.strerror or error})") from None
    except (TypeError, ValueError, IndexError, KeyError):  # what SciPy raises for other bytes
        raise ParameterError("file", str(file), "be a result that mcnqm saved (netCDF)") from None


def _default_view(result: xr.Dataset) -> str:
    config = json.loads(result.attrs.get("config", "{}"))
    return _STUDIES.get(config.get("function", ""), "risk")


def _selected(result: xr.Dataset, text: str) -> xr.Dataset:
    name, equals, value = text.partition("=")
    dims = [str(dim) for dim in result.dims if dim == name or coordinate(result, str(dim)).name == name]
    if not equals or not dims:
        raise ParameterError(
            "select", text, f"look like NAME=VALUE, with NAME among {', '.join(map(str, result.dims))}"
        )
    label = coordinate(result, dims[0])
    if label.dtype.kind in "iuf":
        try:
            place = int(abs(label.values - float(value)).argmin())
        except ValueError:
            raise ParameterError("select", text, f"give a number for {name}") from None
    else:
        names = [str(one) for one in label.values]
        if value not in names:
            raise ParameterError("select", text, f"name one of {', '.join(names)}")
        place = names.index(value)
    return result.isel({dims[0]: place})
