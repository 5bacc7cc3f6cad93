"""What this distribution offers: adaptations of the model, at MODEL, and a bottleneck with its part of the loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sparring.claims import Heuristic
from sparring.facts import Fact, PerExample, PoissonSampled
from sparring.hookspecs import hookimpl
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AnySpec, DefenceSpec, Empty, Layer
from sparring_adaptation.configs import (
    ActivationConfig,
    DropoutConfig,
    FrozenExtractorConfig,
    NormalisationConfig,
    PoolingConfig,
    PrecodeConfig,
    StrideConfig,
    WidthConfig,
)

if TYPE_CHECKING:
    from sparring_adaptation.activation import OtherActivation
    from sparring_adaptation.dropout import AddDropout
    from sparring_adaptation.frozen_extractor import FrozenExtractor
    from sparring_adaptation.no_first_bias import NoFirstBias
    from sparring_adaptation.normalisation import OtherNormalisation
    from sparring_adaptation.pooling import OtherPooling
    from sparring_adaptation.precode import AddBottleneck, AddDivergence
    from sparring_adaptation.stride import OtherStride
    from sparring_adaptation.width import OtherWidth


def _activation(config: ActivationConfig) -> OtherActivation:
    from sparring_adaptation.activation import OtherActivation

    return OtherActivation(config)


def _pooling(config: PoolingConfig) -> OtherPooling:
    from sparring_adaptation.pooling import OtherPooling

    return OtherPooling(config)


def _stride(config: StrideConfig) -> OtherStride:
    from sparring_adaptation.stride import OtherStride

    return OtherStride(config)


def _normalisation(config: NormalisationConfig) -> OtherNormalisation:
    from sparring_adaptation.normalisation import OtherNormalisation

    return OtherNormalisation(config)


def _width(config: WidthConfig) -> OtherWidth:
    from sparring_adaptation.width import OtherWidth

    return OtherWidth(config)


def _dropout(config: DropoutConfig) -> AddDropout:
    from sparring_adaptation.dropout import AddDropout

    return AddDropout(config)


def _frozen_extractor(config: FrozenExtractorConfig) -> FrozenExtractor:
    from sparring_adaptation.frozen_extractor import FrozenExtractor

    return FrozenExtractor(config)


def _no_first_bias(config: Empty) -> NoFirstBias:
    del config
    from sparring_adaptation.no_first_bias import NoFirstBias

    return NoFirstBias()


def _bottleneck(config: PrecodeConfig) -> AddBottleneck:
    from sparring_adaptation.precode import AddBottleneck

    return AddBottleneck(config)


def _divergence(config: PrecodeConfig) -> AddDivergence:
    from sparring_adaptation.precode import AddDivergence

    return AddDivergence(config)


def _adapts(reason: str, *gives: Fact) -> Signature:
    return Signature(gives=gives, keeps=(PerExample(),), claims=(Heuristic(reason),))


def _draws(reason: str) -> Signature:
    """A loss that depends on draws, beside the example and the parameters, is not PerExample; nor can it be mapped."""
    return Signature(claims=(Heuristic(reason),))


ACTIVATION = DefenceSpec(
    api=1,
    name="activation",
    config=ActivationConfig,
    summary="Replaces every activation module by another: smooth ones are easier to invert, ReLU passes half of the gradients",
    layers=(
        Layer(
            site=Site.MODEL,
            build=_activation,
            signature=lambda c: _adapts(
                f"{c.to} everywhere: how well gradients can be matched depends on the nonlinearity, for and against the attack"
            ),
        ),
    ),
)
POOLING = DefenceSpec(
    api=1,
    name="pooling",
    config=PoolingConfig,
    summary="Replaces poolings by means, maxima, strided convolutions or nothing; shapes stay",
    layers=(
        Layer(
            site=Site.MODEL,
            build=_pooling,
            signature=lambda c: _adapts(
                f"pooling {c.to}: a maximum passes the gradient of one position in a window, a mean of all"
            ),
        ),
    ),
)
STRIDE = DefenceSpec(
    api=1,
    name="stride",
    config=StrideConfig,
    summary="Turns strides of convolutions into average pooling, or poolings into strides; shapes and weights stay",
    layers=(
        Layer(
            site=Site.MODEL,
            build=_stride,
            signature=lambda c: _adapts(f"downsampling {c.to}: a stride sees one position in s, and says more about that one"),
        ),
    ),
)
NORMALISATION = DefenceSpec(
    api=1,
    name="normalisation",
    config=NormalisationConfig,
    summary="Replaces BatchNorm by GroupNorm, LayerNorm, InstanceNorm or nothing, affine parameters copied; gives PerExample",
    layers=(
        Layer(
            site=Site.MODEL,
            build=_normalisation,
            signature=_adapts("no batch statistic is in an update, and none helps to invert it", PerExample()),
        ),
    ),
)
WIDTH = DefenceSpec(
    api=1,
    name="width",
    config=WidthConfig,
    summary="Multiplies the hidden channels; the first input and the last output keep their sizes",
    layers=(
        Layer(
            site=Site.MODEL,
            build=_width,
            signature=lambda c: _adapts(
                f"{c.factor:g} times the channels: the fewer numbers in an update, the fewer equations"
            ),
        ),
    ),
)
DROPOUT = DefenceSpec(
    api=1,
    name="dropout",
    config=DropoutConfig,
    summary="Adds dropout before the classifier or after each activation",
    layers=(
        Layer(
            site=Site.MODEL,
            build=_dropout,
            signature=_draws("who matches gradients does not know the masks; attacks that optimise them too get past it"),
        ),
    ),
)
FROZEN_EXTRACTOR = DefenceSpec(
    api=1,
    name="frozen-extractor",
    config=FrozenExtractorConfig,
    summary="Freezes all but the last layers with weights, whose updates are then zero",
    layers=(
        Layer(
            site=Site.MODEL,
            build=_frozen_extractor,
            signature=_adapts("updates tell of the features that the last layers see; what those features keep, they tell"),
        ),
    ),
)
NO_FIRST_BIAS = DefenceSpec(
    api=1,
    name="no-first-bias",
    config=Empty,
    summary="Takes the bias from the first layer, so that dividing its gradients no longer gives the input",
    layers=(
        Layer(
            site=Site.MODEL,
            build=_no_first_bias,
            signature=_adapts(
                "x = dW_i / db_i needs db_i; rows dW_i still are multiples of x where one example reaches a neuron"
            ),
        ),
    ),
)
PRECODE = DefenceSpec(
    api=1,
    name="precode",
    config=PrecodeConfig,
    summary="PRECODE: a variational bottleneck before the classifier, its KL divergence in the loss",
    layers=(
        Layer(
            site=Site.MODEL,
            build=_bottleneck,
            signature=_draws(
                "gradients depend on noise that the adversary does not know; attacks that leave them out get past it"
            ),
        ),
        Layer(
            site=Site.LOSS,
            build=_divergence,
            signature=Signature(keeps=(PerExample(), PoissonSampled())),
        ),
    ),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (ACTIVATION, POOLING, STRIDE, NORMALISATION, WIDTH, DROPOUT, FROZEN_EXTRACTOR, NO_FIRST_BIAS, PRECODE)
