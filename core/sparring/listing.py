"""``sparring list``: what is installed, from entry points alone; the one command that must not wait for a CLI library."""

from __future__ import annotations

import argparse
import contextlib
import importlib.abc
import json
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType

from sparring.errors import PluginError, did_you_mean
from sparring.registry import HEAVY, Broken, Entry, entries, load, load_command

OWN = ("list", "show", "check", "run", "schema")
"""The commands of core itself, which no distribution replaces."""


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
    with _light():
        rows = [(e.kind, e.name, str(e), _state(e, names) if verify else "") for e in found]
    if as_json:
        print(json.dumps([{"kind": k, "name": n, "distribution": d, "state": s or None} for k, n, d, s in rows], indent=2))
    else:
        print_rows(("kind", "name", "distribution", *(("state",) if verify else ())), [r if verify else r[:3] for r in rows])


class _Refused(importlib.abc.MetaPathFinder):
    """Refuses to import heavy packages, so that each plugin whose light module does so is found, not only the first."""

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> None:
        del path, target
        if name.partition(".")[0] in HEAVY:
            raise ImportError(
                f"its light module imports {name}, which list and check must do without: import it in the factories"
            )


@contextlib.contextmanager
def _light() -> Iterator[None]:
    finder = _Refused()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _state(entry: Entry, names: list[tuple[str, str]]) -> str:
    if names.count((entry.kind, entry.name)) > 1:
        return "broken: another distribution offers this name; uninstall one"
    if entry.kind == "commands" and entry.name in OWN:
        return f"broken: '{entry.name}' is a command of core; rename it"
    found = load_command(entry) if entry.kind == "commands" else load(entry)
    return f"broken: {found.reason}" if isinstance(found, Broken) else "ok"


def print_rows(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
