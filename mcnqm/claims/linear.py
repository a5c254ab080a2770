"""Claims about the risk of linear optimizers at given rates: transients, steady states, bounds."""

from __future__ import annotations

import numpy as np

from mcnqm import analytic
from mcnqm.claims.claim import Ask, Claim, Effect, Found
from mcnqm.claims.curves import Curves, curve
from mcnqm.claims.intervals import exact, quotient
from mcnqm.optimizers import SGD
from mcnqm.problems import NoisyQuadratic
from mcnqm.scheduling.labels import scheduled_optimizer
from mcnqm.scheduling.public import optimize_schedule
from mcnqm.simulation import simulate

__all__ = ["CLAIMS"]

_SAME = (0.95, 1.05)
_STEP = "step"


def _sgd_risk(ask: Ask) -> Found:
    """Simulated risk of three coordinates over equation (4), written out here and not taken from `analytic`."""
    curvature, noise, rate, batch_size = np.array([1.0, 0.1, 0.01]), np.array([1.0, 3.0, 0.2]), 0.5, 4
    at = np.array([0, 3, 10, 30, 100, 300, 1000])
    ran = SGD(lr=rate, momentum=0.5 if ask.control else 0.0)
    effects, series = {}, {}
    for h, c in zip(curvature, noise, strict=True):
        one = NoisyQuadratic(curvature=[h], noise=[c])
        runs = simulate(
            one, ran, batch_size, int(at[-1]), trajectories=ask.lab.budget.trajectories, record=at, **ask.lab.running
        )
        left = (1.0 - rate * h) ** (2 * at)
        predicted = left * 0.5 * h + (1.0 - left) * rate * c / (2.0 * batch_size * (2.0 - rate * h))
        risk, error = runs["risk"].values, runs["risk_stderr"].values / runs["risk"].values
        half_life = int(np.argmin(np.abs(2.0 * rate * h * at - 1.0)))
        if h < 1.0:
            name = f"risk over its closed form in the decay, h = {h:g}"
            effects[name] = quotient(risk[half_life], predicted[half_life], ask.level, error[half_life])
        if h > 0.01:
            name = f"risk over its closed form in the steady state, h = {h:g}"
            effects[name] = quotient(risk[-1], predicted[-1], ask.level, error[-1])
        series[f"simulated, h = {h:g}"] = curve(at, risk, runs["risk_stderr"].values)
        series[f"equation (4), h = {h:g}"] = curve(at, predicted)
    return Found(effects, Curves(series, _STEP, "risk", log_x=False))


def _momentum_bound(ask: Ask) -> Found:
    """Bound over exact risk on a grid of rates and momenta, D_t from the roots, and one simulated run."""
    h = np.array([1.0, 0.3, 0.01])
    problem = NoisyQuadratic(curvature=h, noise=h)
    at = np.unique(np.geomspace(1, 10_000, 40).astype(int))
    optimizer = SGD(lr=[0.003, 0.1, 1.0, 2.5], momentum=[0.3, 0.9, 0.99])
    bound = analytic.theorem1(problem, optimizer, 4, 10_000, record=at)
    stable = bound["bound"].isel(step=-1) < np.inf
    risk = bound["exact"]
    if ask.control:  # twice the rate is another dynamics than the bound is for
        twice = optimizer._replace(lr=2.0 * np.asarray(optimizer.lr))
        risk = analytic.risk(problem, twice, 4, 10_000, record=at)["risk"].assign_coords(lr=bound["lr"])
    least = float((bound["bound"] / risk).where(stable).min())

    lr, beta, one = 0.1, 0.9, NoisyQuadratic(curvature=[0.3], noise=[0.0])
    ran = SGD(lr=lr * (2.0 if ask.control else 1.0), momentum=beta)
    half = 0.5 * (1.0 - lr * 0.3 + beta)
    root = np.sqrt(complex(half**2 - beta))
    first, second = half + root, half - root
    steps = np.arange(101)
    transient = (first ** (steps + 1) - second ** (steps + 1) - beta * (first**steps - second**steps)) / (
        first - second
    )
    plain = analytic.risk(one, ran, 1, 100, record=steps)["risk"].values / one.initial_risk
    gap = float(np.abs(np.real(transient) ** 2 - plain).max())

    run_at = np.array([20, 100, 1000])
    runs = simulate(
        problem,
        SGD(lr=lr * (2.0 if ask.control else 1.0), momentum=beta),
        *(4, 1000),
        trajectories=ask.lab.budget.trajectories,
        record=run_at,
        **ask.lab.running,
    )
    theory = analytic.theorem1(problem, SGD(lr=lr, momentum=beta), 4, 1000, record=run_at)
    effects = {
        "least quotient of bound and exact risk": exact(least, 1e-13),
        "largest gap of D_t² to the run without noise, over the start": exact(gap, 1e-3),
    }
    for k, t in enumerate(run_at):
        error = float(runs["risk_stderr"][k] / runs["risk"][k])
        effects[f"simulated risk over the exact one, step {t}"] = quotient(
            float(runs["risk"][k]), float(theory["exact"][k]), ask.level, error
        )
    shown = analytic.theorem1(problem, SGD(lr=lr, momentum=beta), 4, 10_000, record=at)
    series = {
        "bound of Theorem 1": curve(at, shown["bound"].values),
        "exact risk": curve(at, shown["exact"].values),
        "simulated": curve(run_at, runs["risk"].values, runs["risk_stderr"].values),
    }
    return Found(effects, Curves(series, _STEP, "risk"))


_MEMORIES = (0.5, 0.9, 0.99)


def _momentum_steady(ask: Ask) -> Found:
    """Steady state and decay of the heavy ball over those of SGD at the effective rate, one coordinate."""
    problem = NoisyQuadratic(curvature=[1.0])
    effects, series = {}, {}
    scale = 0.25 if ask.control else 0.01
    for beta in _MEMORIES:
        effective = scale * (1.0 - beta)
        heavy, plain = SGD(lr=effective * (1.0 - beta), momentum=beta), SGD(lr=effective)
        level = [float(analytic.steady_state(problem, one, 1)["risk"]) for one in (heavy, plain)]
        decay = [1.0 / float(analytic.convergence_rate(problem, one)["relaxation"]) for one in (heavy, plain)]
        effects[f"steady state over SGD's, momentum {beta:g}"] = exact(level[0] / level[1])
        effects[f"rate of convergence over SGD's, momentum {beta:g}"] = exact(decay[0] / decay[1])
    betas = 1.0 - np.geomspace(1.0, 3e-3, 60)
    for effective in (1e-3, 1e-2, 1e-1):
        swept = [SGD(lr=effective * (1.0 - b), momentum=b) for b in betas]
        times = np.array([float(analytic.convergence_rate(problem, one)["relaxation"]) for one in swept])
        limit = float(analytic.convergence_rate(problem, SGD(lr=effective))["relaxation"])
        series[f"rate over SGD's, effective αh = {effective:g}"] = curve(1.0 - betas, limit / times)
        levels = np.array([float(analytic.steady_state(problem, one, 1)["risk"]) for one in swept])
        base = float(analytic.steady_state(problem, SGD(lr=effective), 1)["risk"])
        series[f"steady state over SGD's, effective αh = {effective:g}"] = curve(1.0 - betas, levels / base)
    return Found(effects, Curves(series, "1 - momentum", "over plain SGD at the effective rate", log_y=False))


def _momentum_transient(ask: Ask) -> Found:
    """Largest gap between the first terms of Theorem 1 and of equation (4), over the start."""
    effects, series = {}, {}
    one = NoisyQuadratic(curvature=[1.0], noise=[0.0])
    for share in _SHARES:
        beta, worst = 0.9, 0.0
        for beta in _MEMORIES:
            effective = share * (1.0 - beta)
            steps = int(8.0 / effective)
            at = np.unique(np.linspace(0, steps, 400).astype(int))
            rate = effective if not ask.control else effective / 2.0
            heavy = analytic.risk(one, SGD(lr=rate * (1.0 - beta), momentum=beta), 1, steps, record=at)
            plain = analytic.risk(one, SGD(lr=effective), 1, steps, record=at)
            gap = np.abs(heavy["risk"].values - plain["risk"].values).max() / one.initial_risk
            worst = max(worst, float(gap))
            if beta == 0.9:
                x = effective * at
                series[f"momentum 0.9, αh = {share:g} (1-β)²"] = curve(x, heavy["risk"].values / one.initial_risk)
                series[f"SGD, αh = {share:g} (1-β)"] = curve(x, plain["risk"].values / one.initial_risk)
        effects[f"largest gap over the start, αh = {share:g} (1-β)²"] = exact(worst, 1e-3)
    return Found(effects, Curves(series, "effective αh × step", "first term over its start", False, False))


_SHARES = (0.01, 0.1, 1.0)


def _precondition_steady(ask: Ask) -> Found:
    """Quotients of steady-state risks at neighboring powers, at the same rate."""
    powers = np.linspace(0.0, 1.0, 9)
    problem = ask.lab.problem
    if ask.control:  # curvatures above 1, where a power of H shortens nothing and the reverse must hold
        problem = NoisyQuadratic(problem.curvature * 1e6, problem.noise * 1e6, multiplicity=problem.multiplicity)
    effects, series = {}, {}
    for rate in (0.01, 1.0):
        top = rate * (1e-6 if ask.control else 1.0)
        risk = [float(analytic.steady_state(problem, SGD(lr=top, precondition=p), 1)["risk"]) for p in powers]
        least = float(np.min(np.divide(risk[1:], risk[:-1])))
        effects[f"least growth from one power to the next, rate {rate:g}"] = exact(least)
        series[f"rate {rate:g} for every power"] = curve(powers, risk)
    slowest = problem.curvature.min()
    same = [0.01 * slowest**p for p in powers]
    risk = [
        float(analytic.steady_state(problem, SGD(lr=a, precondition=p), 1)["risk"])
        for a, p in zip(same, powers, strict=True)
    ]
    series["same speed of the slowest coordinate, 0.01 at p = 0"] = curve(powers, risk)
    return Found(effects, Curves(series, "power p of the preconditioner", "steady-state risk at B = 1", False))


def _averaging(ask: Ask) -> Found:
    """Steady state, slowest mode and steps of an exponential average, beside those of the iterate."""
    problem, optimizer, batch_size = ask.lab.problem, SGD(lr=0.1), 16
    relaxation = float(analytic.convergence_rate(problem, optimizer)["relaxation"])
    plain = float(analytic.steady_state(problem, optimizer, batch_size)["risk"])
    target = 2.0 * plain
    alone = float(analytic.steps_to_target(problem, optimizer, batch_size, target)["steps"])
    effects = {}
    for share in _SHORT:
        memory = 1.0 / 1e6 + 1.0 if ask.control else share * relaxation
        gamma = 1.0 - 1.0 / memory
        level = float(analytic.steady_state(problem, optimizer, batch_size, average=gamma)["risk"])
        effects[f"steady state over the iterate's, memory {share:g} of the relaxation"] = exact(level / plain)
        slowed = float(analytic.convergence_rate(problem, optimizer, average=gamma)["relaxation"])
        effects[f"relaxation over the iterate's, memory {share:g} of it"] = exact(slowed / relaxation)
        steps = float(analytic.steps_to_target(problem, optimizer, batch_size, target, average=gamma)["steps"])
        effects[f"steps to twice the iterate's steady state over its own, memory {share:g}"] = exact(
            steps / alone, 1.0 / alone
        )
    shares = np.geomspace(1e-3, 10.0, 30)
    gammas = 1.0 - 1.0 / np.maximum(shares * relaxation, 1.0)
    levels = [float(analytic.steady_state(problem, optimizer, batch_size, average=g)["risk"]) for g in gammas]
    needed = [
        float(analytic.steps_to_target(problem, optimizer, batch_size, target, average=g)["steps"]) for g in gammas
    ]
    series = {
        "steady state over the iterate's": curve(shares, np.divide(levels, plain)),
        "steps to twice the iterate's steady state, over its own": curve(shares, np.divide(needed, alone)),
    }
    return Found(effects, Curves(series, "memory of the average over the relaxation time", "over the iterate"))


_SHORT = (0.01, 0.1)


def _information_bound(ask: Ask) -> Found:
    """Risk of the best schedule of SGD preconditioned by H over d/(2N): closed form, and simulated at one N."""
    problem = NoisyQuadratic.power_law(100)
    optimizer = SGD(lr=1.0, precondition=1.0)
    effects, examples, risks = {}, (10, 100, 1000, 10_000), []
    for n in examples:
        if ask.control:  # a constant rate, which settles above every bound
            risk = float(analytic.risk(problem, SGD(lr=0.5), 1, n, record=[n])["risk"].item())
        else:
            best = optimize_schedule(problem, optimizer, 1, steps=n, pieces=50, baselines=False)
            risk = float(best["risk"])
        risks.append(risk)
        bound = float(analytic.information_bound(problem, n)["risk"])
        effects[f"least risk after {n / 100:g} d examples over d/(2N)"] = exact(risk / bound)
        if n == 100:
            ran = SGD(lr=0.5) if ask.control else scheduled_optimizer(best)
            runs = simulate(problem, ran, 1, n, trajectories=2**13, record=[n], **ask.lab.running)
            effects["the same simulated, after d examples"] = quotient(
                float(runs["risk"][0]), bound, ask.level, float(runs["risk_stderr"][0] / runs["risk"][0])
            )
    grid = np.geomspace(10, 1e4, 40)
    series = {
        "best schedule, preconditioned by H": curve(examples, risks),
        "information bound d/(2N)": curve(grid, analytic.information_bound(problem, grid)["risk"].values),
        "Bayes bound": curve(grid, analytic.bayes_bound(problem, grid)["risk"].values),
    }
    return Found(effects, Curves(series, "examples N", "risk, d = 100"))


CLAIMS = (
    Claim(
        "sgd-risk",
        "risk of linear optimizers",
        "Zhang et al. 2019, eq. (4)",
        "Each coordinate's risk under SGD decays exponentially to a steady state; both have the closed form of eq. "
        "(4).",
        "Three coordinates (h = 1, 0.1, 0.01; lr 0.5, B = 4) are simulated one by one, 65 536 trajectories; the risk "
        "in the decay and in the steady state is divided by eq. (4).",
        (
            *(
                Effect(f"risk over its closed form in the steady state, h = {h:g}", "steady state", *_SAME)
                for h in (1.0, 0.1)
            ),
            *(Effect(f"risk over its closed form in the decay, h = {h:g}", "decay", *_SAME) for h in (0.1, 0.01)),
        ),
        "SGD with momentum 0.5 in place of plain SGD.",
        _sgd_risk,
        cost=2.0,
    ),
    Claim(
        "momentum-bound",
        "risk of linear optimizers",
        "Zhang et al. 2019, Theorem 1 and App. C",
        "Theorem 1 bounds the risk of the heavy ball at every step, and its transient is that of the deterministic "
        "dynamics.",
        "Bound over exact risk for 4 rates × 3 momenta at 40 steps to 10 000; D_t from the roots of the paper's "
        "quadratic beside a run without noise; and the exact risk beside simulation at three steps.",
        (
            Effect("least quotient of bound and exact risk", "every step", 1.0 - 1e-12, np.inf),
            Effect("largest gap of D_t² to the run without noise, over the start", "transient", 0.0, 1e-9),
            *(Effect(f"simulated risk over the exact one, step {t}", "simulation", *_SAME) for t in (20, 100, 1000)),
        ),
        "Twice the learning rate that the bound is computed for.",
        _momentum_bound,
        cost=3.0,
    ),
    Claim(
        "momentum-steady",
        "risk of linear optimizers",
        "Zhang et al. 2019, Fig. 2",
        "At small rates, steady-state risk and rate of convergence of momentum are those of SGD at the rate α/(1-β).",
        "One coordinate in closed form, effective αh = 0.01 (1-β) for β = 0.5, 0.9, 0.99.",
        tuple(
            Effect(f"{what} over SGD's, momentum {beta:g}", "small rates", *_SAME)
            for beta in _MEMORIES
            for what in ("steady state", "rate of convergence")
        ),
        "Rates at the edge of overdamping, effective αh = (1-β)/4, where the rate of convergence doubles.",
        _momentum_steady,
        cost=1.0,
    ),
    Claim(
        "momentum-transient",
        "risk of linear optimizers",
        "Zhang et al. 2019, Fig. 9",
        "The first term of Theorem 1 with momentum follows that of plain SGD at the effective rate.",
        "Largest gap between the two transients over a run, relative to the start, one coordinate, the worst of "
        "β = 0.5, 0.9, 0.99; the effective αh is 0.01, 0.1 and 1 times 1-β (the last is underdamped).",
        tuple(
            Effect(
                f"largest gap over the start, αh = {share:g} (1-β)²",
                f"αh = {share:g} (1-β)²",
                0.0,
                0.05,
            )
            for share in _SHARES
        ),
        "Momentum at half the rate.",
        _momentum_transient,
        cost=1.0,
    ),
    Claim(
        "precondition-steady",
        "risk of linear optimizers",
        "Zhang et al. 2019, eqs. (9) and (10)",
        "The steady-state risk rises monotonically with the power p of the preconditioner for an ill-conditioned "
        "spectrum.",
        "Steady-state risk at nine powers from 0 to 1 at the same rate, h = c = 1/i. (At the same speed of the slowest "
        "coordinate it falls instead: the figure shows both.)",
        tuple(
            Effect(f"least growth from one power to the next, rate {rate:g}", "same rate", 1.0, np.inf)
            for rate in (0.01, 1.0)
        ),
        "The same spectrum with all curvatures above 1, where the power lengthens no step.",
        _precondition_steady,
        cost=1.0,
    ),
    Claim(
        "averaging",
        "risk of linear optimizers",
        "Zhang et al. 2019, section 3.3",
        "Averaging the iterates lowers the steady-state risk without slowing convergence.",
        "Exponential averages with a memory of 1 % and 10 % of the relaxation time of SGD (lr 0.1, B = 16), in closed "
        "form: steady state, relaxation, and steps to twice the steady state of the iterate, over the iterate's own.",
        tuple(
            Effect(f"{name}, memory {share:g}{rest}", "memory below the relaxation time", low, high)
            for share in _SHORT
            for name, rest, low, high in (
                ("steady state over the iterate's", " of the relaxation", 0.0, 0.95),
                ("relaxation over the iterate's", " of it", *_SAME),
                ("steps to twice the iterate's steady state over its own", "", 0.0, 1.05),
            )
        ),
        "An average with a memory of one step, which is the iterate itself.",
        _averaging,
        cost=2.0,
    ),
    Claim(
        "information-bound",
        "risk of linear optimizers",
        "Zhang et al. 2019, section 3.5",
        "No optimizer's risk gets below d/(2N) after N examples, that of the maximum-likelihood estimate.",
        "Least risk of SGD preconditioned by H with the best schedule of 50 pieces after N = 0.1 d to 100 d examples, "
        "d = 100, over d/(2N), in closed form, and simulated at N = d. (It is a bound for unbiased estimates; what "
        "starts from N(0, 1) knows more, and the Bayes bound is the one that holds.)",
        (
            *(
                Effect(f"least risk after {n:g} d examples over d/(2N)", f"N = {n:g} d", 1.0, np.inf)
                for n in (0.1, 1.0, 10.0, 100.0)
            ),
            Effect("the same simulated, after d examples", "N = d, simulated", 1.0, np.inf),
        ),
        "SGD at the constant rate 0.5, which does not come near the bound.",
        _information_bound,
        cost=2.0,
    ),
)
"""Claims of this theme."""
