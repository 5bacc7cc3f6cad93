"""Mutants of the checks of attacks, active and passive."""

from __future__ import annotations

from typing import Any

import torch

from sparring.facts import Knows
from sparring.hookspecs import hookimpl
from sparring.roles import (
    PassiveAttack,
)
from sparring.signals import Updates
from sparring.signature import ALL, Signature
from sparring.specs import (
    AttackSpec,
    Empty,
    Reader,
)
from sparring.taps import Tap
from sparring.views import Reconstruction, UpdateView
from tests.kit.making import ROWS, Made, attack, idle, mutant


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
