"""DP-SGD: Poisson lots and noisy sums of clipped per-example gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

import torch
from torch import Tensor
from torch.func import grad, vmap

from sparring.claims import GaussianEvent
from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.local import Batch, Client, GradientRule, LocalPlan, Numbers, Params, PureLoss, Sampler
from sparring.roles import Defence
from sparring_dp.plugin import DPSGDConfig


def rate(client: Client) -> float:
    """The sampling rate q = L / N of a client: its batch size over its number of examples, at most 1."""
    return min(1.0, client.batch_size / max(client.size, 1))


@final
class PoissonSampler(Sampler):
    """Each step takes each example independently with probability q, so that lots differ in size and may be empty."""

    def batches(self, client: Client, generator: torch.Generator) -> Iterator[Tensor]:
        q = rate(client)
        for _ in range(client.steps):
            chosen = torch.rand(client.size, generator=generator, dtype=torch.float64) < q
            yield chosen.nonzero()[:, 0]

    def largest(self, client: Client) -> int:
        return client.size


@final
class PrivateGradient(GradientRule):
    r"""The gradient of DP-SGD.

    $$\bar g_i = g_i \min(1, C / \lVert g_i \rVert_2), \qquad
      \tilde g = \frac1L \Big( \sum_{i \in \text{lot}} \bar g_i + \mathcal N(0, \sigma^2 C^2 I_p) \Big)$$

    $g_i$: the gradient of example i over all trainable parameters, flat clipping. L: the *expected* lot qN, never the realised
    size, which is itself private. The noise is added once to the sum; an empty lot gives noise alone. An example whose gradient
    is not finite, or whose squared norm overflows, contributes zero: the sensitivity C holds whatever the data are.

    One round emits a Poisson-subsampled Gaussian event per example of rate q and ``steps`` steps, neighbours by adding or
    removing one example; N, hence q and the number of steps, counts as public. Source: Abadi et al.: Deep Learning with
    Differential Privacy, CCS 2016, 1607.00133.
    """

    def __init__(self, bound: float, noise_multiplier: float, chunk: int) -> None:
        self.bound, self.noise_multiplier, self.chunk = bound, noise_multiplier, chunk

    def numbers(self, client: Client) -> Numbers:
        return {"bound": self.bound, "expected": rate(client) * max(client.size, 1), "sigma": self.noise_multiplier}

    def grads(self, loss: PureLoss, params: Params, batch: Batch, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        C, L = numbers["bound"], numbers["expected"]
        total = {name: torch.zeros_like(p) for name, p in params.items()}

        def one(p: Params, x: Tensor, y: Tensor) -> Tensor:
            return loss(p, x[None], y[None]).squeeze(0)

        for at in range(0, batch.x.shape[0], self.chunk):
            part = slice(at, at + self.chunk)
            made = vmap(grad(one), in_dims=(None, 0, 0))(dict(params), batch.x[part], batch.y[part])
            each = {name: g.flatten(1) for name, g in made.items()}
            norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in each.values()]).square().sum(0).sqrt()
            finite = norms.isfinite()
            below = C * (1 - 4 * torch.finfo(norms.dtype).eps)
            factor = torch.where(norms > C, below / norms, 1.0) * finite
            if batch.mask is not None:
                factor = factor * batch.mask[part]
            for name, g in each.items():
                clean = torch.where(finite[:, None], g, 0.0)
                total[name] = total[name] + (factor.to(g.dtype) @ clean).reshape(params[name].shape)
        return {name: g / L for name, g in total.items()}

    def noise(self, size: int, numbers: Numbers, generator: torch.Generator) -> Tensor:
        scale = numbers["sigma"] * numbers["bound"] / numbers["expected"]
        return torch.randn(size, generator=generator) * scale

    def event(self, client: Client) -> GaussianEvent:
        return GaussianEvent(self.noise_multiplier, unit="example", rate=rate(client), steps=client.steps)


@final
class PoissonLots(Defence[LocalPlan]):
    """The first half of DP-SGD: examples enter each step by Poisson sampling (Abadi et al., CCS 2016, 1607.00133)."""

    def __init__(self, config: DPSGDConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan with Poisson-sampled lots."""
        del ctx
        return signal.with_sampler(PoissonSampler())


@final
class PrivateGradients(Defence[LocalPlan]):
    """The second half of DP-SGD: clipped per-example gradients with noise, see `PrivateGradient`."""

    def __init__(self, config: DPSGDConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan with the private gradient rule; its noise comes from this layer's stream."""
        c = self.config
        return signal.with_gradient(ctx.layer or "dp-sgd", PrivateGradient(c.bound, c.noise_multiplier, c.chunk))
