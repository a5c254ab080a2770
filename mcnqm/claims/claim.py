"""What a claim is: a statement, the numbers it predicts, how they are measured, and the rule that judges them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from mcnqm._version import __version__
from mcnqm.claims.curves import Curves
from mcnqm.claims.lab import Lab
from mcnqm.errors import ParameterError
from mcnqm.progress import meter_of
from mcnqm.statistics import BOUNDS

__all__ = ["ERROR_RATE", "FAMILY", "RULE", "Ask", "Claim", "Effect", "Estimate", "Found", "Verdict"]

ERROR_RATE = 0.05
"""Probability that the measurement of any claim of the family leads to a wrong verdict, at most."""

FAMILY = 40
"""Claims among which the error rate is shared (Bonferroni): all of the ledger, those still open included."""

RULE = (
    "Each effect has an interval, and a range that the claim allows, fixed before the measurement. An effect holds if "
    "its interval lies inside the range, fails if it lies outside, and is undecided if it reaches across an "
    "end. All hold: "
    "supported. All fail: refuted. Some hold and some fail: qualified, by those that hold. None of these: undecided. "
    f"Intervals are simultaneous: the probability that any interval of the {FAMILY} claims misses its true value is at "
    f"most {ERROR_RATE:g} (Bonferroni: {ERROR_RATE:g} / {FAMILY} for each claim, shared equally by its effects). "
    "Intervals of numbers in closed form hold what the search and the interpolation leave open."
)
"""How every verdict is made."""


class Effect(NamedTuple):
    """One number that a claim makes a prediction of.

    Attributes
    ----------
    name : str
        The quantity, unique within the claim.
    regime : str
        Where it is measured: what a qualified verdict names.
    low, high : float
        The range that the claim allows.
    """

    name: str
    regime: str
    low: float
    high: float

    def outcome(self, low: float, high: float) -> str:
        """What an interval says of the effect: "holds", "fails" or "undecided".

        Examples
        --------
        >>> effect = Effect("quotient", "everywhere", 0.95, 1.05)
        >>> effect.outcome(0.99, 1.01), effect.outcome(1.2, 1.3), effect.outcome(1.0, 1.2)
        ('holds', 'fails', 'undecided')
        """
        if self.low <= low and high <= self.high:
            return "holds"
        # NaN, of what could not be measured, is undecided.
        return "fails" if high < self.low or low > self.high else "undecided"


class Estimate(NamedTuple):
    """A measured number with an interval."""

    value: float
    low: float
    high: float


class Found(NamedTuple):
    """What a measurement returns: estimates by the name of the effect, and the curves that they come from."""

    effects: Mapping[str, Estimate]
    curves: Curves


class Ask(NamedTuple):
    """What a measurement is asked for.

    Attributes
    ----------
    lab : Lab
        Where to measure: problems, budgets, and what is already known.
    level : float
        Probability that one interval holds its number.
    control : bool
        Whether to take the data from another law than the claim's, which must change the verdict.
    """

    lab: Lab
    level: float
    control: bool


class Verdict(str):
    """One word, "supported", "refuted", "qualified", "undecided" or "open"; it compares as a string.

    Attributes
    ----------
    because : str
        Which effects hold and which fail, in a sentence.
    """

    because: str
    __slots__ = ("because",)

    def __new__(cls, word: str, because: str) -> Verdict:  # noqa: D102 - the class says it
        made = super().__new__(cls, word)
        made.because = because
        return made


@dataclass(frozen=True)
class Claim:
    """A published statement, made measurable.

    Attributes
    ----------
    id : str
    theme : str
        The group in which tables list it.
    source : str
        Who says it, and where.
    statement : str
        What is said.
    measured : str
        How it is measured, in words.
    effects : tuple of Effect
        What the claim predicts. Empty while the claim is open.
    control_law : str
        The law that the control's data come from.
    law : callable
        Carries out the measurement: `Ask` to `Found`.
    cost : float
        About how long the quick measurement takes, in seconds of one core; weighs the progress bar.
    open : str
        Why the claim cannot be measured yet; empty if it can.
    """

    id: str
    theme: str
    source: str
    statement: str
    measured: str = ""
    effects: tuple[Effect, ...] = ()
    control_law: str = ""
    law: Callable[[Ask], Found] | None = None
    cost: float = 1.0
    open: str = ""

    @property
    def level(self) -> float:
        """Probability that one interval of this claim holds its number."""
        return 1.0 - ERROR_RATE / FAMILY / max(len(self.effects), 1)

    @property
    def rule(self) -> str:
        """The rule of this claim's verdict, in words."""
        if self.open:
            return f"Open: {self.open}."
        parts = "; ".join(f"{one.name} ({one.regime}): {_range(one)}" for one in self.effects)
        return f"Allowed: {parts}. {RULE}"

    def measure(
        self,
        quick: bool = True,
        *,
        seed: int = 0,
        lab: Lab | None = None,
        executor: Executor | None = None,
        threads: int | None = None,
        progress: Any = False,
    ) -> xr.Dataset:
        """Measure the effects of the claim.

        Parameters
        ----------
        quick : bool
            d = 1000 with a binned spectrum, seconds to a minute; otherwise the paper's 10 000 coordinates.
        seed : int
            Of all simulations, 0 to 2**63 - 1.
        lab : Lab, optional
            Measure there, and share what other claims measured there; then it decides all other arguments.
        executor, threads, progress
            As for `mcnqm.simulate`.

        Returns
        -------
        xarray.Dataset
            Over ``effect``: ``estimate``, and ``interval`` and ``allowed`` (effect, bound: low, high), dimensionless
            unless the effect's name says otherwise, and the coordinate ``regime``. Over ``series`` and ``point``, the
            curves they come from: ``x``, ``y``, and ``y_interval`` (…, bound). Of an open claim both are empty.

        Raises
        ------
        ParameterError
            If an argument is not allowed.

        Examples
        --------
        >>> import mcnqm
        >>> claim = mcnqm.claims.get("ratio-governs")
        >>> measured = claim.measure(quick=True)
        >>> measured.estimate.dims, str(claim.verdict(measured))
        (('effect',), 'qualified')
        """
        return self._carry_out(quick, seed, lab, executor, threads, progress, control=False)

    def control(
        self,
        quick: bool = True,
        *,
        seed: int = 0,
        lab: Lab | None = None,
        executor: Executor | None = None,
        threads: int | None = None,
        progress: Any = False,
    ) -> xr.Dataset:
        """The same measurement on data from a deliberately different law, `control_law`: its verdict must differ.

        Parameters and result are those of `measure`.

        Examples
        --------
        >>> import mcnqm
        >>> claim = mcnqm.claims.get("ratio-governs")
        >>> str(claim.verdict(claim.control(quick=True)))
        'refuted'
        """
        return self._carry_out(quick, seed, lab, executor, threads, progress, control=True)

    def verdict(self, dataset: xr.Dataset) -> Verdict:
        """Judge a measurement by the claim's rule.

        Parameters
        ----------
        dataset : Dataset
            From `measure` or `control`.

        Returns
        -------
        Verdict
            A string with a reason.

        Raises
        ------
        ParameterError
            If the Dataset belongs to another claim, or to another version of its effects.
        """
        if dataset.attrs.get("claim") != self.id:
            raise ParameterError("dataset", dataset.attrs.get("claim"), f"be a measurement of {self.id!r}")
        if self.open:
            return Verdict("open", self.open)
        names = [str(name) for name in dataset["effect"].values]
        if names != [one.name for one in self.effects]:
            raise ParameterError("dataset", names, f"hold the effects of {self.id!r} as they are in this version")
        outcomes: dict[str, list[str]] = {"holds": [], "fails": [], "undecided": []}
        for one, (low, high) in zip(self.effects, dataset["interval"].values.tolist(), strict=True):
            outcomes[one.outcome(low, high)].append(f"{one.name} ({one.regime})")
        parts = [f"{what.capitalize()}: {'; '.join(which)}" for what, which in outcomes.items() if which]
        return Verdict(_word(**{what: bool(which) for what, which in outcomes.items()}), ". ".join(parts) + ".")

    def _carry_out(
        self,
        quick: bool,
        seed: int,
        lab: Lab | None,
        executor: Executor | None,
        threads: int | None,
        progress: Any,
        *,
        control: bool,
    ) -> xr.Dataset:
        meter = meter_of(progress)
        if lab is None:
            lab = Lab.of(quick, seed=seed, executor=executor, threads=threads)
        if self.law is None:
            return self._labelled({}, Curves(), lab, control)
        meter.start(self.cost, self.id)
        try:
            kind = "control" if control else "claim"
            law = self.law

            def compute() -> xr.Dataset:
                found = law(Ask(lab, self.level, control))
                return self._labelled(found.effects, found.curves, lab, control)

            made = lab.known(f"{kind}-{self.id}", compute)
            meter.advance(self.cost)
        finally:
            meter.close()
        return made

    def _labelled(self, found: Mapping[str, Estimate], curves: Curves, lab: Lab, control: bool) -> xr.Dataset:
        names = [one.name for one in self.effects]
        if set(found) != set(names):
            raise AssertionError(f"{self.id}: measured {sorted(found)}, but claims {sorted(names)}")
        values = np.array([found[name] for name in names], dtype=np.float64).reshape(-1, 3)
        allowed = np.array([(one.low, one.high) for one in self.effects], dtype=np.float64).reshape(-1, 2)
        made = xr.Dataset(
            {
                "estimate": ("effect", values[:, 0]),
                "interval": (("effect", "bound"), values[:, 1:]),
                "allowed": (("effect", "bound"), allowed),
            },
            coords={
                "effect": np.array(names, dtype=np.str_),
                "regime": ("effect", np.array([one.regime for one in self.effects], dtype=np.str_)),
                "bound": list(BOUNDS),
            },
        )
        return made.merge(curves.dataset()).assign_attrs(
            claim=self.id,
            source=self.source,
            statement=self.statement,
            measured=self.measured,
            control_law=self.control_law if control else "",
            error_rate=ERROR_RATE,
            family=FAMILY,
            level=self.level,
            mcnqm_version=__version__,
            method="claims",
            seed=str(lab.seed),
            config=lab.described,
            x_label=curves.x,
            y_label=curves.y,
            x_scale="log" if curves.log_x else "linear",
            y_scale="log" if curves.log_y else "linear",
        )


def _word(holds: bool, fails: bool, undecided: bool) -> str:
    if holds and fails:
        return "qualified"
    if undecided:
        return "undecided"
    return "supported" if holds else "refuted"


def _range(effect: Effect) -> str:
    if math.isinf(effect.high):
        return f"at least {effect.low:g}"
    return f"at most {effect.high:g}" if math.isinf(effect.low) else f"{effect.low:g} to {effect.high:g}"
