"""Who takes part in a scaling study: an optimizer, what of it is tuned, and how it changes with the batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcnqm.optimizers import SGD, Adam, Lion, RMSProp

__all__ = ["CONTENDERS", "Contender"]


@dataclass(frozen=True)
class Contender:
    """An optimizer in a scaling study.

    Attributes
    ----------
    optimizer : optimizer
        With scalar hyperparameters; the tuned ones are replaced.
    search : mapping of str to (low, high)
        What is tuned, and where the search starts at the largest batch size.
    half_life_at : float, optional
        Hold decays in examples rather than in steps: at batch size B, every β becomes β^(B / half_life_at), so that
        its half-life in examples is that of β at this batch size.
    """

    optimizer: Any
    search: Mapping[str, tuple[float, float]] = field(default_factory=lambda: {"lr": (1e-3, 1.0)})
    half_life_at: float | None = None

    def at(self, batch_size: float) -> Any:
        """The optimizer at a batch size, before tuning.

        Examples
        --------
        >>> Contender(Adam(lr=1.0, beta1=0.9, beta2=0.99), half_life_at=16).at(32).beta1
        0.81
        """
        if self.half_life_at is None:
            return self.optimizer
        power = batch_size / self.half_life_at
        decays = [name for name in ("momentum", "beta1", "beta2", "alpha") if hasattr(self.optimizer, name)]
        held = {name: getattr(self.optimizer, name) ** power for name in decays if name not in self.search}
        return self.optimizer._replace(**{name: round(value, 15) for name, value in held.items()})

    def effective_lr(self, values: Mapping[str, float]) -> float:
        """Learning rate per unit of gradient summed over time: ``lr / (1 - momentum)`` for SGD, else ``lr``."""
        momentum = values.get("momentum", getattr(self.optimizer, "momentum", 0.0))
        return float(values["lr"] / (1.0 - momentum))


_RATE = {"lr": (1e-2, 2.0)}
_ADAPTIVE = {"lr": (1e-3, 0.3)}

CONTENDERS: dict[str, Contender] = {
    "sgd": Contender(SGD(lr=1.0), _RATE),
    "momentum": Contender(SGD(lr=1.0, momentum=0.9), {"lr": (1e-2, 3.0)}),
    "nesterov": Contender(SGD(lr=1.0, momentum=0.9, nesterov=True), {"lr": (1e-2, 1.0)}),
    "momentum-tuned": Contender(SGD(lr=1.0, momentum=0.9), {"lr": (1e-2, 3.0), "momentum": (0.0, 0.98)}),
    "adam": Contender(Adam(lr=1.0), _ADAPTIVE),
    "adam-tuned": Contender(Adam(lr=1.0), {**_ADAPTIVE, "beta1": (0.0, 0.98), "beta2": (0.8, 0.9999)}),
    "adam-examples": Contender(Adam(lr=1.0), _ADAPTIVE, half_life_at=16.0),
    "rmsprop": Contender(RMSProp(lr=1.0), _ADAPTIVE),
    "lion": Contender(Lion(lr=1.0), _ADAPTIVE),
}
"""Contenders by name. ``adam-examples`` holds the half-lives of β₁ and β₂ at those of the defaults at batch size 16."""
