"""Mutants of the checks on a device: they are told apart only where there is one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparring.local import Batch, LocalPlan
from sparring.signals import Cohort, Updates
from sparring.signature import Signature
from sparring.sites import Site
from tests.kit.making import Made, defence, mutant, rule
from tests.kit.mutants_local import Clipping

ON_DEVICE = {"devices-agree", "waits-bounded", "gradient-never-waits", "memory-proportional"}


@mutant("devices-agree")
def _(broken: bool) -> Made:
    return defence(lambda self, s, ctx: s.with_params(s.params.double().cpu().float() / 2 if broken else s.params / 2))


@mutant("waits-bounded")
def _(broken: bool) -> Made:
    def normed(self: Any, signal: Updates, ctx: Any) -> Updates:
        norms = signal.params.norm(dim=1)
        if broken:
            norms = torch.stack([signal.params.new_tensor(float(norm)) for norm in norms])
        return signal.with_params(signal.params / norms.clamp(min=1)[:, None])

    return defence(normed)


class Waiting(Clipping):
    def grads(self, loss: Any, params: Any, batch: Batch, numbers: Any) -> dict[str, Tensor]:
        made = super().grads(loss, params, batch, numbers)
        if self.flaw == "waits" and not bool(torch.stack([g.isfinite().all() for g in made.values()]).all()):
            return {name: torch.zeros_like(g) for name, g in made.items()}
        return made


@mutant("gradient-never-waits")
def _(broken: bool) -> Made:
    def change(self: Any, plan: LocalPlan, ctx: Any) -> LocalPlan:
        return plan.with_gradient("waiting", Waiting("waits" if broken else ""))

    return defence(change, signal=LocalPlan, site=Site.GRADIENT, signature=Signature())


@mutant("memory-proportional")
def _(broken: bool) -> Made:
    def mean(self: Any, cohort: Cohort, ctx: Any) -> Tensor:
        rows = cohort.rows.double().float() if broken else cohort.rows
        return rows.mean(0)

    return rule(mean)
