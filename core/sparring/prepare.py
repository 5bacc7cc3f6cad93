"""Preparation: what clients hold and how they train, once attacks and defences of data and training have acted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparring.context import Setup
from sparring.groups import HONEST
from sparring.live import Live, LiveAttack, applied
from sparring.local import LocalPlan
from sparring.signals import ClientData
from sparring.sites import Site
from sparring.threat import skips


def prepared(
    clients: ClientData,
    layers: Sequence[Live],
    attacks: Sequence[LiveAttack],
    groups: Mapping[str, tuple[int, ...]],
    control: str | None,
    setup: Setup,
    theirs: Setup,
) -> tuple[ClientData, ClientData | None]:
    """What each client holds under attack, and what those hold in rounds outside a window whose data an attack changes.

    ``setup``: the context of defences; ``theirs``: of attacks.
    """
    poisoned = clients
    resting: list[int] = []
    for attack in attacks:
        for live in attack.active:
            if live.site is Site.DATA and groups[attack.label]:
                own = applied(live, poisoned.only(groups[attack.label]), theirs)
                poisoned = poisoned.merged(own.only(groups[attack.label]))
                resting += [] if attack.window is None else groups[attack.label]
    held = [c for name, ids in groups.items() if name != HONEST for c in ids]
    clean = defended(clients, layers, [], control, setup).only(resting) if resting else None
    return defended(poisoned, layers, held, control, setup), clean


def defended(clients: ClientData, layers: Sequence[Live], held: Sequence[int], control: str | None, setup: Setup) -> ClientData:
    """The data behind the DATA defences, which ``held`` clients may skip."""
    for live in layers:
        if live.site is Site.DATA:
            untouched = clients.only(held if skips(control, live.site, live.layer.wire) else [])
            clients = applied(live, clients, setup).merged(untouched)
    return clients


def local_plans(
    layers: Sequence[Live], attacks: Sequence[LiveAttack], control: str | None, setup: Setup, theirs: Setup
) -> dict[str, LocalPlan]:
    """How the clients of each group train."""

    def folded(chain: Sequence[Live], context: Setup, plan: LocalPlan | None = None) -> LocalPlan:
        made = plan or LocalPlan()
        for live in chain:
            made = applied(live, made, context)
        return made

    defences = [live for live in layers if live.site.local]
    forced = [live for live in defences if not skips(control, live.site, live.layer.wire)]
    plans = {HONEST: folded(defences, setup)}
    for attack in attacks:
        own = [live for live in attack.active if live.site.local]
        plans[attack.label] = folded(own, theirs, folded(forced, setup))
    return plans
