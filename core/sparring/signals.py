"""Signals: the frozen payloads that flow through the sites of a run.

Every number that a client sends is in its row, so whatever seals or clips the row covers it. An update is what the client
*adds*: parameters after local training minus parameters before; under FedSGD, minus the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.cohort import Cohort
from sparring.layout import Layout, Segment, Space
from sparring.local import Batch, Client, Exchange, GradientRule, LocalContext, LocalPlan, LossFn, Sampler

Task = Literal["classification", "segmentation"]


@dataclass(frozen=True)
class Column:
    """A feature of a record, where its code starts in the input vector, and what it may be; public, as an encoding is.

    ``codes``: those of a category, [k, width]. A number has none: it lies in [``low``, ``high``], and another is taken for it
    up to ``close``.
    """

    name: str
    at: int
    width: int = 1
    codes: tuple[tuple[float, ...], ...] = ()
    low: float = 0.0
    high: float = 1.0
    close: float = 0.0


@dataclass(frozen=True)
class DataShape:
    """What a model must accept and return: ``inputs`` without the batch dimension, in [0, 1] for images.

    ``columns``: what the features of records are, in order and without gaps, where a dataset says so.
    """

    inputs: tuple[int, ...]
    classes: int
    task: Task = "classification"
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True)
class ModelPlan:
    """How to build the model; MODEL defences wrap ``factory`` and note each module that they replaced."""

    factory: Callable[[], nn.Module]
    shape: DataShape
    notes: tuple[str, ...] = ()
    frozen: frozenset[str] = frozenset()

    def adapted(self, change: Callable[[nn.Module], nn.Module], *notes: str) -> ModelPlan:
        """The plan whose model is ``change`` of this one's."""
        factory = self.factory
        return replace(self, factory=lambda: change(factory()), notes=(*self.notes, *notes))


@dataclass(frozen=True)
class Examples:
    """Inputs ``x`` [N, ...] in [0, 1] for images, targets ``y`` [N] (or [N, H, W]), and named group columns [N]."""

    x: Tensor
    y: Tensor
    groups: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def take(self, index: Tensor) -> Examples:
        """The examples at ``index``."""
        return Examples(self.x[index], self.y[index], {name: column[index] for name, column in self.groups.items()})


@dataclass(frozen=True)
class ClientData:
    """The collection of the clients' private examples, keyed by client id."""

    clients: Mapping[int, Examples]
    shape: DataShape

    def __iter__(self) -> Iterator[int]:
        return iter(self.clients)

    def sizes(self, ids: Sequence[int]) -> list[int]:
        """Numbers of examples."""
        return [len(self.clients[i]) for i in ids]

    def only(self, ids: Sequence[int]) -> ClientData:
        """The collection restricted to ``ids``."""
        return replace(self, clients={i: self.clients[i] for i in ids})

    def merged(self, other: ClientData) -> ClientData:
        """This collection with the clients of ``other`` replaced."""
        return replace(self, clients={**self.clients, **other.clients})


@dataclass(frozen=True)
class Broadcast:
    """What the server sends down: the plan, the state as a row, and overrides per client (row, or plan and row).

    ``previous``: the row of the round before, where there was one; it is not sent again.
    """

    plan: ModelPlan
    row: Tensor
    layout: Layout
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    overrides: Mapping[int, Broadcast] = field(default_factory=dict)
    refused: frozenset[int] = frozenset()
    previous: Tensor | None = None

    def to(self, client: int) -> Broadcast:
        """What ``client`` receives."""
        return self.overrides.get(client, self)

    def refuse(self, *clients: int) -> Broadcast:
        """The broadcast that ``clients`` do not accept: they sit the round out."""
        return replace(self, refused=self.refused | frozenset(clients))


@dataclass(frozen=True)
class Updates:
    """Rows ``[n, d]`` of the clients ``ids`` with aggregation ``weights`` [n] (None once they are inside a sealed row)."""

    rows: Tensor
    layout: Layout
    ids: tuple[int, ...]
    weights: Tensor | None = None

    @property
    def params(self) -> Tensor:
        """The parameter columns ``[n, p]``: what layers act on unless they name other segments."""
        return self.rows[:, : self.layout.parameters]

    def with_params(self, params: Tensor) -> Updates:
        """The updates with other parameter columns; buffers and extras stay."""
        rest = self.rows[:, self.layout.parameters :]
        return replace(self, rows=torch.cat([params, rest], dim=1) if rest.shape[1] else params)

    def select(self, ids: Sequence[int]) -> Updates:
        """The rows of ``ids``, in that order."""
        at = {client: k for k, client in enumerate(self.ids)}
        index = torch.tensor([at[i] for i in ids], dtype=torch.long, device=self.rows.device)
        weights = None if self.weights is None else self.weights[index]
        return replace(self, rows=self.rows[index], ids=tuple(ids), weights=weights)


@dataclass(frozen=True)
class Release:
    """The aggregate ``[d]`` and the sum of weights behind it; ``excluded`` are clients that the rule left out."""

    vector: Tensor
    layout: Layout
    total: float = 1.0
    clients: int = 1
    excluded: tuple[int, ...] = ()

    @property
    def params(self) -> Tensor:
        """The parameter coordinates ``[p]``."""
        return self.vector[: self.layout.parameters]

    def with_params(self, params: Tensor) -> Release:
        """The release with other parameters; buffers and extras stay."""
        return replace(self, vector=torch.cat([params, self.vector[self.layout.parameters :]]))


@dataclass(frozen=True)
class Responses:
    """Outputs ``[m, K]`` of the predictor for ``inputs`` [m, ...] that ``user`` asked; ``predict`` runs the model again."""

    outputs: Tensor
    inputs: Tensor
    user: str
    predict: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class State:
    """What the server keeps between rounds: the model's row, and the trainer's own tensors such as momentum.

    ``previous``: the row that the last round started from.
    """

    plan: ModelPlan
    row: Tensor
    layout: Layout
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    previous: Tensor | None = None

    @cached_property
    def module(self) -> nn.Module:
        """The model with these parameters, in evaluation mode."""
        module = self.plan.factory().to(self.row.device, self.row.dtype)
        self.layout.load(module, self.row)
        return module.eval()


Signal = ModelPlan | ClientData | Broadcast | LocalPlan | Updates | Cohort | Release | Responses
__all__ = [
    "Batch", "Broadcast", "Client", "ClientData", "Cohort", "DataShape", "Examples", "Exchange", "GradientRule", "Layout",
    "LocalContext", "LocalPlan", "LossFn", "ModelPlan", "Release", "Responses", "Sampler", "Segment", "Signal", "Space",
    "State", "Task", "Updates",
]  # fmt: skip
