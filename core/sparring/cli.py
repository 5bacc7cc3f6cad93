"""Commands: list, show, check, run, schema, and those that installed tools add."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
import typer.main

from sparring.errors import PluginError
from sparring.listing import print_rows, show_list
from sparring.registry import TECHNIQUES, Broken, entries, find, load_command, require

if TYPE_CHECKING:
    from sparring.experiment import Experiment, Results


class _Commands(typer.core.TyperGroup):
    """Core's commands, and those of installed distributions: each of these is imported when it is asked for, and by itself."""

    def list_commands(self, ctx: Any) -> list[str]:
        added = {entry.name for entry in entries() if entry.kind == "commands"}
        return [*super().list_commands(ctx), *sorted(added - set(self.commands))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in self.list_commands(ctx):
            return own
        return _added(cmd_name)


def _added(name: str) -> Any:
    """The command that a distribution adds; one that is broken says so when it is run, and stands in nobody's way."""
    try:
        found = load_command(find(name, ["commands"]))
        reason = f"command '{name}' of {found.entry} cannot be loaded: {found.reason}" if isinstance(found, Broken) else ""
    except PluginError as error:
        found, reason = None, str(error)

    def broken() -> None:
        raise PluginError(reason)

    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    if found is None or isinstance(found, Broken):
        single.command(name, help=f"(broken: {reason})")(broken)
    else:
        single.command(name)(found)
    return typer.main.get_command(single)


app = typer.Typer(
    name="sparring",
    cls=_Commands,
    help="Adversarial interference in collaborative machine learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
PIPED_WIDTH = 150
FileArgument = Annotated[Path, typer.Argument(help="an experiment file", show_default=False)]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="override an option: key.path=value; repeatable")]


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="one kind, such as defences")] = None,
    verify: Annotated[bool, typer.Option(help="load each plugin and name what is broken")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List installed techniques; without --verify no plugin is imported."""
    show_list(kind, verify, as_json)


@app.command()
def show(name: Annotated[str, typer.Argument(help="a technique")]) -> None:
    """Show a technique: what it is, its options with bounds, its facts."""
    from sparring.describe import described, options

    spec, entry = require(name, TECHNIQUES)
    typer.echo(f"{name} ({entry.kind.rstrip('s')}, {entry})\n{spec.summary}\n")
    for field in ("licence", "source", "stands_for"):
        if hasattr(spec, field):
            typer.echo(f"{field.replace('_', ' ')}: {getattr(spec, field)}")
    rows: list[tuple[str, ...]] = [(o.name, o.type, o.default, o.description) for o in options(spec.config)]
    if rows:
        print_rows(("option", "type", "default", "description"), rows)
    for where, facts in described(spec):
        typer.echo("\n".join(["", f"{where}:", *(f"  {name:7} {text}" for name, text in facts.items())]))


@app.command()
def check(file: FileArgument, set_: SetOption = None) -> None:
    """Check an experiment's stacks without training: what holds where, what is missing, what each attack would see."""
    from sparring.errors import CompositionError

    resolved = _load(file, set_).resolve()
    for name, cell in resolved.items():
        typer.echo(f"== {name}\n{cell.explain()}\n")
    bad = [name for name, cell in resolved.items() if not cell.ok]
    if bad:
        raise CompositionError(f"{len(bad)} of {len(resolved)} cells do not type-check: {', '.join(bad)}")


@app.command()
def run(
    file: FileArgument,
    set_: SetOption = None,
    into: Annotated[Path | None, typer.Option(help="folder for results; default: runs/<name>")] = None,
    resume: Annotated[bool, typer.Option(help="go on behind the last checkpoint")] = False,
    strict: Annotated[bool, typer.Option(help="fail where a layer never acted in the whole run")] = False,
) -> None:
    """Run an experiment: train, attack, score, log. Ends with a table, pictures, and how to open the MLflow UI."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    experiment = _load(file, set_)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:60.60}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0)
        results = experiment.run(
            into, resume=resume, strict=strict, progress=lambda text, done: bar.update(task, description=text, completed=done)
        )
    _print_results(results)
    if results.failed:
        raise typer.Exit(2)


def _print_results(results: Results) -> None:
    from rich.console import Console
    from rich.table import Table

    from sparring.report import COLUMNS, rows

    table = Table(title=results.name)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows(results.outcomes):
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    console.print(table)
    for outcome in results.outcomes:
        for note in [*([outcome.error] if outcome.error else []), *outcome.notes]:
            console.print(f"{outcome.name}: {note}", highlight=False, soft_wrap=True)
    for picture in results.pictures:
        console.print(f"picture: {picture}", highlight=False, soft_wrap=True)
    console.print(f"table:   {results.folder / 'table.md'}", highlight=False, soft_wrap=True)
    console.print(f"to open the tracking UI: {results.ui}", highlight=False, soft_wrap=True)


@app.command()
def schema() -> None:
    """Print the JSON Schema of experiment files, for editors."""
    from sparring.schema import File

    typer.echo(json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **File.model_json_schema()}, indent=2))


def _load(file: Path, overrides: list[str] | None) -> Experiment:
    from sparring.experiment import Experiment

    return Experiment.load(file, overrides or ())
