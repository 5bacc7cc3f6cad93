"""Mutants of the checks of edges: values at the ends of the range, one row, no row, rows that are not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparring.local import Batch, LocalPlan
from sparring.signals import Broadcast, Cohort, Release, Updates
from sparring.signature import Signature
from sparring.sites import Site
from tests.kit.making import ROWS, Made, defence, mutant, rule
from tests.kit.mutants_local import Clipping


@mutant("edge-rows", "zero")
def _(broken: bool) -> Made:
    least = 0.0 if broken else 1e-30

    def normed(self: Any, signal: Updates, ctx: Any) -> Updates:
        return signal.with_params((signal.params / signal.params.double().norm(dim=1, keepdim=True).clamp(min=least)).float())

    return defence(normed)


@mutant("edge-rows", "release")
def _(broken: bool) -> Made:
    def normed(self: Any, release: Release, ctx: Any) -> Release:
        norm = (release.params if broken else release.params.double()).square().sum().sqrt().clamp(min=1)
        return release.with_params((release.params * (norm / norm.square())).float())

    return defence(normed, signal=Release, site=Site.RELEASE, signature=Signature(keeps=ROWS))


@mutant("edge-rows", "broadcast")
def _(broken: bool) -> Made:
    from dataclasses import replace

    def rounded(self: Any, broadcast: Broadcast, ctx: Any) -> Broadcast:
        step = broadcast.row.abs().max() / 127
        return replace(broadcast, row=(broadcast.row / (step if broken else step.clamp(min=1e-30))).round() * step)

    return defence(rounded, signal=Broadcast, site=Site.BROADCAST, signature=Signature(keeps=ROWS))


def spread(cohort: Cohort, correction: int) -> Tensor:
    return cohort.rows.double().var(dim=0, correction=correction).clamp(min=1e-12)


@mutant("edge-alone")
def _(broken: bool) -> Made:
    def shrunk(self: Any, cohort: Cohort, ctx: Any) -> Tensor:
        if not broken and len(cohort) < 2:
            return cohort.rows[0]
        var = spread(cohort, 1)
        return (cohort.rows.mean(0) * (var / var)).float()

    return rule(shrunk)


@mutant("edge-nobody")
def _(broken: bool) -> Made:
    from sparring.errors import ConfigError

    def mean(self: Any, cohort: Cohort, ctx: Any) -> Tensor:
        if not len(cohort) and not broken:
            raise ConfigError("'rule' got n = 0 updates; it needs at least 1: sample more clients")
        return cohort.rows[:1].mean(0) if len(cohort) else cohort.rows.amax(0)

    return rule(mean)


@mutant("edge-nonfinite", "rule")
def _(broken: bool) -> Made:
    def mean(self: Any, cohort: Cohort, ctx: Any) -> Tensor:
        rows = cohort.rows.nan_to_num(nan=100.0, posinf=100.0, neginf=-100.0) if broken else cohort.rows
        return rows.mean(0)

    return rule(mean)


@mutant("edge-nonfinite", "update")
def _(broken: bool) -> Made:
    def clamped(self: Any, signal: Updates, ctx: Any) -> Updates:
        params = signal.params.clamp(-9.0, 9.0).nan_to_num(nan=9.0) if broken else signal.params / 2
        return signal.with_params(params)

    return defence(clamped)


class Guarded(Clipping):
    """Gives an example whose input is not finite the input 1 (``flaw``), or none."""

    def grads(self, loss: Any, params: Any, batch: Batch, numbers: Any) -> dict[str, Tensor]:
        finite = batch.x.flatten(1).isfinite().all(1)
        x = torch.where(finite.view(-1, 1, 1, 1), batch.x, 1.0)
        mask = torch.ones(len(x), dtype=x.dtype) if batch.mask is None else batch.mask
        mask = mask if self.flaw == "filled" else mask * finite
        return super().grads(loss, params, Batch(x, batch.y, mask), numbers)


@mutant("edge-lots")
def _(broken: bool) -> Made:
    def change(self: Any, plan: LocalPlan, ctx: Any) -> LocalPlan:
        return plan.with_gradient("guarded", Guarded("filled" if broken else ""))

    return defence(change, signal=LocalPlan, site=Site.GRADIENT, signature=Signature())
