"""Agreement where no law is Gaussian, at a false-alarm rate of 1e-3 a row, and what it must refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcnqm
from mcnqm import SGD, DoubleWell, NoisyQuadratic, ParameterError, QuarticWell, agreement, analytic, averaging

H = np.array([1.0, 0.5, 0.2, 0.05])
OPTIMIZERS = [SGD(0.4), SGD(0.1, momentum=0.8), SGD(0.1, momentum=0.8, nesterov=True), SGD(0.3, precondition=0.5)]
OPTIMIZERS += [SGD(0.2, weight_decay=0.2), SGD(0.3, momentum=0.6, dampening=0.6)]


@settings(max_examples=10)
@given(
    which=st.integers(0, len(OPTIMIZERS) - 1),
    slope=st.floats(0.05, 1.0),
    batch=st.integers(1, 32),
    df=st.sampled_from([None, 6.0]),
    seed=st.integers(0, 1000),
)
def test_linear_optimizers_agree_under_rising_and_heavy_noise(which, slope, batch, df, seed):
    problem = NoisyQuadratic(H, multiplicative_noise=slope * H**2, noise_df=df)
    report = agreement(problem, OPTIMIZERS[which], batch, 60, trajectories=4096, seed=seed, error_rate=1e-5)
    assert bool(report.agrees), report.p_value.item()


@settings(max_examples=5)
@given(
    lr=st.floats(0.03, 0.12),
    batch=st.integers(2, 40),
    offset=st.floats(-0.05, 0.1),
    wide=st.floats(0.5, 2.0),
    start=st.sampled_from(["sharp", "wide"]),
    std=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 1000),
)
def test_wells_agree_with_their_chains(lr, batch, offset, wide, start, std, seed):
    wells = DoubleWell(8.0, wide, 1.5, offset, 60.0, start, initial_std=std)
    report = agreement(wells, SGD(lr), batch, 300, trajectories=4096, seed=seed, error_rate=1e-5)
    assert bool(report.agrees), report.p_value.item()
    assert list(report.moment.values) == ["risk", "occupancy"]


def test_averages_agree_and_another_average_does_not(monkeypatch):
    """At a false-alarm rate of 1e-5 for each of the two; the control's theory has another weight of the past."""
    problem, real = NoisyQuadratic(H, multiplicative_noise=0.5 * H**2, noise_df=6.0), analytic.risk
    for optimizer, average in ((SGD(0.5), averaging.tail(20)), (SGD(0.1, momentum=0.8), 0.9)):
        report = agreement(problem, optimizer, 2, 60, trajectories=4096, average=average, error_rate=1e-5)
        assert bool(report.agrees), report.p_value.item()
    other = lambda *run, average, **more: real(*run, average=0.85, **more)  # noqa: E731
    monkeypatch.setattr(analytic, "risk", other)
    assert not bool(agreement(problem, SGD(0.1, momentum=0.8), 2, 60, trajectories=4096, average=0.9).agrees)
    with pytest.raises(ParameterError, match="average must be left out on a landscape"):
        agreement(DoubleWell(), SGD(0.1), 4, 10, average=0.9)


def test_another_theory_is_noticed(monkeypatch):
    """The control: a theory at another slope of the noise, at another rate, of another well, must not agree."""
    problem = NoisyQuadratic(H, multiplicative_noise=0.5 * H**2)
    real = analytic.risk
    flat = lambda p, *rest, **more: real(NoisyQuadratic(H), *rest, **more)  # noqa: E731
    monkeypatch.setattr(analytic, "risk", flat)
    assert not bool(agreement(problem, SGD(1.0), 1, 60, trajectories=4096).agrees)
    monkeypatch.undo()
    assert bool(agreement(problem, SGD(1.0), 1, 60, trajectories=4096).agrees)
    wells, chain = DoubleWell(noise=60.0), analytic.chain.occupancy
    other = lambda p, o, *rest, **more: chain(p, SGD(0.09), *rest, **more)  # noqa: E731
    monkeypatch.setattr(analytic.chain, "occupancy", other)
    assert not bool(agreement(wells, SGD(0.1), 20, 300, trajectories=8192).agrees)


@pytest.mark.slow
def test_sweeps_quartic_wells_and_refusals():
    report = agreement(QuarticWell(noise=2.0, initial_std=0.2), SGD([0.08, 0.1]), [8], 30, trajectories=1024)
    assert report.agrees.dims == ("lr", "batch_size")
    assert bool(report.agrees.all())
    with pytest.raises(ParameterError, match="momentum"):
        agreement(DoubleWell(), SGD(0.1, momentum=0.5), 4, 10)
    with pytest.raises(ParameterError, match="theory"):
        agreement(DoubleWell(), SGD(0.1), 4, 10, theory=mcnqm.comparison.Theory(print, print, print))
    with pytest.raises(ParameterError, match="problem"):
        agreement("wells", SGD(0.1), 4, 10)
