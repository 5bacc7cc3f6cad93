"""Laws of U-Net: maps of the image's size, refusals, examples that do not depend on one another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_zoo.plugin import UNET
from torch import nn

from sparring.errors import DataError
from sparring.signals import DataShape


def network(shape: DataShape, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return UNET.build(UNET.config(**options)).module(shape)


@given(
    depth=st.integers(1, 3),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    channels=st.integers(1, 3),
    classes=st.integers(1, 4),
)
@settings(max_examples=20, deadline=None)
def test_maps_have_the_size_of_the_image(depth: int, height: int, width: int, channels: int, classes: int) -> None:
    unit = 2**depth
    shape = DataShape((channels, height * unit, width * unit), classes, "segmentation")
    found = network(shape, width=2, depth=depth)(torch.rand(2, *shape.inputs))
    assert tuple(found.shape) == (2, classes, *shape.inputs[1:])


@pytest.mark.parametrize("inputs", [(1, 18, 16), (1, 16, 18), (16, 16), (1, 0, 4)])
def test_images_that_cannot_be_halved_are_refused(inputs: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"'unet' takes images .* multiples of 4; the data has shape .*lower depth"):
        network(DataShape(inputs, 2, "segmentation"))


def test_classification_is_refused() -> None:
    with pytest.raises(DataError, match=r"'unet' gives a label to each pixel, .* asks for classification"):
        network(DataShape((1, 16, 16), 2))


def test_every_option_changes_the_function() -> None:
    shape = DataShape((2, 16, 16), 2, "segmentation")
    x = torch.rand(2, *shape.inputs)
    options: list[dict[str, object]] = [{}, {"width": 4}, {"depth": 1}, {"activation": "tanh"}, {"groups": 1}]
    options.append({"normalise": {"mean": (0.2, 0.4), "std": 0.5}})
    found = [network(shape, **{"width": 8, **option})(x) for option in options]
    assert all(not torch.equal(found[0], other) for other in found[1:])
