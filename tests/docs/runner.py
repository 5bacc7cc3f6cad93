"""Executes the code blocks of a page, in order, in a folder that stands for the checkout; installs go beside it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.docs.blocks import ROOT, Block, blocks, fault

SECONDS = 300
BASE = {"dataset": {"name": "digits"}, "model": {"name": "mlp"}}
"""What a fragment of an experiment file is completed with, to be checked."""

DRIVER = """
import contextlib, io, json, sys, traceback
protocol = sys.stdout
for line in sys.stdin:
    job = json.loads(line)
    printed, failed = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(job["code"], job["name"], "exec", dont_inherit=True), sys.modules["__main__"].__dict__)
        except BaseException:
            failed = traceback.format_exc()
    print(json.dumps({"printed": printed.getvalue(), "failed": failed}), file=protocol, flush=True)
"""
# an installation that follows the folder's files, as `pip install -e` does, and leaves this environment as it is
PIP = """
import pathlib, shutil, subprocess, sys, tempfile
target = pathlib.Path({target!r})
assert sys.argv[1] == "install", sys.argv
for given in (a for a in sys.argv[2:] if not a.startswith("-")):
    source = pathlib.Path(given.partition("[")[0]).resolve()
    with tempfile.TemporaryDirectory() as made:
        options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", made, str(source)], check=True)
        for item in pathlib.Path(made).iterdir():
            own = source / item.name
            shutil.move(item, target / item.name) if not own.is_dir() else (target / item.name).symlink_to(own)
"""


class Page:
    """A page in execution: its folder, its Python session, its servers; ``printed`` is what the last block printed.

    ``refused``: the last block is an experiment that does not type-check, which the next block, a text, must show.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.bin, self.installed = folder / "bin", folder / "installed"
        for made in (self.folder, self.bin, self.installed):
            made.mkdir()
        self.printed = ""
        self.refused = False
        self.ports: dict[str, str] = {}
        self.python: subprocess.Popen[str] | None = None
        self.servers: list[subprocess.Popen[bytes]] = []
        shutil.copy(ROOT / "pyproject.toml", self.folder)
        for name in ("core", "experiments"):
            (self.folder / name).symlink_to(ROOT / name)
        (self.folder / ".venv").mkdir()
        (self.folder / ".venv" / "bin").symlink_to(self.bin)
        self._commands()
        paths = [str(self.installed), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "COLUMNS", "SPARRING_"))},
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(paths),
            "NO_COLOR": "1",
        }

    def _commands(self) -> None:
        (self.bin / "pip.py").write_text(PIP.format(target=str(self.installed)))
        pip = f'exec {sys.executable} {self.bin / "pip.py"} "$@"'
        commands = {
            "pip": pip,
            "python": f'if [ "$1 $2" = "-m pip" ]; then shift 2; {pip}; fi\nexec {sys.executable} "$@"',
            "sparring": f'exec {sys.executable} -m sparring "$@"',
            # a target of the checkout's Makefile exists; what it does is tested elsewhere
            "make": f'exec {shutil.which("make")} --directory {ROOT} --dry-run --silent "$@" > /dev/null',
        }
        commands |= {name: f'exec {sys.executable} -m {name} "$@"' for name in ("ruff", "mypy", "mlflow")}
        for name, line in commands.items():
            (self.bin / name).write_text(f"#!/bin/sh\n{line}\n")
            (self.bin / name).chmod(0o755)

    def run(self, block: Block) -> str:
        """Execute a block, or compare it with what the last one printed; returns what it printed."""
        text = block.text
        for written, free in self.ports.items():
            text = text.replace(written, free)
        if block.language == "text":
            if block.note is None:
                assert matches(text, self.printed), f"{block} is not what was printed:\n{self.printed}"
            self.refused = False
            return self.printed
        if block.note == ("excerpt", ""):
            assert _stripped(text) in _stripped((self.folder / str(block.file)).read_text()), (
                f"{block} stands not in {block.file}"
            )
        elif block.language == "diff":
            _patch(self.folder / str(block.file), text, block)
        elif block.file is not None:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if block.language == "yaml" and not str(block.file).endswith(".card.yaml"):
            self.printed, self.refused = self._check(yaml.safe_load(text))
            if block.note == ("refused", ""):
                assert self.refused, f"{block} type-checks:\n{self.printed}"
                self.refused = False
        elif block.language == "sh":
            self.printed = self._shell(block, text)
        elif block.language == "python" and block.file is None:
            self.printed = self._python(block, text)
        return self.printed

    def _call(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            check=False,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )

    def _shell(self, block: Block, text: str) -> str:
        name, value = block.note or ("exits", "0")
        if name == "serves":
            self.ports[value] = str(_free_port())
            self._serve(text.replace(value, self.ports[value]), int(self.ports[value]), block)
            return ""
        done = self._call(text)
        assert done.returncode == int(value), f"{block} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _serve(self, command: str, port: int, block: Block) -> None:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.servers.append(server)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            assert server.poll() is None, f"{block} ended with {server.returncode}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.2)
        raise AssertionError(f"{block} does not listen")

    def _check(self, values: Any) -> tuple[str, bool]:
        """The verdict on an experiment, or on a fragment of one."""
        assert isinstance(values, dict)
        path = self.folder / "block.yaml"
        path.write_text(yaml.safe_dump(values if "dataset" in values else {**BASE, **values}))
        done = self._call("sparring check block.yaml 2>/dev/null")
        path.unlink()
        return done.stdout.removeprefix("== block\n"), done.returncode != 0

    def _python(self, block: Block, text: str) -> str:
        if self.python is None:
            self.python = subprocess.Popen(
                [sys.executable, "-W", "error", "-u", "-c", DRIVER],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.python.stdin is not None
        assert self.python.stdout is not None
        self.python.stdin.write(json.dumps({"code": text, "name": str(block)}) + "\n")
        self.python.stdin.flush()
        ready, _, _ = select.select([self.python.stdout], [], [], SECONDS)
        assert ready, f"{block} takes longer than {SECONDS} s"
        answer = json.loads(self.python.stdout.readline())
        assert answer["failed"] is None, f"{block} failed:\n{answer['failed']}"
        return str(answer["printed"])

    def close(self) -> None:
        """End the session and the servers, with all that they started."""
        if self.python is not None:
            self.python.kill()
            self.python.communicate()
        for server in self.servers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=60)


def _stripped(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _patch(path: Path, text: str, block: Block) -> None:
    """Apply the hunks of a diff: lines of context and lines with ``-`` become those of context and those with ``+``."""
    for hunk in re.split(r"^@@.*\n", text, flags=re.MULTILINE):
        lines = hunk.splitlines()
        if lines:
            old = "\n".join(line[1:] for line in lines if not line.startswith("+")) + "\n"
            new = "\n".join(line[1:] for line in lines if not line.startswith("-")) + "\n"
            held = path.read_text()
            assert held.count(old) == 1, f"{block}: these lines stand {held.count(old)} times in {path.name}:\n{old}"
            path.write_text(held.replace(old, new))


def matches(expected: str, printed: str) -> bool:
    """Whether a text is what was printed; a line ``...`` stands for any lines, ``...`` within one for any part of it."""
    pattern = ""
    for line in expected.strip("\n").split("\n"):
        piece = re.escape(line.rstrip()).replace(re.escape("..."), "[^\n]*")
        pattern += "(?:[^\n]*\n)*?" if line.strip() == "..." else f"{piece}\n"
    lines = [line.rstrip() for line in printed.strip("\n").split("\n")]
    return re.fullmatch(pattern, "\n".join(lines) + "\n") is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def session(folder: Path) -> Iterator[Page]:
    """A page in execution, which ends with all that it started."""
    page = Page(folder)
    try:
        yield page
    finally:
        page.close()


def execute(path: Path, folder: Path) -> list[tuple[Block, str]]:
    """Execute a page; returns its blocks with what each printed."""
    outputs: list[tuple[Block, str]] = []
    with session(folder) as page:
        before: Block | None = None
        for block in blocks(path):
            assert fault(block, before) is None, f"{block}: {fault(block, before)}"
            if page.refused and block.language != "text":
                raise AssertionError(f"{before} does not type-check:\n{page.printed}")
            outputs.append((block, page.run(block)))
            before = block
        assert not page.refused, f"{before} does not type-check:\n{page.printed}"
    return outputs
