"""What the reference card of U-Net measures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.signals import DataShape
from sparring_zoo.plugin import UNET

SIDE = 16
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def _network(shape: DataShape, **options: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNET.build(UNET.config(**options)).module(shape)


def _dense(side: int, classes: int = 2) -> DataShape:
    return DataShape((1, side, side), classes, "segmentation")


def unet() -> dict[str, float]:
    """Size, depth and reach against the sums of its layers; whether examples are coupled; and whether it learns."""
    deep = _network(_dense(32, 3), depth=4, width=1)
    network = _network(_dense(SIDE), width=4).double()
    x = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        coupled = (network(x)[0] - network(torch.cat([x[:1], 10 * x[1:]]))[0]).abs().max()
    found, voted = _learnt(_network(_dense(SIDE), width=8), steps=60)
    return {
        "parameters on 1 channel and 3 classes": float(sum(p.numel() for p in _network(_dense(SIDE, 3)).parameters())),
        "convolutional layers at depth 4": float(sum(isinstance(m, CONVOLUTIONS) for m in deep.modules())),
        "pixels that one output sees across at depth 1": _reach(),
        "coupling of examples": float(coupled),
        "accuracy on the inside of outlines": found,
        "accuracy of the most frequent label": voted,
    }


def _reach() -> float:
    """Columns of the input on which one output depends, through convolutions of positive weights and no norm."""
    network = _network(_dense(40), depth=1, width=2)
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm | nn.ReLU):
                setattr(module, name, nn.Identity())
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(2))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)
    x = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (slope,) = torch.autograd.grad(network(x)[0, 0, 20, 20], x)
    return float((slope[0, 0].abs().sum(dim=0) > 0).sum())


def _outlines(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Square outlines at random places in noise, and which pixels lie inside."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 * torch.rand(n, 1, SIDE, SIDE, generator=generator)
    y = torch.zeros(n, SIDE, SIDE, dtype=torch.long)
    corners = torch.randint(0, SIDE - 8, (n, 2), generator=generator)
    for image, inside, (top, left) in zip(x, y, corners.tolist(), strict=True):
        side = slice(top, top + 8), slice(left, left + 8)
        core = slice(top + 1, top + 7), slice(left + 1, left + 7)
        kept = image[0][core].clone()
        image[0][side] += 0.6
        image[0][core] = kept
        inside[core] = 1
    return x, y


def _learnt(network: nn.Module, steps: int) -> tuple[float, float]:
    """Accuracy on the pixels of other outlines after ``steps`` on 32, and that of the most frequent label."""
    (x, y), (fresh, labels) = _outlines(32, 0), _outlines(100, 1)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimiser.step()
    with torch.no_grad():
        right = float((network(fresh).argmax(dim=1) == labels).double().mean())
    return right, float((labels == 0).double().mean())
