"""The experiment file: its fields, their bounds, and errors that name the value, the rule and the fix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sparring.errors import ConfigError, did_you_mean
from sparring.facts import Knowledge


def _entry(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and len(value) == 1 and all(v is None or isinstance(v, dict) for v in value.values()):
        return value
    raise ValueError(f"{value!r} is no technique; each entry is one name with its options: `- name: {{option: value}}`")


Entry = Annotated[dict[str, dict[str, Any] | None] | str, BeforeValidator(_entry)]


class Section(BaseModel):
    """Base of the sections: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Named(BaseModel):
    """A technique by name; its other keys are the technique's own options."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = Field(description="name of the technique")

    @property
    def options(self) -> dict[str, Any]:
        """The options, without the name."""
        return {key: value for key, value in (self.model_extra or {}).items()}


class Partition(Section):
    """How the training data is split over the clients."""

    kind: Literal["iid", "dirichlet", "classes", "quantity", "group", "similarity"] = Field(
        "iid",
        description="iid: equal random shares; dirichlet: class shares per client from Dirichlet(alpha); classes: at most "
        "`classes` classes a client; quantity: different sizes; group: by a group column; similarity: a share iid, the rest "
        "sorted by class",
    )
    alpha: float = Field(0.5, gt=0, le=1e4, description="dirichlet, quantity: concentration; small is uneven")
    classes: int = Field(2, ge=1, le=10_000, description="classes: how many classes a client holds")
    sizes: tuple[int, ...] | None = Field(
        None, description="quantity: sizes of the first clients; the others share the rest equally"
    )
    column: str | None = Field(None, description="group: the data set's group column, one value a client")
    similarity: float = Field(0.5, ge=0, le=1, description="similarity: share of the examples that is split iid")
    holders: int | None = Field(
        None, ge=1, le=1_000_000, description="only the first so many clients hold data, as where attackers have none"
    )


class DatasetSection(Named):
    """The data set, with its partition; other keys are the data set's own options."""

    partition: Partition = Field(default_factory=Partition, description="how training data is split over clients")


class Optimiser(Section):
    """The clients' optimiser."""

    name: Literal["sgd"] = Field("sgd", description="stochastic gradient descent")
    lr: float = Field(0.1, gt=0, le=1e3, description="learning rate")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum, reset each round; not for fedsgd")
    weight_decay: float = Field(0.0, ge=0, le=10, description="L2 penalty added to gradients; not for fedsgd")


class Server(Section):
    """The server's step."""

    lr: float | None = Field(
        None, gt=0, le=1e3, description="server learning rate; default 1 for fedavg, the optimiser's lr for fedsgd"
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="server momentum (FedAvgM)")


class Rate(Section):
    """A Poisson cohort: each client joins independently."""

    rate: float = Field(gt=0, le=1, description="probability that a client joins a round")


class Federation(Section):
    """Who trains, how long, and with what."""

    algorithm: Literal["fedavg", "fedsgd"] = Field("fedavg", description="fedavg: local epochs; fedsgd: one gradient a round")
    trainer: Named | None = Field(None, description="a trainer plugin in place of federated averaging")
    clients: int = Field(10, ge=1, le=1_000_000, description="number of clients")
    cohort: int | Rate | None = Field(None, description="clients a round (default: all), or {rate: p} for Poisson sampling")
    rounds: int = Field(20, ge=1, le=1_000_000, description="number of rounds")
    local_epochs: int = Field(1, ge=1, le=10_000, description="passes over the local data in a round")
    local_steps: int | None = Field(None, ge=1, le=1_000_000, description="steps in a round, in place of epochs")
    batch_size: int | None = Field(32, ge=1, le=1_000_000, description="examples a step; null: all of the client's")
    optimiser: Optimiser = Field(default_factory=Optimiser, description="the clients' optimiser")
    server: Server = Field(default_factory=Server, description="the server's step")
    weighting: Literal["examples", "uniform"] = Field("examples", description="weights of the clients' updates")
    dropout: float = Field(0.0, ge=0, lt=1, description="probability that a client's message of a protocol stage is lost")
    buffers: Literal["federated", "local", "refused"] = Field(
        "federated", description="BatchNorm statistics: averaged with the parameters, kept by each client, or refused"
    )
    evaluate_every: int = Field(1, ge=1, le=1_000_000, description="rounds between evaluations; the last is always one")
    precision: Literal["float32", "float64"] = Field("float32", description="floating-point type of training")

    @model_validator(mode="after")
    def _cohort_fits(self) -> Federation:
        if isinstance(self.cohort, int) and not 1 <= self.cohort <= self.clients:
            raise ValueError(f"cohort is {self.cohort}; it must be between 1 and clients ({self.clients})")
        if self.algorithm == "fedsgd" and (self.optimiser.momentum or self.optimiser.weight_decay):
            raise ValueError("fedsgd sends one gradient: set server.momentum, not the optimiser's momentum or weight_decay")
        return self


class Compromised(Section):
    """Which clients an adversary holds, and how much of them."""

    fraction: float | None = Field(None, ge=0, le=1, description="share of the clients, rounded down")
    clients: tuple[int, ...] | None = Field(None, description="the clients by id, in place of a fraction")
    control: Literal["data", "training", "update"] = Field(
        "update", description="data: only the data; training: data and training; update: everything but the wire format"
    )

    @model_validator(mode="after")
    def _one_of(self) -> Compromised:
        if (self.fraction is None) == (self.clients is None):
            raise ValueError("compromised takes either `fraction` or `clients`")
        return self


class ThreatModel(Section):
    """What the adversary is granted. Every grant is printed and logged."""

    server: Literal["trusted", "honest-but-curious", "malicious"] = Field("honest-but-curious", description="the server")
    compromised: Compromised | None = Field(None, description="clients in the adversary's hands")
    knows: tuple[Knowledge, ...] = Field((), description="what the adversary knows beside what it can read")
    anonymous: bool = Field(False, description="contributions carry no identity")
    raw_data: bool = Field(
        False, description="clients' raw data are shown to the server for analysis: what the field calls violating privacy"
    )
    query_budget: int | None = Field(None, ge=1, description="inputs that a black-box attack may query; null: no limit")
    hardware: tuple[Literal["tee", "simulated-tee", "gpu"], ...] = Field((), description="special hardware at hand")


class Privacy(Section):
    """How epsilon is computed."""

    accountant: str | None = Field(None, description="accountant plugin; default: the one that the defence names")
    delta: float = Field(1e-5, gt=0, lt=1, description="delta at which epsilon is reported")


class WaiverSection(Section):
    """A need that the user takes upon himself; claims that rest on it are withdrawn."""

    need: str = Field(description="the fact as the checker prints it, such as Clipped(l2, client)")
    reason: str = Field(min_length=3, description="why it may be assumed")


class Performance(Section):
    """How fast, never what: no part of an experiment's identity."""

    workers: int | None = Field(None, ge=1, le=1024, description="worker processes; default: one a core")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where stacked training and aggregation run")


class Tracking(Section):
    """Where runs are logged."""

    experiment: str = Field("sparring", min_length=1, description="MLflow experiment")
    uri: str | None = Field(None, description="MLflow tracking URI; default: MLFLOW_TRACKING_URI, or SQLite beside the run")


class File(Section):
    """A whole experiment. ``cells`` are variants: each overrides top-level keys and runs as a child of one parent run."""

    seed: int = Field(0, ge=0, lt=2**63, description="seed of every named random stream")
    dataset: DatasetSection = Field(description="the data")
    model: Named = Field(description="the model")
    federation: Federation = Field(default_factory=Federation, description="the federation")
    threat_model: ThreatModel = Field(default_factory=ThreatModel, description="what the adversary is granted")
    attacks: tuple[Entry, ...] = Field(
        (), description="attacks, each {name: options}; `clients` says whom, `window: [first, last]` in which rounds they act"
    )
    defences: tuple[Entry, ...] = Field((), description="the stack from the client to the release, each {name: options}")
    privacy: Privacy = Field(default_factory=Privacy, description="how epsilon is computed")
    waive: tuple[WaiverSection, ...] = Field((), description="needs taken on trust")
    checked: bool = Field(False, description="spot-check declared facts while running")
    engine: str | Named = Field("auto", description="auto, sequential, workers, stacked, or an engine plugin")
    performance: Performance = Field(default_factory=Performance, description="how fast, never what")
    tracking: Tracking = Field(default_factory=Tracking, description="where runs are logged")
    cells: tuple[dict[str, Any], ...] = Field((), description="variants: a name, and top-level keys to override")


def validated(kind: type[Any], values: Any, where: str) -> Any:
    """``values`` as a model of ``kind``; every fault in one `ConfigError` that names value, rule and fix."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {values!r}; it must be a mapping of options")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_sentence(kind, fault, where) for fault in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections inside an annotation, such as an optional section or a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _sentence(kind: type[BaseModel], fault: Any, where: str) -> str:
    path = [str(part) for part in fault["loc"]]
    at = ".".join([where, *path]) if where else ".".join(path)
    if fault["type"] == "extra_forbidden":
        owner = kind
        for part in path[:-1]:
            field = owner.model_fields.get(part)
            owner = next(_models(field.annotation), owner) if field is not None else owner
        return f"{at} is no option here; {did_you_mean(path[-1], owner.model_fields)}"
    if fault["type"] == "missing":
        return f"{at} is missing; it is required"
    message = fault["msg"].removeprefix("Value error, ")
    value = fault.get("input")
    shown = f" is {value!r}" if isinstance(value, str | int | float | bool) else ""
    return f"{at}{shown}: {message[:1].lower()}{message[1:]}" if at else message
