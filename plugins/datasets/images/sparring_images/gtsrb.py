"""GTSRB: German traffic signs, in folders of ppm images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
from PIL import Image
from sparring_arrays import files

from sparring.errors import DataError
from sparring.roles import Data, Dataset
from sparring.signals import DataShape
from sparring_images.common import Array, Part, assemble, fetch, first_folder, from_npz

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring_images.plugin import GtsrbConfig

TRAIN, TEST, ANSWERS = "GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv"
NAMES = (
    "speed limit 20", "speed limit 30", "speed limit 50", "speed limit 60", "speed limit 70", "speed limit 80",
    "end of speed limit 80", "speed limit 100", "speed limit 120", "no overtaking", "no overtaking by lorries",
    "right of way at the next crossing", "priority road", "give way", "stop", "no vehicles", "no lorries", "no entry", "danger",
    "bend to the left", "bend to the right", "double bend", "uneven road", "slippery road", "road narrows on the right",
    "road works", "traffic lights", "pedestrians", "children", "cyclists", "ice or snow", "wild animals", "end of all limits",
    "turn right ahead", "turn left ahead", "ahead only", "ahead or right", "ahead or left", "keep right", "keep left",
    "roundabout", "end of no overtaking", "end of no overtaking by lorries",
)  # fmt: skip


@final
class Gtsrb(Dataset):
    """Images [N, 3, size, size] in [0, 1], 43 classes, resized bilinearly whatever their aspect; the split is the source's own.

    Source: J. Stallkamp, M. Schlipsing, J. Salmen and C. Igel, Man vs. computer: benchmarking machine learning algorithms for
    traffic sign recognition, Neural Networks 32, 2012.
    """

    def __init__(self, config: GtsrbConfig) -> None:
        self.config = config

    def load(self, ctx: Setup) -> Data:
        """The images of the file or folder; only those within the limits are opened. Raises `DataError`."""
        train, test = from_npz("gtsrb", self.config) or self._folder()
        shape = DataShape((3, self.config.size, self.config.size), len(NAMES))
        return assemble(train, test, shape, NAMES, self.config, ctx)

    def _folder(self) -> tuple[Part, Part]:
        base = files.folder("gtsrb", self.config.root)
        candidates = (base / "gtsrb", base)
        found = first_folder(candidates, _complete)
        if found is None and self.config.download:
            fetch("gtsrb", base, lambda: _download(base))
            found = first_folder(candidates, _complete)
        if found is None:
            raise files.absent(
                "gtsrb",
                base,
                f"gtsrb/{TRAIN}/00000/*.ppm, gtsrb/{TEST}/*.ppm and gtsrb/{ANSWERS}",
                "set download: true, or put the files there",
            )
        return self._part(_train(found / TRAIN), "train"), self._part(_test(found / TEST, found / ANSWERS), "test")

    def _part(self, signs: Sequence[tuple[Path, int]], split: str) -> Part:
        paths = [path for path, _ in signs]
        size = self.config.size

        def pixels(index: Array) -> Array:
            images = np.empty((len(index), size, size, 3), np.uint8)
            for row, k in enumerate(index):
                images[row] = _read(paths[k], size)
            return images

        return Part(np.array([label for _, label in signs], np.int64), pixels, f"gtsrb: {split}")


def _download(base: Path) -> None:
    from torchvision.datasets import GTSRB

    for split in ("train", "test"):
        GTSRB(str(base), split=split, download=True)


def _complete(folder: Path) -> bool:
    return (folder / TRAIN).is_dir() and (folder / TEST).is_dir() and (folder / ANSWERS).is_file()


def _train(folder: Path) -> list[tuple[Path, int]]:
    """Images by class: a folder 00000 .. 00042 each."""
    found = []
    for path in sorted(folder.glob("*/*.ppm")):
        if not path.parent.name.isdecimal():
            raise DataError(f"gtsrb: '{path.parent}' is no class; the folders are named 00000 to 000{len(NAMES) - 1}")
        found.append((path, int(path.parent.name)))
    if not found:
        raise DataError(f"gtsrb: '{folder}' holds no image 00000/*.ppm; put the files there")
    return found


def _test(folder: Path, answers: Path) -> list[tuple[Path, int]]:
    """Images and their classes, from lines `Filename;...;ClassId`."""
    with answers.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter=";", skipinitialspace=True)
        found = []
        for row in rows:
            name, label = row.get("Filename") or "", row.get("ClassId") or ""
            path = folder / name
            if not label.isdecimal() or Path(name).name != name or not path.is_file():
                raise DataError(
                    f"gtsrb: '{answers}', line {rows.line_num}: Filename is {name!r} and ClassId {label!r}; "
                    f"they must name an image in '{folder}' and its class 0 to {len(NAMES) - 1}"
                )
            found.append((path, int(label)))
    if not found:
        raise DataError(f"gtsrb: '{answers}' names no image; fetch it again")
    return found


def _read(path: Path, size: int) -> Array:
    """One image [size, size, 3], uint8."""
    try:
        with Image.open(path, formats=["PPM"]) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"gtsrb: '{path}' is no readable ppm image ({error}); fetch it again") from error
