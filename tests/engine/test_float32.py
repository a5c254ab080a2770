"""State in float32: how far its results are from those of float64 on the same noise, where it is safe and where not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import mcnqm
from mcnqm import SGD, Adam, Lion, NoisyQuadratic, ParameterError, RMSProp, schedules
from mcnqm.domains import positive, unit_interval
from mcnqm.engine import Job, March, Pool, run_loss
from mcnqm.kernels.jit import number
from mcnqm.kernels.rules.adam import _plain
from mcnqm.progress import NoMeter
from mcnqm.settings import settings_of

PROBLEM = NoisyQuadratic.power_law(100)
OPTIMIZERS = {
    "heavy ball": SGD(lr=[0.005, 0.01], momentum=0.9),
    "Adam": Adam(lr=np.geomspace(1e-3, 1e-2, 9)),
}
OTHERS = {
    "SGD": SGD(lr=[0.05, 0.1]),
    "Nesterov": SGD(lr=[0.005, 0.01], momentum=0.9, nesterov=True),
    "preconditioned": SGD(lr=[0.005, 0.01], precondition=0.5),
    "AdamW": Adam(lr=[2e-3, 4e-3], weight_decay=0.01),
    "RMSProp": RMSProp(lr=[1e-3, 2e-3]),
    "Lion": Lion(lr=[2e-4, 4e-4]),
}
ALL = [
    *(pytest.param(optimizer, id=name) for name, optimizer in OPTIMIZERS.items()),
    *(pytest.param(optimizer, id=name, marks=pytest.mark.slow) for name, optimizer in OTHERS.items()),
]


def run(optimizer, dtype, **options):
    options = {"batch_size": 16, "steps": 1500, "trajectories": 8, "control_variate": False, **options}
    return mcnqm.simulate(PROBLEM, optimizer, dtype=dtype, **options)


@pytest.mark.parametrize("optimizer", ALL)
def test_near_the_best_rate_rounding_is_far_below_the_monte_carlo_error(optimizer):
    """Same noise, so the difference is rounding alone. Lion's sign of a momentum near 0 is the least smooth."""
    wide, narrow = (run(optimizer, dtype) for dtype in ("float64", "float32"))
    off = np.abs(narrow.risk - wide.risk)
    assert (off <= 2e-4 * wide.risk).all(), float((off / wide.risk).max())
    assert (off <= 0.01 * wide.risk_stderr).all()
    assert not np.array_equal(narrow.loss, wide.loss)
    assert narrow.attrs["dtype"] == "float32"


@pytest.mark.slow
def test_where_nothing_reaches_the_last_bit_parameters_stand_still():
    """The other side of the regime: neither drift nor noise is as large as half a last bit, 3e-8 of the parameter."""
    still = NoisyQuadratic([1.0, 1e-3], noise=1e-16, initial_mean=1.0, initial_std=0.0)
    wide, narrow = (
        mcnqm.simulate(still, SGD(lr=2e-5), 1, 20_000, trajectories=1, coordinates=[0, 1], dtype=dtype).theta[0, -1]
        for dtype in ("float64", "float32")
    )
    assert float(narrow[1]) == 1.0
    assert float(wide[1]) == pytest.approx(np.exp(-4e-4), rel=1e-6)
    # The first coordinate's drift is 2e-5 of it, hundreds of last bits.
    assert float(narrow[0]) == pytest.approx(float(wide[0]), rel=1e-3)


def test_a_step_is_that_of_float32_arithmetic():
    """Against NumPy: products of two float32 are exact in float64, so a fused multiply-add is rounded twice at most."""
    steps, lr, decay = 3, 0.3, 0.9
    runs = run(SGD(lr=lr, momentum=decay), "float32", steps=steps, coordinates=range(100), trajectories=1)
    f = np.float32
    h, scale = PROBLEM.curvature.astype(f), np.sqrt(PROBLEM.noise / 16).astype(f)
    z = mcnqm.noise(0, 0, range(100), steps).astype(f)[0]
    x = mcnqm.noise(0, 0, range(100), 1, purpose="initial").astype(f)[0, 0]
    m = np.zeros(100, f)

    def fma(a, b, c):
        return (a.astype(float) * b.astype(float) + c.astype(float)).astype(f)

    for k in range(steps):
        m = fma(np.full(100, f(decay)), m, fma(h, x, scale * z[k]))
        x = fma(np.full(100, f(-lr)), m, x)
        np.testing.assert_array_equal(runs.theta[0, k + 1].values, x.astype(float))


@pytest.mark.parametrize("optimizer", ALL)
def test_bits_depend_on_nothing_else(optimizer):
    """Not on the width of shards, on threads, or on which other lanes run; and a march in stretches goes on exactly."""
    job = Job(PROBLEM, optimizer, settings_of(optimizer, 4.0), np.arange(19, dtype=np.uint32), 5, dtype="float32")
    record = np.array([0, 1, 50, 101, 200])
    whole = run_loss(job, record, Pool(), NoMeter()).loss
    for most_lanes in (1, 13):
        assert np.array_equal(run_loss(job, record, Pool(threads=1), NoMeter(), most_lanes=most_lanes).loss, whole)
    march = March(job, Pool(), NoMeter())
    march.advance(record[:3])
    march.drop(np.arange(march.alive.size) == 0)
    assert np.array_equal(march.advance(record[3:]).loss, whole[1:, :, 3:])


@pytest.mark.slow
def test_schedules():
    swept = SGD(lr=schedules.linear(0.1, steps=1000, final=0.1), momentum=schedules.piecewise([0.5, 0.8], [300, 1]))
    growing = schedules.piecewise([4, 16, 64], [200, 400, 1])
    wide, narrow = (run(swept, dtype, steps=1000, batch_size=growing) for dtype in ("float64", "float32"))
    assert (np.abs(narrow.risk - wide.risk) <= 1e-5 * wide.risk).all()


@pytest.mark.slow
def test_an_scheduled_optimizer_ones_own_may_have_literals():
    """They make its arithmetic float64, which costs time and no more; the state is float32 all the same."""

    @mcnqm.hyperparameters(lr=positive, momentum=unit_interval)
    class Averaged(NamedTuple):
        lr: float
        momentum: float = 0.9

    @mcnqm.update_rule(Averaged, state=("momentum",))
    def averaged(p, c, g, theta, s):
        m = p.momentum * s[0] + (1.0 - p.momentum) * g
        return theta - p.lr * m, (m,)

    wide, narrow = (run(Averaged(lr=[0.05, 0.1]), dtype, steps=300) for dtype in ("float64", "float32"))
    assert (np.abs(narrow.risk - wide.risk) <= 1e-5 * wide.risk).all()
    theta = run(Averaged(lr=[0.05, 0.1]), "float32", steps=300, coordinates=[0, 5]).theta.values
    assert np.array_equal(theta, theta.astype(np.float32))


def test_constants_in_plain_python():
    """Updates can be called as they are written, with or without constants that follow the width."""
    assert number(1.0, np.float32(2.0)) == 1.0
    theta, (m, v) = _plain(Adam(lr=0.1, eps=0.0), (0.1, 0.0), 2.0, 1.0, (0.0, 0.0))
    assert (m, v) == pytest.approx((0.2, 0.004))
    assert theta == pytest.approx(1.0 - 0.1 * 0.2 / np.sqrt(0.004))


def test_steps_to_target_and_tuning():
    found = {
        dtype: mcnqm.steps_to_target(PROBLEM, SGD(lr=[0.05, 0.1]), 16, 0.1, dtype=dtype).steps_jackknife.values
        for dtype in ("float64", "float32")
    }
    np.testing.assert_allclose(found["float32"], found["float64"], rtol=1e-5)
    assert not np.array_equal(found["float32"], found["float64"])
    best = {
        dtype: mcnqm.tune(PROBLEM, SGD(lr=0.1), {"lr": (0.01, 1.0)}, batch_size=4, target=0.05, dtype=dtype)
        for dtype in ("float64", "float32")
    }
    assert float(best["float32"].lr) == pytest.approx(float(best["float64"].lr), rel=1e-3)
    assert float(best["float32"].steps_stderr) == pytest.approx(float(best["float64"].steps_stderr), rel=1e-3)
    assert float(best["float32"].steps_stderr) != float(best["float64"].steps_stderr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype must be one of 'float64', 'float32'"),
        ({"dtype": "float32", "average": 0.9}, "average must be None with dtype='float32'"),
        ({"dtype": "float32", "control_variate": True}, "control_variate must be False with dtype='float32'"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(ParameterError, match=message):
        mcnqm.simulate(PROBLEM, Adam(lr=0.01), 16, 10, **options)
    if "control_variate" not in options:
        with pytest.raises(ParameterError, match=message):
            mcnqm.steps_to_target(PROBLEM, Adam(lr=0.01), 16, 0.1, **options)


def test_twins_do_not_run_by_default():
    assert "variance_reduction" not in mcnqm.simulate(PROBLEM, Adam(lr=0.01), 16, 10, dtype="float32")
    assert "variance_reduction" in mcnqm.simulate(PROBLEM, Adam(lr=0.01), 16, 10)
