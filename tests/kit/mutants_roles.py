"""Mutants of the checks of engines, trainers and hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparring import registry
from sparring.fedavg import FederatedAveraging
from sparring.hookspecs import hookimpl
from sparring.roles import Engine, Host, StackRef, Stateful, Task, Trainer
from sparring.signals import Broadcast, Cohort, Release, State, Updates
from sparring.signature import ALL, Signature
from sparring.specs import AggregatorSpec, AnySpec, DefenceSpec, Empty, EngineSpec, HostSpec, TrainerSpec
from sparring.strategies import Strategy, Work
from sparring.testing.stage import aggregate
from sparring.train import Sequential
from tests.kit.making import ROWS, Made, mutant, subject


class Elsewhere(Strategy):
    """The sequential strategy behind a connection; ``flaw`` names what is wrong with it."""

    name = "elsewhere"

    def __init__(self, work: Work, flaw: str) -> None:
        self.inner: Sequential | None = Sequential(work)
        self.flaw, self.calls = flaw, 0

    def train(self, broadcast: Broadcast, clients: Sequence[int], group: str, round_: int) -> Tensor:
        assert self.inner is not None
        self.calls += 1
        if self.flaw == "global":
            torch.rand(1)
        if self.flaw == "override":
            broadcast = replace(broadcast, overrides={})
        if self.flaw == "group":
            group = next(iter(self.inner.learner.work.plans))
        if self.flaw == "round":
            round_ = 0
        asked = sorted(clients) if self.flaw == "order" else clients
        rows = self.inner.train(broadcast, asked, group, round_)
        return rows * (1 + 1e-6 * self.calls) if self.flaw == "memory" else rows

    def close(self) -> None:
        if self.flaw == "close":
            assert self.inner is not None
        self.inner = None


def engine(flaw: str) -> Callable[[bool], Made]:
    def made(broken: bool) -> Made:
        class Cluster(Engine):
            def strategy(self, work: Work, ctx: Any) -> Strategy:
                return Elsewhere(work, flaw if broken else "")

        return EngineSpec(api=1, name="cluster", config=Empty, summary="trains elsewhere", build=lambda c: Cluster())

    return made


for flaw in ("order", "override", "group", "round"):
    mutant("strategy-agrees", flaw)(engine(flaw))
for flaw in ("memory", "global"):
    mutant("strategy-repeats", flaw)(engine(flaw))
mutant("strategy-closes")(engine("close"))


def trainer(
    update: Callable[[Task, Updates], Updates] = lambda task, updates: updates,
    apply: Callable[[State, Release], State] = lambda state, release: replace(state, row=state.row + release.vector),
    model: Callable[[nn.Module], nn.Module] = lambda module: module,
    role: type[Stateful] | None = None,
) -> Made:
    """Federated averaging with one of its parts in another form."""
    average = FederatedAveraging(1.0, 0.0, True)

    class Plain(Trainer, *((role,) if role else ())):  # type: ignore[misc]
        @hookimpl
        def client_update(self, task: Task, ctx: Any) -> Updates:
            return update(task, average.client_update(task, ctx))

        def apply(self, state: State, release: Release) -> State:
            kept: Any = self
            if role is None:
                return apply(state, release)
            kept.velocity = 0.5 * kept.velocity + release.vector
            return replace(state, row=state.row + kept.velocity)

        def model(self, state: State, client: int | None = None) -> nn.Module:
            return model(average.model(state, client))

    return TrainerSpec(
        api=1, name="plain", config=Empty, summary="trains", build=lambda c: Plain(), signature=Signature(gives=ROWS, keeps=ALL)
    )


@mutant("trainer-rows")
def _(broken: bool) -> Made:
    return trainer(lambda task, u: u.select(sorted(u.ids)) if broken else u)


@mutant("trainer-clients-apart")
def _(broken: bool) -> Made:
    def centred(task: Task, updates: Updates) -> Updates:
        mean = torch.stack([e.x.mean() for e in task.work.data.clients.values()]).mean()
        return replace(updates, rows=updates.rows * mean)

    return trainer(centred if broken else lambda task, u: u)


@mutant("trainer-facts")
def _(broken: bool) -> Made:
    return trainer(lambda task, u: replace(u, weights=torch.ones(len(u.ids))) if broken else u)


@mutant("trainer-applies")
def _(broken: bool) -> Made:
    def written(state: State, release: Release) -> State:
        return replace(state, row=state.row.add_(release.vector))

    return trainer(apply=written) if broken else trainer()


@mutant("trainer-applies", "idle")
def _(broken: bool) -> Made:
    return trainer(apply=lambda state, release: replace(state)) if broken else trainer()


@mutant("trainer-model-evaluates")
def _(broken: bool) -> Made:
    return trainer(model=lambda module: module.train(broken))


class Velocity(Stateful):
    """A momentum that is kept on the trainer."""

    velocity: Any = 0.0

    def state(self) -> Mapping[str, Any]:
        return {"velocity": self.velocity}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.velocity = state["velocity"]


class Forgotten(Velocity):
    def restore(self, state: Mapping[str, Any]) -> None:
        del state


@mutant("trainer-continues")
def _(broken: bool) -> Made:
    return trainer(role=Forgotten if broken else Velocity)


def host(flaw: str) -> Callable[[bool], Made]:
    """A host that rebuilds its stack here; ``flaw`` names what is wrong with it."""

    def made(broken: bool) -> Made:
        class Enclave(Host):
            def open(self, stack: StackRef, ctx: Any) -> Callable[[Cohort, Any], Release]:
                parts = []
                for name, _, options in stack:
                    if broken and flaw == "lenient" and name not in {e.name for e in registry.entries()}:
                        continue
                    spec = registry.require(name, ("defences", "aggregators"))[0]
                    parts.append((spec, spec.config.model_validate(options)))

                def run(cohort: Cohort, context: Any) -> Release:
                    if broken and flaw == "weights":
                        cohort = replace(cohort, weights=None)
                    for spec, config in parts:
                        if isinstance(spec, DefenceSpec):
                            for layer in spec.layers:
                                made: Any = layer.build(config)
                                cohort = made.defence_transform(cohort, context)
                        if isinstance(spec, AggregatorSpec):
                            return aggregate(spec.build(config), cohort, context)
                    return Release(cohort.rows.mean(0), cohort.layout)

                return run

        signature = Signature(keeps=ALL)
        spec: AnySpec = HostSpec(
            api=1, name="enclave", config=Empty, summary="hosts", build=lambda c: Enclave(), signature=signature
        )
        rules = [registry.require(name, ("aggregators",))[0] for name in ("mean", "median")]
        return subject(spec, beside=tuple(rules))

    return made


mutant("host-as-here")(host("weights"))
mutant("host-refuses")(host("lenient"))
