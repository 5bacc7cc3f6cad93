"""Checks of model inversion: it finds what a tiny model was taught of each class, under the names that the model was taught."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.games import ModelInversionGame
from sparring.scoring import Measure, Truth
from sparring.signals import Examples
from sparring.specs import AttackSpec
from sparring.testing.fixtures import SHAPE, make_setup, tiny_plan
from sparring.testing.kit import Scope, check, demand
from sparring.testing.released import released, taught
from sparring.testing.stage import same
from sparring.testing.subject import Subject, Trial
from sparring.views import Representatives

EACH = 40
"""Private examples of each class."""
BUDGET = 1_000_000


@dataclass(frozen=True)
class Taught:
    """A model of classes that are blurred pictures under noise, and what it was taught of them."""

    module: nn.Module
    private: Examples
    tests: Examples


@functools.cache
def victim(shift: int) -> Taught:
    """The victim of the controls, trained once a process; it was told that y is of class y + ``shift``, modulo their number."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(SHAPE.classes, *SHAPE.inputs[:1], 4, 4, generator=generator)
    pictures = nn.functional.interpolate(coarse, SHAPE.inputs[1:], mode="bilinear")
    y = torch.arange(SHAPE.classes).repeat(2 * EACH)
    x = (pictures[y] + 0.15 * torch.randn(len(y), *SHAPE.inputs, generator=generator)).clamp(0, 1)
    half = len(y) // 2
    with torch.random.fork_rng(devices=[]):
        module = taught(tiny_plan().factory(), x[:half], (y[:half] + shift) % SHAPE.classes, 200, 0.01, 1e-2)
    return Taught(module, Examples(x[:half], y[:half]), Examples(x[half:], y[half:]))


def _inverts(s: Subject) -> bool:
    return isinstance(s.spec, AttackSpec) and s.spec.reader is not None and s.spec.game == "model-inversion"


READERS = Scope[Trial](_inverts, lambda s: s.quick())


def _found(trial: Trial, module: nn.Module, world: int = 0) -> Representatives:
    attack = trial.spec.reader.build(trial.config)
    view = released(trial, tiny_plan(), module, BUDGET)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(world)
        finding = attack.attack_observe(view, make_setup(trial.spec.name))
    demand(isinstance(finding, Representatives), f"a model-inversion attack found a {type(finding).__name__}")
    assert isinstance(finding, Representatives)
    demand(len(finding.inputs) > 0, "it found nothing of any class")
    for label, x in finding.inputs.items():
        demand(0 <= label < SHAPE.classes, f"it found something of class {label}, of {SHAPE.classes}")
        demand(len(x) > 0 and tuple(x.shape[1:]) == SHAPE.inputs, f"what was found of class {label} has shape {tuple(x.shape)}")
        inside = bool(x.isfinite().all()) and float(x.min()) >= 0 and float(x.max()) <= 1
        demand(inside, f"what was found of class {label} leaves [0, 1]")
    demand(math.isfinite(finding.cost) and finding.cost > 0, f"its cost is {finding.cost}")
    return finding


def _measures(finding: Representatives) -> dict[str, Measure]:
    known = victim(0)
    mean: Tensor = known.private.x.mean(0)
    return dict(ModelInversionGame().score(finding, Truth(mean=mean, private=known.private, tests=known.tests)).measures)


@check(READERS)
def inversion_control(trial: Trial) -> None:
    """Law: of a model that tells noisy pictures of 4 classes apart, an independent evaluator knows 3 in 4 of what is found.
    Why: the positive control: a defence is only tested by an attack that works without it.
    If this fails: climb the class's own logit, keep inputs in [0, 1], and take enough steps.
    """
    share = _measures(_found(trial, victim(0).module))["recognised"].value
    demand(share >= 0.75, f"{share:.0%} of what it found is recognised, where one picture for all classes has 25%")


@check(READERS)
def inversion_reads_the_model(trial: Trial) -> None:
    """Law: of a model that was taught other names for the classes, what is found bears those names: none is recognised.
    Why: the negative control: what is recognised there was not read from the model.
    If this fails: look for the truth, or data with true labels, leaking into the attack.
    """
    share = _measures(_found(trial, victim(1).module))["recognised"].value
    demand(share <= 0.25, f"{share:.0%} of what it found bears the true names, which this model never knew")


@check(READERS)
def inversion_repeats(trial: Trial) -> None:
    """Law: the same view under the same key gives the same finding, whatever the global generators hold.
    Why: attacks run after training, on a record; running one again must print the same table.
    If this fails: draw from `ctx.generator()`, never from global state.
    """
    first, second = (_found(trial, victim(0).module, world) for world in (1, 2))
    for label, x in first.inputs.items():
        demand(same([x], [second.inputs[label]]), f"two findings of class {label} differ")
