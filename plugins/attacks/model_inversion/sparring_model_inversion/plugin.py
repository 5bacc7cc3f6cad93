"""Declares the attacks of this distribution: mi-face and model-inversion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparring.facts import Knows
from sparring.hookspecs import hookimpl
from sparring.signature import ALL, Signature
from sparring.specs import AnySpec, AttackSpec, Config, Reader
from sparring.taps import Tap

if TYPE_CHECKING:
    from sparring_model_inversion.mi_face import MIFace
    from sparring_model_inversion.model_inversion import ModelInversion


class ReleasedConfig(Config):
    """What every attack on a released classifier is told: how it has slopes, and how smooth what it looks for is."""

    reads: Literal["model", "query"] = Field(
        "model", description="the released parameters, or answers to queries alone, within the threat model's query budget"
    )
    directions: int = Field(
        8, ge=1, le=100_000, description="reads query: orthonormal directions a step, 2 queries each for each class and start"
    )
    radius: float = Field(0.1, ge=1e-4, le=10, description="reads query: L2 distance of queries from where the slope is asked")
    tv: float = Field(0.0, ge=0, le=1e3, description="weight of the total variation of images")
    snapshots: int = Field(8, ge=0, le=64, description="intermediate findings that are kept, at equal distances")


class MIFaceConfig(ReleasedConfig):
    """Configuration of `mi-face`."""

    iterations: int = Field(5000, ge=1, le=1_000_000, description="most steps of gradient descent, alpha")
    lr: float = Field(0.1, gt=0, le=100, description="length of a step against the slope, lambda")
    gamma: float = Field(0.01, ge=0, le=1, description="a class whose cost is at most this is done")
    patience: int = Field(
        100, ge=1, le=10_000, description="a class whose cost is below none of so many before it is done, beta"
    )
    init: Literal["zeros", "grey"] = Field("zeros", description="start: 0, as published, or grey (.5)")


class ModelInversionConfig(ReleasedConfig):
    """Configuration of `model-inversion`."""

    loss: Literal["cross-entropy", "max-margin", "logit"] = Field(
        "max-margin", description="of a class: cross-entropy, largest other logit minus its own, or minus its own logit"
    )
    iterations: int = Field(300, ge=1, le=100_000, description="steps of Adam")
    restarts: int = Field(4, ge=1, le=64, description="random starts of each class; the least loss over shifted copies wins")
    lr: float = Field(0.05, gt=0, le=1, description="step size of Adam")
    tv: float = Field(1.0, ge=0, le=1e3, description="weight of the total variation of images")
    l2: float = Field(1.0, ge=0, le=1e3, description="weight of the mean square of the input")
    statistics: float = Field(
        0.1, ge=0, le=1e3, description="weight of the distance to the running statistics of BatchNorm layers; 0 is off"
    )
    shift: int = Field(1, ge=0, le=64, description="images are rolled by up to so many pixels before each step")


def _tap(config: ReleasedConfig) -> Tap:
    return Tap(views=(config.reads,), by="outsider")


def _needs(config: ReleasedConfig) -> Signature:
    return Signature(needs=(Knows("architecture"),) if config.reads == "model" else (), keeps=ALL)


def _mi_face(config: MIFaceConfig) -> MIFace:
    from sparring_model_inversion.mi_face import MIFace

    return MIFace(config)


def _model_inversion(config: ModelInversionConfig) -> ModelInversion:
    from sparring_model_inversion.model_inversion import ModelInversion

    return ModelInversion(config)


MI_FACE = AttackSpec(
    api=1,
    name="mi-face",
    config=MIFaceConfig,
    summary="Model inversion by descent on the confidence in a class, white or black box (Fredrikson et al. 2015).",
    game="model-inversion",
    reader=Reader(tap=_tap, build=_mi_face, signature=_needs),
)
MODEL_INVERSION = AttackSpec(
    api=1,
    name="model-inversion",
    config=ModelInversionConfig,
    summary="Model inversion by logits and image priors: smoothness, shifts, BatchNorm statistics (Yin et al. 2020).",
    game="model-inversion",
    reader=Reader(tap=_tap, build=_model_inversion, signature=_needs),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (MI_FACE, MODEL_INVERSION)
