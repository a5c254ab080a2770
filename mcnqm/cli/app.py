"""The `mcnqm` command and what its subcommands share: errors in one line, interruption without a traceback."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from typing import Any

import typer
from rich.console import Console

from mcnqm._version import __version__
from mcnqm.cli.claims import claims_command
from mcnqm.cli.interrupts import EXIT_CODES, Signals, said_on_interruption
from mcnqm.cli.outputs import Undelivered, written
from mcnqm.cli.plot import plot_command
from mcnqm.cli.reproduce import reproduce_command
from mcnqm.cli.scaling import scaling_command
from mcnqm.cli.schedule import schedule_command
from mcnqm.cli.simulate import simulate_command
from mcnqm.cli.study import study_command
from mcnqm.cli.terminal import forgiving_streams
from mcnqm.cli.verify import verify_command
from mcnqm.errors import ParameterError

__all__ = ["app", "main"]

BAD_INPUT, CRASH, NO_MEMORY, CANNOT_WRITE = 2, 70, 71, 74
"""Exit codes, the last three by the convention of sysexits.h; 1 is a finding, that simulation and theory disagree."""

app = typer.Typer(
    name="mcnqm",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True),
) -> None:
    """Real optimizers on the noisy quadratic model.

    A minibatch of B examples gives the gradient h θ + sqrt(c / B) z in every coordinate, with fresh normals z; the
    loss is the sum of h θ² / 2, and by default h = c = 1, 1/2, 1/3, ... (Zhang et al. 2019). mcnqm runs SGD,
    momentum, Adam and others on it, many trajectories at once, and reports the risk (the expected loss) with
    standard errors.

    Start here:

    * mcnqm simulate

      SGD, momentum and Adam side by side, d = 1000

    * mcnqm simulate --figure risk.png --output runs.nc

      the same, drawn and saved

    * mcnqm simulate -o "adam lr=1e-4:1e-2:9" -b 64

      Adam at nine learning rates, log-spaced

    * mcnqm scaling --figure scaling.png

      the best learning rate and the steps to a target against batch size

    * mcnqm schedule --figure schedule.png

      the learning-rate schedule that gets there in the fewest steps

    * mcnqm study minima --quick --figure minima.png

      which of two minima SGD holds; also: regimes, line-search

    * mcnqm plot runs.nc --view ensemble --output ensemble.png

      a saved result as a picture: single losses, their bands, the exact law

    * mcnqm claims

      what the literature says of this model, measured, each with a verdict

    * mcnqm reproduce

      the figures of the paper, drawn again

    * mcnqm verify

      every linear optimizer and kind of problem, simulation against theory
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit


app.command("simulate")(simulate_command)
app.command("scaling")(scaling_command)
app.command("schedule")(schedule_command)
app.command("study")(study_command)
app.command("plot")(plot_command)
app.command("claims")(claims_command)
app.command("reproduce")(reproduce_command)
app.command("verify")(verify_command)


def main() -> None:
    """Run the command line and end the process with one of the exit codes in `docs/troubleshooting.md`."""
    with forgiving_streams() as out:
        with warnings.catch_warnings(), Signals(_explain_interruption) as signals:
            warnings.showwarning = _note
            code = _run(signals)
        out.flush()
        if out.failure is not None:
            _say(f"[red]Error:[/red] standard output: {_plain(out.failure.strerror or str(out.failure))}")
            code = code or CANNOT_WRITE
    if signals.code is not None:
        # The interpreter would wait for threads that compile, and another Ctrl-C would meet it without our handler.
        os._exit(code)
    sys.exit(code)


def _run(signals: Signals) -> int:
    """Run a command and say how it ended."""
    said_on_interruption.clear()
    written.clear()
    try:
        code = app(standalone_mode=False)
    except ParameterError as error:
        _say(f"[red]Error:[/red] {_plain(str(error))}")
        code = BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        code = signals.code or EXIT_CODES[signal.SIGINT]
    except Undelivered as error:
        for what, reason in error.failures:
            _say(f"[red]Error:[/red] {_plain(f'{what}: {_worded(reason)}')}")
        code = max(map(_code_of, (reason for _, reason in error.failures)))
    except Exception as error:
        # Usage errors of the parser: typer may carry its own copy of click, so they are known by what they do.
        if hasattr(error, "format_message"):
            _say(f"[red]Error:[/red] {_plain(error.format_message() + _given(error))}")
            code = getattr(error, "exit_code", BAD_INPUT)
        else:
            code = _code_of(error)
            if code == CRASH:
                traceback.print_exc()
            _say(f"[red]Error:[/red] {_plain(_worded(error))}")
            for line in said_on_interruption:
                _say(_plain(line))
    if signals.code is not None:
        code = signals.code
    if code in EXIT_CODES.values():  # where typer itself turns Ctrl-C into this code, no exception gets here
        _explain_interruption()
    return int(code or 0)


def _explain_interruption() -> None:
    for line in said_on_interruption:
        _say(_plain(line))
    files = ", ".join(map(str, written))
    _say(_plain(f"Interrupted; {files} had been written." if files else "Interrupted; no result was written."))


def _given(error: Any) -> str:
    """The value that the parser refused, as it was typed, where its message does not say it."""
    names = getattr(getattr(error, "param", None), "opts", [])
    words = sys.argv[1:]
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in names or (word[:2] in names and word[:2] != "--"):
            value = value if equals else after if word in names else word[2:]
            return "" if repr(value) in error.format_message() else f" (got {value!r})"
    return ""


def _code_of(error: Exception) -> int:
    if isinstance(error, MemoryError):
        return NO_MEMORY
    return CANNOT_WRITE if isinstance(error, OSError) else CRASH


def _worded(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "the machine has too little memory for this"
    text = str(error)
    if isinstance(error, OSError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _note(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """A warning in one line, in place of Python's two with a place in the source."""
    _say(_plain(f"Note: {message}"))


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
