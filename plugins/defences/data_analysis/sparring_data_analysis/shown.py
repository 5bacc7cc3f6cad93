"""What the four filters share: the shown data as one pool, a model of it, its representations, and who is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparring.errors import ConfigError, NumericalError
from sparring.local import embed
from sparring.signals import ClientData, Examples

if TYPE_CHECKING:
    from sparring.context import Context
    from sparring.lab import Lab

AT_ONCE = 1000


def lab_of(ctx: Context) -> Lab:
    """The lab of a layer that trains; raises `ConfigError` where there is none."""
    if ctx.lab is None:
        raise ConfigError(f"'{ctx.layer}' trains a model of its own and was given no lab; run it within a federation")
    return ctx.lab


def pooled(data: ClientData) -> Examples:
    """Every example of every client as one set of N, clients by id; raises `ConfigError` where a label is no class."""
    held = [data.clients[client] for client in sorted(data)]
    if any(examples.y.dim() != 1 for examples in held):
        raise ConfigError("the analysis of examples by class needs one label for each; this data set labels positions")
    return Examples(torch.cat([e.x for e in held]), torch.cat([e.y for e in held]))


def kept(data: ClientData, keep: Tensor) -> ClientData:
    """The collection without the examples of the pool [N] that ``keep`` leaves out; a client may be left with none."""
    clients = sorted(data)
    masks = keep.split([len(data.clients[client]) for client in clients])
    chosen = {c: data.clients[c] if bool(m.all()) else data.clients[c].take(m) for c, m in zip(clients, masks, strict=True)}
    return replace(data, clients={client: chosen[client] for client in data})


@torch.no_grad()
def represented(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Representations [N, k] and outputs [N, K] of ``inputs``, in float64 on the inputs' device.

    Raises `NumericalError` where the model has diverged, and `ConfigError` where it has no linear layer.
    """
    device = next((p.device for p in module.parameters()), inputs.device)
    parts = [embed(module, x.to(device)) for x in inputs.split(AT_ONCE)]
    features, outputs = (torch.cat(part).to(inputs.device, torch.float64) for part in zip(*parts, strict=True))
    if not bool((features.sum() + outputs.sum()).isfinite()):
        raise NumericalError("a model trained on the shown data diverged: NaN or Inf in its outputs; lower the learning rate")
    return features, outputs


def highest(scores: Tensor, count: int) -> Tensor:
    """The indices of the ``count`` highest ``scores`` [N]; of ties the first in the pool."""
    return scores.argsort(descending=True, stable=True)[:count]


def removed(share: float, n: int) -> int:
    """How many of n examples go where a share of them may be poison: 1.5 times the share, rounded down."""
    return min(n, int(1.5 * share * n + 1e-9))
