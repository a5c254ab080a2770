"""Landscapes: what ships, what a user may add, and what is refused."""

from __future__ import annotations

import pickle
from typing import NamedTuple

import numpy as np
import pytest
from made_up_landscapes import Basin, Ripples, basin_variance, ripples_gradient, ripples_loss, ripples_variance
from scipy import integrate

import mcnqm
from mcnqm import DoubleWell, Landscape, ParameterError, QuarticWell
from mcnqm.domains import positive


def soft_minimum(x, sharp=8.0, wide=1.0, separation=1.5, offset=0.05, k=30.0):
    """The definition, as it is written down."""
    one = 0.5 * sharp * (x + separation / 3) ** 2
    other = offset + 0.5 * wide * (x - 2 * separation / 3) ** 2
    return -np.logaddexp(-k * one, -k * other) / k


def test_two_wells_are_the_soft_minimum_of_two_parabolas():
    wells = DoubleWell()
    at = np.linspace(-3, 4, 1001)[:, np.newaxis]
    np.testing.assert_allclose(wells.loss(at), soft_minimum(at), rtol=1e-12, atol=1e-15)
    step = 1e-6
    slope = (soft_minimum(at + step) - soft_minimum(at - step)) / (2 * step)
    np.testing.assert_allclose(wells.gradient(at), slope, rtol=1e-6, atol=1e-7)
    assert (wells.variance(at) == 12.0).all()


def test_minima_and_barrier():
    wells = DoubleWell()
    assert wells.barrier == pytest.approx(-0.088, abs=5e-4)
    assert wells.minima["sharp"] == pytest.approx(-0.5, abs=1e-6)
    assert wells.minima["wide"] == pytest.approx(1.0, abs=1e-6)
    assert wells.barrier_height["sharp"] == pytest.approx(0.632, abs=5e-4)
    assert wells.barrier_height["sharp"] - wells.barrier_height["wide"] == pytest.approx(0.05)
    for x in (*wells.minima.values(), wells.barrier):
        assert wells.gradient(x) == pytest.approx(0.0, abs=1e-12)
    deeper = DoubleWell(offset=-0.2, start="wide")
    assert deeper.floor == pytest.approx(-0.2)
    assert deeper.initial_risk == pytest.approx(0.0, abs=1e-12)


def test_wells_of_several_kinds_have_arrays():
    wells = DoubleWell(sharp=[8.0, 4.0], start="wide", initial_std=0.1)
    assert wells.dim == wells.size == 2
    assert wells.barrier.shape == wells.minima["sharp"].shape == (2,)
    np.testing.assert_array_equal(wells.initial_mean, wells.minima["wide"])
    assert DoubleWell(dim=7).dim == 7
    assert DoubleWell(start=0.3).initial_mean == 0.3
    with pytest.raises(ValueError, match="read-only"):
        wells.sharp[0] = 1.0
    with pytest.raises(AttributeError):
        wells.sharp = 1.0


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"separation": 0.1}, "separation must leave two wells with a barrier between them, got 0.1"),
        ({"offset": 9.5}, "separation must leave two wells"),
        ({"sharpness": 0.2}, "separation must leave two wells"),
        ({"sharp": 0.5}, "sharp must be at least as curved as wide, 1, got 0.5"),
        ({"sharp": -1.0}, "sharp must be > 0, got -1.0"),
        ({"noise": -1.0}, "noise must be >= 0, got -1.0"),
        ({"start": "shallow"}, "start must be one of 'sharp', 'wide', got 'shallow'"),
        ({"sharp": [8.0, 4.0], "dim": 3}, "dim must be 2, as long as the arrays, got 3"),
        ({"sharp": [8.0, 4.0], "wide": [1.0, 1.0, 1.0]}, "wide must be a scalar or have the other numbers' shape"),
        ({"initial_std": -1.0}, "initial_std must be >= 0, got -1.0"),
        ({"dim": 0}, "dim must be an integer in"),
    ],
)
def test_no_two_wells(numbers, message):
    with pytest.raises(ParameterError, match=message):
        DoubleWell(**numbers)


@pytest.mark.parametrize("wells", [DoubleWell(start="wide", initial_std=0.4), QuarticWell(quartic=[0.5, 2.0])])
def test_initial_risk_is_an_integral(wells):
    def density(x, i):
        z = (x - wells.initial_mean[i]) / wells.initial_std[i]
        loss = wells.loss(np.full(wells.size, x))[i] - wells.floor[i]
        return loss * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) / wells.initial_std[i]

    parts = [integrate.quad(density, -12, 12, args=(i,), points=[-0.5, 0, 1], limit=400)[0] for i in range(wells.size)]
    assert wells.initial_risk == pytest.approx(sum(parts), rel=1e-9)
    assert QuarticWell(curvature=2.0, quartic=3.0).initial_risk == pytest.approx(1.0 + 0.75 * 3.0, rel=1e-12)


@pytest.mark.parametrize("wells", [DoubleWell(), QuarticWell([1.0, 2.0]), Ripples([1.0, 2.0], initial_std=0.5)])
def test_comparable_hashable_picklable_readable(wells):
    again = pickle.loads(pickle.dumps(wells))
    assert again == wells
    assert hash(again) == hash(wells)
    assert isinstance(wells, Landscape)
    assert repr(wells).startswith(type(wells).__name__ + "(dim=")
    assert wells.to_dict()["landscape"] == type(wells).__name__
    with pytest.raises(ValueError, match="read-only"):
        again.noise[0] = 1.0
    assert wells != QuarticWell(3.0)


def test_a_landscape_of_ones_own():
    ripples = Ripples(curvature=[1.0, 0.5], initial_mean=[1.0, -1.0], multiplicity=[2, 3])
    assert ripples.dim == 5
    np.testing.assert_array_equal(ripples.depth, [0.3, 0.3])
    # The variance branches, so it takes a number at a time.
    np.testing.assert_allclose(ripples.variance([[1.0, -1.0], [2.0, 2.0]]), [[1.5, 1.0], [3.0, 3.0]])
    with pytest.raises(ParameterError, match=r"curvature must be > 0, got 0\.0"):
        Ripples(curvature=0.0)
    with pytest.raises(TypeError, match="curvature"):
        Ripples()
    with pytest.raises(TypeError, match="width"):
        Ripples(curvature=1.0, width=2.0)


def made(**changes):
    functions = {"loss": ripples_loss, "gradient": ripples_gradient, "variance": ripples_variance}
    options = {name: changes.pop(name) for name in ("minimum", "region") if name in changes}
    functions.update(changes)

    @mcnqm.landscape(**functions, **options)
    class Made(NamedTuple):
        curvature: float = 1.0
        depth: float = 0.3
        noise: float = 1.0

    return Made


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"gradient": lambda x, p: p.curvature * x}, "gradient", "must be the derivative of the loss"),
        ({"gradient": lambda x, p: -ripples_gradient(x, p)}, "gradient", "must be the derivative of the loss"),
        ({"gradient": lambda x, p: ripples_gradient(x, p) + 1e-4}, "gradient", "must be the derivative of the loss"),
        ({"loss": lambda x, p: np.log(x)}, "loss", "must be finite about the start"),
        ({"variance": lambda x, p: p.noise - x}, "variance", "must be >= 0"),
        (
            {"variance": lambda x, p: p.width},
            "variance",
            "must be a function (.*) of numbers in Made, got .AttributeError",
        ),
        ({"variance": lambda x: 1.0}, "variance", "must be a function (.*) of numbers in Made, got .TypeError"),
        ({"minimum": lambda p: 1.0}, "minimum", "must be where the loss is least"),
        ({"region": lambda p: (1.0, -1.0)}, "region", "must return"),
    ],
)
def test_functions_that_do_not_fit_together(changes, name, message):
    with pytest.raises(ParameterError, match=message) as error:
        made(**changes)()
    assert error.value.name == name
    assert "\n" not in str(error.value)


def test_functions_that_fit_are_taken():
    made(minimum=lambda p: 0.0, region=lambda p: (-100.0, 100.0))()
    made(loss=lambda x, p: ripples_loss(x, p) + 7.0)()


def test_what_is_no_landscape():
    decorate = mcnqm.landscape(ripples_loss, ripples_gradient, basin_variance)
    with pytest.raises(ParameterError, match="landscape must decorate a NamedTuple"):
        decorate(int)

    class Taken(NamedTuple):
        loss: float

    with pytest.raises(ParameterError, match="have fields of other names"):
        decorate(Taken)

    class Fine(NamedTuple):
        depth: float

    with pytest.raises(ParameterError, match="domains must name fields of Fine"):
        mcnqm.landscape(ripples_loss, ripples_gradient, basin_variance, width=positive)(Fine)
    with pytest.raises(ParameterError, match="gradient must be a function"):
        mcnqm.landscape(ripples_loss, None, basin_variance)(Fine)


def test_theory_says_who_takes_landscapes():
    for question in (
        lambda: mcnqm.analytic.risk(DoubleWell(), mcnqm.SGD(lr=0.1), 4, 10),
        lambda: mcnqm.steps_to_target(Basin(), mcnqm.SGD(lr=0.1), 4, method="analytic"),
        lambda: mcnqm.tune(Basin(), mcnqm.SGD(lr=0.1), {"lr": (0.1, 1.0)}, batch_size=4, method="analytic"),
    ):
        with pytest.raises(ParameterError, match=r"problem must be a mcnqm\.NoisyQuadratic") as error:
            question()
        assert "mcnqm.simulate" in str(error.value)
