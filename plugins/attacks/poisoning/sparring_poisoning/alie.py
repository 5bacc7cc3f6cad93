"""A Little Is Enough: a shift that hides within the spread of honest updates."""

from __future__ import annotations

from statistics import NormalDist
from typing import final

from torch import Tensor

from sparring.context import Context, Round
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.plugin import ALIEConfig


def z_max(n: int, m: int) -> float:
    r"""$z_{\max} = \Phi^{-1}\!\left(\frac{n - m - s}{n - m}\right)$, $s = \lfloor n/2 + 1 \rfloor - m$, for m of n clients.

    s benign clients must lie beyond the shifted value for it to be the majority's. The argument of the quantile is held half a
    client away from 0 and 1, where it would be infinite: at 1 the attackers are the majority and need no z. With m = n it is 0.
    It is negative for small m: the paper's formula, not an error.
    """
    benign = n - m
    if benign < 1:
        return 0.0
    s = n // 2 + 1 - m
    half = 0.5 / benign
    return NormalDist().inv_cdf(min(max((benign - s) / benign, half), 1 - half))


@final
class ALIE(ActiveAttack[Updates]):
    r"""Every client of the attack sends $\mu_j - z\,\sigma_j$ in each coordinate j.

    $\mu$, $\sigma$: mean and population standard deviation of the rows that it sees. ``knowledge: own``: the attack's own m
    honestly trained rows; with m = 1 that is its own update unchanged. ``knowledge: benign``: the benign rows that it is
    granted, or its own in a round that has none; raises `ConfigError` where they are not granted. z is given, or `z_max` of the
    n sampled clients and the m it holds among them. Acts on parameters; buffers stay.

    Source: Baruch, Baruch and Goldberg, "A little is enough: circumventing defenses for distributed learning", NeurIPS 2019,
    1902.06156.
    """

    def __init__(self, config: ALIEConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], all of the same parameters."""
        assert isinstance(ctx, Round)
        m = len(signal.ids)
        if m == 0:
            return signal
        seen = self._seen(signal, ctx)
        z = z_max(len(ctx.cohort), m) if self.config.z is None else self.config.z
        sent = seen.mean(dim=0) - z * seen.std(dim=0, correction=0)
        return signal.with_params(sent.expand(m, -1).clone())

    def _seen(self, signal: Updates, ctx: Round) -> Tensor:
        if self.config.knowledge == "own":
            return signal.params
        if ctx.benign is None:
            raise ConfigError(
                f"'{ctx.layer or 'alie'}' has knowledge: benign, but the benign updates are not granted to it; "
                "grant them in the threat model (knows: [benign-updates]), or set knowledge: own"
            )
        benign = ctx.benign[:, : signal.layout.parameters]
        return benign.to(signal.rows) if len(benign) else signal.params
