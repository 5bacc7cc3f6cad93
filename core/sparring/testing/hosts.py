"""Checks of hosts: what is rebuilt elsewhere from names aggregates what it would aggregate here."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from sparring.errors import SparringError
from sparring.facts import Identified, Readable, Space, Summable, Weighted
from sparring.roles import StackRef
from sparring.signals import Cohort, Release
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AggregatorSpec, Config, DefenceSpec
from sparring.testing.fixtures import make_setup
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.purity import demand_untouched, world
from sparring.testing.stage import aggregate, make_signal, same
from sparring.testing.subject import Trial, kind

HOSTS = kind("hosts")
STACKS = 3
ORDINARY = (Summable(), Identified(), Weighted(), Space("real"))
Part = tuple[AggregatorSpec[Any] | DefenceSpec[Any], Config]


def _parts(trial: Trial, wanted: type[Any]) -> Iterator[Part]:
    """Techniques beside the host that need no options: it rebuilds from names, so only what is installed can move."""
    for spec in (*trial.subject.siblings, *trial.subject.beside):
        if isinstance(spec, wanted):
            with contextlib.suppress(ValidationError):
                config = spec.config()
                if all(_plain(layer.facts(config)) for layer in getattr(spec, "layers", (spec,))):
                    yield spec, config


def _plain(signature: Signature) -> bool:
    """Whether ordinary rows, which the reader may read, are all that is needed."""
    return all(any(isinstance(need, Readable) or need in ORDINARY for need in clause) for clause in signature.clauses)


def stacks(trial: Trial) -> list[tuple[Part, ...]]:
    """Rules by themselves, and one behind a COHORT layer where there is one."""
    rules = list(itertools.islice(_parts(trial, AggregatorSpec), STACKS))
    layers = [part for part in _parts(trial, DefenceSpec) if isinstance(part[0], DefenceSpec) and _at_cohort(part[0])]
    return [(rule,) for rule in rules] + [(layer, rule) for layer in layers[:1] for rule in rules[:1]]


def _at_cohort(spec: DefenceSpec[Any]) -> bool:
    return all(layer.site is Site.COHORT for layer in spec.layers)


def _here(stack: tuple[Part, ...]) -> Callable[[Cohort, Any], Release]:
    """The same stack in this process."""
    *before, (rule, options) = stack
    assert isinstance(rule, AggregatorSpec)
    moved = [(spec.name, layer, config) for spec, config in before if isinstance(spec, DefenceSpec) for layer in spec.layers]
    layers: list[tuple[str, Any]] = [(name, layer.build(config)) for name, layer, config in moved]
    made = rule.build(options)

    def run(cohort: Cohort, ctx: Any) -> Release:
        for name, layer in layers:
            # each layer draws from its own stream, wherever it runs
            cohort = layer.defence_transform(cohort, ctx.at(name, ctx.facts))
        return aggregate(made, cohort, ctx)

    return run


@check(HOSTS)
def host_as_here(trial: Trial) -> None:
    """Law: a host that opens a stack of names and configurations releases what that stack releases in this process.
    Why: it changes who can read the rows, and nothing else.
    If this fails: rebuild each layer by `registry.require(name, ...)`, call it at `ctx.at(name, ...)`, send ids and weights.
    """
    found = stacks(trial)
    if not found:
        raise Inapplicable("no aggregation rule stands beside it: conformance(..., beside=[...])")
    for stack in found:
        named = tuple((spec.name, "the kit", config.model_dump(mode="json")) for spec, config in stack)
        label = " >> ".join(spec.name for spec, _ in stack)
        forward, here = trial.build().open(named, make_setup(trial.spec.name)), _here(stack)
        for index in (0, 1):
            cohort = make_signal(Site.COHORT, seed=index)
            ctx = trial.context(index)
            before = world()
            release = forward(cohort, ctx)
            demand_untouched(before)
            expected = here(cohort, trial.context(index))
            equal = same([release.vector], [expected.vector]) or _near(release, expected)
            demand(equal, f"{label} in round {index} releases something else than it does here")
            demand(release.layout == expected.layout, f"{label} releases another layout than it does here")
            held = (release.total, release.clients, tuple(release.excluded))
            wanted = (expected.total, expected.clients, tuple(expected.excluded))
            demand(held == wanted, f"{label} says (total, clients, excluded) {held}, here {wanted}")


def _near(left: Release, right: Release) -> bool:
    fits = left.vector.shape == right.vector.shape and left.vector.dtype == right.vector.dtype
    return fits and float((left.vector.cpu() - right.vector).norm()) <= 1e-6 * float(right.vector.norm())


@check(HOSTS)
def host_refuses(trial: Trial) -> None:
    """Law: a stack that names what is not installed is refused with an error that users can mend.
    Why: the other end may hold other versions; a stack that was silently shortened defends nothing.
    If this fails: let `registry.require` raise its `PluginError`.
    """
    named: StackRef = (("no-such-rule", "nowhere 0", {}),)
    try:
        forward = trial.build().open(named, make_setup(trial.spec.name))
        forward(make_signal(Site.COHORT), trial.context())
    except SparringError:
        return
    except Exception as error:
        raise AssertionError(f"it raised {type(error).__name__}: {error}") from error
    raise AssertionError("it opened a stack that names a rule which is not installed")
