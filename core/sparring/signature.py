"""Signatures: how one layer changes the facts, and how two layers compose into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sparring.claims import Claim
from sparring.facts import Exposure, Fact, Guarantee, Setting, closed_fields
from sparring.sites import OWNED, Site

Clause = tuple[Fact, ...]
"""A need that any of its facts meets, the preferred one first."""


class All:
    """The ``keeps`` of a layer that loses nothing, such as an observer."""

    def __repr__(self) -> str:
        return "ALL"


ALL: Final = All()


@dataclass(frozen=True)
class Map:
    """Where ``source`` held, ``target`` holds afterwards; ``carry`` computes its numbers from those of the source.

    A guarantee never comes from an exposure, nor the reverse: whoever forgets one would over-report protection by it.
    """

    source: Fact
    target: Fact
    carry: Callable[[Fact], Fact] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _named(self.target, "a map's target")
        if isinstance(self.target, Setting) or isinstance(self.source, Exposure) != isinstance(self.target, Exposure):
            raise ValueError(f"no map from {self.source} to {self.target}: both are guarantees, or both are exposures")

    def __call__(self, fact: Fact) -> Fact:
        made = self.carry(fact) if self.carry else self.target
        if made.key != self.target.key:
            raise ValueError(f"map of {self.source} must give {self.target}, gave {made}")
        return made


@dataclass(frozen=True)
class Signature:
    """What a layer needs, gives, keeps, hides and maps.

    ``needs``: every entry must be met where the layer stands; an entry is a fact, or a tuple of alternatives in order of
    preference. ``gives``: facts (without blanks, but for `among`, which core stamps) that hold afterwards. ``keeps``:
    patterns of guarantees that survive. ``hides``: patterns of exposures that do not. ``maps``: facts that change.
    ``claims``: what the layer promises when every need was met.
    """

    needs: tuple[Fact | Clause, ...] = ()
    gives: tuple[Fact, ...] = ()
    keeps: tuple[Fact, ...] | All = ()
    hides: tuple[Fact, ...] = ()
    maps: tuple[Map, ...] = ()
    claims: tuple[Claim, ...] = ()

    def __post_init__(self) -> None:
        for fact in self.gives:
            _named(fact, "a given fact")

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """The needs, each as a tuple of alternatives."""
        return tuple(need if isinstance(need, tuple) else (need,) for need in self.needs)

    def survives(self, fact: Fact) -> bool:
        """Whether ``fact`` still holds after the layer."""
        if isinstance(fact, Setting):
            return True
        if isinstance(fact, Exposure):
            return not any(fact.meets(hidden) for hidden in self.hides)
        return isinstance(self.keeps, All) or any(fact.meets(kept) for kept in self.keeps)

    def flow(self, facts: Iterable[Fact]) -> Iterator[tuple[Fact, Fact]]:
        """Each fact before the layer with each that it becomes; survivors first, so that what is mapped overrides them."""
        facts = tuple(facts)
        yield from ((fact, fact) for fact in facts if self.survives(fact))
        if self.maps:
            yield from ((fact, m(fact)) for fact in facts for m in self.maps if fact.meets(m.source))

    def surviving(self, pattern: Fact) -> tuple[Fact, ...]:
        """Patterns that together match the facts of ``pattern`` that survive the layer."""
        if isinstance(pattern, Exposure):
            left = [pattern]
            for hidden in self.hides:
                left = [piece for old in left for piece in old.without(hidden)]
            return tuple(left)
        if isinstance(pattern, Setting) or isinstance(self.keeps, All):
            return (pattern,)
        return _distinct(both for kept in self.keeps if (both := pattern.meet(kept)) is not None)

    def __or__(self, other: Signature) -> Signature:
        """Both at once: every need, everything given or hidden, only what both keep."""
        return Signature(
            (*self.needs, *other.needs),
            (*self.gives, *other.gives),
            _meet_keeps(self.keeps, other.keeps),
            (*self.hides, *other.hides),
            (*self.maps, *other.maps),
            (*self.claims, *other.claims),
        )


@dataclass(frozen=True)
class Step:
    """A named layer at its site; ``entry`` is where the first part of a composite acts."""

    name: str
    site: Site
    signature: Signature
    entry: Site | None = None

    @property
    def enters(self) -> Site:
        return self.site if self.entry is None else self.entry


def _meet_keeps(f: tuple[Fact, ...] | All, g: tuple[Fact, ...] | All) -> tuple[Fact, ...] | All:
    if isinstance(f, All):
        return g
    if isinstance(g, All):
        return f
    return _distinct(both for a in f for b in g if (both := a.meet(b)) is not None)


def _distinct(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    return tuple({fact.key: fact for fact in facts}.values())


def _named(fact: Fact, what: str) -> None:
    blank = [name for name in closed_fields(type(fact)) if name != "among" and getattr(fact, name) is None]
    if blank:
        raise ValueError(f"{what}, {fact}, leaves {', '.join(blank)} blank; only patterns may: name a value for each")


def _implies(a: Clause, b: Clause) -> bool:
    return all(any(fact.meets(need) for need in b) for fact in a)


def absorb(clauses: Iterable[Clause]) -> tuple[Clause, ...]:
    """Drop clauses that another clause implies."""
    kept: list[Clause] = []
    for clause in clauses:
        if not any(_implies(other, clause) for other in kept):
            kept = [other for other in kept if not _implies(clause, other)]
            kept.append(clause)
    return tuple(kept)


def _pull_back(clause: Clause, f: Signature) -> Clause | None:
    """What must hold before ``f`` so that ``clause`` holds after it; empty: always; None: never."""
    if any(given.meets(need) for given in f.gives for need in clause):
        return ()
    before = [fact for need in clause for fact in f.surviving(need)]
    before += [m.source for m in f.maps if any(m.target.meets(need) for need in clause)]
    return _distinct(before) or None


def compose(f: Step, g: Step) -> Step | None:
    """``f`` followed by ``g`` as one step, or None where no start lets both pass.

    Associative; the step that keeps everything is its identity; it passes exactly the starts that the two pass in turn and
    leaves the same facts, with the same numbers unless two ways lead to one fact.
    """
    if g.enters < f.site or (g.enters == f.site and f.site in OWNED):
        return None
    pending: list[Clause] = list(f.signature.clauses)
    for clause in g.signature.clauses:
        pulled = _pull_back(clause, f.signature)
        if pulled is None:
            return None
        if pulled:
            pending.append(pulled)
    gives = (*(after for _, after in g.signature.flow(f.signature.gives)), *g.signature.gives)
    signature = Signature(
        needs=absorb(pending),
        gives=_distinct(gives),
        keeps=_meet_keeps(f.signature.keeps, g.signature.keeps),
        hides=(*f.signature.hides, *g.signature.hides),
        maps=tuple(_compose_maps(f.signature, g.signature)),
        claims=f.signature.claims + g.signature.claims,
    )
    return Step(f"{f.name} >> {g.name}", g.site, signature, f.enters)


def _compose_maps(f: Signature, g: Signature) -> Iterable[Map]:
    for m in f.maps:
        if g.survives(m.target):
            yield m
        for n in g.maps:
            if m.target.meets(n.source):
                yield Map(m.source, n.target, lambda fact, m=m, n=n: n(m(fact)))  # type: ignore[misc]
    for n in g.maps:
        for source in f.surviving(n.source):
            yield Map(source, n.target, n.carry)


__all__ = ["ALL", "All", "Clause", "Guarantee", "Map", "Signature", "Step", "absorb", "compose"]
