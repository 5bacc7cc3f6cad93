"""MedMNIST: small medical images from a file in the format of MedMNIST v2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from sparring_arrays import checks, files
from torch import Tensor

from sparring.errors import DataError
from sparring.roles import Data, Dataset
from sparring.signals import DataShape, Examples

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring_medical.plugin import MedMnistConfig


@final
class MedMnist(Dataset):
    """Images [N, C, size, size] in [0, 1] with one class each; the split is the source's own.

    The file holds ``train_images`` [N, H, W] or [N, H, W, 3], ``train_labels`` [N, 1], and the same for ``val`` and ``test``.
    How many channels and classes there are, and their names, is what the package `medmnist` says of the ``subset``. The files
    say nothing about patients. ``proxy_group: brightness`` declares a stand-in for studies of subgroups: `bright`, 1 where the
    mean of an image exceeds the median of those means over the source's training part, else 0. It is no demographic.

    Source: J. Yang et al., MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image classification,
    Scientific Data 10, 2023, arXiv:2110.14795.
    """

    def __init__(self, config: MedMnistConfig) -> None:
        self.config = config

    def load(self, ctx: Setup) -> Data:
        """The images. Raises `DataError` where the file is absent or malformed."""
        del ctx
        from medmnist.info import INFO

        c, info = self.config, INFO[self.config.subset]
        shape = DataShape((info["n_channels"], c.size, c.size), len(info["label"]))
        path = self._path(info)
        splits = ("train", "test") if c.validation == "unused" else ("train", "test", "val")
        keys = [f"{split}_{kind}" for split in splits for kind in ("images", "labels")]
        held = files.read_npz(path, lambda name: name in keys)
        missing = [key for key in keys if key not in held]
        if missing:
            raise DataError(f"medmnist: '{path}' has no {', '.join(missing)}; it must be a file of MedMNIST v2")
        part = {}
        for split in splits:
            source = f"medmnist: '{path}', {split}"
            x = checks.images(held[f"{split}_images"], source, "last")
            part[split] = checks.examples(x, checks.labels(held[f"{split}_labels"], source), shape, source)
        if c.proxy_group == "brightness":
            median = _brightness(part["train"]).median()
            part = {split: replace(own, groups={"bright": (_brightness(own) > median).long()}) for split, own in part.items()}
        train = _joined(part["train"], part["val"]) if c.validation == "train" else part["train"]
        names = tuple(str(info["label"][str(k)]) for k in range(shape.classes))
        return Data(train, part["test"], shape, names, public=part["val"] if c.validation == "public" else None)

    def _path(self, info: dict[str, Any]) -> Path:
        c = self.config
        if c.file is not None:
            return files.named_file("medmnist", c.file, c.root)
        folder = files.folder("medmnist", c.root)
        name = f"{c.subset}.npz" if c.size == 28 else f"{c.subset}_{c.size}.npz"
        candidates = (folder / name, folder / "medmnist" / name)
        found = next((path for path in candidates if path.is_file()), None)
        if found is None and c.download:
            found = _download(c.subset, c.size, info["python_class"], folder) / name
        if found is None or not found.is_file():
            raise files.absent("medmnist", folder, name, "set download: true, or put the file there")
        return found


def _brightness(examples: Examples) -> Tensor:
    """The mean [N] of each image."""
    return examples.x.flatten(1).mean(dim=1)


def _joined(a: Examples, b: Examples) -> Examples:
    groups = {name: torch.cat([column, b.groups[name]]) for name, column in a.groups.items()}
    return Examples(torch.cat([a.x, b.x]), torch.cat([a.y, b.y]), groups)


def _download(name: str, size: int, python_class: str, folder: Path) -> Path:
    import medmnist

    try:
        folder.mkdir(parents=True, exist_ok=True)
        getattr(medmnist, python_class)(split="test", root=str(folder), size=size, download=True)
    except (OSError, RuntimeError, ValueError) as error:
        cause = error.__context__ or error
        raise DataError(
            f"medmnist: the download of {name} into '{folder}' failed ({type(cause).__name__}: {cause}); "
            "try again with a network, or put the file there yourself"
        ) from error
    return folder
