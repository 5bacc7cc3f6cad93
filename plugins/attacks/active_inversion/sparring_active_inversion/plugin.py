"""Declares the attacks of this distribution: robbing-the-fed, curious-abandon-honesty and fishing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sparring.facts import Controls, Fact, Knows, PublicData
from sparring.hookspecs import hookimpl
from sparring.signature import ALL, Clause, Signature
from sparring.sites import Site
from sparring.specs import AnySpec, AttackSpec, Config, Layer, Reader
from sparring.taps import Tap

if TYPE_CHECKING:
    from sparring_active_inversion.curious_abandon_honesty import SetTraps, SpringTraps
    from sparring_active_inversion.fishing import Cast, Haul
    from sparring_active_inversion.robbing_the_fed import Imprint, ReadImprint

RoundIndex = Annotated[int, Field(ge=0, le=10**6)]


class ActiveConfig(Config):
    """What every malicious server is told: in which rounds it sends its own model, and what it reads."""

    rounds: tuple[RoundIndex, ...] = Field(
        (0,), min_length=1, max_length=64, description="rounds in which the server sends its own model and reads what returns"
    )
    reads: Literal["update", "update-or-aggregate"] = Field(
        "update-or-aggregate", description="single updates only, or the aggregate of several where single ones are hidden"
    )


class RobbingTheFedConfig(ActiveConfig):
    """Configuration of `robbing-the-fed`."""

    bins: int = Field(256, ge=2, le=65_536, description="neurons of the imprint layer, k: bins of brightness")
    quantiles: Literal["prior", "public"] = Field(
        "prior", description="where the bins are from: a normal prior of brightness, or the public data"
    )
    mean: float = Field(0.5, ge=0, le=1, description="mean brightness of an input under the prior")
    deviation: float = Field(0.1, gt=0, le=1, description="standard deviation of brightness under the prior")
    scale: float = Field(
        0.03,
        gt=0,
        le=1,
        description="size of the imprint's weights: small for exact gradients, 1 where clients take several steps",
    )


class CuriousAbandonHonestyConfig(ActiveConfig):
    """Configuration of `curious-abandon-honesty`."""

    layer: Literal["prepended", "own"] = Field(
        "prepended", description="where the traps are: a layer before the model, or its own first linear layer, behind a ReLU"
    )
    neurons: int = Field(512, ge=1, le=65_536, description="trap neurons of a prepended layer")
    factor: float | None = Field(
        None,
        gt=0,
        le=1,
        description="size of positive weights against negative ones, gamma; default 1 - 2.4 / sqrt(D), at least .05",
    )


class FishingConfig(ActiveConfig):
    """Configuration of `fishing`."""

    target: int = Field(0, ge=0, le=10**6, description="the class that is fished for")
    confidence: float = Field(100.0, ge=10, le=1e4, description="bias of all other classes, alpha: flattens their loss")
    iterations: int = Field(1200, ge=1, le=100_000, description="steps of inverting the isolated gradient, per restart")
    restarts: int = Field(2, ge=1, le=64, description="random starts; the least final gradient loss wins")
    tv: float = Field(3e-3, ge=0, le=10, description="weight of the total variation of the reconstruction")


MALICIOUS = Controls("server", "broadcast")


def _public(config: RobbingTheFedConfig) -> Signature:
    needs: tuple[Fact | Clause, ...] = (MALICIOUS, PublicData()) if config.quantiles == "public" else (MALICIOUS,)
    return Signature(needs=needs, keeps=ALL)


SENDS = Signature(needs=(MALICIOUS,), keeps=ALL)
READS = Signature(needs=(MALICIOUS, Knows("architecture")), keeps=ALL)


def _tap(config: ActiveConfig) -> Tap:
    return Tap(views=("update",) if config.reads == "update" else ("update", "aggregate"), rounds=config.rounds)


def _imprint(config: RobbingTheFedConfig) -> Imprint:
    from sparring_active_inversion.robbing_the_fed import Imprint

    return Imprint(config)


def _read_imprint(config: RobbingTheFedConfig) -> ReadImprint:
    from sparring_active_inversion.robbing_the_fed import ReadImprint

    return ReadImprint(config)


def _set_traps(config: CuriousAbandonHonestyConfig) -> SetTraps:
    from sparring_active_inversion.curious_abandon_honesty import SetTraps

    return SetTraps(config)


def _spring_traps(config: CuriousAbandonHonestyConfig) -> SpringTraps:
    from sparring_active_inversion.curious_abandon_honesty import SpringTraps

    return SpringTraps(config)


def _cast(config: FishingConfig) -> Cast:
    from sparring_active_inversion.fishing import Cast

    return Cast(config)


def _haul(config: FishingConfig) -> Haul:
    from sparring_active_inversion.fishing import Haul

    return Haul(config)


ROBBING_THE_FED = AttackSpec(
    api=1,
    name="robbing-the-fed",
    config=RobbingTheFedConfig,
    summary="Sends an imprint layer whose bins of brightness hold single inputs, even of aggregates (Fowl et al. 2022).",
    game="reconstruction",
    layers=(Layer(site=Site.BROADCAST, build=_imprint, signature=_public),),
    reader=Reader(tap=_tap, build=_read_imprint, signature=READS),
)
CURIOUS_ABANDON_HONESTY = AttackSpec(
    api=1,
    name="curious-abandon-honesty",
    config=CuriousAbandonHonestyConfig,
    summary="Sends trap weights, by which neurons fire for few inputs and give these up (Boenisch et al. 2023).",
    game="reconstruction",
    layers=(Layer(site=Site.BROADCAST, build=_set_traps, signature=SENDS),),
    reader=Reader(tap=_tap, build=_spring_traps, signature=READS),
)
FISHING = AttackSpec(
    api=1,
    name="fishing",
    config=FishingConfig,
    summary="Sends a last layer by which one class alone has a gradient, and inverts that (Wen et al. 2022).",
    game="reconstruction",
    layers=(Layer(site=Site.BROADCAST, build=_cast, signature=SENDS),),
    reader=Reader(tap=_tap, build=_haul, signature=READS),
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The techniques of this distribution."""
    return (ROBBING_THE_FED, CURIOUS_ABANDON_HONESTY, FISHING)
