"""Curves of estimated risk: freed of the noise of few trajectories, and when they first reach a target.

Losses fluctuate for a fraction of the steps so far, while the risk is smooth in log t. So beyond `RAW_UNTIL` steps the
estimate is a local quadratic regression of the mean loss on log t, which is linear in the loss and so does not bias the
risk, as long as a quadratic follows the risk over the window. Three rules see to that:

* Where theory knows a curve that swings as the risk does (the exact risk of SGD while its momentum oscillates, the
  expected loss of Adam's twin), the window is the widest over which a quadratic follows that curve to `_TOLERANCE`.
* Where momentum may still oscillate and no such curve is known, the mean loss is taken as it is.
* Everywhere, a window gives way to one of half its width where their estimates differ by more than `TELLING` standard
  errors of the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mcnqm.statistics import jackknife

__all__ = ["FAR", "RAW_UNTIL", "Curve", "Swing", "Window", "first_passage"]

Array = NDArray[np.float64]

RAW_UNTIL = 96
"""Up to here the mean loss is taken as it is: a window would hold few steps."""

_WINDOWS = (0.25, 0.12, 0.06, 0.03, 0.015)
"""Half the width of the regression's window, in log t."""

_USUAL = 1
"""Which of them is the widest by default."""

WIDE_FROM = 2000
"""The widest of all only from so many steps on: the error of SGD's steps falls by a third, for runs longer by an
eighth."""

TELLING = 5.0
"""Where a window's estimate differs from the next narrower one's by more than so many standard errors of that, a
quadratic does not follow the risk over the wider."""

_TOLERANCE = 3e-4
"""Largest relative error of a quadratic on a curve that theory knows."""

_FEWEST = 6
"""Looks that a regression needs."""

FAR = 3.0
"""Risks above so many targets are far from them, and not smoothed."""

Swing: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], Array]
"""Of settings and increasing steps: a curve that swings as the risk does, shape (settings, steps)."""


@dataclass(frozen=True)
class Window:
    """How far a regression reaches at most.

    Attributes
    ----------
    wide : bool
        Whether long runs have the widest window.
    """

    wide: bool

    def widest(self, t: Any) -> NDArray[np.int64]:
        """Index of the widest window at t."""
        return np.where(self.wide & (np.asarray(t) > WIDE_FROM), 0, _USUAL)

    def stop(self, t: Any) -> Any:
        """The last step that the estimate at t wants."""
        return t * np.exp(np.asarray(_WINDOWS)[self.widest(t)]) * (1 + 1e-12)


class Curve:
    """Estimated risk at the looks so far, of every setting and estimate, smoothed once its window is complete.

    Parameters
    ----------
    targets : ndarray, shape (settings,)
    estimates : int
        Of each setting: from the whole sample, then with each part left out.
    jumps : ndarray of int
        Steps at which a schedule jumps, and the risk has a kink.
    window : Window
    swings_until : ndarray, shape (settings,), optional
        Until which step momentum may make the risk oscillate.
    swing : Swing, optional
        Asked for these steps alone. Without it the mean loss is taken as it is there.
    """

    def __init__(
        self,
        targets: Array,
        estimates: int,
        jumps: NDArray[Any],
        window: Window,
        swings_until: Array | None = None,
        swing: Swing | None = None,
    ) -> None:
        settings = targets.size
        self._window, self._swing = window, swing
        self._swings_until = np.zeros(settings) if swings_until is None else swings_until
        self._near = FAR * targets[:, np.newaxis]
        self._jumps = np.concatenate([[-np.inf], jumps, [np.inf]])
        self.steps = np.empty(0)
        self._raw = np.empty((settings, estimates, 0))
        self._known = np.empty((settings, 0))
        self._settled = 0  # looks whose estimate is final
        self._fresh = 0  # of these, where the newest begin
        self._risk = np.empty((settings, estimates, 0))
        self._windows: dict[float, list[tuple[slice, Array]]] = {}  # of the looks being settled

    def start(self, risk: Array) -> None:
        """The risk at step 0, of all settings."""
        self.steps = np.zeros(1)
        self._raw = risk[..., np.newaxis].copy()
        self._known = np.full((risk.shape[0], 1), np.nan)
        self._risk = self._raw.copy()
        self._settled = 1

    def extend(
        self,
        record: NDArray[np.int64],
        risk: Array,
        alive: NDArray[np.int64],
        *,
        known: Array | None = None,
        last: bool = False,
    ) -> None:
        """Add looks of the settings `alive`; at the `last`, settle for the window there is.

        `known` is a curve that swings as the risk does, shape (alive, looks), if there is one.
        """
        new = np.full((*self._raw.shape[:2], record.size), np.inf)
        new[alive] = risk
        guide = np.full((self._known.shape[0], record.size), np.nan)
        if known is not None:
            guide[alive] = known
        elif self._swing is not None:
            swinging = alive[self._swings_until[alive] >= record[0]]
            if swinging.size:
                guide[swinging] = self._swing(swinging, record)
        self.steps = np.append(self.steps, record)
        self._raw = np.concatenate([self._raw, new], axis=2)
        self._known = np.concatenate([self._known, guide], axis=1)
        complete = last | (self.steps <= RAW_UNTIL) | (self._window.stop(self.steps) <= self.steps[-1])
        settled = int(complete.sum())
        self._risk = np.concatenate([self._risk, self._estimates(self._settled, settled, alive)], axis=2)
        self._fresh, self._settled = self._settled, settled

    def _estimates(self, start: int, stop: int, alive: NDArray[np.int64]) -> Array:
        """Estimates at looks `start` to `stop` - 1, smoothed where somebody asks for it."""
        estimate, steps = self._raw[..., start:stop].copy(), self.steps[start:stop]
        # Far from the target nobody does: a sound regression is at least half the plain mean.
        near = (estimate[alive] <= self._near[alive, :, np.newaxis]).any(axis=(0, 1))
        asked = np.flatnonzero(near & (steps > RAW_UNTIL))
        if not asked.size:
            return estimate
        here = np.ix_(alive, np.arange(estimate.shape[1]), asked)
        raw, looks = estimate[here], start + asked
        self._windows.clear()
        rung = self._rungs(looks, alive)
        smooth = raw.copy()
        done = np.zeros(rung.shape, dtype=np.bool_)
        # From the widest window in use down to the plain mean, each only as long as the next does not contradict it.
        wider: Array | None = None
        for k in range(int(rung.min()), len(_WINDOWS) + 1):
            used = (rung <= k) & ~done
            if not used.any():
                wider = None
                continue
            here_k = raw if k == len(_WINDOWS) else self._regressions(looks, _WINDOWS[k], self._raw, alive)
            if wider is not None:
                with np.errstate(invalid="ignore"):
                    gap = wider - here_k
                    stands = ~(np.abs(gap[:, 0]) > TELLING * jackknife(gap, axis=1)[1]) & (rung < k) & ~done
                smooth = np.where(stands[:, np.newaxis], wider, smooth)
                done |= stands
            wider = here_k
        with np.errstate(invalid="ignore"):
            # Where a diverging risk outruns the quadratic, the regression means nothing.
            sound = (smooth > 0.5 * raw) & (smooth < 2 * raw)
        estimate[here] = np.where(sound, smooth, raw)
        return estimate

    def _rungs(self, looks: NDArray[np.int64], alive: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of the widest window that may be used at each of `looks`, shape (alive, looks)."""
        steps = self.steps[looks]
        widest = np.broadcast_to(self._window.widest(steps), (alive.size, looks.size)).copy()
        known = self._known[alive][:, looks]
        blind = (steps <= self._swings_until[alive][:, np.newaxis]) & np.isnan(known)
        widest[blind] = len(_WINDOWS)
        guided = np.isfinite(known)
        if not guided.any():
            return widest
        followed = np.full(widest.shape, len(_WINDOWS))
        for k in range(len(_WINDOWS) - 1, -1, -1):
            curve = self._regressions(looks, _WINDOWS[k], self._known[:, np.newaxis], alive)[:, 0]
            with np.errstate(invalid="ignore"):
                follows = np.abs(curve - known) <= _TOLERANCE * np.abs(known)
            followed[follows & (followed == k + 1)] = k  # and so do all that are narrower
        return np.where(guided, np.maximum(widest, followed), widest)

    def _regressions(self, looks: NDArray[np.int64], half: float, curves: Array, alive: NDArray[np.int64]) -> Array:
        """The local quadratic's values at `looks`, or the plain mean where there are too few looks for one."""
        windows = self._windows.get(half)
        if windows is None:
            windows = self._windows[half] = [self._weights(int(k), half) for k in looks]
        low, high = min(w.start for w, _ in windows), max(w.stop for w, _ in windows)
        weights = np.zeros((high - low, looks.size))
        for column, (window, weight) in enumerate(windows):
            weights[window.start - low : window.stop - low, column] = weight
        raw = curves[alive, :, low:high]
        finite = np.isfinite(raw)
        if finite.all():
            return np.asarray(raw @ weights)
        smooth = np.where(finite, raw, 0.0) @ weights
        return np.where(~finite @ (weights != 0.0), np.nan, smooth)

    def _weights(self, k: int, half: float) -> tuple[slice, Array]:
        """Which looks the estimate at look `k` is a sum of, and with what weights."""
        t = self.steps[k]
        early, late = t * np.exp(-half), t * np.exp(half) * (1 + 1e-12)
        # Not across a kink. The risk at the step of a jump is still that before it.
        k_next = int(np.searchsorted(self._jumps, t))
        early, late = max(early, self._jumps[k_next - 1]), min(late, self._jumps[k_next] + 0.5)
        window = slice(*np.searchsorted(self.steps, [early, late]).tolist())
        if window.stop - window.start < _FEWEST:
            return slice(k, k + 1), np.ones(1)
        x = np.log(self.steps[window] / t)
        x /= np.abs(x).max()
        powers = np.stack([np.ones_like(x), x, x**2])
        return window, np.linalg.solve(powers @ powers.T, powers)[0]

    def crossings(self, alive: NDArray[np.int64], targets: Array) -> Array:
        """First step at or below the target among the newest estimates, shape (alive, estimates), inf if none."""
        first = max(self._fresh - 1, 0)
        risk, steps = self._risk[alive, :, first:], self.steps[first : self._settled]
        below = risk <= targets[:, np.newaxis, np.newaxis]
        found = np.full(below.shape[:2], np.inf)
        for a, k in zip(*np.nonzero(below.any(axis=2)), strict=True):
            found[a, k] = _crossing(steps, risk[a, k], float(targets[a]), int(below[a, k].argmax()))
        return found

    def near(self, setting: int, target: float) -> tuple[Array, Array]:
        """The looks from the one before a setting first came near the target, and all its estimates there.

        Shapes (looks,) and (estimates, looks).
        """
        risk = self._risk[setting]
        close = np.flatnonzero(risk[0] <= FAR * target)
        start = max(int(close[0]) - 1, 0) if close.size else 0
        # After it was given up, or diverged, nothing is known.
        lost = np.flatnonzero(~np.isfinite(risk[:, start:]).all(axis=0))
        stop = start + int(lost[lost > 0][0]) if (lost > 0).any() else self._settled
        return self.steps[start:stop], risk[:, start:stop]


def first_passage(steps: Array, curve: Array, target: float) -> float:
    """First step at which a curve is at or below the target, with interpolation; inf if it never is."""
    below = curve <= target
    return _crossing(steps, curve, target, int(below.argmax())) if below.any() else np.inf


def _crossing(steps: Array, risk: Array, target: float, j: int) -> float:
    """When a curve that is at or below the target first at look j crosses it, by linear interpolation."""
    if j == 0 or not np.isfinite(risk[j - 1]):
        return float(steps[j])
    share = (risk[j - 1] - target) / (risk[j - 1] - risk[j])
    return float(steps[j - 1] + share * (steps[j] - steps[j - 1]))
