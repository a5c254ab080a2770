"""The command line: parse, call a study, save, draw."""

from mcnqm.cli.app import main

__all__ = ["main"]
