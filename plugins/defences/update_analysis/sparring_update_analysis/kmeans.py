"""k-means and the gap statistic for few points on the CPU, many samples at once."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 100
"""Most steps; few points settle in far fewer."""


def kmeans(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    r"""Labels [B, n] and inertia [B], $\sum_i \lVert x_i - c_{l(i)} \rVert^2$, of k clusters in each of B samples x [B, n, q].

    Lloyd's steps from farthest-first centres: the point farthest from the mean, then each time the one farthest from the
    centres so far. No randomness; among equals the first counts. A cluster without points keeps its centre.
    """
    far = (x - x.mean(dim=1, keepdim=True)).square().sum(2).argmax(1)
    picked = [_pick(x, far)]
    for _ in range(k - 1):
        picked.append(_pick(x, _squared(x, torch.cat(picked, dim=1)).amin(2).argmax(1)))
    centres = torch.cat(picked, dim=1)
    labels, before = _squared(x, centres).argmin(2), None
    for _ in range(STEPS):
        if before is not None and torch.equal(labels, before):
            break
        own = torch.nn.functional.one_hot(labels, k).to(x)
        sizes = own.sum(1)[:, :, None]
        centres = torch.where(sizes > 0, own.transpose(1, 2) @ x / sizes.clamp(min=1), centres)
        labels, before = _squared(x, centres).argmin(2), labels
    least = _squared(x, centres).min(2)
    return least.indices, least.values.sum(1)


def gap_statistic(x: Tensor, most: int, references: int, generator: torch.Generator) -> int:
    r"""The number of clusters in x [n, q]: the least k with $Gap(k) \ge Gap(k+1) - s_{k+1}$, at most ``most`` and n - 1.

    $$Gap(k) = \tfrac 1B \sum_b \log W_{kb} - \log W_k, \qquad s_k = \mathrm{sd}_b(\log W_{kb}) \sqrt{1 + 1/B}$$

    W_k is the inertia of x, each column scaled to [0, 1], and W_kb that of B = ``references`` uniform samples of n points. 1
    for fewer than three points and for equal ones. Source: Tibshirani, Walther and Hastie, JRSS B 63, 2001.
    """
    n = len(x)
    if n < 3:
        return 1
    low, high = x.amin(0), x.amax(0)
    scaled = (x - low) / torch.where(high > low, high - low, 1.0)
    uniform = torch.rand(references, *x.shape, generator=generator, dtype=torch.float64).to(x.dtype)
    samples = torch.cat([scaled[None], uniform])

    def gap(k: int) -> tuple[float, float]:
        logs = kmeans(samples, k)[1].clamp(min=torch.finfo(x.dtype).tiny).log()
        spread = logs[1:].std(correction=0) * (1 + 1 / references) ** 0.5
        return float(logs[1:].mean() - logs[0]), float(spread)

    here = gap(1)
    for k in range(1, min(most, n - 1)):
        after = gap(k + 1)
        if here[0] >= after[0] - after[1]:
            return k
        here = after
    return min(most, n - 1)


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """The points [B, 1, q] at ``index`` [B]."""
    return x.gather(1, index[:, None, None].expand(-1, 1, x.shape[2]))


def _squared(x: Tensor, centres: Tensor) -> Tensor:
    """Squared distances [B, n, k]."""
    return (x[:, :, None] - centres[:, None]).square().sum(3)
