"""Poisoning: clients that send false updates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from sparring.hookspecs import hookimpl
from sparring.specs import AnySpec, Config
from sparring_poisoning.declare import KNOWLEDGE, OWN, Knowledge, poisons, sees
from sparring_poisoning.plugin_blind import BLIND
from sparring_poisoning.plugin_crafted import CRAFTED
from sparring_poisoning.plugin_data import DATA_ATTACKS

if TYPE_CHECKING:
    from sparring_poisoning.alie import ALIE
    from sparring_poisoning.sign_flip import SignFlip


class SignFlipConfig(Config):
    """Configuration of `sign-flip`."""

    scale: float = Field(1.0, gt=0, le=1e6, description="factor c: each of its clients sends -c times its own update")


class ALIEConfig(Config):
    """Configuration of `alie`."""

    z: float | None = Field(
        None, ge=-1e3, le=1e3, description="standard deviations below the mean; default: z_max of the paper, from n and m"
    )
    knowledge: Knowledge = KNOWLEDGE


def _sign_flip(config: SignFlipConfig) -> SignFlip:
    from sparring_poisoning.sign_flip import SignFlip

    return SignFlip(config)


def _alie(config: ALIEConfig) -> ALIE:
    from sparring_poisoning.alie import ALIE

    return ALIE(config)


SIGN_FLIP = poisons(
    "sign-flip",
    SignFlipConfig,
    _sign_flip,
    OWN,
    "compromised clients send their own update with its sign flipped and scaled",
)
ALIE_SPEC = poisons(
    "alie",
    ALIEConfig,
    _alie,
    sees(),
    "A Little Is Enough: compromised clients send the mean less z standard deviations, within the honest spread",
)


@hookimpl
def sparring_plugins() -> Iterable[AnySpec]:
    """The attacks of this distribution."""
    return (SIGN_FLIP, ALIE_SPEC, *BLIND, *CRAFTED, *DATA_ATTACKS)
