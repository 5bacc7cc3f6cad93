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
from sparring.fedavg import FederatedAveraging
from sparring.fit import cast, device_of, fits, initial, settings
from sparring.groups import HONEST, grouped
from sparring.keys import Key
from sparring.lab import Lab
from sparring.layout import Layout, float_buffers
from sparring.live import Live, LiveAttack, Transform, applied, live_attack, live_layers
from sparring.manager import Manager, run_manager
from sparring.objectives import Objective
from sparring.partition import partition
from sparring.prepare import local_plans, prepared
from sparring.resolve import Resolved
from sparring.roles import Accountant, Aggregator, Data, Sizing, StreamingAggregator, Trainer
from sparring.schema import Rate
from sparring.signals import ClientData, Cohort, ModelPlan, Release
from sparring.sites import Site
from sparring.strategies import Strategy, Work


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
    objectives: Mapping[str, Objective]

    def at(self, *sites: Site) -> tuple[Live, ...]:
        """The defence layers at these sites, in stack order."""
        return tuple(live for live in self.layers if live.site in sites)

    @property
    def compromised(self) -> frozenset[int]:
        """Clients that an active attack holds."""
        return frozenset(c for name, ids in self.groups.items() if name != HONEST for c in ids)

    def groups_at(self, index: int) -> Mapping[str, tuple[int, ...]]:
        """The groups of clients in round ``index``: those of an attack outside its window are honest."""
        resting = {attack.label for attack in self.attacks if not attack.acts_in(index)} & set(self.groups)
        if not resting:
            return self.groups
        honest = sorted(c for name in (HONEST, *resting) for c in self.groups[name])
        return {HONEST: tuple(honest), **{n: ids for n, ids in self.groups.items() if n not in (HONEST, *resting)}}

    def malicious(self, index: int) -> frozenset[int]:
        """Clients that attack in round ``index``."""
        return frozenset(c for name, ids in self.groups_at(index).items() if name != HONEST for c in ids)


def build(resolved: Resolved, progress: Callable[[str, float], None]) -> Built:
    """Assemble a cell. Raises `ConfigError`, `DataError` and `PluginError` before anything is trained or written."""
    resolved.require()
    file = resolved.file
    setup = Setup(Key(file.seed), progress=progress)
    manager = run_manager()
    layers = live_layers(resolved, manager)
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
    attacks = tuple(live_attack(chosen, resolved, manager, setup.key) for chosen in resolved.running)
    groups = grouped(attacks, federation.clients)
    threat = file.threat_model.compromised
    control = threat.control if threat else None
    training = settings(federation)
    lab = Lab(plan, layout, training, setup.key, device, dtype)
    setup = replace(setup, public=data.public, lab=lab)
    theirs = setup if "recipe" in resolved.knows else replace(setup, lab=None)
    clients, clean = prepared(clients, layers, attacks, groups, control, setup, theirs)
    plans = local_plans(layers, attacks, control, setup, theirs)
    if resolved.trainer is None and any(plan.exchange is not None for plan in plans.values()):
        raise ConfigError("a layer at local.exchange would never run: federated averaging exchanges nothing within a step")
    own = None
    if buffers and federation.buffers == "local":
        row = torch.cat([b.reshape(-1) for b in float_buffers(initial_module)]).to(dtype)
        own = {i: row.clone().share_memory_() for i in clients}
    work = Work(plan, layout, clients, plans, training, setup.key, device, dtype, own, clean)
    trainer, train = _trainer(resolved, manager, own)
    rule = _rule(resolved, manager, layers)
    strategy, why = choose(resolved, work, setup)
    wanted = {a.label: a.targeted for a in attacks if a.targeted is not None}
    objectives = {name: _objective(live, data, theirs) for name, live in wanted.items()}
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
        objectives=objectives,
    )


def _objective(live: Live, data: Data, setup: Setup) -> Objective:
    objective: Objective = live.instance.objective(data.test, setup.at(live.name))
    m, shape = len(objective.wanted), tuple(objective.inputs.shape)
    if not m or shape != (m, *data.shape.inputs) or (objective.index is not None and len(objective.index) != m):
        raise EffectError(
            f"'{live.name}' wants {m} labels for inputs of shape {shape}; there must be some, each {data.shape.inputs}"
        )
    if not bool(objective.counted(data.test.y).any()):
        raise EffectError(f"'{live.name}' wants of every input the label that it has; choose another target")
    return objective


def _model(resolved: Resolved, data: Data, layers: Sequence[Live], setup: Setup) -> ModelPlan:
    model = resolved.model.build()
    plan = ModelPlan(lambda: model.module(data.shape), data.shape)
    for live in layers:
        if live.site is Site.MODEL:
            plan = applied(live, plan, setup)
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


def _rule(resolved: Resolved, manager: Manager, layers: Sequence[Live]) -> Aggregator | StreamingAggregator[Any]:
    chosen = resolved.aggregator
    rule: Aggregator | StreamingAggregator[Any] = chosen.build() if chosen else WeightedMean()
    manager.admit(rule, "aggregator", chosen.origin if chosen else "sparring")
    federation = resolved.file.federation
    if not isinstance(federation.cohort, Rate):
        n = federation.cohort or federation.clients
        for live in layers:
            if live.site is Site.COHORT and isinstance(live.instance, Sizing):
                n = live.instance.admit(n)
        if isinstance(rule, Aggregator):
            rule.admit(n)
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
