"""One round of a federation, as one function that reads like the algorithm."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from sparring.aggregate import BLOCK, fold
from sparring.build import Built
from sparring.context import Round, Wire
from sparring.errors import EffectError, NumericalError, RoundAborted
from sparring.groups import HONEST
from sparring.interference import accepted, attacked
from sparring.measure import Books, Cost, measured
from sparring.roles import StreamingAggregator, Task
from sparring.schema import Rate
from sparring.signals import Broadcast, Cohort, Release, State, Updates
from sparring.sites import Site
from sparring.train import client_of
from sparring.verdicts import Verdict

STREAMED = 4 * BLOCK


Tap = Callable[[int, Broadcast, Updates | Release], None]


@dataclass(frozen=True)
class Plan:
    """What a run decides about its rounds before the first: whether rows stream, and which layer forbids it."""

    streams: bool
    forced_by: str | None


def plan_rounds(built: Built) -> Plan:
    """Rows stream through a streaming rule in fixed blocks, unless something needs all of them at once."""
    force: Iterator[str] = itertools.chain(
        (live.name for live in built.at(Site.COHORT)),
        (live.name for live in built.at(Site.UPDATE) if live.layer.wire),
        (a.label for a in built.attacks if any(live.site is Site.UPDATE for live in a.active)),
        ("host",) if built.host is not None else (),
        () if isinstance(built.rule, StreamingAggregator) else (type(built.rule).__name__,),
    )
    forced_by = next(force, None)
    return Plan(forced_by is None, forced_by)


def play(built: Built, plan: Plan, state: State, index: int, books: Books, tap: Tap) -> State:
    """Round ``index``: sample, broadcast, train, defend, attack, aggregate, release, apply."""
    cohort = sampled(built, index)
    ctx = _context(built, state, index, cohort, books)
    broadcast = _broadcast(built, state, ctx, books)
    ids = [client for client in cohort if client not in broadcast.refused]
    ctx.wire.down("broadcast", {i: broadcast.to(i).row.nbytes for i in ids})
    try:
        if plan.streams:
            shares = (ids[at : at + STREAMED] for at in range(0, len(ids), STREAMED))
            blocks = (part for part in (_clients(built, broadcast, own, ctx, books, tap) for own in shares) if part.ids)
            first = next(blocks, None)
            rule = ctx.at("aggregator", built.resolved.facts_before(Site.AGGREGATE))
            release = None if first is None else fold(built.rule, itertools.chain((first,), blocks), rule)  # type: ignore[arg-type]
        else:
            updates = _clients(built, broadcast, ids, ctx, books, tap)
            release = _server(built, updates, ctx, books) if updates.ids else None
        if release is not None and release.total > 0:
            for live in built.at(Site.OPEN):
                release = measured(live, release, ctx, books, lambda r: r.params[None])
            tap(index, broadcast, release)
            if release.excluded:
                left_out = {client: float(client in release.excluded) for client in ids}
                books.detections.add([Verdict("aggregator", left_out, frozenset(release.excluded))], built.malicious(index))
            for live in built.at(Site.RELEASE):
                release = measured(live, release, ctx, books, lambda r: r.params[None])
            state = replace(built.trainer.apply(state, _projected(release, state)), previous=state.row)
            books.excluded += len(release.excluded)
    except RoundAborted:
        books.aborted += 1
    up, down = ctx.wire.totals()
    books.up, books.down = books.up + up, books.down + down
    return state


def sampled(built: Built, index: int) -> tuple[int, ...]:
    """The clients of a round: all, a fixed number without replacement, or each with probability ``rate``."""
    federation = built.resolved.file.federation
    n, cohort = federation.clients, federation.cohort
    if cohort is None or cohort == n:
        return tuple(range(n))
    generator = built.setup.key.child("round", index, "cohort").generator()
    if isinstance(cohort, Rate):
        return tuple(torch.nonzero(torch.rand(n, generator=generator) < cohort.rate).flatten().tolist())
    return tuple(sorted(torch.randperm(n, generator=generator)[:cohort].tolist()))


def _context(built: Built, state: State, index: int, cohort: tuple[int, ...], books: Books) -> Round:
    file = built.resolved.file
    key = built.setup.key

    def lost(stage: str, client: int) -> bool:
        generator = key.child("round", index, "lost", stage, "client", client).generator()
        return bool(torch.rand((), generator=generator) < file.federation.dropout)

    return Round(
        index=index,
        rounds=file.federation.rounds,
        key=key,
        wire=Wire(index, lost),
        parameters=state.row,
        layout=state.layout,
        cohort=cohort,
        emit=books.charge,
        progress=built.setup.progress,
        public=built.setup.public,
        lab=built.setup.lab,
    )


def _broadcast(built: Built, state: State, ctx: Round, books: Books) -> Broadcast:
    broadcast = Broadcast(state.plan, state.row, state.layout, state.extras, previous=state.previous)
    theirs = ctx if "recipe" in built.resolved.knows else replace(ctx, lab=None)
    for attack in built.attacks:
        for live in attack.active if attack.acts_in(ctx.index) else ():
            if live.site is Site.BROADCAST:
                broadcast = measured(live, broadcast, theirs, books, lambda b: b.row[None])
    for live in built.at(Site.BROADCAST):
        broadcast = measured(live, broadcast, ctx, books, lambda b: b.row[None])
    odd = [client for client, own in broadcast.overrides.items() if own.layout != broadcast.layout]
    if odd:
        raise EffectError(f"client {odd[0]} is sent a model of another layout than the others; send all of them that layout")
    added = broadcast.layout.size != state.layout.size
    kept = {(s.name, s.shape) if added else s for s in broadcast.layout.segments}
    lost = [s.name for s in state.layout.segments if ((s.name, s.shape) if added else s) not in kept]
    if lost:
        raise EffectError(
            f"the model that is sent has no '{lost[0]}' of the shape or in the place of the global model's; plant modules "
            "beside its own, whose names and shapes must stay"
        )
    return broadcast


def _clients(built: Built, broadcast: Broadcast, ids: Sequence[int], ctx: Round, books: Books, tap: Tap) -> Updates:
    """The clients' half: train, defend the honest rows, attack the others, then what the wire format forces on all."""
    updates = _trained(built, broadcast, ids, ctx, books)
    held = built.resolved.file.threat_model.compromised
    free = built.malicious(ctx.index) if held is not None and held.control == "update" else frozenset[int]()
    chain = built.at(Site.UPDATE)
    wire = next((k for k, live in enumerate(chain) if live.layer.wire), len(chain))
    honest = updates.select([i for i in updates.ids if i not in free]) if free else updates
    for live in chain[:wire]:
        honest = measured(live, honest, ctx, books, lambda u: u.params)
        _finite(honest, live.name)
    updates = _joined([honest, *attacked(built, updates, honest, free, ctx, books)], updates.ids) if free else honest
    for live in chain[wire:]:
        if live.layer.wire or not free:
            updates = measured(live, updates, ctx, books, lambda u: u.params)
        else:
            honest = measured(live, updates.select([i for i in updates.ids if i not in free]), ctx, books, lambda u: u.params)
            updates = _joined([honest, updates.select([i for i in updates.ids if i in free])], updates.ids)
    if updates.layout.space.kind != "sealed":
        arrived = ctx.wire.up("update", dict.fromkeys(updates.ids, updates.rows.element_size() * updates.layout.size))
        updates = updates if arrived == updates.ids else updates.select(arrived)
    tap(ctx.index, broadcast, updates)
    return updates


def _trained(built: Built, broadcast: Broadcast, ids: Sequence[int], ctx: Round, books: Books) -> Updates:
    parts, facts = [], built.resolved.facts_before(Site.TRAINER)
    groups = built.groups_at(ctx.index)
    for group, members in groups.items():
        own = tuple(i for i in ids if i in members) if len(groups) > 1 else tuple(ids)
        if not own and group != HONEST:
            continue
        begun = time.perf_counter()
        updates: Updates = built.train(Task(broadcast, own, group, built.work, built.strategy), ctx.at("trainer", facts))
        cost = books.costs.setdefault("local training", Cost())
        cost.seconds, cost.rounds, cost.acted = cost.seconds + time.perf_counter() - begun, cost.rounds + 1, cost.acted + 1
        if group == HONEST:
            _finite(updates, "local training")
        else:
            updates = accepted(updates, books)
        rule = built.work.plans[group].gradient
        for client in own:
            event = rule.event(client_of(client, built.work.examples(client, group), built.work.settings))
            if event is not None:
                books.charge(event, [client])
        parts.append(updates)
    return _joined(parts, tuple(ids)) if len(parts) > 1 else parts[0]


def _joined(parts: Sequence[Updates], order: Sequence[int]) -> Updates:
    """Updates of disjoint clients as one, in the order of ``order``."""
    kept = [part for part in parts if part.ids] or list(parts[:1])
    if len(kept) == 1:
        whole = kept[0]
    else:
        weights = (
            None if any(p.weights is None for p in kept) else torch.cat([p.weights for p in kept if p.weights is not None])
        )
        whole = Updates(torch.cat([p.rows for p in kept]), kept[0].layout, tuple(i for p in kept for i in p.ids), weights)
    present = set(whole.ids)
    wanted = tuple(i for i in order if i in present)
    return whole if wanted == whole.ids else whole.select(wanted)


def _server(built: Built, updates: Updates, ctx: Round, books: Books) -> Release:
    begun = time.perf_counter()
    cohort = Cohort(updates.rows, updates.layout, updates.ids, updates.weights, sources=updates.ids)
    if built.host is not None:
        release = built.host(cohort, ctx.at("aggregator", built.resolved.facts_before(Site.COHORT, Site.AGGREGATE)))
    else:
        for live in built.at(Site.COHORT):
            cohort = measured(live, cohort, ctx, books, None)
        books.detections.add(cohort.verdicts, built.malicious(ctx.index))
        release = built.aggregate(cohort, ctx.at("aggregator", built.resolved.facts_before(Site.AGGREGATE)))
    cost = books.costs.setdefault("aggregation", Cost())
    cost.seconds, cost.rounds, cost.acted = cost.seconds + time.perf_counter() - begun, cost.rounds + 1, cost.acted + 1
    if updates.layout.space.modulus is None and not bool(torch.isfinite(release.vector).all()):
        raise NumericalError(f"round {ctx.index}: the aggregation rule returned NaN or Inf from finite updates")
    return release


def _projected(release: Release, state: State) -> Release:
    """The release cut back to the state's own layout: what a planted layer added is dropped."""
    if release.layout.size == state.layout.size:
        return release
    parts = release.layout.split(release.vector)
    vector = torch.cat([parts[s.name].reshape(-1) for s in state.layout.segments])
    return replace(release, vector=vector, layout=state.layout)


def _finite(updates: Updates, layer: str) -> None:
    if not updates.rows.is_floating_point() or bool(torch.isfinite(updates.rows.sum())):
        return
    bad = ~torch.isfinite(updates.rows).all(dim=1)
    if bool(bad.any()):
        clients = [i for i, wrong in zip(updates.ids, bad.tolist(), strict=True) if wrong]
        raise NumericalError(
            f"NaN or Inf in the update of client {', '.join(map(str, clients[:5]))} after {layer}; "
            "lower the learning rate, or look at that client's data"
        )
