"""The `mcnqm` command and what its subcommands share: errors in one line, interruption without a traceback."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from mcnqm._version import __version__
from mcnqm.cli.scaling import scaling_command
from mcnqm.cli.schedule import schedule_command
from mcnqm.cli.simulate import simulate_command
from mcnqm.cli.verify import verify_command
from mcnqm.errors import ParameterError

__all__ = ["app", "main"]

_INTERRUPTED = 130
"""Exit code of a process ended by Ctrl-C, by convention 128 + SIGINT."""

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

    * mcnqm verify

      every linear optimizer, simulation against theory
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit


app.command("simulate")(simulate_command)
app.command("scaling")(scaling_command)
app.command("schedule")(schedule_command)
app.command("verify")(verify_command)


def main() -> None:
    """Run the command line; the process ends with 0, 2 for bad input, 130 when interrupted."""
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        code = app(standalone_mode=False)
    except ParameterError as error:
        stderr.print(f"[red]Error:[/red] {_plain(str(error))}")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        # Usage errors of the parser: typer may carry its own copy of click, so they are known by what they do.
        if not hasattr(error, "format_message"):
            raise
        stderr.print(f"[red]Error:[/red] {_plain(error.format_message())}")
        code = getattr(error, "exit_code", 2)
    if code == _INTERRUPTED:  # where typer itself turns Ctrl-C into this code, no exception gets here
        stderr.print("Interrupted; no result was written.")
    sys.exit(code)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
