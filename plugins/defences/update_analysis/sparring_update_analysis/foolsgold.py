"""FoolsGold: sybils are told by how alike their histories are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.layout import Layout
from sparring.roles import Defence, Stateful
from sparring.rowwise import CHUNK
from sparring.signals import Cohort
from sparring_update_analysis.configs import FoolsGoldConfig
from sparring_update_analysis.judging import cosines, judged, lengths, parameters

ALIKE = 1e-9
"""Cosines this near to 1 are 1: what is missing is rounding, and rescaling would make a weight of it."""


def weights(similarity: Tensor) -> Tensor:
    r"""The paper's $\alpha$ [n] in [0, 1] from cosines [n, n]: pardon, rescale, logit.

    The diagonal counts as 0, as in the authors' code: $v_i = \max_j cs_{ij} \ge 0$. Where all are alike, nobody is more so than
    another, and rescaling makes each 1, as it does for all cosines just below 1. n = 1: 1.
    """
    cs = torch.where(similarity > 1 - ALIKE, 1.0, similarity).fill_diagonal_(0)
    v = cs.max(dim=1).values
    pardon = torch.where(v[None, :] > v[:, None], v[:, None] / v[None, :].clamp(min=torch.finfo(v.dtype).tiny), 1.0)
    alpha = (1 - (cs * pardon).max(dim=1).values).clamp(0, 1)
    alpha = torch.where(alpha.max() > 0, alpha / alpha.max(), 1.0)
    return (alpha.logit() + 0.5).clamp(0, 1)


def output_start(layout: Layout) -> int:
    """First column of the output layer: the last parameter with two dimensions or more; a bias behind it belongs to it."""
    trained = [s for s in layout.segments if s.role == "parameter"]
    return next((s.start for s in reversed(trained) if len(s.shape) > 1), 0)


@final
class FoolsGold(Defence[Cohort], Stateful):
    r"""Weighs clients by $\alpha_i$, small for those whose histories $H_i = \sum_t \Delta_{i,t}$ point the same way.

    $cs_{ij}$: cosine of $H_i$, $H_j$; $v_i = \max_j cs_{ij}$; pardoning: $cs_{ij} \leftarrow cs_{ij} v_i / v_j$ where $v_j >
    v_i$; $\alpha_i = 1 - \max_j cs_{ij}$, divided by $\max_i \alpha_i$; then $\ln(\alpha_i / (1 - \alpha_i)) + 0.5$, held in
    [0, 1].

    As in the paper, $\alpha$ alone is the weight, whatever number of examples a client claims; the mean behind it divides by
    their sum. Clients of weight 0 are flagged and left out; suspicion is $1 - \alpha_i$. ``exclude``: they are left out, and
    the others keep their weights. Histories [p] are kept per client id, also while it is not sampled. A zero history is like no
    other. n = 0: no rows; n = 1, or all alike: weight 1. Raises `NumericalError` for a row that is not finite.

    Source: Fung, Yoon and Beschastnikh: Mitigating Sybils in Federated Learning Poisoning, 2018, 1808.04866 (RAID 2020).
    """

    def __init__(self, config: FoolsGoldConfig) -> None:
        self.config = config
        self.history: dict[int, Tensor] = {}

    def state(self) -> Mapping[str, Any]:
        """The sum of each client's updates."""
        return {str(client): held for client, held in self.history.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the sums of ``state``."""
        self.history = {int(client): held for client, held in state.items()}

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The weighed cohort, without those of weight 0."""
        if len(signal) == 0:
            return signal
        assert signal.ids is not None
        start = output_start(signal.layout) if self.config.features == "output" else 0
        compared = parameters(signal, start)
        lengths(compared, ctx.layer)
        for client, row in zip(signal.ids, compared.rows, strict=True):
            held = self.history.get(client)
            self.history[client] = row.clone() if held is None else held.to(row) + row
        alpha = weights(cosines(self._inner(signal.ids)))
        weighed = signal if self.config.exclude else replace(signal, weights=alpha.to(signal.base.dtype))
        return judged(weighed, ctx.layer, 1 - alpha, alpha == 0)

    def _inner(self, ids: tuple[int, ...]) -> Tensor:
        """Inner products [n, n] of the histories of ``ids``, over chunks of columns."""
        held = [self.history[client] for client in ids]
        inner = torch.zeros(len(held), len(held), dtype=torch.float64, device=held[0].device)
        for at in range(0, len(held[0]), CHUNK):
            block = torch.stack([h[at : at + CHUNK] for h in held]).double()
            inner += block @ block.T
        return inner
