"""Resolution: from an experiment file to named specs, validated configurations and a checked stack. Needs no torch."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparring.checker import Report, Sight, sight, walk
from sparring.defaults import MEAN, averaging, check_engine
from sparring.errors import CompositionError, ConfigError
from sparring.explain import Known, explain
from sparring.facts import Fact, Knows, closed_fields
from sparring.registry import Entry, entries, load, require
from sparring.schema import File, Named, validated
from sparring.signature import Signature, Step
from sparring.sites import Site
from sparring.specs import (
    AccountantSpec,
    AggregatorSpec,
    AttackSpec,
    Config,
    DatasetSpec,
    DefenceSpec,
    HostSpec,
    Layer,
    ModelSpec,
    Spec,
    TrainerSpec,
)
from sparring.threat import skips, start_facts, waivers

STACKED_KINDS = ("defences", "aggregators", "hosts")
DEFAULT_RULE = "mean (default)"
DEFAULT_TRAINER = "federated averaging"


@dataclass(frozen=True)
class Chosen:
    """A technique that the experiment names, with its validated configuration; ``label`` is unique in the run."""

    label: str
    spec: Spec[Any]
    config: Config
    origin: str
    clients: Any = None
    window: Any = None

    def build(self) -> Any:
        """The configured instance."""
        spec: Any = self.spec
        return spec.build(self.config)

    @property
    def identity(self) -> dict[str, Any]:
        """What goes into the experiment's identity."""
        config = self.config.model_dump(mode="json")
        beside = {} if self.window is None else {"window": self.window}
        return {"name": self.spec.name, "config": config, "origin": self.origin, "clients": self.clients, **beside}


@dataclass(frozen=True)
class Placed:
    """A layer of a chosen defence at its place in the stack."""

    name: str
    owner: Chosen
    layer: Layer[Any]
    step: Step


@dataclass(frozen=True)
class Resolved:
    """A cell of an experiment, checked: what runs, in which order, and what each attack would see."""

    file: File
    dataset: Chosen
    model: Chosen
    trainer: Chosen | None
    aggregator: Chosen | None
    host: Chosen | None
    accountant: Chosen | None
    defences: tuple[Chosen, ...]
    attacks: tuple[Chosen, ...]
    layers: tuple[Placed, ...]
    report: Report
    sources: Mapping[Fact, str]
    sights: Mapping[str, Sight]

    @property
    def ok(self) -> bool:
        """Whether the stack type-checks."""
        return self.report.ok

    @property
    def knows(self) -> frozenset[str]:
        """What the threat model grants adversaries to know."""
        return frozenset(fact.what for fact in self.sources if isinstance(fact, Knows) and fact.what)

    @property
    def running(self) -> tuple[Chosen, ...]:
        """The attacks that the stack leaves something to read or to act on; the others are cells, not runs."""
        return tuple(a for a in self.attacks if self.sights[a.label].outcome in ("runs", "degraded"))

    def facts_before(self, *sites: Site) -> tuple[Fact, ...]:
        """The facts, with their numbers, that hold before the first step at one of these sites."""
        at = next(k for k, step in enumerate(self.report.steps) if step.site in sites)
        return tuple(held.fact for held in self.report.trail[at].values())

    def explain(self) -> str:
        """The verdict as text, with what each attack would see."""
        lines = [explain(self.report, self.sources, () if self.ok else known_layers())]
        lines += [f"attack '{name}': {seen}" for name, seen in self.sights.items()]
        return "\n".join(lines)

    def require(self) -> None:
        """Raise `CompositionError` with the whole explanation where the stack does not type-check."""
        if not self.ok:
            raise CompositionError(self.explain())

    @property
    def identity(self) -> str:
        """A hash of everything that the numbers depend on."""
        beside = {"tracking", "performance", "engine", "cells", "attacks", "defences"}
        values = self.file.model_dump(mode="json", exclude=beside)
        parts = [c.identity for c in (self.dataset, self.model, *self.defences, *self.attacks)]
        parts += [c.identity for c in (self.trainer, self.aggregator, self.host) if c]
        return hashlib.sha256(json.dumps([values, parts], sort_keys=True, default=str).encode()).hexdigest()


def resolve(file: File, objects: Mapping[str, Spec[Any]] | None = None) -> Resolved:
    """Load the named plugins' light modules, validate every option and walk the stack.

    ``objects`` are specs given in place of plugins, by section. Raises `PluginError`, `ConfigError`.
    """
    given = objects or {}
    if file.cells:
        raise ConfigError("resolve one cell of an experiment at a time")
    check_engine(file)
    dataset = _given(given, "dataset") or _named(file.dataset, "datasets", "dataset")
    model = _given(given, "model") or _named(file.model, "models", "model")
    trainer = _named(file.federation.trainer, "trainers", "federation.trainer") if file.federation.trainer else None
    stack = _listed(file.defences, STACKED_KINDS, "defences")
    attacks = _listed(file.attacks, ("attacks",), "attacks")
    aggregators = [c for c in stack if isinstance(c.spec, AggregatorSpec)]
    hosts = [c for c in stack if isinstance(c.spec, HostSpec)]
    for what, found in (("aggregators", aggregators), ("hosts", hosts)):
        if len(found) > 1:
            names = " and ".join(f"'{c.label}' ({c.origin})" for c in found)
            raise CompositionError(f"the stack names two {what}, {names}; a run has one: drop one of them")
    placed = tuple(_place(stack, file))
    steps = tuple(_arrange(stack, placed, trainer, aggregators, file))
    assert isinstance(dataset.spec, DatasetSpec)
    assert isinstance(model.spec, ModelSpec)
    sources = start_facts(file, dataset.spec.facts(dataset.config), model.spec.facts(model.config))
    report = walk(steps, sources, waivers(file, steps))
    defences = tuple(c for c in stack if isinstance(c.spec, DefenceSpec))
    return Resolved(
        file=file,
        dataset=dataset,
        model=model,
        trainer=trainer,
        aggregator=aggregators[0] if aggregators else None,
        host=hosts[0] if hosts else None,
        accountant=_accountant(file, defences),
        defences=defences,
        attacks=attacks,
        layers=placed,
        report=report,
        sources=sources,
        sights={attack.label: _sight(report, attack) for attack in attacks},
    )


def _given(objects: Mapping[str, Spec[Any]], section: str) -> Chosen | None:
    spec = objects.get(section)
    return None if spec is None else Chosen(spec.name, spec, spec.config(), "given as an object")


def _named(section: Named, kind: str, where: str) -> Chosen:
    spec, entry = require(section.name, (kind,))
    return Chosen(section.name, spec, validated(spec.config, section.options, where), str(entry))


def _listed(items: Sequence[Any], kinds: Iterable[str], where: str) -> tuple[Chosen, ...]:
    chosen: list[Chosen] = []
    for k, item in enumerate(items):
        named = {item: {}} if isinstance(item, str) else item
        if len(named) != 1:
            raise ConfigError(f"{where}.{k} is {item!r}; each entry is one name with its options: `- name: {{option: value}}`")
        ((name, values),) = named.items()
        options = dict(values or {})
        clients, window = (options.pop(key, None) if where == "attacks" else None for key in ("clients", "window"))
        spec, entry = require(name, kinds)
        same = sum(c.spec.name == name for c in chosen)
        label = f"{name}#{same + 1}" if same else name
        chosen.append(Chosen(label, spec, validated(spec.config, options, f"{where}.{name}"), str(entry), clients, window))
    return tuple(chosen)


def _place(stack: Sequence[Chosen], file: File) -> Iterable[Placed]:
    held = file.threat_model.compromised
    for chosen in stack:
        if not isinstance(chosen.spec, DefenceSpec):
            continue
        for layer in chosen.spec.layers:
            several = len(chosen.spec.layers) > 1
            name = f"{chosen.label}/{layer.site.name.lower()}" if several else chosen.label
            among = "honest" if skips(held.control if held else None, layer.site, layer.wire) else "all"
            signature = _stamped(layer.facts(chosen.config), among)
            yield Placed(name, chosen, layer, Step(name, layer.site, signature))


def _stamped(signature: Signature, among: str) -> Signature:
    def stamp(fact: Fact) -> Fact:
        fields = closed_fields(type(fact))
        return replace(fact, among=among) if "among" in fields and getattr(fact, "among", None) is None else fact  # type: ignore[call-arg]

    return replace(signature, gives=tuple(stamp(fact) for fact in signature.gives))


def _arrange(
    stack: Sequence[Chosen], placed: Sequence[Placed], trainer: Chosen | None, rules: Sequence[Chosen], file: File
) -> Iterable[Step]:
    """Steps in execution order; where the file's own order steps back over sites, in the file's order, to be refused."""
    exits: list[tuple[Site, Chosen]] = []
    steps: list[Step] = []
    for chosen in stack:
        own = [p.step for p in placed if p.owner is chosen]
        if isinstance(chosen.spec, AggregatorSpec):
            own = [Step(chosen.label, Site.AGGREGATE, chosen.spec.facts(chosen.config))]
        elif isinstance(chosen.spec, HostSpec):
            own = [Step(chosen.label, Site.UPDATE, chosen.spec.facts(chosen.config))]
        exits.append((max(step.site for step in own if step.site is not Site.OPEN), chosen))
        steps += own
    spec = trainer.spec if trainer else None
    trained = spec.facts(trainer.config) if trainer and isinstance(spec, TrainerSpec) else averaging(file)
    given = [Step(trainer.label if trainer else DEFAULT_TRAINER, Site.TRAINER, trained)]
    if not rules:
        given.append(Step(DEFAULT_RULE, Site.AGGREGATE, MEAN))
    if any(later[0] < earlier[0] for earlier, later in itertools.pairwise(exits)):
        return _unsorted(steps, given)
    steps += given
    opens = [step for step in steps if step.site is Site.OPEN]
    ordered = sorted((step for step in steps if step.site is not Site.OPEN), key=lambda step: step.site)
    at = next(k for k, step in enumerate(ordered) if step.site is Site.AGGREGATE) + 1
    return [*ordered[:at], *reversed(opens), *ordered[at:]]


def _unsorted(steps: Sequence[Step], given: Sequence[Step]) -> list[Step]:
    """The file's own order, which the walk will refuse, with what core adds just before the first step that comes after it."""
    placed = [step for step in steps if step.site is not Site.OPEN]
    for step in given:
        at = next((k for k, other in enumerate(placed) if other.site > step.site), len(placed))
        placed.insert(at, step)
    return placed


def _sight(report: Report, attack: Chosen) -> Sight:
    assert isinstance(attack.spec, AttackSpec)
    seen = []
    if attack.spec.reader is not None:
        tap = attack.spec.reader.tap(attack.config)
        seen.append(sight(report, attack.spec.reader.facts(attack.config), tap.options()))
    seen += [sight(report, layer.facts(attack.config), (("", (), layer.site),)) for layer in attack.spec.layers]
    order = ("ungranted", "blind", "degraded", "runs")
    return min(seen, key=lambda s: order.index(s.outcome))


def _accountant(file: File, defences: Sequence[Chosen]) -> Chosen | None:
    name = file.privacy.accountant
    if name is None:
        name = next((c.spec.accountant for c in defences if isinstance(c.spec, DefenceSpec) and c.spec.accountant), None)
    if name is None:
        return None
    spec, entry = require(name, ("accountants",))
    assert isinstance(spec, AccountantSpec)
    return Chosen(name, spec, validated(spec.config, {}, f"privacy.{name}"), str(entry))


def known_layers() -> tuple[Known, ...]:
    """Every installed defence with what it gives under its default options: for hints after a failure."""
    found: list[Known] = []
    for entry in entries():
        if entry.kind == "defences":
            found += _gives(entry)
    return tuple(found)


def _gives(entry: Entry) -> Iterable[Known]:
    spec = load(entry)
    if isinstance(spec, DefenceSpec):
        try:
            config = spec.config()
        except ValueError:
            return
        gives = tuple(fact for layer in spec.layers for fact in _stamped(layer.facts(config), "all").gives)
        yield Known(entry.name, gives)
