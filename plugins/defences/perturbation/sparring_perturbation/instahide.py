"""InstaHide: training on mixtures whose pixels have random signs."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.local import Batch, LocalContext, LocalPlan
from sparring.roles import Defence
from sparring_perturbation.mixing import mixed, mixed_loss
from sparring_perturbation.plugin import InstaHideConfig


def flipped(x: Tensor, centre: float, generator: torch.Generator) -> Tensor:
    """Each number of ``x`` [B, ...] reflected at ``centre`` or not, by a fair coin of its own."""
    sign = 2 * torch.randint(2, x.shape, generator=generator) - 1
    return centre + sign.to(x) * (x - centre)


@final
class InstaHide(Defence[LocalPlan]):
    r"""Each step trains on encodings of its batch: mixtures whose pixels have random signs.

    $$\tilde x_i = \sigma_i \circ \sum_{t=1}^k \lambda_{it} \, x_{\pi_t(i)}, \qquad \sigma_i \sim \{-1, 1\}^d, \qquad
      \tilde l_i = \sum_{t=1}^k \lambda_{it} \, l(f(\tilde x_i), y_{\pi_t(i)})$$

    with inputs measured from ``centre``: the paper normalises images to [-1, 1], and a sign there is a reflection at .5 of
    [0, 1], which keeps the range. Mixtures are those of `Mixup`, of examples of the client alone (Intra-InstaHide: no public
    images). sigma is drawn anew for each example and step from the layer's stream. A batch of one example is not mixed: its
    absolute values are those of the example.

    Examples meet, so that no per-example guarantee survives: dp-sgd behind it is refused. The absolute value undoes the
    signs, and mixtures of several draws decode to the examples: Carlini et al., IEEE S&P 2021, 2011.05315, recover them
    visually. Other losses on targets must stand before it. Source: Huang, Song, Li, Arora: InstaHide, ICML 2020, 2010.02772.
    """

    def __init__(self, config: InstaHideConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan that trains on encodings."""
        k, c, centre = self.config.k, self.config.limit, self.config.centre

        def encode(batch: Batch, local: LocalContext) -> Batch:
            made = mixed(batch, k, c, local.generator).batch
            return replace(made, x=flipped(made.x, centre, local.generator))

        return signal.with_batch(ctx.layer or "instahide", encode).with_loss(mixed_loss)
