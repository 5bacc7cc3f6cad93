"""Architectures: LeNets of Zhu et al. and of Caffe, a strided ConvNet, CNN6, MLPs, ResNet-9, ResNet-20 and U-Net."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sparring.facts import PerExample
from sparring.hookspecs import hookimpl
from sparring.signature import ALL, Signature
from sparring.specs import AnySpec, Config, ModelSpec

if TYPE_CHECKING:
    from sparring_zoo.cnn6 import CNN6
    from sparring_zoo.convnet import ConvNet
    from sparring_zoo.lenet import LeNetCaffe, LeNetZhu
    from sparring_zoo.mlp import MLP
    from sparring_zoo.resnet import ResNet9
    from sparring_zoo.resnet20 import ResNet20
    from sparring_zoo.unet import UNet

Activation = Literal["relu", "sigmoid", "tanh", "leaky-relu"]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Std = Annotated[float, Field(gt=0, le=1e6)]
PER_EXAMPLE = Signature(gives=(PerExample(),), keeps=ALL)


class Normalise(Config):
    """Constants of the affine map of inputs (x - mean) / std that stands inside the model; the default changes nothing."""

    mean: Mean | Annotated[tuple[Mean, ...], Field(min_length=1, max_length=4096)] = Field(
        default=0.0, description="subtracted from inputs: one number, or one per channel (per feature of a table)"
    )
    std: Std | Annotated[tuple[Std, ...], Field(min_length=1, max_length=4096)] = Field(
        default=1.0, description="divides inputs afterwards: one number, or one per channel (per feature of a table)"
    )


class LeNetZhuConfig(Config):
    """Configuration of `lenet-zhu`."""

    init: Literal["default", "uniform"] = Field(
        "default", description="initial weights and biases: torch's default, or U(-0.5, 0.5) as in Zhu et al."
    )
    normalise: Normalise = Field(Normalise(), description="affine map of inputs inside the model")


class LeNetCaffeConfig(Config):
    """Configuration of `lenet-caffe`."""

    normalise: Normalise = Field(Normalise(), description="affine map of inputs inside the model")


class ConvNetConfig(Config):
    """Configuration of `convnet`."""

    width: int = Field(24, ge=1, le=1024, description="channels of the first convolution; the second has twice as many")
    activation: Activation = Field("relu", description="nonlinearity after each convolution")
    normalise: Normalise = Field(Normalise(), description="affine map of inputs inside the model")


class CNN6Config(Config):
    """Configuration of `cnn6`."""

    deficient: bool = Field(
        False, description="CNN6-d: 20 filters in the second convolution in place of 36, too few to solve for"
    )
    normalise: Normalise = Field(Normalise(), description="affine map of inputs inside the model")


class MLPConfig(Config):
    """Configuration of `mlp`."""

    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        (64,), max_length=32, description="widths of the hidden layers; an empty list is multinomial logistic regression"
    )
    activation: Activation = Field("relu", description="nonlinearity after each hidden layer")
    normalise: Normalise = Field(Normalise(), description="affine map of inputs inside the model")


class ResNet9Config(Config):
    """Configuration of `resnet9`."""

    width: int = Field(64, ge=1, le=512, description="channels of the first convolution; the last has eight times as many")
    norm: Literal["group", "batch"] = Field(
        "group", description="group: per example, as DP-SGD needs; batch: BatchNorm, which couples the examples of a batch"
    )
    groups: int = Field(32, ge=1, le=1024, description="norm group: groups of channels; gcd(groups, channels) of them are used")
    normalise: Normalise = Field(Normalise(), description="affine map of inputs inside the model")


class ResNet20Config(Config):
    """Configuration of `resnet20`."""

    width: int = Field(16, ge=1, le=512, description="channels of the first stage; the last has four times as many")
    shortcut: Literal["pad", "projection"] = Field(
        "pad",
        description="where a stage begins: every second pixel and zeros (option A), or a 1x1 convolution (option B)",
    )
    norm: Literal["group", "batch"] = Field(
        "batch", description="batch: BatchNorm, as in He et al., which couples the examples of a batch; group: per example"
    )
    groups: int = Field(8, ge=1, le=1024, description="norm group: groups of channels; gcd(groups, channels) of them are used")
    normalise: Normalise = Field(Normalise(), description="affine map of inputs inside the model")


class UNetConfig(Config):
    """Configuration of `unet`."""

    width: int = Field(16, ge=1, le=512, description="channels of the first level; each level below has twice as many")
    depth: int = Field(2, ge=1, le=5, description="levels above the bottom: how often the image is halved")
    activation: Activation = Field("relu", description="nonlinearity after each convolution")
    groups: int = Field(8, ge=1, le=1024, description="groups of channels; gcd(groups, channels) of them are used")
    normalise: Normalise = Field(Normalise(), description="affine map of inputs inside the model")


def _lenet_zhu(config: LeNetZhuConfig) -> LeNetZhu:
    from sparring_zoo.lenet import LeNetZhu

    return LeNetZhu(config)


def _lenet_caffe(config: LeNetCaffeConfig) -> LeNetCaffe:
    from sparring_zoo.lenet import LeNetCaffe

    return LeNetCaffe(config)


def _convnet(config: ConvNetConfig) -> ConvNet:
    from sparring_zoo.convnet import ConvNet

    return ConvNet(config)


def _cnn6(config: CNN6Config) -> CNN6:
    from sparring_zoo.cnn6 import CNN6

    return CNN6(config)


def _mlp(config: MLPConfig) -> MLP:
    from sparring_zoo.mlp import MLP

    return MLP(config)


def _resnet9(config: ResNet9Config) -> ResNet9:
    from sparring_zoo.resnet import ResNet9

    return ResNet9(config)


def _resnet20(config: ResNet20Config) -> ResNet20:
    from sparring_zoo.resnet20 import ResNet20

    return ResNet20(config)


def _unet(config: UNetConfig) -> UNet:
    from sparring_zoo.unet import UNet

    return UNet(config)


LENET_ZHU = ModelSpec(
    api=1,
    name="lenet-zhu",
    config=LeNetZhuConfig,
    summary="LeNet of Zhu et al. (2019): sigmoid, no pooling; the classic victim of gradient inversion",
    build=_lenet_zhu,
    signature=PER_EXAMPLE,
)
LENET_CAFFE = ModelSpec(
    api=1,
    name="lenet-caffe",
    config=LeNetCaffeConfig,
    summary="LeNet of the Caffe tutorial: two convolutions with ReLU and maximum pooling, 500 hidden units",
    build=_lenet_caffe,
    signature=PER_EXAMPLE,
)
CONVNET = ModelSpec(
    api=1,
    name="convnet",
    config=ConvNetConfig,
    summary="small ConvNet of two strided 5x5 convolutions, without pooling or normalisation layers",
    build=_convnet,
    signature=PER_EXAMPLE,
)
CNN6_SPEC = ModelSpec(
    api=1,
    name="cnn6",
    config=CNN6Config,
    summary="CNN6 of Zhu and Blaschko (2021): LeakyReLU convolutions without biases or pooling; or CNN6-d, rank-deficient",
    build=_cnn6,
    signature=PER_EXAMPLE,
)
MLP_SPEC = ModelSpec(
    api=1,
    name="mlp",
    config=MLPConfig,
    summary="multilayer perceptron on flattened inputs; without hidden layers, logistic regression",
    build=_mlp,
    signature=PER_EXAMPLE,
)
RESNET9 = ModelSpec(
    api=1,
    name="resnet9",
    config=ResNet9Config,
    summary="ResNet-9 with GroupNorm (or BatchNorm)",
    build=_resnet9,
    signature=lambda config: PER_EXAMPLE if config.norm == "group" else Signature(keeps=ALL),
)
RESNET20 = ModelSpec(
    api=1,
    name="resnet20",
    config=ResNet20Config,
    summary="ResNet-20 of He et al. (2016) for small images, with BatchNorm (or GroupNorm)",
    build=_resnet20,
    signature=lambda config: PER_EXAMPLE if config.norm == "group" else Signature(keeps=ALL),
)
UNET = ModelSpec(
    api=1,
    name="unet",
    config=UNetConfig,
    summary="U-Net with GroupNorm: segmentation, one label for each pixel",
    build=_unet,
    signature=PER_EXAMPLE,
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The architectures of this distribution."""
    return (LENET_ZHU, LENET_CAFFE, CONVNET, CNN6_SPEC, MLP_SPEC, RESNET9, RESNET20, UNET)
