"""L-BFGS between bounds against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from mcnqm.scheduling.descent import descend


def rosenbrock(x):
    return float(optimize.rosen(x)), optimize.rosen_der(x)


@pytest.mark.parametrize("size", [2, 10])
@pytest.mark.parametrize(("low", "high"), [(-3.0, 3.0), (-0.5, 0.7), (1.2, 3.0)])
def test_rosenbrock_between_bounds(size: int, low: float, high: float) -> None:
    bounds = np.full(size, low), np.full(size, high)
    start = np.clip(np.full(size, 0.3), low, high)
    x, value = descend(rosenbrock, start, *bounds, tolerance=1e-13)
    theirs = optimize.minimize(
        rosenbrock, start, jac=True, method="L-BFGS-B", bounds=[(low, high)] * size, options={"ftol": 1e-15}
    )
    assert value <= theirs.fun * (1 + 1e-6) + 1e-9
    assert (x >= low).all()
    assert (x <= high).all()
    assert value == rosenbrock(x)[0]


def test_badly_scaled_bowls_with_active_bounds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = int(rng.integers(1, 40))
        scale, centre = 10.0 ** rng.uniform(-3, 3, n), rng.normal(size=n)
        low, high = -rng.uniform(0, 1, n), rng.uniform(0, 1, n)
        calls = []

        def bowl(x, scale=scale, centre=centre, calls=calls):
            calls.append(1)
            return float(0.5 * (scale * (x - centre) ** 2).sum()), scale * (x - centre)

        _, value = descend(bowl, np.zeros(n), low, high, tolerance=1e-12)
        best = np.clip(centre, low, high)
        assert value == pytest.approx(bowl(best)[0], rel=1e-9, abs=1e-11)
        assert len(calls) < 1000


def test_never_above_the_start_and_never_more_than_it_may() -> None:
    wall = lambda x: (700.0, np.zeros(2)) if x[0] > 0.5 else (float(-x.sum()), -np.ones(2))  # noqa: E731
    x, value = descend(wall, np.zeros(2), np.zeros(2), np.ones(2))
    assert value <= 0.0
    assert x[0] <= 0.5
    calls = []

    def counted(x):
        calls.append(1)
        return rosenbrock(x)

    descend(counted, np.full(10, -1.0), np.full(10, -3.0), np.full(10, 3.0), most=10)
    assert len(calls) <= 30
