"""Where the `mcnqm` command starts: signals are taken care of before the imports, which take a second or two.

This is no part of the package `mcnqm`, since to import a part of it is to import all of it first.
"""

import os
import signal
import sys

__all__ = ["main"]


def _end(number, frame):  # type: ignore[no-untyped-def]
    """Nothing has been begun, so there is nothing to clean up."""
    if sys.stderr is not None:
        os.write(2, b"Interrupted; no result was written.\n")
    os._exit(128 + number)


def main() -> None:
    """Run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in a shell's background job, and after nohup
            signal.signal(number, _end)
    try:
        from mcnqm.cli import main as run  # noqa: PLC0415 - signals first
    except ImportError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(70)
    run()
