"""The mean-field study and its figure: sane numbers, nothing hidden."""

from __future__ import annotations

import dataclasses
from itertools import combinations, pairwise

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm.errors import ParameterError
from mcnqm.files import write_dataset
from mcnqm.plots.mean_field import plot_mean_field
from mcnqm.studies.mean_field import VARIANTS, MeanFieldConfig, _points, run

CONFIG = MeanFieldConfig(
    mcnqm.NoisyQuadratic.power_law(30), batch_sizes=(4, 64, 4096), beta2=(0.9, 0.99), target=0.1, trajectories=32
)


@pytest.fixture(scope="module")
def study():
    return run(CONFIG)


def test_shape_and_units(study):
    assert dict(study.sizes) == {"variant": len(VARIANTS), "beta2": 2, "batch_size": 3, "point": 12}
    assert study.risk_error.dims == ("variant", "beta2", "batch_size", "point")
    assert study.risk.attrs["units"] == "loss"
    assert study.predicted_steps.attrs["units"] == "steps"
    assert study.attrs["target"] == 0.1
    assert study.attrs["dim"] == 30


def test_the_points_end_beyond_the_predicted_steps(study):
    step, predicted = study.step.values, study.predicted_steps.values
    assert np.nanmax(step, axis=-1) == pytest.approx(np.ceil(1.1 * predicted))
    assert (step == predicted[..., None]).any(axis=-1).all()
    assert not (np.diff(step, axis=-1) <= 0).any()


@pytest.mark.parametrize("predicted", [1, 2, 9, 11, 14, 37, 1000, 137_000])
@pytest.mark.parametrize("count", [3, 12])
def test_as_many_points_as_there_is_room_for(predicted, count):
    at = _points(predicted, count)
    last = int(np.ceil(1.1 * predicted))
    assert at.size <= count
    assert at.size >= min(count, last) - 1
    assert (np.diff(at) > 0).all()
    assert at[0] >= 1
    assert list(at[-2:]) == [predicted, last]


def test_the_theory_is_right_where_it_should_be(study):
    """Within 5 %, in runs of 20 to 50 steps, where v averages over few of them; one twin is off by factors."""
    assert (study.rms_error.sel(variant=["full", "no fluctuations", "fine rule"]) < 0.05).all()
    assert (study.rms_error.sel(variant="fine rule", batch_size=4096) < 0.02).all()
    assert (study.rms_error.sel(variant="one twin") > 0.1).all()
    assert (study.rms_error.sel(variant="one twin", batch_size=[64, 4096]) > 0.3).all()
    target = study.predicted_risk.sel(variant="full", batch_size=[4, 64]).isel(point=-2)
    assert (np.abs(target / 0.1 - 1) < 0.05).all()  # the predicted step comes last but one


def test_a_wrong_theory_would_be_noticed(study):
    """Negative control: of the errors, not of the simulation's noise, which is far below."""
    assert (study.rms_noise < 0.02).all()
    single = study.sel(variant="one twin")
    assert (single.rms_error > 3 * single.rms_error_stderr).all()
    assert (single.rms_error > 1.5 * study.rms_noise).all()


def test_the_summary_is_that_of_the_points(study):
    error = study.risk_error
    assert np.allclose(study.rms_error, np.sqrt((error**2).mean("point")), rtol=1e-12)
    assert np.allclose(np.abs(study.max_error), np.abs(error).max("point"), rtol=1e-12)
    at = study.step == study.predicted_steps
    assert np.allclose(study.target_error, error.where(at).max("point"), rtol=1e-12)
    assert np.allclose(study.rms_noise, np.sqrt(((study.risk_stderr / study.risk) ** 2).mean("point")), rtol=1e-12)
    assert (study.rms_error_stderr > 0).all()


def test_one_twin_is_the_theory_of_a_known_size(study):
    """At the first step its v is an expectation over starting points, by hand."""
    problem, lr = CONFIG.problem, float(study.lr[0, 0])
    variance = problem.noise / 4
    mean_square = problem.curvature**2 + variance
    rate = lr / (np.sqrt(mean_square) + 1e-8)
    moved = (1 - rate * problem.curvature) ** 2 + rate**2 * variance
    risk = 0.5 * float((problem.curvature * moved).sum())
    assert float(study.step[0, 0, 0]) == 1
    assert float(study.predicted_risk.sel(variant="one twin")[0, 0, 0]) == pytest.approx(risk, rel=1e-9)


def test_control_variates_are_worth_most_at_small_batches(study):
    late = study.late_reduction
    assert (late.sel(batch_size=4) > 3 * late.sel(batch_size=4096)).all()
    assert (late > 0.5).all()


def test_independent_of_threads_and_survives_a_file(study, tmp_path):
    fewer = dataclasses.replace(CONFIG, batch_sizes=(64,), beta2=(0.99,))
    again = run(fewer, threads=1)
    assert again.squeeze(drop=True).equals(study.sel(batch_size=64, beta2=0.99, drop=True))
    write_dataset(again, tmp_path / "study.nc")
    assert (xr.load_dataset(tmp_path / "study.nc").rms_error.values == again.rms_error.values).all()


def test_a_target_that_is_never_reached_is_a_gap():
    """At 1e-9 the rate would have to be below all that the search tries."""
    study = run(dataclasses.replace(CONFIG, batch_sizes=(4,), beta2=(0.9,), target=1e-9, search=(0.1, 1.0)))
    assert np.isinf(study.predicted_steps).all()
    for name in ("lr", "risk", "risk_error", "rms_error", "max_error", "target_error", "rms_noise", "late_reduction"):
        assert np.isnan(study[name]).all(), name
    plot_mean_field(study).draw_without_rendering()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"batch_sizes": (4, 1)}, "batch_sizes"),
        ({"beta2": (0.9, 1.0)}, "beta2"),
        ({"target": 1e9}, "target"),
        ({"search": (0.1,)}, "search"),
        ({"points": 2}, "points"),
        ({"trajectories": 1}, "trajectories"),
    ],
)
def test_what_is_not_allowed_is_named(changes, name):
    with pytest.raises(ParameterError, match=name):
        dataclasses.replace(CONFIG, **changes)


def test_the_meter_sees_every_cell():
    class Meter:
        done = total = 0.0
        closed = False

        def start(self, total, label):
            self.total = total

        def advance(self, amount):
            self.done += amount

        def close(self):
            self.closed = True

    meter = Meter()
    run(dataclasses.replace(CONFIG, batch_sizes=(1024, 4096), beta2=(0.9,)), meter=meter)
    assert meter.done == meter.total == 2
    assert meter.closed


# ------------------------------------------------------------------------------------------------------------ figure


def test_every_panel_is_named_and_logarithmic(study):
    figure = plot_mean_field(study)
    assert [axes.get_title() for axes in figure.axes] == ["β₂ = 0.9", "β₂ = 0.99", "control variate, last step"]
    for axes in figure.axes:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_xlabel() == "batch size (examples)"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert "full theory, 16 nodes" in names
    assert "full theory, 64 nodes" in names
    assert len(names) == len(VARIANTS) + 1
    assert "target risk 0.1" in figure.get_suptitle()


def test_points_are_the_studys(study):
    figure = plot_mean_field(study)
    drawn = {container.get_label(): container for container in figure.axes[1].containers}
    line, _, (bars,) = drawn["full theory, 16 nodes"].lines
    assert (line.get_ydata() == study.rms_error.sel(variant="full", beta2=0.99).values).all()
    stderr = study.rms_error_stderr.sel(variant="full", beta2=0.99).values
    tops = np.array([segment[1, 1] for segment in bars.get_segments()])
    assert np.allclose(tops - line.get_ydata(), 2 * stderr)


@pytest.mark.parametrize("betas", [[0], [0, 1], [0, 1, 1]])
def test_nothing_overlaps(study, betas):
    study = study.isel(beta2=betas)
    figure = plot_mean_field(study)
    figure.draw_without_rendering()
    panels = [axes.get_window_extent() for axes in figure.axes]
    tight = [axes.get_tightbbox() for axes in figure.axes]
    (legend,) = figure.legends
    outside = legend.get_window_extent()
    assert not any(one.overlaps(two) for one, two in combinations(tight, 2))
    assert not any(outside.overlaps(box) for box in tight)
    assert figure.bbox.x0 <= outside.x0
    assert outside.x1 <= figure.bbox.x1
    inner = figure.axes[-1].get_legend().get_window_extent()
    for axes, panel, curves in zip(
        figure.axes, panels, [study.rms_error.values] * len(betas) + [study.late_reduction.values], strict=True
    ):
        batch = np.broadcast_to(study.batch_size.values, curves.shape)
        points = axes.transData.transform(np.column_stack([batch.ravel(), curves.ravel()]))
        assert panel.count_contains(points) == len(points)
        if axes is figure.axes[-1]:
            assert not inner.count_contains(points)
        low, high = axes.get_xlim()
        labels = [
            label.get_window_extent()
            for at, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
            if low <= at <= high
        ]
        assert len(labels) >= 3
        assert all(one.x1 < two.x0 for one, two in pairwise(labels))


def test_order_of_dimensions_does_not_matter(study):
    turned = study.transpose("batch_size", "beta2", "variant", "point").isel(batch_size=slice(None, None, -1))
    for one, two in zip(plot_mean_field(study).axes, plot_mean_field(turned).axes, strict=True):
        for a, b in zip(one.lines, two.lines, strict=True):
            assert np.array_equal(a.get_xydata(), b.get_xydata())
