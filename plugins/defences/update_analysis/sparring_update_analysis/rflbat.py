"""RFLBAT: outliers and clusters in the plane of the principal components."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Cohort
from sparring_update_analysis.configs_models import RFLBATConfig
from sparring_update_analysis.judging import by_client, cosines, judged, lengths, parameters
from sparring_update_analysis.kmeans import gap_statistic, kmeans


@final
class RFLBAT(Defence[Cohort]):
    r"""Filters by distances between principal components x_i [q], then keeps one cluster of them.

    1. $e_i = \sum_j \lVert x_i - x_j \rVert$; out with $e_i > \epsilon_1 \mathrm{median}(e)$.
    2. k-means of the rest, k by the gap statistic; of each cluster the median over members of the mean cosine of a member's
       update with the cluster's (its own, 1, included; a single row has 1). The cluster with the *least* one is kept.
    3. e again within it; out with $e_i > \epsilon_2 \mathrm{median}(e)$.

    The components come from the eigenvectors of the centred Gram matrix [n, n] of the parameter columns: no d x d matrix and no
    second pass over the rows. An axis whose variance is rounding, below 1e-12 of the first, counts as 0. Suspicion is the
    distance in the plane from the mean of those who are kept. Weights stay. References are drawn from the layer's stream,
    clients in ascending order, all n x n work on the CPU. n < 3: nobody is judged. Raises `NumericalError` for a row that is
    not finite.

    Source: Wang, Zhai, Zhan and Ning: RFLBAT: A Robust Federated Learning Algorithm against Backdoor Attack, 2022, 2201.03772.
    """

    def __init__(self, config: RFLBATConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The kept rows [m, d]."""
        assert isinstance(ctx, Round)
        n, config = len(signal), self.config
        if n == 0:
            return signal
        seen = parameters(signal)
        lengths(seen, ctx.layer)
        device, suspicion = signal.base.device, torch.zeros(n, dtype=torch.float64)
        if n < 3:
            return judged(signal, ctx.layer, suspicion.to(device), suspicion.to(device) > 0)
        order = by_client(signal).cpu()
        gram, alike = torch.stack([seen.gram, cosines(seen.inner)]).cpu()[:, order][:, :, order]
        x = principal(gram, config.components)
        kept = near(x, config.outer)
        kept = kept[self._cluster(x[kept], alike[kept][:, kept], ctx)]
        kept = kept[near(x[kept], config.inner)]
        suspicion[order] = torch.linalg.vector_norm(x - x[kept].mean(0), dim=1)
        flagged = torch.ones_like(suspicion, dtype=torch.bool)
        flagged[order[kept]] = False
        return judged(signal, ctx.layer, suspicion.to(device), flagged.to(device))

    def _cluster(self, x: Tensor, alike: Tensor, ctx: Round) -> Tensor:
        """Positions of the cluster whose members are least alike."""
        k = gap_statistic(x, self.config.clusters, self.config.references, ctx.generator())
        labels = kmeans(x[None], k)[0][0]
        groups = [g for g in ((labels == c).nonzero().flatten() for c in range(k)) if len(g)]
        scores = torch.stack([alike[g][:, g].mean(1).quantile(0.5) if len(g) > 1 else alike.new_ones(()) for g in groups])
        return groups[int(scores.argmin())]


def principal(gram: Tensor, components: int) -> Tensor:
    """Principal components [n, q] of rows with this Gram matrix [n, n] about any point; q at most n."""
    centred = gram - gram.mean(0, keepdim=True)
    centred = centred - centred.mean(1, keepdim=True)
    values, vectors = torch.linalg.eigh((centred + centred.T) / 2)
    largest = values.flip(0)[:components].clamp(min=0)
    largest = torch.where(largest > 1e-12 * largest[:1], largest, 0.0)
    found: Tensor = vectors.flip(1)[:, :components] * largest.sqrt()
    return found


def near(x: Tensor, epsilon: float) -> Tensor:
    """Positions of the points [n, q] whose sum of distances to the others is at most epsilon times the median one."""
    sums = torch.cdist(x[None], x[None], compute_mode="donot_use_mm_for_euclid_dist")[0].sum(1)
    return (sums <= epsilon * sums.quantile(0.5)).nonzero().flatten()
