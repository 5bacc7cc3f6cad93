"""Two clusters of clients from distances between their rows."""

from __future__ import annotations

from typing import Literal

import torch
from scipy.cluster.hierarchy import linkage, to_tree
from scipy.spatial.distance import squareform
from torch import Tensor


def halves(distances: Tensor, order: Tensor, method: Literal["single", "average"]) -> Tensor:
    """Which rows [n] are in the second of the two clusters that agglomerative linkage of ``distances`` [n, n] joins last.

    ``order``: the rows in the order in which ties are broken. n = 1: no row is.
    """
    n = len(distances)
    second = torch.zeros(n, dtype=torch.bool)
    if n > 1:
        held = distances[order][:, order].cpu()
        held = ((held + held.T) / 2).fill_diagonal_(0)
        root = to_tree(linkage(squareform(held.numpy(), checks=False), method=method))
        second[order.cpu()[root.right.pre_order()]] = True
    return second.to(distances.device)


def minority(second: Tensor) -> Tensor:
    """Which rows [n] are in the smaller of two clusters; none where both are equal: then there is no majority."""
    size = second.sum()
    rest = len(second) - size
    return torch.where(size < rest, second, ~second) & (size != rest)


def remoteness(distances: Tensor, kept: Tensor) -> Tensor:
    """Mean distance [n] of each row from the ``kept`` rows other than itself; 0 where there are none."""
    others = kept.sum() - kept.to(distances.dtype)
    return distances.fill_diagonal_(0) @ kept.to(distances.dtype) / others.clamp(min=1)
