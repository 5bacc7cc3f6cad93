"""Declares the attacks that solve for inputs in closed form: analytic and r-gap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sparring.facts import Knows
from sparring.signature import ALL, Signature
from sparring.specs import AttackSpec, Config, Reader
from sparring.taps import Tap

if TYPE_CHECKING:
    from sparring_inversion.analytic import Analytic
    from sparring_inversion.r_gap import RGap

RoundIndex = Annotated[int, Field(ge=0, le=10**6)]


class AnalyticConfig(Config):
    """Configuration of `analytic`."""

    rounds: tuple[RoundIndex, ...] = Field((0,), min_length=1, max_length=64, description="rounds whose updates are attacked")
    reads: Literal["update", "update-or-aggregate"] = Field(
        "update", description="single updates only, or sums of several where single ones are hidden"
    )


class RGapConfig(AnalyticConfig):
    """Configuration of `r-gap`."""

    unknowns: int = Field(
        4096, ge=16, le=32_768, description="largest input of a convolution that is solved for: time grows with its cube"
    )


def _tap(config: AnalyticConfig) -> Tap:
    return Tap(views=("update",) if config.reads == "update" else ("update", "aggregate"), rounds=config.rounds)


def _analytic(config: AnalyticConfig) -> Analytic:
    from sparring_inversion.analytic import Analytic

    return Analytic(config)


def _r_gap(config: RGapConfig) -> RGap:
    from sparring_inversion.r_gap import RGap

    return RGap(config)


NEEDS = Signature(needs=(Knows("architecture"),), keeps=ALL)
ANALYTIC = AttackSpec(
    api=1,
    name="analytic",
    config=AnalyticConfig,
    summary="Inputs of a first linear layer in closed form, as weight gradient over bias gradient (Phong et al. 2018).",
    game="reconstruction",
    reader=Reader(tap=_tap, build=_analytic, signature=NEEDS),
)
R_GAP = AttackSpec(
    api=1,
    name="r-gap",
    config=RGapConfig,
    summary="R-GAP: recursive gradient attack, one linear system a layer from the last to the first (Zhu and Blaschko 2021).",
    game="reconstruction",
    reader=Reader(tap=_tap, build=_r_gap, signature=NEEDS),
)
