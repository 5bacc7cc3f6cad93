"""A command that joins the CLI through an entry point."""

from __future__ import annotations

from typing import Annotated

import typer


def count(kind: Annotated[str, typer.Argument(help="a kind, such as defences")]) -> None:
    """Say how many techniques of a kind this distribution offers."""
    from sparring_frozen_api1.plugin import sparring_plugins

    typer.echo(sum(spec.kind == kind for spec in sparring_plugins()))
