"""Claims that no problem of this package can decide yet: listed with the reason, and not judged."""

from __future__ import annotations

from mcnqm.claims.claim import Claim

__all__ = ["CLAIMS"]

_DENSE = "it needs a Hessian that is not diagonal in the optimizer's coordinates; no problem of that kind exists yet"
_REAL = "it needs Hessian and covariance measured on a real model; no problem of that kind exists yet"

CLAIMS = tuple(
    Claim(id_, "open", source, statement, open=why)
    for id_, source, statement, why in (
        (
            "surge-dense",
            "Li et al. 2024",
            "On a Hessian with off-diagonal curvature Adam's best rate rises with B and then falls.",
            _DENSE,
        ),
        (
            "rotation",
            "Maes et al. 2024",
            "Adam's advantage over SGD depends on the basis, and shrinks under random rotations.",
            _DENSE,
        ),
        (
            "diagonal-model-real",
            "Zhang et al. 2019, section 4",
            "With H and C of a real model, the diagonal model predicts steps and rates of SGD and momentum on it.",
            _REAL,
        ),
        (
            "dense-model-real",
            "this package",
            "For Adam on a real model the diagonal model fails by a factor, and the dense one holds.",
            _REAL,
        ),
    )
)
"""Claims that are open."""
