"""What a technique is, in words: its options with their bounds, and its facts by where they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from sparring.signature import All

if TYPE_CHECKING:
    from sparring.signature import Signature

BOUNDS = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))


@dataclass(frozen=True)
class Option:
    """One option of a configuration, as people read it: its type with bounds, and its default as JSON.

    ``default`` is "required" where there is none, and empty where a section has its own defaults.
    """

    name: str
    type: str
    default: str
    description: str


def options(config: type[BaseModel]) -> list[Option]:
    """The options of a configuration, in the order of its fields."""
    whole = config.model_json_schema()
    required = whole.get("required", ())
    return [_option(name, schema, name in required) for name, schema in whole.get("properties", {}).items()]


def _option(name: str, schema: dict[str, Any], required: bool) -> Option:
    default = "required" if required else json.dumps(schema["default"]) if "default" in schema else ""
    return Option(name, _type(schema), default, schema.get("description", ""))


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("items"):
        return f"list of {_type(schema['items'])}"
    kind = str(schema.get("const") or schema.get("type") or ("mapping" if "$ref" in schema else "any"))
    return " ".join([kind, *(f"{sign} {schema[key]}" for key, sign in BOUNDS if key in schema)])


def signatures(spec: Any) -> list[tuple[str, Signature]]:
    """The signatures of a spec under its default options, by where they hold."""
    try:
        config = spec.config()
    except ValidationError:
        return []
    found = [(layer.site.label, layer.facts(config)) for layer in getattr(spec, "layers", ())]
    reader = getattr(spec, "reader", None)
    if reader is not None:
        found.append((f"reads the {' or '.join(reader.tap(config).views)} view", reader.facts(config)))
    if not found and hasattr(spec, "facts"):
        found.append((spec.kind, spec.facts(config)))
    return found


def described(spec: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """Each signature of a spec in words: where it holds, and what it needs, gives, keeps, hides, maps and claims."""
    for where, signature in signatures(spec):
        keeps = "everything" if isinstance(signature.keeps, All) else ", ".join(map(str, signature.keeps)) or "nothing"
        parts = {
            "needs": ", ".join(" or ".join(map(str, clause)) for clause in signature.clauses),
            "gives": ", ".join(map(str, signature.gives)),
            "keeps": keeps,
            "hides": ", ".join(map(str, signature.hides)),
            "maps": ", ".join(f"{m.source} -> {m.target}" for m in signature.maps),
            "claims": ", ".join(map(str, signature.claims)),
        }
        yield where, {name: text for name, text in parts.items() if text}
