"""Taps: which view an attack asks for, at which point of a run it is read, and which exposures grant it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparring.facts import Grain, Principal, Readable, What
from sparring.signature import Clause
from sparring.sites import Site

ViewName = Literal["update", "aggregate", "model", "query", "activation", "logits", "trace"]

READ_AFTER: dict[tuple[What, Grain | None], Site] = {
    ("data", None): Site.DATA,
    ("labels", None): Site.BATCH,
    ("activation", None): Site.EXCHANGE,
    ("gradient", None): Site.EXCHANGE,
    ("update", "example"): Site.UPDATE,
    ("update", "client"): Site.UPDATE,
    ("update", None): Site.OPEN,
    ("logits", "example"): Site.UPDATE,
    ("logits", "client"): Site.UPDATE,
    ("logits", None): Site.OPEN,
    ("model", None): Site.RELEASE,
    ("response", None): Site.RESPONSE,
    ("trace", None): Site.RESPONSE,
}
"""Where each readable thing is read: behind every layer up to this site."""


def read_after(what: What, grain: Grain | None) -> Site:
    """The site behind which ``what`` is read at ``grain``."""
    return READ_AFTER.get((what, grain), READ_AFTER[what, None])


VIEWS: dict[ViewName, tuple[tuple[What, Grain | None], ...]] = {
    "update": (("update", "client"),),
    "aggregate": (("update", "cohort"), ("update", "group")),
    "model": (("model", None),),
    "query": (("response", None),),
    "activation": (("activation", None),),
    "logits": (("logits", "client"),),
    "trace": (("trace", None),),
}


@dataclass(frozen=True)
class Tap:
    """What a passive attack reads: its views in order of preference, of which rounds (None: all), as which principal."""

    views: tuple[ViewName, ...]
    rounds: tuple[int, ...] | None = None
    by: Principal = "server"

    def options(self) -> tuple[tuple[str, Clause, Site], ...]:
        """Each view with the exposures that grant it and the site behind which it is read."""
        return tuple(
            (
                view,
                tuple(Readable(self.by, what, grain) for what, grain in VIEWS[view]),
                read_after(*VIEWS[view][0]),
            )
            for view in self.views
        )
