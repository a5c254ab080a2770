"""Optimised schedules: never worse than what they are compared with, and as short as they claim to be."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import mcnqm
from mcnqm import SGD, NoisyQuadratic, ParameterError, analytic
from mcnqm.scheduling import optimize_schedule, scheduled_optimizer
from mcnqm.scheduling.composed import Composed
from mcnqm.scheduling.families import Cosine, Exponential, Free, log_risk_and_gradient
from mcnqm.scheduling.greedy import GreedyWalk
from mcnqm.scheduling.pieces import Layout, piece_lengths
from mcnqm.scheduling.rule import Rule
from mcnqm.scheduling.search import BASELINES, LinearSearch
from mcnqm.scheduling.small_rate import SmallRateLimit

TARGET = 0.01
BATCHES = 4 ** np.arange(9)


@pytest.fixture(scope="module")
def problem() -> NoisyQuadratic:
    return NoisyQuadratic.power_law(dim=300)


@pytest.fixture(scope="module")
def sweep(problem: NoisyQuadratic) -> xr.Dataset:
    return optimize_schedule(problem, SGD(lr=0.1), BATCHES, target=TARGET)


def step_by_step(problem: NoisyQuadratic, optimizer: SGD, batch_size: float, steps: int) -> float:
    """Risk under schedules, by the optimizers' printed equations and nothing else."""
    t = np.arange(steps)
    lr = optimizer.lr(t) if callable(optimizer.lr) else np.full(steps, optimizer.lr)
    beta = optimizer.momentum(t) if callable(optimizer.momentum) else np.full(steps, optimizer.momentum)
    h, noise = problem.curvature, problem.noise / batch_size
    scale = h ** -float(optimizer.precondition)
    P, C, Q = problem.initial_second_moment.copy(), np.zeros(h.size), np.zeros(h.size)
    for a, b in zip(np.asarray(lr), np.asarray(beta), strict=True):
        Q = b * b * Q + 2 * b * h * C + h * h * P + noise
        R = b * C + h * P  # of θ and the new buffer
        if optimizer.nesterov:  # θ - a (g + b m')
            gg, gm = h * h * P + noise, b * h * C + h * h * P + noise
            s = a * scale
            P, C = (
                P - 2 * s * (h * P + b * R) + s * s * (gg + 2 * b * gm + b * b * Q),
                R - s * (gm + b * Q),
            )
        else:
            s = a * scale
            P, C = P - 2 * s * R + s * s * Q, R - s * Q
    return float(0.5 * np.sum(problem.multiplicity * h * P))


# -------------------------------------------------------------------------------------------------- never worse


def test_never_worse_than_any_baseline_at_any_batch_size(sweep: xr.Dataset) -> None:
    assert (sweep["steps"] <= sweep["baseline_steps"]).all()
    assert (sweep["risk"] <= sweep["baseline_risk"] * (1 + 1e-12)).all()
    assert (sweep["gain"] >= 1).all()
    assert (sweep["risk"] <= TARGET).all()


@pytest.mark.parametrize("steps", [1, 3, 40, 1000])
@pytest.mark.parametrize("spacing", ["geometric", "equal"])
def test_never_worse_at_a_fixed_horizon(problem: NoisyQuadratic, steps: int, spacing: str) -> None:
    for pieces in (1, 7):
        best = optimize_schedule(problem, SGD(lr=0.1), [1, 64, 65536], steps=steps, pieces=pieces, spacing=spacing)
        names = list(BASELINES) if pieces >= steps else ["constant"]
        assert (best["risk"] <= best["baseline_risk"].sel(baseline=names) * (1 + 1e-12)).all()


@pytest.mark.parametrize(("batch_size", "steps"), [(64, 477), (16, 1500)])
def test_smooth_families_are_the_best_of_theirs_step_by_step(
    problem: NoisyQuadratic, batch_size: int, steps: int
) -> None:
    """256 pieces stand for the single steps of a long exponential or cosine."""
    optimizer = SGD(lr=0.1)
    composed = Composed.of(problem, batch_size)
    search = LinearSearch(
        composed, composed, Rule.of(problem, optimizer, False), Layout(50, "geometric", None), None, batch_size, 0.1
    )
    for name, make in (("exponential", mcnqm.schedules.exponential), ("cosine", mcnqm.schedules.cosine)):
        found, p = search.smooth(name, steps)
        first, final = 2.0 * np.exp(p[0]), np.exp(p[1]) if name == "exponential" else p[1]
        risk = composed.risk(*found.values(search.rule), found.lengths)

        def walked(first: float, final: float, make=make) -> float:
            schedule = make(first, steps, final) if final > 0 else mcnqm.schedules.cosine(first, steps)
            return step_by_step(problem, SGD(lr=schedule), batch_size, steps)

        assert risk == pytest.approx(walked(first, final), rel=2e-4)
        for up in (0.9, 1.1):
            assert walked(min(first * up, 2.0), final) >= risk * 0.9998
            assert walked(first, min(final * up, 1.0)) >= risk * 0.9998


def test_not_below_what_is_possible(problem: NoisyQuadratic, sweep: xr.Dataset) -> None:
    examples = sweep["steps"] * sweep["batch_size"]
    bound = analytic.bayes_bound(problem, examples).risk
    assert (sweep["risk"] >= bound).all()
    assert (sweep["risk"] <= 3 * bound).sel(batch_size=1)


def test_at_small_rates_it_is_the_closed_form(problem: NoisyQuadratic, sweep: xr.Dataset) -> None:
    """Which is a minimum over all schedules: nothing was left on the table."""
    limit = SmallRateLimit.of(problem)
    for batch_size, tolerance in ((1, 0.005), (4, 0.007)):
        fewest = limit.examples(TARGET) / batch_size
        assert float(sweep["steps"].sel(batch_size=batch_size)) == pytest.approx(fewest, rel=tolerance)
    many = optimize_schedule(problem, SGD(lr=0.1), 1, steps=22000, pieces=500, baselines=False)
    assert float(many["risk"]) == pytest.approx(limit.risk(22000), rel=1e-3)


def test_where_greedy_is_the_optimum_pieces_come_close_to_it() -> None:
    """Under Newton's preconditioner and C = H all coordinates are alike: one step's best is best altogether."""
    problem = NoisyQuadratic.power_law(dim=300)
    risks = {
        pieces: optimize_schedule(problem, SGD(lr=0.1, precondition=1.0), 16, steps=900, pieces=pieces)
        for pieces in (50, 900)
    }
    optimum = risks[50]["baseline_risk"].sel(baseline="greedy").item()
    assert 1.0 <= risks[50]["risk"].item() / optimum <= 1.002
    assert risks[900]["risk"].item() == pytest.approx(optimum, rel=1e-9)


# ------------------------------------------------------------------------------------------------ what the answer is


@pytest.mark.parametrize("batch_size", [1, 64, 4096])
def test_one_piece_is_the_best_constant(problem: NoisyQuadratic, batch_size: int) -> None:
    one = optimize_schedule(problem, SGD(lr=0.1), batch_size, target=TARGET, pieces=1, baselines=False)
    tuned = mcnqm.tune(
        problem, SGD(lr=0.1), {"lr": (0.001, 1.9)}, batch_size=batch_size, target=TARGET, method="analytic"
    )
    steps = float(one["steps"])
    assert steps == pytest.approx(float(tuned["steps"]), rel=0.003, abs=1)
    # The closed form agrees, and no rate nearby needs fewer.
    near = float(one["lr"][0]) * np.linspace(0.98, 1.02, 81)
    passages = analytic.steps_to_target(problem, SGD(lr=near), batch_size, TARGET)["steps"].values
    assert passages.min() == steps


@pytest.mark.parametrize("pieces", [2, 50, 500])
@pytest.mark.parametrize("batch_size", [4, 1024])
def test_any_number_of_pieces(problem: NoisyQuadratic, pieces: int, batch_size: int) -> None:
    steps = 5000 // batch_size + 200
    best = optimize_schedule(problem, SGD(lr=0.1), batch_size, steps=steps, pieces=pieces)
    assert best.sizes["piece"] == min(pieces, steps)
    assert int(best["length"].sum()) == steps
    assert best["start"].values.tolist() == [0, *np.cumsum(best["length"].values)[:-1]]
    assert float(best["risk"]) <= float(best["baseline_risk"].sel(baseline="constant")) * (1 + 1e-12)
    exact = step_by_step(problem, scheduled_optimizer(best), batch_size, steps)
    assert float(best["risk"]) == pytest.approx(exact, rel=1e-11)
    # Twice the pieces, each of half the length, contain them: more pieces are never worse.
    if pieces == 2:
        more = np.repeat(best["length"].values // 2, 2)
        more[1::2] += best["length"].values % 2
        finer = optimize_schedule(problem, SGD(lr=0.1), batch_size, steps=steps, lengths=more, baselines=False)
        assert float(finer["risk"]) <= float(best["risk"]) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("optimizer", "tune_momentum"),
    [
        (SGD(lr=0.1, momentum=0.9), False),
        pytest.param(SGD(lr=0.1, momentum=0.8, nesterov=True), False, marks=pytest.mark.slow),
        (SGD(lr=0.1, precondition=0.5), False),
        pytest.param(SGD(lr=0.1, momentum=0.9), True, marks=pytest.mark.slow),
        pytest.param(SGD(lr=0.1, momentum=0.5, nesterov=True, precondition=0.5), True, marks=pytest.mark.slow),
    ],
)
def test_momentum_and_preconditioners(optimizer: SGD, tune_momentum: bool) -> None:
    problem = NoisyQuadratic.power_law(dim=30)
    batch = [8, 64]
    best = optimize_schedule(problem, optimizer, batch, target=0.03, pieces=25, tune_momentum=tune_momentum)
    others = best["baseline_steps"].dropna("baseline", how="all")
    assert list(others["baseline"].values) == (list(BASELINES) if not (optimizer.momentum or tune_momentum) else
        ["constant", "exponential", "cosine"])  # fmt: skip
    assert (best["steps"] <= others).all()
    # A piece may have momentum 0, which Nesterov's form has no constant setting of: this little stands for it.
    momentum = best["momentum"].fillna(optimizer.momentum).rename(piece="k").clip(1e-300 if optimizer.nesterov else 0.0)
    bound = analytic.largest_stable_lr(problem, optimizer._replace(momentum=momentum))
    assert (
        (best["lr"].rename(piece="k") < bound["largest_stable_lr"])
        .where(best["length"].rename(piece="k") > 0, True)
        .all()
    )
    if tune_momentum:
        assert (best["momentum"].max("piece") > best["momentum"].min("piece")).any()
        fixed = optimize_schedule(problem, optimizer, batch, target=0.03, pieces=25, baselines=False)
        assert (best["steps"] <= fixed["steps"]).all()
    else:
        assert (best["momentum"].where(best["length"] > 0, optimizer.momentum) == optimizer.momentum).all()
    found = scheduled_optimizer(best)
    for k, b in enumerate(batch):
        one = scheduled_optimizer(best.isel(batch_size=k))
        steps = int(best["steps"][k])
        assert float(best["risk"][k]) == pytest.approx(step_by_step(problem, one, b, steps), rel=1e-9)
        rates = found.lr(np.arange(steps)).sel(batch_size=b).values
        assert np.array_equal(rates, one.lr(np.arange(steps)))


@pytest.mark.parametrize("batch_size", [1, 64, 4096])
def test_one_step_less_does_not_do(problem: NoisyQuadratic, sweep: xr.Dataset, batch_size: int) -> None:
    steps = int(sweep["steps"].sel(batch_size=batch_size))
    fewer = optimize_schedule(problem, SGD(lr=0.1), batch_size, steps=steps - 1, baselines=False)
    assert float(fewer["risk"]) > TARGET
    same = optimize_schedule(problem, SGD(lr=0.1), batch_size, steps=steps, baselines=False)
    assert float(same["risk"]) == pytest.approx(float(sweep["risk"].sel(batch_size=batch_size)), rel=0.1 / steps)


def test_the_start_does_not_decide(problem: NoisyQuadratic) -> None:
    """Neither the given rate, nor the neighbour's schedule, nor the bins."""
    risks = [
        float(optimize_schedule(problem, SGD(lr=lr), 16, steps=1400, bins=bins, baselines=False)["risk"])
        for lr, bins in ((1e-6, 100), (0.1, 100), (1.9, 20), (0.1, 300))
    ]
    along = optimize_schedule(problem, SGD(lr=0.1), [65536, 16], steps=1400, baselines=False)
    risks.append(float(along["risk"].sel(batch_size=16)))
    np.testing.assert_allclose(risks, risks[0], rtol=1e-7)


def test_bins_only_lead_the_way() -> None:
    """The risk is that of the full problem, and its schedule as good as one from the full problem alone."""
    problem = NoisyQuadratic.power_law(dim=400)
    binned = optimize_schedule(problem, SGD(lr=0.1), 16, target=0.02, bins=25)
    full = optimize_schedule(problem, SGD(lr=0.1), 16, target=0.02, bins=400)
    assert int(binned["steps"]) == int(full["steps"])
    exact = step_by_step(problem, scheduled_optimizer(binned), 16, int(binned["steps"]))
    assert float(binned["risk"]) == pytest.approx(exact, rel=1e-11)
    np.testing.assert_allclose(binned["baseline_steps"], full["baseline_steps"], rtol=1e-3)


def test_no_noise_at_all() -> None:
    problem = NoisyQuadratic([1.0, 0.1], 0.0)
    best = optimize_schedule(problem, SGD(lr=0.1), 1, target=1e-3)
    assert (best["steps"] <= best["baseline_steps"]).all()


def test_out_of_reach(problem: NoisyQuadratic) -> None:
    best = optimize_schedule(problem, SGD(lr=0.1), [1, 65536], target=TARGET, max_steps=300)
    assert best["steps"].values[0] == np.inf
    assert best["steps"].values[1] < 300
    assert np.isnan(best["lr"].values[0]).all()
    assert not best["length"].values[0].any()
    assert list(scheduled_optimizer(best).lr.scale["batch_size"].values) == [65536]
    with pytest.raises(ParameterError, match="have reached"):
        scheduled_optimizer(best.isel(batch_size=0))


def test_labels_units_and_attributes(problem: NoisyQuadratic, tmp_path) -> None:
    label = xr.DataArray([8, 16], dims="run", coords={"run": ["a", "b"]})
    best = optimize_schedule(problem, SGD(lr=0.1), label, steps=50, pieces=4)
    assert best["lr"].dims == ("run", "piece")
    assert best["baseline_risk"].dims == ("run", "baseline")
    assert all("units" in best[name].attrs for name in best.data_vars)
    best.to_netcdf(tmp_path / "schedules.nc", engine="scipy")
    again = xr.load_dataset(tmp_path / "schedules.nc", engine="scipy")
    assert scheduled_optimizer(again) == scheduled_optimizer(best)
    assert "units" not in scheduled_optimizer(best)._fields


def test_simulation_agrees() -> None:
    """False alarms: 1.3e-4, two looks at 4 standard errors. Half the rates must fail."""
    problem = NoisyQuadratic.power_law(dim=30)
    best = optimize_schedule(problem, SGD(lr=0.1), [64, 1024], steps=200, pieces=10, baselines=False)
    runs = mcnqm.simulate(problem, scheduled_optimizer(best), best["batch_size"], 200, trajectories=64, record=[200])
    z = (runs["risk"].isel(step=0) - best["risk"]) / runs["risk_stderr"].isel(step=0)
    assert (np.abs(z) < 4).all()
    slow = scheduled_optimizer(best.assign(lr=0.5 * best["lr"]))
    other = mcnqm.simulate(problem, slow, best["batch_size"], 200, trajectories=64, record=[200])
    z = (other["risk"].isel(step=0) - best["risk"]) / other["risk_stderr"].isel(step=0)
    assert (np.abs(z) > 4).any()


def test_piece_lengths() -> None:
    for steps in (1, 2, 7, 49, 50, 51, 1000, 2**40 + 3):
        for pieces in (1, 2, 50, 500):
            for spacing in ("geometric", "equal"):
                lengths = piece_lengths(steps, pieces, spacing)
                assert lengths.sum() == steps
                assert lengths.min() >= 1
                assert lengths.size == min(steps, pieces)


def test_greedy_is_dynamic_programming_with_equation_3(problem: NoisyQuadratic) -> None:
    """Step by step with the public one-step rate, cut where it would be unstable."""
    P, steps = problem.initial_second_moment, 30
    for _ in range(steps):
        a = min(analytic.greedy_lr(problem, 512, P)["lr"].item(), 2.0)
        P = (1 - a * problem.curvature) ** 2 * P + a * a * problem.noise / 512
    walk = GreedyWalk(Composed.of(problem, 512.0), 2.0)
    walk.advance(steps)
    assert walk.risk == pytest.approx(0.5 * float(problem.curvature @ P), rel=1e-12)


def test_strides_of_the_greedy_walk_change_little(problem: NoisyQuadratic, monkeypatch: pytest.MonkeyPatch) -> None:
    def passage() -> int:
        walk = GreedyWalk(Composed.of(problem, 16.0), 2.0)
        walk.advance(10**6, TARGET)
        return walk.step

    strided = passage()
    P, step = problem.initial_second_moment.copy(), 0
    h, c = problem.curvature, problem.noise / 16
    while 0.5 * h @ P > TARGET:
        a = min(h**2 @ P / (h @ (h**2 * P + c)), 2.0)
        P = (1 - a * h) ** 2 * P + a * a * c
        step += 1
    assert strided == pytest.approx(step, rel=3e-4)


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("kind", [Free, Exponential, Cosine])
def test_gradients_that_the_descent_sees(tuned: bool, nesterov: bool, kind: type) -> None:
    problem = NoisyQuadratic.power_law(dim=20)
    optimizer = SGD(lr=0.1, momentum=0.6, nesterov=nesterov, precondition=0.5)
    rule = Rule.of(problem, optimizer, tuned)
    composed = Composed.of(problem, 8.0, precondition=0.5, nesterov=nesterov)
    family = kind(piece_lengths(60, 6), tuned)
    rng = np.random.default_rng(0)
    low, high = np.array(family.bounds()).T
    p = np.clip(rng.uniform(-2.0, -0.5, low.size), low, high)
    p = np.where(low == 0.0, rng.uniform(0.2, 0.8, low.size), p)
    function = log_risk_and_gradient(composed, rule, family)
    _, slopes = function(p)
    for k in range(p.size):
        up, down = p.copy(), p.copy()
        up[k] += 1e-5
        down[k] -= 1e-5
        assert slopes[k] == pytest.approx((function(up)[0] - function(down)[0]) / 2e-5, rel=1e-6, abs=1e-9)


# ----------------------------------------------------------------------------------------------------------- errors


class Stop:
    """A meter at which somebody presses Ctrl-C."""

    def __init__(self) -> None:
        self.closed = False

    def start(self, total: float, label: str) -> None:
        assert total == 2

    def advance(self, amount: float) -> None:
        raise KeyboardInterrupt

    def close(self) -> None:
        self.closed = True


def test_interruption_closes_the_meter(problem: NoisyQuadratic) -> None:
    meter = Stop()
    with pytest.raises(KeyboardInterrupt):
        optimize_schedule(problem, SGD(lr=0.1), [1, 2], steps=5, baselines=False, progress=meter)
    assert meter.closed


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"steps": None}, "steps, target"),
        ({"target": 0.1}, "steps, target"),
        ({"steps": 0}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"steps": None, "target": 0.0}, "target"),
        ({"steps": None, "target": 100.0}, "target"),
        ({"steps": None, "target": [0.1, 0.2]}, "target"),
        ({"steps": None, "target": 0.1, "lengths": [5, 5]}, "lengths"),
        ({"lengths": [5, 6]}, "lengths"),
        ({"lengths": [10, 0]}, "lengths"),
        ({"lengths": [5.0, 5.0]}, "lengths"),
        ({"pieces": 0}, "pieces"),
        ({"spacing": "random"}, "spacing"),
        ({"tune_momentum": 1}, "tune_momentum"),
        ({"baselines": "all"}, "baselines"),
        ({"bins": 0}, "bins"),
        ({"steps": None, "target": 0.1, "max_steps": 0}, "max_steps"),
        ({"progress": "loud"}, "progress"),
        ({"batch_size": 0.5}, "batch_size"),
        ({"batch_size": [[1, 2]]}, "batch_size"),
        ({"batch_size": mcnqm.schedules.constant(4)}, "batch_size"),
        ({"optimizer": 3}, "optimizer"),
        ({"optimizer": SGD(lr=[0.1, 0.2])}, "lr"),
        ({"optimizer": SGD(lr=mcnqm.schedules.constant(0.1))}, "lr"),
        ({"optimizer": SGD(lr=0.1, momentum=[0.1, 0.2])}, "momentum"),
        ({"problem": 3}, "problem"),
    ],
)
def test_refused(changes: dict, name: str) -> None:
    given = {"problem": NoisyQuadratic.power_law(dim=5), "optimizer": SGD(lr=0.1), "batch_size": 4, "steps": 10}
    with pytest.raises(ParameterError) as caught:
        optimize_schedule(**{**given, **changes})
    assert caught.value.name == name


@pytest.mark.parametrize("wrong", [3, xr.Dataset(), xr.Dataset(attrs={"config": "{}"})])
def test_schedules_of_refuses(wrong) -> None:
    with pytest.raises(ParameterError, match="result"):
        scheduled_optimizer(wrong)
