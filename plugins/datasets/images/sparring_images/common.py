"""What the sets of images share: the `file` option, limits, checks, and downloads that the user asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sparring_arrays import checks, files
from sparring_arrays.split import subset
from torch import Tensor
from torch.nn import functional as F

from sparring.errors import DataError
from sparring.roles import Data
from sparring.signals import DataShape, Examples

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring_images.plugin import ImagesConfig

Array = np.ndarray[Any, Any]
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Part:
    """Labels [N] of one part, and ``pixels(index)``: the images [n, ...] at ``index`` [n]. ``source`` names it in errors."""

    labels: Array
    pixels: Callable[[Array], Array]
    source: str


def part(pixels: Array, labels: Array, source: str) -> Part:
    """A part whose images are in memory; raises `DataError` where there are not as many images as labels."""
    if pixels.ndim == 0 or len(pixels) != labels.size:
        raise DataError(f"{source}: holds {len(pixels) if pixels.ndim else 0} images but {labels.size} labels")
    return Part(labels, lambda index: pixels[index], source)


def from_npz(dataset: str, config: ImagesConfig) -> tuple[Part, Part] | None:
    """The parts of the configured `file`; None where there is none."""
    if config.file is None:
        return None
    path = files.named_file(dataset, config.file, config.root)
    keys = ("x_train", "y_train", "x_test", "y_test")
    held = files.read_npz(path, lambda name: name in keys)
    missing = [key for key in keys if key not in held]
    if missing:
        raise DataError(
            f"{dataset}: '{path}' has no {', '.join(missing)}; it must have {', '.join(keys)} (see also the data set `arrays`)"
        )
    train, test = (part(held[f"x_{s}"], held[f"y_{s}"], f"{dataset}: '{path}', {s}") for s in SPLITS)
    return train, test


def assemble(
    train: Part, test: Part, shape: DataShape, names: tuple[str, ...], config: ImagesConfig, ctx: Setup, border: int = 0
) -> Data:
    """The data of two parts: limited, converted to [N, C, H, W] in [0, 1], padded with black, and checked."""
    generator = ctx.generator()
    limits = ((train, config.limit_train), (test, config.limit_test))
    first, second = (_examples(p, limit, shape, generator, border) for p, limit in limits)
    return Data(first, second, shape, names)


def _examples(p: Part, limit: int | None, shape: DataShape, generator: torch.Generator, border: int) -> Examples:
    y: Tensor = checks.labels(p.labels, p.source)
    if int(y.max()) >= shape.classes:
        raise DataError(
            f"{p.source}: the label {int(y.max())} occurs; with {shape.classes} classes they are 0 .. {shape.classes - 1}"
        )
    index = subset(y, limit, generator)
    x = F.pad(checks.images(p.pixels(index.numpy()), p.source), (border,) * 4)
    return checks.examples(x, y[index], shape, p.source)


def first_folder(candidates: Iterable[Path], holds: Callable[[Path], bool]) -> Path | None:
    """The first of the folders that holds what is looked for."""
    return next((path for path in candidates if path.is_dir() and holds(path)), None)


def fetch(dataset: str, folder: Path, get: Callable[[], object]) -> None:
    """Run a download that the user asked for; raises `DataError` where it fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        get()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{dataset}: the download into '{folder}' failed ({type(error).__name__}: {error}); "
            "try again with a network, or put the files there yourself"
        ) from error
