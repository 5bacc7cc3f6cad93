"""What the reference cards of the pre-aggregators measure: one function a technique, each returns its quantities."""

from __future__ import annotations

import torch

from sparring.aggregate import WeightedMean
from sparring.testing.fixtures import make_round
from sparring_aggregation.arc import AdaptiveClipping
from sparring_aggregation.bucketing import Bucketing
from sparring_aggregation.krum import Krum
from sparring_aggregation.nnm import NearestNeighbourMixing
from sparring_aggregation.plugin import KrumConfig
from sparring_aggregation.plugin_pre import ARCConfig, BucketingConfig, NNMConfig, StaticClipConfig
from sparring_aggregation.robustness import FAR, cohort, estimate, gaussian, moved, worst_ratio
from sparring_aggregation.static_clip import StaticClip


def nnm() -> dict[str, float]:
    """What is left of the honest rows' differences before Krum, with far outliers and by search; the price without attack."""
    layer, krum, rows = NearestNeighbourMixing(NNMConfig(f=3)), Krum(KrumConfig(f=3)), gaussian(11, 400, "nnm")
    lone = (estimate(krum)(rows) - rows.mean(0)).square().sum() / 400
    small = NearestNeighbourMixing(NNMConfig(f=2)), Krum(KrumConfig(f=2))
    mixed = layer.defence_transform(cohort(rows), make_round())
    return {
        "displacement of krum behind it by 3 of 11 rows at 1e6": moved(estimate(krum, layer), rows, 3),
        "displacement of krum alone": moved(estimate(krum), rows, 3),
        "squared distance to the mean, krum behind it over krum alone": float(
            (estimate(krum, layer)(rows) - rows.mean(0)).square().sum() / 400 / lone
        ),
        "squared distance of means with and without it, over d / n": float(
            (mixed.rows.mean(0) - rows.mean(0)).square().sum() / 400 * 11
        ),
        "worst kappa found for krum behind it, n = 7, f = 2": worst_ratio(estimate(small[1], small[0]), 7, 2),
        "worst kappa found for the mean, n = 7, f = 2": worst_ratio(lambda rows: rows.mean(0), 7, 2),
    }


def bucketing() -> dict[str, float]:
    """Mean squared distances between buckets over those between clients, and the share of buckets with a Byzantine client."""
    n, s, rounds, lying = 20, 4, 400, 2
    rows = torch.arange(float(n), dtype=torch.float64)[:, None]
    layer = Bucketing(BucketingConfig(s=s))
    means = torch.stack([layer.defence_transform(cohort(rows), make_round(index=k)).rows for k in range(rounds)])[..., 0]
    marked = (torch.arange(n) < lying).double()[:, None]
    spoiled = torch.stack([layer.defence_transform(cohort(marked), make_round(index=k)).rows for k in range(rounds)]) > 0
    return {
        "squared distance between buckets over that between clients": float(means.var(dim=1).mean() / rows.var()),
        "share of buckets that 2 of 20 clients reach": float(spoiled.double().mean()),
        "largest distance of the mean of all buckets from the mean": float((means.mean(dim=1) - rows.mean()).abs().max()),
    }


def static_clip() -> dict[str, float]:
    """What a scaled update can do to the mean with and without clipping at the server, and what is left of longer rows."""
    layer, rows = StaticClip(StaticClipConfig(bound=0.5)), gaussian(10, 64, "static-clip") / 8
    lying = rows.clone()
    lying[0] *= -FAR
    made = layer.defence_transform(cohort(rows), make_round())
    written = cohort(made.rows)
    mean = estimate(WeightedMean(), layer)
    off = (made.distances - written.distances).abs().max() / written.distances.max()
    return {
        "largest norm of a row": float(layer.defence_transform(cohort(lying), make_round()).rows.norm(dim=1).max()),
        "displacement of the mean by one client, over 2C/n": float((mean(lying) - mean(rows)).norm() / (2 * 0.5 / 10)),
        "displacement of the mean without it, over 2C/n": float((lying - rows).mean(0).norm() / (2 * 0.5 / 10)),
        "norm of the mean, without attack, over that of the mean without it": float(mean(rows).norm() / rows.mean(0).norm()),
        "largest error of a distance that is computed without the rows": float(off),
    }


def arc() -> dict[str, float]:
    """How many rows are clipped, to what, what a scaled update can do to the mean, and what clipping takes from honest ones."""
    n, f = 11, 3
    layer, rows = AdaptiveClipping(ARCConfig(f=f)), gaussian(n, 64, "arc") * torch.linspace(0.5, 1.5, n).double()[:, None]
    lying = rows.clone()
    lying[:f] *= FAR
    norms = rows.norm(dim=1)
    honest = layer.defence_transform(cohort(rows), make_round()).norms
    attacked = layer.defence_transform(cohort(lying), make_round()).norms
    small = AdaptiveClipping(ARCConfig(f=2)), Krum(KrumConfig(f=2))
    return {
        "rows clipped of 11, f = 3": float((honest < norms * (1 - 1e-9)).sum()),
        "largest norm under attack over the largest honest one": float(attacked.max() / norms[f:].max()),
        "norm of the mean under attack over the largest honest norm": float(
            estimate(WeightedMean(), layer)(lying).norm() / norms[f:].max()
        ),
        "norm of the mean under attack without it, over the same": float(lying.mean(0).norm() / norms[f:].max()),
        "sum of norms that is left without attack": float(honest.sum() / norms.sum()),
        "worst kappa found for krum behind it, n = 7, f = 2": worst_ratio(estimate(small[1], small[0]), 7, 2),
    }
