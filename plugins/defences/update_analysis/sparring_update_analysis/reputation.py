"""Reputation: one record per client over all rounds and all analyses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence, Stateful
from sparring.signals import Cohort
from sparring_update_analysis.configs import ReputationConfig
from sparring_update_analysis.judging import judged


@final
class Reputation(Defence[Cohort], Stateful):
    r"""Keeps a reputation $r_i$ in [0, 1] for each client id, and leaves out those below a floor.

    $$r_i \leftarrow b\, r_i + (1 - b)(1 - v_i)$$

    $v_i$: the share of this round's verdicts on client i that flagged it, so that analyses of different units feed one record.
    A client whom an analysis before it left out was judged, and its record falls; one that is not sampled, or not judged, keeps
    its own. There is no other way back than to be judged and not flagged: from r, k clean rounds lead to $1 - (1 - r) b^k$; an
    analysis in front that judges everybody is what readmits. Suspicion is $1 - r_i$. Everybody below the floor: the round
    releases nothing. Weights and rows stay. n = 0: records are kept up to date, no rows.

    Source: Kang, Xiong, Niyato, Xie and Zhang: Incentive Mechanism for Reliable Federated Learning, IEEE Internet of Things
    Journal 6(6), 2019 (selection by reputation); the exponential record: Josang and Ismail: The Beta Reputation
    System, Bled eConference 2002 (its forgetting factor).
    """

    def __init__(self, config: ReputationConfig) -> None:
        self.config = config
        self.record: dict[int, float] = {}

    def state(self) -> Mapping[str, Any]:
        """Each client's reputation."""
        return {str(client): held for client, held in self.record.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the reputations of ``state``."""
        self.record = {int(client): float(held) for client, held in state.items()}

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The rows of clients at or above the floor."""
        b = self.config.memory
        for client in sorted({client for verdict in signal.verdicts for client in verdict.suspicion}):
            about = [client in verdict.flagged for verdict in signal.verdicts if client in verdict.suspicion]
            v = sum(about) / len(about)
            self.record[client] = b * self.record.get(client, self.config.start) + (1 - b) * (1 - v)
        if len(signal) == 0:
            return signal
        assert signal.ids is not None
        held = [self.record.get(client, self.config.start) for client in signal.ids]
        r = torch.tensor(held, dtype=torch.float64, device=signal.base.device)
        return judged(signal, ctx.layer, 1 - r, r < self.config.floor)
