"""Checks of reconstruction attacks: they see a tiny undefended victim, see nothing in noise, and find the same twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sparring.facts import Knows, PublicData
from sparring.games import ReconstructionGame
from sparring.scoring import Score, Truth
from sparring.signals import Broadcast, Examples
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AttackSpec
from sparring.testing.active import knows
from sparring.testing.fixtures import SHAPE, Victim, make_setup, smooth, tiny_victim
from sparring.testing.kit import Inapplicable, Scope, check, demand
from sparring.testing.stage import same
from sparring.testing.subject import Subject, Trial
from sparring.views import AggregateView, Reconstruction, UpdateView


def _reconstructs(s: Subject) -> bool:
    return isinstance(s.spec, AttackSpec) and s.spec.reader is not None and s.spec.game == "reconstruction"


READERS = Scope[Trial](_reconstructs, lambda s: s.quick())


def _victim(trial: Trial) -> Victim:
    needs = trial.spec.reader.facts(trial.config)
    return tiny_victim(labels=knows(needs, "labels"), settings=knows(needs, "local-settings"), sent=_sent(trial))


def _sent(trial: Trial) -> Callable[[Broadcast], Broadcast]:
    """What the attack's own layers make of a broadcast: a malicious server reads answers to the model that it sent."""
    places = [k for k, layer in enumerate(trial.subject.layers) if layer.site is Site.BROADCAST]

    def sent(broadcast: Broadcast) -> Broadcast:
        for own in (Trial(trial.subject, trial.config, trial.sampled, place) for place in places):
            broadcast = own.apply(own.build(), broadcast, own.context())
        return broadcast

    return sent


def _public(trial: Trial) -> Examples | None:
    """Images like the victims', of all classes, for an attack that has images of its own."""
    clauses = trial.spec.reader.facts(trial.config).clauses
    if not any(isinstance(fact, PublicData) for clause in clauses for fact in clause):
        return None
    x = smooth(64, torch.Generator().manual_seed(1))
    return Examples(x, torch.arange(len(x)) % SHAPE.classes)


def _finding(trial: Trial, victim: Victim, world: int = 0) -> Reconstruction:
    attack = trial.spec.reader.build(trial.config)
    view: Any = victim.view
    if UpdateView not in attack.views:
        if AggregateView not in attack.views:
            raise Inapplicable("it reads neither updates nor aggregates")
        view = AggregateView(view.shape, view.loss, view.captures, view.settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(world)
        finding = attack.attack_observe(view, replace(make_setup(trial.spec.name), public=_public(trial)))
    demand(isinstance(finding, Reconstruction), f"a reconstruction attack found a {type(finding).__name__}")
    assert isinstance(finding, Reconstruction)
    keys = {(capture.round, capture.client) for capture in view.captures}
    demand(set(finding.inputs) == keys, f"it was given captures {sorted(keys)}, and reconstructed {sorted(finding.inputs)}")
    for key, x in finding.inputs.items():
        demand(tuple(x.shape) == (1, *victim.images.shape[1:]), f"the reconstruction of {key} has shape {tuple(x.shape)}")
        inside = bool(x.isfinite().all()) and float(x.min()) >= 0 and float(x.max()) <= 1
        demand(inside, f"the reconstruction of {key} leaves [0, 1]")
        demand(len(finding.labels[key]) == 1, f"{len(finding.labels[key])} labels for one input of {key}")
    demand(bool(np.isfinite(finding.cost)) and finding.cost > 0, f"its cost is {finding.cost}")
    return finding


def _score(finding: Reconstruction, victim: Victim) -> Score:
    examples = {
        (capture.round, capture.client): Examples(victim.images[k : k + 1], torch.tensor([k]))
        for k, capture in enumerate(victim.view.captures)
    }
    return ReconstructionGame().score(finding, Truth(examples, victim.mean))


@check(READERS)
def reconstruction_control(trial: Trial) -> None:
    """Law: from undefended FedSGD gradients of single images, a reconstruction beats grey and the mean image by 1 dB.
    The gradients are those of the model that the attack itself sends, where it acts on the broadcast.
    Why: the positive control: a defence is only tested by an attack that works without it.
    If this fails: check the sign and scale of the gradient, the loss, the labels and the number of iterations.
    """
    victim = _victim(trial)
    measures = _score(_finding(trial, victim), victim).measures
    best = max(measures["psnr_grey_image"].value, measures["psnr_mean_image"].value)
    found = measures["psnr"].value
    demand(found > best + 1, f"PSNR {found:.2f} dB, where the better of grey and mean image has {best:.2f} dB")


@check(READERS)
def reconstruction_from_noise(trial: Trial) -> None:
    """Law: from updates that are pure noise, a reconstruction is at most 3 dB better than grey, or than its own prior.
    Why: the negative control: what it finds in noise it did not read from the update.
    If this fails: look for the truth, or a prior fitted to it, leaking into the attack.
    """
    victim = _victim(trial).drowned()
    measures = _score(_finding(trial, victim), victim).measures
    found = measures["psnr"].value
    without = max(measures[name].value for name in ("psnr_grey_image", "psnr_prior_only") if name in measures)
    demand(found <= without + 3, f"PSNR {found:.2f} dB from noise, where grey, or its own prior, has {without:.2f} dB")


def _sure(signature: Signature, what: str) -> bool:
    """Whether no alternative meets a need but this knowledge."""
    return any(all(isinstance(f, Knows) and f.what == what for f in clause) for clause in signature.clauses)


@check(READERS)
def reader_needs_enough(trial: Trial) -> None:
    """Law: a reader works on a view that holds what its needs grant for certain, and nothing else that could be granted.
    Why: the checker lets it run there; an attack that then fails, or finds nothing, reads as a defence that works.
    If this fails: add `Knows("labels")` or `Knows("local-settings")` to its needs, or do without where the view holds None.
    """
    needs = trial.spec.reader.facts(trial.config)
    least = tiny_victim(labels=_sure(needs, "labels"), settings=_sure(needs, "local-settings"), sent=_sent(trial))
    try:
        _finding(trial, least)
    except (AssertionError, Inapplicable):
        raise
    except Exception as error:
        raise AssertionError(f"on what it needs alone it ended with {type(error).__name__}: {error}") from error


@check(READERS)
def finding_repeats(trial: Trial) -> None:
    """Law: the same view under the same key gives the same finding, whatever the global generators hold.
    Why: attacks run after training, on a record; running one again must print the same table.
    If this fails: draw starts from `ctx.generator(capture.client)`, never from global state.
    """
    victim = _victim(trial)
    first, second = _finding(trial, victim, 1), _finding(trial, victim, 2)
    for key, x in first.inputs.items():
        demand(same([x, first.labels[key]], [second.inputs[key], second.labels[key]]), f"two findings of {key} differ")
