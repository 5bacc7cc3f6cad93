"""How like two inputs are, and which belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.signals import Column


def psnr(x: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of inputs in [0, 1]: -10 log10 MSE; 100 dB where they are equal to 1e-10."""
    mse = float((x.double() - reference.double()).square().mean())
    return -10 * math.log10(max(1e-10, mse)) if math.isfinite(mse) else math.nan


def _ssim(x: Tensor, reference: Tensor) -> float:
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    return float(ssim(x[None].float(), reference[None].float(), data_range=1.0))  # type: ignore[arg-type]


def assigned(found: Tensor, truth: Tensor) -> list[tuple[int, int]]:
    """The pairing of reconstructions with originals of least total squared error (Hungarian)."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(found.flatten(1).double(), truth.flatten(1).double()).square()
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(cost.numpy()), strict=True)]


def recovered(found: Tensor, truth: Tensor) -> float:
    """The share of labels [B] that are found, as a multiset."""
    classes = torch.cat([found.cpu().flatten(), truth.cpu().flatten()]).unique()
    both = [((found.cpu() == c).sum(), (truth.cpu() == c).sum()) for c in classes]
    return float(sum(min(int(a), int(b)) for a, b in both)) / truth.numel()


def nearest_code(x: Tensor, column: Column) -> Tensor:
    """Which code [m] of a category is nearest to that of the records ``x`` [m, F]."""
    codes = torch.tensor(column.codes, dtype=torch.float64, device=x.device)
    return torch.cdist(x[:, column.at : column.at + column.width].double(), codes).argmin(1)


def agreement(x: Tensor, reference: Tensor, columns: Sequence[Column]) -> dict[str, float]:
    """The shares of features of a record [F] that another, ``x`` [F], tells: of all, of categories and of numbers."""
    categories, numbers = [c for c in columns if c.codes], [c for c in columns if not c.codes]
    hits = {
        "categories": [bool(nearest_code(x[None], c) == nearest_code(reference[None], c)) for c in categories],
        "numbers": [abs(float(x[c.at]) - float(reference[c.at])) <= c.close for c in numbers],
    }
    hits["columns"] = hits["categories"] + hits["numbers"]
    return {name: sum(found) / len(found) for name, found in hits.items() if found}


def voted(x: Tensor, known: Tensor, labels: Tensor, k: int = 5) -> Tensor:
    """The labels [m] that the ``k`` nearest of the ``known`` inputs give to ``x`` [m, ...]; the nearest decides a tie."""
    near = torch.cdist(x.flatten(1), known.flatten(1)).topk(min(k, len(known)), largest=False).indices
    # The bonuses of all ranks but the first sum to less than the first's, and together they make less than a vote.
    bonus = 0.5 ** torch.arange(2, near.shape[1] + 2, dtype=torch.float64, device=x.device)
    votes = torch.zeros(len(x), int(labels.max()) + 1, dtype=torch.float64, device=x.device)
    return votes.scatter_add_(1, labels[near], (1 + bonus).expand(near.shape)).argmax(1)


def likeness(x: Tensor, reference: Tensor, mean: Tensor | None = None, decoys: Tensor | None = None) -> dict[str, float]:
    """How like an original a reconstruction is, and what is like it without one."""
    found = {
        "psnr": psnr(x, reference),
        "mse": float((x - reference).square().mean()),
        "grey": psnr(torch.full_like(reference, 0.5), reference),
    }
    if mean is not None:
        found["mean"] = psnr(mean, reference)
    if reference.dim() == 3 and min(reference.shape[-2:]) >= 11:
        found["ssim"] = _ssim(x, reference)
    if decoys is not None and len(decoys):
        own, others = torch.dist(x, reference), torch.cdist(x.flatten()[None], decoys.cpu().flatten(1))
        found["retrieval"] = float(bool((own < others).all()))
    return found
