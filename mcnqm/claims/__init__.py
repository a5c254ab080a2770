"""The ledger: published statements about optimizers on noisy quadratics, made measurable, each with a verdict.

>>> import mcnqm
>>> claim = mcnqm.claims.get("schedule-final-lr")
>>> claim.source
'Zhang et al. 2019, Fig. 13'

``claim.measure()`` measures, ``claim.verdict(...)`` judges, ``claim.control()`` takes the data from another law, for
which the verdict must differ. ``docs/claims.md`` says how verdicts are made and how to add a claim.
"""

from mcnqm.claims.claim import Ask, Claim, Effect, Estimate, Found, Verdict
from mcnqm.claims.curves import Curve, Curves, curve
from mcnqm.claims.lab import FULL, QUICK, Budget, Lab
from mcnqm.claims.ledger import all_claims as all
from mcnqm.claims.ledger import get, measure_all, summary

__all__ = [
    "FULL",
    "QUICK",
    "Ask",
    "Budget",
    "Claim",
    "Curve",
    "Curves",
    "Effect",
    "Estimate",
    "Found",
    "Lab",
    "Verdict",
    "all",
    "curve",
    "get",
    "measure_all",
    "summary",
]
