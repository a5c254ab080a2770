"""What a function does, as text: for the keys of kernels that are cached on disk."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["source"]


def source(function: Any, seen: frozenset[Any] = frozenset()) -> str:
    """Everything that decides what a function does: its text, its constants, and the same of what it calls."""
    function = getattr(function, "py_func", function)  # a jitted helper
    code = function.__code__
    if code in seen:
        return ""
    try:
        text = inspect.getsource(function)
    except OSError:  # typed at a prompt
        text = code.co_code.hex() + repr(code.co_consts)
    outer = inspect.getclosurevars(function)
    parts = [text]
    for name, value in sorted({**outer.globals, **outer.nonlocals}.items()):
        if hasattr(getattr(value, "py_func", value), "__code__"):
            parts.append(name + source(value, seen | {code}))
        elif " at 0x" not in repr(value):
            parts.append(f"{name} = {value!r}")
    return "\n".join(parts)
