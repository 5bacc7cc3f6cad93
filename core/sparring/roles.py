"""Roles: the abstract classes that plugin authors implement. The type argument is the site.

Every class of a plugin is abstract here or final there: the argument is read from the class's own bases, so a subclass of a
subclass, or a type variable in its place, is refused when the class is made.
"""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, Union, get_args, get_origin

from torch import Tensor, nn

from sparring.hookspecs import hookimpl
from sparring.mixins import Sizing as Sizing
from sparring.mixins import Stateful as Stateful
from sparring.mixins import Targeted as Targeted
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
from sparring.sites import Site
from sparring.views import (
    ActivationView,
    AggregateView,
    Finding,
    LogitsView,
    ModelView,
    QueryView,
    TraceView,
    UpdateView,
    View,
)

if TYPE_CHECKING:
    from sparring.claims import Event
    from sparring.context import Context, Round, Setup
    from sparring.strategies import Strategy, Work

S = TypeVar("S", ModelPlan, ClientData, Broadcast, LocalPlan, Updates, Cohort, Release, Responses)
V = TypeVar("V", bound=View, contravariant=True)
A = TypeVar("A")

SITES: dict[type, tuple[Site, ...]] = {
    ModelPlan: (Site.MODEL,),
    ClientData: (Site.DATA,),
    Broadcast: (Site.BROADCAST,),
    LocalPlan: tuple(site for site in Site if site.local),
    Updates: (Site.UPDATE,),
    Cohort: (Site.COHORT,),
    Release: (Site.OPEN, Site.RELEASE),
    Responses: (Site.RESPONSE,),
}
VIEW_NAMES: dict[str, type[View]] = {
    "update": UpdateView,
    "aggregate": AggregateView,
    "model": ModelView,
    "query": QueryView,
    "activation": ActivationView,
    "logits": LogitsView,
    "trace": TraceView,
}


def _argument(cls: type, role: type) -> Any:
    for base in cls.__dict__.get("__orig_bases__", ()):
        if get_origin(base) is role:
            (argument,) = get_args(base)
            if isinstance(argument, TypeVar):
                raise TypeError(f"{cls.__name__}: write {role.__name__}[<one type>], not a type variable")
            return argument
    raise TypeError(f"{cls.__name__} must subclass {role.__name__}[<one type>] directly; share code in functions instead")


def _signal(cls: type, role: type) -> type:
    signal = _argument(cls, role)
    if signal not in SITES:
        raise TypeError(f"{cls.__name__}: {signal!r} is no signal; one of {', '.join(t.__name__ for t in SITES)}")
    return signal  # type: ignore[no-any-return]


class Defence(ABC, Generic[S]):
    """A transformation of one signal: ``Defence[Updates]`` acts on clients' updates."""

    signal: ClassVar[type]

    def __init_subclass__(cls, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        cls.signal = _signal(cls, Defence)

    @abstractmethod
    def defence_transform(self, signal: S, ctx: Context) -> S:
        """See `sparring.hookspecs.RunHooks.defence_transform`."""


class ActiveAttack(ABC, Generic[S]):
    """A transformation of the attack's own part of one signal."""

    signal: ClassVar[type]

    def __init_subclass__(cls, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        cls.signal = _signal(cls, ActiveAttack)

    @abstractmethod
    def attack_transform(self, signal: S, ctx: Context) -> S:
        """See `sparring.hookspecs.RunHooks.attack_transform`."""


class PassiveAttack(ABC, Generic[V]):
    """A function of the views that it is granted: ``PassiveAttack[UpdateView | AggregateView]``."""

    views: ClassVar[tuple[type[View], ...]]

    def __init_subclass__(cls, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        argument = _argument(cls, PassiveAttack)
        union = isinstance(argument, types.UnionType) or get_origin(argument) is Union
        cls.views = get_args(argument) if union else (argument,)
        if not set(cls.views) <= set(VIEW_NAMES.values()):
            raise TypeError(
                f"{cls.__name__}: {argument!r} is no view; one of {', '.join(v.__name__ for v in VIEW_NAMES.values())}"
            )

    @abstractmethod
    def attack_observe(self, view: V, ctx: Setup) -> Finding | None:
        """See `sparring.hookspecs.RunHooks.attack_observe`."""


class Aggregator(ABC):
    """A rule that needs the whole cohort at once."""

    def admit(self, n: int) -> None:
        """Raise `ConfigError` where the rule cannot aggregate ``n`` rows; asked before the run with its cohort's size."""
        del n

    @abstractmethod
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """See `sparring.hookspecs.RunHooks.server_aggregate`."""


class StreamingAggregator(ABC, Generic[A]):
    """A rule that folds blocks of rows, merged in a fixed tree, and never holds the cohort unless it is in memory already."""

    @abstractmethod
    def init(self, updates: Updates) -> A:
        """The empty accumulator for rows like these."""

    @abstractmethod
    def add(self, accumulator: A, updates: Updates) -> A:
        """The accumulator with a block of rows added."""

    @abstractmethod
    def merge(self, left: A, right: A) -> A:
        """Both accumulators as one."""

    @abstractmethod
    def finish(self, accumulator: A, ctx: Round) -> Release:
        """The release."""

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The same rule on a cohort that is already in memory."""
        from sparring.aggregate import fold

        ids = tuple(range(len(cohort))) if cohort.ids is None else cohort.ids
        return fold(self, [Updates(cohort.rows, cohort.layout, ids, cohort.weights)], ctx)


@dataclass(frozen=True)
class Task:
    """What a trainer is asked to do: train ``clients``, all of one ``group`` (which names their `LocalPlan` in ``work``).

    ``strategy.train(broadcast, clients, group, round)`` trains them and returns their rows [n, d].
    """

    broadcast: Broadcast
    clients: tuple[int, ...]
    group: str
    work: Work
    strategy: Strategy


class Trainer(ABC):
    """A protocol: how a cohort trains, how a release becomes state, and which model a client holds."""

    @abstractmethod
    def client_update(self, task: Task, ctx: Round) -> Updates:
        """See `sparring.hookspecs.RunHooks.client_update`."""

    @abstractmethod
    def apply(self, state: State, release: Release) -> State:
        """The state after a release."""

    def model(self, state: State, client: int | None = None) -> nn.Module:
        """The model that ``client`` holds (None: the global one), in evaluation mode."""
        del client
        return state.module


@dataclass(frozen=True)
class Data:
    """A loaded data set: private ``train``, held-out ``test``, perhaps ``public``; ``names`` of the classes."""

    train: Examples
    test: Examples
    shape: DataShape
    names: tuple[str, ...] = ()
    public: Examples | None = None


class Dataset(ABC):
    """A source of data."""

    @abstractmethod
    def load(self, ctx: Setup) -> Data:
        """The data, in memory; a split that is not the source's own is drawn from the layer's stream.

        Raises `DataError` where a file is absent or malformed.
        """


class Model(ABC):
    """An architecture."""

    @abstractmethod
    def module(self, shape: DataShape) -> nn.Module:
        """A fresh module; drawn from torch's global generator, which core seeds. Raises `DataError` where it cannot fit."""


class Accountant(ABC):
    """Composes mechanism events into an epsilon."""

    @abstractmethod
    def epsilon(self, events: Sequence[tuple[Event, int]], delta: float) -> float:
        """The epsilon at ``delta`` of events with their counts; raises `ConfigError` for events that it cannot account."""


StackRef = tuple[tuple[str, str, Mapping[str, Any]], ...]
"""Layers by name, version and JSON configuration: what a host rebuilds elsewhere; never a pickle."""


class Host(ABC):
    """A place that runs the COHORT layers and the aggregator, such as an enclave process."""

    @abstractmethod
    def open(self, stack: StackRef, ctx: Setup) -> Callable[[Cohort, Round], Release]:
        """Rebuild ``stack`` there and return what forwards a cohort to it."""


class Engine(ABC):
    """A way to train cohorts on other machines."""

    @abstractmethod
    def strategy(self, work: Work, ctx: Setup) -> Strategy:
        """The strategy that trains there what ``work`` describes."""


__all__ = [
    "VIEW_NAMES", "Accountant", "ActiveAttack", "Aggregator", "Data", "Dataset", "Defence", "Engine", "Host", "Model",
    "PassiveAttack", "StackRef", "Stateful", "StreamingAggregator", "Task", "Tensor", "Trainer",
]  # fmt: skip
