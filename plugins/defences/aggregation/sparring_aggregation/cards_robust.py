"""What the reference cards of the rules in Gram space, and of those around the median, measure."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sparring.aggregate import WeightedMean
from sparring.signals import Cohort
from sparring.testing.fixtures import make_layout, make_round
from sparring_aggregation.bulyan import Bulyan
from sparring_aggregation.cards_common import FAR, disagreement, moved, release, rows
from sparring_aggregation.centred_clipping import CentredClipping
from sparring_aggregation.declared import (
    BulyanConfig,
    CentredClippingConfig,
    GeometricMedianConfig,
    MeamedConfig,
    MultiKrumConfig,
)
from sparring_aggregation.geometric_median import GeometricMedian
from sparring_aggregation.krum import Krum
from sparring_aggregation.meamed import Meamed
from sparring_aggregation.multi_krum import MultiKrum
from sparring_aggregation.plugin import KrumConfig


def _apart(x: Tensor) -> Tensor:
    """Squared distances [n, n] by their definition."""
    return (x[:, None] - x[None]).square().sum(2)


def _scores(x: Tensor, near: int) -> Tensor:
    """Krum's scores [n] by their definition: each row is its own nearest, at distance 0."""
    return _apart(x).sort(dim=1).values[:, 1 : near + 1].sum(1)


def multi_krum() -> dict[str, float]:
    """Agreement with the definition; the price beside the mean's and Krum's; f and f + 1 outliers that stand together."""
    n, f, d = 11, 3, 20
    rule = MultiKrum(MultiKrumConfig(f=f))

    def plain(x: Tensor) -> Tensor:
        return x[_scores(x, len(x) - f - 2).argsort()[: len(x) - f]].mean(0)

    def error(rule: Callable[[Tensor], Tensor]) -> float:
        return sum(float(rule(rows(n, d, f"price {k}")).square().mean()) for k in range(40)) / 40

    return {
        "largest distance from the mean of the lowest scores": disagreement(rule, plain, "multi-krum", least=9),
        "squared error of 11 rows over that of Krum": error(lambda x: release(rule, x))
        / error(lambda x: release(Krum(KrumConfig(f=f)), x)),
        "displacement by 3 of 11 rows at 1e6": moved(rule, rows(n, 100, "breakdown"), f),
        "displacement by 4 of 11 rows at 1e6": moved(rule, rows(n, 100, "breakdown"), f + 1),
        "displacement of the mean by 1 of 11 rows": moved(WeightedMean(), rows(n, 100, "breakdown"), 1),
    }


def bulyan() -> dict[str, float]:
    """Agreement with the definition, and one coordinate of one row far away: what passes Krum and does not pass Bulyan."""
    f = 2
    rule = Bulyan(BulyanConfig(f=f))

    def plain(x: Tensor) -> Tensor:
        left, theta = list(range(len(x))), len(x) - 2 * f
        chosen: list[int] = []
        while len(chosen) < theta:
            near = max(1, len(left) - f - 2)
            chosen.append(left.pop(int(_scores(x[left], near).argmin())))
        return _closest(x[chosen], theta - 2 * f)

    n, d = 11, 10_000
    honest = rows(n, d, "bulyan")
    hidden = honest.clone()
    hidden[:f] = honest[f:].mean(0)
    hidden[:f, 0] += math.sqrt(d)
    centre = float(honest[f:, 0].mean())
    return {
        "largest distance from the definition": disagreement(rule, plain, "bulyan", least=11),
        "displacement of the hit coordinate": abs(float(release(rule, hidden)[0]) - centre),
        "displacement of the hit coordinate by Krum": abs(float(release(Krum(KrumConfig(f=f)), hidden)[0]) - centre),
        "displacement by 2 of 11 rows at 1e6": moved(rule, rows(n, 100, "breakdown"), f),
        "displacement by 6 of 11 rows at 1e6": moved(rule, rows(n, 100, "breakdown"), 6),
    }


def _closest(x: Tensor, k: int) -> Tensor:
    """The mean of the k values closest to the median of each column, by sorting distances; for distinct values."""
    ranked, n = x.sort(dim=0).values, len(x)
    middle = (ranked[(n - 1) // 2] + ranked[n // 2]) / 2
    nearest = (x - middle).abs().argsort(dim=0)[:k]
    return x.gather(0, nearest).mean(0)


def meamed() -> dict[str, float]:
    """Agreement with the definition; variance beside the mean's; f and f + 1 outliers."""
    rule = Meamed(MeamedConfig(f=3))
    noise = rows(11, 200_000, "efficiency")
    return {
        "largest distance from the definition": disagreement(rule, lambda x: _closest(x, len(x) - 3), "meamed", least=7),
        "variance of 11 normal values, f = 3, over the mean's": float(release(rule, noise).var()) * 11,
        "displacement by 3 of 11 rows at 1e6": moved(rule, rows(11, 100, "breakdown"), 3),
        "displacement by 4 of 11 rows at 1e6": moved(rule, rows(11, 100, "breakdown"), 4),
        "displacement of the mean by 1 of 11 rows": moved(WeightedMean(), rows(11, 100, "breakdown"), 1),
    }


def geometric_median() -> dict[str, float]:
    """Points whose geometric median is known, the stationarity of the release, weights, and breakdown."""
    rule = GeometricMedian(GeometricMedianConfig(nu=1e-9, steps=500))
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)
    quadrilateral = torch.tensor([[0.0, 0.0], [4.0, 1.0], [5.0, 5.0], [1.0, 3.0]], dtype=torch.float64)
    x = rows(15, 50, "geometric")
    weights = torch.arange(1.0, 16.0, dtype=torch.float64)
    y = release(rule, x, weights)
    pulls = weights[:, None] * torch.nn.functional.normalize(x - y, dim=1)
    noise = rows(11, 100, "breakdown")
    return {
        "distance from the centre of an equilateral triangle": _off(release(rule, corners), corners.mean(0)),
        "distance from where the diagonals of a quadrilateral cross": _off(release(rule, quadrilateral), _crossing()),
        "weighted sum of unit vectors to 15 weighted rows": float(pulls.sum(0).norm() / weights.sum()),
        "displacement by 5 of 11 rows at 1e6": moved(rule, noise, 5),
        "displacement by 6 of 11 rows at 1e6": moved(rule, noise, 6),
        "displacement of the mean by 1 of 11 rows": moved(WeightedMean(), noise, 1),
    }


def _crossing() -> Tensor:
    """Where the diagonals (0, 0)-(5, 5) and (4, 1)-(1, 3) cross: x = y and 2x + 3y = 11."""
    return torch.full((2,), 11 / 5, dtype=torch.float64)


def _off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm())


def centred_clipping() -> dict[str, float]:
    """Agreement with the loop over rows, the pull of liars against its bound, and honest rows that are reached over rounds."""
    tau, steps, n = 2.0, 3, 11
    x = rows(n, 100, "clipping")
    rule, v = CentredClipping(CentredClippingConfig(tau=tau, steps=steps)), torch.zeros(100, dtype=torch.float64)
    for _ in range(4):
        found = rule.server_aggregate(_cohort(x), make_round()).vector
        for _ in range(steps):
            v = v + torch.stack([(row - v) * min(1.0, tau / float((row - v).norm())) for row in x]).mean(0)
    once = CentredClipping(CentredClippingConfig(tau=tau))
    lying = x.clone()
    lying[:3] = FAR
    centred = CentredClipping(CentredClippingConfig(tau=tau))
    still = torch.zeros(n, 100, dtype=torch.float64)
    still[:3] = FAR
    for _ in range(300):
        settled = centred.server_aggregate(_cohort(still), make_round()).vector
    return {
        "distance from the loop over rows after 4 rounds of 3 steps": _off(found, v),
        "pull of 3 of 11 rows at 1e6, over 2 tau f / n": _off(release(once, lying), _plain_step(x, tau)) * n / (2 * tau * 3),
        "where 8 equal rows and 3 at 1e6 settle, over tau f / (n - f)": float(settled.norm()) * 8 / (3 * tau),
        "displacement of the mean by 1 of 11 rows": moved(WeightedMean(), rows(n, 100, "breakdown"), 1),
    }


def _cohort(x: Tensor) -> Cohort:
    return Cohort(x, make_layout(x.shape[1]), tuple(range(len(x))))


def _plain_step(x: Tensor, tau: float) -> Tensor:
    clipped: Tensor = x * (tau / x.norm(dim=1, keepdim=True)).clamp(max=1)
    return clipped.mean(0)
