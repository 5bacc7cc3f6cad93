"""Losses of a class under logits z [..., m, K], of the classes y [m]: [..., m]; and what is asked of inputs alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def _own(z: Tensor, y: Tensor) -> Tensor:
    return z.gather(-1, y.expand(z.shape[:-1]).unsqueeze(-1)).squeeze(-1)


def doubt(z: Tensor, y: Tensor) -> Tensor:
    """1 - softmax(z)_y, in [0, 1]."""
    return 1 - _own(z.softmax(-1), y)


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """-log softmax(z)_y, at least 0."""
    return -_own(z.log_softmax(-1), y)


def max_margin(z: Tensor, y: Tensor) -> Tensor:
    """The largest other logit minus z_y: below 0 where the class wins (Yuan et al., AAAI 2023, 2302.09814)."""
    others = z.scatter(-1, y.expand(z.shape[:-1]).unsqueeze(-1), -torch.inf)
    return others.amax(-1) - _own(z, y)


def logit(z: Tensor, y: Tensor) -> Tensor:
    """-z_y (Nguyen et al., CVPR 2023, 2304.01669, without their regulariser, which needs public data)."""
    return -_own(z, y)


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "max-margin": max_margin, "logit": logit}


def total_variation(x: Tensor) -> Tensor:
    """The mean absolute vertical plus horizontal difference [m] of images x [m, C, H, W]; 0 for other inputs."""
    total = x.new_zeros(len(x))
    for axis in (-2, -1) if x.dim() == 4 else ():
        if x.shape[axis] > 1:
            total = total + x.diff(dim=axis).abs().flatten(1).mean(1)
    return total


def prior(x: Tensor, tv: float, l2: float = 0.0) -> tuple[Tensor, Tensor]:
    """``tv`` x total variation + ``l2`` x mean square of each input [m], and its slope [m, ...]."""
    x = x.detach().requires_grad_()
    value = tv * total_variation(x) + l2 * x.square().flatten(1).mean(1)
    (slope,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), slope
