"""Mean shift with a flat kernel, on a handful of features."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 300
STILL = 1e-3
"""Largest move over the bandwidth at which a centre counts as still."""


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Distances [m, n] between points, exactly 0 between equal ones."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def bandwidth(points: Tensor, quantile: float = 0.5) -> Tensor:
    """Mean over the points [n, k] of the distance to the ``quantile`` n-th nearest, itself counted."""
    nearest = max(1, int(len(points) * quantile))
    return apart(points, points).sort(dim=1).values[:, nearest - 1].mean()


def mean_shift(points: Tensor) -> Tensor:
    """Labels [n] of clusters of ``points`` [n, k]: centres climb from each point to the mean of those within a bandwidth.

    Of centres within a bandwidth of one another the one with the most points stays, of equal ones the earlier; a point belongs
    to the nearest centre that stayed. The bandwidth is `bandwidth`'s; at 0, equal points form clusters.
    Source: Comaniciu and Meer: Mean Shift, IEEE TPAMI 24(5), 2002.
    """
    width, centres = bandwidth(points), points
    for _ in range(ROUNDS):
        near = (apart(centres, points) <= width).to(points.dtype)
        near = torch.maximum(near, torch.eye(len(points), dtype=points.dtype) * (near.sum(dim=1) == 0)[:, None])
        moved = near @ points / near.sum(dim=1, keepdim=True)
        still = bool((moved - centres).norm(dim=1).max() <= STILL * width)
        centres = moved
        if still:
            break
    crowd = (apart(centres, points) <= width).sum(dim=1)
    close = apart(centres, centres) <= width
    stays: list[int] = []
    for k in crowd.argsort(descending=True, stable=True).tolist():
        if not any(bool(close[k, other]) for other in stays):
            stays.append(k)
    return apart(points, centres[stays]).argmin(dim=1)
