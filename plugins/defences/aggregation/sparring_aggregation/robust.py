"""What rules that bear Byzantine clients declare alike. Light."""

from __future__ import annotations

from sparring.claims import Heuristic
from sparring.facts import PerExample, PoissonSampled, Readable, Space
from sparring.signature import Signature

SAMPLING = (PerExample(), PoissonSampled())
"""What no rule over rows can change: how examples enter a loss, and how units enter a round."""


def robust(reason: str) -> Signature:
    """The signature of a rule that compares single updates.

    It loses `Weighted`, which says that the release is the weighted mean: a rule that leaves rows out is none, weights or not.
    """
    return Signature(
        needs=(Readable("aggregator", "update", "client"), Space("real")),
        keeps=(*SAMPLING, Space("real")),
        claims=(Heuristic(reason),),
    )
