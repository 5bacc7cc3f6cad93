"""One correct implementation of each role, as small as it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from pydantic import Field
from torch import Tensor, nn

from sparring.claims import Event
from sparring.context import Context, Round, Setup
from sparring.facts import Clipped, Readable, Space, Summable
from sparring.hookspecs import hookimpl
from sparring.roles import (
    Accountant,
    ActiveAttack,
    Aggregator,
    Data,
    Dataset,
    Defence,
    Engine,
    Host,
    Model,
    PassiveAttack,
    StackRef,
    Stateful,
    StreamingAggregator,
    Task,
    Trainer,
)
from sparring.signals import (
    Broadcast,
    ClientData,
    Cohort,
    DataShape,
    Examples,
    LocalPlan,
    ModelPlan,
    Release,
    Responses,
    State,
    Updates,
)
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import (
    AccountantSpec,
    AggregatorSpec,
    AnySpec,
    AttackSpec,
    Config,
    DatasetSpec,
    DefenceSpec,
    Empty,
    EngineSpec,
    HostSpec,
    Layer,
    ModelSpec,
    Reader,
    TrainerSpec,
)
from sparring.strategies import Strategy, Work
from sparring.taps import Tap
from sparring.views import AggregateView, Finding, QueryView, Scores, UpdateView


class ClipConfig(Config):
    """Configuration of `clip`."""

    bound: float = Field(1.0, gt=0, le=1e6, description="largest coordinate")


@final
class Clip(Defence[Updates]):
    """Clamps each coordinate."""

    def __init__(self, config: ClipConfig) -> None:
        self.bound = config.bound

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        return signal.with_params(signal.params.clamp(-self.bound, self.bound))


@final
class Adapt(Defence[ModelPlan]):
    @hookimpl
    def defence_transform(self, signal: ModelPlan, ctx: Context) -> ModelPlan:
        return signal.adapted(lambda module: module, "nothing")


@final
class Filter(Defence[ClientData]):
    @hookimpl
    def defence_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        return signal.only(tuple(signal))


@final
class Detect(Defence[Broadcast]):
    @hookimpl
    def defence_transform(self, signal: Broadcast, ctx: Context) -> Broadcast:
        return signal.refuse(1)


@final
class Project(Defence[LocalPlan]):
    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        return signal.with_step("project", lambda row, local: row.clamp(-1, 1))


@final
class Momentum(Defence[Release], Stateful):
    """A defence with state."""

    def __init__(self) -> None:
        self.kept: Tensor | None = None

    @hookimpl
    def defence_transform(self, signal: Release, ctx: Context) -> Release:
        self.kept = signal.params if self.kept is None else 0.9 * self.kept + signal.params
        return signal.with_params(self.kept)

    def state(self) -> Mapping[str, Any]:
        return {"kept": self.kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.kept = state["kept"]


@final
class Whole(Defence[Cohort]):
    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        return signal


@final
class Rounded(Defence[Responses]):
    @hookimpl
    def defence_transform(self, signal: Responses, ctx: Context) -> Responses:
        return replace(signal, outputs=signal.outputs.round(decimals=2))


@final
class Flip(ActiveAttack[Updates]):
    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        return signal.with_params(-signal.params)


@final
class Guess(PassiveAttack[UpdateView | AggregateView]):
    """An attack on either view."""

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Finding | None:
        return Scores(float(len(view.captures)), torch.zeros(1))


@final
class Ask(PassiveAttack[QueryView]):
    @hookimpl
    def attack_observe(self, view: QueryView, ctx: Setup) -> Finding | None:
        return None if view.candidates is None else Scores(1.0, view.query(view.candidates).amax(1))


@final
class First(Aggregator):
    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        return Release(cohort.rows[0], cohort.layout)


@final
class Total(StreamingAggregator[Tensor]):
    def init(self, updates: Updates) -> Tensor:
        return torch.zeros(updates.layout.size)

    def add(self, accumulator: Tensor, updates: Updates) -> Tensor:
        return accumulator + updates.rows.sum(0)

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right

    def finish(self, accumulator: Tensor, ctx: Round) -> Release:
        assert ctx.layout is not None
        return Release(accumulator, ctx.layout)


@final
class Plain(Trainer):
    @hookimpl
    def client_update(self, task: Task, ctx: Round) -> Updates:
        rows = task.strategy.train(task.broadcast, task.clients, task.group, ctx.index)
        return Updates(rows, task.broadcast.layout, task.clients)

    def apply(self, state: State, release: Release) -> State:
        return replace(state, row=state.row + release.vector)


@final
class Zeros(Dataset):
    def load(self, ctx: Setup) -> Data:
        examples = Examples(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
        return Data(examples, examples, DataShape((2,), 2))


@final
class Linear(Model):
    def module(self, shape: DataShape) -> nn.Module:
        return nn.Linear(shape.inputs[0], shape.classes)


@final
class Counting(Accountant):
    def epsilon(self, events: Sequence[tuple[Event, int]], delta: float) -> float:
        return float(sum(count for _, count in events))


@final
class Enclave(Host):
    def open(self, stack: StackRef, ctx: Setup) -> Callable[[Cohort, Round], Release]:
        return lambda cohort, context: Release(cohort.rows.mean(0), cohort.layout)


@final
class Remote(Strategy):
    name = "remote"

    def train(self, broadcast: Broadcast, clients: Sequence[int], group: str, round_: int) -> Tensor:
        return torch.zeros(len(clients), broadcast.layout.size)


@final
class Cluster(Engine):
    def strategy(self, work: Work, ctx: Setup) -> Strategy:
        return Remote()


def _clip(config: ClipConfig) -> Clip:
    return Clip(config)


def _gives(config: ClipConfig) -> Signature:
    return Signature(needs=(Space("real"),), gives=(Clipped("linf", "client", bound=config.bound),), keeps=(Summable(),))


CLIP = DefenceSpec(
    api=1,
    name="clip", config=ClipConfig, summary="clamps", layers=(Layer(site=Site.UPDATE, build=_clip, signature=_gives),)
)
FLIP = AttackSpec(
    api=1,
    name="flip",
    config=Empty,
    summary="flips signs",
    game="poisoning",
    layers=(Layer(site=Site.UPDATE, build=lambda config: Flip()),),
)
GUESS = AttackSpec(
    api=1,
    name="guess",
    config=Empty,
    summary="guesses",
    game="membership",
    reader=Reader(
        tap=lambda config: Tap(("update", "aggregate")),
        build=lambda config: Guess(),
        signature=Signature(needs=(Readable("server", "update"),), keeps=ALL),
    ),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    return (
        CLIP,
        FLIP,
        GUESS,
        AggregatorSpec(api=1, name="first", config=Empty, summary="first row", build=lambda c: First(), signature=Signature()),
        AggregatorSpec(api=1, name="total", config=Empty, summary="sum", build=lambda c: Total(), signature=Signature()),
        TrainerSpec(api=1, name="plain", config=Empty, summary="trains", build=lambda c: Plain(), signature=Signature()),
        DatasetSpec(
            api=1,
            name="zeros", config=Empty, summary="zeros", build=lambda c: Zeros(), licence="CC0", source="none", stands_for="none"
        ),
        ModelSpec(api=1, name="linear", config=Empty, summary="a line", build=lambda c: Linear(), signature=Signature()),
        AccountantSpec(api=1, name="counting", config=Empty, summary="counts", build=lambda c: Counting()),
        HostSpec(api=1, name="enclave", config=Empty, summary="hosts", build=lambda c: Enclave(), signature=Signature()),
        EngineSpec(api=1, name="cluster", config=Empty, summary="trains elsewhere", build=lambda c: Cluster()),
    )
