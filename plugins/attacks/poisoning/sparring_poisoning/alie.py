"""A Little Is Enough: a shift that hides within the spread of honest updates."""

from __future__ import annotations

from statistics import NormalDist
from typing import final

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.plugin import ALIEConfig
from sparring_poisoning.seen import all_send, seen


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

    $\mu$, $\sigma$: mean and population standard deviation of the rows that it sees (`sparring_poisoning.seen.seen`). With
    its own knowledge and m = 1 that is its own update unchanged. z is given, or `z_max` of the n sampled clients and the m it
    holds among them. Acts on parameters; buffers stay. Raises `ConfigError` where it is not granted what it is to see.

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
        rows = seen(signal, ctx, self.config.knowledge).params
        z = z_max(len(ctx.cohort), m) if self.config.z is None else self.config.z
        return all_send(signal, rows.mean(dim=0) - z * rows.std(dim=0, correction=0))
