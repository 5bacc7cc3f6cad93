"""Loss filter: examples that a model trained on the others does not fit are taken for poison."""

from __future__ import annotations

from typing import final

import torch
from torch.nn import functional as F

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ClientData
from sparring_data_analysis.plugin import LossFilterConfig
from sparring_data_analysis.shown import highest, kept, lab_of, pooled, removed, represented


@final
class LossFilter(Defence[ClientData]):
    r"""Iterative trimmed loss: $S_{t+1}$ = all but the $\lfloor 1.5\,\varepsilon\,N \rfloor$ examples of highest loss.

    $\theta_t$ is trained from fresh weights in the lab for ``epochs`` on $S_t$ ($S_0$: all N shown examples), and losses
    are those of $\theta_t$ on all N; after ``rounds`` of these the last $S$ is what clients keep. $\varepsilon$: the largest
    share of all examples that may be poison; clean data lose as many. Few epochs, so that what is rare is not fitted yet: a
    backdoor, once learnt, has a low loss and is not found.
    A client may be left with no example. Raises `ConfigError` for dense labels.

    Source: Shen and Sanghavi, "Learning with bad training data via iterative trimmed loss minimization", ICML 2019, 1810.11874.
    """

    def __init__(self, config: LossFilterConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """The clients' data without the examples of highest loss."""
        pool, lab = pooled(signal), lab_of(ctx)
        keep = torch.ones(len(pool), dtype=torch.bool)
        for _ in range(self.config.rounds):
            _, outputs = represented(lab.train(pool.take(keep), self.config.epochs), pool.x)
            losses = F.cross_entropy(outputs, pool.y, reduction="none")
            keep = torch.ones_like(keep)
            keep[highest(losses, removed(self.config.eps, len(pool)))] = False
        return kept(signal, keep)
