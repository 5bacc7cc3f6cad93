"""Specs: what a distribution offers. Light: no torch here, and none in a plugin's ``plugin.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.taps import Tap

if TYPE_CHECKING:
    from sparring import roles

API = 1
"""The version of the contract that this core offers. Payloads gain fields without a new number; specs of others are refused."""

Acts = Literal["always", "may", "never"]
Game = Literal["reconstruction", "model-inversion", "membership", "poisoning", "backdoor", "subgroup"]


class Config(BaseModel):
    """Base of every plugin's configuration: frozen, no unknown fields; every field has bounds and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Config)
OBSERVER = Signature(keeps=ALL)


def _signature_of(declared: Signature | Callable[[Any], Signature], config: Config) -> Signature:
    return declared if isinstance(declared, Signature) else declared(config)


@dataclass(frozen=True, kw_only=True)
class Layer(Generic[C]):
    """One place where a technique acts.

    ``site`` must be the site of the class that ``build`` returns. ``acts``: a layer that ``always`` acts and changes nothing
    fails the run; one that ``may`` and never did in a whole run is flagged; ``never`` only reports. ``wire``: the wire format
    forces it, so that a compromised client runs it too.
    """

    site: Site
    build: Callable[[C], roles.Defence[Any] | roles.ActiveAttack[Any]]
    signature: Signature | Callable[[C], Signature] = OBSERVER
    acts: Acts = "may"
    wire: bool = False

    def facts(self, config: C) -> Signature:
        return _signature_of(self.signature, config)


@dataclass(frozen=True, kw_only=True)
class Spec(Generic[C]):
    """What every kind of plugin declares: its name (kebab-case), its config class and one line of what it is.

    ``api``: the `API` that it was written for, as a number in the source, so that it stays what it was when core moves on.
    """

    name: str
    config: type[C]
    summary: str
    api: int
    kind: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class DefenceSpec(Spec[C]):
    """A defence: one or several layers. ``paired``: two halves that nest, the clients' at UPDATE and the server's at OPEN.

    ``accountant`` names the accountant that composes its events unless the experiment names another.
    """

    layers: tuple[Layer[C], ...]
    paired: bool = False
    accountant: str | None = None
    kind: ClassVar[str] = "defences"

    def __post_init__(self) -> None:
        sites = [layer.site for layer in self.layers]
        if self.paired and sites != [Site.UPDATE, Site.OPEN]:
            raise ValueError(f"'{self.name}' is paired: its two layers act at UPDATE and OPEN, not {sites}")
        if not self.paired and (not sites or Site.OPEN in sites):
            raise ValueError(f"'{self.name}': OPEN belongs to the second half of a pair, and a defence has at least one layer")


@dataclass(frozen=True, kw_only=True)
class AttackSpec(Spec[C]):
    """An attack: layers that act (on its own clients, or at the server for BROADCAST), a reader that observes, or both."""

    game: Game
    layers: tuple[Layer[C], ...] = ()
    reader: Reader[C] | None = None
    kind: ClassVar[str] = "attacks"

    def __post_init__(self) -> None:
        if not self.layers and self.reader is None:
            raise ValueError(f"'{self.name}' has neither a layer that acts nor a reader")


@dataclass(frozen=True, kw_only=True)
class Reader(Generic[C]):
    """The passive part of an attack: where it taps, what else it needs, how to build it."""

    tap: Callable[[C], Tap]
    build: Callable[[C], roles.PassiveAttack[Any]]
    signature: Signature | Callable[[C], Signature] = OBSERVER

    def facts(self, config: C) -> Signature:
        return _signature_of(self.signature, config)


@dataclass(frozen=True, kw_only=True)
class AggregatorSpec(Spec[C]):
    """A rule from a cohort to one release."""

    build: Callable[[C], roles.Aggregator | roles.StreamingAggregator[Any]]
    signature: Signature | Callable[[C], Signature]
    kind: ClassVar[str] = "aggregators"

    def facts(self, config: C) -> Signature:
        return _signature_of(self.signature, config)


@dataclass(frozen=True, kw_only=True)
class TrainerSpec(Spec[C]):
    """A protocol of local training and of how a release becomes state."""

    build: Callable[[C], roles.Trainer]
    signature: Signature | Callable[[C], Signature]
    kind: ClassVar[str] = "trainers"

    def facts(self, config: C) -> Signature:
        return _signature_of(self.signature, config)


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec[C]):
    """A data set, with its licence, its source and what it may stand for."""

    build: Callable[[C], roles.Dataset]
    licence: str
    source: str
    stands_for: str
    signature: Signature | Callable[[C], Signature] = OBSERVER
    kind: ClassVar[str] = "datasets"

    def facts(self, config: C) -> Signature:
        return _signature_of(self.signature, config)


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Spec[C]):
    """An architecture; its signature gives `PerExample` where the loss of an example depends on no other example."""

    build: Callable[[C], roles.Model]
    signature: Signature | Callable[[C], Signature]
    kind: ClassVar[str] = "models"

    def facts(self, config: C) -> Signature:
        return _signature_of(self.signature, config)


@dataclass(frozen=True, kw_only=True)
class AccountantSpec(Spec[C]):
    """A privacy accountant: composes mechanism events into an epsilon."""

    build: Callable[[C], roles.Accountant]
    kind: ClassVar[str] = "accountants"


@dataclass(frozen=True, kw_only=True)
class HostSpec(Spec[C]):
    """A place that runs the COHORT layers and the aggregator in the server's stead, such as an enclave."""

    build: Callable[[C], roles.Host]
    signature: Signature | Callable[[C], Signature]
    kind: ClassVar[str] = "hosts"

    def facts(self, config: C) -> Signature:
        return _signature_of(self.signature, config)


@dataclass(frozen=True, kw_only=True)
class EngineSpec(Spec[C]):
    """A strategy for training a cohort on other machines."""

    build: Callable[[C], roles.Engine]
    kind: ClassVar[str] = "engines"


AnySpec = Spec[Any]
KINDS: dict[str, type[Spec[Any]]] = {
    spec.kind: spec
    for spec in (
        AttackSpec,
        DefenceSpec,
        AggregatorSpec,
        TrainerSpec,
        DatasetSpec,
        ModelSpec,
        AccountantSpec,
        HostSpec,
        EngineSpec,
    )
}
"""Kind to spec class; the entry-point group of a kind is ``sparring.<kind>``."""


class Empty(Config):
    """The configuration of a technique that has nothing to set."""
