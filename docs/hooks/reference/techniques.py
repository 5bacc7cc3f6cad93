"""One page per kind of plugin, with every installed technique: options, facts, licence, and its reference card."""

from __future__ import annotations

from typing import Any

from reference.prose import code, docstring, plain, table
from sparring.describe import described, options
from sparring.registry import TECHNIQUES, Broken, Entry, entries, load
from sparring.specs import KINDS
from sparring.testing.cards import Card, card_file, read_card

TITLES = {"datasets": "Data sets"}


def made() -> dict[str, str]:
    """Each page's name with its text; the first page says what is where."""
    return {kind: _kind(kind) for kind in TECHNIQUES}


def title(kind: str) -> str:
    """What people call a kind."""
    return TITLES.get(kind, kind.capitalize())


def _kind(kind: str) -> str:
    spec = KINDS[kind]
    text = f"# {title(kind)}\n\n{docstring(spec)}"
    text += f"Entry-point group `sparring.{kind}`, spec class [`{spec.__name__}`](specs.md#{spec.__name__.lower()}).\n\n"
    found = [entry for entry in entries() if entry.kind == kind]
    if not found:
        return text + "None is installed.\n"
    loaded = [(entry, load(entry)) for entry in found]
    whole = [(entry, spec) for entry, spec in loaded if not isinstance(spec, Broken)]
    broken = [(code(entry.name), spec.reason) for entry, spec in loaded if isinstance(spec, Broken)]
    text += table(
        ("name", "what it is"), [(f"[{code(entry.name)}](#{entry.name})", plain(spec.summary)) for entry, spec in whole]
    )
    text += "".join(_technique(entry, spec) for entry, spec in whole)
    return text + ("## Broken\n\n" + table(("name", "why"), broken) if broken else "")


def _technique(entry: Entry, spec: Any) -> str:
    text = f"## {entry.name} {{ #{entry.name} }}\n\n{plain(spec.summary)}\n\n"
    facts = [("distribution", code(entry.distribution))]
    facts += [(what, plain(getattr(spec, name))) for name, what in _ABOUT.items() if getattr(spec, name, None)]
    text += "".join(f"- *{what}*: {value}\n" for what, value in facts) + "\n"
    rows = [
        (code(o.name), o.type, o.default if o.default == "required" else code(o.default), plain(o.description))
        for o in options(spec.config)
    ]
    text += table(("option", "type", "default", "meaning"), rows) or "No options.\n\n"
    for where, words in described(spec):
        if words != {"keeps": "everything"}:
            head = ("facts" if where == entry.kind else where, "under the default options")
            text += table(head, [(name, code(value)) for name, value in words.items()])
    if card_file(entry.module, entry.name).is_file():
        text += _card(read_card(entry.module, entry.name))
    return text


_ABOUT = {"game": "game", "accountant": "accountant", "licence": "licence", "source": "source", "stands_for": "stands for"}


def _card(card: Card) -> str:
    paper = card.paper
    link = f", {paper.link}" if paper.link else ""
    text = f"**Reference card.** {paper.authors}: {paper.title}. {paper.venue}, {paper.year}{link}. {card.setting}\n\n"
    if card.unpublished:
        text += f"No published number: {card.unpublished}\n\n"
    rows = [(row.quantity, str(row), row.origin) for row in card.expected]
    return (
        text
        + table(("quantity", "expected", "origin"), rows)
        + f"`sparring reproduce {card.technique}` measures it again (about {card.seconds:g} s).\n\n"
    )
