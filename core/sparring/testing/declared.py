"""Checks of declarations: signatures are pure, classes act where they are declared, hooks are marked."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from sparring.errors import PluginError
from sparring.facts import Clipped, Fact, Setting, closed_fields
from sparring.manager import run_manager
from sparring.roles import (
    SITES,
    VIEW_NAMES,
    Accountant,
    ActiveAttack,
    Aggregator,
    Dataset,
    Defence,
    Engine,
    Host,
    Model,
    PassiveAttack,
    StreamingAggregator,
    Trainer,
)
from sparring.sites import OWNED, Site
from sparring.specs import AttackSpec, DefenceSpec
from sparring.testing.kit import Scope, check, demand
from sparring.testing.subject import CONFIGURED, Subject, Trial

ROLES: dict[str, tuple[type[Any], ...]] = {
    "aggregators": (Aggregator, StreamingAggregator),
    "trainers": (Trainer,),
    "datasets": (Dataset,),
    "models": (Model,),
    "accountants": (Accountant,),
    "hosts": (Host,),
    "engines": (Engine,),
}


def _signatures(trial: Trial) -> dict[str, Any]:
    parts = {f"layer {k}": layer.facts(trial.config) for k, layer in enumerate(trial.subject.layers)}
    if isinstance(trial.spec, AttackSpec) and trial.spec.reader is not None:
        parts["reader"] = trial.spec.reader.facts(trial.config)
    if not isinstance(trial.spec, DefenceSpec | AttackSpec) and hasattr(trial.spec, "facts"):
        parts["technique"] = trial.spec.facts(trial.config)
    return parts


@check(CONFIGURED)
def signature_pure(trial: Trial) -> None:
    """Law: a signature is a function of the configuration alone, and what it gives names a value for every closed field.
    Why: the checker asks for it several times, and proves something about a stack only if every answer is the same.
    If this fails: compute the signature from `config` and constants; leave only `among` of a given fact blank.
    """
    first, second = _signatures(trial), _signatures(trial)
    for part, signature in first.items():
        demand(signature == second[part], f"the signature of its {part} differs between two calls")
        for fact in signature.gives:
            blank = [name for name in closed_fields(type(fact)) if name != "among" and getattr(fact, name) is None]
            demand(not blank, f"its {part} gives {fact}, which leaves {', '.join(blank)} blank")
            demand(not isinstance(fact, Clipped) or fact.bound is not None, f"its {part} gives {fact} without a bound")
        patterns = () if not isinstance(signature.keeps, tuple) else signature.keeps
        odd = [fact for fact in (*patterns, *signature.hides) if not isinstance(fact, Fact) or isinstance(fact, Setting)]
        demand(not odd, f"its {part} keeps or hides {odd}, which are no guarantees or exposures")


@check(Scope(lambda s: bool(s.layers), lambda s: s.trials()))
def layers_legal(trial: Trial) -> None:
    """Law: each layer's class acts at the declared site, and layers stand in the order of their sites.
    Why: the order that is checked and printed is the order in which a run executes them.
    If this fails: set `site` to that of the class's type argument; list layers from the client to the release.
    """
    layers = trial.subject.layers
    role = ActiveAttack if isinstance(trial.spec, AttackSpec) else Defence
    for earlier, later in pairwise(layers):
        demand(earlier.site <= later.site, f"{later.site.label} stands behind {earlier.site.label}")
        owned = earlier.site is later.site and later.site in OWNED
        demand(not owned, f"two layers own {later.site.label}")
    for layer in layers:
        instance = layer.build(trial.config)
        demand(
            isinstance(instance, role),
            f"at {layer.site.label} it builds {type(instance).__name__}, which is no {role.__name__}",
        )
        sites = SITES[type(instance).signal]
        demand(
            layer.site in sites,
            f"it declares {layer.site.label}, but {type(instance).__name__} acts at {', '.join(site.label for site in sites)}",
        )
        if layer.wire:
            forced = (Site.DATA, Site.UPDATE, Site.OPEN)
            demand(layer.site in forced, f"{layer.site.label} is nothing that the server could force")


@check(CONFIGURED)
def built_as_declared(trial: Trial) -> None:
    """Law: every factory builds its kind's role, with hooks marked `@hookimpl`; a reader's tap asks for views that it reads.
    Why: an unmarked hook never runs, and a view that the tap does not ask for never arrives.
    If this fails: subclass the role directly, mark its hooks, name the same views in `Tap(views=...)` and the type argument.
    """
    subject: Subject = trial.subject
    made: list[Any] = [layer.build(trial.config) for layer in subject.layers]
    if trial.spec.kind in ROLES:
        made.append(trial.build())
        demand(
            isinstance(made[-1], ROLES[trial.spec.kind]), f"it builds {type(made[-1]).__name__}, no part of {trial.spec.kind}"
        )
    if isinstance(trial.spec, AttackSpec) and trial.spec.reader is not None:
        reader = trial.spec.reader.build(trial.config)
        demand(isinstance(reader, PassiveAttack), f"its reader builds {type(reader).__name__}, which is no PassiveAttack")
        asked = tuple(VIEW_NAMES[view] for view in trial.spec.reader.tap(trial.config).views)
        unread = [view.__name__ for view in asked if view not in type(reader).views]
        demand(
            bool(asked) and not unread, f"its tap asks for {unread or 'nothing'}, which {type(reader).__name__} does not read"
        )
        made.append(reader)
    for instance in made:
        try:
            run_manager().admit(instance, subject.spec.name, subject.module)
        except PluginError as error:
            raise AssertionError(str(error)) from error
