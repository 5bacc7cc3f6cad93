"""Centred clipping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from sparring.context import Round
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator, Stateful
from sparring.signals import Cohort, Release
from sparring_aggregation.declared import CentredClippingConfig
from sparring_aggregation.gram import about, squares, squares_about
from sparring_aggregation.scores import nothing


@final
class CentredClipping(Aggregator, Stateful):
    r"""L steps of $v \leftarrow v + \frac1n \sum_i (x_i - v) \min(1, \tau / \lVert x_i - v \rVert)$, from the last round's v.

    In the first round v = 0. Over L steps, f clients move the release by at most $2 \tau L f / n$, whatever they send. One step
    needs norms alone; more run on coefficients of the rows, in Gram space about v. Mixed rows are never formed. Acts on all
    columns, buffers too, so that tau is a distance between whole rows. Weights are not respected: a row counts as one client. A
    round without rows gives a zero release of total weight 0 and leaves v.

    Source: Karimireddy, He and Jaggi, "Learning from history for Byzantine robust optimization", ICML 2021, 2012.10333.
    """

    def __init__(self, config: CentredClippingConfig) -> None:
        self.config = config
        self.v: Tensor | None = None

    def state(self) -> Mapping[str, Any]:
        """The last release, once there is one."""
        return {} if self.v is None else {"v": self.v.clone()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self.v = state.get("v")

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The centre [d] after L steps; its total is n."""
        del ctx
        n, tau, steps = len(cohort), self.config.tau, self.config.steps
        if n == 0:
            return nothing(cohort)
        v = None if self.v is None else self.v.to(cohort.base)
        if steps == 1:
            a = pulls(squares_about(cohort, v), tau)
        else:
            gram = about(cohort, v)
            a = torch.zeros(n, dtype=torch.float64, device=gram.device)
            for _ in range(steps):
                k = pulls(squares(gram, a), tau)
                a = a * (1 - k.sum()) + k
        vector = cohort.combine(a)
        if v is not None:
            vector.addcmul_(v, (1 - a.sum()).to(v))
        self.v = vector
        return Release(vector, cohort.layout, float(n), n)


def pulls(squares: Tensor, tau: float) -> Tensor:
    r"""$\frac1n \min(1, \tau / \lVert x_i - v \rVert)$ [n] from ``squares`` of the distances [n]."""
    return (tau / squares.sqrt()).clamp(max=1) / len(squares)
