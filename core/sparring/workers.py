"""Workers strategy: persistent processes, one torch thread each, that train clients into shared memory.

Workers are forked, so data and plans need no copy and no pickle; commands and answers are JSON, parameters flat shared buffers.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import sys
import warnings
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import final

import torch
from torch import Tensor

from sparring.errors import SparringError
from sparring.signals import Broadcast
from sparring.strategies import Strategy, Work
from sparring.train import Learner

DEATH_SIGNAL = 1
"""The ``prctl`` option that asks Linux to signal a process when its parent dies."""


def obstacle() -> str | None:
    """Why worker processes cannot be used here, or None."""
    if not hasattr(os, "fork"):
        return "this system cannot fork"
    if torch.cuda.is_initialized():
        return "CUDA is in use in this process, and a forked process may not touch it"
    return None


@final
class Workers(Strategy):
    """One persistent process a core; the clients of a round are dealt to them, largest first."""

    name = "workers"

    def __init__(self, work: Work, count: int) -> None:
        self.work = work
        self.count = count
        self.capacity = len(work.data.clients)
        self.pool: list[tuple[BaseProcess, Connection]] = []
        self.own: Learner | None = None
        self.broadcast: Broadcast | None = None
        self._finalizer = weakref.finalize(self, _stop, self.pool)

    def _start(self, broadcast: Broadcast) -> None:
        self.close()
        size = broadcast.layout.size
        self.start: Tensor = torch.zeros(size, dtype=self.work.dtype).share_memory_()
        self.before: Tensor = torch.zeros(size, dtype=self.work.dtype).share_memory_()
        self.rows: Tensor = torch.zeros(self.capacity, size, dtype=self.work.dtype).share_memory_()
        context = multiprocessing.get_context("fork")
        parents: list[Connection] = []
        for _ in range(self.count):
            mine, theirs = context.Pipe()
            parents.append(mine)
            arguments = (self.work, broadcast, (self.start, self.before), self.rows, theirs, tuple(parents), os.getpid())
            process = context.Process(target=_serve, args=arguments, daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            self.pool.append((process, mine))
        self.broadcast = broadcast

    def train(self, broadcast: Broadcast, clients: Sequence[int], group: str, round_: int) -> Tensor:
        if self.broadcast is None or self.broadcast.plan is not broadcast.plan or self.broadcast.layout != broadcast.layout:
            self._start(broadcast)
        self.start.copy_(broadcast.row)
        self.before.copy_(broadcast.row if broadcast.previous is None else broadcast.previous)
        shares = self._deal([c for c in clients if c not in broadcast.overrides], {c: k for k, c in enumerate(clients)})
        for (_, pipe), share in zip(self.pool, shares, strict=True):
            if share:
                self._send(pipe, {"round": round_, "group": group, "clients": share})
        for k, client in enumerate(clients):
            if client in broadcast.overrides:
                self.own = self.own or Learner(self.work, channels_last=True)
                self.own.train(broadcast.to(client), client, group, round_, self.rows[k])
        for (process, pipe), share in zip(self.pool, shares, strict=True):
            if share:
                self._receive(process, pipe)
        return self.rows[: len(clients)].clone()

    def _deal(self, clients: Sequence[int], slots: dict[int, int]) -> list[list[tuple[int, int]]]:
        shares: list[list[tuple[int, int]]] = [[] for _ in self.pool]
        load = [0] * len(self.pool)
        for client in sorted(clients, key=lambda c: -len(self.work.data.clients[c])):
            k = load.index(min(load))
            shares[k].append((slots[client], client))
            load[k] += len(self.work.data.clients[client]) + 1
        return shares

    def _send(self, pipe: Connection, message: dict[str, object]) -> None:
        try:
            pipe.send_bytes(json.dumps(message).encode())
        except OSError as error:
            self.close()
            raise SparringError("a worker process died between rounds; use `engine: sequential` to see why") from error

    def _receive(self, process: BaseProcess, pipe: Connection) -> None:
        try:
            answer = json.loads(pipe.recv_bytes())
        except (EOFError, OSError) as error:
            self.close()
            raise SparringError(
                f"a worker process died while training (exit code {process.exitcode}); "
                "it may have run out of memory: use `engine: sequential`"
            ) from error
        if answer["error"]:
            self.close()
            raise SparringError(f"training client {answer['client']} failed: {answer['error']}")

    def close(self) -> None:
        """End the workers."""
        _stop(self.pool)
        self.broadcast = None


def _stop(pool: list[tuple[BaseProcess, Connection]]) -> None:
    for process, pipe in pool:
        pipe.close()
        process.terminate()
    for process, _ in pool:
        process.join(timeout=5)
    pool.clear()


def _serve(
    work: Work,
    broadcast: Broadcast,
    shared: tuple[Tensor, Tensor],
    rows: Tensor,
    pipe: Connection,
    parents: tuple[Connection, ...],
    parent: int,
) -> None:
    """A worker's life: train what it is told until the pipe closes. It ends when its parent does, however that ends."""
    _die_with(parent)
    for other in parents:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    learner = Learner(work, channels_last=True)
    start, before = shared
    received = Broadcast(broadcast.plan, start, broadcast.layout, previous=before)
    while True:
        try:
            job = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        answer: dict[str, object] = {"error": None, "client": None}
        for slot, client in job["clients"]:
            try:
                learner.train(received, client, job["group"], job["round"], rows[slot])
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}", "client": client}
                break
        with contextlib.suppress(OSError):
            pipe.send_bytes(json.dumps(answer).encode())


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
