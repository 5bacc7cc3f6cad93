"""The checker: walks facts through a stack, reports every missing need, and says what an attack would see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sparring.facts import Exposure, Fact
from sparring.signature import All, Clause, Signature, Step
from sparring.sites import OWNED, Site

Key = tuple[object, ...]


@dataclass(frozen=True)
class Held:
    """A fact that holds, the step that gave it (-1: the start) and the step whose unmet need taints it, if any."""

    fact: Fact
    giver: int
    taint: int | None = None


@dataclass(frozen=True)
class Waiver:
    """A need that the user takes upon himself; formal claims that rest on it are withdrawn."""

    need: Fact
    reason: str


@dataclass(frozen=True)
class Missing:
    """A clause that does not hold where ``step`` stands; ``lost`` names facts that met it before, and who lost them."""

    step: int
    clause: Clause
    lost: tuple[tuple[Fact, int], ...]
    waiver: Waiver | None = None


@dataclass(frozen=True)
class Disorder:
    """``step`` acts on an earlier site than the step before it, or on a slot that another step owns."""

    step: int
    rule: str


@dataclass(frozen=True)
class Report:
    """What a walk found: facts before each step and at the end, and everything that is wrong.

    ``tainted`` maps each step whose claims rest on an unmet or waived need to the step that had that need.
    """

    steps: tuple[Step, ...]
    start: tuple[Fact, ...]
    trail: tuple[Mapping[Key, Held], ...]
    missing: tuple[Missing, ...]
    disorders: tuple[Disorder, ...]
    degraded: Mapping[int, Fact] = field(default_factory=dict)
    tainted: Mapping[int, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the stack type-checks; waived needs count as met."""
        return not self.disorders and all(m.waiver for m in self.missing)

    @property
    def facts(self) -> frozenset[Fact]:
        """The facts that hold at the end."""
        return frozenset(held.fact for held in self.trail[-1].values())

    def position(self, after: Site) -> int:
        """The index into `trail` of the point just behind the last step that acts at or before ``after``."""
        return max((i + 1 for i, step in enumerate(self.steps) if step.site <= after), default=0)

    def facts_at(self, after: Site) -> Mapping[Key, Held]:
        """The facts that hold once every step up to ``after`` has acted."""
        return self.trail[self.position(after)]

    def losers(self, need: Fact, before: int) -> tuple[tuple[Fact, int], ...]:
        """Facts that met ``need`` at some point before ``before``, each with the index of the step that lost it."""
        return _losers(self.trail, need, before)


def walk(steps: Sequence[Step], start: Iterable[Fact], waivers: Sequence[Waiver] = ()) -> Report:
    """Check a stack against the facts at its start. Pure; reports every fault and raises nothing.

    A layer whose need is not met still gives what it gives, tainted, so that one fault does not cause the next.
    """
    steps, start = tuple(steps), tuple(start)
    trail: list[Mapping[Key, Held]] = [{fact.key: Held(fact, -1) for fact in start}]
    missing: list[Missing] = []
    degraded: dict[int, Fact] = {}
    tainted: dict[int, int] = {}
    for i, step in enumerate(steps):
        for clause in step.signature.clauses:
            met = _met(clause, trail[i])
            if met is None:
                lost = dict.fromkeys(pair for need in clause for pair in _losers(trail, need, i))
                waiver = next((w for w in waivers for need in clause if need.meets(w.need)), None)
                missing.append(Missing(i, clause, tuple(lost), waiver))
                tainted[i] = i
                continue
            if met[0] > 0:
                degraded[i] = clause[met[0]]
            if met[1] is not None:
                tainted.setdefault(i, met[1])
        trail.append(_advance(trail[i], step.signature, i, tainted.get(i)))
    return Report(steps, start, tuple(trail), tuple(missing), tuple(_disorders(steps)), degraded, tainted)


def _met(clause: Clause, held: Mapping[Key, Held]) -> tuple[int, int | None] | None:
    """Which alternative is met, and its taint: None as soon as any fact that meets any alternative is clean."""
    first: tuple[int, int | None] | None = None
    for k, need in enumerate(clause):
        exact = held.get(need.key)
        for h in (exact,) if exact and exact.taint is None else held.values():
            if h is exact or h.fact.meets(need):
                first = first or (k, h.taint)
                if h.taint is None:
                    return first[0], None
    return first


def _losers(trail: Sequence[Mapping[Key, Held]], need: Fact, before: int) -> tuple[tuple[Fact, int], ...]:
    found: dict[Key, tuple[Fact, int]] = {}
    for i in range(before):
        gone = (held.fact for key, held in trail[i].items() if key not in trail[i + 1])
        found.update((fact.key, (fact, i)) for fact in gone if fact.meets(need))
    return tuple(found.values())


def _advance(held: Mapping[Key, Held], signature: Signature, i: int, taint: int | None) -> dict[Key, Held]:
    after: dict[Key, Held] = {}
    for fact, made in signature.flow(h.fact for h in held.values()):
        h = held[fact.key]
        after[made.key] = h if made is fact else Held(made, i, h.taint if taint is None else taint)
    after.update((fact.key, Held(fact, i, taint)) for fact in signature.gives)
    return after


def _disorders(steps: Sequence[Step]) -> Iterable[Disorder]:
    owners: dict[Site, str] = {}
    for i, step in enumerate(steps):
        if i and step.enters < steps[i - 1].site:
            before = steps[i - 1]
            yield Disorder(i, f"acts at {step.enters.label}, after '{before.name}' at {before.site.label}")
        for slot in sorted({step.enters, step.site} & OWNED):
            if slot in owners:
                yield Disorder(i, f"and '{owners[slot]}' both own {slot.label}; keep one of them")
            owners.setdefault(slot, step.name)


Outcome = Literal["runs", "degraded", "blind", "ungranted"]


@dataclass(frozen=True)
class Sight:
    """What a stack leaves of an attack: the view that it gets, or the layers and needs that deny it."""

    outcome: Outcome
    view: str | None = None
    blinded_by: tuple[str, ...] = ()
    unmet: tuple[Fact, ...] = ()

    def __str__(self) -> str:
        if self.outcome == "runs":
            return f"runs on the {self.view} view" if self.view else "runs"
        if self.outcome == "degraded":
            return f"degraded to the {self.view} view" + (f" by {', '.join(self.blinded_by)}" if self.blinded_by else "")
        needs = ", ".join(map(str, self.unmet))
        if self.outcome == "blind":
            return f"blind: {', '.join(self.blinded_by)} hides {needs}"
        return f"not granted: the threat model gives no {needs}"


def sight(report: Report, attack: Signature, views: Sequence[tuple[str, Clause, Site]]) -> Sight:
    """Whether an attack runs against a checked stack, and if not, which layer or assumption denies it.

    ``views`` are the attack's views in order of preference: name, the exposures that grant it, and the site behind which
    it is tapped. An attack without views is judged at the start.
    """
    denied: list[Sight] = []
    for k, (name, clause, after) in enumerate(views or (("", (), Site.START),)):
        position = report.position(after) if views else 0
        clauses = (*attack.clauses, *((clause,) if clause else ()))
        unmet = [c for c in clauses if _met(c, report.trail[position]) is None]
        if not unmet:
            lost = dict.fromkeys(layer for s in denied for layer in s.blinded_by)
            return Sight("degraded" if k else "runs", name or None, tuple(lost))
        lost_by = [{i for need in c for _, i in report.losers(need, position)} for c in unmet]
        never = tuple(c[0] for c, culprits in zip(unmet, lost_by, strict=True) if not culprits)
        if never:
            denied.append(Sight("ungranted", unmet=never))
        else:
            culprits = tuple(dict.fromkeys(report.steps[i].name for i in sorted(set().union(*lost_by))))
            denied.append(Sight("blind", None, culprits, tuple(c[0] for c in unmet)))
    return next((s for s in denied if s.outcome == "blind"), denied[0])


def passes(steps: Sequence[Step], start: Iterable[Fact]) -> bool:
    """Whether the stack type-checks from ``start``; cheaper than reading a report."""
    return walk(steps, start).ok


def observer(signature: Signature) -> bool:
    """Whether a layer only looks on: it keeps everything and changes nothing."""
    return isinstance(signature.keeps, All) and not signature.gives and not signature.hides and not signature.maps


def exposures(report: Report, principal: str) -> tuple[Exposure, ...]:
    """What ``principal`` could read at the start."""
    return tuple(f for f in report.start if isinstance(f, Exposure) and getattr(f, "by", None) == principal)
