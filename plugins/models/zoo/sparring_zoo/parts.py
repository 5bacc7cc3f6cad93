"""What the architectures share: the check that they fit the data, nonlinearities, and normalisation of inputs."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from sparring.errors import DataError
from sparring.signals import DataShape
from sparring_zoo.plugin import Activation, Normalise

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "leaky-relu": nn.LeakyReLU,
}


def classifies(model: str, shape: DataShape) -> None:
    """Raise `DataError` unless the data is for classification of non-empty inputs."""
    if shape.task != "classification":
        raise DataError(
            f"'{model}' gives one label to an input, but the data of shape {shape.inputs} asks for {shape.task}; "
            "choose a model for that task, or a dataset with one label per input"
        )
    if not shape.inputs or min(shape.inputs) < 1:
        raise DataError(
            f"'{model}' needs inputs with at least one number; the data has shape {shape.inputs}; choose other data"
        )


def image(model: str, shape: DataShape, smallest: int) -> tuple[int, int, int]:
    """Channels, height and width; raise `DataError` unless the data are images of at least ``smallest`` pixels a side."""
    classifies(model, shape)
    if len(shape.inputs) != 3:
        raise DataError(
            f"'{model}' takes images [channels, height, width]; the data has shape {shape.inputs}; "
            "choose 'mlp', which takes any shape, or data that are images"
        )
    channels, height, width = shape.inputs
    if min(height, width) < smallest:
        raise DataError(
            f"'{model}' takes images of at least {smallest}x{smallest} pixels; the data has shape {shape.inputs}; "
            "pad or enlarge the images, or choose 'mlp'"
        )
    return channels, height, width


def dense(model: str, shape: DataShape, multiple: int) -> int:
    """Channels; raise `DataError` unless the data are images, one label a pixel, whose sides are multiples of ``multiple``."""
    if shape.task != "segmentation":
        raise DataError(
            f"'{model}' gives a label to each pixel, but the data of shape {shape.inputs} asks for {shape.task}; "
            "choose a model for that task, or a dataset with one label per pixel"
        )
    if len(shape.inputs) != 3 or min(shape.inputs) < 1 or any(side % multiple for side in shape.inputs[1:]):
        raise DataError(
            f"'{model}' takes images [channels, height, width] whose sides are multiples of {multiple}; "
            f"the data has shape {shape.inputs}; pad or resize the images, or lower depth"
        )
    return shape.inputs[0]


@final
class Normalisation(nn.Module):
    """(x - mean) / std, per channel where several numbers are given. The constants are no buffers: none travels in a row."""

    def __init__(self, model: str, config: Normalise, shape: DataShape) -> None:
        super().__init__()
        self.mean, self.std = config.mean, config.std
        self.lead = (-1, *([1] * (len(shape.inputs) - 1)))
        for name, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, tuple) and len(value) != shape.inputs[0]:
                raise DataError(
                    f"'{model}': normalise.{name} has {len(value)} numbers; the data has shape {shape.inputs}; "
                    f"give one number, or {shape.inputs[0]}"
                )

    def forward(self, x: Tensor) -> Tensor:
        return (x - self._constant(self.mean, x)) / self._constant(self.std, x)

    def _constant(self, value: float | tuple[float, ...], x: Tensor) -> Tensor | float:
        if isinstance(value, float):
            return value
        return torch.tensor(value, dtype=x.dtype, device=x.device).view(self.lead)


def normalised(model: str, config: Normalise, shape: DataShape, layers: nn.Sequential) -> nn.Sequential:
    """``layers`` behind the normalisation that ``config`` asks for; themselves where it changes nothing."""
    if config == Normalise():
        return layers
    return nn.Sequential(Normalisation(model, config, shape), *layers)
