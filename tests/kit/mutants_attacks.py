"""Mutants of the checks of attacks, active and passive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sparring.facts import Knows
from sparring.hookspecs import hookimpl
from sparring.layout import Layout
from sparring.local import Batch
from sparring.roles import (
    ActiveAttack,
    PassiveAttack,
)
from sparring.signals import Broadcast, ClientData, Examples, Updates
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import (
    AttackSpec,
    Empty,
    Layer,
    Reader,
)
from sparring.taps import Tap
from sparring.testing.fixtures import tiny_layout, tiny_plan
from sparring.testing.inverted import victim
from sparring.views import ModelView, QueryView, Reconstruction, Representatives, Scores, UpdateView
from tests.kit.making import ROWS, Made, attack, idle, instance_of, mutant


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
                if flaw == "greedy":
                    x = (x * view.settings.lr).clamp(0, 1)  # type: ignore[union-attr]
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


@mutant("reconstruction-control", "planted")
def _(broken: bool) -> Made:
    """A reader of answers to its own broadcast alone; the mutant forgets to send it."""
    honest = tiny_layout().row(tiny_plan().factory())
    spec = analytic("")
    assert spec.reader is not None
    plain = spec.reader.build

    def send(self: Any, signal: Broadcast, ctx: Any) -> Broadcast:
        return signal if broken else replace(signal, row=signal.row + 0.01)

    def observe(self: Any, view: UpdateView, ctx: Any) -> Reconstruction:
        found = plain(Empty()).attack_observe(view, ctx)
        assert isinstance(found, Reconstruction)
        for capture in view.captures:
            if torch.equal(capture.parameters, honest):
                found.inputs[capture.round, capture.client].fill_(0.5)
        return found

    layer = Layer[Any](
        site=Site.BROADCAST,
        build=instance_of(ActiveAttack, Broadcast, "attack_transform", send),
        signature=Signature(keeps=ALL),
    )
    build = instance_of(PassiveAttack, UpdateView, "attack_observe", observe)
    return replace(spec, layers=(layer,), reader=replace(spec.reader, build=build))


@mutant("reconstruction-from-noise")
def _(broken: bool) -> Made:
    return analytic("oracle" if broken else "")


@mutant("finding-repeats")
def _(broken: bool) -> Made:
    return analytic("restless" if broken else "")


@mutant("reader-needs-enough")
def _(broken: bool) -> Made:
    return analytic("greedy" if broken else "")


@mutant("attack-without-clients")
def _(broken: bool) -> Made:
    def shifted(self: Any, signal: Updates, ctx: Any) -> Updates:
        if not signal.ids and not broken:
            return signal
        sent = -signal.params.mean(0)
        return replace(signal, rows=sent.expand(max(1, len(signal.ids)), -1).clone())

    return attack(shifted)


def data_attack(transform: Callable[[ClientData], ClientData]) -> AttackSpec[Any]:
    build = instance_of(ActiveAttack, ClientData, "attack_transform", lambda self, data, ctx: transform(data))
    layers = (Layer[Any](site=Site.DATA, build=build, signature=Signature(keeps=ALL)),)
    return AttackSpec(api=1, name="attack", config=Empty, summary="an attack", game="poisoning", layers=layers)


def flipped(data: ClientData) -> ClientData:
    last = data.shape.classes - 1
    return replace(data, clients={i: replace(e, y=last - e.y) for i, e in data.clients.items()})


@mutant("attack-on-own-data")
def _(broken: bool) -> Made:
    kept: dict[int, Examples] = {}

    def remembered(data: ClientData) -> ClientData:
        kept.update(flipped(data).clients)
        return replace(data, clients=dict(kept))

    return data_attack(remembered if broken else flipped)


@mutant("attack-without-clients", "data")
def _(broken: bool) -> Made:
    def sybil(data: ClientData) -> ClientData:
        made = flipped(data)
        return made if made.clients else replace(made, clients={9: Examples(torch.zeros(1, 1, 8, 8), torch.zeros(1).long())})

    return data_attack(sybil if broken else flipped)


@mutant("broadcast-fits")
def _(broken: bool) -> Made:
    def planted(module: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Identity(), module)

    def transform(self: Any, broadcast: Broadcast, ctx: Any) -> Broadcast:
        plan = broadcast.plan.adapted(planted, "planted")
        module = plan.factory()
        layout = Layout.of(module)
        return replace(broadcast, plan=plan, row=layout.row(module), layout=broadcast.layout if broken else layout)

    build = instance_of(ActiveAttack, Broadcast, "attack_transform", transform)
    layers = (Layer[Any](site=Site.BROADCAST, build=build, signature=Signature(keeps=ALL)),)
    return AttackSpec(api=1, name="attack", config=Empty, summary="an attack", game="reconstruction", layers=layers)


def by_loss(flaw: str) -> AttackSpec[Any]:
    """Scores each candidate by minus its loss."""

    class ByLoss(PassiveAttack[QueryView]):
        @hookimpl
        def attack_observe(self, view: QueryView, ctx: Any) -> Scores:
            assert view.candidates is not None
            assert view.targets is not None
            scores = -view.loss(view.query, Batch(view.candidates, view.targets))
            if flaw == "sign":
                scores = -scores
            if flaw == "order":
                scores = scores - torch.arange(len(scores))
            if flaw == "restless":
                scores = scores + 0.01 * torch.rand_like(scores)
            return Scores(float(len(scores)), scores)

    reader: Reader[Any] = Reader(tap=lambda c: Tap(("query",)), build=lambda c: ByLoss(), signature=Signature(keeps=ALL))
    return AttackSpec(api=1, name="attack", config=Empty, summary="an attack", game="membership", reader=reader)


@mutant("membership-control")
def _(broken: bool) -> Made:
    return by_loss("sign" if broken else "")


@mutant("membership-of-nobody")
def _(broken: bool) -> Made:
    return by_loss("order" if broken else "")


@mutant("membership-repeats")
def _(broken: bool) -> Made:
    return by_loss("restless" if broken else "")


def climber(flaw: str) -> AttackSpec[Any]:
    """Climbs the logit of each class from grey."""

    class Climber(PassiveAttack[ModelView]):
        @hookimpl
        def attack_observe(self, view: ModelView, ctx: Any) -> Representatives:
            x = torch.full((view.shape.classes, *view.shape.inputs), 0.5)
            if flaw == "restless":
                x = x + 0.01 * torch.rand_like(x)
            own = torch.arange(view.shape.classes)
            for _ in range(0 if flaw == "idle" else 30):
                x.requires_grad_()
                score = view.predict(x).log_softmax(1)[own, own].sum()
                x = (x + 0.05 * torch.autograd.grad(score, x)[0].sign()).detach().clamp(0, 1)
            if flaw == "prior":
                private = victim(0).private
                x = torch.stack([private.x[private.y == label].mean(0) for label in own])
            return Representatives(30.0, {label: x[label : label + 1] for label in own.tolist()})

    reader: Reader[Any] = Reader(tap=lambda c: Tap(("model",)), build=lambda c: Climber(), signature=Signature(keeps=ALL))
    return AttackSpec(api=1, name="attack", config=Empty, summary="an attack", game="model-inversion", reader=reader)


@mutant("inversion-control")
def _(broken: bool) -> Made:
    return climber("idle" if broken else "")


@mutant("inversion-reads-the-model")
def _(broken: bool) -> Made:
    return climber("prior" if broken else "")


@mutant("inversion-repeats")
def _(broken: bool) -> Made:
    return climber("restless" if broken else "")
