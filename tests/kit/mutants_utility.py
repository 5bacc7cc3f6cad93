"""Mutants of the checks of what attacks want, and of layers over cohorts that judge or change their number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sparring.errors import ConfigError
from sparring.facts import Identified, Judged
from sparring.hookspecs import hookimpl
from sparring.objectives import Objective
from sparring.roles import ActiveAttack, Sizing, Targeted
from sparring.signals import ClientData, Cohort, Examples
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import AttackSpec, Empty, Layer
from sparring.verdicts import Verdict
from tests.kit.making import ROWS, Made, defence, mutant


def wanting(flaw: str = "") -> AttackSpec[Any]:
    """Wants class 0 of every test example with a bright corner, and gives its own examples that corner and that label."""

    class Wanting(ActiveAttack[ClientData], Targeted):
        calls = 0

        @hookimpl
        def attack_transform(self, signal: ClientData, ctx: Any) -> ClientData:
            made = {i: replace(e, x=corner(e.x), y=torch.zeros_like(e.y)) for i, e in signal.clients.items()}
            return replace(signal, clients=made)

        def objective(self, test: Examples, ctx: Any) -> Objective:
            inputs, wanted, index = corner(test.x), torch.zeros_like(test.y), torch.arange(len(test))
            if flaw == "kept":
                self.test = test
            if flaw == "counting":
                self.calls += 1
                wanted = wanted + self.calls % 2
            if flaw == "writing":
                test.x.mul_(0.5)
            if flaw == "bright":
                inputs = inputs + 0.5
            if flaw == "class":
                wanted = wanted + 9
            if flaw == "own":
                wanted = test.y
            if flaw == "index":
                index = index[1:]
            if flaw == "shape":
                inputs = inputs.flatten(1)
            return Objective(inputs, wanted, index)

    class Silent(ActiveAttack[ClientData]):
        attack_transform = Wanting.attack_transform

    def build(config: Any) -> Any:
        return Silent() if flaw == "silent" else Wanting()

    layers = (Layer[Any](site=Site.DATA, build=build, signature=Signature(keeps=ALL)),)
    return AttackSpec(api=1, name="attack", config=Empty, summary="an attack", game="backdoor", layers=layers)


def corner(x: torch.Tensor) -> torch.Tensor:
    marked = x.clone()
    marked[..., :2, :2] = 1
    return marked


def _wanting(check: str, flaw: str) -> None:
    @mutant(check, flaw)
    def _(broken: bool) -> Made:
        return wanting(flaw if broken else "")


for flaw in ("silent", "bright", "class", "own", "index", "shape"):
    _wanting("objective-form", flaw)
for flaw in ("kept", "counting", "writing"):
    _wanting("objective-pure", flaw)


def judging(flaw: str = "") -> Made:
    """Leaves out the client of largest norm."""

    def transform(self: Any, cohort: Cohort, ctx: Any) -> Cohort:
        if len(cohort) < 2 or cohort.ids is None:
            return cohort
        norms = cohort.norms
        suspicion = {i: float(s) for i, s in zip(cohort.ids, norms, strict=True)}
        worst = int(norms.argmax())
        flagged = frozenset(() if flaw == "secret" else (cohort.ids[worst],))
        if flaw == "partial":
            suspicion.pop(cohort.ids[0])
        if flaw == "stranger":
            flagged |= {10**6}
        if flaw == "infinite":
            suspicion[cohort.ids[0]] = float("inf")
        if flaw == "position":
            suspicion = {i: s + k for k, (i, s) in enumerate(suspicion.items())}
        if flaw == "forgetful":
            cohort = replace(cohort, verdicts=())
        if flaw != "mute":
            cohort = cohort.judged(Verdict(ctx.layer, suspicion, flagged))
        return cohort.select(torch.tensor([k for k in range(len(cohort)) if k != worst]))

    signature = Signature(gives=(Judged(),), keeps=(Identified(),))
    return defence(transform, signal=Cohort, site=Site.COHORT, signature=signature)


def _judging(check: str, flaw: str) -> None:
    @mutant(check, flaw)
    def _(broken: bool) -> Made:
        return judging(flaw if broken else "")


for flaw in ("secret", "partial", "stranger", "infinite", "position", "mute"):
    _judging("judged-given", flaw)
_judging("judged-kept", "forgetful")


def halving(flaw: str = "") -> Made:
    """Hands on the mean of each two rows, in the order of ids."""

    def admit(self: Any, n: int) -> int:
        if n < 2:
            raise ConfigError(f"'layer' got n = {n} rows; it needs two: sample more clients")
        return n // 2 + (flaw == "count")

    def transform(self: Any, cohort: Cohort, ctx: Any) -> Cohort:
        n = len(cohort)
        if n < 2 and flaw != "lenient":
            admit(self, n)
        if n < 2:
            return cohort
        order = sorted(range(n), key=lambda k: (cohort.ids or range(n))[k])
        mix = torch.zeros(n // 2, n, dtype=torch.float64)
        for k in range(n // 2):
            mix[k, order[2 * k : 2 * k + 2]] = 0.5
        return cohort.mixed(mix)

    sizing = type("Halves", (Sizing,), {"admit": admit})
    return defence(transform, signal=Cohort, site=Site.COHORT, signature=Signature(keeps=ROWS[:1]), others=(sizing,))


def _halving(flaw: str) -> None:
    @mutant("sizing-holds", flaw)
    def _(broken: bool) -> Made:
        return halving(flaw if broken else "")


for flaw in ("count", "lenient"):
    _halving(flaw)


@mutant("data-entangled")
def _(broken: bool) -> Made:
    def transform(self: Any, data: ClientData, ctx: Any) -> ClientData:
        level = torch.cat([e.x for e in data.clients.values()]).mean() if broken else 0.5
        return replace(data, clients={i: replace(e, x=(e.x > level).to(e.x)) for i, e in data.clients.items()})

    return defence(transform, signal=ClientData, site=Site.DATA, signature=Signature())
