"""What the reference card of tableak measures, and the records that it is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.games import ReconstructionGame
from sparring.layout import Layout
from sparring.likeness import nearest_code
from sparring.local import cross_entropy
from sparring.scoring import Measure, Truth
from sparring.signals import Column, DataShape, Examples, ModelPlan
from sparring.testing.fixtures import make_setup
from sparring.views import Capture, Reconstruction, UpdateView
from sparring_inversion.plugin_records import TableakConfig
from sparring_inversion.tableak import Tableak

ODDS = ((0.6, 0.4), (0.5, 0.3, 0.2), (0.4, 0.3, 0.2, 0.1))
"""How often the codes of each category are drawn."""
NUMBERS, LIMIT, CLOSE, HIDDEN = 4, 3.0, 0.319, 64


def columns() -> tuple[Column, ...]:
    """Numbers in [-3, 3], with categories between them: one feature of 0 and 1, and one-hot codes of 3 and 4."""
    made: list[Column] = []
    for k in range(NUMBERS):
        at = sum(c.width for c in made)
        made.append(Column(f"number {k}", at, low=-LIMIT, high=LIMIT, close=CLOSE))
        if k < len(ODDS):
            size = len(ODDS[k])
            codes = ((0.0,), (1.0,)) if size == 2 else tuple(map(tuple, torch.eye(size).tolist()))
            made.append(Column(f"category {k}", at + 1, len(codes[0]), codes))
    return tuple(made)


SHAPE = DataShape((sum(c.width for c in columns()),), 2, columns=columns())


def drawn(n: int, generator: torch.Generator) -> Tensor:
    """Records [n, F]: numbers ~ N(0, 1) clamped to their range, categories by their odds."""
    parts, odds = [], iter(ODDS)
    for column in SHAPE.columns:
        if column.codes:
            parts.append(torch.tensor(column.codes)[torch.multinomial(torch.tensor(next(odds)), n, True, generator=generator)])
        else:
            parts.append(torch.randn(n, 1, generator=generator).clamp(-LIMIT, LIMIT))
    return torch.cat(parts, 1)


def perceptron() -> nn.Module:
    """An untrained ReLU perceptron of one hidden layer."""
    return nn.Sequential(nn.Linear(SHAPE.inputs[0], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, SHAPE.classes))


@dataclass(frozen=True)
class Records:
    """FedSGD updates of clients with records of their own: the ``view`` of the server, and the ``truth`` of the game."""

    view: UpdateView
    truth: Truth

    def scored(self, found: Reconstruction) -> Mapping[str, Measure]:
        """The game's measures of what was found of these clients."""
        own = {key: x for key, x in found.inputs.items() if key in self.truth.examples}
        return ReconstructionGame().score(replace(found, inputs=own), self.truth).measures

    def drowned(self, seed: int = 0, shift: int = 0) -> Records:
        """Clients with the same records, ids larger by ``shift``, and updates that are noise of the same norm."""
        generator = torch.Generator().manual_seed(seed)
        captures: list[Capture] = []
        examples: dict[tuple[int, int | None], Examples] = {}
        for capture, client in ((capture, capture.client) for capture in self.view.captures if capture.client is not None):
            noise = torch.randn(capture.row.shape, generator=generator)
            row = noise * (capture.row.norm() / noise.norm())
            captures.append(replace(capture, client=client + shift, row=row))
            examples[capture.round, client + shift] = self.truth.examples[capture.round, client]
        return Records(replace(self.view, captures=captures), replace(self.truth, examples=examples))


def records(clients: int, batch: int, seed: int = 0) -> Records:
    """``clients`` with ``batch`` records each, and the untrained model that they all answer; labels are granted."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = perceptron()
    layout, captures = Layout.of(module), []
    examples: dict[tuple[int, int | None], Examples] = {}
    for client in range(clients):
        x, y = drawn(batch, generator), torch.randint(SHAPE.classes, (batch,), generator=generator)
        g = torch.autograd.grad(F.cross_entropy(module(x), y), list(module.parameters()))
        row = -torch.cat([part.reshape(-1) for part in g])
        captures.append(
            Capture(0, client, layout.row(module), row, layout, ModelPlan(perceptron, SHAPE), examples=batch, labels=y)
        )
        examples[0, client] = Examples(x, y)
    mean = drawn(1000, generator).mean(0)
    return Records(UpdateView(SHAPE, cross_entropy, captures), Truth(examples, mean, columns=SHAPE.columns))


def coded(found: Reconstruction) -> float:
    """The share of reconstructed categories that are one of their codes, to the last digit."""
    x = torch.cat([x.flatten(1) for x in found.inputs.values()])
    hits = [(x[:, c.at : c.at + c.width] == torch.tensor(c.codes)[nearest_code(x, c)]).all(1) for c in SHAPE.columns if c.codes]
    return float(torch.stack(hits).double().mean())


def tableak() -> dict[str, float]:
    """Columns that an ensemble tells from gradients of two records, and from noise, beside the mean record."""
    victim = records(6, 2)
    noise = victim.drowned(shift=len(victim.view.captures))
    both = replace(victim.view, captures=[*victim.view.captures, *noise.view.captures])
    found = Tableak(TableakConfig(iterations=150, restarts=5, snapshots=0)).attack_observe(both, make_setup("attack"))
    measures, drowned = victim.scored(found), noise.scored(found)
    told, baseline = measures["columns"].value, measures["columns"].baseline
    assert baseline is not None
    return {
        "share of columns told": told,
        "share of categories told": measures["categories"].value,
        "share of numbers told": measures["numbers"].value,
        "share that the mean record tells": baseline,
        "gain over the mean record": told - baseline,
        "gain over the mean record where gradients are noise of equal norm": drowned["columns"].value - baseline,
        "share of categories that are a code": coded(found),
    }
