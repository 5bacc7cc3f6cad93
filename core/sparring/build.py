"""Assembly: from a checked cell to configured instances, folds, data on its device and a training strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparring.aggregate import WeightedMean
from sparring.choose import choose
from sparring.context import Round, Setup
from sparring.errors import ConfigError, EffectError
from sparring.facts import Fact
from sparring.fedavg import FederatedAveraging
from sparring.fit import cast, device_of, fits, initial, settings
from sparring.groups import HONEST, grouped, whom
from sparring.keys import Key
from sparring.layout import Layout, float_buffers
from sparring.local import LocalPlan
from sparring.manager import Manager, run_manager
from sparring.partition import partition
from sparring.resolve import Chosen, Resolved
from sparring.roles import SITES, Accountant, Aggregator, Data, StreamingAggregator, Trainer
from sparring.schema import Rate
from sparring.signals import ClientData, Cohort, ModelPlan, Release
from sparring.sites import Site
from sparring.specs import Layer
from sparring.strategies import Strategy, Work
from sparring.threat import skips

Transform = Callable[[Any, Any], Any]
UNRECORDED = ("activation", "logits", "trace")
"""Views that the contract describes and no recorder writes: an attack on one is refused before anything is trained."""


@dataclass(frozen=True)
class Live:
    """A configured layer: where it acts, the callable, the facts that hold where it stands.

    ``behind``: the facts that hold behind it, to be spot-checked; empty unless the experiment asks for that.
    """

    name: str
    site: Site
    layer: Layer[Any]
    instance: Any
    transform: Transform
    facts: tuple[Fact, ...]
    behind: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class LiveAttack:
    """A configured attack: its active layers, its reader, and the clients that it holds or watches."""

    chosen: Chosen
    active: tuple[Live, ...]
    read: Transform | None
    clients: tuple[int, ...]

    @property
    def label(self) -> str:
        return self.chosen.label


@dataclass(frozen=True)
class Built:
    """Everything that a run needs, resolved once."""

    resolved: Resolved
    manager: Manager
    layers: tuple[Live, ...]
    attacks: tuple[LiveAttack, ...]
    groups: Mapping[str, tuple[int, ...]]
    trainer: Trainer
    train: Transform
    rule: Aggregator | StreamingAggregator[Any]
    aggregate: Transform
    host: Callable[[Cohort, Round], Release] | None
    accountant: Accountant | None
    data: Data
    plan: ModelPlan
    layout: Layout
    initial: Tensor
    work: Work
    strategy: Strategy
    why: str
    setup: Setup

    def at(self, *sites: Site) -> tuple[Live, ...]:
        """The defence layers at these sites, in stack order."""
        return tuple(live for live in self.layers if live.site in sites)

    @property
    def compromised(self) -> frozenset[int]:
        """Clients that an active attack holds."""
        return frozenset(c for name, ids in self.groups.items() if name != HONEST for c in ids)


def build(resolved: Resolved, progress: Callable[[str, float], None]) -> Built:
    """Assemble a cell. Raises `ConfigError`, `DataError` and `PluginError` before anything is trained or written."""
    resolved.require()
    file = resolved.file
    setup = Setup(Key(file.seed), progress=progress)
    manager = run_manager()
    layers = _layers(resolved, manager)
    dtype = torch.float64 if file.federation.precision == "float64" else torch.float32
    device = device_of(file.performance.device)
    data = cast(resolved.dataset.build().load(setup.at("dataset")), dtype)
    plan = _model(resolved, data, layers, setup)
    module, initial_module = plan.factory(), initial(plan, setup)
    fits(module, data, resolved.model.label, dtype)
    federation = file.federation
    buffers = float_buffers(module)
    if buffers and federation.buffers == "refused":
        raise ConfigError(
            f"federation.buffers is refused, but '{resolved.model.label}' has {len(buffers)} buffers; use GroupNorm"
        )
    layout = Layout.of(module, plan.frozen, buffers=federation.buffers == "federated")
    split = partition(data.train, federation.clients, file.dataset.partition, setup.key)
    clients = ClientData({i: data.train.take(index) for i, index in split.items()}, data.shape)
    attacks = tuple(_attack(chosen, resolved, manager, setup.key) for chosen in resolved.running)
    groups = grouped(attacks, federation.clients)
    threat = file.threat_model.compromised
    control = threat.control if threat else None
    clients = _poison_and_defend(clients, layers, attacks, groups, control, setup)
    plans = _local_plans(layers, attacks, control, setup)
    if resolved.trainer is None and any(plan.exchange is not None for plan in plans.values()):
        raise ConfigError("a layer at local.exchange would never run: federated averaging exchanges nothing within a step")
    own = None
    if buffers and federation.buffers == "local":
        row = torch.cat([b.reshape(-1) for b in float_buffers(initial_module)]).to(dtype)
        own = {i: row.clone().share_memory_() for i in clients}
    work = Work(plan, layout, clients, plans, settings(resolved.file.federation), setup.key, device, dtype, own)
    trainer, train = _trainer(resolved, manager, own)
    rule = _rule(resolved, manager)
    strategy, why = choose(resolved, work, setup)
    return Built(
        resolved=resolved,
        manager=manager,
        layers=layers,
        attacks=attacks,
        groups=groups,
        trainer=trainer,
        train=train,
        rule=rule,
        aggregate=manager.implementation("server_aggregate", "aggregator"),
        host=_host(resolved, setup),
        accountant=resolved.accountant.build() if resolved.accountant else None,
        data=data,
        plan=plan,
        layout=layout,
        initial=layout.row(initial_module.to(dtype)).to(device),
        work=work,
        strategy=strategy,
        why=why,
        setup=setup,
    )


def _live(name: str, layer: Layer[Any], owner: Chosen, manager: Manager, hook: str, facts: tuple[Fact, ...]) -> Live:
    instance = layer.build(owner.config)
    sites = SITES.get(getattr(instance, "signal", type(None)), ())
    if layer.site not in sites:
        raise ConfigError(
            f"'{name}' of {owner.origin} declares {layer.site.label}, but its class acts at {[s.label for s in sites]}"
        )
    manager.admit(instance, name, owner.origin)
    return Live(name, layer.site, layer, instance, manager.implementation(hook, name), facts)


def _layers(resolved: Resolved, manager: Manager) -> tuple[Live, ...]:
    by_name = {placed.name: placed for placed in resolved.layers}
    found = []
    for k, step in enumerate(resolved.report.steps):
        if step.name in by_name:
            placed = by_name[step.name]
            facts, behind = (tuple(held.fact for held in resolved.report.trail[j].values()) for j in (k, k + 1))
            live = _live(step.name, placed.layer, placed.owner, manager, "defence_transform", facts)
            found.append(replace(live, behind=behind) if resolved.file.checked else live)
    return tuple(found)


def _attack(chosen: Chosen, resolved: Resolved, manager: Manager, key: Key) -> LiveAttack:
    spec: Any = chosen.spec
    active = []
    for layer in spec.layers:
        name = f"{chosen.label}/{layer.site.name.lower()}" if len(spec.layers) > 1 or spec.reader else chosen.label
        active.append(_live(name, layer, chosen, manager, "attack_transform", ()))
    read = None
    if spec.reader is not None:
        view = resolved.sights[chosen.label].view
        if view in UNRECORDED:
            raise ConfigError(f"'{chosen.label}' would read the {view} view, which nothing in this core records yet; drop it")
        manager.admit(spec.reader.build(chosen.config), chosen.label, chosen.origin)
        read = manager.implementation("attack_observe", chosen.label)
    holds = any(live.site.client_side for live in active)
    return LiveAttack(chosen, tuple(active), read, whom(chosen, resolved, holds, key))


def _poison_and_defend(
    clients: ClientData,
    layers: Sequence[Live],
    attacks: Sequence[LiveAttack],
    groups: Mapping[str, tuple[int, ...]],
    control: str | None,
    setup: Setup,
) -> ClientData:
    for attack in attacks:
        for live in attack.active:
            if live.site is Site.DATA and groups[attack.label]:
                own = _applied(live, clients.only(groups[attack.label]), setup)
                clients = clients.merged(own.only(groups[attack.label]))
    held = [c for name, ids in groups.items() if name != HONEST for c in ids]
    for live in layers:
        if live.site is Site.DATA:
            untouched = clients.only(held if skips(control, live.site, live.layer.wire) else [])
            clients = _applied(live, clients, setup).merged(untouched)
    return clients


def _applied(live: Live, signal: Any, setup: Setup) -> Any:
    """What a layer that runs once makes of ``signal``; a layer that always acts must change it."""
    after = live.transform(signal, setup.at(live.name, live.facts))
    if type(after) is not type(signal):
        raise EffectError(f"'{live.name}' returned {type(after).__name__}, it must return {type(signal).__name__}")
    if live.layer.acts == "always" and _same(signal, after):
        raise EffectError(f"'{live.name}' declares that it always acts, and changed nothing")
    return after


def _same(before: Any, after: Any) -> bool:
    if not isinstance(before, ClientData):
        return bool(before == after)
    parts = [(before.clients[i], after.clients[i]) for i in before]
    return all(a is b or (torch.equal(a.x, b.x) and torch.equal(a.y, b.y)) for a, b in parts)


def _local_plans(
    layers: Sequence[Live], attacks: Sequence[LiveAttack], control: str | None, setup: Setup
) -> dict[str, LocalPlan]:
    def folded(chain: Sequence[Live]) -> LocalPlan:
        plan = LocalPlan()
        for live in chain:
            plan = _applied(live, plan, setup)
        return plan

    defences = [live for live in layers if live.site.local]
    forced = [live for live in defences if not skips(control, live.site, live.layer.wire)]
    own = {attack.label: [live for live in attack.active if live.site.local] for attack in attacks}
    return {HONEST: folded(defences), **{label: folded([*forced, *chain]) for label, chain in own.items()}}


def _model(resolved: Resolved, data: Data, layers: Sequence[Live], setup: Setup) -> ModelPlan:
    model = resolved.model.build()
    plan = ModelPlan(lambda: model.module(data.shape), data.shape)
    for live in layers:
        if live.site is Site.MODEL:
            plan = _applied(live, plan, setup)
    return plan


def _trainer(resolved: Resolved, manager: Manager, own: dict[int, Tensor] | None) -> tuple[Trainer, Transform]:
    f = resolved.file.federation
    if resolved.trainer is not None:
        trainer = resolved.trainer.build()
        manager.admit(trainer, "trainer", resolved.trainer.origin)
    else:
        lr = f.server.lr or (f.optimiser.lr if f.algorithm == "fedsgd" else 1.0)
        trainer = FederatedAveraging(lr, f.server.momentum, f.weighting == "examples", own)
        manager.admit(trainer, "trainer", "sparring")
    return trainer, manager.implementation("client_update", "trainer")


def _rule(resolved: Resolved, manager: Manager) -> Aggregator | StreamingAggregator[Any]:
    chosen = resolved.aggregator
    rule: Aggregator | StreamingAggregator[Any] = chosen.build() if chosen else WeightedMean()
    manager.admit(rule, "aggregator", chosen.origin if chosen else "sparring")
    federation = resolved.file.federation
    if isinstance(rule, Aggregator) and not isinstance(federation.cohort, Rate):
        rule.admit(federation.cohort or federation.clients)
    return rule


def _host(resolved: Resolved, setup: Setup) -> Callable[[Cohort, Round], Release] | None:
    """What forwards a cohort to the run's host, which rebuilds the COHORT layers and the rule from names and configurations."""
    if resolved.host is None:
        return None
    moved = [p.owner for p in resolved.layers if p.layer.site is Site.COHORT]
    if resolved.aggregator is None:
        raise ConfigError(f"'{resolved.host.label}' runs the aggregation rule elsewhere, by name: name one, such as mean")
    stack = tuple((c.spec.name, c.origin, c.config.model_dump(mode="json")) for c in (*moved, resolved.aggregator))
    forward: Callable[[Cohort, Round], Release] = resolved.host.build().open(stack, setup.at(resolved.host.label))
    return forward
