"""Markdown from docstrings, and tables whose cells may hold anything."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

LABELS = ("Implemented by", "Runs", "Laws", "Raises")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, or nothing where there are no rows."""
    rows = [*rows]
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n" if rows else ""


def _cell(text: str) -> str:
    # inside code spans, pipes, brackets and braces stand for themselves
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part if k % 2 else part.replace("|", "\\|").replace("<", "&lt;").replace("{", "&#123;") for k, part in enumerate(parts)
    )


def code(text: str) -> str:
    """``text`` as code, safe in a cell."""
    return f"`{text}`" if text else ""


def docstring(thing: object) -> str:
    """A docstring as Markdown: double backticks become single ones, examples become code blocks."""
    return prose(inspect.cleandoc(getattr(thing, "__doc__", None) or ""))


def prose(text: str) -> str:
    """Text in the style of the docstrings as Markdown."""
    text = text.replace("``", "`")
    for label in LABELS:
        text = re.sub(rf"(^|(?<=[.:] )){label}(?=:)", f"**{label}**", text, flags=re.MULTILINE)
    parts = []
    for part in text.split("\n\n"):
        example = part.lstrip().startswith(">>>")
        parts.append(f"```pycon\n{part}\n```" if example else part)
    return "\n\n".join(parts) + "\n\n" if text else ""


def plain(text: str) -> str:
    """A line of a description as Markdown: all but what stands between backticks is taken literally."""
    parts = re.split(r"(`[^`]*`)", text.replace("``", "`"))
    return "".join(part if k % 2 else re.sub(r"([*_\\])", r"\\\1", part) for k, part in enumerate(parts))


def annotation(hint: Any) -> str:
    """A type as the source writes it."""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint)))


def signature(function: Callable[..., Any]) -> str:
    """A function's head, as the source writes it."""
    found = inspect.signature(function)
    parameters = [
        f"{p.name}{'' if p.annotation is p.empty else ': ' + annotation(p.annotation)}"
        + ("" if p.default is p.empty else f" = {p.default!r}")
        for p in found.parameters.values()
        if p.name not in ("self", "cls")
    ]
    returned = "" if found.return_annotation is found.empty else f" -> {annotation(found.return_annotation)}"
    return f"{function.__name__}({', '.join(parameters)}){returned}"


def described(cls: type, heading: str) -> str:
    """A class: its docstring, its fields, and what it offers."""
    return f"{heading} {cls.__name__}\n\n{docstring(cls) if _own(cls) else ''}{_fields(cls)}{_members(cls)}"


def _own(cls: type) -> bool:
    # a dataclass without a docstring is given its constructor's signature for one
    return not (cls.__doc__ or "").startswith(f"{cls.__name__}(")


def _fields(cls: type) -> str:
    if not dataclasses.is_dataclass(cls):
        return ""
    rows = []
    for field in dataclasses.fields(cls):
        default = "required" if field.default is dataclasses.MISSING else code(default_text(field.default))
        if field.default_factory is not dataclasses.MISSING:
            default = (
                code(f"{getattr(field.default_factory, '__name__', '')}()") if _named(field.default_factory) else "made anew"
            )
        rows.append((code(field.name), code(annotation(field.type)), default))
    return table(("field", "type", "default"), rows)


def _named(factory: Any) -> bool:
    return getattr(factory, "__name__", "<lambda>") != "<lambda>"


def default_text(value: Any) -> str:
    """A default as people read it."""
    name = getattr(value, "__name__", repr(value))
    return "" if name == "<lambda>" else name


def _members(cls: type) -> str:
    lines = []
    for name, member in vars(cls).items():
        raw = member.__func__ if isinstance(member, staticmethod | classmethod) else member
        target = getattr(raw, "func", None) or getattr(raw, "fget", None) or raw
        if name.startswith("_") or not inspect.isfunction(target):
            continue
        head = signature(target) if target is raw else f"{name}: {annotation(target.__annotations__.get('return', 'Any'))}"
        abstract = " *(abstract)*" if getattr(target, "__isabstractmethod__", False) else ""
        text = textwrap.indent(prose(inspect.cleandoc(target.__doc__ or "")).strip(), "    ").lstrip()
        lines.append(f"- `{head}`{abstract}" + (f"  \n    {text}" if text else ""))
    return "\n".join(lines) + "\n\n" if lines else ""
