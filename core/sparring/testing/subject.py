"""What is tested: a technique, its configurations, and each of its layers under each of them."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AggregatorSpec, AnySpec, AttackSpec, Config, DefenceSpec, Layer
from sparring.testing.kit import Scope
from sparring.testing.sampler import samples

if TYPE_CHECKING:
    from sparring.context import Context
    from sparring.facts import Fact

Example = Mapping[str, Any] | Callable[[Path], Mapping[str, Any]]


def _folder() -> Path:
    """An empty folder that lasts as long as the process."""
    path = tempfile.mkdtemp(prefix="sparring-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


@dataclass(frozen=True, eq=False)
class Subject:
    """A technique, the others of its distribution, the light module, and what its author gave for the tests.

    ``beside``: techniques of other distributions that are installed, which a host may be asked to rebuild.
    """

    spec: AnySpec
    siblings: tuple[AnySpec, ...]
    module: str
    examples: tuple[Example, ...] = ()
    fast: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[AnySpec, ...] = ()

    label = ""
    sampled = False

    @cached_property
    def layers(self) -> tuple[Layer[Any], ...]:
        """The layers of a defence or an attack."""
        return self.spec.layers if isinstance(self.spec, DefenceSpec | AttackSpec) else ()

    @cached_property
    def main(self) -> tuple[Config, ...]:
        """The default configuration where it validates, and the author's examples."""
        found: list[Config] = []
        with contextlib.suppress(ValidationError):
            found.append(self.spec.config())
        for example in self.examples:
            options = example if isinstance(example, Mapping) else example(_folder())
            found.append(self.spec.config.model_validate(dict(options)))
        return tuple(found)

    @cached_property
    def tried(self) -> tuple[tuple[Config, bool], ...]:
        """Each configuration to try, with whether the kit drew it from the schema's bounds."""
        drawn = samples(self.main[0], size=self.spec.kind != "models") if self.main else ()
        return (*((config, False) for config in self.main), *((config, True) for config in drawn))

    def declares(self, declares: Callable[[Signature], bool]) -> bool:
        """Whether some layer declares so under some configuration; where a declaration fails, its own checks say so."""
        try:
            return any(declares(layer.facts(config)) for config, _ in self.tried for layer in self.layers)
        except Exception:
            return True

    def trials(self) -> Iterator[Trial]:
        """The technique under each configuration, as a whole."""
        for config, sampled in self.tried:
            yield Trial(self, config, sampled)

    def quick(self) -> Iterator[Trial]:
        """The technique under the author's configurations, each with the options in ``fast``."""
        for config in self.main:
            yield Trial(self, type(config).model_validate({**config.model_dump(exclude_unset=True), **self.fast}), False)

    def placed(self, sites: tuple[Site, ...]) -> Iterator[Trial]:
        """Each layer at ``sites`` under each configuration."""
        for trial in self.trials():
            for place, layer in enumerate(self.layers):
                if layer.site in sites:
                    yield Trial(self, trial.config, trial.sampled, place)


@dataclass(frozen=True, eq=False)
class Trial:
    """A technique under one configuration; ``place``: which of its layers, where it is about one."""

    subject: Subject
    config: Config
    sampled: bool
    place: int | None = None

    @property
    def label(self) -> str:
        options = self.config.model_dump(mode="json", exclude_defaults=True)
        shown = ", ".join(f"{name}={value!r}" for name, value in options.items()) or "default options"
        return shown + (f" at {self.site.label}" if self.place is not None and len(self.subject.layers) > 1 else "")

    @property
    def spec(self) -> Any:
        return self.subject.spec

    @property
    def layer(self) -> Layer[Any]:
        assert self.place is not None
        return self.subject.layers[self.place]

    @property
    def site(self) -> Site:
        """Where it acts; a rule acts where aggregation stands."""
        return Site.AGGREGATE if self.place is None else self.layer.site

    @cached_property
    def signature(self) -> Signature:
        """What this layer, or this technique, declares."""
        found: Signature = (self.layer if self.place is not None else self.spec).facts(self.config)
        return found

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """Facts that hold where it stands: what training gives, and what meets its needs."""
        from sparring.testing.stage import standing

        return standing(self.signature)

    def build(self) -> Any:
        """A fresh instance."""
        return (self.layer if self.place is not None else self.spec).build(self.config)

    def context(self, index: int = 0, seed: int = 0, **grants: Any) -> Context:
        """The context in which the engine would call it, with what its needs are granted."""
        from sparring.testing.active import granted, knows
        from sparring.testing.stage import make_context

        if self.subject.spec.kind == "attacks":
            grants = {
                "trains": knows(self.signature, "recipe"),
                **(granted(self) if self.site is Site.UPDATE else {}),
                **grants,
            }
        return make_context(self.site, index, seed, self.spec.name, self.facts, **grants)

    def signal(self, seed: int = 0) -> Any:
        """A signal that satisfies its needs, behind the earlier layers of the same kind of signal."""
        from sparring.testing.fixtures import IDS
        from sparring.testing.stage import make_signal

        borne = getattr(self.config, "f", 0)
        signal = make_signal(self.site, self.facts, seed, max(len(IDS), 4 * borne + 3 if isinstance(borne, int) else 0))
        for place in range(self.place or 0):
            before = Trial(self.subject, self.config, self.sampled, place)
            if (before.site.local and self.site.local) or before.site is self.site:
                signal = before.apply(before.build(), signal, before.context())
        return signal

    def apply(self, instance: Any, signal: Any, ctx: Context) -> Any:
        """What the instance makes of a signal."""
        if isinstance(self.spec, AggregatorSpec):
            from sparring.testing.stage import aggregate

            return aggregate(instance, signal, ctx)
        hook = instance.attack_transform if isinstance(self.spec, AttackSpec) else instance.defence_transform
        return hook(signal, ctx)

    def outcome(self, index: int = 0, seed: int = 0, instance: Any = None, content: int = 0) -> tuple[Any, ...]:
        """Tensors that show everything a fresh (or the given) instance makes of a signal in round ``index``."""
        from sparring.testing.stage import outcome

        made = self.build() if instance is None else instance
        return outcome(self.site, self.apply(made, self.signal(content), self.context(index, seed)), index)


EVERY = Scope[Subject](lambda s: True, lambda s: (s,))
CONFIGURED = Scope[Trial](lambda s: True, lambda s: s.trials())


OUTWARD = ("datasets", "engines", "hosts")


def kind(name: str) -> Scope[Trial]:
    """Techniques of a kind under every configuration; under the author's alone where options reach outside."""
    return Scope(lambda s: s.spec.kind == name, lambda s: s.quick() if name in OUTWARD else s.trials())


def layers(*sites: Site, kinds: tuple[str, ...] = ("defences",), paired: bool | None = None) -> Scope[Trial]:
    """Single layers at ``sites``; ``paired``: only of pairs, or only of others."""

    def applies(s: Subject) -> bool:
        both = paired is None or getattr(s.spec, "paired", False) == paired
        return s.spec.kind in kinds and both and any(layer.site in sites for layer in s.layers)

    return Scope(applies, lambda s: s.placed(sites))


def on_server(*sites: Site) -> Scope[Trial]:
    """Layers of defences at ``sites``, and rules where AGGREGATE is among them."""
    placed = layers(*sites)
    rules = Site.AGGREGATE in sites

    def applies(s: Subject) -> bool:
        return (rules and s.spec.kind == "aggregators") or placed.applies(s)

    return Scope(applies, lambda s: s.trials() if s.spec.kind == "aggregators" else placed.targets(s))


PLAYED = tuple(site for site in Site if site not in (Site.START, Site.TRAINER, Site.AGGREGATE, Site.OPEN))


def _acting(s: Subject) -> Iterator[Trial]:
    return s.trials() if isinstance(s.spec, AggregatorSpec) else s.placed(PLAYED)


ACTING = Scope[Trial](lambda s: s.spec.kind == "aggregators" or bool(s.layers), _acting)
"""Everything that transforms a signal by itself: layers of defences and attacks, and rules; second halves of pairs do not."""
