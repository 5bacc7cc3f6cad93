"""Small files in the sets' official formats, for reference cards and tests: nothing is downloaded."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sparring_images import cifar10, gtsrb
from sparring_images.common import Array


def idx(values: Array) -> bytes:
    """An idx file of unsigned bytes."""
    header = bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_mnist(folder: Path, parts: Mapping[str, tuple[Array, Array]], *, gz: bool = False, name: str = "{}-ubyte") -> None:
    """Files of MNIST: images [N, 28, 28] and labels [N] of the parts train and t10k."""
    folder.mkdir(parents=True)
    for part, held in parts.items():
        for kind, values in zip(("images-idx3", "labels-idx1"), held, strict=True):
            raw = idx(values)
            path = folder / (name.format(f"{part}-{kind}") + (".gz" if gz else ""))
            path.write_bytes(gzip.compress(raw) if gz else raw)


def write_cifar10(folder: Path, pixels: Array, labels: Array) -> None:
    """The six files of CIFAR-10's binary version, the last for tests: pixels [6, n, 3, 32, 32] and labels [6, n].

    A record is a label and 1,024 bytes each of red, green and blue, row by row.
    """
    folder.mkdir(parents=True)
    for name, x, y in zip((*cifar10.TRAIN, *cifar10.TEST), pixels, labels, strict=True):
        records = [bytes([label]) + image.astype(np.uint8).tobytes() for image, label in zip(x, y, strict=True)]
        (folder / name).write_bytes(b"".join(records))


def write_gtsrb(folder: Path, train: Iterable[tuple[Array, int]], test: Iterable[tuple[Array, int]]) -> None:
    """The folders of GTSRB, of signs [H, W, 3] and their classes."""
    for k, (sign, label) in enumerate(train):
        _ppm(folder / gtsrb.TRAIN / f"{label:05d}" / f"{k:05d}.ppm", sign)
    lines = ["Filename;Width;Height;ClassId"]
    for k, (sign, label) in enumerate(test):
        name = f"{k:05d}.ppm"
        _ppm(folder / gtsrb.TEST / name, sign)
        lines.append(f"{name};{sign.shape[1]};{sign.shape[0]};{label}")
    (folder / gtsrb.ANSWERS).write_text("\n".join(lines))


def _ppm(path: Path, sign: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sign.astype(np.uint8)).save(path)
