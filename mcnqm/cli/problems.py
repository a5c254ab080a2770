"""Options that make a problem, the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from mcnqm.domains import integer
from mcnqm.errors import ParameterError
from mcnqm.problems import NoisyQuadratic

__all__ = ["Dim", "Exponent", "InitialStd", "NoiseExponent", "Spectrum", "problem_of", "read_spectrum"]

_COLUMNS = ("curvature", "noise", "initial_mean", "initial_std")

Dim = Annotated[int | None, typer.Option("--dim", "-d", help="Coordinates; the paper has 10000.", show_default=False)]
Exponent = Annotated[float | None, typer.Option(help="Spectrum h = i**-exponent.  [default: 1.0]", show_default=False)]
NoiseExponent = Annotated[
    float | None, typer.Option(help="Noise c = i**-exponent. Default: as the spectrum, c = h.", show_default=False)
]
InitialStd = Annotated[
    float | None, typer.Option(help="Standard deviation of the start, about 0.  [default: 1.0]", show_default=False)
]
Spectrum = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Instead of a power law: a measured spectrum (.csv, .txt, .npy), one line per coordinate, in columns "
        "curvature, noise, initial_mean, initial_std, or the first one or two of them.",
        show_default=False,
    ),
]


def problem_of(
    default_dim: int,
    dim: int | None,
    exponent: float | None,
    noise_exponent: float | None,
    initial_std: float | None,
    spectrum: Path | None,
) -> NoisyQuadratic:
    """The problem that the options of a command describe."""
    std: dict[str, Any] = {} if initial_std is None else {"initial_std": initial_std}
    if spectrum is None:
        n = integer("dim", default_dim if dim is None else dim, 1)
        return NoisyQuadratic.power_law(n, 1.0 if exponent is None else exponent, noise_exponent=noise_exponent, **std)
    for name, value in (("dim", dim), ("exponent", exponent), ("noise_exponent", noise_exponent)):
        if value is not None:
            raise ParameterError(name, value, "be left out with --spectrum, which says it")
    columns: dict[str, Any] = dict(read_spectrum(spectrum))
    if std and "initial_std" in columns:
        raise ParameterError("initial_std", initial_std, "be left out where the file of --spectrum has it")
    return NoisyQuadratic(**{**columns, **std})


def read_spectrum(path: Path) -> dict[str, NDArray[np.float64]]:
    """Columns of a file of numbers, by name.

    Parameters
    ----------
    path : Path
        ``.npy``, or lines of text with numbers between commas or blanks; the first line may name the columns, and what
        follows a ``#`` is left out.

    Returns
    -------
    dict of str to ndarray
        ``curvature``, or that and ``noise``, or these and ``initial_mean`` and ``initial_std``.

    Raises
    ------
    ParameterError
        If there is no such file, or it holds something else. What no problem may be, `NoisyQuadratic` refuses.
    """
    allowed = f"be a file of numbers, in 1, 2 or 4 columns ({', '.join(_COLUMNS)})"
    names: tuple[str, ...] = ()
    try:
        if path.suffix.lower() == ".npy":
            table = np.load(path, allow_pickle=False)
        elif path.suffix.lower() in (".csv", ".txt"):
            names, table = _text(path)
        else:
            raise ParameterError("spectrum", str(path), "end in .csv, .txt or .npy")
    except OSError as error:
        raise ParameterError("spectrum", str(path), f"be readable ({error.strerror or error})") from None
    except (ValueError, EOFError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError("spectrum", str(path), f"{allowed}: {error}") from None
    table = np.asarray(table)
    if table.ndim == 1:
        table = table[:, np.newaxis]
    names = names or _COLUMNS[: table.shape[1] if table.ndim == 2 else 0]
    if table.dtype.kind not in "iuf" or table.ndim != 2 or table.size == 0 or table.shape[1] != len(names):
        raise ParameterError("spectrum", str(path), allowed)
    if sorted(names) not in (sorted(_COLUMNS[:k]) for k in (1, 2, 4)):
        raise ParameterError("spectrum", str(path), allowed)
    return {name: table[:, k].astype(np.float64) for k, name in enumerate(names)}


def _text(path: Path) -> tuple[tuple[str, ...], Any]:
    lines = [line.partition("#")[0].replace(",", " ").split() for line in path.read_text("utf-8").splitlines()]
    rows = [line for line in lines if line]
    names: tuple[str, ...] = ()
    if rows and set(rows[0]) <= set(_COLUMNS):
        names, rows = tuple(rows[0]), rows[1:]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("lines differ in length")
    return names, np.array([[float(word) for word in row] for row in rows])
