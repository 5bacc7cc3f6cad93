"""Data poisoning: clients that train on false labels, or on perturbed inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from sparring.facts import Controls, Knows
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import AttackSpec, Config, Layer

if TYPE_CHECKING:
    from sparring_poisoning.feature_collision import FeatureCollision
    from sparring_poisoning.gradient_matching import GradientMatching
    from sparring_poisoning.input_perturbation import InputPerturbation
    from sparring_poisoning.label_flip import LabelFlip
    from sparring_poisoning.targeted_label_flip import TargetedLabelFlip

Label = Annotated[int, Field(ge=0, le=99_999)]


class LabelFlipConfig(Config):
    """Configuration of `label-flip`."""

    kind: Literal["mirror", "next", "random"] = Field(
        "mirror", description="false label of class c of K: K - 1 - c (mirror), c + 1 modulo K (next), any other (random)"
    )
    fraction: float = Field(1.0, gt=0, le=1, description="share of each client's examples that get a false label")


class TargetedLabelFlipConfig(Config):
    """Configuration of `targeted-label-flip`."""

    pairs: Annotated[tuple[tuple[Label, Label], ...], Field(min_length=1, max_length=1000)] = Field(
        ((0, 2),), description="pairs of a source class and the class that its examples are labelled as"
    )
    fraction: float = Field(1.0, gt=0, le=1, description="share of each client's examples of a source class that is relabelled")

    @model_validator(mode="after")
    def _a_map(self) -> TargetedLabelFlipConfig:
        sources = [source for source, _ in self.pairs]
        if len(set(sources)) != len(sources) or any(source == target for source, target in self.pairs):
            raise ValueError(f"pairs are {self.pairs}; each source class must stand once, with a target that is another class")
        return self


class InputPerturbationConfig(Config):
    """Configuration of `input-perturbation`."""

    labels: Literal["predicted", "true"] = Field(
        "predicted", description="labels of perturbed inputs: the surrogate's likeliest wrong class, or the true ones"
    )
    fraction: float = Field(1.0, gt=0, le=1, description="share of each client's examples that are perturbed")
    eps: float = Field(8 / 255, gt=0, le=1, description="largest change of a number of an input (L-infinity)")
    alpha: float = Field(2 / 255, gt=0, le=1, description="step size of projected gradient ascent")
    steps: int = Field(10, ge=1, le=10_000, description="steps of projected gradient ascent")
    epochs: int = Field(10, ge=1, le=1000, description="epochs of training of the surrogate on the attack's own examples")


class CleanLabelConfig(Config):
    """What clean-label attacks on single inputs have in common."""

    source: Label = Field(1, description="class of the inputs that shall be misclassified")
    target: Label = Field(0, description="class that they shall be taken for, whose examples are perturbed")
    targets: int = Field(1, ge=1, le=1000, description="how many inputs of the source class it withholds and attacks")
    fraction: float = Field(1.0, gt=0, le=1, description="share of its examples of the target class that are perturbed")
    epochs: int = Field(10, ge=1, le=1000, description="epochs of training of the surrogate on the attack's own examples")

    @model_validator(mode="after")
    def _two_classes(self) -> CleanLabelConfig:
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source}; they must be two classes")
        return self


class GradientMatchingConfig(CleanLabelConfig):
    """Configuration of `gradient-matching`."""

    eps: float = Field(16 / 255, gt=0, le=1, description="largest change of a number of an input (L-infinity)")
    steps: int = Field(60, ge=1, le=100_000, description="steps of signed Adam")
    lr: float = Field(
        0.1, gt=0, le=1, description="step size in units of eps; falls to a tenth after 3/8, 5/8, 7/8 of the steps"
    )
    restarts: int = Field(1, ge=1, le=100, description="random starts, the best of which is used")


class FeatureCollisionConfig(CleanLabelConfig):
    """Configuration of `feature-collision`."""

    beta: float = Field(0.1, ge=0, le=1e6, description="weight of the squared distance from the base input")
    steps: int = Field(100, ge=1, le=100_000, description="forward-backward steps")
    lr: float = Field(1.0, gt=0, le=1e6, description="first step size; halved for each input whose objective would grow")
    opacity: float = Field(0.0, ge=0, lt=1, description="watermark: share of the attacked input that bases are mixed with")


def _label_flip(config: LabelFlipConfig) -> LabelFlip:
    from sparring_poisoning.label_flip import LabelFlip

    return LabelFlip(config)


def _targeted_label_flip(config: TargetedLabelFlipConfig) -> TargetedLabelFlip:
    from sparring_poisoning.targeted_label_flip import TargetedLabelFlip

    return TargetedLabelFlip(config)


def _input_perturbation(config: InputPerturbationConfig) -> InputPerturbation:
    from sparring_poisoning.input_perturbation import InputPerturbation

    return InputPerturbation(config)


def _gradient_matching(config: GradientMatchingConfig) -> GradientMatching:
    from sparring_poisoning.gradient_matching import GradientMatching

    return GradientMatching(config)


def _feature_collision(config: FeatureCollisionConfig) -> FeatureCollision:
    from sparring_poisoning.feature_collision import FeatureCollision

    return FeatureCollision(config)


HOLDS = Controls("client", "data")
RELABELS = Signature(needs=(HOLDS,), keeps=ALL)
TRAINS = Signature(needs=(HOLDS, Knows("recipe")), keeps=ALL)
"""Poison goes through honest training: whatever holds of updates that clients send still holds."""

LABEL_FLIP = AttackSpec(
    api=1,
    name="label-flip",
    config=LabelFlipConfig,
    summary="compromised clients train on false labels: mirrored classes, the next class, or random ones",
    game="poisoning",
    layers=(Layer(site=Site.DATA, build=_label_flip, signature=RELABELS),),
)
TARGETED_LABEL_FLIP = AttackSpec(
    api=1,
    name="targeted-label-flip",
    config=TargetedLabelFlipConfig,
    summary="compromised clients label chosen source classes as chosen others, so that the model confuses these alone",
    game="backdoor",
    layers=(Layer(site=Site.DATA, build=_targeted_label_flip, signature=RELABELS),),
)
INPUT_PERTURBATION = AttackSpec(
    api=1,
    name="input-perturbation",
    config=InputPerturbationConfig,
    summary="compromised clients train on adversarial examples of a surrogate, with its wrong predictions or true labels",
    game="poisoning",
    layers=(Layer(site=Site.DATA, build=_input_perturbation, signature=TRAINS),),
)
GRADIENT_MATCHING = AttackSpec(
    api=1,
    name="gradient-matching",
    config=GradientMatchingConfig,
    summary="Witches' Brew: clean-label poison whose gradient is aligned with that of a chosen input's misclassification",
    game="backdoor",
    layers=(Layer(site=Site.DATA, build=_gradient_matching, signature=TRAINS),),
)
FEATURE_COLLISION = AttackSpec(
    api=1,
    name="feature-collision",
    config=FeatureCollisionConfig,
    summary="Poison Frogs: clean-label poison that looks like its base and has the representation of a chosen input",
    game="backdoor",
    layers=(Layer(site=Site.DATA, build=_feature_collision, signature=TRAINS),),
)
DATA_ATTACKS = (LABEL_FLIP, TARGETED_LABEL_FLIP, INPUT_PERTURBATION, GRADIENT_MATCHING, FEATURE_COLLISION)
