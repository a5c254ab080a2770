"""The figure of risk against steps: the legend says what varies, the title what does not, and nothing hides."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm.cli.parsing import parse_optimizer
from mcnqm.plots import risk
from mcnqm.studies.comparison import compare

PROBLEM = mcnqm.NoisyQuadratic.power_law(dim=10)


def figure_of(specs, batch_size=16, steps=300, **options):
    runs = compare(PROBLEM, {text: parse_optimizer(text) for text in specs}, batch_size, steps, **options)
    return risk(runs)


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []


def curves_of(axes):
    return [line for line in axes.lines if len(line.get_xdata()) > 1]


def test_a_short_sweep_is_named():
    (axes,) = figure_of(["adam lr=1e-3,1e-2,0.1 beta2=0.99"]).axes
    assert legend_of(axes) == ["lr = 0.001", "lr = 0.01", "lr = 0.1"]
    assert axes.get_title() == "adam beta2=0.99, batch size 16, 64 trajectories, band ± 2 standard errors"


def test_the_band_is_two_standard_errors():
    runs = compare(PROBLEM, {"one": parse_optimizer("sgd lr=0.1")}, 16, 50, trajectories=64)
    (axes,) = risk(runs).axes
    (band,) = axes.collections
    (path,) = band.get_paths()
    mean, error = runs.risk.values[0], runs.risk_stderr.values[0]
    for k, step in list(enumerate(runs.step.values))[1:]:  # the axis of steps has no 0
        ends = path.vertices[path.vertices[:, 0] == step, 1]
        assert ends.max() == pytest.approx(mean[k] + 2 * error[k], rel=1e-12)
        assert ends.min() == pytest.approx(mean[k] - 2 * error[k], rel=1e-12)


def test_a_long_sweep_has_a_colour_bar():
    axes, bar = figure_of(["adam lr=1e-4:1e-2:9 beta2=0.99"]).axes
    assert legend_of(axes) == []
    assert len(curves_of(axes)) == 9, "all of them"
    assert axes.get_title().startswith("adam beta2=0.99, batch size 16, 64 trajectories")
    assert bar.get_ylabel() == "lr"
    assert bar.get_yscale() == "log"
    assert [text.get_text() for text in bar.get_yticklabels()][:2] == ["0.0001", "0.000178"]
    colours = [line.get_color() for line in curves_of(axes)]
    assert len(set(colours)) == 9
    assert max(sum(colour[:3]) for colour in colours) < 2.1, "none is lost on white"


def test_a_long_sweep_of_two_kinds():
    axes, bar = figure_of(["sgd lr=0.1", "adam lr=1e-3"], 2.0 ** np.arange(17)).axes
    assert legend_of(axes) == ["sgd lr=0.1", "adam lr=1e-3"]
    assert bar.get_ylabel() == "batch size"
    assert "batch size" not in axes.get_title()
    assert "32 of 34 settings" in axes.get_title()
    assert {line.get_linestyle() for line in curves_of(axes)} == {"-", "--"}


def test_words_that_optimizers_share_are_in_the_title():
    (axes,) = figure_of(["sgd lr=0.1 momentum=0.9", "sgd lr=0.01 momentum=0.9"], [1, 4]).axes
    assert legend_of(axes)[1] == "lr=0.1, batch size = 4"
    assert axes.get_title().startswith("sgd momentum=0.9, 64 trajectories")


def test_a_plain_result_says_its_optimizer_too():
    lr = xr.DataArray([0.1, 0.2], dims="k")  # a dimension without labels is told apart by what varies along it
    (axes,) = risk(mcnqm.simulate(PROBLEM, mcnqm.SGD(lr=lr, momentum=0.5), 8, 100)).axes
    assert legend_of(axes) == ["lr = 0.1", "lr = 0.2"]
    assert axes.get_title().startswith("SGD momentum=0.5, batch size 8")


@pytest.mark.parametrize("count", [3, 12])
def test_what_diverges_does_not_hide_the_rest(count):
    """The axes end near the curves that stay; the others leave at a cross."""
    axes = figure_of([f"sgd lr=0.01:10:{count}"], steps=3000, trajectories=4).axes[0]
    low, high = axes.get_ylim()
    assert high < 100
    assert low > 1e-4
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert crosses
    assert f"× diverged ({len(crosses)})" in axes.get_title()
    for cross in crosses:
        assert axes.get_xlim()[0] < cross.get_xdata()[0] < axes.get_xlim()[1]
        assert low <= cross.get_ydata()[0] <= high
    if count == 3:
        assert legend_of(axes)[-1] == "lr = 10 (diverged)"


def test_where_everything_diverges_it_is_seen_to():
    (axes,) = figure_of(["sgd lr=3"], steps=1000, trajectories=1).axes
    assert axes.get_title() == "sgd lr=3, batch size 16, 1 trajectory, × diverged (1)"
    assert axes.get_ylim()[1] > 1e15
    assert not axes.collections, "no band of a single trajectory"


def test_a_figure_of_many_settings_can_be_laid_out(tmp_path, recwarn):
    figure_of(["sgd lr=0.01:10:16"], steps=3000, trajectories=2).savefig(tmp_path / "a.png")
    # Matplotlib's lowest version uses names that its own dependencies deprecate.
    assert not [w for w in recwarn.list if not issubclass(w.category, DeprecationWarning)]
