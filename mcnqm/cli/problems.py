"""Options that make a problem, the same in every command."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from mcnqm.cli.curves import parse_numbers, words_of
from mcnqm.cli.imports import imported
from mcnqm.domains import integer, nonnegative
from mcnqm.errors import ParameterError
from mcnqm.problems import DoubleWell, Landscape, NoisyQuadratic, Problem, QuarticWell

__all__ = [
    "Dim", "Exponent", "InitialStd", "LandscapeSpec", "NoiseDf", "NoiseExponent", "NoiseSlope", "Spectrum",
    "any_problem_of", "parse_landscape", "problem_of", "read_spectrum",
]  # fmt: skip

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
NoiseSlope = Annotated[
    float | None,
    typer.Option(
        help="How fast noise rises with the parameter: per-example variance c + s θ², s = SLOPE × h.  [default: 0.0]",
        show_default=False,
    ),
]
NoiseDf = Annotated[
    float | None,
    typer.Option(help="Student's t noise with so many degrees of freedom, > 2. Default: Gaussian.", show_default=False),
]
LandscapeSpec = Annotated[
    str | None,
    typer.Option(
        "--landscape",
        metavar="SPEC",
        help='Instead of a quadratic: "double_well noise=2 start=wide dim=10", "quartic_well quartic=2", or your own '
        "as module:Class. A value may be a list, one number per coordinate.",
        show_default=False,
    ),
]

_LANDSCAPES: dict[str, Any] = {"double_well": DoubleWell, "quartic_well": QuarticWell}


def problem_of(
    default_dim: int,
    dim: int | None,
    exponent: float | None,
    noise_exponent: float | None,
    initial_std: float | None,
    spectrum: Path | None,
    noise_slope: float | None = None,
    noise_df: float | None = None,
) -> NoisyQuadratic:
    """The quadratic that the options of a command describe."""
    std: dict[str, Any] = {} if initial_std is None else {"initial_std": initial_std}
    if spectrum is None:
        n = integer("dim", default_dim if dim is None else dim, 1)
        plain = NoisyQuadratic.power_law(n, 1.0 if exponent is None else exponent, noise_exponent=noise_exponent, **std)
    else:
        for name, value in (("dim", dim), ("exponent", exponent), ("noise_exponent", noise_exponent)):
            if value is not None:
                raise ParameterError(name, value, "be left out with --spectrum, which says it")
        columns: dict[str, Any] = dict(read_spectrum(spectrum))
        if std and "initial_std" in columns:
            raise ParameterError("initial_std", initial_std, "be left out where the file of --spectrum has it")
        plain = NoisyQuadratic(**{**columns, **std})
    if noise_slope is None and noise_df is None:
        return plain
    slope = float(nonnegative.check("noise_slope", 0.0 if noise_slope is None else noise_slope))
    return NoisyQuadratic(
        plain.curvature,
        plain.noise,
        plain.initial_mean,
        plain.initial_std,
        multiplicative_noise=slope * plain.curvature,
        noise_df=noise_df,
    )


def any_problem_of(
    landscape: str | None,
    default_dim: int,
    dim: int | None,
    exponent: float | None,
    noise_exponent: float | None,
    initial_std: float | None,
    spectrum: Path | None,
    noise_slope: float | None,
    noise_df: float | None,
) -> Problem:
    """The problem that the options of a command describe, where it may be a landscape."""
    if landscape is None:
        return problem_of(default_dim, dim, exponent, noise_exponent, initial_std, spectrum, noise_slope, noise_df)
    others = {
        "dim": dim, "exponent": exponent, "noise_exponent": noise_exponent, "initial_std": initial_std,
        "spectrum": spectrum, "noise_slope": noise_slope, "noise_df": noise_df,
    }  # fmt: skip
    for name, value in others.items():
        if value is not None:
            raise ParameterError(name, value, "be left out with --landscape, which is no quadratic")
    return parse_landscape(landscape)


def parse_landscape(text: str) -> Problem:
    """A landscape from its name and ``field=value`` pairs; ``module:Class`` imports one of your own.

    Examples
    --------
    >>> parse_landscape("double_well start=wide dim=2").dim
    2
    >>> parse_landscape("double_well depth=1")
    Traceback (most recent call last):
        ...
    mcnqm.errors.ParameterError: landscape must have fields among sharp, wide, ..., got 'double_well depth=1'
    """
    words = words_of(text)
    if not words:
        raise ParameterError("landscape", text, 'look like "double_well noise=12 start=sharp"')
    kind = _kind_of(words[0])
    if isinstance(kind, Problem) and not words[1:]:
        return kind
    fields = _fields_of(kind)
    values: dict[str, Any] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals or name not in fields:
            raise ParameterError("landscape", text, f"have fields among {', '.join(fields)}")
        if name in values:
            raise ParameterError("landscape", text, f"give {name} once")
        values[name] = _value(name, value)
    missing = [name for name, needed in fields.items() if needed and name not in values]
    if missing:
        raise ParameterError("landscape", text, f"give {', '.join(missing)}")
    made: Problem = kind(**values)
    return made


def _kind_of(name: str) -> Any:
    """A class of landscapes, or a problem that a module holds ready."""
    if ":" not in name:
        if name not in _LANDSCAPES:
            raise ParameterError("landscape", name, f"be one of {', '.join(_LANDSCAPES)} or module:Class")
        return _LANDSCAPES[name]
    found = imported("landscape", name)
    if not (isinstance(found, Problem) or (isinstance(found, type) and issubclass(found, Landscape))):
        raise ParameterError("landscape", name, "be made with mcnqm.landscape")
    return found


def _fields_of(kind: Any) -> dict[str, bool]:
    """What a class of landscapes can be given, and whether it must be."""
    if isinstance(kind, Problem):
        return {}
    named = inspect.signature(kind).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = {one.name: one.default is one.empty for one in named if one.kind in plain}
    if any(one.kind is one.VAR_KEYWORD for one in named):  # the numbers of its NamedTuple
        defaults = kind.Numbers._field_defaults
        return {name: name not in defaults for name in kind.Numbers._fields} | own
    return own


def _value(name: str, text: str) -> Any:
    """A number or several, whole where they are; or, of a start, the name of a well."""
    if name == "start" and text.isidentifier() and text not in ("inf", "nan"):
        return text
    numbers = np.asarray(parse_numbers(name, text))
    whole = name in ("dim", "multiplicity") and bool((numbers == np.floor(numbers)).all())
    return (numbers.astype(np.int64) if whole else numbers)[()]


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
