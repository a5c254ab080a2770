"""Many optimizers tuned at many batch sizes: theories ahead, simulations side by side, finished cells on disk.

A cell is one optimizer at one batch size, by simulation or by theory. Each chain of cells goes from the largest batch
size to the smallest: it is the cheapest, and each cell tells the next where to search. So a cell's numbers depend on
the seed and on the cells of the same optimizer before it, whoever runs beside it and whether it was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from functools import partial
from typing import Any

from mcnqm.checkpoint import Checkpoint
from mcnqm.engine import CancellableExecutor, ExecutorClosed, Pool
from mcnqm.problems import Problem
from mcnqm.progress import Meter
from mcnqm.studies.contenders import Contender
from mcnqm.tuning.routes import Route, SimulatedRoute, theory_of
from mcnqm.tuning.search import Search, Tuned
from mcnqm.tuning.tuner import WarmStart, guide_of, search_of, tune_one, tune_together

__all__ = ["KINDS", "Chains", "cell", "safe_name", "theory_at"]

KINDS = ("simulated", "theory")

_AROUND = 0.21
"""A search at the next batch size starts within a factor exp(±0.21) of the extrapolated best."""


def safe_name(name: str) -> str:
    """A name for a file."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


def cell(label: str, batch_size: int, kind: str) -> str:
    """Name of a cell in a checkpoint."""
    return safe_name(f"{label}-{batch_size}-{kind}")


class Chains:
    """All cells of a study.

    Parameters
    ----------
    config : ScalingConfig
        See `mcnqm.studies.scaling`.
    checkpoint : Checkpoint or None
        Where finished cells are kept; those that it holds are not computed again.
    meter : Meter
        Told of simulated cells done, weighted by their expected cost.

    Attributes
    ----------
    simulated, theory : dict of str to dict of int to Tuned
        By label and batch size; None where there is no theory.
    """

    def __init__(self, config: Any, checkpoint: Checkpoint | None, meter: Meter) -> None:
        self._config, self._checkpoint, self._meter = config, checkpoint, meter
        self.simulated: dict[str, dict[int, Tuned]] = {label: {} for label in config.contenders}
        self.theory: dict[str, dict[int, Tuned | None]] = {label: {} for label in config.contenders}
        self._guides = {label: {b: Future[WarmStart | None]() for b in config.batch_sizes} for label in self.theory}
        self._options = {name: getattr(config, name) for name in ("trajectories", "replicates", "seed", "max_steps")}

    @property
    def work(self) -> float:
        """Expected cost of all simulated cells."""
        return len(self.theory) * sum(map(_cost, self._config.batch_sizes))

    def run(self, pool: Pool) -> None:
        """Fill in all cells.

        Kinds of optimizers run side by side, on the same workers: what one does between two stretches of its runs, the
        others fill. Theories run on one core each and know nothing of the simulation: they go ahead in threads of their
        own. What ends one chain ends all.
        """
        families = _families(self._config.contenders)
        ahead = ThreadPoolExecutor(min(pool.workers, len(self._guides)), thread_name_prefix="mcnqm-theory")
        chains = ThreadPoolExecutor(len(families), thread_name_prefix="mcnqm-chain")
        with pool.shared() as gate:
            try:
                for label in self._guides:
                    ahead.submit(self._predict, label, gate)
                running = [chains.submit(self._simulate, family, gate) for family in families]
                wait(running, return_when=FIRST_EXCEPTION)
            finally:
                gate.close()
                ahead.shutdown(wait=False, cancel_futures=True)
                chains.shutdown(cancel_futures=True)
            # A chain that was cancelled before it began has no exception to be asked for, and nothing to say.
            errors = [error for done in running if not done.cancelled() and (error := done.exception())]
            if errors:  # the first closes the gate for the others
                raise next(
                    (error for error in errors if not isinstance(error, (ExecutorClosed, CancelledError))), errors[0]
                )

    def _find(self, label: str, batch_size: int, kind: str) -> Tuned | None:
        """A cell that is finished."""
        kept = None if self._checkpoint is None else self._checkpoint.find(cell(label, batch_size, kind))
        return None if kept is None else Tuned(**kept)

    def _keep(self, label: str, batch_size: int, kind: str, result: Tuned) -> None:
        """A cell that now is."""
        if self._checkpoint is not None:
            self._checkpoint.keep(cell(label, batch_size, kind), asdict(result))

    def _predict(self, label: str, gate: CancellableExecutor) -> None:
        """The theory of one optimizer, from the largest batch size on: each tells the next."""
        config, known = self._config, self.theory[label]
        contender, b = config.contenders[label], config.batch_sizes[-1]
        route_at = theory_at(config.problem, contender)
        try:
            for b in reversed(config.batch_sizes):
                gate.check()
                known[b] = best = None
                if route_at is not None:
                    route = route_at(config.problem, b, config.target)
                    best = self._find(label, b, "theory")
                    if best is None:
                        start = _start(contender, b, config.batch_sizes, known)
                        best = tune_one(route, contender.at(b), seed=config.seed, **start)
                        self._keep(label, b, "theory", best)
                    known[b] = best
                guide = None
                if best is not None and self._find(label, b, "simulated") is None:
                    guide = guide_of(route, contender.at(b), next(iter(contender.search)), best)
                self._guides[label][b].set_result(guide)
        except BaseException as error:
            self._guides[label][b].set_exception(error)

    def _simulate(self, family: Sequence[str], gate: CancellableExecutor) -> None:
        """Optimizers of one kind at all batch sizes, those of which a theory tells enough together on the same noise.

        The others go from the largest batch size to the smallest, one by one.
        """
        config = self._config
        together: dict[tuple[str, int], tuple[SimulatedRoute, Search]] = {}

        def finish() -> None:
            shortest_first = dict(sorted(together.items(), key=lambda item: -item[0][1]))
            for (label, b), result in tune_together(shortest_first, Pool(gate)):
                self._keep(label, b, "simulated", result)
                self._done(label, b, result)
            together.clear()

        for label in family:
            contender = config.contenders[label]
            for b in reversed(config.batch_sizes):
                guide = _wait_for(self._guides[label][b], gate)
                route = SimulatedRoute(config.problem, b, config.target, self._options, Pool(gate))
                search = partial(search_of, route, contender.at(b), seed=config.seed)
                if (known := self._find(label, b, "simulated")) is not None:
                    self._done(label, b, known)
                elif guide is not None:
                    together[label, b] = route, search(contender.search, guide=guide)
                else:
                    finish()  # it starts from the answers at larger batch sizes
                    start = _start(contender, b, config.batch_sizes, self.simulated[label])
                    together[label, b] = route, search(**start)
                    finish()
        finish()

    def _done(self, label: str, batch_size: int, result: Tuned) -> None:
        self.simulated[label][batch_size] = result
        self._meter.advance(_cost(batch_size))


def _cost(batch_size: int) -> float:
    """Expected cost of a simulated cell, relative."""
    return 1.0 / batch_size + 1.0 / 256


def _wait_for(future: Future[WarmStart | None], gate: CancellableExecutor) -> WarmStart | None:
    """The result, unless the gate is closed meanwhile: theory itself cannot be interrupted."""
    while True:
        try:
            return future.result(timeout=0.1)
        except TimeoutError:
            gate.check()


def _families(contenders: Mapping[str, Contender]) -> list[list[str]]:
    """Labels of contenders, by whether their optimizers may share a kernel."""
    families: dict[Any, list[str]] = {}
    for label, contender in contenders.items():
        optimizer = contender.optimizer
        families.setdefault((type(optimizer), getattr(optimizer, "nesterov", False)), []).append(label)
    return list(families.values())


def theory_at(problem: Problem, contender: Contender) -> Callable[[Any, float, float], Route] | None:
    """The theory for a contender whose rate alone is tuned."""
    return theory_of(problem, contender.optimizer) if len(contender.search) == 1 else None


def _start(
    contender: Contender, batch_size: int, sizes: tuple[int, ...], found: Mapping[int, Tuned | None]
) -> dict[str, Any]:
    """Bounds of the search at a batch size, and about how many steps it will find, from answers at larger ones."""
    search, expected = dict(contender.search), math.inf
    larger = [b for b in sizes if b > batch_size][:2]
    near = [t for b in larger if (t := found.get(b)) is not None]
    if near and len(near) == len(larger) and math.isfinite(near[0].steps):
        for hyper, bounds in contender.search.items():
            guess = _extrapolated([t.values[hyper] for t in near], (batch_size, *larger), hyper)
            search[hyper] = _near(guess, hyper, bounds)
        expected = near[0].steps * larger[0] / batch_size  # at most, by perfect scaling
    return {"search": search, "expected": expected}


def _extrapolated(values: list[float], sizes: tuple[int, ...], name: str) -> float:
    """The best at the next smaller batch size, from those at the next two: a line in log-log for a rate."""
    if name != "lr" or len(values) < 2 or not all(map(math.isfinite, values)):
        return values[0]
    wanted, near, far = (math.log(b) for b in sizes)
    slope = (math.log(values[0]) - math.log(values[1])) / (near - far)
    return values[0] * math.exp(min(max(slope, 0.0), 1.0) * (wanted - near))


def _near(guess: float, name: str, original: tuple[float, float]) -> tuple[float, float]:
    if name == "lr":
        return guess * math.exp(-_AROUND), guess * math.exp(_AROUND)
    low, high = 1 - (1 - guess) * 4, 1 - (1 - guess) / 4
    return max(low, 0.0), min(high, 1 - 1e-9)
