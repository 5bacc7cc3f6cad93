"""MNIST and Fashion-MNIST: grey images of 28x28 pixels in idx files."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

import numpy as np
from sparring_arrays import files

from sparring.errors import DataError
from sparring.roles import Data, Dataset
from sparring.signals import DataShape
from sparring_images.common import Array, Part, assemble, fetch, first_folder, from_npz, part

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring_images.plugin import MnistConfig

SIDE = 28
UNSIGNED_BYTES = 8


@dataclass(frozen=True)
class Family:
    """One of the two sets: its name, the folders in which its files are looked for, and its classes."""

    name: str
    torchvision: Literal["MNIST", "FashionMNIST"]
    classes: tuple[str, ...]

    def folders(self, base: Path, named: bool) -> list[Path]:
        """Folders under ``base``; ``base`` itself only where the user ``named`` it, as the two sets' files are named alike."""
        own = [base / self.torchvision / "raw", base / self.torchvision, base / self.name]
        return [*own, base] if named else own


DIGITS = Family("mnist", "MNIST", tuple(str(k) for k in range(10)))
FASHION = Family(
    "fashion-mnist",
    "FashionMNIST",
    ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


@final
class Mnist(Dataset):
    """Images [N, 1, 28, 28] (or 32x32, padded with black) in [0, 1], 10 classes; the split is the source's own.

    Sources: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning applied to document recognition, Proceedings
    of the IEEE 86(11), 1998; H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, 2017, arXiv:1708.07747.
    """

    def __init__(self, config: MnistConfig, family: Family = DIGITS) -> None:
        self.config, self.family = config, family

    def load(self, ctx: Setup) -> Data:
        """The images of the file or folder. Raises `DataError` where they are absent or malformed."""
        train, test = from_npz(self.family.name, self.config) or self._folder()
        side = self.config.pad_to
        return assemble(
            train, test, DataShape((1, side, side), 10), self.family.classes, self.config, ctx, border=(side - SIDE) // 2
        )

    def _folder(self) -> tuple[Part, Part]:
        family, base = self.family, files.folder(self.family.name, self.config.root)
        candidates = family.folders(base, named=self.config.root is not None)
        found = first_folder(candidates, _complete)
        if found is None and self.config.download:
            fetch(family.name, base, lambda: _download(family, base))
            found = first_folder(candidates, _complete)
        if found is None:
            raise files.absent(
                family.name,
                base,
                f"{family.torchvision}/raw/train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
                "t10k-labels-idx1-ubyte (each perhaps .gz)",
                "set download: true, or put the files there",
            )
        return self._part(found, "train"), self._part(found, "t10k")

    def _part(self, folder: Path, split: str) -> Part:
        pixels, labels = idx(_path(folder, f"{split}-images-idx3"), 3), idx(_path(folder, f"{split}-labels-idx1"), 1)
        return part(pixels, labels, f"{self.family.name}: '{folder}', {split}")


def _download(family: Family, base: Path) -> None:
    from torchvision import datasets
    from torchvision.datasets.utils import download_url

    official = getattr(datasets, family.torchvision)
    for name, md5 in official.resources:
        for mirror in official.mirrors:
            try:
                download_url(mirror + name, str(base / family.torchvision / "raw"), name, md5)
                break
            except (OSError, RuntimeError):
                if mirror == official.mirrors[-1]:
                    raise


def _path(folder: Path, stem: str) -> Path:
    """The file ``stem``-ubyte, with a dot for its last hyphen as some mirrors write it, and perhaps gzipped; may be absent."""
    paths = [folder / f"{s}-ubyte{end}" for s in (stem, ".".join(stem.rsplit("-", 1))) for end in ("", ".gz")]
    return next((path for path in paths if path.is_file()), paths[0])


def _complete(folder: Path) -> bool:
    return all(_path(folder, f"{s}-{kind}").is_file() for s in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def idx(path: Path, axes: int) -> Array:
    """The array of an idx file of unsigned bytes: two zero bytes, the type 8, the number of axes, their sizes, the data.

    Sizes are big-endian 32-bit integers. Raises `DataError` for another header, and for more or less data than it says.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            raw = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' cannot be read ({error}); fetch it again") from error
    start = 4 + 4 * axes
    if len(raw) < start or raw[:4] != bytes((0, 0, UNSIGNED_BYTES, axes)):
        raise DataError(f"'{path}' is no idx file of bytes with {axes} axes: it begins with {raw[:4].hex(' ') or 'nothing'}")
    sizes = tuple(int(n) for n in np.frombuffer(raw, ">u4", axes, offset=4))
    if len(raw) - start != math.prod(sizes):
        raise DataError(f"'{path}' says {' x '.join(map(str, sizes))} bytes but holds {len(raw) - start}; fetch it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(sizes)
