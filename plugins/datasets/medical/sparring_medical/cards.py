"""What the reference cards of medical images measure."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sparring_arrays.measures import loaded, misread

from sparring_medical.brain_tissue import by_position
from sparring_medical.plugin import BRAIN_TISSUE, MEDMNIST

SIZES = {"train": 20, "val": 8, "test": 12}
SLICES = 141


def medmnist() -> dict[str, float]:
    """A file of random colour images in the format of BloodMNIST, against what the reader makes of it; and its classes."""
    rng = np.random.default_rng(0)
    pixels = {part: rng.integers(0, 256, (n, 28, 28, 3)).astype(np.uint8) for part, n in SIZES.items()}
    labels = {part: np.arange(n)[:, None] % 8 for part, n in SIZES.items()}
    held: dict[str, Any] = {f"{part}_labels": y.astype(np.uint8) for part, y in labels.items()}
    colour = held | {f"{part}_images": x for part, x in pixels.items()}
    grey = held | {f"{part}_images": x[..., 0] for part, x in pixels.items()}
    with tempfile.TemporaryDirectory(prefix="sparring-") as folder:
        np.savez(Path(folder) / "bloodmnist.npz", **colour)
        np.savez(Path(folder) / "organamnist.npz", **grey)
        data = loaded(MEDMNIST, root=folder, subset="bloodmnist")
        joined = loaded(MEDMNIST, root=folder, subset="bloodmnist", validation="train")
        proxy = loaded(MEDMNIST, root=folder, subset="bloodmnist", proxy_group="brightness")
        organs = loaded(MEDMNIST, root=folder, subset="organamnist")
    return {
        "classes of BloodMNIST": float(data.shape.classes),
        "channels of BloodMNIST": float(data.shape.inputs[0]),
        "classes of OrganAMNIST": float(organs.shape.classes),
        "channels of OrganAMNIST": float(organs.shape.inputs[0]),
        "training images": float(len(data.train)),
        "test images": float(len(data.test)),
        "training images with the validation part": float(len(joined.train)),
        "training images in the proxy group bright": float(proxy.train.groups["bright"].sum()),
        **misread(data.test, pixels["test"].transpose(0, 3, 1, 2), labels["test"][:, 0]),
    }


def brain_tissue() -> dict[str, float]:
    """How slices are split, whether they stand upright, and how bright tissue is in them, against what a T1 image shows."""
    data = loaded(BRAIN_TISSUE)
    x, y = data.train.x[:, 0], data.train.y
    background, grey, white = means = torch.stack([x[y == k].mean() for k in range(3)])
    guessed = (data.test.x[:, 0, ..., None] - means).abs().argmin(dim=-1)
    train, test = by_position(SLICES, torch.Generator().manual_seed(0))
    return {
        "slices that are neither in a gap nor lost": float(len(data.train) + len(data.test)),
        "slices from a test slice to the next training slice": float((train[:, None] - test).abs().min()),
        "difference between left and right": float((x - x.flip(2)).abs().max()),
        "grey matter less background": float(grey - background),
        "white matter less grey matter": float(white - grey),
        "share of background": float((data.test.y == 0).double().mean()),
        "accuracy of the nearest mean": float((guessed == data.test.y).double().mean()),
    }
