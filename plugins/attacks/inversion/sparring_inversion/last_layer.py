"""The step with which R-GAP begins: the last layer's input and the error of its outputs, from its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.local import Batch, LossFn
from sparring_inversion.structure import Grads, Link, Say, UnmetError

AGREED = 1e-3
"""Relative error up to which equations that are exact are taken to hold."""
OCTAVES = 20.0
GRID = 4001
ZOOMS, ZOOM = 6, 101


@dataclass(frozen=True)
class Begun:
    """What the last linear layer gives: its input ``x`` [h], the error ``k`` = dL/dz [K] of its outputs, and the ``label``."""

    x: Tensor
    k: Tensor
    label: Tensor


def begin(link: Link, gradient: Grads, loss: LossFn, say: Say) -> Begun:
    r"""Solves the last layer, for one example.

    The gradient of the weights is $\nabla W = k x^\top$, and that of the bias k. Without a bias, $\nabla W = s u v^\top$,
    $k = \mu u$ and $x = (s / \mu) v$: one number is missing, and the loss gives it, since $\partial L / \partial z$ at
    $z = (s / \mu) W v$ is k again. The label is the class of the one negative entry of k.

    Raises `UnmetError` where the layer is no linear one, or its gradient zero.
    """
    layer = link.module
    if not isinstance(layer, nn.Linear) or link.parameter("weight") not in gradient:
        raise UnmetError(f"the last, {link}, is no linear layer whose gradient is sent")
    g = gradient[link.parameter("weight")]
    if not bool(g.any()):
        raise UnmetError(f"the gradient of {link} is zero")
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    if bool((s[1:] > AGREED * s[0]).any()):
        say(f"the gradient of {link} has a rank above 1: it is not that of one example (but of several, or noisy)")
    k = gradient.get(link.parameter("bias"))
    if k is not None and bool(k.any()):
        return Begun(g.mT @ k / k.square().sum(), k, k.argmin())
    if "bias" in dict(layer.named_parameters()):
        raise UnmetError(f"the gradient of the bias of {link} is zero or not sent")
    if len(u) == 2:
        say(f"{link} has two outputs and no bias: mu, and with it sign and length of its input, is not unique")
    z = s[0] * (layer.weight.detach() @ v[0])
    tried = [(sign, *_mu(sign * u[:, 0], sign * z, loss)) for sign in (1.0, -1.0)]
    sign, mu, error = min(tried, key=lambda one: float(one[2]))
    if not bool(error < AGREED):
        say(f"no error of its outputs explains the gradient of {link}: it is not that of one example, or its scale is unknown")
    k = mu * sign * u[:, 0]
    return Begun(sign * s[0] / mu * v[0], k, k.argmin())


def _mu(u: Tensor, z: Tensor, loss: LossFn) -> tuple[Tensor, Tensor]:
    r"""The $\mu > 0$ of least relative error between $\mu u$ and dL/dz at z / mu, and that error: by ever finer grids."""
    at, reach = u.new_zeros(()), OCTAVES
    for points in (GRID, *[ZOOM] * ZOOMS):
        mu = (at + torch.linspace(-reach, reach, points, dtype=u.dtype, device=u.device)).exp2()
        outputs = (z / mu[:, None]).requires_grad_()
        losses = loss(nn.Identity(), Batch(outputs, u.argmin().expand(points)))
        (k,) = torch.autograd.grad(losses.sum(), outputs)
        error = ((k - mu[:, None] * u).norm(dim=1) / mu).nan_to_num(torch.inf)
        least = error.argmin()
        at, reach = mu[least].log2(), 2 * reach / (points - 1)
    return mu[least], error[least]
