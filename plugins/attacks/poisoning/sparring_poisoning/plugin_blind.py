"""Update poisoning that looks at nothing but each client's own update and the model it was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sparring.specs import AnySpec, Config
from sparring_poisoning.declare import OWN, poisons

if TYPE_CHECKING:
    from sparring_poisoning.free_rider import FreeRider
    from sparring_poisoning.gaussian import Gaussian
    from sparring_poisoning.non_finite import NonFinite
    from sparring_poisoning.scaled import Scaled


class ScaledConfig(Config):
    """Configuration of `scaled`."""

    scale: float = Field(10.0, gt=0, le=1e6, description="factor c: each of its clients sends c times its own update")


class GaussianConfig(Config):
    """Configuration of `gaussian`."""

    std: float = Field(200.0, gt=0, le=1e6, description="standard deviation s of each coordinate that is sent")


class NonFiniteConfig(Config):
    """Configuration of `non-finite`."""

    value: Literal["nan", "inf", "-inf"] = Field("nan", description="what stands in place of numbers")
    entries: Literal["all", "one"] = Field("all", description="in every parameter, or in the first one alone")


class FreeRiderConfig(Config):
    """Configuration of `free-rider`."""

    update: Literal["delta-weights", "zero"] = Field(
        "delta-weights", description="the last change of the global model, or nothing at all"
    )
    noise: float = Field(
        0.0, ge=0, le=1e3, description="noise in the round of the first one, in root mean squares of the first change it saw"
    )
    decay: float = Field(1.0, ge=0, le=10, description="exponent gamma by which the noise falls: t ** -gamma in round t")


def _scaled(config: ScaledConfig) -> Scaled:
    from sparring_poisoning.scaled import Scaled

    return Scaled(config)


def _gaussian(config: GaussianConfig) -> Gaussian:
    from sparring_poisoning.gaussian import Gaussian

    return Gaussian(config)


def _non_finite(config: NonFiniteConfig) -> NonFinite:
    from sparring_poisoning.non_finite import NonFinite

    return NonFinite(config)


def _free_rider(config: FreeRiderConfig) -> FreeRider:
    from sparring_poisoning.free_rider import FreeRider

    return FreeRider(config)


BLIND: tuple[AnySpec, ...] = (
    poisons(
        "scaled",
        ScaledConfig,
        _scaled,
        OWN,
        "compromised clients send c times their own update, so that it outweighs the others",
    ),
    poisons("gaussian", GaussianConfig, _gaussian, OWN, "compromised clients send normal noise in place of their update"),
    poisons(
        "non-finite",
        NonFiniteConfig,
        _non_finite,
        OWN,
        "compromised clients send NaN or infinity, which a server must not let into the mean",
    ),
    poisons(
        "free-rider",
        FreeRiderConfig,
        _free_rider,
        OWN,
        "compromised clients do not train: they send the global model's last change, perhaps with decaying noise, or zero",
    ),
)
"""Attacks that see no update but their own."""
