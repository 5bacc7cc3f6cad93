"""One FedAvg round of local training against a plain ``deepcopy`` + ``DataLoader`` + optimiser loop, as ratios in one run.

Run: python benchmarks/local_training.py [--repeats 5]. A ratio of 2 means twice as fast as the plain loop at the better of one
and two threads. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparring.keys import Key
from sparring.layout import Layout
from sparring.local import LocalPlan
from sparring.signals import Broadcast, ClientData, DataShape, Examples, ModelPlan
from sparring.stacked import Stacked
from sparring.strategies import Strategy, Work
from sparring.train import Sequential
from sparring.views import LocalSettings
from sparring.workers import Workers

SHAPE = DataShape((1, 28, 28), 10)


def cnn_55k() -> nn.Module:
    """Two 3x3 convolutions, each with max-pooling."""
    convolutions = (
        nn.Conv2d(1, 16, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 49, 32), nn.ReLU(), nn.Linear(32, 10))


def strided_54k() -> nn.Module:
    """Two 5x5 convolutions of stride 2, no pooling."""
    convolutions = (nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU())
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 49, 26), nn.ReLU(), nn.Linear(26, 10))


def cnn_582k() -> nn.Module:
    """Two 5x5 convolutions, each with max-pooling."""
    convolutions = (
        nn.Conv2d(1, 32, 5, 1, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, 1, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64 * 49, 168), nn.ReLU(), nn.Linear(168, 10))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
    "CNN 55k, 100 clients x 32": (cnn_55k, 100, 32, 32),
    "strided CNN 54k, 100 clients x 32": (strided_54k, 100, 32, 32),
    "CNN 582k, 10 clients x 64": (cnn_582k, 10, 64, 32),
    "MLP 51k, 16 clients x 128": (mlp, 16, 128, 32),
}


def plain(model: nn.Module, data: ClientData, batch: int) -> Tensor:
    """The loop that one writes first."""
    total = None
    for client in data:
        local = copy.deepcopy(model)
        optimiser = torch.optim.SGD(local.parameters(), lr=0.1)
        examples = data.clients[client]
        for x, y in DataLoader(TensorDataset(examples.x, examples.y), batch_size=batch, shuffle=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(local(x), y).backward()
            optimiser.step()
        row = torch.cat([(a - b).detach().flatten() for a, b in zip(local.parameters(), model.parameters(), strict=True)])
        total = row if total is None else total + row
    assert total is not None
    return total / len(data.clients)


def seconds(call: Callable[[], object]) -> float:
    """One timed call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def with_threads(count: int, call: Callable[[], object]) -> float:
    torch.set_num_threads(count)
    return seconds(call)


def measure(name: str, repeats: int) -> None:
    """Print the ratios of one case."""
    factory, clients, size, batch = CASES[name]
    torch.manual_seed(0)
    model = factory()
    plan, layout = ModelPlan(factory, SHAPE), Layout.of(model)
    data = ClientData({i: Examples(torch.rand(size, *SHAPE.inputs), torch.randint(10, (size,))) for i in range(clients)}, SHAPE)
    settings = LocalSettings("fedavg", 0.1, 0.0, 0.0, batch, 1, None)
    work = Work(plan, layout, data, {"honest": LocalPlan()}, settings, Key(0), torch.device("cpu"))
    broadcast = Broadcast(plan, layout.row(model), layout)
    strategies: list[Strategy] = [Sequential(work), Workers(work, 2), Stacked(work)]
    threads = torch.get_num_threads()
    times: dict[str, list[float]] = {}
    for k in range(repeats + 1):
        found = {f"plain, {n} threads": with_threads(n, lambda: plain(model, data, batch)) for n in (1, 2)}
        torch.set_num_threads(threads)
        for strategy in strategies:
            found[strategy.name] = seconds(lambda s=strategy: s.train(broadcast, list(data), "honest", 0))
        if k:
            for key, value in found.items():
                times.setdefault(key, []).append(value)
    for strategy in strategies:
        strategy.close()
    baseline = [min(a, b) for a, b in zip(times["plain, 1 threads"], times["plain, 2 threads"], strict=True)]
    parameters = layout.parameters
    print(f"{name} ({parameters:,} parameters): plain loop {statistics.median(baseline) * 1e3:.0f} ms")
    for strategy in strategies:
        ratios = sorted(b / t for b, t in zip(baseline, times[strategy.name], strict=True))
        print(f"  {strategy.name:11} {statistics.median(ratios):5.2f} times  [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


def main() -> None:
    """Every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for name in CASES:
        measure(name, repeats)


if __name__ == "__main__":
    main()
