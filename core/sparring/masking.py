"""Masking: what may be logged of nested values, as JSON or as flat text under dotted keys; secrets never."""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
SECRET = r"(?:token|secret|password|passwd|api[_-]?key)s?(?![a-z])"
_KEY = re.compile(SECRET, re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_QUOTED = re.compile(rf"({SECRET}[\"']?\s*[:=]\s*)([\"'])(?:(?!\2)[^\n])*\2", re.IGNORECASE)
_BARE = re.compile(rf"({SECRET}[\"']?(?:\s*=\s*|\s*:[ \t]+))[^\s,;&\"'{{}}\[\]|>][^\n,;&\"'{{}}\[\]]*", re.IGNORECASE)
_FORBIDDEN = re.compile(r"[^\w\-. /]" if os.name == "nt" else r"[^\w\-. :/]")


def masked(value: Any, key: str = "", inside: bool = False) -> Any:
    """``value`` as JSON can hold it, without secrets.

    Whatever a key like `api_token` or `password` holds becomes ``***``; further below such a key (``inside``: a technique
    may be named `secret-sharing`) only text does. Credentials in URIs and assignments in text go too. Non-finite numbers
    become text, for JSON has none.
    """
    if isinstance(value, Mapping):
        below = inside or bool(_KEY.search(key))
        return {str(name): masked(item, str(name), below) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [masked(item, key, inside) for item in items]
    if value is None or isinstance(value, bool):
        return value
    if _KEY.search(key) or (inside and isinstance(value, str)):
        return MASK
    if isinstance(value, int | float):
        return value if math.isfinite(value) else str(value)
    return masked_text(str(value))


def masked_text(text: str) -> str:
    """``text`` without credentials in URIs and without what stands after ``password:``, ``token=`` and their like."""
    text = _CREDENTIALS.sub(f"{MASK}@", text)
    return _BARE.sub(rf"\1{MASK}", _QUOTED.sub(rf"\1\2{MASK}\2", text))


def flattened(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested ``values`` as text under dotted keys, without secrets; lists of plain values stay whole, as JSON."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict | list) for v in value))
        if value and nested:
            for name, item in value.items() if isinstance(value, dict) else enumerate(value):
                walk(f"{prefix}.{name}" if prefix else str(name), item)
        elif prefix:
            key, copy = mlflow_name(prefix), 1
            while key in flat:
                copy += 1
                key = f"{mlflow_name(prefix)}_{copy}"
            flat[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    walk("", masked(values))
    return flat


def mlflow_name(key: str) -> str:
    """The nearest name that MLflow takes: its characters, no path tricks, at most 240 long (the end says most)."""
    name = _FORBIDDEN.sub("_", key)[-240:]
    tricky = posixpath.normpath(name) != name or name.startswith(("/", ".."))
    return name.replace("/", "_").lstrip(".") or "_" if tricky or name == "." else name
