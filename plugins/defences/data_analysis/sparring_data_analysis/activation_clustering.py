"""Activation clustering: within a class, poison and clean examples form two clusters of activations."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ClientData
from sparring_data_analysis.plugin import ActivationClusteringConfig
from sparring_data_analysis.shown import kept, lab_of, pooled, represented

STARTS, STEPS, NEGLIGIBLE = 20, 100, 1e-6


def whitened(features: Tensor, components: int) -> Tensor:
    """Centred features [n, k] on their first principal components, each of unit variance: [n, at most ``components``].

    Independent components are a rotation of these, and distances do not mind rotations: clusters are those of ICA. Directions
    whose deviation is below 1e-6 of the largest are left out; n equal rows have none.
    """
    u, s, _ = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    rank = int((s > NEGLIGIBLE * s[0]).sum()) if len(s) and float(s[0]) > 0 else 0
    points: Tensor = u[:, : min(components, rank)] * len(features) ** 0.5
    return points


def two_means(points: Tensor, generator: torch.Generator) -> Tensor:
    """Which of two clusters [n] each point [n, c] is in: Lloyd's algorithm from several k-means++ starts, the best of them."""
    n = len(points)
    first = points[torch.randint(n, (STARTS,), generator=generator)]
    far = torch.cdist(first, points).square() + torch.finfo(points.dtype).tiny
    second = points[torch.multinomial(far, 1, generator=generator)[:, 0]]
    centres = torch.stack([first, second], dim=1)
    for _ in range(STEPS):
        side = torch.cdist(points.expand(STARTS, -1, -1), centres).argmin(2)
        member = torch.nn.functional.one_hot(side, 2).to(points)
        counts = member.sum(1)[:, :, None]
        moved = torch.where(counts > 0, member.transpose(1, 2) @ points / counts.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    distance, side = torch.cdist(points.expand(STARTS, -1, -1), centres).min(2)
    return side[int(distance.square().sum(1).argmin())]


def silhouette(points: Tensor, side: Tensor) -> float:
    """Mean over points [n, c] of (b - a) / max(a, b), a and b mean distances to own and other cluster (Rousseeuw, 1987).

    A point alone in its cluster counts 0; with one cluster alone it is 0.
    """
    sizes = side.bincount(minlength=2).to(points)
    if float(sizes.min()) == 0:
        return 0.0
    sums = torch.cdist(points, points) @ torch.nn.functional.one_hot(side, 2).to(points)
    own = sums.gather(1, side[:, None])[:, 0] / (sizes[side] - 1).clamp(min=1)
    other = sums.gather(1, 1 - side[:, None])[:, 0] / sizes[1 - side]
    values = (other - own) / torch.maximum(own, other).clamp(min=torch.finfo(points.dtype).tiny)
    return float(values.where(sizes[side] > 1, torch.zeros_like(values)).mean())


@final
class ActivationClustering(Defence[ClientData]):
    """Splits each class in two by 2-means on ``components`` independent components of its activations; drops the smaller part.

    Activations: the input of the last linear layer of a model that is trained in the lab on all shown data for ``epochs``. The
    smaller part is taken for poison where it is at most ``share`` of the class (the paper's relative size; about half of a
    clean class) and the `silhouette` of the split at least ``silhouette``. Classes of fewer than 3 examples stay whole, and
    so does a class whose parts are equal in size. A client may be left with no example. Raises `ConfigError` for a model
    without a linear layer, and for dense labels.

    Source: Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy and Srivastava, "Detecting backdoor attacks on deep neural
    networks by activation clustering", SafeAI@AAAI 2019, 1811.03728.
    """

    def __init__(self, config: ActivationClusteringConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """The clients' data without the smaller cluster of each class that looks poisoned."""
        pool = pooled(signal)
        features, _ = represented(lab_of(ctx).train(pool, self.config.epochs), pool.x)
        keep = torch.ones(len(pool), dtype=torch.bool)
        generator = ctx.generator()
        for members in (torch.nonzero(pool.y == c)[:, 0] for c in range(signal.shape.classes)):
            keep[members[self.poisoned(features[members], generator)]] = False
        return kept(signal, keep)

    def poisoned(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Which examples [n] of one class with ``features`` [n, k] are taken for poison."""
        none = torch.zeros(len(features), dtype=torch.bool)
        if len(features) < 3:
            return none
        points = whitened(features, self.config.components)
        if not points.shape[1]:
            return none
        side = two_means(points, generator)
        sizes = side.bincount(minlength=2)
        smaller = side == sizes.argmin()
        apart = float(smaller.double().mean()) <= self.config.share and bool(sizes[0] != sizes[1])
        return smaller if apart and silhouette(points, side) >= self.config.silhouette else none
