"""Checks of attacks that say what they want: of their objective, which a game will hold against the released model."""

from __future__ import annotations

from typing import Any

import torch

from sparring.live import TARGETED
from sparring.mixins import Targeted
from sparring.objectives import Objective
from sparring.signals import Examples
from sparring.sites import Site
from sparring.testing.fixtures import SHAPE, tiny_data
from sparring.testing.kit import Inapplicable, Scope, check, demand
from sparring.testing.stage import same, tensors
from sparring.testing.subject import Subject, Trial

SAYING = Scope[Trial](lambda s: s.spec.kind == "attacks" and bool(s.layers), lambda s: s.trials())


def _test() -> Examples:
    """Test examples of every class, with the group columns that the training data of the stage have."""
    held = next(iter(tiny_data(1, 96, seed=2).clients.values()))
    return Examples(held.x, torch.arange(96) % SHAPE.classes, held.groups)


def _saying(trial: Trial) -> tuple[Trial, Any]:
    """The layer that says what the attack wants, ready to be asked: behind its own part of the data where it acts on data."""
    subject: Subject = trial.subject
    found = []
    for place in range(len(subject.layers)):
        at = Trial(subject, trial.config, trial.sampled, place)
        instance = at.build()
        if isinstance(instance, Targeted):
            found.append((at, instance))
    game = getattr(trial.spec, "game", "")
    demand(len(found) == (game in TARGETED), f"it plays the {game} game with {len(found)} layers that say what they want")
    if not found:
        raise Inapplicable("its game asks for no objective")
    at, instance = found[0]
    if at.site is Site.DATA:
        at.apply(instance, at.signal(), at.context())
    return at, instance


@check(SAYING)
def objective_form(trial: Trial) -> None:
    """Law: an attack of the backdoor or subgroup game has one layer that says what it wants: inputs like the test's, classes.
    Why: the game can only count what the model could be asked, and inputs of the wanted class count for nothing.
    If this fails: return an `Objective` of inputs in [0, 1], labels below the number of classes, and indices into the test.
    """
    at, instance = _saying(trial)
    test = _test()
    wanted: Objective = instance.objective(test, at.context())
    m = len(wanted.wanted)
    demand(m > 0, "it wants nothing")
    demand(wanted.inputs.shape == (m, *test.x.shape[1:]), f"its inputs are {tuple(wanted.inputs.shape)} for {m} labels")
    demand(wanted.inputs.dtype == test.x.dtype, f"its inputs are {wanted.inputs.dtype}, the test's {test.x.dtype}")
    inside = bool(((wanted.inputs >= 0) & (wanted.inputs <= 1)).all())
    demand(inside, "an input lies outside [0, 1], or is no number")
    demand(int(wanted.wanted.min()) >= 0 and int(wanted.wanted.max()) < SHAPE.classes, "a wanted label is no class")
    if wanted.index is not None:
        demand(len(wanted.index) == m, f"{len(wanted.index)} indices for {m} inputs")
        demand(int(wanted.index.min()) >= 0 and int(wanted.index.max()) < len(test), "an index is no test example's")
    demand(bool(wanted.counted(test.y).any()), "every input is of the wanted class already")


@check(SAYING)
def objective_pure(trial: Trial) -> None:
    """Law: asking an attack what it wants changes nothing in it or in the test, and the same question has the same answer.
    Why: it is handed the test examples for this answer; what it kept of them would be knowledge that nothing granted.
    If this fails: compute the objective from the configuration, the arguments and the context, and assign to no attribute.
    """
    at, instance = _saying(trial)
    test, again = _test(), _test()
    before = {name: [t.clone() for t in tensors(value)] for name, value in vars(instance).items()}
    first = instance.objective(test, at.context())
    kept = {name: tensors(value) for name, value in vars(instance).items()}
    demand(kept.keys() == before.keys() and all(same(before[n], kept[n]) for n in kept), "it keeps something of the question")
    demand(same(tensors(test), tensors(again)), "it writes into the test examples")
    second = instance.objective(test, at.context())
    demand(same(tensors(first), tensors(second)), "asked again, it wants something else")
