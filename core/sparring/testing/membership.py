"""Checks of membership attacks: they tell what a tiny overfitted model was trained on, and nothing where nobody is a member."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.games import MembershipGame
from sparring.scoring import Truth
from sparring.signals import ModelPlan
from sparring.specs import AttackSpec
from sparring.testing.fixtures import SHAPE, Tiny, make_setup
from sparring.testing.kit import Scope, check, demand
from sparring.testing.released import released, taught
from sparring.testing.stage import same
from sparring.testing.subject import Subject, Trial
from sparring.views import Scores

MEMBERS = 80
HIDDEN = 64
STEPS = 400
CHANCE = 4.0
"""Standard deviations of the AUC under chance beyond which a finding is no chance; inputs are fixed: always or never."""


@dataclass(frozen=True)
class Overfitted:
    """A model that knows ``MEMBERS`` random images with random labels by heart, and as many others that it never saw."""

    module: nn.Module
    x: Tensor
    y: Tensor
    member: Tensor


def _plan() -> ModelPlan:
    return ModelPlan(functools.partial(Tiny, HIDDEN), SHAPE)


@functools.cache
def overfitted() -> Overfitted:
    """The victim of the controls, trained once a process."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4 * MEMBERS, *SHAPE.inputs, generator=generator)
    y = torch.randint(SHAPE.classes, (4 * MEMBERS,), generator=generator)
    member = torch.zeros(4 * MEMBERS, dtype=torch.bool)
    member[:MEMBERS] = True
    with torch.random.fork_rng(devices=[]):
        module = taught(_plan().factory(), x[member], y[member], STEPS, 0.03)
    return Overfitted(module, x, y, member)


def _infers(s: Subject) -> bool:
    return isinstance(s.spec, AttackSpec) and s.spec.reader is not None and s.spec.game == "membership"


READERS = Scope[Trial](_infers, lambda s: s.quick())


def _scores(trial: Trial, index: Tensor, world: int = 0) -> Tensor:
    """The attack's scores of the candidates at ``index``."""
    victim = overfitted()
    x, y = victim.x[index], victim.y[index]
    attack = trial.spec.reader.build(trial.config)
    view = released(trial, _plan(), victim.module, 1000 * len(x), x, y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(world)
        finding = attack.attack_observe(view, make_setup(trial.spec.name))
    demand(isinstance(finding, Scores), f"a membership attack found a {type(finding).__name__}")
    assert isinstance(finding, Scores)
    demand(tuple(finding.scores.shape) == (len(x),), f"{len(x)} candidates have scores {tuple(finding.scores.shape)}")
    demand(bool(finding.scores.isfinite().all()), "a score is NaN or infinity")
    demand(math.isfinite(finding.cost) and finding.cost >= 0, f"its cost is {finding.cost}")
    return finding.scores


def _auc(scores: Tensor, member: Tensor) -> float:
    return MembershipGame().score(Scores(0.0, scores), Truth(member=member)).measures["auc"].value


def _chance(m: int, n: int) -> float:
    """The standard deviation of the AUC of scores that know nothing (Mann and Whitney 1947)."""
    return math.sqrt((m + n + 1) / (12 * m * n))


@check(READERS)
def membership_control(trial: Trial) -> None:
    """Law: of a model that knows its random training data by heart, a membership attack's AUC is clearly above one half.
    Why: the positive control: a defence is only tested by an attack that works without it.
    If this fails: higher scores mean members: check the sign; read logits as logits, and labels from `view.targets`.
    """
    index = torch.arange(2 * MEMBERS)
    found = _auc(_scores(trial, index), overfitted().member[index])
    least = 0.5 + CHANCE * _chance(MEMBERS, MEMBERS)
    demand(found > least, f"AUC {found:.3f} on an overfitted model, where chance ends at {least:.3f}")


@check(READERS)
def membership_of_nobody(trial: Trial) -> None:
    """Law: where no candidate is a member, scores tell two halves of the candidates apart no better than chance.
    Why: the negative control: what it finds there it did not read from the model.
    If this fails: look for the order of candidates, or the truth, leaking into the scores.
    """
    index = torch.arange(MEMBERS, 3 * MEMBERS)
    half = torch.arange(2 * MEMBERS) < MEMBERS
    found = _auc(_scores(trial, index), half)
    off = CHANCE * _chance(MEMBERS, MEMBERS)
    demand(abs(found - 0.5) <= off, f"AUC {found:.3f} among non-members, where chance lies within 0.5 +- {off:.3f}")


@check(READERS)
def membership_repeats(trial: Trial) -> None:
    """Law: the same view under the same key gives the same scores, whatever the global generators hold.
    Why: attacks run after training, on a record; running one again must print the same table.
    If this fails: draw from `ctx.generator()`, never from global state.
    """
    index = torch.arange(MEMBERS // 2, MEMBERS + MEMBERS // 2)
    demand(same([_scores(trial, index, 1)], [_scores(trial, index, 2)]), "two findings from one view differ")
