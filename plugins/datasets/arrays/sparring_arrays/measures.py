"""What the reference cards of data sets measure alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.context import Setup
from sparring.keys import Key
from sparring.roles import Data
from sparring.signals import Examples
from sparring.specs import DatasetSpec


def loaded(spec: DatasetSpec[Any], seed: int = 0, **options: Any) -> Data:
    """The data that a technique loads with these options."""
    dataset = spec.build(spec.config(**options))
    return dataset.load(Setup(Key(seed), spec.name))


def whole(data: Data) -> Examples:
    """The training part followed by the test part."""
    parts = (data.train, data.test)
    groups = {name: torch.cat([part.groups[name] for part in parts]) for name in data.train.groups}
    return Examples(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]), groups)


def misread(part: Examples, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[str, float]:
    """How far a part is from the bytes ``pixels`` [N, C, H, W] and ``labels`` [N] that were written."""
    wanted: Tensor = torch.from_numpy(pixels).float() / 255
    return {
        "largest difference of a pixel from its byte / 255": float((part.x - wanted).abs().max()),
        "labels other than those written": float((part.y != torch.from_numpy(labels)).sum()),
    }


def nearest_neighbour(data: Data) -> float:
    """Share of the test part to which the closest training example, by Euclidean distance, gives its label."""
    distances = torch.cdist(data.test.x.flatten(1), data.train.x.flatten(1))
    return float((data.train.y[distances.argmin(dim=1)] == data.test.y).double().mean())
