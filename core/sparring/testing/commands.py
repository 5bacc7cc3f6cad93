"""The commands of plugin authors: new, template, check-plugin, reproduce. They join the CLI as any tool's do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sparring.registry import Entry
    from sparring.specs import AnySpec
    from sparring.testing.cards import Card, CoreLine
    from sparring.testing.suite import Case

JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]


def new(
    kind: Annotated[str, typer.Argument(help="attack, defence, aggregator, dataset, model or engine", show_default=False)],
    name: Annotated[str, typer.Argument(help="the technique's name in kebab-case", show_default=False)],
    into: Annotated[Path, typer.Option(help="folder in which the distribution's folder is made")] = Path(),
    author: Annotated[str | None, typer.Option(help="author; default: git's user.name")] = None,
    licence: Annotated[str, typer.Option(help="Apache-2.0, MIT, BSD-3-Clause or none")] = "Apache-2.0",
) -> None:
    """Make a distribution with one small technique that passes the conformance kit, to change into your own."""
    from sparring.testing.scaffold import scaffold

    made = scaffold(kind, name, into, author, licence)
    typer.echo(f"made {made}\n\nnext:")
    for line in (f"pip install -e '{made}[dev]'", f"sparring check-plugin {name}", f"python -m pytest {made}"):
        typer.echo(f"  {line}")


def template() -> None:
    """Put this core's template of plugins where `copier update` looks for it, beside those of earlier cores."""
    from sparring.testing.scaffold import HOME, repository, versions

    repository()
    typer.echo(f"{HOME} holds the templates of {', '.join(versions())}; in a plugin's folder: copier update")


def check_plugin(
    name: Annotated[str, typer.Argument(help="an installed technique, or a distribution for all of its techniques")],
    example: Annotated[list[str] | None, typer.Option(help="further options to try, as a JSON object; repeatable")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the conformance kit on an installed technique. Ends with status 1 if it breaks a law."""
    results = [_checked(case) for case in _cases(name, example or [])]
    failed = [row for row in results if row["result"] == "failed"]
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        for row in results:
            typer.echo(
                f"{row['result']:12}  {row['technique']}::{row['check']}" + (f"\n{row['detail']}" if row["detail"] else "")
            )
        counts = [f"{sum(row['result'] == r for row in results)} {r}" for r in ("passed", "inapplicable", "failed")]
        typer.echo(", ".join(counts))
    if failed:
        raise typer.Exit(1)


def _cases(name: str, examples: list[str]) -> list[Case]:
    import importlib

    from sparring.errors import ConfigError
    from sparring.registry import require
    from sparring.schema import validated
    from sparring.testing.suite import cases

    chosen = _entries(name)
    options: list[dict[str, Any]] = []
    for text in examples:
        try:
            options.append(dict(json.loads(text)))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"--example {text!r} is no JSON object: {error}") from error
        for entry in chosen:
            validated(require(entry.name, [entry.kind])[0].config, options[-1], f"--example of {entry.name}")
    found: list[Case] = []
    for module in sorted({entry.module for entry in chosen}):
        names = {(entry.kind, entry.name) for entry in chosen if entry.module == module}
        given = {name: options for _, name in names} if options else None
        made = cases(importlib.import_module(module), examples=given, beside=_installed())
        found += [case for case in made if (case.subject.spec.kind, case.subject.spec.name) in names]
    return found


def _installed() -> list[AnySpec]:
    """Every installed rule and defence that loads: what a host may be asked to rebuild."""
    from sparring.registry import Broken, entries, load

    loaded = [load(entry) for entry in entries() if entry.kind in ("aggregators", "defences")]
    return [spec for spec in loaded if not isinstance(spec, Broken)]


def _entries(name: str) -> list[Entry]:
    """The techniques that a name stands for, each of which loads; raises `PluginError`."""
    from sparring.registry import TECHNIQUES, entries, require

    of = [entry for entry in entries() if entry.distribution == name and entry.kind in TECHNIQUES]
    if of:
        return [require(entry.name, [entry.kind])[1] for entry in of]
    return [require(name, TECHNIQUES)[1]]


def _checked(case: Case) -> dict[str, Any]:
    import time

    from sparring.testing.kit import Inapplicable

    begun, result, detail = time.perf_counter(), "passed", ""
    try:
        case.run()
    except Inapplicable as reason:
        result, detail = "inapplicable", f"  {reason}"
    except AssertionError as error:
        result, detail = "failed", str(error)
    return {
        "technique": case.subject.spec.name,
        "check": case.check.name,
        "result": result,
        "detail": detail,
        "seconds": round(time.perf_counter() - begun, 3),
    }


def reproduce(
    names: Annotated[list[str] | None, typer.Argument(help="techniques or distributions; none: all that are installed")] = None,
    within: Annotated[float | None, typer.Option(help="leave out cards that state more seconds than this")] = None,
    without_core: Annotated[bool, typer.Option(help="replace each core line: every card must then fail")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the numbers of reference cards again, expected against got. Ends with status 1 if one is off."""
    from sparring.registry import TECHNIQUES, entries

    everything = [e for e in entries() if e.kind in TECHNIQUES]
    report: list[dict[str, Any]] = []
    for entry in [entry for name in names for entry in _entries(name)] if names else everything:
        rows = _measured(entry, within, without_core)
        report += rows
        for row in [] if as_json else rows:
            _print(row)
    bad = [row["technique"] for row in report if not row["ok"]]
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        held = sum(row["ok"] and row["measured"] for row in report)
        unmeasured = sum(row["ok"] and not row["measured"] for row in report)
        what = "core lines make their card fall" if without_core else "cards hold"
        typer.echo(f"{held} of {len(report)} {what}" + (f"; {unmeasured} cannot be measured here" if unmeasured else ""))
    if bad:
        raise typer.Exit(1)


def _measured(entry: Entry, within: float | None, without_core: bool) -> list[dict[str, Any]]:
    """What a technique's card comes to, once or without each of its core lines; nothing where it states more seconds."""
    from sparring.errors import ConfigError
    from sparring.testing.cards import read_card

    try:
        card = read_card(entry.module, entry.name)
    except ConfigError as error:
        return [_entry_row(entry, note=str(error))]
    if within is not None and card.seconds > within:
        typer.echo(f"left out  {entry.name}: its card states {card.seconds:g} s", err=True)
        return []
    return [_reproduced(entry, card, core) for core in (card.core if without_core else (None,))]


def _reproduced(entry: Entry, card: Card, core: CoreLine | None) -> dict[str, Any]:
    """What a card comes to; without the line ``core``, it must not hold."""
    import contextlib

    from sparring.testing.cards import reproduce as measure
    from sparring.testing.cards import without_core
    from sparring.testing.kit import Inapplicable

    try:
        with without_core(card, core) if core else contextlib.nullcontext():
            found = measure(card)
    except Inapplicable as reason:
        return _entry_row(entry, ok=True, note=f"cannot be measured here: {reason}")
    except Exception as error:
        return _entry_row(entry, note=f"raised {type(error).__name__}: {error}")
    slow = found.seconds > 3 * card.seconds
    note = f"took {found.seconds:.1f} s; the card states {card.seconds:g}" if slow else f"without: {core.line}" if core else ""
    rows = [asdict(row) for row in found.rows]
    return _entry_row(entry, ok=found.holds is (core is None), note=note, rows=rows, seconds=round(found.seconds, 2))


def _entry_row(
    entry: Entry, *, ok: bool = False, note: str = "", rows: Sequence[dict[str, Any]] = (), seconds: float | None = None
) -> dict[str, Any]:
    return {
        "technique": entry.name,
        "distribution": str(entry),
        "ok": ok,
        "measured": seconds is not None,
        "rows": list(rows),
        "seconds": seconds,
        "note": note,
    }


def _print(row: dict[str, Any]) -> None:
    seconds = f", {row['seconds']:g} s" if row["seconds"] is not None else ""
    state = "OFF" if not row["ok"] else "ok" if row["measured"] else "unseen"
    typer.echo(f"{state:8}  {row['technique']} ({row['distribution']}{seconds})")
    for line in row["rows"]:
        got = "nothing" if line["got"] is None else f"{line['got']:.6g}"
        mark = " " if line["holds"] else "!"
        typer.echo(f"  {mark} {line['quantity']}: expected {line['expected']} ({line['origin']}), got {got}")
    if row["note"]:
        typer.echo(f"    {row['note']}")
