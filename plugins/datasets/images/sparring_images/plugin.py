"""The techniques `mnist`, `fashion-mnist`, `cifar10` and `gtsrb`: images from a folder, a file or a download."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from sparring.hookspecs import hookimpl
from sparring.specs import AnySpec, Config, DatasetSpec

if TYPE_CHECKING:
    from sparring_images.cifar10 import Cifar10
    from sparring_images.gtsrb import Gtsrb
    from sparring_images.mnist import Mnist


class ImagesConfig(Config):
    """Where images are found, and how many are used."""

    root: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="folder with the data (default: the environment variable SPARRING_DATA)",
    )
    file: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="an .npz file with x_train, y_train, x_test and y_test, read in place of the folder's own files; "
        "a relative path is taken from the folder",
    )
    download: bool = Field(False, description="download the data into the folder where they are missing")
    limit_train: int | None = Field(
        None, ge=1, le=100_000_000, description="use at most this many training images, drawn stratified by class"
    )
    limit_test: int | None = Field(
        None, ge=1, le=100_000_000, description="use at most this many test images, drawn stratified by class"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.file is not None and self.download:
            raise ValueError("file and download exclude each other: a named file is never downloaded; remove one of them")
        return self


class MnistConfig(ImagesConfig):
    """Configuration of `mnist` and of `fashion-mnist`."""

    pad_to: Literal[28, 32] = Field(28, description="side of the images in pixels; 32 adds a black border of 2")


class Cifar10Config(ImagesConfig):
    """Configuration of `cifar10`."""


class GtsrbConfig(ImagesConfig):
    """Configuration of `gtsrb`."""

    size: int = Field(
        32, ge=8, le=256, description="side in pixels to which the signs are resized; that of the images of a `file`"
    )


def _mnist(config: MnistConfig) -> Mnist:
    from sparring_images.mnist import DIGITS, Mnist

    return Mnist(config, DIGITS)


def _fashion_mnist(config: MnistConfig) -> Mnist:
    from sparring_images.mnist import FASHION, Mnist

    return Mnist(config, FASHION)


def _cifar10(config: Cifar10Config) -> Cifar10:
    from sparring_images.cifar10 import Cifar10

    return Cifar10(config)


def _gtsrb(config: GtsrbConfig) -> Gtsrb:
    from sparring_images.gtsrb import Gtsrb

    return Gtsrb(config)


MNIST = DatasetSpec(
    api=1,
    name="mnist",
    config=MnistConfig,
    summary="60,000 + 10,000 handwritten digits of 28x28 pixels, from a folder or by download.",
    build=_mnist,
    licence="CC BY-SA 3.0",
    source="Y. LeCun, C. Cortes and C. J. C. Burges, the MNIST database of handwritten digits, 1998",
    stands_for="small grey images, such as scans of forms",
)
FASHION_MNIST = DatasetSpec(
    api=1,
    name="fashion-mnist",
    config=MnistConfig,
    summary="60,000 + 10,000 articles of clothing of 28x28 pixels, from a folder or by download.",
    build=_fashion_mnist,
    licence="MIT",
    source="H. Xiao, K. Rasul and R. Vollgraf, Zalando Research, 2017, arXiv:1708.07747",
    stands_for="small grey images that are harder to tell apart than digits",
)
CIFAR10 = DatasetSpec(
    api=1,
    name="cifar10",
    config=Cifar10Config,
    summary="50,000 + 10,000 colour photographs of 32x32 pixels, from a folder or by download.",
    build=_cifar10,
    licence="none stated; research use is customary",
    source="A. Krizhevsky, Learning multiple layers of features from tiny images, University of Toronto, 2009",
    stands_for="private photographs of everyday things",
)
GTSRB = DatasetSpec(
    api=1,
    name="gtsrb",
    config=GtsrbConfig,
    summary="German traffic signs in 43 classes, resized, from a folder or by download.",
    build=_gtsrb,
    licence="free for research, to be cited",
    source="J. Stallkamp, M. Schlipsing, J. Salmen and C. Igel, Man vs. computer, Neural Networks 32, 2012",
    stands_for="the cameras of vehicles that learn together, where a backdoor is dangerous",
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (MNIST, FASHION_MNIST, CIFAR10, GTSRB)
