"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from sparring.errors import CheckpointError


def slug(name: str) -> str:
    """A file name for a cell."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "cell"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk or an unwritable folder into an error that names the path."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder with --into"
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is either the old or the new one, whenever the process stops."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                file.write(data)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
