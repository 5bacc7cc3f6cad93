"""Options of the adaptations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sparring.specs import Config

Activation = Literal["relu", "leaky-relu", "elu", "selu", "silu", "mish", "tanh", "sigmoid"]
Pooling = Literal["avg", "max", "strided", "none"]
Norm = Literal["group", "layer", "instance", "none"]


class ActivationConfig(Config):
    """Configuration of `activation`."""

    to: Activation = Field("relu", description="the nonlinearity that stands where any other stood")


class PoolingConfig(Config):
    """Configuration of `pooling`."""

    to: Pooling = Field(
        "avg", description="mean, maximum, a strided convolution, or nothing where the model's output keeps its shape"
    )


class StrideConfig(Config):
    """Configuration of `stride`."""

    to: Literal["pooled", "strided"] = Field(
        "pooled",
        description="pooled: strided convolutions become dense ones and average pooling; strided: poolings become strides",
    )


class NormalisationConfig(Config):
    """Configuration of `normalisation`."""

    to: Norm = Field("group", description="what stands where BatchNorm stood; none: nothing")
    groups: int = Field(32, ge=1, le=1024, description="to group: groups of channels; gcd(groups, channels) of them are used")


class WidthConfig(Config):
    """Configuration of `width`."""

    factor: float = Field(0.5, ge=1 / 64, le=16, description="by what the hidden channels are multiplied; at least one remains")


class DropoutConfig(Config):
    """Configuration of `dropout`."""

    p: float = Field(0.5, gt=0, lt=1, description="probability with which a number is set to zero in training")
    where: Literal["classifier", "activations"] = Field(
        "classifier", description="before the last linear layer, or after each activation module"
    )


class FrozenExtractorConfig(Config):
    """Configuration of `frozen-extractor`."""

    trained: int = Field(
        1, ge=1, le=1000, description="number of last layers with weights that are trained; others keep theirs"
    )


class PrecodeConfig(Config):
    """Configuration of `precode`."""

    size: int = Field(256, ge=1, le=4096, description="number K of latent variables of the bottleneck")
    beta: float = Field(1e-3, ge=0, le=10, description="weight of the KL divergence in the loss")
