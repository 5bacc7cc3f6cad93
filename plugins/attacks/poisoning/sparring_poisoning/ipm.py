"""Inner product manipulation: the mean, reversed."""

from __future__ import annotations

from typing import final

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.plugin_crafted import IPMConfig
from sparring_poisoning.seen import all_send, seen


@final
class IPM(ActiveAttack[Updates]):
    r"""Every client of the attack sends $-\epsilon\,\mu$, so that the aggregate's inner product with $\mu$ turns negative.

    $\mu$: mean of the rows that it sees (`sparring_poisoning.seen.seen`). With m of n clients of equal weight the mean
    becomes $\frac{n - m - \epsilon m}{n}\,\mu$, which is reversed iff $\epsilon > (n - m)/m$; a small $\epsilon$ hides among
    the benign rows from rules that measure distances. Acts on parameters; buffers stay. Raises `ConfigError` where it is not
    granted what it is to see.

    Source: Xie, Koyejo and Gupta, "Fall of empires: breaking Byzantine-tolerant SGD by inner product manipulation", UAI 2019,
    1903.03936.
    """

    def __init__(self, config: IPMConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], all of the same parameters."""
        assert isinstance(ctx, Round)
        if not signal.ids:
            return signal
        mu = seen(signal, ctx, self.config.knowledge).params.mean(dim=0)
        return all_send(signal, -self.config.epsilon * mu)
