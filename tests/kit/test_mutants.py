"""Every check of the conformance kit passes a correct technique and fails the same technique with one thing wrong."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from sparring.claims import Event, Formal, GaussianEvent
from sparring.errors import DataError, RoundAborted
from sparring.facts import Clipped, Identified, Knows, PerExample, PoissonSampled, Space, Summable, Weighted
from sparring.hookspecs import hookimpl
from sparring.layout import Layout
from sparring.layout import Space as RowSpace
from sparring.local import Batch, Client, GradientRule, LocalPlan, LossFn, Numbers, Params, PureLoss, Sampler
from sparring.roles import (
    Accountant,
    ActiveAttack,
    Aggregator,
    Data,
    Dataset,
    Defence,
    Model,
    PassiveAttack,
    Stateful,
    StreamingAggregator,
)
from sparring.signals import Cohort, DataShape, Examples, Release, Updates
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import (
    AccountantSpec,
    AggregatorSpec,
    AnySpec,
    AttackSpec,
    Config,
    DatasetSpec,
    DefenceSpec,
    Empty,
    Layer,
    ModelSpec,
    Reader,
)
from sparring.taps import Tap
from sparring.testing import CHECKS, cases
from sparring.testing.accountants import gaussian_epsilon
from sparring.testing.subject import Subject
from sparring.views import Reconstruction, UpdateView

cases(lambda: ())
ROWS = (Summable(), Identified(), Weighted(), Space("real"))
Made = AnySpec | Subject
MUTANTS: dict[str, Callable[[bool], Made]] = {}


def mutant(check: str) -> Callable[[Callable[[bool], Made]], Callable[[bool], Made]]:
    """Registers a factory: given False it makes the twin that passes ``check``, given True the mutant that fails it."""

    def register(make: Callable[[bool], Made]) -> Callable[[bool], Made]:
        MUTANTS[check] = make
        return make

    return register


def subject(spec: AnySpec, module: str = "sparring.specs", **given: Any) -> Subject:
    return Subject(spec, given.pop("siblings", (spec,)), module, **given)


def instance_of(
    role: Any, signal: type, hook: str, transform: Callable[[Any, Any, Any], Any], *others: type
) -> Callable[[Any], Any]:
    """A factory of a class of a role that runs ``transform(self, signal, ctx)``."""

    def body(namespace: dict[str, Any]) -> None:
        def run(self: Any, signal: Any, ctx: Any) -> Any:
            return transform(self, signal, ctx)

        namespace[hook] = hookimpl(run)

    made: Any = types.new_class("Made", (role[signal] if signal is not object else role, *others), {}, body)

    def build(config: Any) -> Any:
        instance = made()
        instance.config = config
        return instance

    return build


def defence(
    transform: Callable[[Any, Any, Any], Any],
    *,
    signal: type = Updates,
    site: Site = Site.UPDATE,
    config: type[Config] = Empty,
    others: tuple[type, ...] = (),
    **layer: Any,
) -> DefenceSpec[Any]:
    build = instance_of(Defence, signal, "defence_transform", transform, *others)
    layer.setdefault("signature", Signature(keeps=ROWS))
    return DefenceSpec(api=1, name="layer", config=config, summary="a layer", layers=(Layer(site=site, build=build, **layer),))


def attack(transform: Callable[[Any, Any, Any], Any], **layer: Any) -> AttackSpec[Any]:
    build = instance_of(ActiveAttack, Updates, "attack_transform", transform)
    layer.setdefault("signature", Signature(keeps=ROWS))
    layers = (Layer(site=Site.UPDATE, build=build, **layer),)
    return AttackSpec(api=1, name="attack", config=Empty, summary="an attack", game="poisoning", layers=layers)


def rule(aggregate: Callable[[Any, Cohort, Any], Tensor], config: type[Config] = Empty) -> AggregatorSpec[Any]:
    def run(self: Any, cohort: Cohort, ctx: Any) -> Release:
        return Release(aggregate(self, cohort, ctx), cohort.layout, float(len(cohort)), len(cohort))

    build = instance_of(Aggregator, object, "server_aggregate", run)
    return AggregatorSpec(api=1, name="rule", config=config, summary="a rule", build=build, signature=Signature(keeps=ALL))


def shifted(self: Any, signal: Updates, ctx: Any) -> Updates:
    """Adds noise from each client's own stream."""
    noise = [torch.randn(signal.params.shape[1], generator=ctx.generator(i)) for i in signal.ids]
    return signal.with_params(signal.params + torch.stack(noise))


def idle(self: Any, signal: Any, ctx: Any) -> Any:
    return signal


# Packaging


@mutant("light-import")
def _(broken: bool) -> Made:
    return subject(defence(idle), "sparring.layout" if broken else "sparring.specs")


@mutant("kebab-name")
def _(broken: bool) -> Made:
    return replace(defence(idle), name="Layer_1" if broken else "layer-1")


@mutant("described")
def _(broken: bool) -> Made:
    return replace(defence(idle), summary="" if broken else "a layer")


@mutant("entry-point")
def _(broken: bool) -> Made:
    return subject(replace(defence(idle), name="renamed" if broken else "layer"), "kit_mutants.plugin")


# Configurations


class Loose(Empty):
    model_config = ConfigDict(extra="ignore")


class Bounded(Config):
    f: int = Field(1, ge=0, le=9, description="a number")


class Unbounded(Config):
    f: int = Field(1, description="a number")


class Required(Config):
    path: str = Field(max_length=9, description="a path")


class Forgetful(Config):
    f: int = Field(1, ge=0, le=9, description="a number", exclude=True)


@mutant("config-closed")
def _(broken: bool) -> Made:
    return defence(idle, config=Loose if broken else Empty)


@mutant("config-bounded")
def _(broken: bool) -> Made:
    return defence(idle, config=Unbounded if broken else Bounded)


@mutant("config-tried")
def _(broken: bool) -> Made:
    return subject(defence(idle, config=Required), examples=() if broken else ({"path": "here"},))


@mutant("config-round-trip")
def _(broken: bool) -> Made:
    return defence(idle, config=Forgetful if broken else Bounded)


# Declarations


@mutant("signature-pure")
def _(broken: bool) -> Made:
    calls = iter(range(1, 10**6))
    return defence(
        idle, signature=lambda c: Signature(gives=(Clipped("l2", "client", bound=float(next(calls)) if broken else 1.0),))
    )


@mutant("layers-legal")
def _(broken: bool) -> Made:
    return defence(idle, signal=Cohort if broken else Updates)


@mutant("built-as-declared")
def _(broken: bool) -> Made:
    class Unmarked(Defence[Updates]):
        def defence_transform(self, signal: Updates, ctx: Any) -> Updates:
            return signal

    spec = defence(idle)
    return replace(spec, layers=(replace(spec.layers[0], build=lambda c: Unmarked()),)) if broken else spec


# Purity


@mutant("input-untouched")
def _(broken: bool) -> Made:
    return defence(lambda self, s, ctx: s.with_params(s.params.clamp_(-0.1, 0.1) if broken else s.params.clamp(-0.1, 0.1)))


@mutant("global-state-untouched")
def _(broken: bool) -> Made:
    def transform(self: Any, signal: Updates, ctx: Any) -> Updates:
        if broken:
            torch.rand(1)
        return signal

    return defence(transform)


@mutant("reproducible")
def _(broken: bool) -> Made:
    return defence(
        lambda self, s, ctx: s.with_params(s.params + torch.randn_like(s.params)) if broken else shifted(self, s, ctx)
    )


@mutant("rounds-differ")
def _(broken: bool) -> Made:
    def transform(self: Any, signal: Updates, ctx: Any) -> Updates:
        return shifted(self, signal, replace(ctx, index=0) if broken else ctx)

    return defence(transform)


@mutant("state-declared")
def _(broken: bool) -> Made:
    def transform(self: Any, signal: Updates, ctx: Any) -> Updates:
        if broken:
            self.seen = getattr(self, "seen", 0) + 1
        return signal.with_params(signal.params * (1 + getattr(self, "seen", 0)))

    return defence(transform)


class Momentum(Stateful):
    """Half of the state of a momentum; ``forgets`` restores nothing."""

    forgets = False
    velocity: Tensor | float = 0.0

    def state(self) -> Mapping[str, Any]:
        return {"velocity": self.velocity}

    def restore(self, state: Mapping[str, Any]) -> None:
        if not self.forgets:
            self.velocity = state["velocity"]


class Amnesia(Momentum):
    forgets = True


@mutant("state-restores")
def _(broken: bool) -> Made:
    def transform(self: Any, signal: Updates, ctx: Any) -> Updates:
        self.velocity = 0.5 * self.velocity + signal.params
        return signal.with_params(self.velocity)

    return defence(transform, others=(Amnesia if broken else Momentum,))


@mutant("acts-as-declared")
def _(broken: bool) -> Made:
    return defence(idle if broken else shifted, acts="always")


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


@mutant("real-rows")
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


@mutant("sealed-rows-hide")
def _(broken: bool) -> Made:
    return pair(correct=True, pads=not broken)


# Local training


class Coins(Sampler):
    """Poisson lots; ``capped`` cuts those that are larger than a batch."""

    def __init__(self, capped: bool) -> None:
        self.capped = capped

    def batches(self, client: Client, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(client.steps):
            lot = (torch.rand(client.size, generator=generator) < client.batch_size / client.size).nonzero()[:, 0]
            yield lot[: client.batch_size] if self.capped else lot

    def largest(self, client: Client) -> int:
        return client.size


@mutant("sampler-lots")
def _(broken: bool) -> Made:
    return defence(
        lambda self, plan, ctx: plan.with_sampler(Coins(broken)),
        signal=LocalPlan,
        site=Site.SAMPLER,
        signature=Signature(gives=(PoissonSampled("example"),)),
    )


class Clipping(GradientRule):
    """Clipped per-example gradients with noise of multiplier 1.5; ``flaw`` names what is wrong with it."""

    def __init__(self, flaw: str) -> None:
        self.flaw = flaw

    def numbers(self, client: Client) -> Numbers:
        return {"lot": float(client.batch_size)}

    def grads(self, loss: PureLoss, params: Params, batch: Batch, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        def one(p: Params, x: Tensor, y: Tensor) -> Tensor:
            return loss(p, x[None], y[None]).squeeze(0)

        if not len(batch.x):
            return {name: p * (torch.nan if self.flaw == "empty" else 0) for name, p in params.items()}
        each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(dict(params), batch.x, batch.y)
        norms = torch.stack([g.flatten(1).square().sum(1) for g in each.values()]).sum(0).sqrt()
        factor = torch.ones_like(norms) if self.flaw == "sensitivity" else 1 / norms.clamp(min=1)
        if batch.mask is not None and self.flaw != "padding":
            factor = factor * batch.mask
        if self.flaw == "vmap" and float(factor.sum()) < 0:
            return dict(params)
        return {name: torch.einsum("b,b...->...", factor, g) / numbers["lot"] for name, g in each.items()}

    def eager(self, module: nn.Module, loss: LossFn, batch: Batch, numbers: Numbers) -> bool:
        for k in range(len(batch.x)):
            losses = loss(module, Batch(batch.x[k : k + 1], batch.y[k : k + 1]))
            grads = torch.autograd.grad(losses.sum(), list(module.parameters()))
            norm = torch.cat([g.reshape(-1) for g in grads]).norm()
            for p, g in zip(module.parameters(), grads, strict=True):
                assert p.grad is not None
                p.grad += g / norm.clamp(min=1) / (len(batch.x) if self.flaw == "eager" else numbers["lot"])
        return True

    def noise(self, size: int, numbers: Numbers, generator: torch.Generator) -> Tensor:
        return 1.5 / numbers["lot"] * torch.randn(size, generator=generator)

    def event(self, client: Client) -> Event:
        return GaussianEvent(1.5, "example", client.batch_size / client.size, client.steps)


def gradient_rule(flaw: str) -> Callable[[bool], Made]:
    return lambda broken: defence(
        lambda self, plan, ctx: plan.with_gradient(ctx.layer, Clipping(flaw if broken else "")),
        signal=LocalPlan,
        site=Site.GRADIENT,
        signature=Signature(needs=(PerExample(),), claims=(Formal("Gaussian", "example"),)),
    )


mutant("gradient-vmap")(gradient_rule("vmap"))
mutant("gradient-eager")(gradient_rule("eager"))
mutant("gradient-sensitivity")(gradient_rule("sensitivity"))
mutant("padding-ignored")(gradient_rule("padding"))
mutant("empty-lot")(gradient_rule("empty"))


# Aggregation


def middle(self: Any, cohort: Cohort, ctx: Any) -> Tensor:
    return cohort.rows.median(dim=0).values if len(cohort) % 2 else cohort.rows.sort(dim=0).values[len(cohort) // 2]


@mutant("permutation-invariance")
def _(broken: bool) -> Made:
    return rule(lambda self, cohort, ctx: cohort.rows[0] if broken else cohort.rows.mean(0))


@mutant("identical-rows")
def _(broken: bool) -> Made:
    return rule(lambda self, cohort, ctx: cohort.rows.sum(0) / (1 if broken else len(cohort)))


@mutant("extreme-rows")
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


# Attacks


@mutant("attack-keeps-form")
def _(broken: bool) -> Made:
    return attack(lambda self, s, ctx: s.select(s.ids[:1]) if broken else s.with_params(-s.params))


@mutant("attack-reads-grants")
def _(broken: bool) -> Made:
    def transform(self: Any, signal: Updates, ctx: Any) -> Updates:
        seen = signal.params if ctx.benign is None else ctx.benign
        return signal.with_params(-seen.mean(0).expand_as(signal.params).clone())

    needs = () if broken else (Knows("benign-updates"),)
    return attack(transform, signature=Signature(needs=needs, keeps=ROWS))


@mutant("attack-acts")
def _(broken: bool) -> Made:
    return attack(idle if broken else lambda self, s, ctx: s.with_params(-s.params))


def analytic(flaw: str) -> AttackSpec[Any]:
    """Reads the input off the first layer's gradient: row over bias."""

    class Analytic(PassiveAttack[UpdateView]):
        @hookimpl
        def attack_observe(self, view: UpdateView, ctx: Any) -> Reconstruction:
            found = Reconstruction(1.0, {}, {}, {}, {})
            for k, capture in enumerate(view.captures):
                gradient = torch.zeros_like(capture.gradient) if flaw == "blind" else capture.gradient
                parts = capture.layout.split(gradient, "parameter")
                weight, bias = parts["1.weight"], parts["1.bias"]
                row = int(bias.abs().argmax())
                x = (weight[row] / (bias[row] if bias[row] != 0 else 1)).view(1, *capture.plan.shape.inputs).clamp(0, 1)
                if flaw == "oracle":
                    from sparring.testing.fixtures import tiny_victim

                    x = tiny_victim().images[k : k + 1]
                if flaw == "restless":
                    x = (x + 0.01 * torch.rand_like(x)).clamp(0, 1)
                key = (capture.round, capture.client)
                found.inputs[key], found.labels[key] = x, torch.zeros(1, dtype=torch.long)
            return found

    reader: Reader[Any] = Reader(tap=lambda c: Tap(("update",)), build=lambda c: Analytic(), signature=Signature(keeps=ALL))
    return AttackSpec(api=1, name="attack", config=Empty, summary="an attack", game="reconstruction", reader=reader)


@mutant("reconstruction-control")
def _(broken: bool) -> Made:
    return analytic("blind" if broken else "")


@mutant("reconstruction-from-noise")
def _(broken: bool) -> Made:
    return analytic("oracle" if broken else "")


@mutant("finding-repeats")
def _(broken: bool) -> Made:
    return analytic("restless" if broken else "")


# Data sets, models, accountants


def dataset(load: Callable[[Any], tuple[Tensor, Tensor]], split: Callable[[Tensor], Tensor] = lambda order: order[80:]) -> Made:
    class Made_(Dataset):
        def load(self, ctx: Any) -> Data:
            x, y = load(ctx)
            order = torch.randperm(len(x), generator=ctx.generator())
            whole = Examples(x, y)
            return Data(whole.take(order[:80]), whole.take(split(order)), DataShape((1, 4, 4), 3))

    return DatasetSpec(
        api=1,
        name="set",
        config=Empty,
        summary="a set",
        build=lambda c: Made_(),
        licence="none",
        source="drawn",
        stands_for="nothing",
    )


def drawn(ctx: Any) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(100, 1, 4, 4, generator=generator), torch.randint(3, (100,), generator=generator)


@mutant("data-repeats")
def _(broken: bool) -> Made:
    return dataset(lambda ctx: (torch.rand(100, 1, 4, 4), drawn(ctx)[1]) if broken else drawn(ctx))


@mutant("data-valid")
def _(broken: bool) -> Made:
    return dataset(lambda ctx: (drawn(ctx)[0] * (255 if broken else 1), drawn(ctx)[1]))


@mutant("split-apart")
def _(broken: bool) -> Made:
    return dataset(drawn, lambda order: order[60:80] if broken else order[80:])


def model(make: Callable[[int, int], nn.Module]) -> ModelSpec[Any]:
    class Made_(Model):
        def module(self, shape: DataShape) -> nn.Module:
            if shape.task != "classification":
                raise DataError("it classifies; choose a classification task")
            return nn.Sequential(nn.Flatten(), make(int(torch.tensor(shape.inputs).prod()), shape.classes))

    signature = Signature(gives=(PerExample(),), keeps=ALL)
    return ModelSpec(api=1, name="model", config=Empty, summary="a model", build=lambda c: Made_(), signature=signature)


@mutant("output-shape")
def _(broken: bool) -> Made:
    return model(lambda d, k: nn.Linear(d, 5 if broken else k))


class Unseeded(nn.Linear):
    def reset_parameters(self) -> None:
        generator = torch.Generator().manual_seed(0)
        nn.init.normal_(self.weight, generator=generator)
        nn.init.zeros_(self.bias)


@mutant("weights-seeded")
def _(broken: bool) -> Made:
    return model(lambda d, k: Unseeded(d, k) if broken else nn.Linear(d, k))


@mutant("per-example")
def _(broken: bool) -> Made:
    return model(lambda d, k: nn.Sequential(nn.Linear(d, 8), nn.BatchNorm1d(8) if broken else nn.LayerNorm(8), nn.Linear(8, k)))


class Hidden(nn.Linear):
    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.secret = float(torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.secret


@mutant("row-round-trip")
def _(broken: bool) -> Made:
    return model(lambda d, k: Hidden(d, k) if broken else nn.Linear(d, k))


def accountant(flaw: str) -> Callable[[bool], Made]:
    """Exact composition of Gaussian releases that ignores sampling."""

    class Exact(Accountant):
        def __init__(self, flawed: bool) -> None:
            self.flaw = flaw if flawed else ""

        def epsilon(self, events: Sequence[tuple[Event, int]], delta: float) -> float:
            precision = 0.0
            for k, (event, count) in enumerate(events):
                assert isinstance(event, GaussianEvent)
                if event.rate > 0 or self.flaw == "nothing":
                    scale = k + 1 if self.flaw == "order" else 1
                    precision += scale * event.steps * max(count, self.flaw == "nothing") / event.noise_multiplier**2
            if not precision:
                return 0.0
            if self.flaw == "monotone":
                precision = 1 / precision
            return gaussian_epsilon(precision**-0.5, delta) * (0.9 if self.flaw == "below" else 1)

    return lambda broken: AccountantSpec(api=1, name="exact", config=Empty, summary="exact", build=lambda c: Exact(broken))


mutant("epsilon-monotone")(accountant("monotone"))
mutant("epsilon-order")(accountant("order"))
mutant("epsilon-of-nothing")(accountant("nothing"))
mutant("epsilon-bounded-below")(accountant("below"))


@pytest.fixture(autouse=True, scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A distribution whose light module is ``kit_mutants.plugin``, with one entry point."""
    folder: Path = tmp_path_factory.mktemp("site")
    info = folder / "kit_mutants-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kit-mutants\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sparring.defences]\nlayer = kit_mutants.plugin\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


def made_for(check: str, broken: bool) -> Subject:
    made = MUTANTS[check](broken)
    return made if isinstance(made, Subject) else subject(made)


def test_every_check_has_a_mutant() -> None:
    assert set(MUTANTS) == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS)
def test_the_correct_twin_passes(check: str) -> None:
    twin = made_for(check, broken=False)
    assert CHECKS[check].scope.applies(twin)
    CHECKS[check].run(twin)


@pytest.mark.parametrize("check", CHECKS)
def test_the_mutant_fails_and_is_told_name_law_and_fix(check: str) -> None:
    broken = made_for(check, broken=True)
    assert CHECKS[check].scope.applies(broken)
    with pytest.raises(AssertionError) as error:
        CHECKS[check].run(broken)
    text = str(error.value)
    assert text.startswith(f"{broken.spec.name}::{check}")
    assert ": raised " not in text, "it broke where it should have been found out"
    assert all(part in text for part in ("\n  law: ", "\n  why: ", "\n  fix: "))
