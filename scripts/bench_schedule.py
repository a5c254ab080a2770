"""How fast schedules are optimised, how good they are, and what the optimum is.

    python scripts/bench_schedule.py [--dim 10000] [--target 0.01] [--bins 100] [--pieces 50] [--part speed ...]

Parts:

speed       one optimisation at a fixed horizon and the search for the fewest steps, medians; both with a gradient of
            finite differences; and one descent by SciPy's L-BFGS-B, with our gradient and with its own differences
table       steps against batch size: optimised, every baseline, and both bounds
optimum     pieces 10 ... 1000 and both spacings against the closed form for small rates, and many random starts
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import optimize

import mcnqm
from mcnqm.scheduling import optimize_schedule
from mcnqm.scheduling.composed import Composed
from mcnqm.scheduling.descent import descend
from mcnqm.scheduling.pieces import piece_lengths
from mcnqm.scheduling.search import BASELINES
from mcnqm.scheduling.small_rate import SmallRateLimit


def seconds(function, repeats=5):
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def objective(composed, lengths, counter):
    """Log risk and its gradient by the log rates."""
    still = np.zeros(lengths.size)

    def function(x):
        counter.append(1)
        lr = np.exp(x)
        risk, by_lr, _ = composed.gradient(lr, still, lengths)
        return float(np.log(risk)), by_lr * lr / risk

    return function


def by_differences(self, lr, momentum, lengths, *, by_momentum=False):
    """What `Composed.gradient` returns, by as many values as there are pieces."""
    risk = self.risk(lr, momentum, lengths)
    slopes = np.empty(lr.size)
    for k in range(lr.size):
        moved = lr.copy()
        moved[k] *= 1.0 + 1e-7
        slopes[k] = (self.risk(moved, momentum, lengths) - risk) / (moved[k] - lr[k])
    return risk, slopes, np.zeros(lr.size)


def fewest(of, target):
    """Fewest examples to a risk that falls with them."""
    low, high = 0.0, 60.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if of(2.0**middle) > target else (low, middle)
    return 2.0**high


def bounds(problem, target):
    bayes = fewest(lambda n: mcnqm.analytic.bayes_bound(problem, n).risk.item(), target)
    return fewest(lambda n: mcnqm.analytic.information_bound(problem, n).risk.item(), target), bayes


def speed(console, problem, args):
    optimizer = mcnqm.SGD(lr=0.1)
    options = {"pieces": args.pieces, "bins": args.bins}
    table = Table(title=f"seconds, d = {args.dim}, {args.bins} bins, {args.pieces} pieces")
    for name in ("B", "fixed T", "with baselines", "fewest steps", "with baselines"):
        table.add_column(name, justify="right")
    optimize_schedule(problem, optimizer, 64, steps=100, **options)
    for batch in (1, 64, 4096, 65536):
        steps = int(optimize_schedule(problem, optimizer, batch, target=args.target, baselines=False, **options).steps)
        row = [
            seconds(lambda b=batch, t=steps, w=w: optimize_schedule(
                problem, optimizer, b, steps=t, baselines=w, **options), 5)
            for w in (False, True)
        ]  # fmt: skip
        row += [
            seconds(lambda b=batch, w=w: optimize_schedule(
                problem, optimizer, b, target=args.target, baselines=w, **options), 3)
            for w in (False, True)
        ]  # fmt: skip
        table.add_row(str(batch), *(f"{x:.2f}" for x in row))
    console.print(table)

    exact = Composed.gradient
    for batch in (64,):
        found = optimize_schedule(problem, optimizer, batch, target=args.target, baselines=False, **options)
        calls = {
            "fixed T": {"steps": int(found.steps)},
            "fewest steps": {"target": args.target},
        }
        for name, goal in calls.items():
            taken, answers = [], []
            for gradient in (exact, by_differences):
                Composed.gradient = gradient
                try:
                    begin = time.perf_counter()
                    answers.append(optimize_schedule(problem, optimizer, batch, baselines=False, **goal, **options))
                    taken.append(time.perf_counter() - begin)
                finally:
                    Composed.gradient = exact
            console.print(
                f"{name}, B = {batch}: adjoint {taken[0]:.2f} s, finite differences {taken[1]:.2f} s, "
                f"ratio {taken[1] / taken[0]:.1f}; steps {answers[0].steps.item():.0f}, {answers[1].steps.item():.0f}, "
                f"risk {answers[0].risk.item():.9f}, {answers[1].risk.item():.9f}"
            )

    for batch, steps in ((1, 770_000), (1024, 7_000)):
        composed = Composed.of(problem.binned(args.bins), float(batch))
        lengths = piece_lengths(steps, args.pieces)
        start, high = np.full(lengths.size, np.log(0.1)), np.log(2.0 * (1 - 1e-9))
        low = np.full(lengths.size, -40.0)
        rows = {}
        counter: list[int] = []
        function = objective(composed, lengths, counter)
        still = np.zeros(lengths.size)

        def value(x, composed=composed, lengths=lengths, still=still, counter=counter):
            counter.append(1)
            return float(np.log(composed.risk(np.exp(x), still, lengths)))

        box = [(-40.0, high)] * lengths.size
        for name, run in {
            "ours, adjoint": lambda f=function, s=start, lo=low, hi=high: descend(f, s, lo, np.full(s.size, hi))[1],
            "SciPy, adjoint": lambda f=function, s=start, b=box: optimize.minimize(
                f, s, jac=True, method="L-BFGS-B", bounds=b, options={"ftol": 1e-13, "maxfun": 10**6}).fun,
            "SciPy, differences": lambda f=value, s=start, b=box: optimize.minimize(
                f, s, method="L-BFGS-B", bounds=b, options={"ftol": 1e-13, "maxfun": 10**6}).fun,
        }.items():  # fmt: skip
            counter.clear()
            begin = time.perf_counter()
            found = run()
            rows[name] = (time.perf_counter() - begin, len(counter), found)
        gradient = seconds(lambda f=function, s=start: f(s), 51)
        differences = seconds(lambda f=value, s=start: [f(s) for _ in range(s.size + 1)], 11)
        table = Table(title=f"one descent from a constant 0.1, B = {batch}, T = {steps}")
        for name in ("", "seconds", "ratio", "evaluations", "log risk reached"):
            table.add_column(name, justify="right")
        for name, (taken, count, found) in rows.items():
            ratio = f"{taken / rows['ours, adjoint'][0]:.1f}"
            table.add_row(name, f"{taken:.3f}", ratio, str(count), f"{found:.9f}")
        console.print(table)
        console.print(
            f"value and gradient: adjoint {1e3 * gradient:.2f} ms, differences {1e3 * differences:.2f} ms, "
            f"ratio {differences / gradient:.1f}"
        )


def compare(console, problem, args):
    for power in (0.0, 0.5, 1.0):
        information, bayes = bounds(problem, args.target)
        slow = fewest(SmallRateLimit.of(problem, power).risk, args.target)
        table = Table(title=f"steps to {args.target}, d = {args.dim}, precondition = {power}")
        for name in ("B", "optimised", *BASELINES, "information", "Bayes", "examples / Bayes", "seconds"):
            table.add_column(name, justify="right")
        for batch in 4 ** np.arange(9):
            begin = time.perf_counter()
            found = optimize_schedule(
                problem, mcnqm.SGD(lr=0.1, precondition=power), int(batch), target=args.target, pieces=args.pieces,
                bins=args.bins,
            )  # fmt: skip
            taken = time.perf_counter() - begin
            numbers = [found.steps.item(), *found.baseline_steps.values, information / batch, bayes / batch]
            table.add_row(
                str(batch), *(f"{x:.0f}" if x >= 10 else f"{x:.2f}" for x in numbers),
                f"{found.steps.item() * batch / bayes:.4f}", f"{taken:.1f}",
            )  # fmt: skip
        console.print(table)
        console.print(
            f"examples: closed form of the best schedule at small rates {slow:.0f}, "
            f"{slow / bayes:.4f} of Bayes ({bayes:.0f}), {slow / information:.4f} of information ({information:.0f})"
        )


def optimum(console, problem, args):
    for power, batch in ((0.0, 1), (0.0, 64), (0.0, 4096), (0.0, 65536), (0.5, 1), (1.0, 1)):
        optimizer = mcnqm.SGD(lr=0.1, precondition=power)
        steps = int(
            optimize_schedule(problem, optimizer, batch, target=args.target, pieces=args.pieces, baselines=False).steps
        )
        limit = SmallRateLimit.of(problem, power).risk(float(steps) * batch)
        table = Table(title=f"risk after T = {steps} steps, B = {batch}, p = {power}; closed form {limit:.8f}")
        for name in ("pieces", "geometric", "equal"):
            table.add_column(name, justify="right")
        for pieces in (1, 2, 10, 25, 50, 100, 500, 1000):
            row = [
                optimize_schedule(
                    problem, optimizer, batch, steps=steps, pieces=pieces, spacing=spacing, baselines=False
                ).risk.item()
                for spacing in ("geometric", "equal")
            ]
            table.add_row(str(pieces), *(f"{x:.8f}" for x in row))
        console.print(table)
        composed = Composed.of(problem.binned(args.bins), float(batch), precondition=power)
        lengths = piece_lengths(steps, args.pieces)
        high = np.full(lengths.size, np.log(2.0 * (1 - 1e-9) / composed.scale.max()))
        rng, ends = np.random.default_rng(0), []
        for _ in range(30):
            start = high - rng.uniform(0, 8) * rng.uniform(0, 1, lengths.size)
            ends.append(descend(objective(composed, lengths, []), start, high - 40.0, high)[1])
        spread = np.exp(np.array(ends) - min(ends)) - 1.0
        console.print(
            f"30 random starts: risk above the best of them, median {np.median(spread):.1e}, "
            f"largest {spread.max():.1e}; within 1e-6: {np.sum(spread < 1e-6)}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=10_000)
    parser.add_argument("--target", type=float, default=0.01)
    parser.add_argument("--bins", type=int, default=100)
    parser.add_argument("--pieces", type=int, default=50)
    parts = {"speed": speed, "table": compare, "optimum": optimum}
    parser.add_argument("--part", nargs="+", choices=list(parts), default=list(parts))
    args = parser.parse_args()
    console = Console(width=150)
    problem = mcnqm.NoisyQuadratic.power_law(args.dim)
    for part in args.part:
        parts[part](console, problem, args)


if __name__ == "__main__":
    main()
