"""What the analyses of this distribution have in common, as facts."""

from __future__ import annotations

from sparring.claims import Heuristic
from sparring.facts import (
    Clipped,
    Fact,
    Identified,
    Judged,
    PerExample,
    PoissonSampled,
    Readable,
    Space,
    Summable,
    Weighted,
)
from sparring.signature import Signature

READS = (Readable("aggregator", "update", "client"), Space("real"))
"""What whoever analyses single updates needs."""
SCALED = (Summable(), Identified(), Judged(), Space("real"), PerExample(), PoissonSampled())
"""What multiplying rows by numbers of their own leaves true, and weighing them: a row stays with its client."""
SHRUNK = (*SCALED, Weighted(), Clipped(unit="client"))
"""What leaving rows out and shortening others leaves true: no weight changes, and no row grows."""


def analysis(reason: str, keeps: tuple[Fact, ...], needs: tuple[Fact, ...] = (), gives: tuple[Fact, ...] = ()) -> Signature:
    """The signature of an analysis that judges every client; ``reason``: its heuristic claim."""
    return Signature(
        needs=(*READS, *needs), gives=(Judged(), *gives), keeps=keeps, claims=(Heuristic(reason),) if reason else ()
    )
