"""What a word ``module:name`` of the command line stands for."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from mcnqm.errors import ParameterError

__all__ = ["imported"]


def imported(option: str, text: str) -> Any:
    """The object that ``module:name`` names; a module in the current directory is found, too.

    Raises
    ------
    ParameterError
        Under the name of the `option`, with the reason.
    """
    module, _, attribute = text.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:  # `python -m` has it, an installed script does not
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a module may raise anything as it is imported
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ParameterError(option, text, f"be importable ({why})") from None
