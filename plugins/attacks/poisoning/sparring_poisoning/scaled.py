"""Scaling: an update that outweighs the others."""

from __future__ import annotations

from typing import final

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.plugin_blind import ScaledConfig


@final
class Scaled(ActiveAttack[Updates]):
    r"""$\Delta_i \leftarrow c\,\Delta_i$ for each client i that the attack holds, c = ``scale``; its reverse is `sign-flip`.

    Acts on parameters; buffers stay. c = 1 changes nothing. With a share q of n equal clients the mean becomes 1 + (c - 1) q
    times the honest one; c = n / m replaces the mean by what the m clients wish, once the others have converged (model
    replacement). By itself it overshoots; it gives weight to what another attack made of the same clients' data.

    Source: Bagdasaryan, Veit, Hua, Estrin and Shmatikov, "How to backdoor federated learning", AISTATS 2020, 1807.00459;
    Bhagoji, Chakraborty, Mittal and Calo, "Analyzing federated learning through an adversarial lens", ICML 2019, 1811.12470
    (boosting).
    """

    def __init__(self, config: ScaledConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d] times c."""
        del ctx
        return signal.with_params(self.config.scale * signal.params)
