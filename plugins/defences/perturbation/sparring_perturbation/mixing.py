"""Mixtures of the examples of a batch, targets that carry several labels, and the loss of these."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.errors import ConfigError
from sparring.local import Batch, Forward, LossFn


def coefficients(n: int, k: int, limit: float, generator: torch.Generator) -> Tensor:
    """Coefficients [n, k], float64: |N(0, 1)| over their sum, drawn anew while one exceeds ``limit``, which is over 1/k."""
    drawn = torch.ones(n, k, dtype=torch.float64)
    pending = torch.arange(n)
    while len(pending):
        drawn[pending] = torch.randn(len(pending), k, generator=generator, dtype=torch.float64).abs()
        drawn[pending] /= drawn[pending].sum(1, keepdim=True)
        pending = pending[drawn[pending].amax(1) > limit]
    return drawn


@dataclass(frozen=True)
class Mixture:
    """What became of a batch: ``members`` [B, k] are the examples in each row, ``weights`` [B, k] their coefficients."""

    batch: Batch
    members: Tensor
    weights: Tensor


def mixed(batch: Batch, k: int, limit: float, generator: torch.Generator) -> Mixture:
    """A batch of as many mixtures; row i holds example i and k - 1 others, each of which is in k rows.

    The others are the next ones in a random cyclic order, so that a row holds no example twice. Of B < k examples, all B are
    mixed, and a lone example stays as it is, with coefficient 1. Targets [B, ...] become [B, 2k, ...]: k labels, then their
    coefficients. Padding is dropped. Raises `ConfigError` where targets are mixed already.
    """
    if batch.y.is_floating_point():
        raise ConfigError("the batch is mixed already; list one of mixup and instahide, not both")
    if batch.mask is not None:
        real = batch.mask != 0
        batch = Batch(batch.x[real], batch.y[real])
    n = len(batch.x)
    several = max(1, min(k, n))
    order = torch.randperm(n, generator=generator)
    members = torch.empty(n, several, dtype=torch.long)
    members[order] = torch.stack([order.roll(-t) for t in range(several)], dim=1)
    weights = coefficients(n, several, limit, generator) if several > 1 else torch.ones(n, 1, dtype=torch.float64)
    at, scale = members.to(batch.x.device), weights.to(batch.x)
    x = torch.zeros_like(batch.x)
    labels = batch.y.new_zeros(n, k, *batch.y.shape[1:]).to(batch.x.dtype)
    shares = torch.zeros_like(labels)
    for t in range(several):
        x += scale[:, t].view(-1, *[1] * (x.dim() - 1)) * batch.x[at[:, t]]
        labels[:, t] = batch.y[at[:, t]].to(labels.dtype)
        shares[:, t] = scale[:, t].view(-1, *[1] * (batch.y.dim() - 1))
    return Mixture(Batch(x, torch.cat([labels, shares], dim=1)), members, weights)


def mixed_loss(inner: LossFn) -> LossFn:
    """Per-example losses [B] sum_t lambda_t l(f(x), y_t) of a mixed batch; those of a plain one are ``inner``'s."""

    def loss(forward: Forward, batch: Batch) -> Tensor:
        if not batch.y.is_floating_point():
            return inner(forward, batch)
        outputs = forward(batch.x)
        labels, shares = batch.y.chunk(2, dim=1)
        weights = shares.flatten(2)[..., 0] if shares.dim() > 2 else shares
        each = [inner(lambda _: outputs, Batch(batch.x, y.long(), batch.mask)) for y in labels.unbind(1)]
        return (torch.stack(each, dim=1) * weights).sum(1)

    return loss
