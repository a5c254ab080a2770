import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import mcnqm
from mcnqm import SGD, Adam, NoisyQuadratic, ParameterError, analytic, plots, schedules
from mcnqm.files import write_dataset
from mcnqm.studies.comparison import compare

PROBLEM = NoisyQuadratic.power_law(20)
MOMENTUM = SGD(lr=0.05, momentum=0.9)


@pytest.fixture(scope="module")
def runs():
    return mcnqm.simulate(PROBLEM, MOMENTUM, 8, 300, trajectories=40, coordinates=[0, 4, 19])


def picture(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255.0


def lines(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def read_back(result, tmp_path):
    write_dataset(result, tmp_path / "result.nc")
    with xr.open_dataset(tmp_path / "result.nc") as back:
        return back.load()


@pytest.mark.parametrize("view", ["ensemble", "paths", "distribution", "risk"])
def test_a_file_gives_the_same_picture(runs, view, tmp_path):
    fresh = plots.VIEWS[view](runs)
    assert isinstance(fresh, Figure)
    again = plots.VIEWS[view](read_back(runs, tmp_path))
    np.testing.assert_array_equal(picture(fresh), picture(again))
    assert picture(fresh).std() > 0.03


def test_every_view_is_public_and_shows_in_notebooks(runs):
    assert plots.VIEWS["ensemble"] is plots.ensemble
    assert {"ensemble", "paths", "phase", "distribution", "heatmap", "state", "risk"} <= set(plots.VIEWS)
    assert set(plots.__all__) <= set(dir(plots))
    assert plots.ensemble(runs)._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = plots.nothing


def test_an_ensemble_has_the_exact_law_through_it(runs):
    (axes,) = plots.ensemble(runs).axes
    (exact,) = lines(axes, "risk, exact")
    steps, values = exact.get_data()
    expected = analytic.risk(PROBLEM, MOMENTUM, 8, 300, record=np.asarray(steps, dtype=int)).risk
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    (simulated,) = lines(axes, "risk, simulated")
    np.testing.assert_array_equal(simulated.get_ydata(), runs.risk[1:])
    assert len(lines(axes, "quantiles, exact")) == 1
    assert "risk, exact" not in legend(plots.ensemble(runs, theory=False).axes[0])
    adam = mcnqm.simulate(PROBLEM, Adam(lr=0.01), 8, 100, trajectories=8)
    names = legend(plots.ensemble(adam).axes[0])
    assert names == ["single losses (8)", "risk, simulated"]  # no bands of eight, no exact law


def test_the_setting_that_is_drawn_is_the_one_theory_is_asked_about():
    decay = schedules.stack({"slow": schedules.cosine(0.2, 100), "fast": schedules.cosine(0.2, 20)})
    runs = mcnqm.simulate(PROBLEM, SGD(lr=decay, momentum=[0.0, 0.5]), 8, 100, trajectories=4)
    one = runs.isel(schedule=1).sel(momentum=0.5)
    (axes,) = plots.ensemble(one).axes
    (exact,) = lines(axes, "risk, exact")
    steps, values = exact.get_data()
    fast = SGD(lr=schedules.cosine(0.2, 20), momentum=0.5)
    expected = analytic.risk(PROBLEM, fast, 8, 100, record=np.asarray(steps, dtype=int)).risk
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    titles = [axes.get_title() for axes in plots.ensemble(runs).axes]
    assert titles == ["slow, momentum = 0", "slow, momentum = 0.5", "fast, momentum = 0", "fast, momentum = 0.5"]


def test_optimizers_that_were_compared_have_a_theory_each():
    both = compare(PROBLEM, {"plain": SGD(lr=0.1), "adam": Adam(lr=0.01)}, 8, 50, trajectories=4)
    left, right = plots.ensemble(both).axes
    assert len(lines(left, "risk, exact")) == 1
    assert len(lines(right, "risk, exact")) == 0


def test_a_dataset_of_ones_own_needs_no_provenance(runs):
    plain = runs.drop_attrs()
    assert "risk, exact" not in legend(plots.ensemble(plain).axes[0])
    plots.paths(plain).draw_without_rendering()


def test_diverged_losses_leave_the_others_visible():
    runs = mcnqm.simulate(PROBLEM, SGD(lr=[0.1, 3.0]), 8, 400, trajectories=32)
    calm, wild = plots.ensemble(runs).axes
    assert calm.get_ylim()[1] < 100
    assert np.isfinite(wild.get_ylim()).all()
    assert picture(plots.distribution(runs.sel(lr=3.0), steps=[400])).std() > 0.01


def test_a_distribution_is_a_density(runs):
    left, middle, right = plots.distribution(runs).axes
    assert [axes.get_title() for axes in (left, middle, right)] == ["step 3", "step 28", "step 300"]
    (law,) = lines(right, "law, exact")
    x, density = law.get_data()
    assert np.trapezoid(density, x) == pytest.approx(0.995, abs=0.004)
    (bars,) = right.patches
    heights, edges, _ = bars.get_data()
    assert np.sum(heights * np.diff(edges)) == pytest.approx(1.0, abs=0.03)
    assert len(plots.distribution(runs, steps=[0, 300]).axes) == 2
    with pytest.raises(ParameterError, match=r"steps must be recorded: 0, \[1\], ... 300"):
        plots.distribution(runs, steps=[299, 1000])
    with pytest.raises(ParameterError, match="at least 20 trajectories"):
        plots.distribution(runs.isel(trajectory=slice(5)))


def test_paths_lie_in_the_exact_band(runs):
    axes = plots.paths(runs).axes
    assert [one.get_title() for one in axes] == ["coordinate 0", "coordinate 4", "coordinate 19"]
    (band,) = axes[2].collections
    high = band.get_paths()[0].vertices[:, 1].max()
    exact = analytic.moments(PROBLEM, MOMENTUM, 8, 1, record=[1], coordinates=[19])
    assert high == pytest.approx(1.96 * float(np.sqrt(exact.theta_variance[0, 0])), rel=1e-3)


def swept(**options):
    optimizer = SGD(lr=[0.5, 1.0, 1.9, 2.5, 3.5], momentum=[0.0, 0.5, 0.9])
    return mcnqm.simulate(PROBLEM, optimizer, 8, 200, trajectories=8, **options)


def test_a_heatmap_marks_the_best_and_the_edge():
    runs = swept()
    (axes, _) = plots.heatmap(runs, x="momentum", y="lr").axes
    edge = lines(axes, "edge of stability")[0]
    np.testing.assert_allclose(edge.get_ydata()[1:-1], 2.0 * (1.0 + np.array([0.0, 0.5, 0.9])))
    (star,) = lines(axes, "least risk")
    last = runs.risk.isel(step=-1)
    best = last.where(last == last.min(), drop=True)
    assert (star.get_xdata().item(), star.get_ydata().item()) == (best.momentum.item(), best.lr.item())
    turned = plots.heatmap(runs, x="lr", y="momentum").axes[0]
    np.testing.assert_allclose(lines(turned, "edge of stability")[0].get_xdata()[1:-1], [2.0, 3.0, 3.8])
    first = plots.heatmap(runs, step=0).axes[0]
    assert "step 0" in first.get_title()
    assert len(axes.patches) == int((~np.isfinite(last)).sum()) > 0


def test_a_heatmap_of_theory_and_of_unsorted_batches():
    exact = analytic.risk(PROBLEM, SGD(lr=[0.1, 1.0]), [64, 1, 8], 50)
    axes = plots.heatmap(exact, y="lr").axes[0]
    assert axes.get_xlabel() == "batch size (examples)"
    assert axes.get_xscale() == axes.get_yscale() == "log"
    steady = analytic.steady_state(PROBLEM, SGD(lr=[0.1, 1.0]), [64, 1, 8])
    assert len(plots.heatmap(steady).axes) == 2
    with pytest.raises(ParameterError, match="there are no steps"):
        plots.heatmap(steady, step=3)


def test_risks_beyond_all_bounds_leave_shades_to_the_others():
    exact = analytic.risk(PROBLEM, SGD(lr=[0.1, 0.5, 9.0], momentum=[0.0, 0.5]), 8, 150)
    assert float(exact.risk.max()) > 1e200
    figure = plots.heatmap(exact)
    assert figure.axes[0].collections[0].norm.vmax <= 1e4 * float(exact.risk.isel(step=-1).min())
    assert picture(figure).std() > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "beta"}, "x must be one of the swept dimensions: lr, momentum"),
        ({"x": "lr", "y": "lr"}, "y must be another dimension"),
        ({"step": 7.5}, "step must be recorded"),
    ],
)
def test_a_heatmap_refuses_by_name(options, message):
    with pytest.raises(ParameterError, match=message):
        plots.heatmap(swept(), **options)


def test_what_a_file_does_not_allow_is_refused_by_name(runs):
    sweep = mcnqm.simulate(PROBLEM, SGD(lr=np.linspace(0.1, 0.2, 7)), 8, 20, trajectories=2, coordinates=[0])
    refusals = [
        ("paths", runs.drop_vars("theta"), r"runs must hold theta for the view 'paths' \(simulate with coordinates=\)"),
        ("ensemble", runs.drop_vars("loss"), "runs must hold loss"),
        ("phase", runs, r"runs must hold state_momentum .*record_state=True"),
        ("state", runs, r"runs must hold effective_lr"),
        ("heatmap", runs, "sweep two dimensions"),
        ("heatmap", sweep, "sweep two dimensions for the view 'heatmap', not lr"),
        ("ensemble", sweep, "up to 6 settings, for the view 'ensemble': select with .sel or .isel along lr"),
        ("distribution", sweep, "one setting"),
        ("paths", sweep, "one setting"),
        ("scaling", runs, "runs must hold steps for the view 'scaling'"),
        ("schedules", runs, "runs must hold steps"),
        ("batch-growth", runs, "runs must hold theory"),
        ("mean-field", runs, "runs must hold rms_error"),
        ("risk", runs[["theta"]], "runs must hold risk"),
        ("ensemble", 3, "runs must be a Dataset"),
        ("ensemble", runs.isel(step=[0]), "have some: a logarithmic axis has no 0"),
    ]
    for view, result, message in refusals:
        with pytest.raises(ParameterError, match=message):
            plots.VIEWS[view](result)


def test_a_panel_of_ones_own(runs):
    figure = Figure()
    one, two = figure.subplots(1, 2)
    assert plots.ensemble(runs, ax=one) is figure
    assert plots.risk(runs, ax=figure.subplots()) is figure
    plots.distribution(runs, ax=two, steps=300)
    assert one.lines
    assert two.patches
    assert two.get_xlabel() == "loss  L(θ)"
    plots.paths(runs.sel(coordinate=[4]), ax=figure.subplots())
    with pytest.raises(ParameterError, match="3 coordinates"):
        plots.paths(runs, ax=two)
    sweep = mcnqm.simulate(PROBLEM, SGD(lr=[0.1, 0.2]), 8, 20, trajectories=2)
    with pytest.raises(ParameterError, match="one setting, with ax"):
        plots.ensemble(sweep, ax=one)


def test_theory_is_seen_on_a_dark_background(runs):
    with mpl.rc_context({"text.color": "white", "axes.facecolor": "black", "figure.facecolor": "black"}):
        (axes,) = plots.ensemble(runs).axes
        assert lines(axes, "risk, exact")[0].get_color() == "white"


def recorded_state(optimizer, trajectories=6, **options):
    options = {"record": range(101), "record_state": True, **options}
    return mcnqm.simulate(PROBLEM, optimizer, 8, 100, trajectories=trajectories, coordinates=[0, 19], **options)


def test_the_stationary_ellipse_holds_its_share():
    """Of 4000 independent ends, 95 % lie within the outer ellipse: the binomial law allows 93.2 % to 96.6 %, 1e-6."""
    options = {"trajectories": 4000, "record": [0, 100]}
    runs = recorded_state(SGD(lr=0.3, momentum=0.5), **options)
    one, _ = plots.phase(runs.isel(trajectory=slice(8))).axes
    (outer,) = lines(one, "95 % of the stationary law")
    end = runs.isel(step=-1).sel(coordinate=0)
    inside = outer.get_path().contains_points(np.stack([end.theta, end.state_momentum], axis=1)).mean()
    assert 0.932 < inside < 0.966
    # Negative control: another rate.
    other = recorded_state(SGD(lr=0.6, momentum=0.5), **options).isel(step=-1).sel(coordinate=0)
    wrong = outer.get_path().contains_points(np.stack([other.theta, other.state_momentum], axis=1)).mean()
    assert not 0.932 < wrong < 0.966


def test_a_phase_without_a_stationary_law_has_no_ellipse():
    for optimizer in (Adam(lr=0.01), SGD(lr=5.0, momentum=0.5), SGD(lr=schedules.cosine(0.1, 50), momentum=0.5)):
        figure = plots.phase(recorded_state(optimizer))
        assert not figure.legends
        figure.draw_without_rendering()


def test_effective_rates_are_those_of_the_mean_field():
    runs = recorded_state(Adam(lr=0.01, beta2=0.9))
    (axes,) = plots.state(runs).axes
    (field,) = lines(axes, "mean field")
    expected = analytic.effective_lr(PROBLEM, Adam(lr=0.01, beta2=0.9), 8, 100, record=[100], coordinates=[19])
    assert field.get_ydata()[-1] == pytest.approx(expected.effective_lr.item())
    lion = plots.state(recorded_state(mcnqm.NAdam(lr=0.01))).axes[0]
    assert "mean field" not in legend(lion)


def test_quantiles_of_very_many_are_bands(tmp_path):
    runs = mcnqm.simulate(PROBLEM, MOMENTUM, 8, 50, trajectories=200, reduce="quantiles")
    (axes,) = plots.ensemble(read_back(runs, tmp_path)).axes
    assert legend(axes) == ["middle 90 %", "middle 50 %", "risk, simulated", "risk, exact", "quantiles, exact"]


def test_of_noise_of_another_kind_the_mean_is_drawn():
    problem = NoisyQuadratic([1.0, 0.5], multiplicative_noise=0.3)
    runs = mcnqm.simulate(problem, SGD(lr=0.1), 8, 50, trajectories=32, coordinates=[0])
    names = legend(plots.ensemble(runs).axes[0])
    assert "risk, exact" in names
    assert "quantiles, exact" not in names
    assert "± 1.96 standard deviations, exact" in legend(plots.paths(runs).axes[0])
    with pytest.raises(ParameterError, match="problem must have Gaussian noise"):
        analytic.loss_law(problem, SGD(lr=0.1), 8, 50)
