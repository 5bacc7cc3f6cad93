"""Chameleon: a backdoor in the representations, by a contrastive loss."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.context import Context
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.local import Batch, Forward, Functional, LocalContext, LocalPlan, LossFn
from sparring.roles import ActiveAttack
from sparring_backdoor.configs import ChameleonConfig


def contrast(z: Tensor, y: Tensor, real: Tensor, temperature: float) -> Tensor:
    r"""Supervised contrastive loss [B].

    $-\frac{1}{|P(i)|} \sum_{p \in P(i)} \log \frac{\exp(z_i z_p / \tau)}{\sum_{a \ne i} \exp(z_i z_a / \tau)}$ with z the
    representations [B, k], normalised here, and P(i) the other ``real`` examples with the label of i; 0 where there is none.
    """
    z = F.normalize(z, dim=1)
    others = real[None, :] & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = z @ z.T / temperature
    total = logits.masked_fill(~others, torch.finfo(z.dtype).min).logsumexp(dim=1, keepdim=True)
    alike = (others & (y[None, :] == y[:, None])).to(z.dtype)
    return ((total - logits) * alike).sum(1) / alike.sum(1).clamp(min=1)


def parted(forward: Forward, x: Tensor) -> tuple[Tensor, Tensor]:
    """The input [B, k] of the last linear layer, and outputs [B, K] whose gradient ends at that layer.

    Raises `ConfigError` where the model has no linear layer.
    """
    module = forward.module if isinstance(forward, Functional) else forward
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)] if isinstance(module, nn.Module) else []
    if not layers:
        raise ConfigError("chameleon trains what lies before a model's last linear layer; this model has none: choose another")
    seen: list[Tensor] = []

    def cut(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        seen.append(args[0])
        return (args[0].detach(),)

    handle = layers[-1].register_forward_pre_hook(cut)
    try:
        outputs = forward(x)
    finally:
        handle.remove()
    return seen[-1].flatten(1), outputs


def marked(batch: Batch, at: LocalContext) -> Batch:
    """The batch with targets [B, 2]: labels, and 1; what a strategy pads afterwards with zeros can then be told apart."""
    del at
    return replace(batch, y=torch.stack([batch.y, torch.ones_like(batch.y)], dim=1))


@final
class Contrastive(ActiveAttack[LocalPlan]):
    r"""The encoder learns $w\,L_{\mathrm{SupCon}}$ alone, and the classifier cross-entropy on representations held fixed.

    Poisoned examples carry the target's label, so that the contrast pulls them to the target class (the paper's facilitators)
    and pushes them from the class that they were made of (its interferers). The paper has two phases: the encoder by contrast,
    then the frozen encoder's classifier by cross-entropy. Here a round's every step is a step of both: no gradient of the
    cross-entropy reaches the encoder, and none of the contrast the classifier, so that the two touch disjoint parameters, and
    differ from phases only in that the classifier follows an encoder that still moves. The encoder is all that lies before the
    last linear layer; without parameters there, only the classifier learns.

    Source: Dai and Li, "Chameleon: adapting to peer images for planting durable backdoors in federated learning", ICML 2023,
    2304.12961; loss: Khosla et al., NeurIPS 2020, 2004.11362.
    """

    def __init__(self, config: ChameleonConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan with that loss; its batches mark what is real."""
        c = self.config

        def wrap(inner: LossFn) -> LossFn:
            def loss(forward: Forward, batch: Batch) -> Tensor:
                y, real = batch.y.unbind(1) if batch.y.dim() == 2 else (batch.y, torch.ones_like(batch.y))
                z, outputs = parted(forward, batch.x)
                return c.weight * contrast(z, y, real == 1, c.temperature) + inner(lambda _: outputs, replace(batch, y=y))

            return loss

        return signal.with_batch(ctx.layer, marked).with_loss(wrap)
