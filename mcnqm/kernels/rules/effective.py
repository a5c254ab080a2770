"""Effective rates of adaptive optimizers, over arrays: what a step multiplies the gradient by, or an average of them.

Each rule says how its own follows from the hyperparameters, the clock after the step, the gradient and the state
before it. Kernels compute the same on their way and keep nothing of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["quotient"]


def quotient(rate: Any, denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """``rate / denominator``; 0 where the latter is 0, as an update without any gradient so far takes no step.

    Examples
    --------
    >>> quotient(np.array([1.0, 1.0]), np.array([4.0, 0.0]))
    array([0.25, 0.  ])
    """
    shape = np.broadcast_shapes(np.shape(rate), denominator.shape)
    result: NDArray[np.float64] = np.divide(rate, denominator, out=np.zeros(shape), where=denominator > 0)
    return result
