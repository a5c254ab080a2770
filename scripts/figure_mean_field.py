"""Where the mean-field theory of Adam is right, and where not: the study, its figure and a table.

    python scripts/figure_mean_field.py [--output mean_field.nc] [--figure mean_field.png]

Two to three minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import xarray as xr
from rich.console import Console

from mcnqm.cli.tables import Column, print_side_by_side
from mcnqm.files import check_writable, write_dataset, write_whole
from mcnqm.plots.mean_field import plot_mean_field
from mcnqm.plots.wording import numbers, three_digits
from mcnqm.progress import RichMeter
from mcnqm.studies.mean_field import MeanFieldConfig, run


def show(study: xr.Dataset, console: Console) -> None:
    """Errors in percent, root mean square over the run and, in brackets, at the step where theory sees the target."""
    console.print(
        f"error of the predicted risk in %: r.m.s. over the run (at the predicted steps); d = {study.attrs['dim']}, "
        f"target {study.attrs['target']:g}"
    )
    blocks = []
    for k, name in enumerate(numbers(study["beta2"].values)):
        one = study.isel(beta2=k)
        block = [
            Column(f"β₂={name} lr", [three_digits(x) for x in one["lr"].values]),
            Column("steps", [f"{x:.0f}" for x in one["predicted_steps"].values]),
        ]
        for variant in one["variant"].values:
            pair = zip(one["rms_error"].sel(variant=variant), one["target_error"].sel(variant=variant), strict=True)
            block.append(Column(str(variant), [f"{100 * float(a):.2g} ({100 * float(b):+.1f})" for a, b in pair]))
        block.append(Column("noise", [f"{100 * x:.1g}" for x in one["rms_noise"].values]))
        block.append(Column("variance reduction", [f"{x:.3g}" for x in np.round(one["late_reduction"].values, 1)]))
        blocks.append(block)
    print_side_by_side(console, Column("B", [f"{b:g}" for b in study["batch_size"].values]), blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="save the Dataset here (netCDF, .nc)")
    parser.add_argument("--figure", type=Path, help="draw here (.png, .pdf, .svg)")
    parser.add_argument("--seed", type=int, default=MeanFieldConfig.seed)
    parser.add_argument("--threads", type=int, help="default: one per core")
    options = parser.parse_args()
    for name, path, suffixes in (
        ("output", options.output, (".nc",)),
        ("figure", options.figure, (".png", ".pdf", ".svg")),
    ):
        if path:
            check_writable(name, path, suffixes)

    start = time.perf_counter()
    study = run(MeanFieldConfig(seed=options.seed), threads=options.threads, meter=RichMeter())
    took = time.perf_counter() - start
    if options.output:
        write_dataset(study, options.output)
    if options.figure:
        figure = plot_mean_field(study)
        write_whole(options.figure, lambda path: figure.savefig(path, dpi=110))
    console = Console(width=100 if not Console().is_terminal else None, highlight=False)
    show(study, console)
    console.print(f"{took:.0f} s")


if __name__ == "__main__":
    main()
