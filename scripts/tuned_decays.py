"""What tuned decays are worth: momentum's β, Adam's β₁ and β₂, and Adam's held in examples instead of steps.

    python scripts/tuned_decays.py [--dim 1000] [--target 0.01] [--seed 0]

Best hyperparameters by theory (exact for momentum; the mean field for Adam, on the spectrum binned to 100 values), then
steps to the target by simulation at exactly those, on the full spectrum. So the columns of steps owe theory only the
choice of hyperparameters.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import mcnqm
from mcnqm.studies.contenders import CONTENDERS, Contender

BATCH_SIZES = (4, 16, 64, 256, 1024, 4096, 16384)


def tuned(problem: mcnqm.NoisyQuadratic, contender: Contender, batch_size: int, target: float, seed: int) -> object:
    """The optimizer with its best hyperparameters, by theory."""
    optimizer = contender.at(batch_size)
    exact = isinstance(optimizer, mcnqm.SGD)
    lr = 5e-4 * np.sqrt(batch_size)  # near Adam's best; where a search begins does not matter, only how long it takes
    search = dict(contender.search)
    search["lr"] = (min(1e-3 * batch_size, 0.1), min(0.02 * batch_size, 3.0)) if exact else (0.3 * lr, 5.0 * lr)
    drawn = {"seed": seed} if len(search) > 1 else {}  # one hyperparameter is searched without chance
    found = mcnqm.tune(
        problem if exact else problem.binned(100), optimizer, search,
        batch_size=batch_size, target=target, method="analytic" if exact else "mean-field", **drawn,
    )  # fmt: skip
    return optimizer._replace(**{name: float(found[name]) for name in search})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=1000)
    parser.add_argument("--target", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=BATCH_SIZES)
    options = parser.parse_args()
    problem = mcnqm.NoisyQuadratic.power_law(options.dim)
    names = ("momentum", "momentum-tuned", "adam", "adam-tuned", "adam-examples")
    table = Table(title=f"steps to risk {options.target:g}, simulated at the best by theory", box=SIMPLE_HEAD)
    table.add_column("B", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("tuned β, β₁, β₂", justify="right")
    for b in options.batch_sizes:
        row, decays = [str(b)], []
        for name in names:
            best = tuned(problem, CONTENDERS[name], b, options.target, options.seed)
            found = mcnqm.steps_to_target(
                problem, best, b, options.target, trajectories=8, replicates=4, seed=options.seed, max_steps=2**20
            )
            row.append(f"{float(found.steps):.0f} ± {float(found.steps_stderr):.0f}")
            if name.endswith("-tuned"):
                fields = ("momentum",) if isinstance(best, mcnqm.SGD) else ("beta1", "beta2")
                decays += [f"{getattr(best, field):.3g}" for field in fields]
        table.add_row(*row, ", ".join(decays))
        Console(width=120).print(row, decays)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
