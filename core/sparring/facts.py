"""Facts: what is true of the signal at one point of a run, of who can read it, and of the world around it.

A fact is a frozen dataclass whose fields all have defaults. A field typed as a ``Literal`` is *closed* and is matched; any
other field (a bound, a rate) is *carried*: it rides along and is read when the run is planned. A blank (``None``) closed
field in a need means "any". Third parties add facts by subclassing `Guarantee`, `Exposure` or `Setting`.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from itertools import product
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

Principal = Literal["server", "aggregator", "client", "outsider"]
What = Literal["data", "labels", "activation", "gradient", "update", "logits", "model", "response", "trace"]
Grain = Literal["example", "client", "group", "cohort", "round", "run"]
Unit = Literal["example", "client"]
Knowledge = Literal[
    "architecture",
    "labels",
    "local-settings",
    "batch-statistics",
    "benign-updates",
    "aggregator",
    "recipe",
    "defence",
    "auxiliary-data",
]
Control = Literal["data", "training", "update", "broadcast"]


def closed_fields(kind: type[Fact]) -> dict[str, tuple[str, ...]]:
    """The closed fields of a fact type, each with the values that it may take."""
    return _closed_fields(kind)  # type: ignore[arg-type]


@cache
def _closed_fields(kind: type[Any]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, hint in get_type_hints(kind).items():
        options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        literals = [option for option in options if get_origin(option) is Literal]
        values = [value for literal in literals for value in get_args(literal) if value is not None]
        if values:
            found[name] = tuple(values)
    return found


@dataclass(frozen=True)
class Fact:
    """Something true at one point of a run. Subclass one of its three polarities, not this class."""

    def __post_init__(self) -> None:
        for name, values in closed_fields(type(self)).items():
            value = getattr(self, name)
            if value is not None and value not in values:
                raise ValueError(f"{type(self).__name__}.{name} is {value!r}; it must be one of {', '.join(map(str, values))}")

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Identity for matching: the type and its closed fields."""
        return (type(self), *(getattr(self, name) for name in closed_fields(type(self))))

    def meets(self, need: Fact) -> bool:
        """Whether this fact satisfies ``need``, where blanks of the need match anything."""
        if type(self) is not type(need):
            return False
        held, wanted = self.key, need.key
        return held == wanted or all(w is None or w == h for w, h in zip(wanted, held, strict=True))

    def meet(self, other: Fact) -> Self | None:
        """The pattern that matches what both patterns match, or None where nothing does."""
        if type(self) is not type(other):
            return None
        both: dict[str, Any] = {}
        for name in closed_fields(type(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None and mine != theirs:
                return None
            both[name] = theirs if mine is None else mine
        return replace(self, **both)

    def without(self, other: Fact) -> Iterator[Self]:
        """Patterns that together match what this one matches and ``other`` does not."""
        both = self.meet(other)
        if both is None:
            yield self
            return
        rest = self
        for name, values in closed_fields(type(self)).items():
            cut = getattr(both, name)
            if getattr(self, name) is None and cut is not None:
                yield from (replace(rest, **{name: value}) for value in values if value != cut)
                rest = replace(rest, **{name: cut})

    def ground(self) -> Iterator[Self]:
        """Every fact without blanks that this pattern matches."""
        domains = closed_fields(type(self))
        choices = [values if getattr(self, name) is None else (getattr(self, name),) for name, values in domains.items()]
        for values in product(*choices):
            yield replace(self, **dict(zip(domains, values, strict=True)))

    def __str__(self) -> str:
        closed = closed_fields(type(self))
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                shown = f"{value:g}" if isinstance(value, float) else str(value)
                parts.append(shown if field.name in closed else f"{field.name}={shown}")
        return type(self).__name__ + (f"({', '.join(parts)})" if parts else "")


@dataclass(frozen=True)
class Guarantee(Fact):
    """A property that protects or enables; lost at every layer that does not keep it."""


@dataclass(frozen=True)
class Exposure(Fact):
    """Something that an adversary may read, know or control; survives every layer that does not hide it."""


@dataclass(frozen=True)
class Setting(Fact):
    """A circumstance of the whole run (hardware, public data); no layer changes it."""


@dataclass(frozen=True)
class Clipped(Guarantee):
    """Each unit's contribution has norm at most ``bound``; ``among`` is stamped by core (client-side layers: honest)."""

    norm: Literal["l1", "l2", "linf"] | None = None
    unit: Unit | None = None
    among: Literal["honest", "all"] | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Sensitivity(Guarantee):
    """Adding or removing one unit moves the release by at most ``bound`` in L2."""

    unit: Unit | None = None
    bound: float | None = None


@dataclass(frozen=True)
class PerExample(Guarantee):
    """The loss of one example depends on that example and the parameters alone."""


@dataclass(frozen=True)
class PoissonSampled(Guarantee):
    """Each unit enters independently with probability ``rate``."""

    unit: Unit | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Summable(Guarantee):
    """Adding signals is meaningful."""


@dataclass(frozen=True)
class Weighted(Guarantee):
    """The release is the mean weighted by the clients' numbers of examples."""


@dataclass(frozen=True)
class Identified(Guarantee):
    """Each row can be linked to the client that sent it, over rounds."""


@dataclass(frozen=True)
class Judged(Guarantee):
    """Each row comes with a verdict about the client that sent it: how suspect it is."""


@dataclass(frozen=True)
class Space(Guarantee):
    """What the numbers of a row are: reals, integers modulo ``modulus``, sealed integers, or logits."""

    kind: Literal["real", "ring", "sealed", "logits"] | None = None
    modulus: float | None = None


@dataclass(frozen=True)
class Readable(Exposure):
    """``by`` can read ``what``, one value per ``grain``."""

    by: Principal | None = None
    what: What | None = None
    grain: Grain | None = None


@dataclass(frozen=True)
class Knows(Exposure):
    """The adversary is assumed to know this; granted by the threat model only."""

    what: Knowledge | None = None


@dataclass(frozen=True)
class Entangled(Exposure):
    """What one client trains on depends on other clients' data, so that no mechanism on its contribution covers them."""


@dataclass(frozen=True)
class Controls(Exposure):
    """``by`` can replace ``what``: the power of an active adversary."""

    by: Principal | None = None
    what: Control | None = None


@dataclass(frozen=True)
class PublicData(Setting):
    """A public data set is at hand."""


@dataclass(frozen=True)
class Hardware(Setting):
    """Special hardware is at hand."""

    kind: Literal["tee", "simulated-tee", "gpu"] | None = None
