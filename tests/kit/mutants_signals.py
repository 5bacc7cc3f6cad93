"""Mutants of the checks of rows: updates, mechanisms, pairs, aggregation rules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparring.claims import Formal, GaussianEvent
from sparring.errors import RoundAborted
from sparring.facts import Clipped, Identified, Space, Summable, Weighted
from sparring.layout import Layout
from sparring.layout import Space as RowSpace
from sparring.roles import (
    Defence,
    StreamingAggregator,
)
from sparring.signals import Cohort, Release, Updates
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import (
    AggregatorSpec,
    DefenceSpec,
    Empty,
    Layer,
)
from tests.kit.making import ROWS, Bounded, Made, defence, instance_of, mutant, rule

# Updates


@mutant("row-independence")
def _(broken: bool) -> Made:
    return defence(lambda self, s, ctx: s.with_params(s.params - s.params.mean(dim=0 if broken else 1, keepdim=True)))


def clip(self: Any, signal: Updates, ctx: Any) -> Updates:
    norms = signal.params.double().norm(dim=1, keepdim=True)
    return signal.with_params((signal.params.double() * (0.999999 / norms.clamp(min=0.999999))).to(signal.rows))


@mutant("clipped-given")
def _(broken: bool) -> Made:
    def careless(self: Any, signal: Updates, ctx: Any) -> Updates:
        norms = signal.params.norm(dim=1, keepdim=True)  # overflows in float32: factor 0/inf, entries of 3e38 go missing
        return signal.with_params(torch.where(norms.isinf(), signal.params, signal.params / norms.clamp(min=1)))

    gives = Signature(gives=(Clipped("l2", "client", bound=1.0),), keeps=ROWS)
    return defence(careless if broken else clip, signature=gives)


@mutant("clipped-kept")
def _(broken: bool) -> Made:
    keeps = Signature(keeps=(*ROWS, Clipped("l2", "client") if broken else Clipped("linf", "client")))
    return defence(lambda self, s, ctx: s.with_params(s.params.sign() * s.params.abs().amax(1, keepdim=True)), signature=keeps)


@mutant("space-as-declared")
def _(broken: bool) -> Made:
    return defence(lambda self, s, ctx: replace(s, rows=(s.rows * 1e6).long() if broken else (s.rows * 1e6).round() / 1e6))


@mutant("identity-kept")
def _(broken: bool) -> Made:
    return defence(lambda self, s, ctx: replace(s, weights=torch.ones_like(s.weights)) if broken else s)


# Mechanisms and pairs

NOISE = Signature(needs=(Clipped("l2", "client"),), keeps=ROWS, claims=(Formal("Gaussian", "client"),))


def gaussian(scale: float, emits: bool = True) -> DefenceSpec[Any]:
    """The Gaussian mechanism of multiplier 2 whose noise is ``scale`` times what it should be."""

    def transform(self: Any, signal: Updates, ctx: Any) -> Updates:
        bound = next(f.bound for f in ctx.facts if isinstance(f, Clipped) and f.bound is not None)
        noise = torch.stack([torch.randn(signal.params.shape[1], generator=ctx.generator(i)) for i in signal.ids])
        if emits:
            ctx.emit(GaussianEvent(2.0, "client"), signal.ids)
        return signal.with_params(signal.params + 2.0 * bound * scale * noise)

    return defence(transform, signature=NOISE)


@mutant("events-emitted")
def _(broken: bool) -> Made:
    return gaussian(1.0, emits=not broken)


@mutant("noise-as-emitted")
def _(broken: bool) -> Made:
    return gaussian(0.9 if broken else 1.0)


MODULUS = 1 << 40


def pair(correct: bool, pads: bool = True) -> DefenceSpec[Any]:
    """A sum of fixed-point rows under one-time pads; ``correct``: it divides by the sum of weights; ``pads``: there are any."""

    def seal(self: Any, signal: Updates, ctx: Any) -> Updates:
        assert signal.weights is not None
        values = torch.cat([signal.rows * signal.weights[:, None], signal.weights[:, None]], 1).double()
        plain = (values * 2**16).round().long()
        raw = torch.frombuffer(bytearray(ctx.secure(plain.numel() * 8)), dtype=torch.int64).view_as(plain)
        mask = raw & (MODULUS - 1) if pads else torch.zeros_like(plain)
        arrived = ctx.wire.up("rows", dict.fromkeys(signal.ids, 8))
        if not arrived:
            raise RoundAborted("pair", 0, 1)
        layout = signal.layout.extended([("weight-sum", (1,))], RowSpace("sealed", MODULUS))
        sealed = Updates((plain + mask) % MODULUS, layout, signal.ids)
        ctx.wire.post("pads", replace(sealed, rows=mask).select(arrived).rows.sum(0))
        return sealed.select(arrived)

    def open_(self: Any, signal: Release, ctx: Any) -> Release:
        (mask,) = ctx.wire.collect("pads")
        total = (signal.vector - mask + MODULUS // 2) % MODULUS - MODULUS // 2
        weight = float(total[-1]) / 2**16
        layout = replace(signal.layout, segments=signal.layout.segments[:-1], space=RowSpace("real"))
        mean = total[:-1].double() / 2**16 / (weight if correct else signal.clients)
        return replace(signal, vector=mean.float(), layout=layout, total=weight)

    first = Layer(
        site=Site.UPDATE,
        build=instance_of(Defence, Updates, "defence_transform", seal),
        signature=Signature(gives=(Space("sealed", MODULUS),), keeps=(Summable(), Weighted(), Identified())),
        wire=True,
    )
    second = Layer(
        site=Site.OPEN,
        build=instance_of(Defence, Release, "defence_transform", open_),
        signature=Signature(gives=(Space("real"),), keeps=(Summable(), Weighted(), Identified())),
    )
    return DefenceSpec(api=1, name="pair", config=Empty, summary="a pair", layers=(first, second), paired=True)


@mutant("pair-round-trip")
def _(broken: bool) -> Made:
    return pair(correct=not broken)


@mutant("pair-bounds")
def _(broken: bool) -> Made:
    spec = pair(correct=not broken)
    layers = []
    for layer in spec.layers:
        signature = layer.facts(Empty())
        layers.append(replace(layer, signature=replace(signature, keeps=(*ROWS[:3], Clipped("l2", "client")))))
    return replace(spec, layers=tuple(layers))


@mutant("sealed-rows-hide")
def _(broken: bool) -> Made:
    return pair(correct=True, pads=not broken)


# Aggregation


def middle(self: Any, cohort: Cohort, ctx: Any) -> Tensor:
    return cohort.rows.median(dim=0).values if len(cohort) % 2 else cohort.rows.sort(dim=0).values[len(cohort) // 2]


@mutant("permutation-invariance")
def _(broken: bool) -> Made:
    return rule(lambda self, cohort, ctx: cohort.rows[0] if broken else cohort.rows.mean(0))


@mutant("identical-rows")
def _(broken: bool) -> Made:
    return rule(lambda self, cohort, ctx: cohort.rows.sum(0) / (1 if broken else len(cohort)))


@mutant("edge-rows")
def _(broken: bool) -> Made:
    def aggregate(self: Any, cohort: Cohort, ctx: Any) -> Tensor:
        norms = (cohort.rows if broken else cohort.rows.double()).square().sum(1).sqrt()
        inverse = 1 / norms.clamp(min=1e-12)
        return (
            (cohort.rows.to(norms) * (inverse / inverse.sum() if not broken else norms / norms.sum())[:, None]).sum(0).float()
        )

    return rule(aggregate)


@mutant("single-client")
def _(broken: bool) -> Made:
    return rule(lambda self, cohort, ctx: cohort.rows.sum(0) / (len(cohort) - broken))


@mutant("lazy-cohort")
def _(broken: bool) -> Made:
    return rule(lambda self, cohort, ctx: (cohort.base if broken else cohort.rows).mean(0))


@dataclass
class Total:
    vector: Tensor
    count: int
    layout: Layout


@mutant("streaming-tree")
def _(broken: bool) -> Made:
    class Streaming(StreamingAggregator[Total]):
        def init(self, updates: Updates) -> Total:
            return Total(torch.zeros_like(updates.rows[0]), 0, updates.layout)

        def add(self, accumulator: Total, updates: Updates) -> Total:
            total = Total(accumulator.vector.clone(), accumulator.count, accumulator.layout)
            total.vector += updates.rows.sum(0)
            total.count += len(updates.ids)
            return total

        def merge(self, left: Total, right: Total) -> Total:
            if broken:
                left.vector += right.vector
                left.count += right.count
                return left
            return Total(left.vector + right.vector, left.count + right.count, left.layout)

        def finish(self, accumulator: Total, ctx: Any) -> Release:
            return Release(accumulator.vector / max(accumulator.count, 1), accumulator.layout)

    signature = Signature(keeps=ALL)
    return AggregatorSpec(api=1, name="rule", config=Empty, summary="a rule", build=lambda c: Streaming(), signature=signature)


@mutant("outliers-resisted")
def _(broken: bool) -> Made:
    return rule(lambda self, cohort, ctx: cohort.rows.mean(0) if broken else middle(self, cohort, ctx), Bounded)


@mutant("translation-equivariance")
def _(broken: bool) -> Made:
    return rule(
        lambda self, cohort, ctx: middle(self, cohort, ctx).clamp(-1, 1) if broken else middle(self, cohort, ctx), Bounded
    )
