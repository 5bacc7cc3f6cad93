"""Pages of the contract: hooks, sites, facts, signals, views, roles and specs, from their modules."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, get_args

from reference.prose import annotation, code, described, docstring, signature, table
from sparring import (
    claims,
    context,
    facts,
    hookspecs,
    lab,
    local,
    mixins,
    objectives,
    roles,
    signals,
    sites,
    specs,
    taps,
    verdicts,
    views,
)
from sparring.layout import Layout, Segment
from sparring.registry import TECHNIQUES, entries, load
from sparring.signature import All, Map, Signature


def made() -> dict[str, str]:
    """Each page's name with its text."""
    return {
        "hooks": _hooks(),
        "sites": _sites(),
        "facts": _facts(),
        "signals": _signals(),
        "views": _views(),
        "roles": _roles(),
        "specs": _specs(),
    }


def _head(title: str, text: str) -> str:
    return f"# {title}\n\n{text}\n\n"


def _classes(module: ModuleType, base: type = object) -> Iterator[type]:
    """The public classes that a module defines, in its order."""
    for name, thing in vars(module).items():
        own = inspect.isclass(thing) and thing.__module__ == module.__name__
        if own and issubclass(thing, base) and not name.startswith("_"):
            yield thing


def _sections(classes: Iterable[type], heading: str = "##") -> str:
    return "".join(described(cls, heading) for cls in classes)


def _hooks() -> str:
    text = _head(
        "Hooks",
        "Implementations are marked with `sparring.hookspecs.hookimpl`. A method that bears a hook's name without the mark is "
        "refused, and so is a mark on a name that is no hook.",
    )
    for owner in (hookspecs.DistributionHooks, hookspecs.RunHooks):
        text += f"## {owner.__name__}\n\n{docstring(owner)}"
        for name, hook in vars(owner).items():
            if inspect.isfunction(hook):
                options = getattr(hook, f"{hookspecs.PROJECT}_spec")
                called = "The first result counts." if options["firstresult"] else "Every implementation is called."
                text += f"### {name}\n\n```python\n{signature(hook)}\n```\n\n{docstring(hook)}{called}\n\n"
    return text


def _sites() -> str:
    passed: dict[Any, str] = {site: kind.__name__ for kind, found in roles.SITES.items() for site in found}
    passed |= {sites.Site.TRAINER: "Task to Updates", sites.Site.AGGREGATE: "Cohort to Release"}
    rows = [
        (
            code(site.name),
            code(site.label),
            str(site.value),
            passed.get(site, ""),
            "the clients" if site.client_side or site is sites.Site.TRAINER else "",
            "one layer" if site in sites.OWNED else "",
        )
        for site in sites.Site
    ]
    text = (
        "The order of this table is the order of a run, and a stack must follow it. "
        "What runs when is in [Architecture](../architecture.md)."
    )
    return _head("Sites", text) + table(("site", "printed as", "place", "signal", "run by", "owned by"), rows)


def _facts() -> str:
    for entry in entries():
        if entry.kind in TECHNIQUES:
            load(entry)
    text = _head(
        "Facts",
        "A *closed* field takes one of the values listed and is matched; any other is *carried* along. In a need, a closed "
        "field that is left blank matches any value. What the polarities mean is in "
        "[Threat models, facts, claims](../explanation/threat-models.md#facts).",
    )
    for polarity in (facts.Guarantee, facts.Exposure, facts.Setting):
        text += f"## {polarity.__name__}\n\n{docstring(polarity)}"
        for fact in sorted(polarity.__subclasses__(), key=lambda f: (f.__module__ != facts.__name__, f.__module__)):
            closed = facts.closed_fields(fact)
            rows = [
                (
                    code(field.name),
                    "closed" if field.name in closed else "carried",
                    ", ".join(map(code, closed.get(field.name, ()))) or code(annotation(field.type)),
                )
                for field in dataclasses.fields(fact)
            ]
            origin = "" if fact.__module__ == facts.__name__ else f"From `{fact.__module__}`.\n\n"
            text += f"### {fact.__name__}\n\n{docstring(fact)}{origin}{table(('field', 'kind', 'values'), rows)}"
    return text


def _signals() -> str:
    classes = [vars(signals)[name] for name in signals.__all__ if inspect.isclass(vars(signals)[name])]
    flowing = [cls for cls in classes if cls in get_args(signals.Signal)]
    parts = [cls for cls in classes if cls not in flowing and cls not in (Layout, Segment)]
    parts += [cls for cls in _classes(local) if cls not in classes]
    parts += [verdicts.Verdict, *_classes(objectives)]
    return (
        _head("Signals", docstring(signals).strip())
        + _sections(flowing)
        + "## Parts of signals\n\n"
        + _sections([Layout, Segment, *parts], "###")
        + "## Contexts\n\nEvery hook is given one of these beside its signal.\n\n"
        + _sections([*_classes(context), *_classes(lab)], "###")
    )


def _views() -> str:
    rows = [
        (
            code(name),
            code(roles.VIEW_NAMES[name].__name__),
            ", ".join(code(f"{what} per {grain or 'any grain'}") for what, grain in grants),
        )
        for name, grants in taps.VIEWS.items()
    ]
    grants = table(("view", "class", "granted where the attack's principal can read"), rows)
    return (
        _head("Views", docstring(views).strip())
        + grants
        + "## Tap\n\n"
        + described(taps.Tap, "##").partition("\n\n")[2]
        + _sections(_classes(views))
    )


def _roles() -> str:
    mixed = "## Beside a role\n\n" + docstring(mixins) + _sections(_classes(mixins), "###")
    return _head("Roles", docstring(roles).strip()) + _sections(_classes(roles)) + mixed


def _specs() -> str:
    text = _head("Specs", docstring(specs).strip()) + f"`API` is {specs.API}.\n\n"
    text += _sections(_classes(specs))
    text += "## Signature of a layer\n\n" + _sections((Signature, Map), "###")
    text += f"`ALL`: {_first_line(All)}\n\n"
    return text + "## Claims and events\n\n" + _sections(_classes(claims), "###")


def _first_line(thing: object) -> str:
    """The first line of a docstring."""
    return docstring(thing).partition("\n")[0]
