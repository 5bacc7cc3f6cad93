"""Declares adversarial-priors: gradient matching by an attacker who owns images of the victim's class."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparring.facts import PublicData
from sparring.signature import Signature
from sparring.specs import AttackSpec, Reader
from sparring_inversion.options import ADAM_ITERATIONS, ADAM_STEP, MOMENTUM, TV, InversionConfig, needs, tap

if TYPE_CHECKING:
    from sparring_inversion.adversarial_priors import AdversarialPriors


class AdversarialPriorsConfig(InversionConfig):
    """Configuration of `adversarial-priors`."""

    iterations: int = ADAM_ITERATIONS
    restarts: int = Field(
        1,
        ge=1,
        le=64,
        description="starts per capture; the least final gradient loss wins; from class means they hardly differ",
    )
    tv: float = TV
    features: float = Field(
        1e-3, ge=0, le=1000, description="weight a_f of the squared distance of features to the class's mean"
    )
    style: float = Field(
        1e-3, ge=0, le=1000, description="weight a_s of the squared distance of Gram matrices to the class's mean"
    )
    layers: Literal["all", "convolutions", "linear"] = Field(
        "all", description="layers of the shared model whose outputs are features"
    )
    lr: float = ADAM_STEP
    momentum: float = MOMENTUM
    init: Literal["class-mean", "randn", "uniform", "grey"] = Field(
        "class-mean",
        description="start: mean of the class's own images up to 5e-3 of noise, or one of those of inverting-gradients",
    )


def _needs(config: AdversarialPriorsConfig) -> Signature:
    told = needs(config)
    return replace(told, needs=(*told.needs, PublicData()))


def _adversarial_priors(config: AdversarialPriorsConfig) -> AdversarialPriors:
    from sparring_inversion.adversarial_priors import AdversarialPriors

    return AdversarialPriors(config)


ADVERSARIAL_PRIORS = AttackSpec(
    api=1,
    name="adversarial-priors",
    config=AdversarialPriorsConfig,
    summary="Gradient inversion with features, styles and class means of the attacker's own images (Usynin et al. 2022).",
    game="reconstruction",
    reader=Reader(tap=tap, build=_adversarial_priors, signature=_needs),
)
PRIORS = (ADVERSARIAL_PRIORS,)
