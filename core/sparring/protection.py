"""Against whom a claim protects: derived from where each principal's taps lie, never declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sparring.checker import Missing, Report
from sparring.claims import Claim, Heuristic
from sparring.facts import Entangled, Principal, Readable, What
from sparring.sites import Site
from sparring.taps import read_after

CONTENTS: Final[frozenset[What]] = frozenset(
    {"data", "labels", "activation", "gradient", "update", "logits", "model", "response"}
)
"""What reveals a contribution; a trace shows times and sizes only."""

PRINCIPALS: Final[tuple[Principal, ...]] = ("server", "client", "outsider")
PUBLISHED: Final = Readable("outsider", "model", "run")
"""What an outsider reads where the threat model says nothing of outsiders: the model is the product of the run."""


@dataclass(frozen=True)
class ClaimLine:
    """A claim of the step ``name``, against whom it protects (formal claims), and why it was withdrawn, if it was."""

    name: str
    claim: Claim
    against: tuple[Principal, ...]
    withdrawn: str | None = None

    def __str__(self) -> str:
        if self.withdrawn:
            return f"'{self.name}': {self.claim}, withdrawn: {self.withdrawn}"
        if isinstance(self.claim, Heuristic):
            return f"'{self.name}': {self.claim}"
        return f"'{self.name}': {self.claim}, against {', '.join(self.against) or 'nobody'}"


def protects(report: Report, step_index: int, principal: Principal) -> bool:
    """Whether an event that the step emits protects a client's contribution from ``principal``.

    It does iff every tap of the principal lies behind the event: noise that the server adds does not protect from the server,
    unless a layer that stands on no waived need hides from it what it would read before.
    """
    site = report.steps[step_index].site
    return all(site <= _point(tap) for tap in taps(report, principal))


def taps(report: Report, principal: Principal) -> tuple[Readable, ...]:
    """What ``principal`` reads of contributions: exposures that hold where they are read, or that a tainted step hid."""
    found: dict[Readable, None] = {}
    for i, held in enumerate(report.trail):
        for fact in (h.fact for h in held.values() if isinstance(h.fact, Readable)):
            if fact.by == principal and fact.what in CONTENTS and _read(report, fact, i):
                found[fact] = None
    if principal == "outsider" and not _granted(report, principal):
        found[PUBLISHED] = None
    return tuple(found)


def _point(tap: Readable) -> Site:
    assert tap.what is not None
    return read_after(tap.what, tap.grain)


def _read(report: Report, tap: Readable, i: int) -> bool:
    """Whether ``tap``, which holds before step ``i``, is read there or is lost there to a step that cannot be relied on."""
    position = report.position(_point(tap))
    return i == position or (i < position and i in report.tainted and tap.key not in report.trail[i + 1])


def _granted(report: Report, principal: Principal) -> bool:
    return any(isinstance(fact, Readable) and fact.by == principal for fact in report.start)


def principals(report: Report) -> tuple[Principal, ...]:
    """Whom claims are made against: those that read something from the start, and the outsider, who reads the model."""
    return tuple(p for p in PRINCIPALS if p == "outsider" or _granted(report, p))


def claims(report: Report) -> tuple[ClaimLine, ...]:
    """Every claim of the stack, against whom it holds, and which are withdrawn because they rest on a waived need."""
    return tuple(
        ClaimLine(step.name, claim, _against(report, i, claim), _withdrawn(report, i, claim))
        for i, step in enumerate(report.steps)
        for claim in step.signature.claims
    )


def _against(report: Report, i: int, claim: Claim) -> tuple[Principal, ...]:
    """Post-processing carries a mechanism's event to every later tap; an argument about one layer reaches no further."""
    if isinstance(claim, Heuristic):
        return ()
    return tuple(p for p in principals(report) if protects(report, i, p))


def _withdrawn(report: Report, i: int, claim: Claim) -> str | None:
    if i not in report.tainted:
        return None if isinstance(claim, Heuristic) else _entangled(report, i)
    origin = report.tainted[i]
    needs = "; ".join(_unmet(m) for m in report.missing if m.step == origin)
    return f"'{report.steps[origin].name}' needs {needs}"


def _entangled(report: Report, i: int) -> str | None:
    """Which layer before step ``i`` makes data of one client reach the contributions of others, if one does."""
    givers = [held.giver for held in report.trail[i].values() if isinstance(held.fact, Entangled)]
    if not givers:
        return None
    who = "the start" if givers[0] < 0 else f"'{report.steps[givers[0]].name}'"
    return f"behind {who}, what a client trains on depends on other clients' data"


def _unmet(missing: Missing) -> str:
    clause = " or ".join(map(str, missing.clause))
    return f"{clause}, waived: {missing.waiver.reason}" if missing.waiver else f"{clause}, which does not hold"


__all__ = ["ClaimLine", "claims", "principals", "protects", "taps"]
