"""A small learnable task, and whole experiments on it without files or tracking: for authors' tests and reference cards."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from sparring.context import Setup
from sparring.experiment import Experiment, silent
from sparring.roles import Data, Dataset
from sparring.run import Outcome, run_cell
from sparring.signals import DataShape, Examples

CLASSES, FEATURES = 4, 12


@final
class Blobs(Dataset):
    """Four classes of points in [0, 1]^12, drawn from the run's stream: each class is bright in its own three features.

    A linear model learns them almost perfectly, so that what an attack or a defence costs can be seen.
    """

    def __init__(self, train: int = 400, test: int = 400) -> None:
        self.sizes = train, test

    def load(self, ctx: Setup) -> Data:
        train, test = (self._draw(n, ctx.generator(k)) for k, n in enumerate(self.sizes))
        return Data(train, test, DataShape((FEATURES,), CLASSES))

    def _draw(self, n: int, generator: torch.Generator) -> Examples:
        y = torch.arange(n) % CLASSES
        x = 0.6 * torch.rand(n, FEATURES, generator=generator)
        for c in range(CLASSES):
            x[y == c, 3 * c : 3 * c + 3] += 0.4
        return Examples(x, y)


def linear() -> nn.Module:
    """Multinomial logistic regression on `Blobs`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, CLASSES))


class _Unlogged:
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        del step, values


def outcome(**sections: Any) -> Outcome:
    """What an experiment comes to; ``sections`` are those of an experiment file.

    Without ``dataset`` and ``model`` it is `linear` on `Blobs`; without ``federation``, 10 clients and 8 rounds. Nothing is
    tracked, and no file is left behind. Raises `CompositionError` where the stack does not type-check.
    """
    from sparring.build import build

    settings = {"federation": {"clients": 10, "rounds": 8, "optimiser": {"lr": 0.5}}, "engine": "sequential"}
    given = {"dataset": Blobs(), "model": linear, **settings, **sections}
    (cell,) = Experiment.of("small", **given).resolve().values()
    with tempfile.TemporaryDirectory(prefix="sparring-") as folder:
        return run_cell(build(cell, silent), "small", Path(folder), _Unlogged(), resume=False)
