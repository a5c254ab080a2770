"""The studies of wells and of line searches: small ones of each, what they find, and that they resume."""

import numpy as np
import pytest
from bars import bars_of

from mcnqm import ParameterError
from mcnqm.checkpoint import Checkpoint
from mcnqm.plots.line_search import plot_line_search
from mcnqm.plots.minima import plot_minima
from mcnqm.plots.regimes import plot_regimes
from mcnqm.studies import line_search, minima, regimes

SMALL = minima.MinimaConfig(ratios=(0.025,), rates=(0.05, 0.1), steps=2000, dim=32, trajectories=8)


@pytest.fixture(scope="module")
def wells():
    return minima.run(SMALL)


def test_the_rate_selects_at_one_ratio(wells):
    """SGD follows its chain and not the SDE; momentum does not follow SGD's chain: the control."""
    chain, sde = wells.chain.sel(ratio=0.025), wells.sde.sel(ratio=0.025)
    np.testing.assert_allclose(chain, [0.752, 0.852], atol=1e-3)
    np.testing.assert_allclose(sde, 0.669, atol=1e-3)
    z = (wells.simulated - chain) / wells.simulated_stderr
    assert abs(float(z.sel(optimizer="sgd", rate=0.1))) < 4
    assert abs(float(z.sel(optimizer="momentum", rate=0.1))) > 4
    assert float(wells.chain_width.sel(ratio=0.025, rate=0.1)) < float(wells.sde_width.sel(ratio=0.025, rate=0.1))


def test_noise_enters_as_noise_over_batch_size(wells):
    np.testing.assert_allclose(wells.noise_chain.sel(noise=1.0), wells.chain.sel(ratio=0.025))
    half = minima._chain(SMALL, 0.1, 0.0125, 12.0)["chain"]
    assert float(wells.noise_chain.sel(noise=0.5, rate=0.1)) == pytest.approx(half, abs=1e-9)


def test_figures_have_their_panels(wells):
    panels = plot_minima(wells).axes
    assert len(panels) == 6
    drawn = {name: wells[f"{name}_stderr"].values for name in ("simulated", "annealed")}
    for name, error in drawn.items():
        (axes,) = [one for one in panels if one.containers and np.isin(bars_of(one)[:, 0], wells[name].values).all()]
        np.testing.assert_allclose(np.sort(bars_of(axes)[:, 1]), np.sort(2.0 * error.ravel()), rtol=1e-9)


def test_studies_resume_to_the_same_numbers(tmp_path, wells, monkeypatch):
    with Checkpoint(tmp_path / "parts", SMALL.to_dict()) as parts:
        minima.run(SMALL, checkpoint=parts)
        for work in ("_chain", "_simulated", "_annealed"):
            monkeypatch.setattr(minima, work, lambda *given: pytest.fail("it is there already"))
        again = minima.run(SMALL, checkpoint=parts)
        assert again.identical(wells)
        parts.remove(minima.cells_of(SMALL))
    assert not (tmp_path / "parts").exists()


def test_the_factor_of_two_by_both_routes():
    config = line_search.LineSearchConfig(dim=10, steps=(0, 30, 1000), trajectories=64)
    study = line_search.run(config)
    two = study.settled_ratio.sel(optimizer=["sgd", "momentum"])
    np.testing.assert_allclose(two, 2.0, rtol=1e-12)
    assert (abs(study.settled_simulated - 2.0) < 4 * study.settled_stderr).all()
    assert (abs(study.settled_simulated - 1.0) > 4 * study.settled_stderr).all()  # an exact line search is refused
    for label in ("sgd", "momentum"):
        one = study.sel(optimizer=label).isel(step=[0, 1])
        assert (abs(one.expected_ratio - one.theory_ratio) < 4 * one.expected_ratio_stderr).all()
        assert (abs(one.exchange / one.exchange_theory - 1) < 0.3).all()
    assert (study.quadratic_residual < 1e-10).all()
    assert (study.residual > 1e-4).all()
    panels = plot_line_search(study).axes
    assert len(panels) == 4
    late = bars_of(panels[0])[:, 0]
    for mean, error in zip(study.settled_simulated.values, study.settled_stderr.values, strict=True):
        assert bars_of(panels[0])[late == mean, 1] == pytest.approx([2.0 * error])


def test_regimes():
    study = regimes.run(regimes.RegimesConfig(dim=50, batch_sizes=(1, 4, 16, 64, 256, 1024), rates=21, estimates=100))
    np.testing.assert_allclose(study.edge.sel(momentum=0.0), study.edge_formula, rtol=1e-12)
    assert (abs(study.edge.sel(momentum=0.9) / study.edge_formula - 1) > 0.1).any()
    np.testing.assert_allclose(study.gain, study.gain_formula, rtol=1e-9)
    ratio = study.knee / study.scale_end
    assert ((ratio > 0.3) & (ratio < 3)).all()
    assert (study.knee > 5 * study.scale_start).all()
    # First order in n α h, and off by more at large ones: the control.
    small = study.as_one_variance / study.as_one_predicted - 1
    assert (abs(small.sel(rate=0.01)) < 0.01).all()
    assert (abs(small.sel(rate=1.0)) > 0.1).all()
    error = float(study.estimated_stderr) / 10
    assert abs(float(study.estimated - study.exact)) < 5 * error + 0.1 * float(study.exact)
    assert len(plot_regimes(study).axes) == 6


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (minima.MinimaConfig, {"rates": (0.1, 0.1)}),
        (minima.MinimaConfig, {"ratio": 0.0}),
        (minima.MinimaConfig, {"momentum": 1.0}),
        (minima.MinimaConfig, {"separation": 0.1}),
        (regimes.RegimesConfig, {"batch_sizes": (4, 2)}),
        (regimes.RegimesConfig, {"slope": 0.0}),
        (line_search.LineSearchConfig, {"steps": (5, 5)}),
        (line_search.LineSearchConfig, {"directions": 1}),
        (line_search.LineSearchConfig, {"lr": -1.0}),
    ],
)
def test_refusals(config, changes):
    with pytest.raises(ParameterError) as error:
        config(**changes)
    assert error.value.name in changes
