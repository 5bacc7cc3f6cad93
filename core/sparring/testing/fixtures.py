"""Small inputs for tests of plugins: updates, contexts, clients' data, a smooth model, and a victim of reconstruction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparring.context import Round, Setup, Wire
from sparring.facts import Fact
from sparring.keys import Key
from sparring.lab import Lab
from sparring.layout import Layout
from sparring.local import cross_entropy
from sparring.signals import Broadcast, ClientData, DataShape, Examples, ModelPlan, Updates
from sparring.views import Capture, LocalSettings, UpdateView

IDS = (3, 11, 4, 29, 0, 17)
"""Clients of the tests: neither sorted nor contiguous, so that a position is never mistaken for an id."""
SHAPE = DataShape((1, 8, 8), 4)


def make_layout(size: int) -> Layout:
    """A layout of one parameter with ``size`` numbers."""
    return Layout.build([("weight", (size,), "parameter")])


def make_updates(
    n: int = len(IDS), size: int = 96, *, layout: Layout | None = None, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Updates:
    """Rows [n, d] with entries of about .1 around a common direction, and weights 10, 13, 16, ..."""
    layout = layout or make_layout(size)
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(layout.size, generator=generator, dtype=torch.float64)
    rows = 0.05 * common + 0.1 * torch.randn(n, layout.size, generator=generator, dtype=torch.float64)
    ids = IDS[:n] if n <= len(IDS) else tuple(range(2, 2 * n + 2, 2))
    return Updates(rows.to(dtype), layout, ids, 10 + 3 * torch.arange(n, dtype=dtype))


def make_round(
    layer: str = "layer",
    facts: tuple[Fact, ...] = (),
    *,
    index: int = 0,
    seed: int = 0,
    cohort: Sequence[int] = IDS,
    lost: Callable[[str, int], bool] = lambda stage, client: False,
) -> Round:
    """The context of a layer in round ``index`` of 10; ``lost(stage, client)``: messages that never arrive."""
    return Round(index, 10, Key(seed), Wire(index, lost), layer, facts=facts, cohort=tuple(cohort))


class Tiny(nn.Sequential):
    """A smooth perceptron 64 - 32 - 4 whose weights are always the same, and mild enough for gradient inversion to converge."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, hidden), nn.Sigmoid(), nn.Linear(hidden, SHAPE.classes))
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)


def tiny_plan() -> ModelPlan:
    """The plan of `Tiny`."""
    return ModelPlan(Tiny, SHAPE)


def tiny_layout() -> Layout:
    """The layout of `Tiny`."""
    with torch.random.fork_rng(devices=[]):
        return Layout.of(Tiny())


def tiny_data(clients: int = 3, size: int = 24, *, seed: int = 0) -> ClientData:
    """``size`` random images and labels for each client, with a group column ``site`` of 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    held = {
        client: Examples(
            torch.rand(size, *SHAPE.inputs, generator=generator),
            torch.randint(SHAPE.classes, (size,), generator=generator),
            {"site": torch.arange(size) % 2},
        )
        for client in sorted(IDS[:clients])
    }
    return ClientData(held, SHAPE)


def tiny_public(size: int = 24) -> Examples:
    """Public examples like those of `tiny_data`."""
    return next(iter(tiny_data(1, size, seed=1).clients.values()))


def tiny_lab(seed: int = 0) -> Lab:
    """A lab that trains `Tiny` with small steps in float32."""
    settings = LocalSettings("fedavg", 0.1, 0.0, 0.0, 8, 1, None)
    return Lab(tiny_plan(), tiny_layout(), settings, Key(seed), torch.device("cpu"), torch.float32)


@dataclass(frozen=True)
class Victim:
    """Undefended FedSGD updates, one image each: the ``view`` of the server, and the ``images`` [m, 1, 8, 8] behind it.

    ``mean``: the mean of images like these.
    """

    view: UpdateView
    images: Tensor
    mean: Tensor

    def drowned(self, seed: int = 0) -> Victim:
        """The same victim with updates replaced by noise of the same norm."""
        generator = torch.Generator().manual_seed(seed)
        captures = []
        for capture in self.view.captures:
            noise = torch.randn(capture.row.shape, generator=generator)
            captures.append(replace(capture, row=noise * (capture.row.norm() / noise.norm())))
        return replace(self, view=replace(self.view, captures=captures))


def tiny_victim(
    images: int = 2,
    *,
    seed: int = 0,
    labels: bool = True,
    settings: bool = True,
    sent: Callable[[Broadcast], Broadcast] = lambda broadcast: broadcast,
) -> Victim:
    """Clients with one smooth image each, whose gradients of `Tiny` the server reads.

    ``labels``, ``settings``: whether these are granted. ``sent``: what a malicious server makes of the broadcast of `Tiny`.
    """
    generator = torch.Generator().manual_seed(seed)
    x = smooth(images, generator)
    y = torch.arange(images) % SHAPE.classes
    plan, layout = tiny_plan(), tiny_layout()
    broadcast = sent(Broadcast(plan, layout.row(plan.factory()), layout))
    captures = []
    for k in range(images):
        own = broadcast.to(IDS[k])
        with torch.random.fork_rng(devices=[]):
            module = own.plan.factory().to(own.row.dtype)
        own.layout.load(module, own.row)
        torch.nn.functional.cross_entropy(module(x[k : k + 1]), y[k : k + 1]).backward()
        slopes = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        row = torch.zeros_like(own.row)
        for s in own.layout.segments:
            if s.name in slopes:
                row[s.start : s.stop] = -slopes[s.name].reshape(-1)
        granted = y[k : k + 1] if labels else None
        captures.append(Capture(0, IDS[k], own.row, row, own.layout, own.plan, labels=granted))
    known = LocalSettings("fedsgd", 1.0, 0.0, 0.0, None, 1, None) if settings else None
    return Victim(UpdateView(SHAPE, cross_entropy, captures, known), x, smooth(64, generator).mean(0))


def smooth(n: int, generator: torch.Generator) -> Tensor:
    """Images [n, 1, 8, 8] in [0, 1] of a few low frequencies."""
    axis = torch.arange(8) / 8
    waves = torch.stack([torch.cos(math.pi * k * axis) for k in range(4)])
    grid = torch.einsum("ai,bj->abij", waves, waves)
    return torch.sigmoid(2 * torch.einsum("nab,abij->nij", torch.randn(n, 4, 4, generator=generator), grid)).unsqueeze(1)


def make_setup(layer: str = "layer", facts: tuple[Fact, ...] = (), *, seed: int = 0) -> Setup:
    """The context of what runs once."""
    return Setup(Key(seed), layer, facts)
