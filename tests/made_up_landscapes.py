"""Landscapes of a user's own, in a module, so that caches and workers find them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import mcnqm
from mcnqm.domains import nonnegative, positive


def ripples_loss(theta, p):
    return 0.5 * p.curvature * theta * theta + p.depth * (1.0 - np.cos(theta))


def ripples_gradient(theta, p):
    return p.curvature * theta + p.depth * np.sin(theta)


def ripples_variance(theta, p):
    return p.noise + 0.5 * theta * theta if theta > 0.0 else p.noise


@mcnqm.landscape(ripples_loss, ripples_gradient, ripples_variance, curvature=positive, noise=nonnegative)
class Ripples(NamedTuple):
    """A parabola with waves, and noise that rises to one side: the variance branches."""

    curvature: Any
    depth: Any = 0.3
    noise: Any = 1.0


def basin_loss(theta, p):
    return p.depth * theta * theta / (1.0 + theta * theta)


def basin_gradient(theta, p):
    return 2.0 * p.depth * theta / ((1.0 + theta * theta) * (1.0 + theta * theta))


def basin_variance(theta, p):
    return p.noise


@mcnqm.landscape(basin_loss, basin_gradient, basin_variance, region=lambda p: (-p.edge, p.edge))
class Basin(NamedTuple):
    """A basin in a plain: beyond the edge there is no way back, and no loss that says so."""

    depth: Any = 1.0
    noise: Any = 1.0
    edge: Any = 6.0
