"""A made-up scaling study, for tests of figures and tables."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mcnqm.fits import Slope, Tradeoff, log_slope, small_batch_regime, tradeoff

LABELS = ["SGD", "momentum 0.9", "Adam", "Adam tuned betas", "Adam, half-life in examples", "Lion"]


def study_of(count=3, octaves=17, first=0):
    """A made-up study: trade-off curves, of which the first two have a closed form."""
    rng = np.random.default_rng(0)
    batch = 2.0 ** np.arange(first, first + octaves)
    rank = np.arange(count)[:, None]
    exact = 700 * 0.6**rank + 460_000 * 0.5**rank / batch
    rate = 4e-3 * 0.3**rank * np.where(rank < 2, batch, np.sqrt(batch)) / (1 + batch / 700)
    steps, steps_stderr = exact * (1 + 0.01 * rng.normal(size=exact.shape)), 0.01 * exact
    tuned, tuned_stderr = rate * (1 + 0.02 * rng.normal(size=exact.shape)), 0.02 * rate
    regime = np.array([small_batch_regime(batch, s, e) for s, e in zip(steps, steps_stderr, strict=True)])
    slopes = [log_slope(batch, *row) for row in zip(tuned, tuned_stderr, regime, strict=True)]
    limits = [tradeoff(batch, s, e) for s, e in zip(steps, steps_stderr, strict=True)]
    both = ("optimizer", "batch_size")
    known = rank < 2
    return xr.Dataset(
        {
            "steps": (both, steps),
            "steps_stderr": (both, steps_stderr),
            "effective_lr": (both, tuned),
            "effective_lr_stderr": (both, tuned_stderr),
            "at_edge": (both, np.zeros(exact.shape, dtype=bool)),
            "flags": (both, np.zeros(exact.shape, dtype=np.int32)),
            "analytic_steps": (both, np.where(known, exact, np.nan)),
            "analytic_effective_lr": (both, np.where(known, rate, np.nan)),
            "information_bound": ("batch_size", 50_000 / batch),
            "bayes_bound": ("batch_size", 49_000 / batch),
            "in_regime": (both, regime),
            **{name: ("optimizer", [getattr(s, name) for s in slopes]) for name in Slope._fields},
            **{name: ("optimizer", [getattr(t, name) for t in limits]) for name in Tradeoff._fields},
        },
        coords={"optimizer": LABELS[:count], "batch_size": batch},
        attrs={"target": 0.01, "dim": 1000, "trajectories": 16},
    )
