"""Sign flipping: ascend instead of descend."""

from __future__ import annotations

from typing import final

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.plugin import SignFlipConfig


@final
class SignFlip(ActiveAttack[Updates]):
    r"""$\Delta_i \leftarrow -c\,\Delta_i$ for each client i that the attack holds, c = ``scale``.

    Acts on parameters; buffers stay as they were trained. A zero update stays zero. With a share q of n equal clients the mean
    becomes (1 - (1 + c) q) times the honest one: it reverses once c > 1/q - 1.

    Source: Li, Xu, Chen, Giannakis and Ling, "RSA: Byzantine-robust stochastic aggregation methods for distributed learning
    from heterogeneous datasets", AAAI 2019, 1811.03761.
    """

    def __init__(self, config: SignFlipConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d] times -c."""
        del ctx
        return signal.with_params(-self.config.scale * signal.params)
