"""PRECODE: a variational bottleneck before the classifier, and its divergence in the loss."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.local import Batch, Forward, Functional, LocalPlan, LossFn
from sparring.roles import Defence
from sparring.signals import ModelPlan
from sparring_adaptation.configs import PrecodeConfig
from sparring_adaptation.observing import observe, replaced

SHIFT = 5.0
"""Standard deviations start near softplus(-5) = .0067 (Alemi et al., ICLR 2017, 1612.00410)."""


@final
class GaussNoise(nn.modules.dropout._DropoutNd):
    """Standard normal noise of its input's shape in training, zeros otherwise.

    A dropout by class: by that strategies know which modules draw at random, and do not stack them.
    """

    def extra_repr(self) -> str:
        return ""

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn_like(x) if self.training else torch.zeros_like(x)


def moments(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [..., K] of what the encoder returned, [..., 2K]."""
    mu, raw = statistics.chunk(2, dim=-1)
    return mu, F.softplus(raw - SHIFT).clamp(min=1e-30)


def divergence(mu: Tensor, sigma: Tensor) -> Tensor:
    r"""$KL(N(\mu, \sigma^2) \| N(0, 1)) = \frac12 \sum_k (\mu_k^2 + \sigma_k^2 - 1 - 2 \ln \sigma_k)$ in nats, [B]."""
    kl = 0.5 * (mu.square() + sigma.square() - 1 - 2 * sigma.log()).sum(-1)
    return kl.flatten(1).mean(1) if kl.dim() > 1 else kl


@final
class Bottleneck(nn.Module):
    r"""$h \mapsto D(\mu + \sigma \odot \epsilon)$ with $(\mu, \sigma) = E(h)$; features [..., d] in, [..., d] out."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, 2 * size)
        self.noise = GaussNoise()
        self.decoder = nn.Linear(size, features)

    def forward(self, h: Tensor) -> Tensor:
        mu, sigma = moments(self.encoder(h))
        out: Tensor = self.decoder(mu + sigma * self.noise(mu))
        return out


@final
class AddBottleneck(Defence[ModelPlan]):
    r"""$C(h) \leftarrow C(D(z)),\ z \sim N(\mu(h), \sigma(h)^2)$: what the last linear layer sees was drawn at random.

    E and D are linear, drawn from torch's generator behind the model; evaluation takes z = mu. Models without a linear layer
    stay as they are, which is noted. It covers a gradient by noise that the adversary does not know, and no layer before it:
    biases and rows of the first layer leak as ever, and attacks that leave out the bottleneck's gradients find the input again.

    Source: Scheliga, Maeder and Seeland, "PRECODE - a generic model extension to prevent deep gradient leakage", WACV 2022,
    2108.04725. Against it: Balunovic et al., ICLR 2022, 2111.04706; its authors, 2208.04767.
    """

    def __init__(self, config: PrecodeConfig) -> None:
        self.size = config.size

    @hookimpl
    def defence_transform(self, signal: ModelPlan, ctx: Context) -> ModelPlan:
        del ctx
        size = self.size

        def make(old: Any) -> nn.Module:
            return nn.Sequential(Bottleneck(old.in_features, size), old)

        return replaced(signal, "precode", {v.name: make for v in observe(signal).of(nn.Linear)[-1:]})


@final
class AddDivergence(Defence[LocalPlan]):
    r"""$L \leftarrow L + \beta\, KL(N(\mu, \sigma^2) \| N(0, I))$ per example; 0 for a model without a bottleneck."""

    def __init__(self, config: PrecodeConfig) -> None:
        self.beta = config.beta

    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        del ctx
        return signal.with_loss(self._wrapped)

    def _wrapped(self, inner: LossFn) -> LossFn:
        def loss(forward: Forward, batch: Batch) -> Tensor:
            module = forward.module if isinstance(forward, Functional) else forward
            found = [m for m in module.modules() if isinstance(m, Bottleneck)] if isinstance(module, nn.Module) else []
            seen: list[Tensor] = []
            handles = [m.encoder.register_forward_hook(lambda _, args, out: seen.append(out)) for m in found]
            try:
                losses = inner(forward, batch)
            finally:
                for handle in handles:
                    handle.remove()
            for statistics in seen[-len(found) :] if found else ():
                losses = losses + self.beta * divergence(*moments(statistics))
            return losses

        return loss
