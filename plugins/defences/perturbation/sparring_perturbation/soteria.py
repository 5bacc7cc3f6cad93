"""Soteria: the classifier's gradient shows a perturbed representation."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from sparring.context import Context
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.local import Batch, Forward, Functional, LocalPlan, LossFn
from sparring.roles import Defence
from sparring_perturbation.plugin import SoteriaConfig

BUDGET = 1 << 24
"""Numbers of a Jacobian that are held at once."""


def represented(forward: Forward, x: Tensor) -> tuple[nn.Linear, Tensor]:
    """The last linear layer that runs in a forward pass, and its input: found whatever ``forward`` is wrapped in.

    Raises `ConfigError` where none runs: the model has none, or a loss around this one hands on outputs that it has already.
    """
    seen: list[tuple[nn.Linear, Tensor]] = []

    def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Linear):
            seen.append((module, args[0]))

    handle = register_module_forward_pre_hook(see)
    try:
        forward(x)
    finally:
        handle.remove()
    if not seen:
        raise ConfigError(
            "soteria perturbs the input of the model's last linear layer, and none runs: choose another model, or list soteria "
            "after the loss that wraps it"
        )
    return seen[-1]


def jacobian_norms(forward: Forward, x: Tensor) -> tuple[nn.Linear, Tensor, Tensor]:
    r"""The last linear layer, the representations r [B, h] of ``x``, and $\lVert \partial r_j / \partial x \rVert_2$ [B, h].

    Of the model in evaluation mode, so that examples do not meet and no buffer changes; one vector-Jacobian product for each j,
    a `BUDGET` at a time.
    """
    root = forward.module if isinstance(forward, Functional) else forward
    training = [m for m in root.modules() if m.training] if isinstance(root, nn.Module) else []
    found: list[nn.Linear] = []

    def representation(inputs: Tensor) -> Tensor:
        layer, r = represented(forward, inputs)
        found.append(layer)
        return r.flatten(1)

    for m in training:
        m.training = False
    try:
        made: Any = vjp(representation, x)
        r, pull = made

        def norm(direction: Tensor) -> Tensor:
            (slope,) = pull(direction.expand_as(r))
            lengths: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
            return lengths

        basis = torch.eye(r.shape[1], dtype=r.dtype, device=r.device)
        norms: Tensor = vmap(norm, chunk_size=max(1, BUDGET // max(x.numel(), 1)))(basis)
    finally:
        for m in training:
            m.training = True
    return found[-1], r, norms.T


def kept(r: Tensor, norms: Tensor, fraction: float) -> Tensor:
    """Which components of ``r`` [B, h] the gradient shows: all but the share, one at least, of largest |r| over norm.

    Of equals, the earlier go."""
    ratio = torch.where(r == 0, 0, r.abs() / norms)
    rank = ratio.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    return rank >= max(1, round(fraction * r.shape[1]))


def perturbed(forward: Forward, x: Tensor, fraction: float) -> Tensor:
    """Outputs [B, K] of the model as they are, whose gradient to the classifier's weight sees r' in the place of r."""
    with torch.no_grad():
        head, r, norms = jacobian_norms(forward, x)
        mask = kept(r, norms, fraction)

    def swap(layer: nn.Linear, args: tuple[Tensor], output: Tensor) -> Tensor:
        del output
        (r,) = args
        # The bracket is 0, and so is its gradient but for the weight's: r' stays differentiable for attacks that replay this.
        shown, fixed = r * mask.view_as(r), layer.weight.detach()
        return F.linear(r, fixed, layer.bias) + (F.linear(shown, layer.weight) - F.linear(shown, fixed))

    handle = head.register_forward_hook(swap)
    try:
        outputs: Tensor = forward(x)
    finally:
        handle.remove()
    return outputs


@final
class Soteria(Defence[LocalPlan]):
    r"""Hides from the gradient of the classifier's weights the components of the representation that tell most of the input.

    $$\nabla_W L = \frac{\partial L}{\partial z} \, r'^\top, \qquad r'_j = 0 \text{ for the share } p \text{ of largest }
      \frac{|r_j|}{\lVert \partial r_j / \partial x \rVert_2}, \qquad r'_j = r_j \text{ otherwise}$$

    r [h]: the input of the model's last linear layer, z = W r + b. Zeroing r_j moves the input that explains r' by about that
    ratio, so that the largest go: the paper's optimum, with its code's approximation. The loss, and the gradients of b and of
    all other layers, stay what they are. Ties go by position; r_j = 0 counts as 0, and r_j != 0 that no input moves as
    infinite. p: ``fraction``; its authors run .01 against DLG and .6 against inverting gradients. Each example has its own r',
    where the paper's code sums over the batch: the same for one example, and examples stay apart.

    It costs h vector-Jacobian products a step. Raises `ConfigError` where no linear layer runs.

    It covers one layer: an attack that leaves its gradient out (Balunovic et al., ICLR 2022, 2111.04706), or that reads the
    first layer, loses nothing. Source: Sun, Li, Wang, Yang, Li, Chen: Soteria, CVPR 2021, 2012.06580.
    """

    def __init__(self, config: SoteriaConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan whose loss shows the classifier a perturbed representation."""
        del ctx
        p = self.config.fraction

        def wrap(inner: LossFn) -> LossFn:
            def loss(forward: Forward, batch: Batch) -> Tensor:
                return inner(lambda x: perturbed(forward, x, p), batch)

            return loss

        return signal.with_loss(wrap)
