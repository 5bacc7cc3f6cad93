"""One round of a federation, as one function that reads like the algorithm."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sparring.aggregate import BLOCK, fold
from sparring.build import HONEST, Built, Live
from sparring.claims import Event
from sparring.context import Round, Wire
from sparring.errors import EffectError, NumericalError, RoundAborted
from sparring.facts import Knows
from sparring.roles import StreamingAggregator, Task
from sparring.schema import Rate
from sparring.signals import Broadcast, Cohort, Release, State, Updates
from sparring.sites import Site
from sparring.spotcheck import check_updates

STREAMED = 4 * BLOCK
SAMPLED_COLUMNS = 4096


@dataclass
class Cost:
    """What one layer did and took over a run."""

    seconds: float = 0.0
    change: float = 0.0
    rounds: int = 0
    acted: int = 0


@dataclass
class Books:
    """What a run keeps count of: mechanism events per client, cost per layer, bytes, rejections."""

    events: dict[int, dict[Event, int]] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    up: int = 0
    down: int = 0
    aborted: int = 0
    rejected: int = 0
    excluded: int = 0

    def charge(self, event: Event, clients: Sequence[int]) -> None:
        """One occurrence of ``event`` for each of ``clients``."""
        for client in clients:
            own = self.events.setdefault(client, {})
            own[event] = own.get(event, 0) + 1


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
            blocks = (
                _clients(built, broadcast, ids[at : at + STREAMED], ctx, books, tap) for at in range(0, len(ids), STREAMED)
            )
            release = fold(built.rule, (b for b in blocks if b.ids), ctx) if ids else None  # type: ignore[arg-type]
        else:
            updates = _clients(built, broadcast, ids, ctx, books, tap)
            release = _server(built, updates, ctx, books) if updates.ids else None
        if release is not None and release.total > 0:
            for live in built.at(Site.OPEN):
                release = live.transform(release, ctx.at(live.name, live.facts))
            tap(index, broadcast, release)
            for live in built.at(Site.RELEASE):
                release = _measured(live, release, ctx, books, lambda r: r.params[None])
            state = built.trainer.apply(state, _projected(release, state))
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
    )


def _broadcast(built: Built, state: State, ctx: Round, books: Books) -> Broadcast:
    broadcast = Broadcast(state.plan, state.row, state.layout, state.extras)
    for attack in built.attacks:
        for live in attack.active:
            if live.site is Site.BROADCAST:
                broadcast = live.transform(broadcast, ctx.at(live.name))
    for live in built.at(Site.BROADCAST):
        broadcast = _measured(live, broadcast, ctx, books, lambda b: b.row[None])
    return broadcast


def _clients(built: Built, broadcast: Broadcast, ids: Sequence[int], ctx: Round, books: Books, tap: Tap) -> Updates:
    """The clients' half: train, defend the honest rows, attack the others, then what the wire format forces on all."""
    updates = _trained(built, broadcast, ids, ctx, books)
    held = built.resolved.file.threat_model.compromised
    free = built.compromised if held is not None and held.control == "update" else frozenset[int]()
    chain = built.at(Site.UPDATE)
    wire = next((k for k, live in enumerate(chain) if live.layer.wire), len(chain))
    honest = updates.select([i for i in updates.ids if i not in free]) if free else updates
    for live in chain[:wire]:
        honest = _measured(live, honest, ctx, books, lambda u: u.params)
        _finite(honest, live.name, HONEST)
    updates = _joined([honest, *_attacked(built, updates, honest, free, ctx, books)], updates.ids) if free else honest
    for live in chain[wire:]:
        if live.layer.wire or not free:
            updates = _measured(live, updates, ctx, books, lambda u: u.params)
        else:
            honest = _measured(live, updates.select([i for i in updates.ids if i not in free]), ctx, books, lambda u: u.params)
            updates = _joined([honest, updates.select([i for i in updates.ids if i in free])], updates.ids)
    if updates.layout.space.kind != "sealed":
        arrived = ctx.wire.up("update", dict.fromkeys(updates.ids, updates.rows.element_size() * updates.layout.size))
        updates = updates if arrived == updates.ids else updates.select(arrived)
    tap(ctx.index, broadcast, updates)
    return updates


def _trained(built: Built, broadcast: Broadcast, ids: Sequence[int], ctx: Round, books: Books) -> Updates:
    parts = []
    for group, members in built.groups.items():
        own = tuple(i for i in ids if i in members) if len(built.groups) > 1 else tuple(ids)
        if not own and group != HONEST:
            continue
        begun = time.perf_counter()
        updates: Updates = built.train(Task(broadcast, own, group, built.work, built.strategy), ctx.at("trainer"))
        cost = books.costs.setdefault("local training", Cost())
        cost.seconds, cost.rounds, cost.acted = cost.seconds + time.perf_counter() - begun, cost.rounds + 1, cost.acted + 1
        _finite(updates, "local training", group)
        rule = built.work.plans[group].gradient
        for client in own:
            event = rule.event(_client(built, client))
            if event is not None:
                books.charge(event, [client])
        parts.append(updates)
    return _joined(parts, tuple(ids)) if len(parts) > 1 else parts[0]


def _client(built: Built, client: int) -> Any:
    from sparring.train import client_of

    return client_of(client, built.work.data.clients[client], built.work.settings)


def _attacked(
    built: Built, updates: Updates, honest: Updates, free: frozenset[int], ctx: Round, books: Books
) -> Iterable[Updates]:
    granted = {fact.what for fact in built.resolved.sources if isinstance(fact, Knows)}
    for attack in built.attacks:
        ids = [i for i in updates.ids if i in free and i in built.groups.get(attack.label, ())]
        if not ids:
            continue
        own = updates.select(ids)
        grants = replace(
            ctx,
            benign=honest.rows if "benign-updates" in granted else None,
            aggregate=(lambda cohort: built.aggregate(cohort, ctx.at("aggregator"))) if "aggregator" in granted else None,
        )
        for live in attack.active:
            if live.site is Site.UPDATE:
                own = _measured(live, own, grants, books, lambda u: u.params)
        finite = torch.isfinite(own.rows).all(dim=1)
        if not bool(finite.all()):
            books.rejected += int((~finite).sum())
            own = own.select([i for i, good in zip(own.ids, finite.tolist(), strict=True) if good])
        yield own


def _joined(parts: Sequence[Updates], order: Sequence[int]) -> Updates:
    """Updates of disjoint clients as one, in the order of ``order``."""
    kept = [part for part in parts if part.ids]
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
        release = built.host(cohort, ctx.at("aggregator"))
    else:
        for live in built.at(Site.COHORT):
            cohort = _measured(live, cohort, ctx, books, None)
        release = built.aggregate(cohort, ctx.at("aggregator"))
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


def _finite(updates: Updates, layer: str, group: str) -> None:
    if not updates.rows.is_floating_point() or bool(torch.isfinite(updates.rows.sum())):
        return
    bad = ~torch.isfinite(updates.rows).all(dim=1)
    if bool(bad.any()):
        clients = [i for i, wrong in zip(updates.ids, bad.tolist(), strict=True) if wrong]
        raise NumericalError(
            f"NaN or Inf in the update of client {', '.join(map(str, clients[:5]))} ({group}) after {layer}; "
            "lower the learning rate, or look at that client's data"
        )


def _measured(live: Live, signal: Any, ctx: Round, books: Books, view: Callable[[Any], Tensor] | None) -> Any:
    """Apply a layer, and record its time and its relative change on sampled columns."""
    cost = books.costs.setdefault(live.name, Cost())
    begun = time.perf_counter()
    after = live.transform(signal, ctx.at(live.name, live.facts))
    cost.seconds += time.perf_counter() - begun
    cost.rounds += 1
    if type(after) is not type(signal):
        raise EffectError(f"'{live.name}' returned {type(after).__name__}, it must return {type(signal).__name__}")
    if live.behind and isinstance(after, Updates):
        check_updates(live.name, signal, after, live.behind)
    change = _change(signal, after, view)
    if change is not None:
        cost.change += change
    acted = change is None or change > 0
    cost.acted += acted
    if live.layer.acts == "always" and not acted:
        raise EffectError(f"'{live.name}' declares that it always acts, and changed nothing in round {ctx.index}")
    return after


def _change(before: Any, after: Any, view: Callable[[Any], Tensor] | None) -> float | None:
    """Relative L2 change, 0 only where nothing changed; None where the two cannot be compared."""
    if after is before:
        return 0.0
    if view is None:
        return None
    x, y = view(before), view(after)
    if x.shape != y.shape or x.dtype != y.dtype or not x.numel() or getattr(before, "ids", None) != getattr(after, "ids", None):
        return None
    step = max(1, x.shape[1] // SAMPLED_COLUMNS)
    sample, changed = x[:, ::step], y[:, ::step]
    moved = float((changed - sample).norm()) / max(float(sample.norm()), 1e-30)
    return moved if moved > 0 else 0.0 if torch.equal(x, y) else 1e-30
