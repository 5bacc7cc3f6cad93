"""Checks of what may be given at all: assumptions by the threat model alone, guarantees where something makes them true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sparring.facts import (
    Clipped,
    Controls,
    Exposure,
    Fact,
    Hardware,
    Identified,
    Judged,
    Knows,
    PerExample,
    PoissonSampled,
    PublicData,
    Sensitivity,
    Space,
    Summable,
    Weighted,
)
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AttackSpec, DefenceSpec
from sparring.testing.kit import check, demand
from sparring.testing.subject import CONFIGURED, Trial

WORLD = (Knows, Controls, Hardware)
"""What the threat model grants."""
IN_ROWS = ("trainers", Site.UPDATE, Site.COHORT, "aggregators", Site.OPEN, Site.RELEASE, "hosts")
BY: Mapping[type[Fact], tuple[str | Site, ...]] = {
    PerExample: ("models", Site.MODEL, Site.BATCH, Site.LOSS, Site.GRADIENT),
    PoissonSampled: (Site.SAMPLER,),
    Clipped: (Site.GRADIENT, "trainers", Site.UPDATE, Site.COHORT, "aggregators", Site.RELEASE),
    Sensitivity: ("aggregators", Site.RELEASE),
    Summable: IN_ROWS,
    Weighted: IN_ROWS,
    Identified: IN_ROWS,
    Space: IN_ROWS,
    Judged: (Site.COHORT,),
    PublicData: ("datasets",),
}
"""Which kinds of plugin, or layers at which sites, can make a fact of core true: where a check tells whether they do."""


def declared(trial: Trial) -> Iterator[tuple[str | Site, Signature]]:
    """Every signature of a technique with the kind or the site that it belongs to."""
    for layer in trial.subject.layers:
        yield layer.site, layer.facts(trial.config)
    if isinstance(trial.spec, AttackSpec) and trial.spec.reader is not None:
        yield "readers", trial.spec.reader.facts(trial.config)
    if not isinstance(trial.spec, DefenceSpec | AttackSpec) and hasattr(trial.spec, "facts"):
        yield trial.spec.kind, trial.spec.facts(trial.config)


@check(CONFIGURED)
def granted_by_whom(trial: Trial) -> None:
    """Law: no plugin gives Knows, Controls or Hardware; a guarantee is given only where something can make it true.
    Why: an adversary's knowledge is an assumption of the experiment, and a guarantee from nowhere is believed by every layer.
    If this fails: need the fact in place of giving it, or give it from the layer that brings it about.
    """
    for where, signature in declared(trial):
        label = where.label if isinstance(where, Site) else where
        made = [*signature.gives, *(m.target for m in signature.maps)]
        for fact in made:
            demand(not isinstance(fact, WORLD), f"at {label} it gives {fact}, which only the threat model grants")
        for fact in signature.gives:
            allowed = BY.get(type(fact), (where,))
            demand(where in allowed, f"at {label} it gives {fact}, which nothing there can bring about")
            coins = isinstance(fact, PoissonSampled) and fact.unit == "client"
            demand(not coins, f"at {label} it gives {fact}; which clients enter a round is decided by the federation")
        hidden = [fact for fact in signature.hides if not isinstance(fact, Exposure) or isinstance(fact, Knows | Controls)]
        demand(not hidden, f"at {label} it hides {', '.join(map(str, hidden))}, which no layer can take away")
