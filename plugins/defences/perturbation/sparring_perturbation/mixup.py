"""Mixup: training on weighted means of examples."""

from __future__ import annotations

from typing import final

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.local import Batch, LocalContext, LocalPlan
from sparring.roles import Defence
from sparring_perturbation.mixing import mixed, mixed_loss
from sparring_perturbation.plugin import MixupConfig


@final
class Mixup(Defence[LocalPlan]):
    r"""Each step trains on mixtures of its batch.

    $$\tilde x_i = \sum_{t=1}^k \lambda_{it} \, x_{\pi_t(i)}, \qquad
      \tilde l_i = \sum_{t=1}^k \lambda_{it} \, l(f(\tilde x_i), y_{\pi_t(i)}), \qquad
      \sum_t \lambda_{it} = 1, \quad \lambda_{it} \le c$$

    pi_1(i) = i. As InstaHide without its signs: lambda is |N(0, 1)| over its sum, drawn anew where it exceeds c (``limit``),
    for each step from the layer's stream; the paper's own pairs have Beta(alpha, alpha) instead. See `mixed` for small
    batches: **a batch of one example is not mixed at all**, which is what gradient inversion is best at.

    Examples meet, so that no per-example guarantee survives: dp-sgd behind it is refused. Whoever inverts the gradient of the
    batch and knows the coefficients solves a linear system for the examples. Other losses on targets must stand before it.
    Sources: Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018, 1710.09412; k and c: Huang, Song, Li, Arora, ICML 2020, 2010.02772.
    """

    def __init__(self, config: MixupConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan that trains on mixtures."""
        k, c = self.config.k, self.config.limit

        def mix(batch: Batch, local: LocalContext) -> Batch:
            return mixed(batch, k, c, local.generator).batch

        return signal.with_batch(ctx.layer or "mixup", mix).with_loss(mixed_loss)
