"""CIFAR-10: colour photographs of 32x32 pixels, in the binary version of the files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
from sparring_arrays import files

from sparring.errors import DataError
from sparring.roles import Data, Dataset
from sparring.signals import DataShape
from sparring_images.common import Part, assemble, fetch, first_folder, from_npz, part

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring_images.plugin import Cifar10Config

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER, PICKLES = "cifar-10-batches-bin", "cifar-10-batches-py"
TRAIN = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
TEST = ("test_batch.bin",)
RECORD = 1 + 3 * 32 * 32
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@final
class Cifar10(Dataset):
    """Images [N, 3, 32, 32] in [0, 1], 10 classes; the split is the source's own.

    The Python version of the files is pickled, and so it is refused: the binary version holds the same images.

    Source: A. Krizhevsky, Learning multiple layers of features from tiny images, University of Toronto, 2009.
    """

    def __init__(self, config: Cifar10Config) -> None:
        self.config = config

    def load(self, ctx: Setup) -> Data:
        """The images of the file or folder. Raises `DataError` where they are absent or malformed."""
        train, test = from_npz("cifar10", self.config) or self._folder()
        return assemble(train, test, DataShape((3, 32, 32), 10), NAMES, self.config, ctx)

    def _folder(self) -> tuple[Part, Part]:
        base = files.folder("cifar10", self.config.root)
        candidates = (base / FOLDER, base)
        found = first_folder(candidates, _complete)
        if found is None and self.config.download:
            fetch("cifar10", base, lambda: _download(base))
            found = first_folder(candidates, _complete)
        if found is None:
            pickled = f" ('{base / PICKLES}' holds pickles, which are never read)" if (base / PICKLES).is_dir() else ""
            raise files.absent(
                "cifar10",
                base,
                f"{FOLDER}/{TRAIN[0]} to {TRAIN[-1]} and {TEST[0]}{pickled}",
                f"set download: true, or put CIFAR-10's binary version there ({URL})",
            )
        return _read(found, TRAIN), _read(found, TEST)


def _download(base: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(URL, str(base), filename=URL.rsplit("/", 1)[-1], md5=MD5)


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in TRAIN + TEST)


def _read(folder: Path, names: tuple[str, ...]) -> Part:
    """Records of a label and 3 x 32 x 32 pixels, bytes each, from all of the files."""
    records = []
    for name in names:
        raw = np.fromfile(folder / name, np.uint8)
        if not len(raw) or len(raw) % RECORD:
            raise DataError(
                f"cifar10: '{folder / name}' holds {len(raw)} bytes; it must be "
                f"one or more records of {RECORD} bytes: fetch it again"
            )
        records.append(raw.reshape(-1, RECORD))
    table = np.concatenate(records)
    return part(table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0], f"cifar10: '{folder}', {names[0]}")
