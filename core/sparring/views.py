"""Views: what an attack is given to read, built by core from the exposures that hold at its tap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring.layout import Layout
from sparring.signals import DataShape, LossFn, ModelPlan


@dataclass(frozen=True)
class LocalSettings:
    """How clients train: known to an attack that is granted ``Knows(local-settings)``."""

    algorithm: str
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int | None
    epochs: int
    steps: int | None


@dataclass(frozen=True)
class Capture:
    """One tapped transmission: the broadcast ``parameters`` [d] it answers, and the ``row`` [d] that was sent.

    ``client``: None for an aggregate. ``count``: clients in it. ``examples``: how many examples are behind the row.
    ``labels``: [examples] where the threat model grants them, else None.
    """

    round: int
    client: int | None
    parameters: Tensor
    row: Tensor
    layout: Layout
    plan: ModelPlan
    count: int = 1
    examples: int = 1
    labels: Tensor | None = None

    @property
    def gradient(self) -> Tensor:
        """The parameter columns of minus the row [p]: the gradient under FedSGD, its multiple by lr for one SGD step."""
        return -self.row[: self.layout.parameters]

    def module(self) -> nn.Module:
        """The broadcast model, in evaluation mode, with these parameters."""
        return _loaded(self.plan, self.layout, self.parameters.to(self.row))


def _loaded(plan: ModelPlan, layout: Layout, row: Tensor) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        module = plan.factory().to(row.device, row.dtype)
    layout.load(module, row)
    return module.eval()


@dataclass(frozen=True)
class View:
    """Base of views: ``shape`` of inputs and classes, and the public loss."""

    shape: DataShape
    loss: LossFn


@dataclass(frozen=True)
class UpdateView(View):
    """Single clients' updates as the principal receives them."""

    captures: Sequence[Capture]
    settings: LocalSettings | None = None

    def __iter__(self) -> Iterator[Capture]:
        return iter(self.captures)


@dataclass(frozen=True)
class AggregateView(View):
    """Aggregates of several clients (the weighted mean, by default), opened and before the server changes them."""

    captures: Sequence[Capture]
    settings: LocalSettings | None = None

    def __iter__(self) -> Iterator[Capture]:
        return iter(self.captures)


@dataclass(frozen=True)
class ModelView(View):
    """White box: the released ``parameters`` of each tapped round, and ``predict``, the defended predictor."""

    rounds: Sequence[int]
    parameters: Sequence[Tensor]
    layout: Layout
    plan: ModelPlan
    predict: Callable[[Tensor], Tensor]
    candidates: Tensor | None = None
    targets: Tensor | None = None

    def module(self, k: int = -1) -> nn.Module:
        """The model that was released in the round ``rounds[k]``, in evaluation mode, behind no defence."""
        return _loaded(self.plan, self.layout, self.parameters[k])


@dataclass(frozen=True)
class QueryView(View):
    """Black box: ``query`` answers through the RESPONSE stack until ``budget`` inputs are spent, then raises."""

    query: Callable[[Tensor], Tensor]
    budget: int | None
    candidates: Tensor | None = None
    targets: Tensor | None = None


@dataclass(frozen=True)
class ActivationView(View):
    """Smashed data of split learning: recorded batches [B, ...] and, where they are shared, labels."""

    activations: Sequence[Tensor]
    labels: Sequence[Tensor | None]


@dataclass(frozen=True)
class LogitsView(View):
    """Clients' logits on public inputs, one [P, K] a client and round."""

    logits: Sequence[Tensor]
    public: Tensor


@dataclass(frozen=True)
class Message:
    """What a traffic observer sees of one message: when, between whom, how large; never what."""

    round: int
    sender: str
    receiver: str
    stage: str
    size: int
    seconds: float


@dataclass(frozen=True)
class TraceView(View):
    """Times, sizes and counts of messages; no contents."""

    messages: Sequence[Message]


@dataclass(frozen=True)
class Finding:
    """Base of what an attack reports; a game scores it. ``cost``: gradient evaluations or queries spent.

    ``notes``: what the reader of the result must know, such as an assumption that did not hold.
    """

    cost: float
    notes: Sequence[str] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class Reconstruction(Finding):
    """Reconstructed inputs [B, ...] and labels [B] per capture, keyed by (round, client; None: an aggregate).

    Images are in [0, 1], records where their columns may be.

    ``prior``: what the attack would have found without the capture, where it knows more than that: the same pipeline on
    another's row, or its start. It is scored beside the reconstruction, which must beat it.
    """

    inputs: dict[tuple[int, int | None], Tensor]
    labels: dict[tuple[int, int | None], Tensor]
    loss: dict[tuple[int, int | None], float]
    progress: dict[tuple[int, int | None], Sequence[tuple[int, Tensor]]]
    prior: Mapping[tuple[int, int | None], Tensor] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class Representatives(Finding):
    """What a model takes for typical of its classes: inputs [n, ...] in [0, 1] by class.

    ``progress``: by class, what there was [n, ...] after so many iterations.
    """

    inputs: Mapping[int, Tensor]
    progress: Mapping[int, Sequence[tuple[int, Tensor]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores(Finding):
    """A score [m] for each candidate of the view; higher means more likely a member."""

    scores: Tensor
