"""Order statistics of weighted values: which part of its weight each ranked value keeps."""

from __future__ import annotations

from torch import Tensor

SLACK = 1e-12
"""Shares of the weight below this are rounding errors of sums: equal weights give what no weights give, to the bit."""


def middle(shares: Tensor) -> Tensor:
    """Coefficients [c, n] of the weighted median of values with ``shares`` [c, n] of the weight, ranked, adding up to 1.

    The mean of the lower weighted median, the first value up to which at least half of the weight lies, and of the upper one,
    the first up to which more than half lies. With equal weights: the middle value, or the mean of the two.
    """
    upto = shares.cumsum(dim=1)
    before = upto - shares
    lower = (before < 0.5 - SLACK) & (upto >= 0.5 - SLACK)
    upper = (before <= 0.5 + SLACK) & (upto > 0.5 + SLACK)
    return (lower.to(shares) + upper.to(shares)) / 2


def trimmed(shares: Tensor, cut: float) -> Tensor:
    """Coefficients [c, n] of the mean without a share ``cut`` of the weight at each end; a value at the cut keeps the rest."""
    upto = shares.cumsum(dim=1)
    kept = upto.clamp(max=1 - cut) - (upto - shares).clamp(min=cut)
    return kept.masked_fill(kept < SLACK, 0)
