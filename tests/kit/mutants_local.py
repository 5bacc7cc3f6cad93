"""Mutants of the checks of local training: lots and gradient rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from sparring.claims import Event, Formal, GaussianEvent
from sparring.facts import PerExample, PoissonSampled
from sparring.local import Batch, Client, GradientRule, LocalPlan, LossFn, Numbers, Params, PureLoss, Sampler
from sparring.signature import Signature
from sparring.sites import Site
from tests.kit.making import Made, defence, mutant


class Coins(Sampler):
    """Poisson lots; ``capped`` cuts those that are larger than a batch."""

    def __init__(self, capped: bool) -> None:
        self.capped = capped

    def batches(self, client: Client, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(client.steps):
            lot = (torch.rand(client.size, generator=generator) < client.batch_size / client.size).nonzero()[:, 0]
            yield lot[: client.batch_size] if self.capped else lot

    def largest(self, client: Client) -> int:
        return client.size


@mutant("sampler-lots")
def _(broken: bool) -> Made:
    return defence(
        lambda self, plan, ctx: plan.with_sampler(Coins(broken)),
        signal=LocalPlan,
        site=Site.SAMPLER,
        signature=Signature(gives=(PoissonSampled("example"),)),
    )


class Clipping(GradientRule):
    """Clipped per-example gradients with noise of multiplier 1.5; ``flaw`` names what is wrong with it."""

    def __init__(self, flaw: str) -> None:
        self.flaw = flaw

    def numbers(self, client: Client) -> Numbers:
        return {"lot": float(client.batch_size)}

    def grads(self, loss: PureLoss, params: Params, batch: Batch, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        def one(p: Params, x: Tensor, y: Tensor) -> Tensor:
            return loss(p, x[None], y[None]).squeeze(0)

        if not len(batch.x):
            return {name: p * (torch.nan if self.flaw == "empty" else 0) for name, p in params.items()}
        each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(dict(params), batch.x, batch.y)
        norms = torch.stack([g.flatten(1).square().sum(1) for g in each.values()]).sum(0).sqrt()
        factor = torch.ones_like(norms) if self.flaw == "sensitivity" else 1 / norms.clamp(min=1)
        if batch.mask is not None and self.flaw != "padding":
            factor = factor * batch.mask
        if self.flaw == "vmap" and float(factor.sum()) < 0:
            return dict(params)
        return {name: torch.einsum("b,b...->...", factor, g) / numbers["lot"] for name, g in each.items()}

    def eager(self, module: nn.Module, loss: LossFn, batch: Batch, numbers: Numbers) -> bool:
        for k in range(len(batch.x)):
            losses = loss(module, Batch(batch.x[k : k + 1], batch.y[k : k + 1]))
            grads = torch.autograd.grad(losses.sum(), list(module.parameters()))
            norm = torch.cat([g.reshape(-1) for g in grads]).norm()
            for p, g in zip(module.parameters(), grads, strict=True):
                assert p.grad is not None
                p.grad += g / norm.clamp(min=1) / (len(batch.x) if self.flaw == "eager" else numbers["lot"])
        return True

    def noise(self, size: int, numbers: Numbers, generator: torch.Generator) -> Tensor:
        return 1.5 / numbers["lot"] * torch.randn(size, generator=generator)

    def event(self, client: Client) -> Event:
        return GaussianEvent(1.5, "example", client.batch_size / client.size, client.steps)


def gradient_rule(flaw: str) -> Callable[[bool], Made]:
    return lambda broken: defence(
        lambda self, plan, ctx: plan.with_gradient(ctx.layer, Clipping(flaw if broken else "")),
        signal=LocalPlan,
        site=Site.GRADIENT,
        signature=Signature(needs=(PerExample(),), claims=(Formal("Gaussian", "example"),)),
    )


mutant("gradient-vmap")(gradient_rule("vmap"))
mutant("gradient-eager")(gradient_rule("eager"))
mutant("gradient-sensitivity")(gradient_rule("sensitivity"))
mutant("padding-ignored")(gradient_rule("padding"))
mutant("empty-lot")(gradient_rule("empty"))
