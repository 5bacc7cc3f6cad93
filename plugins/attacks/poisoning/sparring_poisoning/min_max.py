"""Min-Max: a row as far along a perturbation as the benign rows' own greatest distance allows."""

from __future__ import annotations

from typing import final

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.perturbation import min_max_gamma, perturbation
from sparring_poisoning.plugin_crafted import MinMaxConfig
from sparring_poisoning.seen import all_send, seen


@final
class MinMax(ActiveAttack[Updates]):
    r"""Every client sends $\mu + \gamma\,\nabla^p$ with the largest $\gamma$ such that
    $\max_i \lVert \mu + \gamma\nabla^p - b_i \rVert \le \max_{i,j} \lVert b_i - b_j \rVert$.

    $b_i$: the rows that it sees (`sparring_poisoning.seen.seen`), $\mu$ their mean, $\nabla^p$ the perturbation
    (`sparring_poisoning.perturbation.perturbation`). $\gamma$ is the least root of n quadratics, up to rounding in the rows'
    precision; the paper halves a step instead. One row seen, or equal ones: $\gamma = 0$, the mean itself. It needs to know
    no rule. Acts on parameters; buffers stay. Raises `ConfigError` where it is not granted what it is to see.

    Source: Shejwalkar and Houmansadr, "Manipulating the Byzantine: optimizing model poisoning attacks and defenses for
    federated learning", NDSS 2021, doi 10.14722/ndss.2021.24498.
    """

    def __init__(self, config: MinMaxConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], all of the same parameters."""
        assert isinstance(ctx, Round)
        if not signal.ids:
            return signal
        rows = seen(signal, ctx, self.config.knowledge).params
        nabla = perturbation(rows, self.config.direction)
        gamma = min_max_gamma(rows, nabla).to(rows)
        return all_send(signal, rows.mean(dim=0) + gamma * nabla)
