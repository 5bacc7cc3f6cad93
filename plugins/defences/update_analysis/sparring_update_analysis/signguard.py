"""SignGuard: updates are told by their norms and by their signs."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Cohort
from sparring_update_analysis.configs import SignGuardConfig
from sparring_update_analysis.judging import by_client, columns, judged, lengths, parameters
from sparring_update_analysis.meanshift import mean_shift
from sparring_update_analysis.scaling import shortened

OUTSIDE = 2.0
"""Suspicion of a norm outside the band: more than any distance between fractions of signs, which is at most the root of 2."""


def largest(labels: Tensor) -> Tensor:
    """Whether each of the points [n] is in a largest cluster; where several are largest, in any of them."""
    sizes = labels.bincount()
    return (sizes == sizes.max())[labels]


@final
class SignGuard(Defence[Cohort]):
    r"""Leaves out rows of odd norms, and those outside the largest cluster of sign statistics; clips the rest.

    Norms: $L \le \lVert \Delta_i \rVert / M \le R$, $M$ the median norm. Signs: the fractions of positive, zero and negative
    numbers among a random share of the parameter columns, drawn from the layer's stream, clustered by mean shift with a flat
    kernel (bandwidth: mean distance to the n/2-th nearest). What passes both is scaled to norm at most $M$; weights stay (the
    paper averages without weights). Where several clusters are largest, all pass. M = 0: norms say nothing. Suspicion is the
    distance of the fractions from the mean of the largest cluster, plus 2 outside the band. n = 0: no rows; n up to 3: signs
    say nothing, unless two rows of three share theirs. Raises `NumericalError` for a row that is not finite.

    Source: Xu, Huang, Song and Lan: Byzantine-robust Federated Learning through Collaborative Malicious Gradient Filtering
    (plain SignGuard, without the similarity feature), ICDCS 2022, 2109.05872.
    """

    def __init__(self, config: SignGuardConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The rows that pass, clipped to the median norm."""
        if len(signal) == 0:
            return signal
        seen = parameters(signal)
        norms = lengths(seen, ctx.layer)
        M = norms.quantile(0.5)
        outside = (M > 0) & ((norms < self.config.lower * M) | (norms > self.config.upper * M))
        p = signal.layout.parameters
        k = max(1, round(self.config.share * p))
        signs = _signs(seen, torch.randperm(p, generator=ctx.generator())[:k])
        order, majority = by_client(signal), torch.empty_like(outside)
        majority[order] = largest(mean_shift(signs[order].cpu())).to(majority.device)
        distance = (signs - signs[majority].mean(dim=0)).norm(dim=1)
        clipped = shortened(signal, norms, M)
        return judged(clipped, ctx.layer, distance + OUTSIDE * outside, outside | ~majority)


def _signs(cohort: Cohort, drawn: Tensor) -> Tensor:
    """Fractions [n, 3] of positive, zero and negative numbers among the columns ``drawn`` [k]."""
    counts = torch.zeros(len(cohort), 3, dtype=torch.float64, device=cohort.base.device)
    for block in columns(cohort, drawn):
        counts += torch.stack([(block > 0).sum(dim=1), (block == 0).sum(dim=1), (block < 0).sum(dim=1)], dim=1)
    return counts / len(drawn)
