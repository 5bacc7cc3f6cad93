"""Mutants of the checks of declared facts: bounds, weights, identities, spaces, examples, and what may be given at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparring.facts import Clipped, Fact, Knows, PerExample, PoissonSampled, PublicData, Readable, Sensitivity, Space, Weighted
from sparring.local import Batch, LocalContext, LocalPlan
from sparring.signals import Broadcast, Cohort, ModelPlan, Release, Updates
from sparring.signature import ALL, Map, Signature
from sparring.sites import Site
from tests.kit.making import ROWS, Made, defence, idle, mutant, rule
from tests.kit.mutants_local import Clipping
from tests.kit.mutants_sources import dataset, drawn


def mean(self: Any, cohort: Cohort, ctx: Any) -> Tensor:
    weights = torch.ones(len(cohort)) if cohort.weights is None else cohort.weights
    return weights.to(cohort.rows) @ cohort.rows / weights.sum()


def doubling(factor: float) -> Map:
    """Clipped becomes a sensitivity of ``factor`` times its bound."""

    def carry(fact: Fact) -> Fact:
        assert isinstance(fact, Clipped)
        return Sensitivity("client", None if fact.bound is None else factor * fact.bound)

    return Map(Clipped("l2", "client"), Sensitivity("client"), carry)


@mutant("sensitivity-bounded", "rule")
def _(broken: bool) -> Made:
    return replace(rule(mean), signature=Signature(maps=(doubling(1.0 if broken else 2.0),)))


@mutant("sensitivity-bounded", "kept")
def _(broken: bool) -> Made:
    signature = Signature(keeps=(Sensitivity(),))
    return defence(
        lambda self, r, ctx: r.with_params((2.0 if broken else 0.5) * r.params),
        signal=Release, site=Site.RELEASE, signature=signature,
    )  # fmt: skip


@mutant("sensitivity-bounded", "given")
def _(broken: bool) -> Made:
    def clipped(self: Any, release: Release, ctx: Any) -> Release:
        norm = release.params.double().norm().clamp(min=1.0)
        return release.with_params((release.params.double() / norm).to(release.vector))

    signature = Signature(gives=(Sensitivity("client", bound=1.0 if broken else 2.0),))
    return defence(clipped, signal=Release, site=Site.RELEASE, signature=signature)


@mutant("clipped-kept", "mapped")
def _(broken: bool) -> Made:
    def carry(fact: Fact) -> Fact:
        assert isinstance(fact, Clipped)
        bound = None if fact.bound is None else (1.0 if broken else 3.0) * fact.bound
        return Clipped("l2", "client", bound=bound)

    maps = (Map(Clipped("l2", "client"), Clipped("l2", "client"), carry),)
    return defence(lambda self, s, ctx: s.with_params(3 * s.params), signature=Signature(keeps=ROWS, maps=maps))


def cohort_layer(transform: Callable[[Any, Cohort, Any], Cohort], signature: Signature) -> Made:
    return defence(transform, signal=Cohort, site=Site.COHORT, signature=signature)


@mutant("clipped-given", "cohort")
def _(broken: bool) -> Made:
    def scaled(self: Any, cohort: Cohort, ctx: Any) -> Cohort:
        norms = cohort.rows.double().norm(dim=1, keepdim=True)
        rows = cohort.rows.double() / (norms if broken else norms.clamp(min=1.0)) * (1.01 if broken else 0.9999)
        return replace(cohort, base=rows.nan_to_num().to(cohort.base), mix=None)

    return cohort_layer(scaled, Signature(gives=(Clipped("l2", "client", bound=1.0),), keeps=ROWS))


@mutant("space-as-declared", "release")
def _(broken: bool) -> Made:
    return defence(
        lambda self, r, ctx: replace(r, vector=r.vector.long() if broken else r.vector.round()),
        signal=Release, site=Site.RELEASE, signature=Signature(keeps=ROWS),
    )  # fmt: skip


@mutant("space-as-declared", "ring")
def _(broken: bool) -> Made:
    def encoded(self: Any, signal: Updates, ctx: Any) -> Updates:
        rows = (signal.rows * 1000).round().long()
        layout = replace(signal.layout, space=replace(signal.layout.space, kind="ring", modulus=1 << 20))
        return replace(signal, rows=rows if broken else rows % (1 << 20), layout=layout)

    return defence(encoded, signature=Signature(gives=(Space("ring", float(1 << 20)),)))


@mutant("summable-kept")
def _(broken: bool) -> Made:
    def cut(self: Any, release: Release, ctx: Any) -> Release:
        layout = replace(release.layout, segments=release.layout.segments[:1])
        return replace(release, vector=release.vector[: layout.size], layout=layout)

    return defence(cut if broken else idle, signal=Release, site=Site.RELEASE, signature=Signature(keeps=ROWS))


@mutant("weighted-kept", "rule")
def _(broken: bool) -> Made:
    def release(self: Any, cohort: Cohort, ctx: Any) -> Tensor:
        return cohort.rows.mean(0) if broken else mean(self, cohort, ctx)

    spec = rule(release)
    inner: Any = spec.build

    def build(config: Any) -> Any:
        made = inner(config)
        plain = made.server_aggregate
        made.server_aggregate = lambda cohort, ctx: replace(plain(cohort, ctx), total=float(cohort.weights.sum()))
        return made

    return replace(spec, build=build, signature=Signature(keeps=(Weighted(),)))


@mutant("weighted-kept", "cohort")
def _(broken: bool) -> Made:
    def kept(self: Any, cohort: Cohort, ctx: Any) -> Cohort:
        weights = cohort.weights if cohort.weights is None or not broken else cohort.weights.flip(0)
        return replace(cohort, weights=weights)

    return cohort_layer(kept, Signature(keeps=ROWS))


@mutant("identified-kept")
def _(broken: bool) -> Made:
    def chosen(self: Any, cohort: Cohort, ctx: Any) -> Cohort:
        assert cohort.ids is not None
        order = cohort.rows.norm(dim=1).argsort()[:-1]
        return replace(cohort.select(order), ids=cohort.ids[:-1]) if broken else cohort.select(order)

    return cohort_layer(chosen, Signature(keeps=ROWS))


@mutant("identified-kept", "excluded")
def _(broken: bool) -> Made:
    def left_out(self: Any, release: Release, ctx: Any) -> Release:
        return replace(release, excluded=(10**6,) if broken else release.excluded)

    return defence(left_out, signal=Release, site=Site.RELEASE, signature=Signature(keeps=ROWS))


@mutant("identity-kept", "attack")
def _(broken: bool) -> Made:
    from tests.kit.making import attack

    return attack(lambda self, s, ctx: replace(s, rows=-s.rows, weights=None if broken else s.weights))


SINGLE = (Readable("server", "update", "client"), Readable("aggregator", "update", "client"))


@mutant("released-rows-hide")
def _(broken: bool) -> Made:
    spec = rule(lambda self, cohort, ctx: cohort.rows[0] if broken else cohort.rows.mean(0))
    return replace(spec, signature=Signature(hides=SINGLE))


@mutant("sealed-rows-hide", "single")
def _(broken: bool) -> Made:
    def drowned(self: Any, signal: Updates, ctx: Any) -> Updates:
        noise = [torch.randn(signal.params.shape[1], generator=ctx.generator(i)) for i in signal.ids]
        return signal.with_params((1.0 if broken else 0.0) * signal.params + torch.stack(noise))

    return defence(drowned, signature=Signature(keeps=ROWS, hides=SINGLE))


def local(site: Site, change: Callable[[LocalPlan], LocalPlan], fact: Fact, gives: bool = False) -> Made:
    signature = Signature(gives=(fact,)) if gives else Signature(keeps=(fact,))
    return defence(lambda self, plan, ctx: change(plan), signal=LocalPlan, site=site, signature=signature)


def mixed(batch: Batch, context: LocalContext) -> Batch:
    order = torch.randperm(len(batch.x), generator=context.generator)
    return replace(batch, x=0.7 * batch.x + 0.3 * batch.x[order])


def dimmed(batch: Batch, context: LocalContext) -> Batch:
    return replace(batch, x=0.7 * batch.x)


@mutant("example-apart", "batch")
def _(broken: bool) -> Made:
    return local(Site.BATCH, lambda plan: plan.with_batch("mix", mixed if broken else dimmed), PerExample())


@mutant("example-apart", "loss")
def _(broken: bool) -> Made:
    def wrap(loss: Any) -> Any:
        def shifted(forward: Any, batch: Batch) -> Tensor:
            losses: Tensor = loss(forward, batch)
            return losses - losses.mean() if broken else 2 * losses

        return shifted

    return local(Site.LOSS, lambda plan: plan.with_loss(wrap), PerExample())


class Normalised(Clipping):
    """Divides the sum of clipped gradients by its norm: each example's share depends on the others."""

    def grads(self, loss: Any, params: Any, batch: Batch, numbers: Any) -> dict[str, Tensor]:
        made = super().grads(loss, params, batch, numbers)
        size = torch.cat([g.reshape(-1) for g in made.values()]).norm()
        return {name: g / size for name, g in made.items()}


@mutant("example-apart", "gradient")
def _(broken: bool) -> Made:
    made = Normalised("") if broken else Clipping("")
    return local(Site.GRADIENT, lambda plan: plan.with_gradient("clipping", made), PerExample())


@mutant("example-clipped")
def _(broken: bool) -> Made:
    made = Clipping("sensitivity" if broken else "")
    given = Clipped("l2", "example", bound=1.0)
    return local(Site.GRADIENT, lambda plan: plan.with_gradient("clipping", made), given, gives=True)


@mutant("poisson-kept", "batch")
def _(broken: bool) -> Made:
    def cut(batch: Batch, context: LocalContext) -> Batch:
        return Batch(batch.x[:4], batch.y[:4])

    change = cut if broken else dimmed
    return local(Site.BATCH, lambda plan: plan.with_batch("cut", change), PoissonSampled("example"))


@mutant("poisson-kept", "sampler")
def _(broken: bool) -> Made:
    from sparring.local import Shuffled

    def change(plan: LocalPlan) -> LocalPlan:
        return plan.with_sampler(Shuffled()) if broken else plan

    return local(Site.SAMPLER, change, PoissonSampled("example"))


@mutant("poisson-kept", "broadcast")
def _(broken: bool) -> Made:
    def refuse(self: Any, broadcast: Broadcast, ctx: Any) -> Broadcast:
        return broadcast.refuse(min(ctx.cohort) if broken else 3)

    return defence(refuse, signal=Broadcast, site=Site.BROADCAST, signature=Signature(keeps=(PoissonSampled(),)))


@mutant("adapted-apart")
def _(broken: bool) -> Made:
    def change(module: nn.Module) -> nn.Module:
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm1d) and not broken:
                setattr(module, name, nn.GroupNorm(2, child.num_features))
        return module

    return defence(
        lambda self, plan, ctx: plan.adapted(change),
        signal=ModelPlan, site=Site.MODEL, signature=Signature(gives=(PerExample(),)),
    )  # fmt: skip


@mutant("granted-by-whom", "knowledge")
def _(broken: bool) -> Made:
    return defence(idle, signature=Signature(gives=(Knows("labels"),) if broken else (), keeps=ROWS))


@mutant("granted-by-whom", "place")
def _(broken: bool) -> Made:
    fact = PerExample() if broken else Clipped("l2", "client", bound=1.0)
    return defence(idle, signature=Signature(gives=(fact,), keeps=ROWS))


@mutant("public-declared")
def _(broken: bool) -> Made:
    made: Any = dataset(drawn)
    given: Made = replace(made, signature=Signature(gives=(PublicData(),) if broken else (), keeps=ALL))
    return given
