"""The figure of the scaling study: what it says, and that nothing hides."""

from __future__ import annotations

import io
from itertools import pairwise

import matplotlib.image
import numpy as np
import pytest
from bars import bars_of
from made_up_study import study_of
from matplotlib.colors import to_rgba
from selection import mostly_slow

from mcnqm.plots.scaling import plot_scaling


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def picture(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    return matplotlib.image.imread(file)


def test_axes_are_logarithmic_and_named():
    left, right = plot_scaling(study_of()).axes
    for axes in (left, right):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_xlabel() == "batch size (examples)"
    assert left.get_ylabel() == "steps to target"
    assert right.get_ylabel() == "tuned learning rate  (with momentum: α / (1 − β))"
    plain = study_of()
    assert plot_scaling(plain.assign(lr=plain.effective_lr)).axes[1].get_ylabel() == "tuned learning rate"


def test_numbers_and_bounds_are_written_where_they_belong():
    study = study_of()
    study["slope"][0], study["slope_low"][0], study["slope_high"][0] = 1.002, 0.991, 1.013
    study["B_crit"][0], study["B_crit_low"][0], study["B_crit_high"][0] = 657.3, 641.8, 12345.0
    figure = plot_scaling(study)
    left, right = figure.axes
    assert legend_of(left)[0] == "SGD: $B_{crit}$ 657 [642, 12300]"
    assert legend_of(right)[0] == "SGD: slope 1.002 [0.991, 1.013]"
    assert [text.get_text() for text in left.texts] == ["Bayes and information bound"]
    assert figure.get_suptitle() == "target risk 0.01, d = 1000"
    (key,) = figure.legends
    assert "fitted trade-off" in [text.get_text() for text in key.get_texts()]
    study["bayes_bound"] = 0.5 * study["bayes_bound"]
    apart = plot_scaling(study).axes[0]
    assert [text.get_text() for text in apart.texts] == ["information bound", "Bayes bound"]


def test_a_critical_batch_size_stands_at_twice_the_least_steps():
    study = study_of()
    left, _ = plot_scaling(study).axes
    marks = [line for line in left.lines if line.get_marker() == "v" and line.get_xdata().size == 1]
    for k, mark in enumerate(marks):
        assert mark.get_xdata().item() == float(study["B_crit"][k])
        assert mark.get_ydata().item() == 2 * float(study["S_min"][k])


def test_what_is_not_known_is_said():
    study = study_of()
    for name in ("slope", "slope_low", "slope_high", "B_crit"):
        study[name][2] = np.nan
    study["B_crit_low"][2], study["B_crit_high"][2] = 0.0, np.inf
    study["B_crit_high"][1] = np.inf
    study["steps"][2, :4] = np.inf
    study["at_edge"][1, 3] = True
    left, right = plot_scaling(study).axes
    assert legend_of(left)[1].endswith("∞]")
    assert legend_of(left)[2:] == ["Adam: $B_{crit}$ not determined (4 not reached)"]
    (key,) = left.figure.legends
    assert "best rate at the edge of the search" in [text.get_text() for text in key.get_texts()]
    assert legend_of(right)[2] == "Adam: slope not determined (4 not reached)"


def test_bars_are_two_standard_errors():
    study = study_of()
    for axes, name in zip(plot_scaling(study).axes, ("steps", "effective_lr"), strict=True):
        middle, above = bars_of(axes).T
        np.testing.assert_allclose(middle, study[name].values.ravel())
        np.testing.assert_allclose(above, 2.0 * study[f"{name}_stderr"].values.ravel(), rtol=1e-6)


def test_points_lines_and_fill():
    study = study_of()
    left, right = plot_scaling(study).axes
    regime = study["in_regime"].values
    for axes, name in ((left, "steps"), (right, "effective_lr")):
        for rank in range(3):
            colour = axes.get_legend().legend_handles[rank].get_color()
            own = [line for line in axes.lines if line.get_color() == colour and len(line.get_xdata()) > 1]
            markers = [line for line in own if line.get_linestyle() == "None" and line.get_marker() not in ("v", "_")]
            filled, hollow = sorted(markers, key=lambda line: line.get_xdata()[0])[:2]
            for line, chosen in ((filled, regime[rank]), (hollow, ~regime[rank])):
                assert (line.get_xdata() == study["batch_size"].values[chosen]).all()
                assert (line.get_ydata() == study[name].values[rank, chosen]).all()
            assert to_rgba(filled.get_markerfacecolor()) == to_rgba(colour)
            assert to_rgba(hollow.get_markerfacecolor()) == (1.0, 1.0, 1.0, 1.0)
            full = [line for line in own if line.get_linestyle() == "-" and len(line.get_xdata()) > 2]
            dotted = [line for line in own if line.get_linestyle() == ":"]
            assert len(full) == (rank < 2)
            assert len(dotted) == (rank == 2 and axes is left)
    (curve,) = [line for line in left.lines if line.get_linestyle() == ":"]
    S_min, E_min = float(study["S_min"][2]), float(study["E_min"][2])
    assert np.allclose(curve.get_ydata(), S_min + E_min / curve.get_xdata())


@pytest.mark.parametrize("count", mostly_slow(range(1, 7), 3, 6))
@pytest.mark.parametrize(("octaves", "first"), [(17, 0), (4, 3)])
def test_nothing_lies_under_a_legend_or_outside(count, octaves, first):
    study = study_of(count, octaves, first)
    figure = plot_scaling(study)
    assert picture(figure).std() > 0.05
    for axes, name in zip(figure.axes, ("steps", "effective_lr"), strict=True):
        box = axes.get_legend().get_window_extent()
        panel = axes.get_window_extent()
        assert box.y1 < panel.y0
        batch = np.broadcast_to(study["batch_size"].values, study[name].shape)
        points = axes.transData.transform(np.column_stack([batch.ravel(), study[name].values.ravel()]))
        assert not box.count_contains(points)
        assert panel.count_contains(points) == len(points)
        low, high = axes.get_ylim()
        ticks = np.concatenate([axes.yaxis.get_majorticklocs(), axes.yaxis.get_minorticklocs()])
        texts = [t.get_text() for t in (*axes.yaxis.get_ticklabels(), *axes.yaxis.get_ticklabels(minor=True))]
        named = [text for at, text in zip(ticks, texts, strict=True) if low <= at <= high and text]
        assert len(named) >= 2


def test_labels_of_batch_sizes_do_not_overlap():
    for octaves in (3, 9, 17, 25):
        figure = plot_scaling(study_of(octaves=octaves))
        figure.draw_without_rendering()
        low, high = figure.axes[0].get_xlim()
        labels = [
            label.get_window_extent()
            for at, label in zip(figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(), strict=True)
            if low <= at <= high
        ]
        assert len(labels) >= 3
        assert not any(label.get_text() for label in figure.axes[0].get_xticklabels(minor=True))
        assert all(one.x1 < two.x0 for one, two in pairwise(labels))


def test_nothing_reached_and_a_single_batch_size_are_drawn_too():
    study = study_of()
    for name in ("steps", "steps_stderr", "analytic_steps"):
        study[name][:] = np.inf
    assert "17 not reached" in legend_of(plot_scaling(study).axes[0])[0]
    assert picture(plot_scaling(study)).std() > 0.05
    assert picture(plot_scaling(study_of().isel(batch_size=[4]))).std() > 0.05


def test_dimension_order_and_batch_order_do_not_matter():
    study = study_of()
    turned = study.transpose("batch_size", "optimizer").isel(batch_size=slice(None, None, -1))
    assert (picture(plot_scaling(study)) == picture(plot_scaling(turned))).all()
