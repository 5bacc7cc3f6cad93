"""The attack of Fang et al. on the median."""

from __future__ import annotations

from typing import final

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.fang import against, course, median
from sparring_poisoning.plugin_crafted import FangOrderConfig
from sparring_poisoning.seen import seen


@final
class FangMedian(ActiveAttack[Updates]):
    r"""Every client sends values just beyond the benign ones, against the median's course $s_j$ in each coordinate j.

    Full knowledge (``benign``): $s_j$ is the sign of the median of all clients' honest rows; with $w_j$ the least benign
    value where $s_j = 1$ and the greatest where $s_j = -1$, the value is uniform between $w_j$ and $b\,w_j$, or $w_j / b$
    where that is further against $s_j$. No other row moves the median further against $s_j$ in that coordinate. Partial
    knowledge (``own``): $s_j$ is the sign of $\mu_j$, and the value uniform between $\mu_j - 3 s_j \sigma_j$ and $\mu_j - 4
    s_j \sigma_j$, mean and population deviation of its own m rows; with m = 1 its own row (as `fang-trimmed-mean` then
    sends). Acts on parameters; buffers stay. Raises `ConfigError` where it is not granted what it is to see.

    Source: Fang, Cao, Jia and Gong, "Local model poisoning attacks to Byzantine-robust federated learning", USENIX Security
    2020, 1911.11815; on updates, as in the authors' code, where the paper writes parameters.
    """

    def __init__(self, config: FangOrderConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], each with its own draws."""
        assert isinstance(ctx, Round)
        if not signal.ids:
            return signal
        known = seen(signal, ctx, self.config.knowledge)
        s = course(signal, known, median)
        return against(signal, known, ctx, s, self.config.b)
