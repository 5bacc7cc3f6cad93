"""What the reference cards of the rules that average a subset measure: one function a technique."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from sparring_aggregation.caf import CovarianceFilter
from sparring_aggregation.mda import MinimumDiameter
from sparring_aggregation.monna import MoNNA
from sparring_aggregation.plugin_selection import CAFConfig, MDAConfig, MonnaConfig, SMEAConfig
from sparring_aggregation.robustness import Estimate, estimate, gaussian, moved, worst_ratio
from sparring_aggregation.smea import SmallestEigenvalue

N, D = 11, 100


def _off(of: Callable[[int], Estimate], plain: Callable[[Tensor, int], Tensor]) -> float:
    """The largest distance of a rule from its definition over 24 cohorts of 5 to 8 rows."""
    found = 0.0
    for k in range(24):
        n = 5 + k % 4
        f, rows = 1 + k % ((n - 1) // 2), gaussian(n, 6, f"definition {k}")
        found = max(found, float((of(f)(rows) - plain(rows, f)).abs().max()))
    return found


def _least(rows: Tensor, f: int, cost: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of the subset of least cost, all tried."""
    subsets = [rows[list(s)] for s in combinations(range(len(rows)), len(rows) - f)]
    return min(subsets, key=lambda own: float(cost(own))).mean(0)


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(0)


def monna() -> dict[str, float]:
    """Agreement with the definition, and displacement by outliers with an honest and with a lying client as the trusted one."""

    def rule(f: int, trusted: int = 4) -> Estimate:
        return estimate(MoNNA(MonnaConfig(f=f, trusted=trusted)))

    def plain(rows: Tensor, f: int) -> Tensor:
        return rows[(rows - rows[4]).norm(dim=1).argsort()[: len(rows) - f]].mean(0)

    rows = gaussian(N, D, "breakdown")
    return {
        "largest distance from the definition": _off(rule, plain),
        "displacement by 3 of 11 rows at 1e6": moved(rule(3), rows, 3),
        "displacement by 4 of 11 rows at 1e6, f = 3": moved(rule(3), rows, 4),
        "displacement by 3 of 11 rows, one of them trusted": moved(rule(3, trusted=0), rows, 3),
        "displacement of the mean by 1 of 11 rows": moved(_mean, rows, 1),
    }


def caf() -> dict[str, float]:
    """Agreement with the filter on the covariance itself, and displacement by outliers."""

    def rule(f: int) -> Estimate:
        return estimate(CovarianceFilter(CAFConfig(f=f)))

    rows = gaussian(N, D, "breakdown")
    return {
        "largest distance from the filter on the covariance": _off(rule, _filter),
        "displacement by 3 of 11 rows at 1e6": moved(rule(3), rows, 3),
        "displacement by 6 of 11 rows at 1e6, f = 3": moved(rule(3), rows, 6),
        "displacement of the mean by 1 of 11 rows": moved(_mean, rows, 1),
    }


def _filter(rows: Tensor, f: int) -> Tensor:
    """The filter on the covariance [d, d], with the mean of every iterate."""
    n = len(rows)
    c = torch.ones(n, dtype=torch.float64)
    passed = []
    while float(c.sum()) > n - 2 * f:
        mean = c @ rows / c.sum()
        values, vectors = torch.linalg.eigh(((rows - mean).T * c) @ (rows - mean) / c.sum())
        passed.append((float(values[-1]), mean))
        tau = ((rows - mean) @ vectors[:, -1]).square()
        c = c * (1 - tau / tau[c > 0].max()).clamp(min=0)
    return min(passed, key=lambda pair: pair[0])[1]


def mda() -> dict[str, float]:
    """Agreement with the definition by trying all subsets, displacement by outliers, and the bound by the honest diameter."""

    def rule(f: int) -> Estimate:
        return estimate(MinimumDiameter(MDAConfig(f=f)))

    def diameter(rows: Tensor) -> Tensor:
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").max()

    rows = gaussian(N, D, "breakdown")
    near = rows.clone()
    near[:3] = rows[3]
    off = (rule(3)(near) - rows[3:].mean(0)).norm() / diameter(rows[3:])
    return {
        "largest distance from the definition": _off(rule, lambda rows, f: _least(rows, f, diameter)),
        "displacement by 3 of 11 rows at 1e6": moved(rule(3), rows, 3),
        "displacement by 4 of 11 rows at 1e6, f = 3": moved(rule(3), rows, 4),
        "distance with 3 of 11 rows upon an honest one, over the honest diameter": float(off),
        "displacement of the mean by 1 of 11 rows": moved(_mean, rows, 1),
    }


def smea() -> dict[str, float]:
    """Agreement with the definition by trying all subsets, the worst kappa that a search finds, displacement by outliers."""

    def rule(f: int) -> Estimate:
        return estimate(SmallestEigenvalue(SMEAConfig(f=f)))

    def top(rows: Tensor) -> Tensor:
        largest: Tensor = torch.linalg.svdvals(rows - rows.mean(0))[0]
        return largest

    rows = gaussian(N, D, "breakdown")
    return {
        "largest distance from the definition": _off(rule, lambda rows, f: _least(rows, f, top)),
        "worst kappa found, n = 7, f = 2": worst_ratio(rule(2), 7, 2),
        "worst kappa found for the mean, n = 7, f = 2": worst_ratio(_mean, 7, 2),
        "displacement by 3 of 11 rows at 1e6": moved(rule(3), rows, 3),
        "displacement by 4 of 11 rows at 1e6, f = 3": moved(rule(3), rows, 4),
    }
