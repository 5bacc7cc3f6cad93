"""Divide and conquer: outliers along the direction in which the rows differ most."""

from __future__ import annotations

from math import ceil
from typing import final

import torch
from torch import Tensor

from sparring.context import Context
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Cohort
from sparring_update_analysis.configs import DnCConfig
from sparring_update_analysis.judging import by_client, columns, judged, lengths, parameters


def scores(gram: Tensor) -> Tensor:
    r"""$\langle \Delta_i - \mu, v \rangle^2$ [n] from the Gram matrix [n, n] of centred rows; $v$: top right singular vector.

    With $X = U S V^T$ it is $S_1^2 U_{i1}^2$, and $U$, $S^2$ are the eigenvectors and eigenvalues of $X X^T$.
    """
    values, vectors = torch.linalg.eigh(gram)
    found: Tensor = values[-1].clamp(min=0) * vectors[:, -1].square()
    return found


@final
class DivideAndConquer(Defence[Cohort]):
    r"""Leaves out the c m rows with the largest projections on the top singular vector of random columns.

    In each iteration: b random columns; $\mu$ the mean of the n rows there, $v$ the top right singular vector of $\Delta -
    \mu$, scores $s_i = \langle \Delta_i - \mu, v \rangle^2$; the $\lceil c m \rceil$ highest are out. Rows that no iteration
    left out stay, with the weights that they had (the paper averages them without weights). Columns are drawn among the
    parameters from the layer's stream. Suspicion is the mean over the iterations of $s_i / \sum_j s_j$. Of equal scores the
    larger ids are out. n = 0: no rows. Raises `ConfigError` unless c m < n, `NumericalError` for a row that is not finite.

    Source: Shejwalkar and Houmansadr: Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated
    Learning, NDSS 2021, algorithm 2.
    """

    def __init__(self, config: DnCConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The rows that every iteration kept."""
        n, out = len(signal), ceil(self.config.c * self.config.f)
        if n == 0:
            return signal
        if out >= n:
            raise ConfigError(
                f"'{ctx.layer}' with c = {self.config.c:g} and f = {self.config.f} leaves {out} rows out, and got n = {n}; "
                "it needs c f < n: lower f or c, or sample more clients"
            )
        seen = parameters(signal)
        lengths(seen, ctx.layer)
        generator, order, device = ctx.generator(), by_client(signal), signal.base.device
        suspicion = torch.zeros(n, dtype=torch.float64, device=device)
        flagged = torch.zeros(n, dtype=torch.bool, device=device)
        p = signal.layout.parameters
        for _ in range(self.config.iterations):
            drawn = torch.randperm(p, generator=generator)[: self.config.coordinates]
            s = torch.empty_like(suspicion)
            s[order] = scores(_centred(seen, drawn)[order][:, order])
            total = s.sum()
            suspicion += torch.where(total > 0, s / total, 0.0) / self.config.iterations
            flagged[order[s[order].argsort(stable=True)[n - out :]]] = True
        return judged(signal, ctx.layer, suspicion, flagged)


def _centred(cohort: Cohort, drawn: Tensor) -> Tensor:
    """Gram matrix [n, n] of the rows minus their mean, over the columns ``drawn``."""
    n = len(cohort)
    gram = torch.zeros(n, n, dtype=torch.float64, device=cohort.base.device)
    for block in columns(cohort, drawn):
        x = block - block.mean(dim=0)
        gram += x @ x.T
    return gram
