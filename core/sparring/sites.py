"""The closed set of sites at which layers act, in the order in which a run passes them."""

from __future__ import annotations

from enum import IntEnum


class Site(IntEnum):
    """Where a layer acts. The slots of LOCAL are sites of their own: their order is the order of execution in a step."""

    START = 0
    MODEL = 10
    DATA = 20
    BROADCAST = 30
    SAMPLER = 40
    BATCH = 41
    LOSS = 42
    EXCHANGE = 43
    GRADIENT = 44
    STEP = 45
    TRAINER = 49
    UPDATE = 50
    COHORT = 60
    AGGREGATE = 65
    OPEN = 66
    RELEASE = 70
    RESPONSE = 80

    @property
    def local(self) -> bool:
        """Whether this is a slot of the LOCAL site."""
        return Site.SAMPLER <= self <= Site.STEP

    @property
    def client_side(self) -> bool:
        """Whether the clients run what stands here."""
        return self in (Site.DATA, Site.UPDATE) or self.local

    @property
    def label(self) -> str:
        """The name that people read: ``local.gradient``, ``update``."""
        return f"local.{self.name.lower()}" if self.local else self.name.lower()


OWNED = frozenset({Site.SAMPLER, Site.GRADIENT})
"""Slots that one layer owns: two samplers, or two gradient rules, cannot both be in force."""
