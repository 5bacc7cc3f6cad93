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
SCALED = (Summable(), Identified(), Judged(), Space("real"), PerExample(), PoissonSampled("example"))
"""What weighing, scaling and leaving out rows leaves true: a row stays with its client."""
SHRUNK = (*SCALED, Weighted())
"""What holds besides where no weight of a row that stays is changed."""
BOUNDED = (*SHRUNK, PoissonSampled("client"), Clipped(unit="client"))
"""What holds besides where no row grows, somebody always stays, and nothing is remembered.

From these a later layer computes its noise. Where a round may release nothing, that shows; and a record of earlier rounds lets
clients act on rounds for which they were not sampled.
"""


def analysis(reason: str, keeps: tuple[Fact, ...], needs: tuple[Fact, ...] = (), gives: tuple[Fact, ...] = ()) -> Signature:
    """The signature of an analysis that judges every client; ``reason``: its heuristic claim."""
    return Signature(
        needs=(*READS, *needs), gives=(Judged(), *gives), keeps=keeps, claims=(Heuristic(reason),) if reason else ()
    )
