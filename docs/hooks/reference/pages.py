"""Pages of what a user writes and types: the experiment file, and the commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import typer.main
from pydantic import BaseModel

from reference.prose import code, docstring, plain, prose, table
from sparring import cli
from sparring.describe import options
from sparring.schema import File, Named


def made() -> dict[str, str]:
    """Each page's name with its text."""
    return {"experiment": _experiment(), "commands": _commands()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _experiment() -> str:
    text = (
        "# The experiment file\n\nYAML. `sparring schema` prints the same as JSON Schema, for editors; `sparring check "
        "FILE` names each value that breaks a rule. `--set key.path=value` overrides one value from the command line.\n\n"
    )
    at: dict[type[BaseModel], str] = {File: ""}
    return text + "".join(_section(File, at))


def _section(model: type[BaseModel], at: dict[type[BaseModel], str]) -> Iterator[str]:
    """A section's table, and behind it the sections inside that stand nowhere yet."""
    path = at[model]
    rows, inside = [], []
    for option in options(model):
        kind = option.type
        for found in dict.fromkeys(_models(model.model_fields[option.name].annotation)):
            if found not in at:
                at[found] = f"{path}.{option.name}".lstrip(".")
                inside.append(found)
            name = "a technique" if found is Named else at[found]
            kind = kind.replace("mapping", f"[{name}](#{_anchor(at[found])})")
        default = code(option.default) if option.default not in ("", "required") else option.default or "its own"
        rows.append((code(option.name), kind, default, plain(option.description)))
    head = f"## {path} {{ #{_anchor(path)} }}" if path else "## The top level"
    yield f"{head}\n\n{docstring(model)}{table(('field', 'type', 'default', 'meaning'), rows)}"
    for found in inside:
        yield from _section(found, at)


def _anchor(path: str) -> str:
    return path.replace(".", "-")


def _commands() -> str:
    group: Any = typer.main.get_command(cli.app)
    context = group.make_context("sparring", [], resilient_parsing=True)
    text = "# Commands\n\nA mistake that you can mend ends with status 2 and a sentence on standard error.\n\n"
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.make_context(f"sparring {name}", [], resilient_parsing=True)
        rows = []
        for parameter in command.get_params(inner):
            if parameter.name == "help":
                continue
            names = ", ".join(map(code, (*parameter.opts, *parameter.secondary_opts)))
            if _positional(parameter):
                names = code((parameter.name or "").upper())
            default = "required" if parameter.required else code(str(parameter.default)) if _shown(parameter.default) else ""
            rows.append((names, default, plain(getattr(parameter, "help", None) or "")))
        parameters = command.get_params(inner)
        arguments = [
            (p.name or "").upper() if p.required else f"[{(p.name or '').upper()}]" for p in parameters if _positional(p)
        ]
        usage = " ".join([f"sparring {name}", *arguments, *["[OPTIONS]"] * any(not _positional(p) for p in parameters)])
        text += f"## {name}\n\n```text\n{usage}\n```\n\n{prose(command.help or '')}"
        text += table(("argument", "default", "meaning"), rows)
    return text


def _positional(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _shown(default: Any) -> bool:
    return default is not None and default is not False and default != []
