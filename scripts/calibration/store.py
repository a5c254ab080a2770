"""Answers on disk: a file for each cell and ten seeds, under a key of the sources that gave them."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mcnqm
from calibration.cells import Cell
from calibration.scores import Estimate, Truth
from mcnqm.files import write_text

__all__ = ["CHUNK", "Answer", "Store", "estimator_key", "truth_key"]

CHUNK = 10
"""Seeds of one file, and of one task of a worker."""

_TRUTH_REVISION = 1
"""Raised when truths come to be computed in another way."""

_PACKAGE = Path(mcnqm.__file__).parent


@cache
def estimator_key() -> str:
    """Key of all code that an estimate depends on: the package but for its command line and its figures."""
    return _key(path for path in _PACKAGE.rglob("*.py") if not _is_face(path.relative_to(_PACKAGE)))


@cache
def truth_key() -> str:
    """Key of the code that truths depend on: closed forms and kernels."""
    rooms = ("analytic", "kernels")
    return _key(path for room in rooms for path in (_PACKAGE / room).rglob("*.py"))


def _is_face(path: Path) -> bool:
    return path.parts[0] in {"cli", "plots", "plots.py", "_version.py"}


def _key(paths: Iterable[Path]) -> str:
    """Hash of what the code does: comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [x for x in body if not (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))]
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + ast.dump(tree).encode() + b"\0")
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Answer:
    """What a cell answered to one seed.

    Attributes
    ----------
    seed : int
        Its number, from 0.
    estimates : list of Estimate
    seconds : float
        Processor time.
    warned : bool
        Whether a warning reached the user.
    """

    seed: int
    estimates: list[Estimate]
    seconds: float
    warned: bool


class Store:
    """Truths and answers in a folder.

    Parameters
    ----------
    folder : path
    key : str, optional
        Of the sources; by default those that are imported.
    """

    def __init__(self, folder: Path, key: str | None = None) -> None:
        self._folder = folder
        self.key = estimator_key() if key is None else key
        self._truths = folder / f"truth-{truth_key()}-{_TRUTH_REVISION}"

    def others(self) -> list[str]:
        """Keys of other sources that have answers here."""
        found = [p.name.removeprefix("answers-") for p in self._folder.glob("answers-*")]
        return sorted(set(found) - {self.key})

    def truths(self, cell: Cell) -> dict[str, Truth] | None:
        """Right answers of a cell, if they are known already."""
        path = self._truths / f"{_slug(cell)}.json"
        if not path.exists():
            return None
        return {name: _truth(plain) for name, plain in json.loads(path.read_text())["truths"].items()}

    def keep_truths(self, cell: Cell, truths: Mapping[str, Truth], seconds: float) -> None:
        """Keep the right answers of a cell."""
        self._truths.mkdir(parents=True, exist_ok=True)
        plain = {"cell": cell.label, "seconds": seconds, "truths": {k: asdict(v) for k, v in truths.items()}}
        write_text(self._truths / f"{_slug(cell)}.json", json.dumps(plain))

    def answers(self, cell: Cell) -> list[Answer]:
        """All answers of a cell, by seed."""
        return [answer for path in sorted(self._home(cell).glob("*.json")) for answer in _read(path)]

    def missing(self, cell: Cell, seeds: range) -> list[list[int]]:
        """Seeds without an answer, in chunks."""
        done = {answer.seed for answer in self.answers(cell)}
        chunks: dict[int, list[int]] = {}
        for seed in seeds:
            if seed not in done:
                chunks.setdefault(seed // CHUNK, []).append(seed)
        return list(chunks.values())

    def keep(self, cell: Cell, answers: list[Answer]) -> None:
        """Keep answers of one chunk, beside those that are there."""
        home = self._home(cell)
        home.mkdir(parents=True, exist_ok=True)
        path = home / f"{answers[0].seed // CHUNK:05d}.json"
        both = {a.seed: a for a in (*(_read(path) if path.exists() else ()), *answers)}
        write_text(path, json.dumps([asdict(both[seed]) for seed in sorted(both)]))

    def _home(self, cell: Cell) -> Path:
        return self._folder / f"answers-{self.key}" / _slug(cell)


def _slug(cell: Cell) -> str:
    """A name for files; the hash tells apart what the letters do not, such as other bounds of a search."""
    words = re.sub(r"[^A-Za-z0-9.=-]+", "_", f"{cell.group} {cell.label}").strip("_")
    return f"{words}-{hashlib.sha256(repr(cell).encode()).hexdigest()[:8]}"


def _truth(plain: Mapping[str, Any]) -> Truth:
    return Truth(plain["value"], plain["stderr"], tuple((a, b) for a, b in plain["runs"]))


def _read(path: Path) -> list[Answer]:
    found = []
    for plain in json.loads(path.read_text()):
        estimates = [
            Estimate(**{**e, "truth": None if e["truth"] is None else _truth(e["truth"])}) for e in plain["estimates"]
        ]
        found.append(Answer(**{**plain, "estimates": estimates}))
    return found
