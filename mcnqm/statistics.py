"""Standard errors, intervals and tests. Knows nothing of optimizers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["mean_and_stderr"]


def mean_and_stderr(
    samples: NDArray[np.float64], axis: int = -1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of independent samples and its standard error along `axis`.

    Parameters
    ----------
    samples : ndarray
        Independent along `axis`. Entries may be inf.
    axis : int
        Where they lie.

    Returns
    -------
    mean, stderr : ndarray
        Without `axis`. The error is NaN for a single sample, and inf where the mean is.

    Examples
    --------
    >>> mean, stderr = mean_and_stderr(np.array([1.0, 2.0, 3.0, 4.0]))
    >>> float(mean), round(float(stderr), 6)
    (2.5, 0.645497)
    """
    n = samples.shape[axis]
    mean = samples.mean(axis=axis)
    finite = np.isfinite(mean)
    if n == 1:
        return mean, np.where(finite, np.nan, np.inf)
    safe = np.where(np.expand_dims(finite, axis), samples, 0.0)
    stderr = safe.std(axis=axis, ddof=1) / np.sqrt(n)
    return mean, np.where(finite, stderr, np.inf)
