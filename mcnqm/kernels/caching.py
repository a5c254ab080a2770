"""What compiled kernels depend on beyond the file that Numba's cache looks at."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

__all__ = ["sources"]


@functools.cache
def sources() -> str:
    """Hash of the sources of this folder: part of the key under which kernels are cached on disk."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
