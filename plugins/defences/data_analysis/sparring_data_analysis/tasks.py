"""A small poisoned task for cards and tests: images in four classes, 5 % of them with a patch and a false label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.context import Setup
from sparring.keys import Key
from sparring.lab import Lab
from sparring.layout import Layout
from sparring.roles import Defence
from sparring.run import accuracy
from sparring.signals import ClientData, DataShape, Examples, ModelPlan
from sparring.views import LocalSettings

SHAPE = DataShape((1, 8, 8), 4)
TARGET, SOURCE = 0, 1
POISON = 0.05
CLIENTS = 4
EPOCHS = 10


def images(n: int, seed: int) -> Examples:
    """n images of 8x8 pixels, as many of each class: the class's own smooth pattern, and noise of deviation .15."""
    pattern = torch.rand(SHAPE.classes, 1, 4, 4, generator=Key(7, ("patterns",)).generator())
    y = torch.arange(n) % SHAPE.classes
    noise = torch.randn(n, *SHAPE.inputs, generator=Key(seed, ("images", n)).generator())
    x = F.interpolate(pattern, size=SHAPE.inputs[1:], mode="bilinear")[y] + 0.15 * noise
    return Examples(x.clamp(0, 1), y)


def patched(x: Tensor, size: int = 3) -> Tensor:
    """Images with a chequered patch of size x size pixels in their lower right corner."""
    x, at = x.clone(), torch.arange(size)
    x[..., -size:, -size:] = ((at[:, None] + at) % 2 == 0).to(x)
    return x


def perceptron() -> nn.Module:
    """64 - 32 - K with ReLU."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, SHAPE.classes))


@dataclass(frozen=True)
class Task:
    """Shown ``data`` of 4 clients, whose group column ``poison`` marks what is poisoned, clean ``test`` images, and a lab."""

    data: ClientData
    test: Examples
    lab: Lab
    size: int = 3

    @property
    def setup(self) -> Setup:
        """The context of a filter."""
        return Setup(self.lab.key, "filter", lab=self.lab.called("filter"))

    def filtered(self, layer: Defence[ClientData]) -> ClientData:
        """The data behind a filter."""
        return layer.defence_transform(self.data, self.setup)

    def recall(self, left: ClientData) -> float:
        """Share of the poison that is not ``left``."""
        planted, missed = (int(pool(data).groups["poison"].sum()) for data in (self.data, left))
        return 1 - missed / planted

    def model(self, data: ClientData | None = None, epochs: int = EPOCHS) -> nn.Module:
        """A model trained on the data, or on others."""
        return self.lab.train(pool(data or self.data), epochs)

    def success(self, module: nn.Module) -> float:
        """Share of patched test images of the source class that are taken for the target."""
        others = self.test.x[self.test.y == SOURCE]
        with torch.no_grad():
            return float((module(patched(others, self.size)).argmax(1) == TARGET).double().mean())

    def accuracy(self, module: nn.Module) -> float:
        """On clean test images."""
        return accuracy(module, self.test)[0]


def pool(data: ClientData) -> Examples:
    """Every client's examples as one set, with their group columns."""
    held = [data.clients[client] for client in sorted(data)]
    columns = {name: torch.cat([e.groups[name] for e in held]) for name in held[0].groups}
    return Examples(torch.cat([e.x for e in held]), torch.cat([e.y for e in held]), columns)


def task(seed: int = 0, poison: float = POISON, sources: tuple[int, ...] = (SOURCE,), size: int = 3) -> Task:
    """800 clean images, and ``poison`` times as many copies from ``sources``, patched and labelled as the target."""
    clean = images(800, seed)
    bad = clean.take(torch.nonzero(torch.isin(clean.y, torch.tensor(sources)))[: round(poison * len(clean)), 0])
    x, y = torch.cat([clean.x, patched(bad.x, size)]), torch.cat([clean.y, torch.full_like(bad.y, TARGET)])
    everyone = Examples(x, y, {"poison": torch.arange(len(x)) >= len(clean)})
    order = torch.randperm(len(x), generator=Key(seed, ("clients",)).generator()).chunk(CLIENTS)
    data = ClientData({3 * k + 1: everyone.take(index) for k, index in enumerate(order)}, SHAPE)
    plan = ModelPlan(perceptron, SHAPE)
    with torch.random.fork_rng(devices=[]):
        layout = Layout.of(plan.factory())
    settings = LocalSettings("fedavg", 0.2, 0.0, 0.0, 32, 1, None)
    lab = Lab(plan, layout, settings, Key(seed, ("card",)), torch.device("cpu"), torch.float32)
    return Task(data, images(400, seed + 1000), lab, size)


def effect(layer: Defence[ClientData], seed: int = 0, sources: tuple[int, ...] = (SOURCE,)) -> Mapping[str, float]:
    """What a filter finds and costs on the task: each quantity beside that without the filter, or without poison."""
    bad, good = task(seed, sources=sources), task(seed, poison=0.0)
    left, spared = bad.filtered(layer), good.filtered(layer)
    with_filter, without = bad.model(left), bad.model()
    return {
        "recall of poison": bad.recall(left),
        "attack success after retraining": bad.success(with_filter),
        "attack success without the filter": bad.success(without),
        "accuracy after retraining": bad.accuracy(with_filter),
        "share dropped of clean data": 1 - len(pool(spared)) / len(pool(good.data)),
        "accuracy lost on clean data": good.accuracy(good.model()) - good.accuracy(good.model(spared)),
    }
