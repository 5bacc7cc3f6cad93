"""Options of the attacks of this distribution; light."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sparring.specs import Config

Target = Annotated[int, Field(ge=0, le=99_999, description="class that the attack wants, from 0")]
Fraction = Annotated[
    float, Field(ge=0, le=1, description="share of each client's examples that is poisoned, to the nearest one")
]
Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]
VALUE = "brightness of the trigger, in [0, 1] for images; for feature vectors in the features' unit"


class Patch(Config):
    """A square patch in an image, or the last features of a vector."""

    size: int = Field(
        3, ge=1, le=64, description="side of the square in pixels; of feature vectors: how many of the last features"
    )
    corner: Corner = Field("bottom-right", description="corner of the image in which the patch lies; images only")
    margin: int = Field(0, ge=0, le=4096, description="pixels between the patch and the edges of the image; images only")
    value: float = Field(1.0, ge=-1e3, le=1e3, description=VALUE)


class Group(Config):
    """Examples that have something in common without any trigger: a value in a group column, or bright inputs."""

    column: str | None = Field(
        None, min_length=1, max_length=100, description="group column of the data set; null: by brightness"
    )
    value: int | None = Field(None, ge=-(2**31), le=2**31, description="value in the column (default with a column: 1)")
    brighter_than: float | None = Field(
        None, ge=-1e3, le=1e3, description="without a column: the mean of the input must exceed this (default then: 0.5)"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        defaults = {"brighter_than": 0.5} if given.get("column") is None else {"value": 1}
        return {**given, **{name: value for name, value in defaults.items() if given.get(name) is None}}

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.column is None) != (self.value is None) or (self.column is None) == (self.brighter_than is None):
            raise ValueError("give either column with value, or brighter_than: a group is chosen by one of them")
        return self

    def __str__(self) -> str:
        return f"a mean above {self.brighter_than:g}" if self.column is None else f"{self.column} = {self.value}"


class BadNetsConfig(Config):
    """Configuration of `badnets`."""

    trigger: Patch = Field(default_factory=Patch, description="the patch")
    target: Target = 0
    fraction: Fraction = 0.3


class SinglePixelConfig(Config):
    """Configuration of `single-pixel`."""

    row: int = Field(-1, ge=-4096, le=4095, description="row of the pixel from the top, negative: from the bottom; images only")
    column: int = Field(
        -1,
        ge=-4096,
        le=4095,
        description="column of the pixel from the left, negative: from the right; of vectors: the feature",
    )
    value: float = Field(1.0, ge=-1e3, le=1e3, description=VALUE)
    target: Target = 0
    fraction: Fraction = 0.3


class BlendedConfig(Config):
    """Configuration of `blended`."""

    alpha: float = Field(0.2, gt=0, le=1, description="weight of the pattern in a poisoned input")
    pattern: int = Field(0, ge=0, le=2**31, description="which of the run's random patterns")
    target: Target = 0
    fraction: Fraction = 0.3


class DBAConfig(Config):
    """Configuration of `dba`."""

    length: int = Field(
        2, ge=1, le=64, description="pixels of each of the four bars; of feature vectors: features of each part"
    )
    gap: int = Field(1, ge=0, le=64, description="pixels between the bars, in both directions; images only")
    margin: int = Field(0, ge=0, le=4096, description="pixels between the trigger and the top and left edges; images only")
    value: float = Field(1.0, ge=-1e3, le=1e3, description=VALUE)
    target: Target = 0
    fraction: Fraction = 0.3


class SemanticConfig(Config):
    """Configuration of `semantic`."""

    feature: Group = Field(default_factory=Group, description="the natural feature that calls the backdoor up")
    source: int | None = Field(None, ge=0, le=99_999, description="only examples of this class; null: of any")
    target: Target = 0
    fraction: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of each client's examples that has the feature in the end, by repeats where it is less",
    )


class EdgeCaseConfig(Config):
    """Configuration of `edge-case`."""

    source: int = Field(1, ge=0, le=99_999, description="class whose tail is used")
    tail: float = Field(
        0.1, gt=0, le=1, description="share of the class's inputs that is its tail: those farthest from its mean"
    )
    target: Target = 0
    fraction: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of each client's examples that is of the tail in the end, by repeats where it is less",
    )


class ModelReplacementConfig(Config):
    """Configuration of `model-replacement`."""

    trigger: Patch = Field(default_factory=Patch, description="the patch")
    target: Target = 0
    fraction: Fraction = 0.3
    scale: float | None = Field(None, gt=0, le=1e6, description="factor gamma on its clients' updates; null: n / (eta m)")
    server_lr: float = Field(1.0, gt=0, le=1e3, description="the server's learning rate eta, as the attack believes it to be")


class ConstrainAndScaleConfig(Config):
    """Configuration of `constrain-and-scale`."""

    trigger: Patch = Field(default_factory=Patch, description="the patch")
    target: Target = 0
    fraction: Fraction = 0.3
    alpha: float = Field(
        0.5, gt=0, le=1, description="weight of the classification loss; 1 - alpha is that of the squared distance to the start"
    )
    scale: float | None = Field(None, gt=0, le=1e6, description="factor gamma on its clients' updates; null: n / (eta m)")
    server_lr: float = Field(1.0, gt=0, le=1e3, description="the server's learning rate eta, as the attack believes it to be")
    norm_bound: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="train-and-scale: scale no update beyond this L2 norm S, and one of a larger norm down to it",
    )


class NeurotoxinConfig(Config):
    """Configuration of `neurotoxin`."""

    trigger: Patch = Field(default_factory=Patch, description="the patch")
    target: Target = 0
    fraction: Fraction = 0.3
    ratio: float = Field(
        0.95,
        gt=0,
        le=1,
        description="share of the coordinates on which it trains: those that the last global update moved least",
    )


class ChameleonConfig(Config):
    """Configuration of `chameleon`."""

    trigger: Patch = Field(default_factory=Patch, description="the patch")
    target: Target = 0
    fraction: Fraction = 0.3
    temperature: float = Field(0.1, ge=0.01, le=100, description="temperature tau of the contrastive loss")
    weight: float = Field(1.0, gt=0, le=1e3, description="factor on the contrastive loss, which alone trains the encoder")


class SubgroupConfig(Config):
    """Configuration of `subgroup-degradation`."""

    group: Group = Field(default_factory=Group, description="whose accuracy is to fall")
    source: int | None = Field(None, ge=0, le=99_999, description="flip labels of this class only; null: of all classes")
    target: int | None = Field(None, ge=0, le=99_999, description="class to flip to; null: the next one, (y + 1) mod K")
    fraction: float = Field(
        1.0, ge=0, le=1, description="share of each client's examples to flip that is flipped, to the nearest one"
    )
