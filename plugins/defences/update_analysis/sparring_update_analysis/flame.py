"""FLAME: the tightest majority of directions, clipped to the median norm, and noise on the release."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Cohort, Release
from sparring_update_analysis.configs_models import FlameConfig
from sparring_update_analysis.judging import cosines, judged, lengths, parameters
from sparring_update_analysis.scaling import shortened

RESOLUTION = 2.0**40
"""Cosine distances are rounded to its inverse, so that sums in another order do not split ties."""


@final
class Flame(Defence[Cohort]):
    r"""Keeps the densest cluster of more than half of the cohort, and shortens its rows to the median norm.

    $$c_{ij} = 1 - \cos(\Delta_i, \Delta_j), \qquad S_t = \mathrm{median}_i \lVert\Delta_i\rVert_2, \qquad
      \Delta_i \leftarrow \Delta_i \min(1, S_t / \lVert\Delta_i\rVert_2)$$

    The cluster is HDBSCAN's on c with min_cluster_size floor(n/2) + 1, min_samples 1 and a single cluster allowed. Two clusters
    of that size do not exist, so that the condensed tree is one branch, and its last survivor is the connected component of
    {c_ij <= eps} for the least eps at which some component has that many members: what `reach` computes, exactly and without
    ties decided by order. The suspicion of a client is the eps at which it joins such a component, in [0, 2]; flagged is who
    joins later than the first. About half of an honest cohort may be flagged: the core holds little more than a majority.

    c and norms [n] are of updates and of the parameter columns, float64; S_t is over all n. Weights stay, though the paper
    averages without. A zero row has cosine 0 to all others. n = 0: no rows; n = 1 and 2: all are kept. O(n^3) on the n x n
    matrix. Raises `NumericalError` for a row that is not finite. S_t goes to `FlameNoise` through the round's wire.

    Source: Nguyen, Rieger, Chen, Yalame, Moellering, Fereidooni, Marchal, Miettinen, Mirhoseini, Zeitouni, Koushanfar, Sadeghi
    and Schneider: FLAME: Taming Backdoors in Federated Learning, USENIX Security 2022, 2101.02281.
    """

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The kept rows [m, d], clipped; m > n/2."""
        assert isinstance(ctx, Round)
        n = len(signal)
        if n == 0:
            return signal
        seen = parameters(signal)
        norms = lengths(seen, ctx.layer)
        S = norms.quantile(0.5)
        joined = reach(cosine_distances(seen.inner), n // 2 + 1)
        flagged = joined > joined.min()
        ctx.wire.post(_stage(ctx), S)
        return judged(shortened(signal, norms, S), ctx.layer, joined, flagged)


@final
class FlameNoise(Defence[Release]):
    r"""Adds noise to the release: $G \leftarrow G + \mathcal N(0, (\lambda S_t)^2 I_p)$ on the parameters [p].

    S_t is what `Flame` posted in this round. Where nothing was posted (a host ran the cohort's layers elsewhere) the release
    stays as it is, and core reports that the layer never acted. One draw from the layer's stream a round. Source: see `Flame`.
    """

    def __init__(self, config: FlameConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Release, ctx: Context) -> Release:
        """The noised release [d]."""
        assert isinstance(ctx, Round)
        posted = ctx.wire.collect(_stage(ctx))
        if not posted:
            return signal
        S, params = posted[-1], signal.params
        assert isinstance(S, Tensor)
        noise = torch.randn(params.shape, generator=ctx.generator(), dtype=params.dtype).to(params.device)
        return signal.with_params(params + (self.config.noise * S).to(params) * noise)


def cosine_distances(inner: Tensor) -> Tensor:
    """1 - cos [n, n] from inner products about the origin: symmetric, 0 on the diagonal, rounded to `RESOLUTION`."""
    distances = (RESOLUTION * (1 - cosines(inner))).round().div_(RESOLUTION)
    return torch.maximum(distances, distances.T).fill_diagonal_(0)


def reach(distances: Tensor, m: int) -> Tensor:
    """The least eps [n] at which each row's connected component of {distance <= eps} has at least ``m`` members.

    The distance from i to j along the best path, counted by its longest step (the single-linkage ultrametric), is closed under
    relaxation over each intermediate row; the m-th smallest of a row of it, its own 0 included, is the answer.
    """
    paths = distances
    for k in range(len(paths)):
        paths = torch.minimum(paths, torch.maximum(paths[:, k, None], paths[None, k]))
    return paths.kthvalue(m, dim=1).values


def _stage(ctx: Round) -> str:
    """Where the two halves of one entry of the stack meet."""
    return f"{ctx.layer.partition('/')[0]}: median norm"
