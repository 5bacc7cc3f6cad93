"""A small gradient matching of its own: what an attacker makes of perturbed gradients of single images, for the cards."""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from sparring.keys import Key
from sparring.likeness import psnr
from sparring.testing.fixtures import SHAPE, Tiny, smooth, tiny_layout

ITERATIONS = 200
LAYOUT = tiny_layout()


def images(n: int) -> tuple[Tensor, Tensor]:
    """Smooth images [n, 1, 8, 8] and their labels [n]."""
    return smooth(n, Key(0, ("perturbation",)).generator()), torch.arange(n) % SHAPE.classes


def gradients(x: Tensor, y: Tensor) -> Tensor:
    """Rows [n, d]: the gradient of each image's loss at `Tiny`'s weights, with a graph to the images."""
    module = Tiny()

    def loss(theta: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(module, theta, (one[None],)), label[None])

    theta = {name: p.detach() for name, p in module.named_parameters()}
    each = vmap(grad(loss), in_dims=(None, 0, 0))(theta, x, y)
    return torch.cat([each[s.name].flatten(1) for s in LAYOUT.segments], dim=1)


def matched(targets: Tensor, y: Tensor, seen: Tensor | None = None) -> Tensor:
    """Images whose gradients have the direction of ``targets`` [n, d], on the coordinates ``seen`` [n, d] (None: all).

    Cosine distance, Adam on signs, clamped to [0, 1]: inverting gradients (Geiping et al., NeurIPS 2020), without its prior.
    """
    seen = torch.ones_like(targets) if seen is None else seen.to(targets)
    x = torch.rand(len(y), *SHAPE.inputs, generator=Key(1, ("perturbation",)).generator())
    adam = torch.optim.Adam([x], lr=0.1, betas=(0.95, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, ITERATIONS)
    for _ in range(ITERATIONS):
        x.requires_grad_()
        loss = 1 - F.cosine_similarity(gradients(x, y) * seen, targets * seen, dim=1)
        (slope,) = torch.autograd.grad(loss.sum(), x)
        x.requires_grad_(False)
        x.grad = slope.sign_()
        adam.step()
        schedule.step()
        x.clamp_(0, 1)
    return x


def reached(found: Tensor, x: Tensor) -> float:
    """Mean PSNR of reconstructions, dB."""
    return fmean(psnr(a, b) for a, b in zip(found, x, strict=True))


def grey(x: Tensor) -> float:
    """Mean PSNR of a grey image: what no gradient is needed for."""
    return reached(torch.full_like(x, 0.5), x)
