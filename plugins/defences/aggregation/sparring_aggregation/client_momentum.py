"""Momentum that each client keeps of its own updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence, Stateful
from sparring.signals import Updates
from sparring_aggregation.plugin_clients import ClientMomentumConfig


@final
class ClientMomentum(Defence[Updates], Stateful):
    r"""$m_i^t = \beta\, m_i^{t-1} + (1 - \beta)\, g_i^t$, $m_i^0 = 0$: client i sends $m_i^t$ in place of its update $g_i^t$.

    t counts the rounds in which client i took part; its momentum waits while it does not. For updates of constant expectation
    and variance $\sigma^2$, that of $m_i$ falls to $\sigma^2 (1 - \beta)/(1 + \beta)$. A convex combination of updates within a
    bound stays within it, so Clipped is kept. What a round sends depends on examples of earlier rounds, so PerExample and
    PoissonSampled are not. Acts on parameters; buffers stay. It holds one row a client: O(clients x p) memory.

    Source: Karimireddy, He and Jaggi, "Learning from history for Byzantine robust optimization", ICML 2021, 2012.10333.
    """

    def __init__(self, config: ClientMomentumConfig) -> None:
        self.config = config
        self.momentum: dict[str, Tensor] = {}

    def state(self) -> Mapping[str, Any]:
        """The momentum [p] of each client that took part."""
        return {"momentum": dict(self.momentum)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self.momentum = dict(state["momentum"])

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        """The momenta [n, p] of the clients of a round."""
        del ctx
        if not signal.ids:
            return signal
        zero = torch.zeros_like(signal.params[0])
        before = torch.stack([self.momentum.get(str(i), zero) for i in signal.ids])
        after = self.config.beta * before + (1 - self.config.beta) * signal.params
        self.momentum.update({str(i): row for i, row in zip(signal.ids, after, strict=True)})
        return signal.with_params(after)
