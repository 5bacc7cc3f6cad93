"""A small task with images, on which the reference cards and tests of this distribution run attacks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, final

import torch
from torch import nn

from sparring.build import build
from sparring.context import Setup
from sparring.experiment import Experiment, silent
from sparring.objectives import Objective
from sparring.roles import Data, Dataset
from sparring.run import Outcome, run_cell
from sparring.signals import DataShape, Examples

CLASSES, SIDE = 4, 8
Probes = Callable[[Examples], Mapping[str, Objective]]


class _Unlogged:
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        del step, values


@final
class Tiles(Dataset):
    """Images [1, 8, 8] in [0, 1] of four classes, each brighter in its own quadrant; drawn from the run's stream.

    The outermost pixels are dark, so that a trigger there is something new, but for a bar in the middle of the left edge in
    about half of the images (group `site` = 1) and one in the middle of the top edge in about a tenth (`odd` = 1), which lie
    farther from their class's mean than others.
    """

    def __init__(self, train: int = 800, test: int = 400, noise: float = 0.7) -> None:
        self.sizes, self.noise = (train, test), noise

    def load(self, ctx: Setup) -> Data:
        train, test = (self._draw(n, ctx.generator(k)) for k, n in enumerate(self.sizes))
        return Data(train, test, DataShape((1, SIDE, SIDE), CLASSES))

    def _draw(self, n: int, generator: torch.Generator) -> Examples:
        y = torch.arange(n) % CLASSES
        x = self.noise * torch.rand(n, 1, SIDE, SIDE, generator=generator)
        for c in range(CLASSES):
            rows, columns = slice(1 + 3 * (c // 2), 4 + 3 * (c // 2)), slice(1 + 3 * (c % 2), 4 + 3 * (c % 2))
            x[y == c, :, rows, columns] += 1 - self.noise
        x[:, :, (0, -1)] = 0
        x[..., (0, -1)] = 0
        site, odd = (torch.rand(2, n, generator=generator) < torch.tensor([[0.5], [0.1]])).long()
        x[:, 0, 2:6, 0] = site[:, None].to(x)
        x[:, 0, 0, 2:6] = odd[:, None].to(x)
        return Examples(x, y, {"site": site, "odd": odd})


def perceptron() -> nn.Module:
    """A perceptron with one hidden layer for `Tiles`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 32), nn.ReLU(), nn.Linear(32, CLASSES))


FEDERATION: Mapping[str, Any] = {"clients": 10, "rounds": 20, "batch_size": 20, "optimiser": {"lr": 0.5}, "evaluate_every": 20}


def tiles(probes: Probes | None = None, **sections: Any) -> Outcome:
    """What an experiment on `Tiles` comes to: 10 clients with 80 images each, 20 rounds; ``sections`` as in `outcome`.

    ``probes``: further objectives over the test examples, whose success is recorded under their names.
    """
    federation = {**FEDERATION, **sections.pop("federation", {})}
    settings = {"dataset": Tiles(), "model": perceptron, "engine": "sequential"}
    (cell,) = Experiment.of("tiles", **{**settings, "federation": federation, **sections}).resolve().values()
    built = build(cell, silent)
    if probes is not None:
        built = replace(built, objectives={**built.objectives, **probes(built.data.test)})
    with tempfile.TemporaryDirectory(prefix="sparring-") as folder:
        return run_cell(built, "tiles", Path(folder), _Unlogged(), resume=False)


def attacked(name: str, share: float, seed: int, control: str = "data", **more: Any) -> Outcome:
    """`tiles` with the attack ``name`` by a ``share`` of the clients; ``entry``: its options, clients and window."""
    held = {"compromised": {"fraction": share, "control": control}}
    return tiles(seed=seed, threat_model=held, attacks=[{name: more.pop("entry", {})}], **more)


def reached(found: Outcome, label: str) -> float:
    """Success after the last round."""
    return found.success[label][-1][1]


def after(found: Outcome, label: str, last: int) -> float:
    """Mean success over the evaluated rounds after round ``last``."""
    return fmean(rate for index, rate in found.success[label] if index > last)
