"""Strategies: each trains the same numbers, whatever the model, the slots and the workers; no worker is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.errors import SparringError
from sparring.keys import Key
from sparring.layout import Layout
from sparring.local import Batch, Client, GradientRule, LocalContext, LocalPlan, Params, PureLoss, Sampler
from sparring.run import run_cell
from sparring.signals import Broadcast, ClientData, ModelPlan
from sparring.stacked import Stacked
from sparring.strategies import Strategy, Work
from sparring.train import Sequential
from sparring.views import LocalSettings
from sparring.workers import Workers
from tests.core.federation import SHAPE, Memory, batchnorm, blobs, built, conv, dropout, experiment, linear, mlp, played

ROOT = Path(__file__).parents[2]
RAGGED = (1, 3, 8, 13, 20, 31)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
STRATEGIES: dict[str, Callable[[Work], Strategy]] = {
    "sequential": Sequential,
    "workers": lambda work: Workers(work, 2),
    "stacked": Stacked,
}


def work_of(
    model: Callable[[], nn.Module],
    dtype: torch.dtype = torch.float32,
    sizes: Sequence[int] = RAGGED,
    plan: LocalPlan | None = None,
    **settings: Any,
) -> Work:
    """A piece of work over synthetic clients of these sizes."""
    plain = {"algorithm": "fedavg", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    fields = {**plain, "batch_size": 8, "epochs": 1, "steps": None, **settings}
    clients = {i: blobs(n, torch.Generator().manual_seed(i)) for i, n in enumerate(sizes)}
    clients = {i: replace(e, x=e.x.to(dtype)) for i, e in clients.items()}
    return Work(
        ModelPlan(model, SHAPE),
        Layout.of(model()),
        ClientData(clients, SHAPE),
        {"honest": plan or LocalPlan()},
        LocalSettings(**fields),
        Key(11),
        torch.device("cpu"),
        dtype,
    )


def trained(strategy: Strategy, work: Work, cohort: Callable[[int], Sequence[int]] | None = None, rounds: int = 5) -> Tensor:
    """The row after some rounds of plain averaging."""
    torch.manual_seed(0)
    row = work.layout.row(work.plan.factory()).to(work.dtype)
    try:
        for index in range(rounds):
            ids = tuple(work.data) if cohort is None else tuple(cohort(index))
            rows = strategy.train(Broadcast(work.plan, row, work.layout), ids, "honest", index)
            assert rows.shape == (len(ids), work.layout.size)
            row = row + rows.mean(0)
    finally:
        strategy.close()
    return row


def apart(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance."""
    return float((a - b).norm() / b.norm())


class Private(GradientRule):
    """Clips per example and adds noise, with a bound, an expected lot and a deviation that differ between clients."""

    def numbers(self, client: Client) -> dict[str, float]:
        return {"bound": 0.2 + 0.1 * client.id, "lot": float(client.batch_size), "sigma": 0.01 * (1 + client.id)}

    def grads(self, loss: PureLoss, params: Params, batch: Batch, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        one = lambda p, x, y: loss(p, x[None], y[None])[0]  # noqa: E731
        each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(dict(params), batch.x, batch.y)
        norms = torch.stack([g.flatten(1).square().sum(1) for g in each.values()]).sum(0).sqrt()
        factor = (numbers["bound"] / norms.clamp(min=1e-12)).clamp(max=1)
        factor = factor if batch.mask is None else factor * batch.mask
        return {name: (factor.view(-1, *[1] * (g.dim() - 1)) * g).sum(0) / numbers["lot"] for name, g in each.items()}

    def noise(self, size: int, numbers: Mapping[str, float], generator: torch.Generator) -> Tensor:
        return torch.randn(size, generator=generator) * numbers["sigma"]


class Lots(Sampler):
    """Poisson lots, some of them empty."""

    def batches(self, client: Client, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(client.steps):
            yield torch.nonzero(torch.rand(client.size, generator=generator) < 0.15).flatten()

    def largest(self, client: Client) -> int:
        return client.size


def jitter(batch: Batch, ctx: LocalContext) -> Batch:
    return replace(batch, x=batch.x + 0.1 * torch.rand(batch.x.shape, generator=ctx.generator).to(batch.x))


def soften(batch: Batch, ctx: LocalContext) -> Batch:
    """Mixup: refuses a batch that no step trains on."""
    order = torch.randperm(len(batch.x), generator=ctx.generator)
    assert len(batch.x), f"client {ctx.client.id} has no step {ctx.step}"
    y = F.one_hot(batch.y, SHAPE.classes).to(batch.x)
    return replace(batch, x=(batch.x + batch.x[order]) / 2, y=(y + y[order]) / 2)


def double(batch: Batch, ctx: LocalContext) -> Batch:
    return replace(batch, x=torch.cat([batch.x, batch.x.flip(-1)]), y=torch.cat([batch.y, batch.y]))


def shrink(row: Tensor, ctx: LocalContext) -> Tensor:
    return row * (1 - 0.01 * torch.rand((), generator=ctx.generator).to(row)) + 1e-3 * ctx.step


@dataclass(frozen=True)
class Case:
    model: Callable[[], nn.Module] = mlp
    settings: Mapping[str, Any] | None = None
    plan: LocalPlan | None = None
    cohort: Callable[[int], Sequence[int]] | None = None


CASES = {
    "conv net": Case(conv),
    "MLP": Case(),
    "momentum and weight decay": Case(conv, {"momentum": 0.9, "weight_decay": 0.01, "epochs": 2}),
    "local steps": Case(mlp, {"steps": 7, "momentum": 0.5}),
    "whole batches": Case(mlp, {"batch_size": None, "epochs": 3}),
    "FedSGD": Case(conv, {"algorithm": "fedsgd"}),
    "partial cohorts": Case(mlp, None, None, lambda r: [(r + k) % 6 for k in (0, 2, 3)]),
    "per-client bounds and noise": Case(mlp, {"epochs": 2}, LocalPlan().with_gradient("private", Private())),
    "per-client bounds and noise, convolutions": Case(conv, {}, LocalPlan().with_gradient("private", Private())),
    "lots that may be empty": Case(mlp, {"steps": 6}, LocalPlan().with_sampler(Lots()).with_gradient("private", Private())),
    "plain gradients of lots that may be empty": Case(mlp, {"steps": 6}, LocalPlan().with_sampler(Lots())),
    "batch and step functions": Case(
        conv, {"epochs": 2}, LocalPlan().with_batch("jitter", jitter).with_batch("soften", soften).with_step("shrink", shrink)
    ),
    "a batch function that adds rows": Case(mlp, {}, LocalPlan().with_batch("double", double)),
    "another loss": Case(
        plan=LocalPlan().with_loss(lambda base: lambda forward, batch: base(forward, batch) + forward(batch.x).square().sum(1))
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_strategies_agree_after_five_rounds(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    work = work_of(case.model, dtype, plan=case.plan, **(case.settings or {}))
    found = {kind: trained(make(work), work, case.cohort) for kind, make in STRATEGIES.items()}
    start = work.layout.row(work.plan.factory())
    assert apart(found["sequential"], start.to(dtype)) > 1e-3
    for kind in ("workers", "stacked"):
        assert apart(found[kind], found["sequential"]) <= TOLERANCE[dtype], kind


@pytest.mark.parametrize("model", [batchnorm, dropout])
def test_what_cannot_be_stacked_agrees_between_processes(model: Callable[[], nn.Module]) -> None:
    work = work_of(model, torch.float64, sizes=(8, 16, 24))
    found = [trained(STRATEGIES[kind](work), work) for kind in ("sequential", "workers")]
    assert apart(found[1], found[0]) <= 1e-10


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_workers_changes_no_bit(count: int) -> None:
    work = work_of(conv, momentum=0.9)
    assert torch.equal(trained(Workers(work, count), work, rounds=2), trained(Workers(work, 2), work, rounds=2))


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_row_does_not_depend_on_the_company(kind: str) -> None:
    work = work_of(mlp, torch.float64)
    row = work.layout.row(work.plan.factory()).double()
    strategy = STRATEGIES[kind](work)
    broadcast = Broadcast(work.plan, row, work.layout)
    whole = strategy.train(broadcast, (0, 1, 2, 3, 4, 5), "honest", 1)
    alone = strategy.train(broadcast, (4, 2), "honest", 1)
    strategy.close()
    assert apart(alone, whole[[4, 2]]) < 1e-12


def with_relu() -> nn.Module:
    """The net of `mlp` with another activation."""
    return nn.Sequential(*[nn.ReLU() if isinstance(child, nn.Tanh) else child for child in mlp().children()])


@pytest.mark.parametrize("kind", STRATEGIES)
def test_what_the_server_sends_to_one_client_reaches_that_client_alone(kind: str) -> None:
    """Its own parameters, and its own model of the same layout."""
    work = work_of(mlp, torch.float64)
    row = work.layout.row(work.plan.factory()).double()
    plain = Broadcast(work.plan, row, work.layout)
    other = replace(plain, row=row * 2)
    relu = replace(plain, plan=ModelPlan(with_relu, SHAPE))
    strategy = STRATEGIES[kind](work)
    ids = (0, 1, 2, 3)
    usual = strategy.train(plain, ids, "honest", 0)
    found = strategy.train(replace(plain, overrides={1: other, 3: relu}), ids, "honest", 0)
    alone = [Sequential(work).train(b, (i,), "honest", 0)[0] for i, b in ((1, other), (3, relu))]
    strategy.close()
    assert apart(found[[0, 2]], usual[[0, 2]]) < 1e-12
    for k, expected in zip((1, 3), alone, strict=True):
        assert apart(found[k], expected) < 1e-12
        assert apart(found[k], usual[k]) > 1e-3


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_client_without_examples_sends_zero(kind: str) -> None:
    work = work_of(mlp, sizes=(8, 0))
    strategy = STRATEGIES[kind](work)
    row = work.layout.row(work.plan.factory())
    rows = strategy.train(Broadcast(work.plan, row, work.layout), (0, 1), "honest", 0)
    strategy.close()
    assert bool(rows[0].any())
    assert not bool(rows[1].any())


def test_fedsgd_sends_minus_the_mean_gradient() -> None:
    work = work_of(linear, torch.float64, algorithm="fedsgd", batch_size=None)
    module = linear().double()
    row = work.layout.row(module)
    (sent,) = Sequential(work).train(Broadcast(work.plan, row, work.layout), (3,), "honest", 0)
    examples = work.data.clients[3]
    F.cross_entropy(module(examples.x), examples.y).backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])
    assert apart(sent, -gradient) < 1e-12


def test_local_training_is_the_textbook_loop() -> None:
    """SGD with momentum and weight decay, as torch's own optimiser takes it, over the sampler's batches."""
    work = work_of(conv, torch.float64, momentum=0.9, weight_decay=0.01, epochs=2)
    module = conv().double()
    row = work.layout.row(module)
    (sent,) = Sequential(work).train(Broadcast(work.plan, row, work.layout), (4,), "honest", 2)
    examples, optimiser = work.data.clients[4], torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    stream = Key(11).child("round", 2, "layer", "sampler", "client", 4).generator()
    for _ in range(2):
        for batch in torch.randperm(20, generator=stream).split(8):
            optimiser.zero_grad()
            F.cross_entropy(module(examples.x[batch]), examples.y[batch]).backward()
            optimiser.step()
    assert apart(sent, work.layout.row(module) - row) < 1e-10


@pytest.mark.parametrize("engine", ["sequential", "workers"])
def test_local_buffers_stay_with_their_clients(engine: str) -> None:
    federation = {"buffers": "local", "rounds": 3, "cohort": 2}
    made = built(experiment(batchnorm, engine=engine, performance={"workers": 2}, federation=federation))
    assert all(segment.role != "buffer" for segment in made.layout.segments)
    result = played(made)
    assert made.work.buffers is not None
    trained_ids = {i for updates in result.updates for i in updates.ids}
    fresh = torch.cat([torch.zeros(4), torch.ones(4)])
    for client, row in made.work.buffers.items():
        assert torch.equal(row, fresh) == (client not in trained_ids)


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: Sequence[int], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(alive, pids)):
        time.sleep(0.02)
    return not any(map(alive, pids))


def pids_of(strategy: Workers) -> list[int]:
    return [process.pid or 0 for process, _ in strategy.pool]


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


def started(work: Work) -> tuple[Workers, Broadcast]:
    strategy = Workers(work, 2)
    broadcast = Broadcast(work.plan, work.layout.row(work.plan.factory()), work.layout)
    strategy.train(broadcast, tuple(work.data), "honest", 0)
    assert len(pids_of(strategy)) == 2
    assert all(map(alive, pids_of(strategy)))
    return strategy, broadcast


@linux
def test_no_worker_outlives_close() -> None:
    strategy, _ = started(work_of(mlp))
    pids = pids_of(strategy)
    strategy.close()
    strategy.close()
    assert gone(pids)


@linux
def test_no_worker_outlives_its_strategy() -> None:
    strategy, _ = started(work_of(mlp))
    pids = pids_of(strategy)
    del strategy
    assert gone(pids)


@linux
def test_no_worker_outlives_an_error_in_training() -> None:
    def broken(batch: Batch, ctx: LocalContext) -> Batch:
        if ctx.round == 1 and ctx.client.id == 2:
            raise ArithmeticError("no such batch")
        return batch

    work = work_of(mlp, plan=LocalPlan().with_batch("broken", broken))
    strategy, broadcast = started(work)
    pids = pids_of(strategy)
    with pytest.raises(SparringError, match=r"client 2.*no such batch"):
        strategy.train(broadcast, tuple(work.data), "honest", 1)
    assert gone(pids)


@linux
def test_no_worker_outlives_the_death_of_another() -> None:
    work = work_of(mlp)
    strategy, broadcast = started(work)
    pids = pids_of(strategy)
    os.kill(pids[0], signal.SIGKILL)
    assert gone(pids[:1])
    with pytest.raises(SparringError, match="worker process died"):
        strategy.train(broadcast, tuple(work.data), "honest", 1)
    assert gone(pids)


@linux
def test_no_worker_outlives_an_interrupted_run(tmp_path: Path) -> None:
    made = built(experiment(mlp, engine="workers", performance={"workers": 2}))
    assert isinstance(made.strategy, Workers)
    seen: list[int] = []

    class Interrupting(Memory):
        def metrics(self, step: int, values: Mapping[str, float]) -> None:
            seen.extend(pids_of(made.strategy))  # type: ignore[arg-type]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(made, "lab", tmp_path, Interrupting(), resume=False)
    assert len(seen) == 2
    assert gone(seen)


@linux
@pytest.mark.parametrize("when", ["between rounds", "while training"])
def test_no_worker_outlives_a_killed_parent(when: str) -> None:
    script = f"""
        import sys, time, torch
        from sparring.local import LocalPlan
        from tests.core.test_strategies import mlp, pids_of, started, work_of

        def slow(batch, ctx):
            if ctx.round == 1:
                time.sleep(60)
            return batch

        work = work_of(mlp, plan=LocalPlan().with_batch("slow", slow))
        strategy, broadcast = started(work)
        print(*pids_of(strategy), flush=True)
        if {when!r} == "while training":
            strategy.train(broadcast, tuple(work.data), "honest", 1)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(0.3)
        assert all(map(alive, pids))
        parent.kill()
        parent.wait()
        assert gone(pids)
