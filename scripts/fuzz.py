"""What the two fuzzers share: rounds of fresh examples until the time is over, a limit for each, and a report."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

EXAMPLES = 200
"""Of one round."""


class TooLongError(BaseException):
    """An example took longer than its limit. No `Exception`, so that nothing on the way takes it for its own."""


def fuzz(description: str, try_one: Callable[[st.DataObject, Counter[str]], None]) -> None:
    """Try examples until the time is over or one fails; the first to fail is shrunk and printed.

    Parameters
    ----------
    description : str
        For ``--help``.
    try_one : callable
        Draws an example from its first argument, tries it, and raises if anything is wrong; counts in its second
        what became of it.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--minutes", type=float, default=1.0, help="How long to try, at least one round.")
    parser.add_argument("--limit", type=float, default=120.0, help="Seconds that one example may take.")
    parser.add_argument("--seed", type=int, help="Of the first round; by default a fresh one.")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="Examples of one round.")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    slowest = 0.0

    def alarm(number: int, frame: Any) -> None:
        raise TooLongError(f"more than {options.limit:g} s")

    signal.signal(signal.SIGALRM, alarm)
    begun, first = time.monotonic(), secrets.randbits(32) if options.seed is None else options.seed
    rounds = 0
    while not rounds or time.monotonic() - begun < 60.0 * options.minutes:
        number = first + rounds
        print(f"round {rounds}, --seed {number}: {sum(counts.values())} examples so far", flush=True)

        @seed(number)
        @settings(
            max_examples=options.examples,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        @given(st.data())
        def one_round(data: st.DataObject) -> None:
            nonlocal slowest
            start = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, options.limit)
            try:
                try_one(data, counts)
            except TooLongError as error:
                raise AssertionError(str(error)) from error
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
                slowest = max(slowest, time.monotonic() - start)

        before = Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                one_round()
            finally:
                os.chdir(before)
        rounds += 1
    took = time.monotonic() - begun
    print(f"{sum(counts.values())} examples in {took:.0f} s, the slowest {slowest:.1f} s, no failure:")
    for what, count in counts.most_common():
        print(f"  {count:6d} {what}")
