"""What the reference cards of the sets of images measure, on small files in the official formats."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from sparring_arrays.measures import loaded, misread, whole

from sparring_images.common import Array
from sparring_images.plugin import CIFAR10, FASHION_MNIST, GTSRB, MNIST
from sparring_images.samples import write_cifar10, write_gtsrb, write_mnist

TRAIN, TEST = 20, 10


def _noise(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def _pair(seed: int) -> dict[str, tuple[Array, Array]]:
    sizes = {"train": TRAIN, "t10k": TEST}
    return {part: (_noise(seed + n, n, 28, 28), np.arange(n) % 10) for part, n in sizes.items()}


def _joined(held: dict[str, tuple[Array, Array]]) -> tuple[Array, Array]:
    pixels, labels = zip(*held.values(), strict=True)
    return np.concatenate(pixels)[:, None], np.concatenate(labels)


def mnist() -> dict[str, float]:
    """Idx files of random images, plain and gzipped, against what the reader makes of them; and the black border of 32x32."""
    held = _pair(0)
    with tempfile.TemporaryDirectory(prefix="sparring-") as folder:
        base = Path(folder)
        write_mnist(base / "MNIST" / "raw", held)
        write_mnist(base / "zipped", held, gz=True)
        data, padded = loaded(MNIST, root=folder), loaded(MNIST, root=str(base / "zipped"), pad_to=32)
    read = whole(data)
    bordered = whole(padded).x
    inner = bordered[..., 2:30, 2:30].clone()
    bordered[..., 2:30, 2:30] = 0
    return {
        "training images": float(len(data.train)),
        "test images": float(len(data.test)),
        "classes": float(data.shape.classes),
        **misread(read, *_joined(held)),
        "side with a border": float(bordered.shape[-1]),
        "largest pixel of the border": float(bordered.max()),
        "largest difference of a pixel within the border": float((inner - read.x).abs().max()),
    }


def fashion_mnist() -> dict[str, float]:
    """Both sets, whose files are named alike, under one folder, against what the reader makes of it; and its classes."""
    held = _pair(0)
    with tempfile.TemporaryDirectory(prefix="sparring-") as folder:
        write_mnist(Path(folder) / "MNIST" / "raw", _pair(1))
        write_mnist(Path(folder) / "FashionMNIST" / "raw", held)
        data = loaded(FASHION_MNIST, root=folder)
    return {
        "training images": float(len(data.train)),
        "test images": float(len(data.test)),
        "classes": float(data.shape.classes),
        "label of T-shirt/top": float(data.names.index("T-shirt/top")),
        "label of ankle boot": float(data.names.index("ankle boot")),
        **misread(whole(data), *_joined(held)),
    }


def cifar10() -> dict[str, float]:
    """Records of random images, the last of them red, against what the reader makes of them; and its classes."""
    pixels, labels = _noise(0, 6, 4, 3, 32, 32), np.arange(24).reshape(6, 4) % 10
    pixels[5, 3] = 0
    pixels[5, 3, 0] = 255
    with tempfile.TemporaryDirectory(prefix="sparring-") as folder:
        write_cifar10(Path(folder) / "cifar-10-batches-bin", pixels, labels)
        data = loaded(CIFAR10, root=folder)
    red, green, blue = data.test.x[3].mean(dim=(1, 2)).tolist()
    return {
        "training images": float(len(data.train)),
        "test images": float(len(data.test)),
        "classes": float(data.shape.classes),
        "label of airplane": float(data.names.index("airplane")),
        "label of truck": float(data.names.index("truck")),
        **misread(whole(data), pixels.reshape(-1, 3, 32, 32), labels.reshape(-1)),
        "red of a red image": red,
        "green and blue of a red image": green + blue,
    }


def gtsrb() -> dict[str, float]:
    """Signs of four sizes whose red is five times their class, against what the reader makes of three of each part."""

    def sign(label: int, k: int) -> tuple[Array, int]:
        pixels = np.zeros((20 + k, 30 + 2 * k, 3), np.uint8)
        pixels[..., 0] = 5 * label
        pixels[:, : pixels.shape[1] // 2, 2] = 255
        return pixels, label

    with tempfile.TemporaryDirectory(prefix="sparring-") as folder:
        train = [sign(label, k) for label in (0, 14, 42) for k in range(4)]
        write_gtsrb(Path(folder), train, [sign(label, 3) for label in (42, 0, 14, 42, 0, 14)])
        data = loaded(GTSRB, root=folder, size=16, limit_train=3, limit_test=3)
    read = whole(data)
    red, _, blue = read.x.mul(255).round().unbind(dim=1)
    return {
        "classes": float(data.shape.classes),
        "label of stop": float(data.names.index("stop")),
        "label of keep right": float(data.names.index("keep right")),
        "images within the limits": float(len(read)),
        "classes within the limits": float(len(data.train.y.unique()) + len(data.test.y.unique())),
        "side": float(data.shape.inputs[-1]),
        "largest difference of red from five times the class": float((red - 5 * read.y[:, None, None]).abs().max()),
        "blue of the left third": float(blue[:, :, :5].mean()),
        "blue of the right third": float(blue[:, :, -5:].mean()),
    }
