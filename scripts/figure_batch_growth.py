"""Rate decay against batch growth for SGD, momentum and Adam: the study, its figure and a table.

    python scripts/figure_batch_growth.py [--output batch_growth.nc] [--figure batch_growth.png]

Half a minute on two cores, once compiled.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from mcnqm.cli.tables import Column, print_side_by_side
from mcnqm.files import check_writable, write_dataset, write_whole
from mcnqm.plots.batch_growth import plot_batch_growth
from mcnqm.progress import RichMeter
from mcnqm.studies.batch_growth import WAYS, run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    for name, suffixes in (("output", (".nc",)), ("figure", (".png", ".pdf", ".svg"))):
        if path := getattr(options, name):
            check_writable(name, path, suffixes)
    study = run(meter=RichMeter())
    if options.output:
        write_dataset(study, options.output)
    if options.figure:
        write_whole(options.figure, plot_batch_growth(study).savefig)
    console = Console(highlight=False)
    console.print("risk after all examples: simulated ± standard error, theory, and the steps taken")
    end = study.isel(examples=-1)
    blocks = []
    for way in WAYS:
        one = end.sel(way=way)
        risks = zip(one["risk"].values, one["risk_stderr"].values, strict=True)
        blocks.append(
            [
                Column(way, [f"{r:.5f} ± {e:.1g}" for r, e in risks]),
                Column("theory", [f"{r:.5f}" for r in one["theory"].values]),
                Column("steps", [f"{s}" for s in one["step"].values]),
            ]
        )
    print_side_by_side(console, Column("optimizer", list(end["optimizer"].values), names=True), blocks)


if __name__ == "__main__":
    main()
