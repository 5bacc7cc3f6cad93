"""Gaussian Byzantine clients: noise in place of an update."""

from __future__ import annotations

from typing import final

import torch

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.plugin_blind import GaussianConfig
from sparring_poisoning.seen import draws


@final
class Gaussian(ActiveAttack[Updates]):
    r"""$\Delta_i \leftarrow \mathcal N(0, s^2 I_p)$ for each client i that the attack holds, drawn anew by each in each round.

    The noise stands in place of the update, as in the source, with s = 200 there; adding it to the own update is what
    `gauss-noise` does. Acts on parameters; buffers stay. m such clients among n move the mean by noise of standard deviation
    s sqrt(m) / n.

    Source: Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine learning with adversaries: Byzantine tolerant gradient
    descent", NeurIPS 2017, 1703.02757; also Xie, Koyejo and Gupta 2018, 1802.10116.
    """

    def __init__(self, config: GaussianConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], of noise."""
        assert isinstance(ctx, Round)
        if not signal.ids:
            return signal
        return signal.with_params(draws(torch.randn, signal, ctx).mul_(self.config.std))
