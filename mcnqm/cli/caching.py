"""Folders of finished parts of long commands, one for each configuration."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mcnqm.checkpoint import Checkpoint
from mcnqm.cli.interrupts import said_on_interruption
from mcnqm.errors import ParameterError
from mcnqm.studies.cells import Cells

__all__ = ["kept_cells"]


def kept_cells(stack: ExitStack, config: Mapping[str, Any], folder: Path | None, kind: str) -> Cells:
    """Finished parts of a configuration, kept in a folder that is this process's alone while the stack is open.

    Parameters
    ----------
    stack : ExitStack
    config : mapping
        What decides the numbers, in plain types.
    folder : Path or None
        Where to keep them; None for one in the user's cache, which is a convenience: where it cannot be used, the work
        is done without it, with a note.
    kind : str
        The command, for the name of that folder.
    """
    name = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    place = _user_cache() / kind / name if folder is None else folder
    try:
        checkpoint = stack.enter_context(Checkpoint(place, config))
    except ParameterError as error:
        if folder is not None:
            raise ParameterError("cache", error.value, error.allowed) from error
        warnings.warn(f"finished parts are not kept: {error}", RuntimeWarning, stacklevel=2)
        return Cells()
    said_on_interruption.append(f"Finished parts are kept in {place}; the same command continues.")
    return Cells(checkpoint)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcnqm"
