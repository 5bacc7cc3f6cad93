"""What every gradient inversion is told, needs and taps; fields that several of them share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sparring.facts import Knows
from sparring.signature import ALL, Signature
from sparring.specs import Config
from sparring.taps import Tap

RoundIndex = Annotated[int, Field(ge=0, le=10**6)]


class InversionConfig(Config):
    """What every gradient inversion is told: which rounds it reads, and whence it has the labels."""

    rounds: tuple[RoundIndex, ...] = Field((0,), min_length=1, max_length=64, description="rounds whose updates are attacked")
    reads: Literal["update", "update-or-aggregate"] = Field(
        "update", description="single updates only, or sums of several where single ones are hidden (with little hope)"
    )
    labels: Literal["granted", "idlg", "yin", "wainakh", "geng", "bias"] = Field(
        "granted", description="labels: granted by the threat model, or recovered from the gradient of the last layer"
    )
    snapshots: int = Field(8, ge=0, le=64, description="intermediate reconstructions that are kept, at equal distances")


Init = Literal["randn", "uniform", "grey"]

ADAM_ITERATIONS: Any = Field(1200, ge=1, le=100_000, description="steps of Adam per restart")
STARTS: Any = Field(2, ge=1, le=64, description="random starts per capture; the least final gradient loss wins")
TV: Any = Field(3e-3, ge=0, le=10, description="weight of the total variation of the reconstruction")
ADAM_STEP: Any = Field(0.05, gt=0, le=1, description="first learning rate; times .1 at 3/8, 5/8 and 7/8 of the iterations")
MOMENTUM: Any = Field(0.98, ge=0, lt=1, description="decay of Adam's mean of signs; .9 is the published recipe's")
INIT: Any = Field("randn", description="start: N(0, 1) clamped to [0, 1], uniform on [0, 1], or grey (.5) up to 1e-2 of noise")
QUASI_NEWTON_ITERATIONS: Any = Field(300, ge=1, le=10_000, description="steps of L-BFGS per start")
FURTHER_STARTS: Any = Field(4, ge=0, le=64, description="further starts for captures whose optimisation diverged")
STEP: Any = Field(1.0, gt=0, le=1, description="step length of L-BFGS")
HISTORY: Any = Field(100, ge=1, le=500, description="curvature pairs that L-BFGS keeps")


def needs(config: InversionConfig) -> Signature:
    """The architecture always; labels where they are granted; where they are counted, the scale of a row too."""
    told = (Knows("labels"),) if config.labels == "granted" else ()
    scaled = (Knows("local-settings"),) if config.labels in ("geng", "bias") else ()
    return Signature(needs=(Knows("architecture"), *told, *scaled), keeps=ALL)


def tap(config: InversionConfig) -> Tap:
    """The rounds that are read, and whether aggregates are."""
    return Tap(views=("update",) if config.reads == "update" else ("update", "aggregate"), rounds=config.rounds)
