"""``sparring list``: what is installed, from entry points alone; the one command that must not wait for a CLI library."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from sparring.errors import PluginError, did_you_mean
from sparring.registry import Broken, Entry, entries, load


def main(arguments: Sequence[str]) -> None:
    """Parse and run ``sparring list``."""
    parser = argparse.ArgumentParser(prog="sparring list", description="List installed techniques.")
    parser.add_argument("kind", nargs="?", help="one kind, such as defences")
    parser.add_argument("--verify", action="store_true", help="load each plugin and name what is broken")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args(arguments)
    show_list(asked.kind, asked.verify, asked.json)


def show_list(kind: str | None, verify: bool, as_json: bool) -> None:
    """Print the techniques of ``kind``, or all; with ``verify``, load each and say what is broken."""
    known = sorted({e.kind for e in entries()})
    if kind is not None and kind not in known:
        raise PluginError(f"no technique of kind '{kind}' is installed; {did_you_mean(kind, known)}")
    found = [e for e in entries() if kind in (None, e.kind)]
    names = [(e.kind, e.name) for e in found]
    rows = [(e.kind, e.name, str(e), _state(e, names) if verify else "") for e in found]
    if as_json:
        print(json.dumps([{"kind": k, "name": n, "distribution": d, "state": s or None} for k, n, d, s in rows], indent=2))
    else:
        print_rows(("kind", "name", "distribution", *(("state",) if verify else ())), [r if verify else r[:3] for r in rows])


def _state(entry: Entry, names: list[tuple[str, str]]) -> str:
    if names.count((entry.kind, entry.name)) > 1:
        return "broken: another distribution offers this name; uninstall one"
    if entry.kind == "commands":
        return "ok"
    spec = load(entry)
    return f"broken: {spec.reason}" if isinstance(spec, Broken) else "ok"


def print_rows(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
