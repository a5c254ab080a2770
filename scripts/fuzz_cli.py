"""Fuzz the command line: random commands end with a documented exit code, one line per error, and no file too many.

Commands run in this process, in an empty folder each: 0 with the files that were asked for, 1 from verify alone, or 2
with one line on standard error and no file at all.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

from fuzz import fuzz
from hypothesis import strategies as st

from mcnqm.cli import main

JUNK = st.one_of(
    st.sampled_from(
        [
            "", "x", "-1", "0", "1e400", "nan", "inf", "-inf", "1.5", "10" * 12, "0x10", "1:2", "1:2:3:4", ",", "1,,2",
            "::", "sgd", "sgd lr", "sgd lr=", "sgd lr=nan", "nowhere:X lr=1", ":", "os:path", "[red]x[/red]", "\u2264",
            "'", "--", "-", "lr=0.1", "adam beta1=2 lr=1", "a/b/c.nc", "/", ".", "..", "/dev/null", "a.nc", "a.png",
        ]
    ),
    st.text(max_size=8).filter(lambda text: "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)),
)  # fmt: skip
RATES = st.sampled_from(["0.1", "1e-3", "0.01,0.1", "1e-3:1e-1:3", "5", "1e300"])
SPECS = st.one_of(
    st.builds("sgd lr={}".format, RATES),
    st.builds("sgd lr={} momentum=0.9 nesterov=true".format, RATES),
    st.builds("adam lr={}".format, RATES),
    st.builds("rmsprop lr={}".format, RATES),
    st.builds("lion lr={}".format, RATES),
)
SIZES = st.sampled_from(["1", "16", "1,64", "4,16,64", "1:64:3", "1e9"])
SEEDS = st.integers(0, 2**64).map(str)


def whole(low: int, high: int) -> st.SearchStrategy[str]:
    """Whole numbers as words."""
    return st.integers(low, high).map(str)


FILES = {"--output": st.sampled_from(["a.nc", "b.nc"]), "--figure": st.sampled_from(["a.png", "a.svg", "a.pdf"])}
NOISE = {"--noise-slope": st.sampled_from(["0", "0.5", "10"]), "--noise-df": st.sampled_from(["3", "50", "2"])}
LANDSCAPES = st.sampled_from(
    ["double_well", "double_well noise=2 start=wide dim=3", "quartic_well initial_std=0.2", "quartic_well quartic=1,2"]
)
COMMON = {"--seed": SEEDS, "--threads": whole(1, 2), "--exponent": st.sampled_from(["0", "1", "2.5", "300"])}
COMMANDS = {
    "simulate": {
        "--optimizer": SPECS, "--batch-size": SIZES, "--steps": whole(0, 300), "--trajectories": whole(1, 8),
        "--dim": whole(1, 30), "--minibatch": st.sampled_from(["exact", "per_example"]), **COMMON, **FILES, **NOISE,
        "--target": st.sampled_from(["0.1", "1,0.5"]), "--coordinates": st.sampled_from(["0", "0,1"]),
        "--average": st.sampled_from(["0.9", "tail(10)"]), "--record": st.sampled_from(["0,1", "1:100:5"]),
        "--view": st.sampled_from(["risk", "ensemble", "distribution", "paths"]),
    },
    "simulate --landscape": {
        "--landscape": LANDSCAPES, "--optimizer": SPECS, "--batch-size": SIZES, "--steps": whole(0, 300),
        "--trajectories": whole(1, 8), "--seed": SEEDS, **FILES,
    },
    "scaling": {
        "--optimizer": st.sampled_from(["sgd", "adam", "momentum", "lion", "sgd momentum=0.5", "adam-examples"]),
        "--dim": whole(1, 10), "--doublings": whole(0, 2),
        "--target": st.sampled_from(["0.1", "0.3", "1", "1e-15", "0.3,0.1"]),
        "--trajectories": whole(1, 2), "--replicates": whole(2, 4), **COMMON, **FILES, **NOISE,
    },
    "schedule": {
        "--optimizer": st.sampled_from(["sgd", "sgd momentum=0.9", "sgd nesterov=true momentum=0.5"]),
        "--dim": whole(1, 10), "--batch-size": st.sampled_from(["16", "16,64", "256"]), "--pieces": whole(1, 4),
        "--target": st.sampled_from(["0.3", "0.1", "1"]), **COMMON, **FILES,
        "--largest-lr": st.sampled_from(["1.5", "0.1", "-1"]), "--largest-risk": st.sampled_from(["10", "3", "1e-3"]),
    },
    "verify": {
        "--optimizer": st.builds("sgd lr={}".format, RATES), "--batch-size": SIZES, "--steps": whole(1, 50),
        "--trajectories": whole(8, 32), "--dim": whole(1, 20), "--seed": SEEDS,
        "--error-rate": st.sampled_from(["1e-3", "0.5", "1e-300"]), **NOISE,
    },
    "claims": {
        "--seed": SEEDS, "--threads": whole(1, 2), "--output": st.sampled_from(["a.json", "a.nc"]),
        "--figure": st.sampled_from(["a.png"]), "--html": st.sampled_from(["a.html"]), "--cache": st.just("cells"),
    },
}  # fmt: skip
ALWAYS = {
    "simulate": ["--dim", "--steps"],
    "simulate --landscape": ["--landscape", "--steps"],
    "claims": ["--cache"],
    "scaling": ["--dim", "--doublings", "--target", "--optimizer"],
    "schedule": ["--dim", "--batch-size", "--target"],
    "verify": ["--dim", "--steps", "--trajectories", "--batch-size", "--optimizer"],
}
"""Options without which a command takes minutes."""


def try_one(data: st.DataObject, counts: Counter[str]) -> None:
    """Draw a command line, at times with one wrong word, and run it."""
    command = data.draw(st.sampled_from(list(COMMANDS)), label="command")
    options = COMMANDS[command]
    names = data.draw(st.sets(st.sampled_from(list(options))), label="options")
    words = [command.split()[0], *(["largest-stable-lr"] if command == "claims" else [])]
    wrong = data.draw(st.one_of(st.none(), st.none(), st.sampled_from(sorted({*options} - {"--cache"}))), label="wrong")
    chosen = {*names, *ALWAYS[command], *([] if wrong is None else [wrong])}
    for name in sorted(chosen):
        words += [name, data.draw(JUNK if name == wrong else options[name], label=name)]
    if data.draw(st.sampled_from([False] * 9 + [True])):
        words.append(data.draw(JUNK, label="extra"))
    for path in Path.cwd().iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["mcnqm", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    counts[f"{command}: {code}"] += 1
    said, left = err.getvalue(), {path.name for path in Path.cwd().iterdir()}
    where = f"{words!r} ended with {code}, said {said!r} and left {sorted(left)}"
    assert "Traceback" not in said, where
    assert code in (0, 2) or (code == 1 and command == "verify"), where
    if code == 2:
        assert said.startswith("Error: "), where
        assert said.rstrip("\n").count("\n") == 0, where
        assert not left - {"cells"}, where
    else:
        asked = {word for name, word in pairwise(words) if name in (*FILES, "--html")}
        if command == "scaling" and code == 0 and "--output" not in words:
            asked.add("scaling.nc")
        assert not {name for name in left if name.startswith(".") or name.endswith(".parts")}, where
        assert len(left - {"cells"}) <= len(asked), where


if __name__ == "__main__":
    fuzz(__doc__ or "", try_one)
