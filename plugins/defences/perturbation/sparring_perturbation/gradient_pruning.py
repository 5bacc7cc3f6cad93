"""Gradient pruning: coordinates of small magnitude are sent as zeros."""

from __future__ import annotations

from typing import final

from torch import Tensor

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Updates
from sparring_perturbation.plugin import GradientPruningConfig
from sparring_perturbation.rows import blocks, spans


def largest(rows: Tensor, k: int) -> Tensor:
    """Which k of each row's numbers [n, d] are largest in magnitude, as a mask [n, d]; of equals, those that stand first."""
    magnitude = rows.abs()
    threshold = magnitude.kthvalue(magnitude.shape[1] - k + 1, dim=1, keepdim=True).values
    above, tied = magnitude > threshold, magnitude == threshold
    return above | (tied & (tied.cumsum(1) <= k - above.sum(1, keepdim=True)))


@final
class GradientPruning(Defence[Updates]):
    r"""Keeps the share 1 - p of each row's parameter columns that is largest in magnitude, and zeros the rest.

    $$\Delta_{ij} \leftarrow \Delta_{ij} \, [\, |\Delta_{ij}| \text{ is among the } k \text{ largest of } |\Delta_i| \,], \qquad
      k = \max(1, \mathrm{round}((1 - p) d))$$

    p: ``fraction``; d: the number of parameters of the row, or of each tensor where ``per`` is ``tensor``. Exactly k stay,
    equals in their order; k = d changes nothing. A row that is not finite goes on as it is, for the engine to stop at.
    Buffers and extras are not pruned. No norm of a row grows. Nothing is remembered: what is pruned is lost (no error
    feedback).

    An attack that knows of it matches gradients on the coordinates that are not zero; what these give away, pruning does not
    hide. Sources: Zhu, Liu, Han, NeurIPS 2019, 1906.08935; Huang, Gupta, Song, Li, Arora, NeurIPS 2021,
    2112.00059.
    """

    def __init__(self, config: GradientPruningConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        """The updates with pruned parameter columns."""
        del ctx
        pruned = signal.params.clone()
        for columns in spans(signal.layout, self.config.per):
            d = columns.stop - columns.start
            k = max(1, round((1 - self.config.fraction) * d))
            for rows in blocks(len(pruned), d) if k < d else ():
                part = pruned[rows, columns]
                kept = largest(part, k) | ~part.isfinite().all(dim=1, keepdim=True)
                part.masked_fill_(~kept, 0)
        return signal.with_params(pruned)
