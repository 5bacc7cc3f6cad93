"""Layers inside a client's training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from sparring.claims import GaussianEvent
from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.local import (
    Batch,
    Client,
    Forward,
    GradientRule,
    LocalContext,
    LocalPlan,
    LossFn,
    Numbers,
    Params,
    PureLoss,
    Sampler,
)
from sparring.roles import Defence
from sparring_frozen_api1.plugin import SGDConfig, StepsConfig


def rate(client: Client) -> float:
    """The rate at which an example enters a step."""
    return min(1.0, client.batch_size / max(client.size, 1))


@final
class Coins(Sampler):
    """A coin for each example and step."""

    def batches(self, client: Client, generator: torch.Generator) -> Iterator[Tensor]:
        q = rate(client)
        for _ in range(client.steps):
            yield (torch.rand(client.size, generator=generator, dtype=torch.float64) < q).nonzero()[:, 0]

    def largest(self, client: Client) -> int:
        return client.size


@final
class Lots(Defence[LocalPlan]):
    """Poisson-sampled lots."""

    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan with another sampler."""
        del ctx
        return signal.with_sampler(Coins())


@final
class Jitter(Defence[LocalPlan]):
    """Gaussian noise on the inputs of each step (Bishop, Neural Computation 7, 1995)."""

    def __init__(self, config: StepsConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan whose batches are noisy."""
        sigma = self.config.noise

        def noisy(batch: Batch, local: LocalContext) -> Batch:
            noise = torch.randn(batch.x.shape, generator=local.generator, dtype=batch.x.dtype)
            return Batch(batch.x + sigma * noise.to(batch.x.device), batch.y, batch.mask)

        return signal.with_batch(ctx.layer, noisy)


@final
class SmoothTargets(Defence[LocalPlan]):
    """Label smoothing (Szegedy et al., CVPR 2016, 1512.00567): (1 - a) l(y) + a mean_k l(k)."""

    def __init__(self, config: StepsConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan with a wrapped loss."""
        del ctx
        a = self.config.smoothing

        def wrap(loss: LossFn) -> LossFn:
            def smoothed(forward: Forward, batch: Batch) -> Tensor:
                return (1 - a) * loss(forward, batch) - a * F.log_softmax(forward(batch.x), 1).mean(1)

            return smoothed

        return signal.with_loss(wrap)


@final
class Project(Defence[LocalPlan]):
    """After each step the parameters are projected on a ball around 0."""

    def __init__(self, config: StepsConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan whose steps end within the ball."""
        radius = self.config.radius

        def project(row: Tensor, local: LocalContext) -> Tensor:
            del local
            scale: Tensor = radius / row.norm().clamp(min=radius)
            return row * scale

        return signal.with_step(ctx.layer, project)


@final
class NoisySum(GradientRule):
    """(sum of gradients clipped to C, plus N(0, (sigma C)^2)) over the expected lot (Abadi et al., CCS 2016, 1607.00133)."""

    def __init__(self, bound: float, sigma: float) -> None:
        self.bound, self.sigma = bound, sigma

    def numbers(self, client: Client) -> Numbers:
        return {"bound": self.bound, "expected": rate(client) * max(client.size, 1)}

    def grads(self, loss: PureLoss, params: Params, batch: Batch, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        def one(p: Params, x: Tensor, y: Tensor) -> Tensor:
            return loss(p, x[None], y[None]).squeeze(0)

        if not batch.x.shape[0]:
            return {name: torch.zeros_like(p) for name, p in params.items()}
        each = {name: g.flatten(1) for name, g in vmap(grad(one), in_dims=(None, 0, 0))(dict(params), batch.x, batch.y).items()}
        norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in each.values()]).square().sum(0).sqrt()
        finite, C = norms.isfinite(), numbers["bound"]
        factor = torch.where(norms > C, C * (1 - 1e-6) / norms, 1.0) * finite
        if batch.mask is not None:
            factor = factor * batch.mask
        clean = {name: torch.where(finite[:, None], g, 0.0) for name, g in each.items()}
        return {name: (factor.to(g.dtype) @ g).reshape(params[name].shape) / numbers["expected"] for name, g in clean.items()}

    def noise(self, size: int, numbers: Numbers, generator: torch.Generator) -> Tensor:
        return torch.randn(size, generator=generator) * (self.sigma * numbers["bound"] / numbers["expected"])

    def event(self, client: Client) -> GaussianEvent:
        return GaussianEvent(self.sigma, unit="example", rate=rate(client), steps=client.steps)


@final
class PrivateGradients(Defence[LocalPlan]):
    """The plan of DP-SGD."""

    def __init__(self, config: SGDConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan with the private gradient rule."""
        return signal.with_gradient(ctx.layer, NoisySum(self.config.bound, self.config.sigma))
