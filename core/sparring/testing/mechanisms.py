"""Checks of mechanisms: formal claims rest on events, and the noise in the signal is the noise of the event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from sparring.claims import Formal, GaussianEvent, LaplaceEvent
from sparring.facts import Sensitivity
from sparring.local import Client
from sparring.signals import Release, Updates
from sparring.sites import Site
from sparring.testing.fixtures import IDS, make_layout
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.purity import ROUNDS
from sparring.testing.stage import Emitted, clip_bounds
from sparring.testing.subject import Subject, Trial, layers

LOCAL = tuple(site for site in Site if site.local)
COLUMNS = 20_000
RARE = 1e-7
"""Probability at which a statistical check fails an honest mechanism; the streams are fixed, so it does so always or never."""


def _claims(subject: Subject) -> bool:
    return subject.declares(lambda signature: any(isinstance(claim, Formal) for claim in signature.claims))


def formal(trial: Trial) -> list[Formal]:
    """The formal claims of a layer."""
    return [claim for claim in trial.signature.claims if isinstance(claim, Formal)]


@check(layers(*LOCAL, *ROUNDS).where(_claims))
def events_emitted(trial: Trial) -> None:
    """Law: a layer with a formal claim emits events of the claimed unit in each round, for each client that it covers.
    Why: epsilon is composed from events; a claim without them reads as perfect privacy.
    If this fails: call `ctx.emit(event, clients)` with what was added; for a gradient rule return it from `event(client)`.
    """
    claims = formal(trial)
    if not claims:
        raise Inapplicable("it makes no formal claim")
    if trial.site.local:
        plan = trial.apply(trial.build(), trial.signal(), trial.context())
        event = plan.gradient.event(Client(3, 200, 20, 30))
        demand(event is not None, "it claims a formal guarantee, but its gradient rule emits no event")
        units = {event.unit}
    else:
        emitted = Emitted()
        trial.apply(trial.build(), trial.signal(), trial.context(emit=emitted))
        demand(bool(emitted), "it claims a formal guarantee, but emitted no event in a round")
        units = {event.unit for event, _ in emitted}
        charged = {client for _, clients in emitted for client in clients}
        demand(charged == set(IDS), f"it charged clients {sorted(charged)} in a round of {sorted(IDS)}")
    demand({claim.unit for claim in claims} == units, f"it claims {', '.join(map(str, claims))}; its events are per {units}")


@check(layers(Site.UPDATE, Site.RELEASE).where(_claims))
def noise_as_emitted(trial: Trial) -> None:
    """Law: what a mechanism adds to zeros has the distribution of its event times the bound that holds, independently per row.
    Why: the accountant believes the event; less noise than that, or the same noise twice, is no guarantee.
    If this fails: scale by the bound in `ctx.facts`, add noise once, and draw each client's from its own stream.
    """
    if not formal(trial):
        raise Inapplicable("it makes no formal claim")
    emitted = Emitted()
    ctx = trial.context(emit=emitted)
    layout = make_layout(COLUMNS)
    if trial.site is Site.UPDATE:
        updates = Updates(_zeros(len(IDS)), layout, IDS, None)
        rows = trial.apply(trial.build(), updates, _of(ctx, layout)).params.double().numpy()
    else:
        release = Release(_zeros(1)[0], layout, 60.0, len(IDS))
        rows = trial.apply(trial.build(), release, _of(ctx, layout)).params[None].double().numpy()
    demand(len(emitted) == 1, f"it emitted {len(emitted)} events for one release; the kit knows how to compare one")
    event = emitted[0][0]
    if isinstance(event, GaussianEvent):
        scale = event.noise_multiplier * _sensitivity(trial, "l2")
        law, name = stats.norm(0, scale), f"N(0, {scale:.4g}^2)"
    elif isinstance(event, LaplaceEvent):
        scale = event.scale * _sensitivity(trial, "l1")
        law, name = stats.laplace(0, scale), f"Laplace({scale:.4g})"
    for row in rows:
        p = stats.kstest(row, law.cdf).pvalue
        demand(
            p > RARE, f"its event says {name}; on zeros it adds deviation {row.std():.4g}, mean {row.mean():.2g} (p = {p:.1g})"
        )
    if isinstance(event, GaussianEvent):
        ratio = float((rows**2).mean()) / scale**2
        low, high = stats.chi2.ppf((RARE, 1 - RARE), rows.size) / rows.size
        demand(low < ratio < high, f"its event says {name}; what it adds to zeros has {ratio:.4g} times that variance")
    if len(rows) > 1:
        correlation = np.abs(np.corrcoef(rows) - np.eye(len(rows))).max()
        demand(correlation < 7 / COLUMNS**0.5, f"the noise of two clients has correlation {correlation:.3g}")


def _zeros(n: int) -> Tensor:
    return torch.zeros(n, COLUMNS)


def _of(ctx: Any, layout: Any) -> Any:
    """The context of a model with this layout."""
    return replace(ctx, layout=layout, parameters=_zeros(1)[0])


def _sensitivity(trial: Trial, norm: str) -> float:
    """The L2 (L1) sensitivity that holds where the mechanism stands, from `Sensitivity` or `Clipped`."""
    held = [fact.bound for fact in trial.facts if isinstance(fact, Sensitivity) and fact.bound is not None]
    clip = clip_bounds(trial.facts)
    found = held[0] if held and norm == "l2" else clip.get(norm)
    if found is None:
        raise Inapplicable(f"no fact that it needs says its {norm} sensitivity")
    return found
